//! What the kernel side counts: packets, events, drops, the flow table.

use super::page::{Page, count, level};
use crate::kernel::stats::{DropCount, KernelStats, Outcome};

pub(super) fn families(page: &mut Page, stats: &KernelStats) {
    let mut packets = Vec::new();
    let mut seen = Vec::new();
    for hook in &stats.hooks {
        let (interface, name) = (hook.interface.as_str(), hook.hook.name());
        seen.push(count(&[("interface", interface), ("hook", name)], hook.seen));
        for (outcome, total) in Outcome::ALL.iter().zip(hook.outcomes) {
            let pairs = [("interface", interface), ("hook", name), ("outcome", outcome.name())];
            packets.push(count(&pairs, total));
        }
    }
    page.counter(
        "netmon_ebpf_packets_total",
        "Packets by what became of them: each has one outcome.",
        packets,
    );
    page.counter("netmon_ebpf_seen_packets_total", "Packets seen: the sum over their outcomes.", seen);
    let kinds =
        stats.kinds.iter().map(|k| count(&[("outcome", k.outcome.name()), ("kind", &k.kind)], k.packets));
    page.counter(
        "netmon_ebpf_packet_kinds_total",
        "Buffers that were not IP or malformed, or counted for the tunnel that carries them, by kind.",
        kinds.collect(),
    );
    page.counter(
        "netmon_ebpf_events_processed_total",
        "Events read from the kernel.",
        vec![count(&[], stats.events_processed)],
    );
    let lost = &stats.events_lost;
    page.counter(
        "netmon_ebpf_events_dropped_total",
        "Events that did not arrive; the flows' counts are not touched, their next report carries them.",
        vec![
            count(&[("reason", "buffer_full")], lost.buffer_full),
            count(&[("reason", "invalid")], lost.invalid),
        ],
    );
    let drops = &stats.drops;
    let dropped =
        |drop: &DropCount| count(&[("reason", &drop.reason), ("interface", &drop.interface)], drop.packets);
    page.counter(
        "netmon_drops_total",
        "Packets that the kernel of this host dropped, by its own reasons.",
        drops.counts.iter().map(dropped).collect(),
    );
    page.counter(
        "netmon_drops_missed_total",
        "Drops that are not told in full: nested in another one (not counted), or without room to note their flow.",
        vec![count(&[("kind", "nested")], drops.nested), count(&[("kind", "flow")], drops.unjoined)],
    );
    let table = &stats.table;
    page.gauge("netmon_flow_table_entries", "Flows in the table.", vec![level(&[], table.entries as f64)]);
    page.gauge(
        "netmon_flow_table_capacity",
        "Flows that the table may hold.",
        vec![level(&[], table.capacity as f64)],
    );
    page.gauge("netmon_flow_table_slots", "Slots allocated.", vec![level(&[], table.slots as f64)]);
    page.counter(
        "netmon_flow_table_overflows_total",
        "Packets that found no room in the table and are counted by protocol only.",
        vec![count(&[], table.overflow_packets)],
    );
    page.counter(
        "netmon_flow_table_resizes_total",
        "Moves of the table to another size.",
        vec![count(&[], table.resizes)],
    );
    page.counter(
        "netmon_fragments_unmatched_total",
        "Later fragments whose first was not seen: counted in a flow without ports.",
        vec![count(&[], stats.fragments_unmatched)],
    );
    page.counter(
        "netmon_icmp_errors_refused_total",
        "ICMP errors that quote a segment which is not on its way, forged or very late: no flow fails by them.",
        vec![count(&[], stats.icmp_errors_refused)],
    );
    page.counter(
        "netmon_tcp_resets_refused_total",
        "TCP resets that their receiver can't be waiting for, forged or very late: they end no flow.",
        vec![count(&[], stats.tcp_resets_refused)],
    );
    page.counter(
        "netmon_latency_samples_left_out_total",
        "Round trips that are not in netmon_latency_seconds: more in one bucket than it holds between two reports.",
        vec![count(&[], stats.rtt_samples_left_out)],
    );
    page.counter(
        "netmon_names_lost_total",
        "Sockets that have no name for want of room or memory.",
        vec![count(&[], stats.names_lost)],
    );
    page.counter(
        "netmon_asked_names_lost_total",
        "Names that flows have asked for (DNS, TLS) and that found no room.",
        vec![count(&[], stats.asked_names_lost)],
    );
    page.counter(
        "netmon_conntrack_overruns_total",
        "Times that conntrack's news were lost and all translations read anew (features.nat.conntrack: netlink).",
        vec![count(&[], stats.conntrack_overruns)],
    );
    page.gauge(
        "netmon_interfaces_attached",
        "Interfaces whose packets are seen.",
        vec![level(&[], (stats.hooks.len() / 2).saturating_sub(1) as f64)],
    );
}
