//! Taking addresses out of text: each becomes a number, the same address the same number, so that what belongs together still does.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses by the words that stand for them. Loopback and unspecified addresses say nothing and stay.
#[derive(Debug, Default)]
pub struct Redactor {
    words: HashMap<String, String>,
}

impl Redactor {
    /// The text without addresses.
    pub fn redact(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while !rest.is_empty() {
            let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            let (run, after) = rest.split_at(length);
            if !run.is_empty() {
                let joined =
                    glued(&out) || after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
                self.run(run, joined, &mut out);
            }
            let other = after.find(is_part).unwrap_or(after.len());
            out.push_str(&after[..other]);
            rest = &after[other..];
        }
        out
    }

    /// A run of the characters that addresses have. Within a word only IPv4 addresses are looked for: `dead::beef` may be a path.
    fn run(&mut self, run: &str, joined: bool, out: &mut String) {
        let bare = run.trim_end_matches(['.', ':']);
        if !joined {
            // `::` at an end is part of the address.
            for whole in [run, bare] {
                if let Some(word) = self.word(whole) {
                    out.push_str(&word);
                    out.push_str(&run[whole.len()..]);
                    return;
                }
            }
        }
        // An address with a port, or something that only contains one.
        let is_v4 = |c: char| c.is_ascii_digit() || c == '.';
        let mut rest = run;
        while !rest.is_empty() {
            let length = rest.find(|c| !is_v4(c)).unwrap_or(rest.len());
            let (part, after) = rest.split_at(length);
            let bare = part.trim_matches('.');
            match bare.parse::<Ipv4Addr>().ok().and_then(|_| self.word(bare)) {
                Some(word) => out.push_str(&part.replacen(bare, &word, 1)),
                None => out.push_str(part),
            }
            let other = after.find(is_v4).unwrap_or(after.len());
            out.push_str(&after[..other]);
            rest = &after[other..];
        }
    }

    /// What stands for an address; none if it is none, or says nothing.
    fn word(&mut self, text: &str) -> Option<String> {
        let kind = match text.parse::<IpAddr>() {
            Ok(ip) if ip.is_loopback() || ip.is_unspecified() => return None,
            Ok(IpAddr::V6(ip)) if ip == Ipv6Addr::from(1) => return None,
            Ok(IpAddr::V4(_)) => "ipv4",
            Ok(IpAddr::V6(_)) => "ipv6",
            Err(_) if is_ethernet(text) => "mac",
            Err(_) => return None,
        };
        let next = self.words.len() + 1;
        Some(self.words.entry(text.to_ascii_lowercase()).or_insert_with(|| format!("{kind}-{next}")).clone())
    }
}

fn is_part(c: char) -> bool {
    c.is_ascii_hexdigit() || c == '.' || c == ':'
}

/// Whether what comes next is within a word; `\n` and its kin (JSON) are none.
fn glued(before: &str) -> bool {
    let mut last = before.chars().rev();
    match (last.next(), last.next()) {
        (Some(c), Some('\\')) if c.is_ascii_alphabetic() => false,
        (Some(c), _) => c.is_ascii_alphanumeric() || c == '_',
        (None, _) => false,
    }
}

/// `aa:bb:cc:dd:ee:ff`
fn is_ethernet(text: &str) -> bool {
    text.len() == 17
        && text.split(':').count() == 6
        && text.split(':').all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_numbers_wherever_they_stand() {
        let mut redactor = Redactor::default();
        for (text, expected) in [
            ("10.1.0.1:80 -> 10.1.0.2:443", "ipv4-1:80 -> ipv4-2:443"),
            ("src_ip=\"10.1.0.1\",dst_ip=\"fd00::1\"", "src_ip=\"ipv4-1\",dst_ip=\"ipv6-3\""),
            ("[fd00::1]:53 and 10.1.0.0/24.", "[ipv6-3]:53 and ipv4-4/24."),
            ("from 10.1.0.1. Then", "from ipv4-1. Then"),
            ("link/ether 52:54:00:12:34:56 up", "link/ether mac-5 up"),
            ("{\"a\":\"x\\n10.1.0.1\\nfd00::1\"}", "{\"a\":\"x\\nipv4-1\\nipv6-3\"}"),
            ("v10.1.0.1x", "vipv4-1x"),
            ("fe80::1%eth0", "ipv6-6%eth0"),
            ("FD00::1", "ipv6-3"),
        ] {
            assert_eq!(redactor.redact(text), expected);
        }
    }

    #[test]
    fn what_is_no_address_stays() {
        let mut redactor = Redactor::default();
        for text in [
            "kernel 6.18.44-cloud, netmon 0.1.0",
            "2026-11-25T03:10:52.123456Z INFO netmon::agent: serving on 127.0.0.1:9090 and 0.0.0.0, ::1, ::",
            "std::cell core::ffi deadbeef 12:30:01",
            "9f2c41d07be81a55",
            "",
            "...:::...",
        ] {
            assert_eq!(redactor.redact(text), text);
        }
    }
}
