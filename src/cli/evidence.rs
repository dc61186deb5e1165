//! What the answer of `netmon-cli why` rests on: counts, times, losses and examples of the flows that it is about.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::hints;
use super::tables::{address, duration};
use crate::flow::record::{FlowRecord, IcmpError, Status, TcpSide};

/// Flows shown as evidence.
const EXAMPLES: usize = 5;

/// What became of a flow, in a word.
pub(super) fn outcome(flow: &FlowRecord) -> &'static str {
    match (flow.status, flow.reason) {
        (Status::Failed, Some(reason)) => reason.name(),
        (Status::Ok, _) if flow.packets_received == 0 => "unanswered",
        (status, _) => status.name(),
    }
}

/// A time of day.
pub(super) fn clock(time: Timestamp) -> String {
    time.strftime("%H:%M:%S UTC").to_string()
}

/// What the answer rests on, line by line.
pub(super) fn evidence(about: &[&FlowRecord], turned: bool) -> Vec<String> {
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
    let tcp = |about: &FlowRecord| about.tcp.clone();
    for (what, times) in [
        ("handshakes took", about.iter().filter_map(|flow| tcp(flow)?.handshake_us).collect::<Vec<u64>>()),
        ("round trips took", about.iter().filter_map(|flow| Some(tcp(flow)?.rtt_us?.mean)).collect()),
        ("the first byte of an answer took", about.iter().filter_map(|flow| flow.first_byte_us).collect()),
    ] {
        lines.extend(median(times).map(|(us, of)| format!("{what} {} (median of {of})", duration(us))));
    }
    lines.extend(losses(about));
    if about.iter().any(|flow| flow.icmp_errors.contains(&IcmpError::TooBig)) {
        lines.push(
            "ICMP said that packets are too big for the way: if transfers hang, look at the MTU".into(),
        );
    }
    lines.extend(dns(about));
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
    let flags = flow.tcp.as_ref().map_or(String::new(), |tcp| format!(", flags {}", tcp.flags));
    let errors: String = flow.icmp_errors.iter().map(|error| format!(", ICMP {}", error.name())).collect();
    format!(
        "{} {} {} -> {}: {}, {} packets sent, {} received{flags}{errors}, seen on {}",
        clock(flow.start_time),
        flow.protocol,
        address(flow.src.ip, flow.src.port),
        address(flow.dst.ip, flow.dst.port),
        outcome(flow),
        flow.packets_sent,
        flow.packets_received,
        flow.interfaces.join(", ")
    )
}

/// The median, and of how many.
fn median(mut values: Vec<u64>) -> Option<(u64, usize)> {
    values.sort_unstable();
    values.get(values.len() / 2).map(|median| (*median, values.len()))
}

/// What sequence numbers and windows tell of trouble on the way.
fn losses(about: &[&FlowRecord]) -> Vec<String> {
    let sides = || about.iter().filter_map(|flow| flow.tcp.as_ref()).flat_map(|tcp| [&tcp.src, &tcp.dst]);
    let sum = |count: fn(&TcpSide) -> u64| sides().flatten().map(count).sum::<u64>();
    let packets: u64 = about.iter().map(|flow| flow.packets_sent + flow.packets_received).sum();
    let mut lines = Vec::new();
    let (again, late) = (sum(|side| side.retransmits), sum(|side| side.out_of_order));
    if again + late > 0 {
        lines.push(format!(
            "of {packets} packets {again} were sent again and {late} came out of order: the way loses or reorders"
        ));
    }
    let closed = sum(|side| side.zero_window);
    if closed > 0 {
        lines.push(format!(
            "a window closed {closed} times: a receiver does not read as fast as it is sent to"
        ));
    }
    lines
}

/// What DNS answered, and what it did not.
fn dns(about: &[&FlowRecord]) -> Vec<String> {
    let mut rcodes: BTreeMap<&str, usize> = BTreeMap::new();
    let said = about.iter().filter_map(|flow| flow.dns.as_ref()?.rcode.as_deref());
    for rcode in said.filter(|rcode| *rcode != "NOERROR") {
        *rcodes.entry(rcode).or_default() += 1;
    }
    let told = |(rcode, count)| format!("DNS answered {rcode} last in {count} conversations");
    let mut lines: Vec<String> = rcodes.into_iter().map(told).collect();
    let unanswered = |dns: &crate::flow::record::DnsDetail| {
        dns.queries.unwrap_or(0).saturating_sub(dns.responses.unwrap_or(0))
    };
    let unanswered: u32 = about.iter().filter_map(|flow| flow.dns.as_ref()).map(unanswered).sum();
    if unanswered > 0 {
        lines.push(format!("{unanswered} DNS queries were not answered"));
    }
    lines
}
