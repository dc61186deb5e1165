//! `why SRC DST[:PORT]`: what happened between two ends, in one sentence, and the evidence under it. [`explain`] is pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result};
use serde::Serialize;

use super::client::{Client, Refused};
use super::evidence::{clock, evidence, outcome};
use crate::flow::key::Protocol;
use crate::flow::record::{self, Endpoint, FlowRecord, IcmpError, Nat, NatEnd, Reason};

/// One side of the question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// As it was asked for.
    pub name: String,
    /// Its addresses; none of a Kubernetes name, which had several in its time.
    pub addresses: Vec<IpAddr>,
    /// Its port, if one was named.
    pub port: Option<u16>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// What happened.
    pub sentence: String,
    /// Why it says so, line by line.
    pub evidence: Vec<String>,
    /// Flows that it is about, by what became of them.
    pub flows: BTreeMap<&'static str, usize>,
}

/// `host`, `host:port`, `[address]:port` or an address.
///
/// # Errors
/// When what stands for the port is none.
pub fn split(text: &str) -> Result<(&str, Option<u16>), Refused> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').unwrap_or("none"))),
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (text, None),
        },
    };
    let bad =
        |_| Refused(format!("`{text}` does not end in a port from 0 to 65535, like db:5432 or [fd00::7]:80"));
    Ok((host, port.map(str::parse).transpose().map_err(bad)?))
}

impl End {
    /// Namespace and name of a pod, service or workload.
    fn in_cluster(&self) -> Option<(&str, &str)> {
        self.name.split_once('/')
    }

    /// Whether it is this end of a flow, by what it is called on either side of a translation.
    fn is(&self, end: &Endpoint, nat: Option<NatEnd>) -> bool {
        let sides = [Some((end.ip, end.port)), nat.map(|nat| (nat.ip, nat.port))];
        let named = |(namespace, name): (&str, &str)| {
            let names = [&end.pod, &end.service, &end.workload];
            end.namespace.as_deref() == Some(namespace)
                && names.into_iter().any(|known| known.as_deref() == Some(name))
        };
        let in_cluster = self.in_cluster().is_some_and(named);
        sides.into_iter().flatten().any(|(ip, port)| {
            (in_cluster || self.addresses.contains(&ip)) && self.port.is_none_or(|asked| port == Some(asked))
        })
    }
}

async fn resolve(text: &str) -> Result<End> {
    let (host, port) = split(text)?;
    if host.contains('/') {
        return Ok(End { name: host.into(), addresses: Vec::new(), port });
    }
    let addresses = match host.parse() {
        Ok(address) => vec![address],
        Err(_) => {
            let found = tokio::net::lookup_host((host, 0)).await;
            found
                .with_context(|| format!("`{host}` is no address and has none"))?
                .map(|end| end.ip())
                .collect()
        }
    };
    Ok(End { name: host.into(), addresses, port })
}

/// Asks the agent for all flows between the two, those that ended lately included.
///
/// # Errors
/// When a name has no address or the agent does not answer.
pub async fn ask(client: &Client, src: &str, dst: &str) -> Result<Answer> {
    let (src, dst) = (resolve(src).await?, resolve(dst).await?);
    let mut flows = Vec::new();
    let filters = match dst.in_cluster() {
        Some((namespace, _)) => vec![("namespace", namespace.to_owned())],
        None => dst.addresses.iter().map(|address| ("ip", address.to_string())).collect(),
    };
    for (filter, value) in filters {
        let query = [(filter.into(), value), ("ended".into(), "true".into())];
        let mut lines = client.lines("/v1/flows", &query).await?;
        while let Some(line) = lines.next().await? {
            let flow: FlowRecord = serde_json::from_slice(line).context(
                "the agent's answer is not understood (are netmon and netmon-cli of one version?)",
            )?;
            if went(&flow, &src, &dst) || went(&flow, &dst, &src) {
                flows.push(flow);
            }
        }
    }
    Ok(explain(&src, &dst, &flows))
}

/// Whether a flow was opened by the first end to the second.
fn went(flow: &FlowRecord, from: &End, to: &End) -> bool {
    let nat = |side: fn(&Nat) -> Option<NatEnd>| flow.nat.as_ref().and_then(side);
    from.is(&flow.src, nat(|nat| nat.src)) && to.is(&flow.dst, nat(|nat| nat.dst))
}

/// What happened, from the flows between the two, in either direction.
pub fn explain(src: &End, dst: &End, flows: &[FlowRecord]) -> Answer {
    let asked: Vec<&FlowRecord> = flows.iter().filter(|flow| went(flow, src, dst)).collect();
    let turned = asked.is_empty();
    let mut about = if turned { flows.iter().collect() } else { asked };
    about.sort_by_key(|flow| flow.start_time);
    let (from, to) = if turned { (dst, src) } else { (src, dst) };
    let mut counts = BTreeMap::new();
    for flow in &about {
        *counts.entry(outcome(flow)).or_insert(0) += 1;
    }
    let failure = Reason::ALL
        .iter()
        .filter_map(|reason| Some((*counts.get(reason.name())?, *reason)))
        .max_by_key(|(count, _)| *count);
    let sentence = match failure {
        _ if about.is_empty() => format!(
            "Nothing between {} and {} has been seen: no packet passed an interface that is watched, or it was too long ago (`netmon-cli status` names the interfaces).",
            src.name, dst.name
        ),
        Some((count, reason)) => failed(&about, from, to, reason, count),
        None => unfailed(&about, to, &counts),
    };
    Answer { sentence, evidence: evidence(&about, turned), flows: counts }
}

/// Protocol and port of what a flow was opened to, as `to` calls it.
fn port_of(flow: &FlowRecord, to: &End) -> String {
    let nat = flow.nat.and_then(|nat| nat.dst).filter(|nat| to.addresses.contains(&nat.ip));
    let behind = nat.filter(|_| !to.addresses.contains(&flow.dst.ip));
    match to.port.or(behind.map_or(flow.dst.port, |nat| nat.port)) {
        Some(port) => format!("{} port {port}", flow.protocol.to_string().to_uppercase()),
        None => flow.protocol.to_string().to_uppercase(),
    }
}

fn failed(about: &[&FlowRecord], from: &End, to: &End, reason: Reason, count: usize) -> String {
    let these: Vec<&&FlowRecord> = about.iter().filter(|flow| flow.reason == Some(reason)).collect();
    let Some(first) = these.first() else { return String::new() };
    let (of, since) = (format!("{count} of {}", about.len()), clock(first.start_time));
    let (name, port) = (&to.name, port_of(first, to));
    let says = |error: IcmpError| these.iter().any(|flow| flow.icmp_errors.contains(&error));
    match reason {
        Reason::Refused => format!(
            "{name} refused {port}: its kernel answered {of} attempts with RST since {since}; nothing listens there, or a firewall rejects."
        ),
        Reason::Timeout => {
            let sent: u64 = these.iter().map(|flow| flow.packets_sent).sum();
            format!(
                "{name} did not answer on {port}: {of} attempts since {since}, {sent} packets, no answer; a firewall drops them, the host is down, or answers go another way."
            )
        }
        Reason::Reset => {
            let by = |end: record::End| {
                these.iter().any(|flow| flow.tcp.as_ref().is_some_and(|tcp| tcp.reset_by == Some(end)))
            };
            let who = match (by(record::End::Src), by(record::End::Dst)) {
                (true, false) => format!(" by {}", from.name),
                (false, true) => format!(" by {name}"),
                (true, true) => " by either side".into(),
                (false, false) => String::new(),
            };
            format!(
                "{of} connections from {} to {name}, {port}, stood and were then reset{who} since {since}.",
                from.name
            )
        }
        Reason::Prohibited => {
            format!(
                "A filter forbids {} to reach {name}, {port}: ICMP said so to {of} attempts since {since}.",
                from.name
            )
        }
        Reason::Unreachable if says(IcmpError::PortUnreachable) => {
            format!(
                "Nothing listens on {port} of {name}: ICMP \"port unreachable\" answered {of} attempts since {since}."
            )
        }
        Reason::Unreachable => {
            let said: Vec<&str> =
                IcmpError::ALL.iter().filter(|error| says(**error)).map(|error| error.name()).collect();
            let said = said.join(", ").replace('_', " ");
            format!(
                "There is no way from {} to {name}: ICMP \"{said}\" answered {of} attempts since {since}.",
                from.name
            )
        }
    }
}

fn unfailed(about: &[&FlowRecord], to: &End, counts: &BTreeMap<&'static str, usize>) -> String {
    let count = |name: &str| counts.get(name).copied().unwrap_or(0);
    let silent = about.iter().filter(|flow| flow.packets_received == 0).count();
    if silent == about.len() {
        let tcp = about.iter().any(|flow| flow.protocol == Protocol::TCP);
        let meaning = if tcp {
            "the time for an answer is not over yet"
        } else {
            "this protocol does not need answers, so it may be well"
        };
        return format!("{} has not answered any of {} conversations; {meaning}.", to.name, about.len());
    }
    format!(
        "Nothing failed: {} conversations, {} ended as they should, {} still open, {} without an answer.",
        about.len(),
        count("ok"),
        count("active"),
        silent
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn end(address: &str, port: Option<u16>) -> End {
        End { name: address.into(), addresses: vec![address.parse().unwrap()], port }
    }

    fn flow(status: &str, reason: Option<&str>, received: u64, errors: &[&str]) -> FlowRecord {
        let endpoint = |ip: &str, port: u16| {
            serde_json::json!({"ip": ip, "port": port, "namespace": null, "pod": null, "workload": null, "workload_kind": null,
                "service": null, "node": null, "unit": null, "container": null, "process": null})
        };
        serde_json::from_value(serde_json::json!({
            "flow_id": "9f2c41d07be81a55", "protocol": "tcp", "family": "ipv4", "direction": "egress",
            "start_time": "2026-11-23T09:14:00Z", "end_time": "2026-11-23T09:14:01Z", "duration_us": 1_000_000,
            "src": endpoint("10.0.0.1", 40112), "dst": endpoint("10.0.0.7", 5432),
            "bytes_sent": 74, "bytes_received": 54, "packets_sent": 2, "packets_received": received,
            "state": "closed", "status": status, "reason": reason, "opener_seen": true, "tcp": null, "icmp": null,
            "icmp_errors": errors, "app_protocol": null, "interfaces": ["eth0"], "tunnel": null, "sampling_rate": 1.0, "folded": null
        }))
        .unwrap()
    }

    fn sentence(flows: &[FlowRecord]) -> String {
        explain(&end("10.0.0.1", None), &end("10.0.0.7", Some(5432)), flows).sentence
    }

    #[test]
    fn each_end_gets_its_sentence() {
        let refused = flow("failed", Some("refused"), 1, &[]);
        let ok = flow("ok", None, 3, &[]);
        let cases = [
            (
                vec![refused.clone(), refused.clone(), ok.clone()],
                "10.0.0.7 refused TCP port 5432: its kernel answered 2 of 3 attempts with RST since 09:14:00 UTC",
            ),
            (
                vec![flow("failed", Some("timeout"), 0, &[])],
                "10.0.0.7 did not answer on TCP port 5432: 1 of 1 attempts since 09:14:00 UTC, 2 packets",
            ),
            (
                vec![flow("failed", Some("reset"), 3, &[])],
                "1 of 1 connections from 10.0.0.1 to 10.0.0.7, TCP port 5432, stood and were then reset",
            ),
            (
                vec![flow("failed", Some("prohibited"), 0, &["prohibited"])],
                "A filter forbids 10.0.0.1 to reach 10.0.0.7",
            ),
            (
                vec![flow("failed", Some("unreachable"), 0, &["port_unreachable"])],
                "Nothing listens on TCP port 5432 of 10.0.0.7",
            ),
            (
                vec![flow("failed", Some("unreachable"), 0, &["time_exceeded"])],
                "There is no way from 10.0.0.1 to 10.0.0.7: ICMP \"time exceeded\"",
            ),
            (
                vec![ok.clone(), flow("active", None, 2, &[])],
                "Nothing failed: 2 conversations, 1 ended as they should, 1 still open",
            ),
            (vec![flow("active", None, 0, &[])], "10.0.0.7 has not answered any of 1 conversations"),
            (vec![], "Nothing between 10.0.0.1 and 10.0.0.7 has been seen"),
        ];
        for (flows, expected) in cases {
            assert!(sentence(&flows).starts_with(expected), "{}", sentence(&flows));
        }
    }

    #[test]
    fn it_says_who_reset_and_what_the_way_did() {
        let side = |retransmits: u64, zero_window: u64| {
            serde_json::json!({"retransmits": retransmits, "out_of_order": 1, "zero_window": zero_window,
                "repeated_acks": 0, "rtt_us": null, "srtt_us": null})
        };
        let mut reset = serde_json::to_value(flow("failed", Some("reset"), 3, &[])).unwrap();
        reset["first_byte_us"] = 12_000.into();
        reset["tcp"] = serde_json::json!({"flags": "SRA", "retransmits": 2, "out_of_order": 2, "zero_window": 4,
            "handshake_us": 400, "handshake_src_us": 100, "handshake_dst_us": 300,
            "rtt_us": {"min": 300, "mean": 450, "max": 900, "samples": 3},
            "ending": "reset", "reset_by": "dst", "src": side(2, 0), "dst": side(0, 4)});
        let about = [serde_json::from_value(reset).unwrap()];
        let answer = explain(&end("10.0.0.1", None), &end("10.0.0.7", Some(5432)), &about);
        assert!(answer.sentence.contains("were then reset by 10.0.0.7 since"), "{}", answer.sentence);
        for line in [
            "handshakes took 400 us (median of 1)",
            "round trips took 450 us (median of 1)",
            "the first byte of an answer took 12.0 ms (median of 1)",
            "of 5 packets 2 were sent again and 2 came out of order: the way loses or reorders",
            "a window closed 4 times: a receiver does not read as fast as it is sent to",
        ] {
            assert!(answer.evidence.iter().any(|said| said == line), "{line}: {:#?}", answer.evidence);
        }
    }

    #[test]
    fn a_name_of_the_cluster_is_a_pod_a_service_or_a_workload() {
        let mut about = flow("failed", Some("refused"), 1, &[]);
        (about.src.namespace, about.src.workload) = (Some("shop".into()), Some("cart".into()));
        (about.dst.namespace, about.dst.service) = (Some("shop".into()), Some("db".into()));
        let named = |name: &str| End { name: name.into(), addresses: Vec::new(), port: None };
        let asked =
            |src: &str, dst: &str| explain(&named(src), &named(dst), &[about.clone()].map(|flow| flow)).flows;
        assert_eq!(asked("shop/cart", "shop/db"), BTreeMap::from([("refused", 1)]));
        assert!(went(&about, &named("shop/cart"), &named("shop/db")));
        assert!(!went(&about, &named("test/cart"), &named("shop/db")));
        assert!(!went(&about, &named("shop/cart"), &named("shop/web")));
        assert_eq!(split("shop/db:5432").unwrap(), ("shop/db", Some(5432)));
    }

    #[test]
    fn either_side_of_a_translation_is_its_end() {
        let mut about = flow("failed", Some("refused"), 1, &[]);
        (about.dst.namespace, about.dst.service) = (Some("shop".into()), Some("db".into()));
        let there = |address: &str, port: u16| NatEnd { ip: address.parse().unwrap(), port: Some(port) };
        about.nat = Some(Nat { src: Some(there("10.2.0.1", 61000)), dst: Some(there("10.1.0.8", 8080)) });
        let client = end("10.0.0.1", None);
        let db = |port: Option<u16>| End { name: "shop/db".into(), addresses: Vec::new(), port };
        for (src, dst, expected) in [
            (client.clone(), end("10.0.0.7", Some(5432)), "10.0.0.7 refused TCP port 5432"),
            (client.clone(), end("10.1.0.8", Some(8080)), "10.1.0.8 refused TCP port 8080"),
            (client.clone(), end("10.1.0.8", None), "10.1.0.8 refused TCP port 8080"),
            (end("10.2.0.1", Some(61000)), end("10.1.0.8", None), "10.1.0.8 refused TCP port 8080"),
            (client.clone(), db(Some(5432)), "shop/db refused TCP port 5432"),
            (client.clone(), db(Some(8080)), "shop/db refused TCP port 8080"),
            (client.clone(), db(None), "shop/db refused TCP port 5432"),
        ] {
            let sentence = explain(&src, &dst, std::slice::from_ref(&about)).sentence;
            assert!(sentence.starts_with(expected), "{sentence}");
        }
        // An address goes with the port of its own side.
        for dst in [end("10.1.0.8", Some(5432)), end("10.0.0.7", Some(8080)), db(Some(61000))] {
            assert!(!went(&about, &client, &dst), "{dst:?}");
        }
    }

    #[test]
    fn it_may_be_asked_from_either_side() {
        let flows = [flow("failed", Some("refused"), 1, &[])];
        let answer = explain(&end("10.0.0.7", Some(5432)), &end("10.0.0.1", None), &flows);
        assert!(answer.sentence.starts_with("10.0.0.7 refused TCP port 5432"), "{}", answer.sentence);
        assert_eq!(answer.evidence[0], "these were opened from the other side");
        assert_eq!(answer.flows, BTreeMap::from([("refused", 1)]));
    }

    #[test]
    fn ends_are_names_and_addresses_with_and_without_ports() {
        for (text, host, port) in [
            ("db", "db", None),
            ("db:5432", "db", Some(5432)),
            ("10.0.0.7:80", "10.0.0.7", Some(80)),
            ("fd00::7", "fd00::7", None),
            ("[fd00::7]:80", "fd00::7", Some(80)),
            ("[fd00::7]", "fd00::7", None),
        ] {
            assert_eq!(split(text).unwrap(), (host, port));
        }
        for text in ["db:http", "db:", "db:65536", "[fd00::7]80", "[fd00::7]:"] {
            assert!(
                split(text).unwrap_err().to_string().starts_with(&format!("`{text}` does not end in a port"))
            );
        }
    }
}
