//! Filters on the clsact hooks of an interface, asked for over netlink; no right is needed to ask.

use rustix::net::SocketFlags;

use super::stats::Hook;
use crate::netlink::{
    self, DATAGRAM_BYTES, NLMSG_DONE, NLMSG_ERROR, attributes, dump_request, messages, text, u32_at,
};

// linux/rtnetlink.h, linux/pkt_cls.h
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;
/// `struct tcmsg`.
const HEADER: usize = 20;

/// A filter as the kernel tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Lower ones run first.
    pub priority: u16,
    /// 0 for the entry that stands for all filters of a priority.
    pub handle: u32,
    /// `bpf`, `flower`, `matchall` ...
    pub kind: String,
    /// What its owner calls the program; libbpf: `name:[id]`.
    pub name: Option<String>,
    /// BPF program.
    pub program: Option<u32>,
}

/// All filters of a hook, in the order in which they run.
///
/// # Errors
/// The kernel's.
pub fn list(index: u32, hook: Hook) -> std::io::Result<Vec<Filter>> {
    let socket = netlink::open(None, SocketFlags::empty(), 0)?;
    netlink::send(&socket, &request(index, hook))?;
    let mut datagram = vec![0u8; DATAGRAM_BYTES];
    let mut filters = Vec::new();
    loop {
        let length = netlink::receive(&socket, &mut datagram)?;
        if read(datagram.get(..length).unwrap_or_default(), &mut filters)? {
            return Ok(filters);
        }
    }
}

fn request(index: u32, hook: Hook) -> Vec<u8> {
    // TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS or TC_H_MIN_EGRESS)
    let parent: u32 = match hook {
        Hook::Ingress => 0xffff_fff2,
        Hook::Egress => 0xffff_fff3,
    };
    let mut header = Vec::with_capacity(HEADER);
    // Family, index, handle, parent, info.
    header.extend([0; 4]);
    for field in [index, 0, parent, 0] {
        header.extend(field.to_ne_bytes());
    }
    dump_request(RTM_GETTFILTER, 0, &header)
}

/// Reads a datagram; true at the end of the dump. What can't be read ends it: a dump is never waited for in vain.
fn read(datagram: &[u8], filters: &mut Vec<Filter>) -> std::io::Result<bool> {
    for message in messages(datagram) {
        match message.map(|message| (message.kind, message)) {
            Some((NLMSG_ERROR, message)) => {
                return message
                    .refusal()
                    .map_or(Ok(true), |code| Err(std::io::Error::from_raw_os_error(code)));
            }
            Some((RTM_NEWTFILTER, message)) => filters.extend(filter(message.body)),
            Some((NLMSG_DONE, _)) | None => return Ok(true),
            Some(_) => {}
        }
    }
    Ok(datagram.is_empty())
}

fn filter(body: &[u8]) -> Option<Filter> {
    let mut filter =
        Filter { handle: u32_at(body, 8)?, priority: (u32_at(body, 16)? >> 16) as u16, ..Filter::default() };
    for (kind, value) in attributes(body.get(HEADER..)?) {
        match kind {
            TCA_KIND => filter.kind = text(value),
            TCA_OPTIONS if filter.kind == "bpf" => {
                for (kind, value) in attributes(value) {
                    match kind {
                        TCA_BPF_NAME => filter.name = Some(text(value)),
                        TCA_BPF_ID => filter.program = u32_at(value, 0),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(filter)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    fn one() -> Vec<u8> {
        let mut body = vec![0; 20];
        body[8..12].copy_from_slice(&0x4e4d_u32.to_ne_bytes());
        body[16..20].copy_from_slice(&(2_u32 << 16 | 3).to_ne_bytes());
        body.extend(attribute(TCA_KIND, b"bpf\0"));
        let options =
            [attribute(TCA_BPF_NAME, b"nm_ingress:[7]\0"), attribute(TCA_BPF_ID, &7_u32.to_ne_bytes())];
        body.extend(attribute(TCA_OPTIONS | 0x8000, &options.concat()));
        message(RTM_NEWTFILTER, &body)
    }

    #[test]
    fn a_filter_is_told_with_priority_handle_and_program() {
        let mut filters = Vec::new();
        assert!(!read(&one(), &mut filters).unwrap());
        assert!(read(&message(NLMSG_DONE, &[0; 4]), &mut filters).unwrap());
        let expected = Filter {
            priority: 2,
            handle: 0x4e4d,
            kind: "bpf".into(),
            name: Some("nm_ingress:[7]".into()),
            program: Some(7),
        };
        assert_eq!(filters, [expected]);
    }

    #[test]
    fn refusals_are_errors_and_cut_or_lying_bytes_end_the_reading() {
        let mut filters = Vec::new();
        let refused = message(NLMSG_ERROR, &(-19_i32).to_ne_bytes());
        assert_eq!(read(&refused, &mut filters).unwrap_err().raw_os_error(), Some(19));
        let whole = one();
        for length in 0..whole.len() {
            let _ = read(&whole[..length], &mut filters);
        }
        assert!(filters.is_empty());
        for at in 0..whole.len() {
            let mut lying = whole.clone();
            lying[at] = 0xff;
            let _ = read(&lying, &mut filters);
        }
    }
}
