//! What the kernel side counted, as plain data: every packet of every hook by outcome, the flow
//! table's fill, and what was lost on the way to userspace. Read by the exporter and `status`.

use serde::{Deserialize, Serialize};

use super::messages::Messages;

/// What became of a packet. Each packet seen on a hook has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Added to its flow.
    Counted,
    /// Already counted on another interface or hook.
    Duplicate,
    /// Its flow is left out by `capture.sampling_rate`.
    SampledOut,
    /// Not IPv4 or IPv6.
    NotIp,
    /// Headers cut short or contradictory.
    Malformed,
    /// No room in the flow table: counted by protocol and hook only.
    Overflow,
}

impl Outcome {
    /// All outcomes, in the order of the kernel's counters (`enum nm_outcome`).
    pub const ALL: [Self; 6] =
        [Self::Counted, Self::Duplicate, Self::SampledOut, Self::NotIp, Self::Malformed, Self::Overflow];

    /// Label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::Duplicate => "duplicate",
            Self::SampledOut => "sampled_out",
            Self::NotIp => "not_ip",
            Self::Malformed => "malformed",
            Self::Overflow => "overflow",
        }
    }
}

/// The traffic-control hook of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// Packets that come in.
    Ingress,
    /// Packets that go out.
    Egress,
}

impl Hook {
    /// Both hooks, in the order of the kernel's counters.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// Label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// The program on it.
    pub fn program(self) -> &'static str {
        match self {
            Self::Ingress => "nm_ingress",
            Self::Egress => "nm_egress",
        }
    }
}

/// Packets, as on the wire, seen by one hook of one interface. Interfaces that are gone are summed under the
/// name `other`, so that sums never go back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookCounters {
    /// Interface name, or `other`.
    pub interface: String,
    /// Hook.
    pub hook: Hook,
    /// Packets seen, counted before anything else is decided.
    pub seen: u64,
    /// Packets by outcome, in the order of [`Outcome::ALL`].
    pub outcomes: [u64; 6],
    /// Bytes of the counted packets.
    pub counted_bytes: u64,
}

impl HookCounters {
    /// The conservation law for this hook: `seen` equals the sum over the outcomes.
    pub fn conserved(&self) -> bool {
        self.seen == self.outcomes.iter().sum::<u64>()
    }
}

/// Events that did not reach userspace, by cause. The flows' counters are not touched by any
/// of these: the next word about the flow carries them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLoss {
    /// The ring (or perf) buffer was full.
    pub buffer_full: u64,
    /// An event could not be decoded or named no live slot.
    pub invalid: u64,
}

/// Fill of the kernel's flow table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStats {
    /// Live flows.
    pub entries: u64,
    /// Slots that stand for other addresses of live flows (NAT).
    pub aliases: u64,
    /// Flows that the table may grow to.
    pub capacity: u64,
    /// Slots allocated now.
    pub slots: u64,
    /// Kernel memory of the tables and all other maps, bytes, as the kernel accounts it.
    pub map_bytes: u64,
    /// Packets that found no room since start.
    pub overflow_packets: u64,
    /// Bytes of those packets.
    pub overflow_bytes: u64,
    /// Times the table was moved to a larger or smaller one.
    pub resizes: u64,
}

/// Packets of one kind within an outcome: what was not IP or malformed, and what a tunnel carried that was counted for the
/// tunnel itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindCount {
    /// Outcome that the kind belongs to.
    pub outcome: Outcome,
    /// What was wrong, or what it was.
    pub kind: String,
    /// Packets since start.
    pub packets: u64,
}

/// Packets that the kernel dropped for one of its reasons at one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropCount {
    /// The running kernel's own name of the reason, in lower case; `other` where there was no room to tell it.
    pub reason: String,
    /// Interface name; `other-namespace` for interfaces of other network namespaces (containers, pods), `none` where the
    /// packet tells none, `other` for interfaces that are gone.
    pub interface: String,
    /// Packets since start, as on the wire.
    pub packets: u64,
}

/// Packets that the kernel dropped, on the whole host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropStats {
    /// Why they are not told, if they are not.
    pub off: Option<String>,
    /// By reason and interface.
    pub counts: Vec<DropCount>,
    /// Drops within drops: neither reason nor interface is known, and they may be of other things than packets.
    pub nested: u64,
    /// Packets that are counted above, but not with their flow.
    pub unjoined: u64,
}

/// One reading of everything the kernel side counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KernelStats {
    /// Per interface and hook.
    pub hooks: Vec<HookCounters>,
    /// What was not IP, what was malformed, and what stayed with its tunnel, by kind.
    #[serde(default)]
    pub kinds: Vec<KindCount>,
    /// Flow table.
    pub table: TableStats,
    /// Events read and understood.
    pub events_processed: u64,
    /// Events lost.
    pub events_lost: EventLoss,
    /// Later fragments whose first fragment was not seen: counted in a flow without ports.
    pub fragments_unmatched: u64,
    /// ICMP errors that quote a segment which is not on its way, forged or very late: they name no flow.
    #[serde(default)]
    pub icmp_errors_refused: u64,
    /// TCP resets that their receiver can't be waiting for, forged or very late: they end no flow.
    #[serde(default)]
    pub tcp_resets_refused: u64,
    /// With `capture.timestamp_source: hardware`: round trips by the network card's stamps, by the kernel's clock because there
    /// was no stamp, and those not taken because only one of two packets had one.
    #[serde(default)]
    pub rtt_stamps: [u64; 3],
    /// Round trips that are not in the histogram: more of them in one bucket than it holds between two reports.
    #[serde(default)]
    pub rtt_samples_left_out: u64,
    /// Whether the programs tell packets one by one (`debug packet-trace`).
    #[serde(default)]
    pub tracing: bool,
    /// What the kernel dropped.
    #[serde(default)]
    pub drops: DropStats,
    /// Times that conntrack's news were lost and all translations read anew, where they are told by netlink.
    #[serde(default)]
    pub conntrack_overruns: u64,
    /// Sockets that have no name for want of room or memory.
    #[serde(default)]
    pub names_lost: u64,
    /// Names that flows have asked for (DNS, TLS) and that found no room.
    #[serde(default)]
    pub asked_names_lost: u64,
    /// DNS and HTTP/1; told apart from the rest.
    #[serde(skip)]
    pub messages: Messages,
    /// What our programs have taken.
    #[serde(default)]
    pub run_time: RunTime,
}

/// CPU time of our programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunTime {
    /// As the kernel counts each run, nanoseconds; `None` while it does not (`sysctl kernel.bpf_stats_enabled`).
    pub counted_ns: Option<u64>,
    /// As the traffic-control programs time one of their runs in 256, nanoseconds.
    pub sampled_ns: u64,
}

impl RunTime {
    /// What was taken since then, nanoseconds: by the kernel's count if it has gone on.
    pub fn since(&self, before: &Self) -> u64 {
        match (self.counted_ns, before.counted_ns) {
            (Some(now), Some(before)) if now > before => now - before,
            _ => self.sampled_ns.saturating_sub(before.sampled_ns),
        }
    }
}
