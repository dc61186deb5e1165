//! What of the API's objects is kept: names, addresses, owners and times.
//!
//! Names that many objects share (namespaces, nodes, owners) are shared strings.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use crate::flow::key::Protocol;

/// The kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `v1` Pod.
    Pod,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` Node.
    Node,
    /// `apps/v1` ReplicaSet: only whose it is.
    ReplicaSet,
    /// `batch/v1` Job: only whose it is.
    Job,
}

/// Where an object is; the namespace of a Node is empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name in it.
    pub name: Arc<str>,
}

/// The controller that an object belongs to (`metadata.ownerReferences` with `controller: true`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Its kind, as written there.
    pub kind: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Where it is.
    pub name: Name,
    /// `metadata.uid`: of this pod alone, as a number. Of a static pod: annotation `kubernetes.io/config.hash`, which is what its
    /// cgroup is called by.
    pub uid: u128,
    /// The node it is bound to.
    pub node: Option<Arc<str>>,
    /// `status.podIPs`; the node's own when `host_network`.
    pub addresses: Vec<IpAddr>,
    /// Shares the node's addresses.
    pub host_network: bool,
    /// Its controller.
    pub owner: Option<Owner>,
    /// Label `pod-template-hash`: what the ReplicaSets of a Deployment add to its name for their own.
    pub template_hash: Option<Arc<str>>,
    /// `status.startTime`.
    pub started: Option<Timestamp>,
    /// When it gave its addresses back: it succeeded or failed (the last `finishedAt` of its containers). Where none of them says,
    /// when its conditions turned last, else the time of hearing: never `None` for a pod that has succeeded or failed.
    pub ended: Option<Timestamp>,
    /// Ids of its containers without the scheme (`containerd://`), and their names.
    pub containers: Vec<(Arc<str>, Arc<str>)>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// At the service's addresses.
    pub port: u16,
    /// At the addresses of every node.
    pub node_port: Option<u16>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where it is.
    pub name: Name,
    /// `spec.clusterIPs`, `spec.externalIPs` and `status.loadBalancer.ingress[].ip`; empty when it is headless.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// One backend, or several that share what is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The pod, where it is one.
    pub pod: Option<Name>,
    /// The node it is on.
    pub node: Option<Arc<str>>,
    /// The zone it is in.
    pub zone: Option<Arc<str>>,
}

/// Some of the backends of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Where it is.
    pub name: Name,
    /// The service (label `kubernetes.io/service-name`), in the same namespace.
    pub service: Option<Arc<str>>,
    /// Ports that the backends serve it on; empty: all.
    pub ports: Vec<(Protocol, u16)>,
    /// Who they are.
    pub backends: Vec<Backend>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// `status.addresses` that are addresses.
    pub addresses: Vec<IpAddr>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
}

/// Whose a ReplicaSet or a Job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// [`Kind::ReplicaSet`] or [`Kind::Job`].
    pub kind: Kind,
    /// Where it is.
    pub name: Name,
    /// Its controller.
    pub owner: Option<Owner>,
}

/// What is kept of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A pod.
    Pod(Pod),
    /// A service.
    Service(Service),
    /// Some backends of a service.
    EndpointSlice(EndpointSlice),
    /// A node.
    Node(Node),
    /// Whose a ReplicaSet or a Job is.
    Owned(Owned),
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A list begins anew: what is not applied until [`Change::Listed`] has gone meanwhile.
    Listing(Kind),
    /// It is there, or it has changed.
    Applied(Object),
    /// It has gone; its last state.
    Gone(Object),
    /// The list is complete.
    Listed(Kind),
}

/// Takes what the watches tell, in the order in which the server said it for each kind. Must not block.
pub trait Watched: Send + Sync {
    /// One change, heard of at `at_ns` (`CLOCK_MONOTONIC`).
    fn take(&self, change: Change, at_ns: u64);
}
