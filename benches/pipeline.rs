//! What a flow update costs in userspace: decoding an event, counting a batch, making a record, rendering a page.
//! `cargo bench --bench pipeline`; benches/README.md says how to read it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::HashMap;
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use netmon::clock::{WallClock, monotonic_ns};
use netmon::detect::{self, Detector};
use netmon::enrich::host::Source;
use netmon::enrich::kubernetes::cluster::{Cluster, Settings};
use netmon::enrich::kubernetes::object::{
    Change as Told, Name as FullName, Object, Owner, Pod, Service, ServicePort, Watched,
};
use netmon::enrich::{Directory, Host};
use netmon::flow::key::{FlowKey, Protocol};
use netmon::flow::present::Presenter;
use netmon::flow::record::{Direction, Reason, State, Status};
use netmon::flow::update::{Change, Counters, Flow, FlowUpdate, Translation};
use netmon::flow::who::Who;
use netmon::kernel::decode;
use netmon::kernel::names::Name;
use netmon::kernel::stats::KernelStats;
use netmon::sink::prometheus::{Exporter, FlowMetrics};

const BATCH: u32 = 1000;
const BUCKETS: [f64; 9] = [0.1, 0.5, 1.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0];

fn update(n: u32) -> FlowUpdate {
    let delta = Counters { packets_sent: 3, packets_received: 2, bytes_sent: 300, bytes_received: 200 };
    let key = FlowKey {
        protocol: Protocol::TCP,
        src: ([10, 0, (n >> 8) as u8, n as u8], 40_000).into(),
        dst: ([10, 1, 0, 1], 443).into(),
    };
    let flow = Flow {
        total: delta,
        start_ns: monotonic_ns(),
        end_ns: monotonic_ns(),
        state: State::Established,
        tcp_flags: [0x1a, 0x1a],
        handshake_us: Some(412),
        seen_on: [2, 0, 0, 0],
        ..Flow::new(u64::from(n), key, Direction::Egress)
    };
    FlowUpdate {
        handshake_us: Some(412),
        event_ns: monotonic_ns(),
        ..FlowUpdate::new(flow, delta, Change::Opened)
    }
}

/// What a busy host sees: half of the updates end web conversations with many clients, the rest are queries to a resolver and
/// connections to elsewhere.
fn ordinary(n: u32) -> FlowUpdate {
    let mut update = update(n);
    let flow = &mut update.flow;
    match n % 4 {
        0 => {
            flow.key.protocol = Protocol::UDP;
            flow.key.src = ([10, 0, 0, 7], 1024 + n as u16).into();
            flow.key.dst = ([10, 1, 0, 53], 53).into();
        }
        1 => flow.key.dst = ([203, 0, (n >> 8) as u8, n as u8], 443).into(),
        _ => flow.direction = Direction::Ingress,
    }
    if !n.is_multiple_of(4) {
        (flow.state, flow.status, update.change) = (State::Closed, Status::Ok, Change::Ended);
    }
    update
}

/// One of many refused connections to the ports of one host.
fn scan(n: u32) -> FlowUpdate {
    let mut update = update(n);
    update.flow.key.src = ([10, 0, 0, 7], 40_000).into();
    update.flow.key.dst.set_port(n as u16);
    update.flow.tcp_flags = [0x02, 0x14];
    (update.flow.status, update.flow.reason) = (Status::Failed, Some(Reason::Refused));
    update.change = Change::Ended;
    update
}

fn detector(group: &mut BenchmarkGroup<'_, WallTime>) {
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    for (name, make) in [
        ("look at 1000 ordinary updates", ordinary as fn(u32) -> FlowUpdate),
        ("look at 1000 ports being scanned", scan),
    ] {
        let updates: Vec<FlowUpdate> = (0..BATCH).map(make).collect();
        let settings = detect::Settings { port_scans: true, patterns: true, ..Default::default() };
        let mut detector = Detector::new(settings);
        group.bench_function(name, |b| b.iter(|| detector.observe(black_box(&updates), &[])));
    }
}

/// A kernel that knows everybody.
#[derive(Debug)]
struct Everybody;

impl Source for Everybody {
    fn name(&self, number: u32) -> Option<Name> {
        Some(Name { pid: number, cgroup: 77, comm: "nginx".into() })
    }

    fn path(&self, _: u64) -> Option<String> {
        Some("/system.slice/nginx.service".into())
    }
}

fn names(group: &mut BenchmarkGroup<'_, WallTime>) {
    let host = Host::start(Box::new(Everybody), None).unwrap();
    let mut updates: Vec<FlowUpdate> = (0..BATCH).map(update).collect();
    for (n, update) in (0..).zip(&mut updates) {
        update.flow.who = [Who::Socket(1 + n % 50), Who::Unknown];
    }
    group.bench_function("know who is in 1000 updates", |b| b.iter(|| host.observe(black_box(&updates))));
}

/// 100 000 pods, a service for each hundred of them.
fn large_cluster() -> Cluster {
    let clock = || WallClock::ahead_by(0);
    let cluster = Cluster::new(Settings { node: None, whole: true, clock });
    let name = |name: String| FullName { namespace: "shop".into(), name: name.into() };
    let address = |n: u32| IpAddr::from([10, (n >> 16) as u8, (n >> 8) as u8, n as u8]);
    for n in 0..100_000 {
        let pod = Pod {
            name: name(format!("cart-7d9f8b6c54-{n}")),
            uid: u128::from(n),
            node: Some(format!("node-{}", n % 5000).into()),
            addresses: vec![address(n)],
            host_network: false,
            owner: Some(Owner {
                kind: "ReplicaSet".into(),
                name: format!("cart-{}-7d9f8b6c54", n / 5).into(),
            }),
            template_hash: Some("7d9f8b6c54".into()),
            started: None,
            ended: None,
            containers: Vec::new(),
        };
        cluster.take(Told::Applied(Object::Pod(pod)), 0);
    }
    for n in 0..1000 {
        let addresses = vec![IpAddr::from([10, 96, (n >> 8) as u8, n as u8])];
        let ports = vec![ServicePort { protocol: Protocol::TCP, port: 443, node_port: None }];
        let service = Service { name: name(format!("service-{n}")), addresses, ports };
        cluster.take(Told::Applied(Object::Service(service)), 0);
    }
    cluster
}

/// Who is at both ends of flows of any of the pods with services, each translated to another pod.
fn cluster_names(group: &mut BenchmarkGroup<'_, WallTime>) {
    let directory = Directory { host: None, cluster: Some(Arc::new(large_cluster())) };
    let mut updates: Vec<FlowUpdate> = (0..BATCH).map(update).collect();
    for (n, update) in (0u32..).zip(&mut updates) {
        let any = n.wrapping_mul(2_654_435_761) % 100_000;
        let pod = |n: u32| IpAddr::from([10, (n >> 16) as u8, (n >> 8) as u8, n as u8]);
        update.flow.key.src.set_ip(pod(any));
        update.flow.key.dst.set_ip([10, 96, ((n % 1000) >> 8) as u8, (n % 1000) as u8].into());
        let answers = (pod(99_999 - any), 8443).into();
        update.flow.nat = Some(Translation { src: None, dst: Some(answers) });
    }
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    group.bench_function("know both ends of 1000 flows among 100 000 pods", |b| {
        b.iter(|| directory.known(black_box(&updates)));
    });
    let known = directory.known(&updates);
    let mut metrics = FlowMetrics::new(1000, &BUCKETS, 1.0).in_cluster(1000, false);
    group.bench_function("count 1000 updates by name, too", |b| {
        b.iter(|| metrics.apply(black_box(&updates), black_box(&known), Instant::now()));
    });
}

fn pipeline(c: &mut Criterion) {
    let mut group = c.benchmark_group("pipeline");
    let record = [0u8, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 1, 0, 0];
    group.throughput(Throughput::Elements(1));
    group.bench_function("decode an event", |b| b.iter(|| decode::event(black_box(&record))));

    let updates: Vec<FlowUpdate> = (0..BATCH).map(update).collect();
    let mut metrics = FlowMetrics::new(1000, &BUCKETS, 1.0);
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    group.bench_function("count 1000 updates", |b| {
        b.iter(|| metrics.apply(black_box(&updates), &[], Instant::now()))
    });

    detector(&mut group);
    names(&mut group);
    cluster_names(&mut group);

    let presenter = Presenter {
        clock: WallClock::now(),
        interfaces: Arc::new(HashMap::from([(2, "eth0".to_owned())])),
        sampling_rate: 1.0,
        drops: Arc::default(),
        names: None,
        asked: None,
    };
    group.throughput(Throughput::Elements(1));
    group.bench_function("a record as JSON", |b| {
        b.iter(|| serde_json::to_vec(&presenter.record(black_box(&updates[7].flow))).unwrap());
    });

    let exporter = Exporter::new(
        Arc::new(Mutex::new(metrics)),
        Arc::new(Mutex::new(Detector::new(detect::Settings::default()))),
        Directory::default(),
        Arc::new(|| Some(KernelStats::default())),
        "/proc",
    );
    group.bench_function("a page of metrics with 1000 pairs", |b| b.iter(|| exporter.render().unwrap()));
    group.finish();
}

criterion_group!(benches, pipeline);
criterion_main!(benches);
