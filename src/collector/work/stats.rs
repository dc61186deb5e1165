//! What the collector tells when it is asked: counters, sums over the table, and what the kernel side uses.

use std::time::{Duration, Instant};

use super::Work;
use crate::collector::handle::{Report, Usage};
use crate::kernel::counters::{MALFORMED_KINDS, NOT_IP_KINDS, TUNNEL_KINDS};
use crate::kernel::messages::Messages;
use crate::kernel::stats::{EventLoss, KernelStats, KindCount, Outcome, TableStats};
use crate::kernel::types::nm_kind;

/// The kernel is asked for two dozen maps so often: it takes half a millisecond, and they grow slowly.
const MAPS_EVERY: Duration = Duration::from_secs(30);

impl Work {
    pub(super) fn stats(&mut self) -> KernelStats {
        let drops = self.drops.read(&self.object);
        let overflow = self.object.overflow();
        let tracing = self.object.control().tracing != 0;
        let kinds = |outcome: Outcome, kinds: &[(nm_kind, &str)]| -> Vec<KindCount> {
            kinds
                .iter()
                .map(|(kind, name)| KindCount {
                    outcome,
                    kind: (*name).into(),
                    packets: self.object.kind(*kind),
                })
                .collect()
        };
        KernelStats {
            hooks: self.hooks.counters(&self.object),
            kinds: [
                kinds(Outcome::NotIp, &NOT_IP_KINDS),
                kinds(Outcome::Malformed, &MALFORMED_KINDS),
                kinds(
                    Outcome::Counted,
                    if self.object.features().tunnels.is_some() { &TUNNEL_KINDS } else { &[] },
                ),
            ]
            .concat(),
            table: TableStats {
                entries: self.ledger.live,
                aliases: self.ledger.aliases,
                capacity: self.settings.max_flows,
                slots: self.tables.slots(),
                map_bytes: self.object.map_bytes() + self.tables.bytes(),
                overflow_packets: overflow.values().map(|(packets, _)| packets).sum(),
                overflow_bytes: overflow.values().map(|(_, bytes)| bytes).sum(),
                resizes: self.tables.resizes(),
            },
            events_processed: self.processed,
            events_lost: EventLoss {
                buffer_full: self.object.kind(nm_kind::NM_KIND_EVENT_LOST),
                invalid: self.invalid,
            },
            tracing,
            icmp_errors_refused: self.object.kind(nm_kind::NM_KIND_QUOTE_REFUSED),
            tcp_resets_refused: self.object.kind(nm_kind::NM_KIND_RESET_REFUSED),
            rtt_stamps: [
                nm_kind::NM_KIND_STAMP_HARDWARE,
                nm_kind::NM_KIND_STAMP_SOFTWARE,
                nm_kind::NM_KIND_STAMP_MISSING,
            ]
            .map(|kind| self.object.kind(kind)),
            rtt_samples_left_out: self.object.kind(nm_kind::NM_KIND_SAMPLE_LOST),
            fragments_unmatched: self.object.kind(nm_kind::NM_KIND_FRAGMENT_ORPHAN),
            drops,
            conntrack_overruns: self.told.as_ref().map_or(0, |told| told.overruns),
            names_lost: self.object.kind(nm_kind::NM_KIND_NAME_LOST),
            asked_names_lost: self.object.kind(nm_kind::NM_KIND_ASKED_LOST),
            messages: Messages {
                dns: self.object.dns_totals(),
                http: self.servers.read(&self.object, Instant::now()),
            },
            run_time: self.object.run_time(),
        }
    }

    pub(super) fn report(&mut self) -> Report {
        let mut in_table = (0, 0);
        for (_, table) in self.tables.each() {
            for snapshot in (0..table.slots()).filter_map(|slot| table.read(slot)) {
                let counters = snapshot.counters();
                in_table.0 += counters.packets();
                in_table.1 += counters.bytes();
            }
        }
        Report {
            stats: self.stats(),
            watched: self.hooks.watched(),
            departed: self.ledger.departed,
            in_table,
            transport: self.object.transport(),
            left_out: self.left_out(),
        }
    }

    /// Asked for once a second: cheap.
    pub(super) fn usage(&mut self) -> Usage {
        let known = self.maps_bytes.filter(|(at, _)| at.elapsed() < MAPS_EVERY);
        let (_, maps_bytes) =
            *self.maps_bytes.insert(known.unwrap_or_else(|| (Instant::now(), self.object.map_bytes())));
        let slot_bytes = self.object.features().layout().slot_bytes() as u64;
        Usage {
            run_time: self.object.run_time(),
            tables_bytes: self.slots() * slot_bytes,
            maps_bytes,
            slot_bytes,
        }
    }
}
