//! From what the API server says to what is kept of it.
//!
//! The shapes below name only the fields that are used; the rest of an object is passed over while it is read, so a pod of
//! eight kilobytes costs its own bytes and some hundred more. Every field may be missing or `null`: a bookmark is an object
//! with nothing but a version.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;

use super::object::{
    Backend, EndpointSlice, Kind, Name, Node, Object, Owned, Owner, Pod, Service, ServicePort,
};
use crate::flow::key::Protocol;

/// Label of an EndpointSlice: its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of a node: its zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// Label of a pod of a ReplicaSet: what its Deployment has added to the ReplicaSet's name.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// Annotation of a static pod's image in the API: the id by which its node, and so its cgroup, knows it.
const STATIC_ID: &str = "kubernetes.io/config.hash";
/// Annotation of the bookmark that ends a streaming list.
const LIST_ENDS: &str = "k8s.io/initial-events-end";

/// All of these.
const KNOWN: [&str; 5] = [SERVICE_NAME, ZONE, TEMPLATE_HASH, STATIC_ID, LIST_ENDS];

/// Words that many objects share, each held once.
#[derive(Debug, Default)]
pub struct Words {
    held: HashSet<Arc<str>>,
    /// Left by the last sweep.
    swept: usize,
}

/// So many may come after a sweep before the next.
const SWEEP_AFTER: usize = 4096;

impl Words {
    /// The shared one.
    pub fn share(&mut self, word: &str) -> Arc<str> {
        if let Some(known) = self.held.get(word) {
            return Arc::clone(known);
        }
        if self.held.len() > self.swept * 2 + SWEEP_AFTER {
            self.sweep();
        }
        let new: Arc<str> = word.into();
        self.held.insert(Arc::clone(&new));
        new
    }

    /// Forgets those that nobody else holds.
    pub fn sweep(&mut self) {
        self.held.retain(|word| Arc::strong_count(word) > 1);
        self.held.shrink_to_fit();
        self.swept = self.held.len();
    }
}

macro_rules! shape {
    ($($name:ident { $($(#[$attribute:meta])* $field:ident: $kind:ty),+ $(,)? })+) => {
        $(#[derive(Debug, Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct $name { $($(#[$attribute])* $field: Option<$kind>),+ })+
    };
}

shape! {
    Metadata {
        namespace: String,
        name: String,
        uid: String,
        resource_version: String,
        labels: Chosen,
        annotations: Chosen,
        owner_references: Vec<OwnerReference>,
    }
    OwnerReference { kind: String, name: String, controller: bool }
    Spec {
        node_name: String,
        host_network: bool,
        #[serde(rename = "clusterIP")]
        cluster_ip: String,
        #[serde(rename = "clusterIPs")]
        cluster_ips: Vec<String>,
        #[serde(rename = "externalIPs")]
        external_ips: Vec<String>,
        ports: Vec<Port>,
    }
    Port { protocol: String, port: u16, node_port: u16 }
    Status {
        phase: String,
        #[serde(rename = "podIP")]
        pod_ip: String,
        #[serde(rename = "podIPs")]
        pod_ips: Vec<Address>,
        start_time: Timestamp,
        conditions: Vec<Condition>,
        container_statuses: Vec<Container>,
        init_container_statuses: Vec<Container>,
        ephemeral_container_statuses: Vec<Container>,
        load_balancer: LoadBalancer,
        addresses: Vec<Address>,
    }
    LoadBalancer { ingress: Vec<Address> }
    Address { ip: String, address: String }
    Condition { last_transition_time: Timestamp }
    Container {
        name: String,
        #[serde(rename = "containerID")]
        container_id: String,
        state: ContainerState,
    }
    ContainerState { terminated: Terminated }
    Terminated { finished_at: Timestamp }
    Endpoint { addresses: Vec<String>, target_ref: Target, node_name: String, zone: String }
    Target { kind: String, namespace: String, name: String }
}

/// The few labels and annotations that mean something here.
#[derive(Debug, Default)]
struct Chosen(BTreeMap<&'static str, String>);

impl<'de> Deserialize<'de> for Chosen {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Chosen;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of texts")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Chosen, A::Error> {
                let mut chosen = Chosen::default();
                while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    match KNOWN.into_iter().find(|known| *known == key) {
                        Some(known) => drop(chosen.0.insert(known, map.next_value()?)),
                        None => drop(map.next_value::<serde::de::IgnoredAny>()?),
                    }
                }
                Ok(chosen)
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// Any object of the kinds that are watched, as it comes.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Raw {
    metadata: Metadata,
    spec: Option<Spec>,
    status: Option<Status>,
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<Port>>,
}

impl Raw {
    /// `metadata.resourceVersion`.
    pub fn version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref().filter(|version| !version.is_empty())
    }

    /// Whether this bookmark ends a streaming list.
    pub fn ends_list(&self) -> bool {
        let annotations = self.metadata.annotations.as_ref();
        annotations.and_then(|chosen| chosen.0.get(LIST_ENDS)).is_some_and(|value| value == "true")
    }

    /// What is kept of it; `None` if it has no name.
    pub fn trim(self, kind: Kind, words: &mut Words) -> Option<Object> {
        let Self { metadata, spec, status, endpoints, ports } = self;
        let (spec, status) = (spec.unwrap_or_default(), status.unwrap_or_default());
        let bare = metadata.name.as_deref().filter(|name| !name.is_empty())?;
        let name = Name {
            namespace: words.share(metadata.namespace.as_deref().unwrap_or("")),
            // A node's name stands in every pod on it.
            name: if kind == Kind::Node { words.share(bare) } else { bare.into() },
        };
        Some(match kind {
            Kind::Pod => Object::Pod(pod(name, &metadata, &spec, &status, words)),
            Kind::Service => Object::Service(service(name, &spec, &status)),
            Kind::EndpointSlice => Object::EndpointSlice(EndpointSlice {
                service: chosen(&metadata.labels, SERVICE_NAME).map(|service| words.share(service)),
                ports: ports.iter().flatten().filter_map(|port| Some((protocol(port), port.port?))).collect(),
                backends: endpoints
                    .iter()
                    .flatten()
                    .map(|endpoint| backend(endpoint, &name, words))
                    .collect(),
                name,
            }),
            Kind::Node => Object::Node(Node {
                name: name.name,
                addresses: addresses(status.addresses.iter().flatten().filter_map(|a| a.address.as_deref())),
                zone: chosen(&metadata.labels, ZONE).map(|zone| words.share(zone)),
            }),
            Kind::ReplicaSet | Kind::Job => {
                Object::Owned(Owned { kind, name, owner: owner(&metadata, words) })
            }
        })
    }
}

fn chosen<'a>(map: &'a Option<Chosen>, key: &str) -> Option<&'a str> {
    map.as_ref()?.0.get(key).map(String::as_str)
}

fn word(text: &Option<String>, words: &mut Words) -> Option<Arc<str>> {
    text.as_deref().filter(|text| !text.is_empty()).map(|text| words.share(text))
}

/// Those that are addresses: `None`, host names and nonsense are not.
fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in texts.filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses.shrink_to_fit();
    addresses
}

fn protocol(port: &Port) -> Protocol {
    port.protocol.as_deref().and_then(Protocol::parse).unwrap_or(Protocol::TCP)
}

fn owner(metadata: &Metadata, words: &mut Words) -> Option<Owner> {
    let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    Some(Owner { kind: words.share(owner.kind.as_deref()?), name: words.share(owner.name.as_deref()?) })
}

/// A UUID or another 32 hexadecimal digits as a number; what is neither gets a number of its own.
fn uid(text: &str) -> u128 {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    u128::from_str_radix(&digits, 16).unwrap_or_else(|_| {
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            (salt, text).hash(&mut hasher);
            u128::from(hasher.finish())
        };
        half(0) << 64 | half(1)
    })
}

fn pod(name: Name, metadata: &Metadata, spec: &Spec, status: &Status, words: &mut Words) -> Pod {
    let containers = || {
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses]
            .into_iter()
            .flatten()
            .flatten()
    };
    let ips = status.pod_ips.iter().flatten().filter_map(|address| address.ip.as_deref());
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let finished = || {
        let finished = containers().filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at).max();
        // An evicted pod may have had no container, and not every runtime says when.
        let turned = || status.conditions.iter().flatten().filter_map(|c| c.last_transition_time).max();
        finished.or_else(turned).unwrap_or_else(Timestamp::now)
    };
    let identity = chosen(&metadata.annotations, STATIC_ID).or(metadata.uid.as_deref()).unwrap_or("");
    Pod {
        uid: uid(identity),
        node: word(&spec.node_name, words),
        addresses: addresses(ips.chain(status.pod_ip.as_deref())),
        host_network: spec.host_network == Some(true),
        owner: owner(metadata, words),
        template_hash: chosen(&metadata.labels, TEMPLATE_HASH).map(|hash| words.share(hash)),
        started: status.start_time,
        ended: over.then(finished),
        containers: containers()
            .filter_map(|container| {
                let id = container.container_id.as_deref().filter(|id| !id.is_empty())?;
                let bare = id.split_once("://").map_or(id, |(_, bare)| bare);
                Some((bare.into(), words.share(container.name.as_deref().unwrap_or(""))))
            })
            .collect(),
        name,
    }
}

fn service(name: Name, spec: &Spec, status: &Status) -> Service {
    let ingress = status.load_balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    let texts =
        spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).chain(spec.external_ips.iter().flatten());
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(ServicePort {
            protocol: protocol(port),
            port: port.port?,
            node_port: port.node_port.filter(|port| *port > 0),
        })
    });
    Service {
        name,
        addresses: addresses(texts.chain(ingress.filter_map(|at| at.ip.as_ref())).map(String::as_str)),
        ports: ports.collect(),
    }
}

fn backend(endpoint: &Endpoint, slice: &Name, words: &mut Words) -> Backend {
    let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    Backend {
        addresses: addresses(endpoint.addresses.iter().flatten().map(String::as_str)),
        pod: pod.and_then(|target| {
            Some(Name {
                namespace: target
                    .namespace
                    .as_deref()
                    .map_or_else(|| Arc::clone(&slice.namespace), |namespace| words.share(namespace)),
                name: target.name.as_deref()?.into(),
            })
        }),
        node: word(&endpoint.node_name, words),
        zone: word(&endpoint.zone, words),
    }
}

#[cfg(test)]
mod tests;
