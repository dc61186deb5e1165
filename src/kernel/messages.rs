//! DNS and HTTP/1 as the programs add them up, and the names that were asked for: reading.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use serde::{Deserialize, Serialize};

use super::decode;
use super::object::Object;
use super::skeleton::types::{nm_dns_totals, nm_http_counts, nm_http_server, nm_tls_name};
use crate::flow::measured::LANES;
use crate::flow::messages::{QueryType, Rcode, Times, dotted};
use crate::flow::present::{AskedNames, AskedTls};

/// A server that has not answered for so long may give its place to another.
const IDLE: Duration = Duration::from_secs(300);
/// Name of what stands for all servers without a place of their own.
pub const OTHER: &str = "other";
/// Classes of responses, in the order of the kernel's counters.
pub const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// All DNS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsTotals {
    /// Queries by type.
    pub queries: BTreeMap<String, u64>,
    /// Responses to them by rcode, in lower case.
    pub responses: BTreeMap<String, u64>,
    /// Query to response.
    pub latency: Times,
    /// Queries without a response, those that are under way included.
    pub unanswered: u64,
    /// Queries that were sent again before they were answered; not in `queries`.
    pub repeated: u64,
    /// Responses that no query was waiting for; not in `responses`.
    pub unmatched: u64,
    /// Datagrams that are no DNS message.
    pub malformed: u64,
    /// TCP segments that begin within a message or hold more than four: not all of their messages were looked at.
    pub unseen: u64,
    /// Queries that found no place to wait in: their responses are unmatched.
    pub lost: u64,
}

/// HTTP/1 of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpServer {
    /// Address and port, or [`OTHER`].
    pub dst: String,
    /// Responses by class.
    pub responses: BTreeMap<String, u64>,
    /// Request to response.
    pub latency: Times,
}

/// All HTTP/1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpTotals {
    /// By server, those without a place of their own last, under [`OTHER`].
    pub servers: Vec<HttpServer>,
}

/// Both, where they are looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// DNS.
    pub dns: Option<DnsTotals>,
    /// HTTP/1.
    pub http: Option<HttpTotals>,
}

const DNS_WORDS: usize = size_of::<nm_dns_totals>() / 8;
const HTTP_WORDS: usize = size_of::<nm_http_counts>() / 8;

/// Words of one server.
type HttpWords = [u64; HTTP_WORDS];

fn named<'a>(names: impl IntoIterator<Item = &'a str>, counts: &[u64]) -> BTreeMap<String, u64> {
    names.into_iter().map(str::to_owned).zip(counts.iter().copied()).collect()
}

/// `words`: the lanes and, after them, the sum.
fn times(bounds_us: &[u32], words: &[u64]) -> Times {
    // What is beyond the last bound is in the last lane, however many bounds there are.
    let (lanes, sum) = words.split_at(LANES.min(words.len()));
    let mut counts: Vec<u64> = lanes.iter().copied().take(bounds_us.len()).collect();
    counts.push(lanes.iter().skip(bounds_us.len()).sum());
    Times { bounds_us: bounds_us.to_vec(), counts, sum_us: sum.first().copied().unwrap_or(0) }
}

fn dns_totals(bounds_us: &[u32], counts: &[u64; DNS_WORDS]) -> DnsTotals {
    use std::mem::offset_of;
    let word = |offset: usize| counts[offset / 8];
    let from = |offset: usize| &counts[offset / 8..];
    // The first type is none.
    let queries = &from(offset_of!(nm_dns_totals, queries))[1..];
    let responses = from(offset_of!(nm_dns_totals, responses));
    let sum = |words: &[u64], number: usize| words.iter().take(number).sum::<u64>();
    DnsTotals {
        queries: named(QueryType::ALL.iter().map(|kind| kind.name()), queries),
        responses: Rcode::ALL
            .iter()
            .map(|rcode| rcode.name().to_ascii_lowercase())
            .zip(responses.iter().copied())
            .collect(),
        latency: times(bounds_us, from(offset_of!(nm_dns_totals, lanes))),
        unanswered: sum(queries, QueryType::ALL.len()).saturating_sub(sum(responses, Rcode::ALL.len())),
        repeated: word(offset_of!(nm_dns_totals, repeated)),
        unmatched: word(offset_of!(nm_dns_totals, unmatched)),
        malformed: word(offset_of!(nm_dns_totals, malformed)),
        unseen: word(offset_of!(nm_dns_totals, unseen)),
        lost: word(offset_of!(nm_dns_totals, lost)),
    }
}

fn http_server(dst: String, bounds_us: &[u32], words: &HttpWords) -> HttpServer {
    HttpServer { dst, responses: named(CLASSES, words), latency: times(bounds_us, &words[CLASSES.len()..]) }
}

/// The server of a key; `None` for the one that stands for all others.
fn server(key: &[u8]) -> Option<SocketAddr> {
    use std::mem::offset_of;
    let address = decode::bytes(key, offset_of!(nm_http_server, address))?;
    let port = decode::bytes(key, offset_of!(nm_http_server, port_be))?;
    let family = *key.get(offset_of!(nm_http_server, family))?;
    Some(SocketAddr::new(decode::address(&address, family)?, u16::from_be_bytes(port)))
}

impl Object {
    /// DNS since load; `None` if it is not looked at.
    pub fn dns_totals(&self) -> Option<DnsTotals> {
        self.features().messages.dns.then_some(())?;
        let per_cpu =
            self.skel.maps.nm_dns_totals.lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY).ok()??;
        Some(dns_totals(&self.features().bounds_us, &decode::words_sum(&per_cpu)?))
    }

    /// To read the names that were asked for; `None` if none are kept.
    ///
    /// # Errors
    /// The kernel's.
    pub fn asked_names(&self) -> std::io::Result<Option<KeptNames>> {
        let messages = &self.features().messages;
        let maps = &self.skel.maps;
        let dns = (messages.dns && messages.dns_names).then(|| MapHandle::try_from(&maps.nm_dns_names));
        let tls = messages.tls_names.then(|| MapHandle::try_from(&maps.nm_tls_names));
        let names = KeptNames {
            dns: dns.transpose().map_err(std::io::Error::other)?,
            tls: tls.transpose().map_err(std::io::Error::other)?,
        };
        Ok((names.dns.is_some() || names.tls.is_some()).then_some(names))
    }
}

/// Names that flows have asked for, where they are kept.
#[derive(Debug)]
pub struct KeptNames {
    dns: Option<MapHandle>,
    tls: Option<MapHandle>,
}

fn kept(map: Option<&MapHandle>, tag: u64) -> Option<Vec<u8>> {
    map?.lookup(&tag.to_ne_bytes(), MapFlags::ANY).ok()?
}

impl AskedNames for KeptNames {
    fn dns(&self, tag: u64) -> Option<String> {
        kept(self.dns.as_ref(), tag).map(|wire| dotted(&wire))
    }

    fn tls(&self, tag: u64) -> AskedTls {
        kept(self.tls.as_ref(), tag).map(|name| asked_tls(&name)).unwrap_or_default()
    }
}

/// Of an `nm_tls_name`. Names that hold what no name holds are not told.
fn asked_tls(name: &[u8]) -> AskedTls {
    use std::mem::offset_of;
    let text = |length: usize, from: usize, is_fit: fn(&u8) -> bool| {
        let bytes = name.get(from..)?.get(..usize::from(*name.get(length)?))?;
        let fits = !bytes.is_empty() && bytes.iter().all(is_fit);
        fits.then(|| String::from_utf8_lossy(bytes).into_owned())
    };
    let of_host = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    let sni = text(offset_of!(nm_tls_name, sni_bytes), offset_of!(nm_tls_name, sni), of_host);
    let alpn = text(offset_of!(nm_tls_name, alpn_bytes), offset_of!(nm_tls_name, alpn), u8::is_ascii_graphic);
    AskedTls { sni: sni.map(|name| name.to_ascii_lowercase()), alpn }
}

/// HTTP servers. When all places are taken, those that have been silent for a while give up theirs, and what they counted goes to
/// `other`, at the next reading.
#[derive(Debug, Default)]
pub struct Servers {
    /// Responses at a reading, and when they had changed.
    seen: HashMap<Vec<u8>, (u64, Instant)>,
    gone: HttpWords,
}

impl Servers {
    /// HTTP/1 since load; `None` if it is not looked at.
    pub fn read(&mut self, object: &Object, now: Instant) -> Option<HttpTotals> {
        let bounds_us = &object.features().bounds_us;
        let places = object.features().messages.http_servers? as usize;
        let map = &object.skel.maps.nm_http;
        let read = |key: Vec<u8>| {
            let value = map.lookup(&key, MapFlags::ANY).ok()??;
            Some((key, decode::words_sum(&[value])?))
        };
        let mut words: Vec<(Vec<u8>, HttpWords)> = map.keys().filter_map(read).collect();
        for key in self.silent(&words, places, now) {
            // It may be missed to count a response that comes at this moment.
            if map.delete(&key).is_ok()
                && let Some(at) = words.iter().position(|(other, _)| *other == key)
            {
                add(&mut self.gone, &words.swap_remove(at).1);
            }
        }
        let mut other = self.gone;
        let mut servers = Vec::new();
        for (key, words) in &words {
            match server(key) {
                Some(end) => servers.push((end, http_server(end.to_string(), bounds_us, words))),
                None => add(&mut other, words),
            }
        }
        servers.sort_by_key(|(end, _)| *end);
        let mut servers: Vec<HttpServer> = servers.into_iter().map(|(_, server)| server).collect();
        servers.push(http_server(OTHER.into(), bounds_us, &other));
        Some(HttpTotals { servers })
    }

    /// Those who must give up their places: none while there are free ones.
    fn silent(&mut self, words: &[(Vec<u8>, HttpWords)], places: usize, now: Instant) -> Vec<Vec<u8>> {
        let mut seen = HashMap::with_capacity(words.len());
        for (key, words) in words.iter().filter(|(key, _)| server(key).is_some()) {
            let total = words[..CLASSES.len()].iter().sum();
            let before = self.seen.get(key).filter(|(before, _)| *before == total);
            seen.insert(key.clone(), (total, before.map_or(now, |(_, since)| *since)));
        }
        let silent = |(_, since): &(u64, Instant)| now.saturating_duration_since(*since) >= IDLE;
        let mut leaving = Vec::new();
        if seen.len() >= places {
            leaving = seen.iter().filter(|(_, place)| silent(place)).map(|(key, _)| key.clone()).collect();
        }
        seen.retain(|key, _| !leaving.contains(key));
        self.seen = seen;
        leaving
    }
}

fn add(sum: &mut HttpWords, more: &HttpWords) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum += more;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_histogram_has_a_bucket_more_than_bounds() {
        let words: Vec<u64> = (1..=13).collect();
        let few = times(&[10, 100], &words);
        assert_eq!((few.counts, few.sum_us), (vec![1, 2, (3..=12).sum::<u64>()], 13));
        let all: Vec<u32> = (1..12).collect();
        assert_eq!(times(&all, &words).counts, (1..=12).collect::<Vec<_>>());
    }

    #[test]
    fn names_of_tls_are_told_only_if_they_are_names() {
        let asked = |sni: &[u8], alpn: &[u8]| {
            let mut name = vec![0; size_of::<nm_tls_name>()];
            (name[0], name[1]) = (sni.len() as u8, alpn.len() as u8);
            name[4..][..sni.len()].copy_from_slice(sni);
            name[132..][..alpn.len()].copy_from_slice(alpn);
            let AskedTls { sni, alpn } = asked_tls(&name);
            (sni, alpn)
        };
        assert_eq!(asked(b"Www.a_b-c.1", b"http/1.1"), (Some("www.a_b-c.1".into()), Some("http/1.1".into())));
        assert_eq!(asked(b"", b""), (None, None));
        for byte in (0..=255).filter(|byte: &u8| !byte.is_ascii_alphanumeric() && !b"-._".contains(byte)) {
            assert_eq!(asked(&[b'a', byte], b"h2"), (None, Some("h2".into())), "{byte}");
        }
        for byte in [0, b' ', 127, 128, 255] {
            assert_eq!(asked(b"a", &[b'h', byte]), (Some("a".into()), None), "{byte}");
        }
        assert_eq!(asked_tls(&[200; 148]), AskedTls::default(), "a length beyond the end");
        assert_eq!(asked_tls(&[]), AskedTls::default());
    }

    #[test]
    fn keys_are_servers_or_the_rest() {
        let mut key = [0u8; 20];
        assert_eq!(server(&key), None);
        key[..4].copy_from_slice(&[10, 0, 0, 2]);
        key[16..19].copy_from_slice(&[0x1f, 0x90, 4]);
        assert_eq!(server(&key), Some("10.0.0.2:8080".parse().unwrap()));
        key[18] = 6;
        assert_eq!(server(&key).unwrap().to_string(), "[a00:2::]:8080");
        assert_eq!(server(&key[..10]), None);
    }

    #[test]
    fn places_are_given_up_by_the_silent_when_all_are_taken() {
        let key = |n: u8| {
            let mut key = vec![10, 0, 0, n];
            key.resize(20, 0);
            key[18] = 4;
            key
        };
        let words = |n: u64| {
            let mut words = [0; HTTP_WORDS];
            words[1] = n;
            words
        };
        let mut servers = Servers::default();
        let start = Instant::now();
        let first = [(key(1), words(5)), (key(2), words(7)), (vec![0; 20], words(1))];
        assert!(servers.silent(&first, 2, start).is_empty());
        let second = [(key(1), words(5)), (key(2), words(8)), (vec![0; 20], words(2))];
        assert!(servers.silent(&second, 2, start + IDLE / 2).is_empty(), "not silent for long enough");
        assert!(servers.silent(&second, 3, start + IDLE).is_empty(), "a place is free");
        assert_eq!(servers.silent(&second, 2, start + IDLE), [key(1)]);
        assert_eq!(servers.seen.len(), 1);
    }
}
