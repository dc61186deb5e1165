#![allow(clippy::unwrap_used)]
use std::sync::Mutex;

use super::*;
use crate::clock::WallClock;
use crate::detect::{self, Detector};
use crate::enrich::Directory;
use crate::enrich::kubernetes::cluster::Settings;
use crate::enrich::kubernetes::object::{
    Change, Kind, Node, Object, Owner, Pod, Service, ServicePort, Watched,
};
use crate::flow::key::{FlowKey, Protocol};
use crate::flow::record::{Reason, State, Status};
use crate::flow::update::{self, Counters, Flow, FlowUpdate, Translation};
use crate::sink::prometheus::{Exporter, FlowMetrics};

const NOW: u64 = 1_000_000_000_000;

fn name(namespace: &str, name: &str) -> Name {
    Name { namespace: namespace.into(), name: name.into() }
}

fn pod(n: u8, workload: &str) -> Pod {
    Pod {
        name: name("shop", &format!("{workload}-{n}")),
        uid: u128::from(n),
        node: Some(if n < 100 { "node-a" } else { "node-b" }.into()),
        addresses: vec![[10, 9, 0, n].into()],
        host_network: false,
        owner: Some(Owner { kind: "StatefulSet".into(), name: workload.into() }),
        template_hash: None,
        started: None,
        ended: None,
        containers: Vec::new(),
    }
}

fn service(n: u8) -> Service {
    Service {
        name: name("shop", &format!("service-{n}")),
        addresses: vec![[10, 96, 0, n].into()],
        ports: vec![ServicePort { protocol: Protocol::TCP, port: 80, node_port: None }],
    }
}

fn cluster() -> Arc<Cluster> {
    let clock = || WallClock::ahead_by(0);
    let cluster = Cluster::new(Settings { node: None, whole: true, clock });
    let apply = |object| cluster.take(Change::Applied(object), 0);
    for n in 0..3 {
        apply(Object::Pod(pod(n, "cart")));
        apply(Object::Pod(pod(100 + n, "web")));
        apply(Object::Service(service(n)));
    }
    for (name, zone) in [("node-a", "zone-a"), ("node-b", "zone-b")] {
        apply(Object::Node(Node { name: name.into(), addresses: Vec::new(), zone: Some(zone.into()) }));
    }
    Arc::new(cluster)
}

/// A connection of a cart's pod to a service, answered by a web pod, and reset.
fn asks(n: u8) -> FlowUpdate {
    let dst = ([10, 96, 0, n], 80).into();
    let key = FlowKey { protocol: Protocol::TCP, src: ([10, 9, 0, n], 40_000).into(), dst };
    let flow = Flow {
        nat: Some(Translation { src: None, dst: Some(([10, 9, 0, 100 + n], 8080).into()) }),
        start_ns: NOW,
        end_ns: NOW,
        state: State::Closed,
        status: Status::Failed,
        reason: Some(Reason::Reset),
        ..Flow::new(u64::from(n), key, Direction::Egress)
    };
    let delta = Counters { packets_sent: 1, packets_received: 1, bytes_sent: 100, bytes_received: 900 };
    FlowUpdate {
        handshake_us: Some(300),
        new_retransmits: 2,
        ..FlowUpdate::new(flow, delta, update::Change::Ended)
    }
}

struct Run {
    cluster: Arc<Cluster>,
    metrics: Arc<Mutex<FlowMetrics>>,
}

impl Run {
    fn new(cap: usize, per_pod: bool) -> Self {
        let metrics = FlowMetrics::new(1000, &[1.0], 1.0).in_cluster(cap, per_pod);
        Self { cluster: cluster(), metrics: Arc::new(Mutex::new(metrics)) }
    }

    fn count(&self, updates: &[FlowUpdate]) {
        let directory = Directory { host: None, cluster: Some(Arc::clone(&self.cluster)) };
        self.metrics.lock().unwrap().apply(updates, &directory.known(updates), Instant::now());
    }

    fn look(&self, now: Instant) {
        self.metrics.lock().unwrap().let_go(&There::ask(&self.cluster, true), now);
    }

    /// Series of a metric and their values.
    fn series(&self, metric: &str) -> Vec<(String, f64)> {
        let detector = Arc::new(Mutex::new(Detector::new(detect::Settings::default())));
        // Without a cluster of its own it lets nothing go.
        let names = Directory::default();
        let exporter = Exporter::new(Arc::clone(&self.metrics), detector, names, Arc::new(|| None), "/proc");
        let page = String::from_utf8(exporter.render().unwrap()).unwrap();
        let lines =
            page.lines().filter_map(|line| line.strip_prefix(metric)?.strip_prefix('{')?.split_once("} "));
        lines.map(|(labels, value)| (labels.to_owned(), value.parse().unwrap())).collect()
    }

    fn sum(&self, metric: &str, part: &str) -> f64 {
        let series = self.series(metric).into_iter();
        series.filter(|(labels, _)| labels.contains(part)).map(|(_, value)| value).sum()
    }
}

#[test]
fn bytes_are_counted_by_workload_service_zone_and_on_request_by_pod() {
    let run = Run::new(1000, true);
    run.count(&[asks(0), asks(1), asks(1)]);
    let cart = r#"src_namespace="shop",src_workload="cart",dst_namespace="shop",dst_workload="web",dst_service="service-1",direction="egress""#;
    assert!(
        run.series("netmon_workload_bytes_total").contains(&(cart.into(), 2000.0)),
        "{:?}",
        run.series("netmon_workload_bytes_total")
    );
    let zones = r#"src_zone="zone-a",dst_zone="zone-b",direction="egress""#;
    assert_eq!(run.series("netmon_zone_bytes_total"), [(zones.to_owned(), 3000.0)]);
    assert!(
        (run.sum("netmon_pod_bytes_total", r#"src_pod="cart-1",dst_namespace="shop",dst_pod="web-101""#)
            - 2000.0)
            .abs()
            < 1e-9
    );
    let of_service = r#"dst_namespace="shop",dst_service="service-1""#;
    assert_eq!(run.sum("netmon_tcp_retransmits_total", of_service), 4.0);
    assert_eq!(run.sum("netmon_tcp_resets_total", of_service), 2.0);
    assert_eq!(run.sum("netmon_latency_seconds_count", of_service), 2.0);
    assert!(Run::new(1000, false).series("netmon_pod_bytes_total").is_empty());
}

#[test]
fn what_a_cap_folds_away_is_other_and_sums_are_exact() {
    let run = Run::new(1, true);
    let mut inward = asks(1);
    inward.flow.direction = Direction::Ingress;
    run.count(&[asks(0), asks(0), asks(1), asks(2), inward]);
    for metric in ["netmon_workload_bytes_total", "netmon_pod_bytes_total", "netmon_zone_bytes_total"] {
        assert_eq!(run.sum(metric, ""), 5000.0, "{metric}");
        assert_eq!(run.sum(metric, r#"direction="ingress""#), 1000.0, "{metric}: by direction, too");
        assert_eq!(run.sum(metric, ""), run.sum("netmon_bytes_total", ""));
    }
    assert!(run.sum("netmon_workload_bytes_total", r#"src_workload="other""#) >= 2000.0);
    assert_eq!(run.sum("netmon_tcp_resets_total", r#"dst_service="other""#), 3.0);
    assert_eq!(run.sum("netmon_tcp_resets_total", ""), 5.0);
    assert_eq!(run.sum("netmon_latency_seconds_count", ""), 5.0);
}

#[test]
fn workloads_of_one_name_and_two_kinds_are_one_series() {
    let run = Run::new(1000, false);
    let owner = Some(Owner { kind: "Rollout".into(), name: "cart".into() });
    run.cluster.take(Change::Applied(Object::Pod(Pod { owner, ..pod(2, "cart") })), 0);
    let of_service = |n: u8| FlowUpdate {
        flow: Flow { key: FlowKey { dst: ([10, 96, 0, 1], 80).into(), ..asks(n).flow.key }, ..asks(1).flow },
        ..asks(n)
    };
    run.count(&[of_service(1), of_service(2)]);
    let series = run.series("netmon_workload_bytes_total");
    let cart: Vec<_> =
        series.iter().filter(|(labels, _)| labels.contains(r#"src_workload="cart""#)).collect();
    assert_eq!(cart.len(), 1, "{series:?}");
    assert_eq!(cart[0].1, 2000.0);
}

#[test]
fn series_leave_ten_minutes_after_their_workload_and_not_before() {
    let run = Run::new(1000, true);
    run.count(&[asks(0), asks(1)]);
    let start = Instant::now();
    let has = |part: &str| {
        ["netmon_workload_bytes_total", "netmon_pod_bytes_total", "netmon_tcp_resets_total"]
            .map(|metric| run.series(metric).iter().any(|(labels, _)| labels.contains(part)))
    };
    run.look(start);
    // One pod of each workload and one service go, the rest stays.
    run.cluster.take(Change::Gone(Object::Pod(pod(1, "cart"))), NOW);
    run.cluster.take(Change::Gone(Object::Service(service(1))), NOW);
    run.look(start + Duration::from_secs(60));
    run.look(start + Duration::from_secs(600));
    assert_eq!(has(r#""service-1""#), [true, false, true], "not yet");
    run.look(start + Duration::from_secs(661));
    assert_eq!(has(r#""service-1""#), [false; 3]);
    assert_eq!(has(r#""cart-1""#), [false; 3]);
    assert_eq!(has(r#""service-0""#), [true, false, true], "others stay");
    assert_eq!(has(r#""cart""#), [true, false, false], "the workload has other pods");
    assert_eq!(run.sum("netmon_tcp_resets_total", r#"dst_service="other""#), 1.0);
    for metric in ["netmon_workload_bytes_total", "netmon_pod_bytes_total"] {
        assert_eq!(run.sum(metric, ""), 2000.0, "{metric}: what has left is other");
    }
    // A workload that comes back in time keeps its series.
    run.cluster.take(Change::Listing(Kind::Pod), NOW);
    run.cluster.take(Change::Listed(Kind::Pod), NOW);
    run.look(start + Duration::from_secs(700));
    run.cluster.take(Change::Applied(Object::Pod(pod(0, "cart"))), NOW);
    run.cluster.take(Change::Applied(Object::Pod(pod(100, "web"))), NOW);
    run.look(start + Duration::from_secs(800));
    run.look(start + Duration::from_secs(2000));
    assert_eq!(has(r#""cart""#), [true, false, false]);
}
