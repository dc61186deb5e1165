//! What messages within a flow tell: DNS queries and their responses, and the histograms that their times add up to.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident from $first:literal { $($(#[$variant_doc:meta])* $variant:ident => $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// All, in the order of the kernel's counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// By the number that the kernel has for it; `None` when there was none.
            pub fn of(number: u8) -> Option<Self> {
                Self::ALL.get(usize::from(number).checked_sub($first)?).copied()
            }

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

numbered! {
    /// What a query asked for.
    QueryType from 1 {
        /// IPv4 addresses.
        A => "A",
        /// IPv6 addresses.
        Aaaa => "AAAA",
        /// The name of an address.
        Ptr => "PTR",
        /// Where a service is.
        Srv => "SRV",
        /// Mail exchangers.
        Mx => "MX",
        /// Text.
        Txt => "TXT",
        /// Parameters of an HTTPS service.
        Https => "HTTPS",
        /// Name servers.
        Ns => "NS",
        /// The name that it stands for.
        Cname => "CNAME",
        /// Start of authority.
        Soa => "SOA",
        /// Everything.
        Any => "ANY",
        /// Anything else.
        Other => "other",
    }
}

numbered! {
    /// How a query was answered (RFC 1035 section 4.1.1).
    Rcode from 1 {
        /// No error.
        NoError => "NOERROR",
        /// The server could not read the query.
        FormErr => "FORMERR",
        /// The server failed.
        ServFail => "SERVFAIL",
        /// The name does not exist.
        NxDomain => "NXDOMAIN",
        /// The server does not do that.
        NotImp => "NOTIMP",
        /// The server does not want to.
        Refused => "REFUSED",
        /// Anything else.
        Other => "other",
    }
}

/// DNS of one flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowDns {
    /// Queries, those sent again not counted twice; `None` over TCP.
    pub queries: Option<u32>,
    /// Responses to them; `None` over TCP.
    pub responses: Option<u32>,
    /// What was asked for last.
    pub kind: Option<QueryType>,
    /// How it was answered last.
    pub rcode: Option<Rcode>,
}

/// A histogram of times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Upper bounds of the buckets, microseconds.
    pub bounds_us: Vec<u32>,
    /// How many by bucket; what is beyond the last bound comes last.
    pub counts: Vec<u64>,
    /// Their sum, microseconds.
    pub sum_us: u64,
}

impl Times {
    /// How many.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their mean, microseconds; `None` if there are none.
    pub fn mean_us(&self) -> Option<u64> {
        self.sum_us.checked_div(self.count())
    }
}

/// A name as on the wire (RFC 1035 section 3.1) as people write it: lower case, labels with dots between, other bytes than letters, digits,
/// `-` and `_` as `\ddd`. Of a name that is cut short the whole labels, and dots where more follow.
pub fn dotted(wire: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = wire;
    loop {
        let Some((length, after)) = rest.split_first() else { break text.push_str("...") };
        if *length == 0 {
            break;
        }
        let Some((label, after)) = after.split_at_checked(usize::from(*length)) else {
            break text.push_str("...");
        };
        for byte in label {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => {
                    text.push(char::from(byte.to_ascii_lowercase()));
                }
                // Writing to a string does not fail.
                _ => drop(write!(text, "\\{byte:03}")),
            }
        }
        text.push('.');
        rest = after;
    }
    match text.len() {
        0 => ".".into(),
        _ if text.ends_with("...") => text,
        length => text[..length - 1].to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_people_do() {
        assert_eq!(dotted(b"\x03WwW\x07example\x00\x03org"), "www.example");
        assert_eq!(dotted(b"\x00"), ".");
        assert_eq!(dotted(b"\x05a.b\x1b\xff\x00"), "a\\046b\\027\\255");
        assert_eq!(dotted(b""), "...");
        assert_eq!(dotted(b"\x03www\x07exam"), "www....");
        assert_eq!(dotted(b"\x03www\x07example"), "www.example....");
        assert_eq!(dotted(&[0xff; 128]), "...");
    }

    #[test]
    fn numbers_of_the_kernel_have_their_names() {
        assert_eq!((QueryType::of(0), QueryType::of(1)), (None, Some(QueryType::A)));
        assert_eq!((QueryType::of(12), QueryType::of(13)), (Some(QueryType::Other), None));
        assert_eq!((Rcode::of(4), Rcode::of(7)), (Some(Rcode::NxDomain), Some(Rcode::Other)));
        assert_eq!((Rcode::of(0), Rcode::of(8)), (None, None));
    }

    #[test]
    fn a_mean_needs_something_to_be_the_mean_of() {
        assert_eq!(Times::default().mean_us(), None);
        assert_eq!(Times { counts: vec![1, 2], sum_us: 30, ..Times::default() }.mean_us(), Some(10));
    }
}
