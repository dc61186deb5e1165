//! The store: takes what the watches tell, and answers who held an address when.
//!
//! Read by the collector for each word about a flow, written by the watches: one lock, held for a microsecond at a time.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::Timestamp;

use super::key;
use super::nodes::{KnownNode, Nodes};
use super::object::{Backend, Change, Kind, Name, Object, Pod, Watched};
use super::owners::{Owners, Workload};
use super::pods::{KnownPod, Pods, Times};
use super::services::Services;
use crate::clock::WallClock;
use crate::flow::key::Protocol;
use crate::flow::update::Flow;

/// A second of the API's times.
const STEP_NS: u64 = 1_000_000_000;

/// What the store is told at start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The own node.
    pub node: Option<Arc<str>>,
    /// All pods of the cluster are watched (`kubernetes.scope: cluster`), not only the own node's.
    pub whole: bool,
    /// How UTC is turned into `CLOCK_MONOTONIC`, now.
    pub clock: fn() -> WallClock,
}

/// Who is at an end of a flow, as the cluster knows it.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The pod.
    pub pod: Option<Arc<KnownPod>>,
    /// Of an end that no pod is known for: what an EndpointSlice says of it.
    pub backend: Option<Arc<Backend>>,
    /// Of `dst`: the service that was asked, or that the pod serves on this port. Of `src`: one that the pod belongs to.
    pub service: Option<Arc<Name>>,
    /// The node.
    pub node: Option<Arc<KnownNode>>,
}

impl Known {
    /// The zone of its node.
    pub fn zone(&self) -> Option<Arc<str>> {
        let node = self.node.as_ref().and_then(|node| node.zone());
        node.or_else(|| self.backend.as_ref()?.zone.clone())
    }
}

#[derive(Debug)]
struct Inner {
    pods: Pods,
    owners: Owners,
    nodes: Nodes,
    services: Services,
}

/// The store. Shared.
#[derive(Debug)]
pub struct Cluster {
    settings: Settings,
    clock: Mutex<WallClock>,
    inner: RwLock<Inner>,
}

impl Cluster {
    /// Nothing is known yet.
    pub fn new(settings: Settings) -> Self {
        let inner = Inner {
            pods: Pods::new(),
            owners: Owners::default(),
            nodes: Nodes::new(),
            services: Services::new(settings.whole),
        };
        let clock = Mutex::new((settings.clock)());
        Self { settings, clock, inner: RwLock::new(inner) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn times(&self, pod: &Pod, at_ns: u64) -> Times {
        let clock = {
            let mut kept = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
            *kept = kept.unless_moved((self.settings.clock)());
            *kept
        };
        let ns = |time: Timestamp| clock.monotonic_ns(time);
        Times {
            started: pod.started.map(ns),
            ended: pod.ended.map(|time| ns(time).saturating_add(STEP_NS)),
            heard: at_ns,
        }
    }

    fn applied(&self, object: Object, at_ns: u64) {
        match object {
            Object::Pod(pod) => {
                let times = self.times(&pod, at_ns);
                let own = self.settings.node.is_some() && pod.node == self.settings.node;
                let mut inner = self.write();
                let Inner { pods, owners, nodes, .. } = &mut *inner;
                pods.applied(&pod, times, own, owners, nodes);
            }
            Object::Service(service) => self.write().services.applied(service, at_ns),
            Object::EndpointSlice(slice) => self.write().services.slice_applied(slice, at_ns),
            Object::Node(node) => self.write().nodes.applied(&node, at_ns),
            Object::Owned(owned) => self.write().owners.applied(&owned),
        }
    }

    fn gone(&self, object: &Object, at_ns: u64) {
        match object {
            Object::Pod(pod) => {
                // Its last words may tell when it ended.
                let ended = self.times(pod, at_ns).ended.unwrap_or(at_ns);
                self.write().pods.gone(pod.uid, ended.min(at_ns));
            }
            Object::Service(service) => self.write().services.gone(&service.name, at_ns),
            Object::EndpointSlice(slice) => self.write().services.slice_gone(&slice.name, at_ns),
            Object::Node(node) => self.write().nodes.gone(&node.name, at_ns),
            Object::Owned(owned) => self.write().owners.gone(owned),
        }
    }

    fn listing(&self, kind: Kind) {
        match kind {
            Kind::Pod => {
                let known = self.read().pods.uids();
                self.write().pods.unseen = known;
            }
            Kind::Service => self.write().services.listing(),
            Kind::EndpointSlice => self.write().services.slices_listing(),
            Kind::Node => self.write().nodes.listing(),
            Kind::ReplicaSet | Kind::Job => self.write().owners.listing(kind),
        }
    }

    fn listed(&self, kind: Kind, at_ns: u64) {
        match kind {
            Kind::Pod => {
                let unseen = std::mem::take(&mut self.write().pods.unseen);
                for uid in unseen {
                    self.write().pods.gone(uid, at_ns);
                }
            }
            Kind::Service => self.write().services.listed(at_ns),
            Kind::EndpointSlice => self.write().services.slices_listed(at_ns),
            Kind::Node => self.write().nodes.listed(at_ns),
            Kind::ReplicaSet | Kind::Job => self.write().owners.listed(kind),
        }
    }

    /// Who is at the ends of a flow, opener first. `uids`: the pods whose sockets they are, where that is known.
    pub fn ends(&self, flow: &Flow, uids: [Option<u128>; 2]) -> [Known; 2] {
        let inner = self.read();
        let nat = flow.nat.unwrap_or_default();
        let ends = [[Some(flow.key.src), nat.src], [Some(flow.key.dst), nat.dst]];
        let span = (flow.start_ns, flow.end_ns.max(flow.start_ns));
        [0, 1].map(|side| inner.end(flow, side == 1, ends[side], uids[side], span))
    }

    /// Who held an address at some time between two moments, alone by it.
    pub fn at(&self, address: IpAddr, span: (u64, u64)) -> Known {
        let inner = self.read();
        let ends = [Some(SocketAddr::new(address, 0)), None];
        let mut known = inner.who(ends, None, span);
        known.service = inner.service_of(ends, &known, None, span);
        known
    }

    /// The name of a container of a pod of this node.
    pub fn container(&self, pod: &KnownPod, id: &str) -> Option<Arc<str>> {
        self.read().pods.container(pod, id).cloned()
    }

    /// Workloads that have running pods.
    pub fn workloads(&self) -> Vec<Arc<Workload>> {
        self.read().owners.live().collect()
    }

    /// Services that there are.
    pub fn services(&self) -> Vec<Arc<Name>> {
        self.read().services.names().cloned().collect()
    }

    /// Pods that there are, by namespace and name.
    pub fn pod_names(&self) -> HashSet<Name> {
        self.read().pods.names().collect()
    }
}

type Ends = [Option<SocketAddr>; 2];

impl Inner {
    fn end(&self, flow: &Flow, is_dst: bool, ends: Ends, uid: Option<u128>, span: (u64, u64)) -> Known {
        let protocol = flow.key.protocol;
        let mut known = self.who(ends, uid, span);
        // What was asked for comes before who answered.
        let asked = ends.into_iter().flatten().filter(|_| is_dst).find_map(|end| {
            self.services.asked_at(protocol, end, span).or_else(|| {
                self.nodes.at(key(end.ip()), span.0, span.1)?;
                self.services.asked_at_node(protocol, end.port(), span)
            })
        });
        known.service = match asked {
            Some(asked) => Some(Arc::clone(asked)),
            None => self.service_of(ends, &known, is_dst.then_some(protocol), span),
        };
        known
    }

    fn who(&self, ends: Ends, uid: Option<u128>, span: (u64, u64)) -> Known {
        let each = || ends.into_iter().flatten().map(|end| key(end.ip()));
        let pod = match uid {
            // Whose socket it is says more than an address, also while that pod has not been heard of.
            Some(uid) => self.pods.of_uid(uid),
            None => each().find_map(|address| self.pods.at(address, span.0, span.1)),
        }
        .cloned();
        let node_at = || each().find_map(|address| self.nodes.at(address, span.0, span.1)).cloned();
        let node = pod.as_ref().and_then(|pod| pod.node.clone()).or_else(node_at);
        let backend = if pod.is_some() || uid.is_some() || node.is_some() {
            None
        } else {
            each().find_map(|address| self.services.elsewhere(address, span)).cloned()
        };
        Known { pod, backend, service: None, node }
    }

    /// The service that the end belongs to; by its port where the protocol is told.
    fn service_of(
        &self,
        ends: Ends,
        known: &Known,
        protocol: Option<Protocol>,
        span: (u64, u64),
    ) -> Option<Arc<Name>> {
        let namespace = known.pod.as_ref().map(|pod| &**pod.namespace());
        // By an address that several share, only a port tells.
        let own = |address| match &known.pod {
            Some(pod) => pod.has(address),
            None => known.node.is_none(),
        };
        let found = ends.into_iter().flatten().find_map(|end| {
            let port = protocol.map(|protocol| (protocol, end.port()));
            if port.is_none() && !own(key(end.ip())) {
                return None;
            }
            self.services.served_by(key(end.ip()), port, namespace, span)
        });
        found.cloned()
    }
}

impl Watched for Cluster {
    fn take(&self, change: Change, at_ns: u64) {
        match change {
            Change::Listing(kind) => self.listing(kind),
            Change::Applied(object) => self.applied(object, at_ns),
            Change::Gone(object) => self.gone(&object, at_ns),
            Change::Listed(kind) => self.listed(kind, at_ns),
        }
    }
}
