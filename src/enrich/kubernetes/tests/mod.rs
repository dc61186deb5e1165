//! The store against made-up changes, recorded ones, and a naive model.
#![allow(clippy::unwrap_used)]

mod names;
mod recorded;
mod story;
mod truth;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::cluster::{Cluster, Known, Settings};
use super::object::{
    Backend, Change, EndpointSlice, Kind, Name, Node, Object, Owned, Owner, Pod, Service, ServicePort,
    Watched,
};
use crate::clock::WallClock;
use crate::flow::key::{FlowKey, Protocol};
use crate::flow::record::Direction;
use crate::flow::update::{Flow, Translation};

const SECOND: u64 = 1_000_000_000;
/// 2026-11-23T08:35:00Z is 0 on `CLOCK_MONOTONIC`.
const EPOCH: i64 = 1_795_422_900;

fn cluster(whole: bool) -> Cluster {
    let clock = || WallClock::ahead_by(i128::from(EPOCH) * i128::from(SECOND));
    Cluster::new(Settings { node: Some("node-a".into()), whole, clock })
}

/// So many seconds after the beginning, in nanoseconds.
fn ns(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// The same as the API tells it.
fn told(seconds: i64) -> Option<jiff::Timestamp> {
    Some(jiff::Timestamp::from_second(EPOCH + seconds).unwrap())
}

fn name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').unwrap();
    Name { namespace: namespace.into(), name: name.into() }
}

fn pod(text: &str, uid: u128, address: &str, started: i64) -> Pod {
    Pod {
        name: name(text),
        uid,
        node: Some("node-a".into()),
        addresses: address.split(',').filter_map(|ip| ip.parse().ok()).collect(),
        host_network: false,
        owner: None,
        template_hash: None,
        started: told(started),
        ended: None,
        containers: Vec::new(),
    }
}

fn owned_by(mut pod: Pod, kind: &str, owner: &str) -> Pod {
    pod.owner = Some(Owner { kind: kind.into(), name: owner.into() });
    pod
}

fn service(text: &str, addresses: &[&str], ports: &[(u16, Option<u16>)]) -> Service {
    Service {
        name: name(text),
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        ports: ports
            .iter()
            .map(|(port, node_port)| ServicePort {
                protocol: Protocol::TCP,
                port: *port,
                node_port: *node_port,
            })
            .collect(),
    }
}

fn slice(text: &str, service: &str, port: u16, backends: &[(&str, Option<&str>)]) -> EndpointSlice {
    let backend = |(address, pod): &(&str, Option<&str>)| Backend {
        addresses: vec![address.parse().unwrap()],
        pod: pod.map(name),
        node: Some("node-b".into()),
        zone: Some("zone-b".into()),
    };
    EndpointSlice {
        name: name(text),
        service: Some(service.into()),
        ports: vec![(Protocol::TCP, port)],
        backends: backends.iter().map(backend).collect(),
    }
}

fn node(name: &str, address: &str, zone: &str) -> Node {
    Node { name: name.into(), addresses: vec![address.parse().unwrap()], zone: Some(zone.into()) }
}

impl Cluster {
    fn apply(&self, object: Object, at: f64) {
        self.take(Change::Applied(object), ns(at));
    }

    fn pod_applied(&self, pod: Pod, at: f64) {
        self.apply(Object::Pod(pod), at);
    }

    fn pod_gone(&self, pod: Pod, at: f64) {
        self.take(Change::Gone(Object::Pod(pod)), ns(at));
    }

    /// Who had an address at a moment.
    fn pod_at(&self, address: &str, at: f64) -> Option<String> {
        let known = self.at(address.parse().unwrap(), (ns(at), ns(at)));
        known.pod.map(|pod| format!("{}/{}", pod.namespace(), pod.name))
    }

    /// Who are at the ends of a TCP flow.
    fn ends_of(&self, src: &str, dst: &str, at: f64) -> [Known; 2] {
        self.ends(&flow(src, dst, at), [None; 2])
    }
}

fn flow(src: &str, dst: &str, at: f64) -> Flow {
    let key = FlowKey { protocol: Protocol::TCP, src: src.parse().unwrap(), dst: dst.parse().unwrap() };
    Flow { start_ns: ns(at), end_ns: ns(at), ..Flow::new(1, key, Direction::Egress) }
}

/// A flow whose other side is called so behind a translation.
fn translated(mut flow: Flow, dst: &str) -> Flow {
    flow.nat = Some(Translation { src: None, dst: Some(dst.parse::<SocketAddr>().unwrap()) });
    flow
}

fn pod_name(known: &Known) -> Option<String> {
    known.pod.as_ref().map(|pod| pod.name.to_string())
}

fn service_name(known: &Known) -> Option<String> {
    known.service.as_ref().map(|service| format!("{}/{}", service.namespace, service.name))
}

fn workload(cluster: &Cluster, address: &str, at: f64) -> (String, String) {
    let address: IpAddr = address.parse().unwrap();
    let workload = cluster.at(address, (ns(at), ns(at))).pod.unwrap().workload();
    (workload.kind.to_string(), workload.name.to_string())
}

fn owned(kind: Kind, text: &str, owner: Option<(&str, &str)>) -> Object {
    let owner = owner.map(|(kind, name)| Owner { kind: kind.into(), name: name.into() });
    Object::Owned(Owned { kind, name: name(text), owner })
}

fn shared(text: &str) -> Arc<str> {
    text.into()
}
