//! `why SRC DST[:PORT]`: what happened between two ends, in one sentence, and the evidence under it. [`explain`] is pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Serialize;

use super::client::Client;
use super::hints;
use crate::flow::key::Protocol;
use crate::flow::record::{FlowRecord, IcmpError, Reason, Status};

/// Flows shown as evidence.
const EXAMPLES: usize = 5;

/// One side of the question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// As it was asked for.
    pub name: String,
    /// Its addresses.
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
pub fn split(text: &str) -> Result<(&str, Option<u16>)> {
    let port = |text: &str| text.parse().with_context(|| format!("`{text}` is no port"));
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return Ok((host, rest.strip_prefix(':').map(port).transpose()?));
    }
    match text.split_once(':') {
        Some((host, rest)) if !rest.contains(':') => Ok((host, Some(port(rest)?))),
        _ => Ok((text, None)),
    }
}

async fn resolve(text: &str) -> Result<End> {
    let (host, port) = split(text)?;
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
    for address in &dst.addresses {
        let query = [("ip".into(), address.to_string()), ("ended".into(), "true".into())];
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
    from.addresses.contains(&flow.src.ip)
        && to.addresses.contains(&flow.dst.ip)
        && from.port.is_none_or(|port| flow.src.port == Some(port))
        && to.port.is_none_or(|port| flow.dst.port == Some(port))
}

fn outcome(flow: &FlowRecord) -> &'static str {
    match (flow.status, flow.reason) {
        (Status::Failed, Some(reason)) => reason.name(),
        (Status::Ok, _) if flow.packets_received == 0 => "unanswered",
        (status, _) => status.name(),
    }
}

fn clock(time: Timestamp) -> String {
    time.strftime("%H:%M:%S UTC").to_string()
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

fn port_of(flow: &FlowRecord) -> String {
    match flow.dst.port {
        Some(port) => format!("{} port {port}", flow.protocol.to_string().to_uppercase()),
        None => flow.protocol.to_string().to_uppercase(),
    }
}

fn failed(about: &[&FlowRecord], from: &End, to: &End, reason: Reason, count: usize) -> String {
    let these: Vec<&&FlowRecord> = about.iter().filter(|flow| flow.reason == Some(reason)).collect();
    let Some(first) = these.first() else { return String::new() };
    let (of, since) = (format!("{count} of {}", about.len()), clock(first.start_time));
    let (name, port) = (&to.name, port_of(first));
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
            format!(
                "{of} connections from {} to {name}, {port}, stood and were then reset since {since}.",
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

fn evidence(about: &[&FlowRecord], turned: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if turned && !about.is_empty() {
        lines.push("these were opened from the other side".into());
    }
    let mut groups: BTreeMap<&str, Vec<&FlowRecord>> = BTreeMap::new();
    for flow in about {
        groups.entry(outcome(flow)).or_default().push(flow);
    }
    for (name, flows) in &groups {
        if let (Some(first), Some(last)) = (flows.first(), flows.last()) {
            lines.push(format!(
                "{} {name}, first at {}, last at {}",
                flows.len(),
                clock(first.start_time),
                clock(last.start_time)
            ));
        }
    }
    let mut handshakes: Vec<u64> = about.iter().filter_map(|flow| flow.tcp.as_ref()?.handshake_us).collect();
    handshakes.sort_unstable();
    if let Some(median) = handshakes.get(handshakes.len() / 2) {
        lines.push(format!("handshakes took {median} us (median of {})", handshakes.len()));
    }
    if about.iter().any(|flow| flow.icmp_errors.contains(&IcmpError::TooBig)) {
        lines.push(
            "ICMP said that packets are too big for the way: if transfers hang, look at the MTU".into(),
        );
    }
    let mut drops: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for drop in about.iter().filter_map(|flow| flow.drops.as_ref()) {
        let sum = drops.entry(&drop.last_reason).or_default();
        *sum = (sum.0 + drop.packets, sum.1 + 1);
    }
    for (reason, (packets, flows)) in drops {
        let hint = hints::drop_reason(reason);
        let meaning = if hint.is_empty() { String::new() } else { format!(": {hint}") };
        lines.push(format!(
            "this host's kernel dropped {packets} packets of {flows} of these conversations, last for {reason}{meaning}"
        ));
    }
    // What failed last is what was asked about.
    let mut examples: Vec<&&FlowRecord> = about.iter().collect();
    examples.sort_by_key(|flow| std::cmp::Reverse((flow.status == Status::Failed, flow.start_time)));
    lines.extend(examples.into_iter().take(EXAMPLES).map(|flow| example(flow)));
    lines
}

fn example(flow: &FlowRecord) -> String {
    let end = |end: &crate::flow::record::Endpoint| match end.port {
        Some(port) => std::net::SocketAddr::new(end.ip, port).to_string(),
        None => end.ip.to_string(),
    };
    let flags = flow.tcp.as_ref().map_or(String::new(), |tcp| format!(", flags {}", tcp.flags));
    let errors: String = flow.icmp_errors.iter().map(|error| format!(", ICMP {}", error.name())).collect();
    format!(
        "{} {} {} -> {}: {}, {} packets sent, {} received{flags}{errors}, seen on {}",
        clock(flow.start_time),
        flow.protocol,
        end(&flow.src),
        end(&flow.dst),
        outcome(flow),
        flow.packets_sent,
        flow.packets_received,
        flow.interfaces.join(", ")
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
            "icmp_errors": errors, "app_protocol": null, "interfaces": ["eth0"], "sampling_rate": 1.0, "folded": null
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
        assert!(split("db:http").unwrap_err().to_string().contains("`http` is no port"));
    }
}
