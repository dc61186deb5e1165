//! Showing answers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufWriter, Write};

use anyhow::{Context, Result};
use serde::Serialize;

use super::arguments::Output;
use super::client::Lines;
use super::documents::Documents;
use super::hints;
use super::tables::{self, bytes, duration};
use super::why::Answer;
use crate::api::status::{FlowStats, Status};
use crate::detect::alert::AlertRecord;
use crate::detect::kind::Kind;
use crate::enrich::kubernetes::progress::KubernetesStatus;
use crate::flow::messages::Times;
use crate::flow::record::FlowRecord;
use crate::governor::GovernorStatus;
use crate::kernel::messages::{CLASSES, DnsTotals, HttpServer, HttpTotals};
use crate::kernel::stats::DropStats;
use crate::reload::outcome::{Cause, Changed, ConfigStatus};

/// From here on flows are what the memory of the maps is for: of fewer, the first table and the maps beside it weigh more.
const FLOWS_THAT_WEIGH: u64 = 1000;

pub(super) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

pub(super) fn document(value: &impl Serialize, output: Output) -> Result<()> {
    let text = if output == Output::Json {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    print(&text.context("write JSON")?)
}

/// Items as one document, or each on a line of its own.
pub(super) fn documents(items: &[impl Serialize], output: Output) -> Result<()> {
    match output {
        Output::Ndjson => items.iter().try_for_each(|item| document(item, output)),
        _ => document(&items, output),
    }
}

/// `alerts`
pub fn alerts(alerts: &[AlertRecord], output: Output) -> Result<()> {
    if output != Output::Table {
        return documents(alerts, output);
    }
    if alerts.is_empty() {
        return print("no alerts");
    }
    let mut table = tables::table(&["LAST", "SINCE", "SEVERITY", "TYPE", "WHAT"]);
    for alert in alerts {
        let time = |time: jiff::Timestamp| time.strftime("%F %T").to_string();
        table.add_row([
            time(alert.last_seen),
            time(alert.first_seen),
            alert.severity.clone(),
            alert.kind.name().into(),
            alert.message.clone(),
        ]);
    }
    let kinds: BTreeSet<Kind> = alerts.iter().map(|alert| alert.kind).collect();
    let hints: String = kinds.iter().map(|kind| format!("\n{}: {}", kind.name(), kind.hint())).collect();
    print(&format!("{table}\ntimes are UTC\n{hints}"))
}

/// `drops`
pub fn drops(drops: &DropStats, output: Output) -> Result<()> {
    match output {
        Output::Ndjson if drops.off.is_none() => return documents(&drops.counts, output),
        Output::Json | Output::Ndjson => return document(drops, output),
        Output::Table => {}
    }
    if let Some(why) = &drops.off {
        return print(&format!("packets that the kernel drops are not told: {why}"));
    }
    let mut counts: Vec<_> = drops.counts.iter().collect();
    counts.sort_by_key(|count| std::cmp::Reverse(count.packets));
    let mut table = tables::table(&["REASON", "INTERFACE", "PACKETS", "WHAT IT MEANS"]);
    for count in counts {
        table.add_row([
            count.reason.as_str(),
            &count.interface,
            &count.packets.to_string(),
            hints::drop_reason(&count.reason),
        ]);
    }
    print(&format!("{table}\nsince the agent started, on the whole host"))
}

/// `why`
pub fn why(answer: &Answer, output: Output) -> Result<()> {
    if output != Output::Table {
        return document(answer, output);
    }
    let evidence: String = answer.evidence.iter().map(|line| format!("\n  {line}")).collect();
    print(&format!("{}{evidence}", answer.sentence))
}

fn reload(config: &ConfigStatus) -> String {
    let changed =
        |changes: &[Changed]| changes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let since = config.since.map(|at| at.strftime("%F %T UTC").to_string()).unwrap_or_default();
    let mut text = format!("{since} ({})", config.cause.map_or("never", Cause::words));
    if !config.changed.is_empty() {
        text.push_str(&format!(": {}", changed(&config.changed)));
    }
    if !config.after_restart.is_empty() {
        text.push_str(&format!("\n           after a restart: {}", changed(&config.after_restart)));
    }
    if let Some(error) = &config.error {
        let at = error.at.strftime("%F %T UTC");
        text.push_str(&format!("\n           REFUSED {at} ({}): {}", error.cause.words(), error.message));
    }
    text
}

/// `status`
pub fn status(status: &Status, output: Output) -> Result<()> {
    if output != Output::Table {
        return document(status, output);
    }
    let stats = &status.kernel_stats;
    let lost = stats.events_lost;
    let mut lines = vec![
        format!(
            "netmon {} (pid {}), {} mode, kernel {}",
            status.version, status.pid, status.mode, status.kernel
        ),
        format!("up         {}", duration(status.uptime_seconds * 1_000_000)),
        format!("config     {}", status.config_file.as_deref().unwrap_or("none: defaults")),
        format!("reload     {}", reload(&status.config)),
        if status.ready {
            "ready      yes".into()
        } else {
            format!("ready      no: waiting for {}", status.waiting_for.join("; "))
        },
        format!(
            "events     by {}, {} read, {} lost",
            status.transport,
            stats.events_processed,
            lost.buffer_full + lost.invalid
        ),
        format!(
            "flow table {} flows of {} at most, {} slots, {} of kernel memory",
            stats.table.entries,
            stats.table.capacity,
            stats.table.slots,
            bytes(stats.table.map_bytes)
        ),
    ];
    lines.push(overhead(&status.governor));
    let books = &status.accounting;
    let outcomes: Vec<String> = books
        .outcomes
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    lines.push(format!(
        "packets    {} seen = {}",
        books.seen,
        if outcomes.is_empty() { "0".into() } else { outcomes.join(" + ") }
    ));
    lines.push(format!(
        "books      {}; flows hold {} packets, {}",
        if books.conserved {
            "every packet has its outcome"
        } else {
            "A PACKET HAS NO OUTCOME: please report this"
        },
        books.flow_packets,
        bytes(books.flow_bytes)
    ));
    if let Some(kubernetes) = &status.kubernetes {
        lines.push(format!(
            "kubernetes {}, scope {}, node {} (from {})",
            kubernetes.server.as_deref().unwrap_or("no way to an API server is known"),
            kubernetes.scope,
            kubernetes.node,
            kubernetes.node_from
        ));
    }
    let held: Vec<String> =
        status.privileges.held.iter().map(|held| format!("{} {}", held.capability, held.why)).collect();
    lines.push(format!("may        uid {}: {}", status.privileges.uid, held.join("; ")));
    lines.extend(status.notes.iter().map(|note| format!("note       {}", note.text)));
    print(&lines.join("\n"))?;
    let mut table = tables::table(&["INTERFACE", "INDEX", "ATTACHED", "PROBLEM"]);
    for interface in &status.interfaces {
        table.add_row([
            interface.name.clone(),
            interface.index.to_string(),
            interface.attach.clone(),
            interface.error.clone().unwrap_or_default(),
        ]);
    }
    print(&format!("\n{table}"))?;
    status.kubernetes.as_ref().map_or(Ok(()), watches)
}

/// What the agent uses, and what it sheds.
fn overhead(governor: &GovernorStatus) -> String {
    let shed: Vec<&str> = governor.shed.iter().map(|shedding| shedding.measure.as_str()).collect();
    format!(
        "overhead   {:.3} of {} cores ({:.3} by packets, {}), {} of {}; {}",
        governor.agent_cores + governor.programs_cores,
        governor.cpu_limit_cores,
        governor.programs_cores,
        if governor.programs_counted { "as the kernel counts" } else { "by one in 256" },
        bytes(governor.agent_bytes + governor.maps_bytes),
        bytes(governor.memory_limit_bytes),
        if shed.is_empty() { "nothing is shed".into() } else { format!("SHED: {}", shed.join(", ")) }
    )
}

/// The watches of the API server.
fn watches(kubernetes: &KubernetesStatus) -> Result<()> {
    let time = |time: Option<jiff::Timestamp>| {
        time.map_or_else(|| "-".into(), |time| time.strftime("%F %T").to_string())
    };
    let mut table = tables::table(&["KUBERNETES", "SYNCED SINCE", "OBJECTS", "LAST WORD", "PROBLEM"]);
    for watch in &kubernetes.watches {
        table.add_row([
            watch.kind.clone(),
            time(watch.synced_since),
            watch.objects.to_string(),
            time(watch.last_word),
            watch.error.clone().unwrap_or_default(),
        ]);
    }
    print(&format!("\n{table}\ntimes are UTC"))
}

/// `stats flows`
pub fn flow_stats(stats: &FlowStats, output: Output) -> Result<()> {
    if output != Output::Table {
        return document(stats, output);
    }
    let per_flow = stats.bytes_per_flow.filter(|_| stats.total >= FLOWS_THAT_WEIGH);
    let per_flow = per_flow.map_or_else(String::new, |n| format!(", {n:.0} bytes a flow"));
    print(&format!("live flows: {}; kernel memory: {}{per_flow}\n", stats.total, bytes(stats.map_bytes)))?;
    let mut table = tables::table(&["BY", "", "FLOWS"]);
    let groups = [
        ("protocol", &stats.by_protocol),
        ("state", &stats.by_state),
        ("direction", &stats.by_direction),
        ("status", &stats.by_status),
        ("app", &stats.by_app),
    ];
    for (group, counts) in groups {
        for (name, count) in counts {
            table.add_row([group.to_owned(), name.clone(), count.to_string()]);
        }
    }
    print(&format!("{table}\n"))?;
    let mut table = tables::table(&["TOP TALKERS", "WITH", "BYTES", "FLOWS"]);
    for talker in &stats.top_talkers {
        table.add_row([
            talker.src.clone(),
            talker.dst.clone(),
            bytes(talker.bytes),
            talker.flows.to_string(),
        ]);
    }
    print(&table.to_string())
}

fn times(times: &Times) -> Vec<String> {
    let bounds = times.bounds_us.iter().map(|us| format!("up to {}", duration(u64::from(*us))));
    let rows = bounds.chain([String::from("longer")]).zip(&times.counts);
    rows.map(|(bound, count)| format!("{bound:<16} {count}")).collect()
}

fn mean(times: &Times) -> String {
    times.mean_us().map_or_else(|| "-".into(), duration)
}

/// `stats dns`
pub fn dns_stats(dns: &DnsTotals, output: Output) -> Result<()> {
    if output != Output::Table {
        return document(dns, output);
    }
    let total = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
    print(&format!(
        "{} queries, {} responses after {} on average, {} without one; {} sent again, {} unmatched, {} malformed, {} not looked at\n",
        total(&dns.queries),
        total(&dns.responses),
        mean(&dns.latency),
        dns.unanswered,
        dns.repeated,
        dns.unmatched + dns.lost,
        dns.malformed,
        dns.unseen
    ))?;
    let mut table = tables::table(&["BY", "", "COUNT"]);
    for (group, counts) in [("type", &dns.queries), ("rcode", &dns.responses)] {
        for (name, count) in counts.iter().filter(|(_, count)| **count > 0) {
            table.add_row([group.to_owned(), name.clone(), count.to_string()]);
        }
    }
    print(&format!("{table}\n\nlatency\n  {}", times(&dns.latency).join("\n  ")))
}

/// `stats http`
pub fn http_stats(http: &HttpTotals, output: Output) -> Result<()> {
    match output {
        Output::Json => return document(http, output),
        Output::Ndjson => return documents(&http.servers, output),
        Output::Table => {}
    }
    let mut table = tables::table(&["SERVER", "1XX", "2XX", "3XX", "4XX", "5XX", "MEAN TIME"]);
    let mut servers: Vec<&HttpServer> = http.servers.iter().collect();
    let responses = |server: &HttpServer| server.responses.values().sum::<u64>();
    servers.retain(|server| responses(server) > 0);
    servers.sort_by_key(|server| std::cmp::Reverse(responses(server)));
    if servers.is_empty() {
        return print("no HTTP/1 responses yet");
    }
    for server in servers {
        let classes = CLASSES.map(|class| server.responses.get(class).copied().unwrap_or(0).to_string());
        let row = [server.dst.clone()].into_iter().chain(classes).chain([mean(&server.latency)]);
        table.add_row(row.collect::<Vec<_>>());
    }
    print(&table.to_string())
}

/// `flows dump`. `shorten`: so many rows in a table, and a word about the rest.
///
/// # Errors
/// When the agent goes away or the terminal does.
pub async fn flows(mut lines: Lines, output: Output, follow: bool, shorten: Option<usize>) -> Result<()> {
    let mut out = BufWriter::new(std::io::stdout());
    match output {
        Output::Ndjson => {
            while let Some(chunk) = lines.chunk().await? {
                out.write_all(&chunk)?;
                if follow {
                    out.flush()?;
                }
            }
        }
        Output::Json => {
            let mut documents = Documents::new(output);
            while let Some(line) = lines.next().await? {
                documents.put(line)?;
                if follow {
                    documents.flush()?;
                }
            }
            documents.end()?;
        }
        Output::Table if follow => {
            while let Some(line) = lines.next().await? {
                match serde_json::from_slice::<FlowRecord>(line) {
                    Ok(record) => {
                        let [protocol, app, src, dst, state, _, sent, received, lasted, _] =
                            tables::flow_cells(&record);
                        writeln!(
                            out,
                            "{}  {protocol:<6} {app:<10} {src:<22} {dst:<22} {state:<16} {sent:>10} {received:>10} {lasted:>9}",
                            record.end_time
                        )?;
                    }
                    // The agent's word about what it could not send.
                    Err(_) => writeln!(out, "{}", String::from_utf8_lossy(line))?,
                }
                out.flush()?;
            }
        }
        Output::Table => {
            let mut flows = tables::Flows::default();
            let mut more = false;
            while let Some(line) = lines.next().await? {
                let record: FlowRecord = serde_json::from_slice(line).context("read a flow record")?;
                more = shorten.is_some_and(|limit| flows.len() >= limit);
                if !more {
                    flows.add(&record);
                }
            }
            let shown = flows.len();
            if shown == 0 {
                return print("no flows");
            }
            writeln!(out, "{}", flows.table())?;
            if more {
                writeln!(out, "... and more than these {shown}: --limit N shows N, --output ndjson all")?;
            }
        }
    }
    Ok(out.flush()?)
}
