//! What the watches of the Kubernetes API server count.

use super::page::{Page, count, level};
use crate::enrich::kubernetes::Link;
use crate::enrich::kubernetes::progress::Counts;

pub(super) fn families(page: &mut Page, link: &Link) {
    let watches = link.counts();
    let each = |value: &dyn Fn(&Counts) -> f64| {
        watches.iter().map(|(kind, counts)| level(&[("kind", kind)], value(counts))).collect()
    };
    let total = |value: &dyn Fn(&Counts) -> u64| {
        watches.iter().map(|(kind, counts)| count(&[("kind", kind)], value(counts))).collect()
    };
    page.gauge(
        "netmon_kubernetes_synced",
        "1 once every object of the kind is known; stays while the server is away, since what was known stays in use.",
        each(&|counts| f64::from(u8::from(counts.synced))),
    );
    page.gauge(
        "netmon_kubernetes_objects",
        "Objects that there are, by kind.",
        each(&|counts| counts.objects as f64),
    );
    page.gauge(
        "netmon_kubernetes_last_word_age_seconds",
        "Seconds since the API server said something on a kind; bookmarks come about once a minute.",
        watches
            .iter()
            .filter_map(|(kind, counts)| Some(level(&[("kind", kind)], counts.silence_seconds?)))
            .collect(),
    );
    page.counter(
        "netmon_kubernetes_lists_total",
        "Lists that were read in full.",
        total(&|counts| counts.lists),
    );
    page.counter(
        "netmon_kubernetes_watches_total",
        "Watches that were begun.",
        total(&|counts| counts.watches),
    );
    page.counter(
        "netmon_kubernetes_unreadable_total",
        "Objects that could not be read and are left out.",
        total(&|counts| counts.unreadable),
    );
    let failures = watches.iter().flat_map(|(kind, counts)| {
        counts.failures.iter().map(|(reason, n)| count(&[("kind", kind), ("reason", reason)], *n))
    });
    page.counter(
        "netmon_kubernetes_watch_errors_total",
        "Lists and watches that failed or broke off, by reason; each is tried again.",
        failures.collect(),
    );
    let events = link.events().outcomes();
    page.counter(
        "netmon_kubernetes_events_total",
        "Alerts and failures to attach as Kubernetes Events, by outcome; held_back: there were too many.",
        events.iter().map(|(outcome, n)| count(&[("outcome", outcome)], *n)).collect(),
    );
}
