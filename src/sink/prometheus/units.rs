//! Bytes by systemd unit, and what share of flows has names.

use std::collections::HashMap;

use super::page::{Page, count, level};
use super::top_pairs::TopPairs;
use crate::enrich::Host;
use crate::enrich::host::OTHER;
use crate::flow::record::Direction;

/// The heaviest units of each direction.
#[derive(Debug, Default)]
pub(super) struct Units(HashMap<Direction, TopPairs<String>>);

impl Units {
    /// Takes over what is new, and writes it down; `cap` units of each direction at most. A kept flow stands for `weight` flows.
    pub(super) fn families(&mut self, page: &mut Page, names: &Host, cap: usize, weight: f64) {
        for units in self.0.values_mut().filter(|units| units.cap() != cap.max(1)) {
            units.set_cap(cap);
        }
        for ((unit, direction), bytes) in names.take_unit_bytes() {
            self.0
                .entry(direction)
                .or_insert_with(|| TopPairs::new(cap))
                .add(unit, (bytes as f64 * weight).round() as u64);
        }
        let mut bytes = Vec::new();
        for (direction, units) in &self.0 {
            let series = |unit: &str, bytes| count(&[("unit", unit), ("direction", direction.name())], bytes);
            // What was folded before it came here has the same name as what is folded here.
            let mut other = units.other();
            for (unit, counted) in units.pairs() {
                match unit.as_str() {
                    OTHER => other += counted,
                    unit => bytes.push(series(unit, counted)),
                }
            }
            bytes.push(series(OTHER, other));
        }
        page.counter(
            "netmon_unit_bytes_total",
            "Bytes as on the wire of flows with a systemd unit of this host at an end, both ways; units beyond the cap are other.",
            bytes,
        );
        page.gauge(
            "netmon_attributed_flows_ratio",
            "Of the flows that ended lately with an end on this host: share whose ends on this host all have a name.",
            names.attributed_ratio().map(|ratio| level(&[], ratio)).into_iter().collect(),
        );
    }
}
