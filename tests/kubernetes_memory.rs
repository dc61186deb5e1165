//! Memory of the store of Kubernetes names, for a very large cluster: 100 000 pods on 5 000 nodes. Counted as the kernel counts it,
//! so what the allocator adds is in it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::IpAddr;
use std::sync::Arc;

use netmon::clock::WallClock;
use netmon::enrich::kubernetes::cluster::{Cluster, Settings};
use netmon::enrich::kubernetes::object::{
    Backend, Change, EndpointSlice, Kind, Name, Node, Object, Owned, Owner, Pod, Watched,
};
use netmon::flow::key::Protocol;

const PODS: u32 = 100_000;
const NODES: u32 = 5_000;
/// Pods of a workload; a cluster has ten old ReplicaSets for each of them.
const REPLICAS: u32 = 5;
/// Endpoints of a slice, as the server fills them.
const ENDPOINTS: usize = 100;

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

fn address(n: u32) -> IpAddr {
    (0x0a00_0000 + n).to_be_bytes().into()
}

#[test]
fn a_pod_takes_a_few_hundred_bytes() {
    let cluster =
        Cluster::new(Settings { node: Some("node-0".into()), whole: true, clock: || WallClock::ahead_by(0) });
    let namespace: Arc<str> = "production".into();
    let apply = |object| cluster.take(Change::Applied(object), 1);
    let mut last = resident();
    let mut taken = |what: &str, each: u32| {
        let now = resident();
        let bytes = now.saturating_sub(last);
        println!(
            "{each} {what}: {:.1} MiB, {} bytes each",
            bytes as f64 / f64::from(1 << 20),
            bytes / each as usize
        );
        last = now;
        bytes / each as usize
    };
    for n in 0..NODES {
        let zone = Some(format!("eu-central-1{}", n % 3).into());
        apply(Object::Node(Node {
            name: format!("ip-10-0-{n}.internal").into(),
            addresses: vec![address(1 << 23 | n)],
            zone,
        }));
    }
    let node = taken("nodes", NODES);
    for n in 0..PODS {
        let set = format!("checkout-service-{}-7d9f8b6c54", n / REPLICAS);
        apply(Object::Pod(Pod {
            name: Name {
                namespace: Arc::clone(&namespace),
                name: format!("{set}-{:05}", n % REPLICAS).into(),
            },
            uid: u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835),
            node: Some(format!("ip-10-0-{}.internal", n % NODES).into()),
            addresses: vec![address(n)],
            host_network: false,
            owner: Some(Owner { kind: "ReplicaSet".into(), name: set.into() }),
            template_hash: Some("7d9f8b6c54".into()),
            started: Some("2026-11-23T08:35:56Z".parse().unwrap()),
            ended: None,
            containers: vec![("0".repeat(64).into(), "app".into())],
        }));
    }
    let pod = taken("pods", PODS);
    for n in 0..PODS / REPLICAS * 11 {
        let owner = format!("checkout-service-{}", n / 11);
        let name = Name { namespace: Arc::clone(&namespace), name: format!("{owner}-{:010}", n % 11).into() };
        let owner = Some(Owner { kind: "Deployment".into(), name: owner.into() });
        apply(Object::Owned(Owned { kind: Kind::ReplicaSet, name, owner }));
    }
    let set = taken("replica sets", PODS / REPLICAS * 11);
    let all: Vec<u32> = (0..PODS).collect();
    for (number, some) in all.chunks(ENDPOINTS).enumerate() {
        let name: Arc<str> = format!("service-{number}").into();
        let backend = |n: &u32| Backend {
            addresses: vec![address(*n)],
            pod: Some(Name { namespace: Arc::clone(&namespace), name: "any".into() }),
            node: Some("node".into()),
            zone: Some("zone".into()),
        };
        apply(Object::EndpointSlice(EndpointSlice {
            name: Name { namespace: Arc::clone(&namespace), name: format!("{name}-abcde").into() },
            service: Some(name),
            ports: vec![(Protocol::TCP, 8080)],
            backends: some.iter().map(backend).collect(),
        }));
    }
    let endpoint = taken("endpoints", PODS);
    let there = cluster.at(address(77), (2, 2));
    assert!(
        there.pod.is_some_and(|pod| pod.workload().kind.as_ref() == "Deployment") && there.service.is_some()
    );
    // Half as much again as was measured, for another allocator's habits.
    for (what, bytes, most) in
        [("node", node, 1200), ("pod", pod, 450), ("replica set", set, 60), ("endpoint", endpoint, 200)]
    {
        assert!(bytes <= most, "a {what} takes {bytes} bytes, not {most}");
    }
}
