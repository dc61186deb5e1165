//! Filters on the clsact hooks of an interface, asked for over netlink; no right is needed to ask.

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

use super::stats::Hook;

// linux/netlink.h, linux/rtnetlink.h, linux/pkt_cls.h
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_TYPE_MASK: u16 = 0x3fff;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;
/// `struct nlmsghdr` and `struct tcmsg`.
const HEADERS: usize = 16 + 20;
/// The kernel fills at most 32 KiB a datagram.
const DATAGRAM_BYTES: usize = 64 * 1024;

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
    // NETLINK_ROUTE is protocol 0.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    send(&socket, &request(index, hook), SendFlags::empty())?;
    let mut datagram = vec![0u8; DATAGRAM_BYTES];
    let mut filters = Vec::new();
    loop {
        let (_, length) = recv(&socket, &mut datagram[..], RecvFlags::TRUNC)?;
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
    let mut request = Vec::with_capacity(HEADERS);
    // Length, type, flags, sequence, port; family, index, handle, parent, info.
    request.extend((HEADERS as u32).to_ne_bytes());
    request.extend(RTM_GETTFILTER.to_ne_bytes());
    request.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8 + 4]);
    request.extend(index.to_ne_bytes());
    request.extend(0u32.to_ne_bytes());
    request.extend(parent.to_ne_bytes());
    request.extend(0u32.to_ne_bytes());
    request
}

/// Reads a datagram; true at the end of the dump. What can't be read ends it: a dump is never waited for in vain.
fn read(mut datagram: &[u8], filters: &mut Vec<Filter>) -> std::io::Result<bool> {
    if datagram.is_empty() {
        return Ok(true);
    }
    while !datagram.is_empty() {
        let length = u32_at(datagram, 0).unwrap_or(0) as usize;
        let Some(message) = (length >= 16).then(|| datagram.get(..length)).flatten() else { return Ok(true) };
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        match u16_at(message, 4) {
            Some(NLMSG_DONE) => return Ok(true),
            Some(NLMSG_ERROR) => {
                let code = u32_at(message, 16).unwrap_or(0) as i32;
                return match code {
                    0 => Ok(true),
                    code => Err(std::io::Error::from_raw_os_error(code.saturating_neg())),
                };
            }
            Some(RTM_NEWTFILTER) => filters.extend(filter(message)),
            _ => {}
        }
    }
    Ok(false)
}

fn filter(message: &[u8]) -> Option<Filter> {
    let mut filter = Filter {
        handle: u32_at(message, 24)?,
        priority: (u32_at(message, 32)? >> 16) as u16,
        ..Filter::default()
    };
    for (kind, value) in attributes(message.get(HEADERS..)?) {
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

/// Type and value of each attribute; ends at the first that lies about its length.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> + '_ {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & NLA_TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u16::from_ne_bytes(*chunk))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
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
