//! What a real API server said (`tests/kubernetes/api`): an address goes from redis-0 to a finished Job's pod to newpod.

use std::sync::atomic::{AtomicU64, Ordering};

use super::recorded::{changes, list};
use super::*;

macro_rules! recorded {
    ($file:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kubernetes/api/", $file))
    };
}

/// Everything in its order, heard half a second later.
fn story() -> Cluster {
    let cluster = cluster(true);
    cluster.take(Change::Listing(Kind::Node), 0);
    for node in list(recorded!("list-nodes-before.json")) {
        cluster.apply(node, 0.0);
    }
    cluster.take(Change::Listed(Kind::Node), 0);
    let streams = [
        recorded!("watch-pods.ndjson"),
        recorded!("watch-services.ndjson"),
        recorded!("watch-endpointslices.ndjson"),
    ];
    for (n, (at, change)) in changes(&streams).into_iter().enumerate() {
        cluster.take(change, ns(at as f64 + 0.5) + n as u64 * 1_000_000);
    }
    cluster
}

#[test]
fn an_address_that_is_reused_at_once_is_not_mixed_up() {
    let cluster = story();
    let who = |at: f64| cluster.pod_at("10.9.0.20", at);
    // 08:35:56 it gets it, 08:36:01 it is deleted, :02 the Job's pod has run, :03 the next one starts.
    let expected = [
        (40.0, None),
        (56.4, Some("shop/redis-0")),
        (61.4, Some("shop/redis-0")),
        (62.3, Some("shop/job-1")),
        (63.7, Some("shop/newpod")),
        (600.0, Some("shop/newpod")),
    ];
    for (at, name) in expected {
        assert_eq!(who(at).as_deref(), name, "{at}");
    }
}

#[test]
fn every_end_of_the_story_has_its_names() {
    let cluster = story();
    let [src, dst] = cluster.ends_of("10.9.1.10:40000", "10.96.195.113:80", 59.0);
    assert_eq!(pod_name(&src).as_deref(), Some("cart-9c7bfccf6-689xs"));
    let workload = src.pod.as_ref().unwrap().workload();
    assert_eq!((&*workload.kind, &*workload.name), ("Deployment", "cart"));
    assert_eq!(src.zone().as_deref(), Some("zone-a"));
    assert_eq!((service_name(&dst).as_deref(), pod_name(&dst)), (Some("shop/web"), None));
    // Headless: by backend and port, as long as the pod was one.
    let asked = |at: f64| service_name(&cluster.ends_of("10.9.1.10:40000", "10.9.0.20:6379", at)[1]);
    assert_eq!(asked(58.0).as_deref(), Some("shop/redis"));
    assert_eq!(asked(120.0), None, "newpod is no redis");
    let [host, _] = cluster.ends_of("192.168.50.1:40000", "192.0.2.1:443", 59.0);
    assert_eq!((pod_name(&host), host.node.map(|node| node.name.to_string())), (None, Some("node-a".into())));
    for (at, change) in changes(&[recorded!("watch-nodes.ndjson")]) {
        cluster.take(change, ns(at as f64 + 100.0));
    }
    let [src, _] = cluster.ends_of("10.9.1.10:40000", "10.9.0.11:80", 59.0);
    assert_eq!(src.zone().as_deref(), Some("zone-b"), "the node has moved");
}

#[test]
fn a_finished_pod_that_is_heard_of_late_takes_nothing_from_the_next() {
    let cluster = cluster(true);
    cluster.pod_applied(pod("shop/newpod", 2, "10.9.0.20", 10), 12.0);
    // Another watch tells of it; it began in the same second.
    let job = Pod { ended: told(10), ..pod("shop/job-1", 1, "10.9.0.20", 10) };
    cluster.pod_applied(job, 13.0);
    assert_eq!(cluster.pod_at("10.9.0.20", 20.0).as_deref(), Some("shop/newpod"));
}

#[test]
fn readings_of_the_clock_that_differ_by_a_moment_put_nobody_before_another() {
    static READ: AtomicU64 = AtomicU64::new(0);
    let clock =
        || WallClock::ahead_by(1_000_000_000_000 - i128::from(READ.fetch_add(700, Ordering::Relaxed)));
    let cluster = Cluster::new(Settings { node: None, whole: true, clock });
    let second = jiff::Timestamp::from_second(1010).ok();
    let from = |pod: Pod| Pod { started: second, ..pod };
    cluster.pod_applied(from(pod("shop/newpod", 2, "10.9.0.20", 0)), 12.0);
    cluster.pod_applied(Pod { ended: second, ..from(pod("shop/job-1", 1, "10.9.0.20", 0)) }, 13.0);
    assert_eq!(cluster.pod_at("10.9.0.20", 20.0).as_deref(), Some("shop/newpod"));
}
