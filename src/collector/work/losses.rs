//! What is not told in full, and that it is said: once a minute at most.

use std::time::{Duration, Instant};

use super::Work;
use crate::kernel::decode::Event;
use crate::telemetry::message;

const WARN_EVERY: Duration = Duration::from_secs(60);

/// Whether it is time for another warning; takes note of it.
fn due(warned: &mut Option<Instant>) -> bool {
    let due = warned.is_none_or(|at| at.elapsed() > WARN_EVERY);
    if due {
        *warned = Some(Instant::now());
    }
    due
}

impl Work {
    /// Events have not arrived. Counts are in the table still, and told late.
    pub(super) fn on_lost(&mut self, events: u64) {
        if due(&mut self.lost_warned) {
            tracing::warn!(
                message_id = message::LOSS,
                events,
                "events were lost: what they would have told is told late (netmon_ebpf_events_dropped_total); raise \
                 resources.maps.event_buffer_size if this goes on"
            );
        }
    }

    pub(super) fn on_overflow(&mut self, event: &Event) {
        if due(&mut self.overflow_warned) {
            let protocol = crate::flow::key::Protocol((event.slot >> 1) as u8);
            let hook = if event.slot & 1 == 1 { "egress" } else { "ingress" };
            tracing::warn!(
                message_id = message::LOSS, %protocol, hook, flows = self.ledger.live, max_flows = self.settings.max_flows,
                "no room in the flow table: packets of new flows are counted by protocol only \
                 (netmon_flow_table_overflows_total); raise flow.max_flows if this goes on"
            );
        }
    }
}
