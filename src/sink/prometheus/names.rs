//! What is counted by name in a Kubernetes cluster: bytes between workloads, zones and, when asked for, pods; and for which services
//! other counts have series of their own.
//!
//! Every metric has a cap; what it folds away, and what has left, is `other`, so sums stay exact. A series leaves when a workload,
//! service or pod in it has not been there for [`LEAVES_AFTER`].

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::render::{Page, count};
use super::top_pairs::TopPairs;
use crate::enrich::kubernetes::Cluster;
use crate::enrich::kubernetes::cluster::Known;
use crate::enrich::kubernetes::object::Name;
use crate::enrich::kubernetes::owners::Workload;
use crate::flow::record::Direction;

/// So long after its workload, service or pod a series leaves: longer than `flow.flow_timeout`, so that its last flows have ended.
pub const LEAVES_AFTER: Duration = Duration::from_secs(600);
/// The cluster is asked who is there this often.
const LOOK_EVERY: Duration = Duration::from_secs(60);
const OTHER: &str = "other";

/// A service; `None`: of no service, or none is known.
pub type Service = Option<Arc<Name>>;

/// Of whom the bytes between two workloads are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Between {
    src: Option<Arc<Workload>>,
    dst: Option<Arc<Workload>>,
    service: Service,
    direction: Direction,
}

/// Pods by their names: a StatefulSet's next pod of the same name goes on where the last one was.
type Pods = (Option<Name>, Option<Name>, Direction);
type Zones = (Option<Arc<str>>, Option<Arc<str>>, Direction);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Thing {
    Workload(Arc<Workload>),
    Service(Arc<Name>),
    Pod(Name),
}

/// Who is there.
#[derive(Debug, Default)]
pub struct There {
    /// Workloads with running pods.
    pub workloads: HashSet<Arc<Workload>>,
    /// Services.
    pub services: HashSet<Arc<Name>>,
    /// Pods by namespace and name.
    pub pods: HashSet<Name>,
}

impl There {
    /// As the cluster stands.
    pub fn ask(cluster: &Cluster, pods: bool) -> Self {
        Self {
            workloads: cluster.workloads().into_iter().collect(),
            services: cluster.services().into_iter().collect(),
            pods: if pods { cluster.pod_names() } else { HashSet::new() },
        }
    }

    fn is(&self, thing: &Thing) -> bool {
        match thing {
            Thing::Workload(workload) => self.workloads.contains(workload),
            Thing::Service(service) => self.services.contains(service),
            Thing::Pod(pod) => self.pods.contains(pod),
        }
    }
}

fn words(pod: &Option<Name>) -> (&str, &str) {
    pod.as_ref().map_or(("", ""), |pod| (&*pod.namespace, &*pod.name))
}

/// What is counted by name.
#[derive(Debug)]
pub struct Names {
    cap: usize,
    bytes: TopPairs<Between>,
    pods: Option<TopPairs<Pods>>,
    zones: HashMap<Zones, u64>,
    services: HashSet<Arc<Name>>,
    other: Arc<Name>,
    missing: HashMap<Thing, Instant>,
    looked: Option<Instant>,
}

impl Names {
    /// With so many series of each metric; by pod, too.
    pub fn new(cap: usize, per_pod: bool) -> Self {
        Self {
            cap,
            bytes: TopPairs::new(cap),
            pods: per_pod.then(|| TopPairs::new(cap)),
            zones: HashMap::new(),
            services: HashSet::new(),
            other: Arc::new(Name { namespace: OTHER.into(), name: OTHER.into() }),
            missing: HashMap::new(),
            looked: None,
        }
    }

    /// Counts bytes of a flow, both ways.
    pub fn count(&mut self, [src, dst]: &[Known; 2], direction: Direction, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let workload = |end: &Known| end.pod.as_ref().map(|pod| pod.workload());
        let between =
            Between { src: workload(src), dst: workload(dst), service: dst.service.clone(), direction };
        self.bytes.add(between, bytes);
        let zones = (src.zone(), dst.zone(), direction);
        let zones = if self.zones.len() < self.cap || self.zones.contains_key(&zones) {
            zones
        } else {
            (Some(OTHER.into()), Some(OTHER.into()), direction)
        };
        *self.zones.entry(zones).or_default() += bytes;
        if let Some(pods) = &mut self.pods {
            let pod = |end: &Known| end.pod.as_ref().map(|pod| pod.full_name());
            pods.add((pod(src), pod(dst), direction), bytes);
        }
    }

    /// The service of `dst` as other counts have it: those beyond the cap are one.
    pub fn service(&mut self, dst: &Known) -> Service {
        let service = dst.service.as_ref()?;
        if !self.services.contains(service) {
            if self.services.len() >= self.cap {
                return Some(Arc::clone(&self.other));
            }
            self.services.insert(Arc::clone(service));
        }
        Some(Arc::clone(service))
    }

    /// Whether it is time to look who is there, and whether pods are wanted.
    pub fn is_due(&self, now: Instant) -> Option<bool> {
        let due = self.looked.is_none_or(|looked| now.duration_since(looked) >= LOOK_EVERY);
        due.then_some(self.pods.is_some())
    }

    /// Lets series go whose workloads, services or pods are not there any more; returns the services that other counts should let go,
    /// and what these become.
    pub fn let_go(&mut self, there: &There, now: Instant) -> (Vec<Arc<Name>>, Arc<Name>) {
        self.looked = Some(now);
        let before = std::mem::take(&mut self.missing);
        let missing = &mut self.missing;
        let mut has_left = |thing: &Thing| {
            if there.is(thing) {
                return false;
            }
            let since = before.get(thing).copied().unwrap_or(now);
            missing.insert(thing.clone(), since);
            now.duration_since(since) >= LEAVES_AFTER
        };
        // All of them are noted, so that none's time begins late.
        let mut any_left =
            |things: Vec<Thing>| things.into_iter().filter(|thing| has_left(thing)).count() > 0;
        self.bytes.let_go(|between| {
            let workloads = [&between.src, &between.dst].into_iter().flatten().cloned().map(Thing::Workload);
            let things = workloads.chain(between.service.clone().map(Thing::Service));
            any_left(things.collect())
        });
        if let Some(pods) = &mut self.pods {
            pods.let_go(|(src, dst, _)| {
                let things = [src, dst].into_iter().flatten().cloned().map(Thing::Pod);
                any_left(things.collect())
            });
        }
        let left: Vec<Arc<Name>> = self
            .services
            .iter()
            .filter(|service| any_left(vec![Thing::Service(Arc::clone(service))]))
            .cloned()
            .collect();
        for service in &left {
            self.services.remove(service);
        }
        (left, Arc::clone(&self.other))
    }

    /// Writes them down.
    pub(super) fn families(&self, page: &mut Page) {
        let text = |word: &Option<Arc<str>>| word.as_deref().unwrap_or("").to_owned();
        let mut bytes = Vec::new();
        for (between, counted) in self.bytes.pairs() {
            let Between { src, dst, service, direction } = between;
            let namespace = |one: &Option<Arc<Workload>>| one.as_ref().map(|one| Arc::clone(&one.namespace));
            let name = |one: &Option<Arc<Workload>>| text(&one.as_ref().map(|one| Arc::clone(&one.name)));
            let of_service = service.as_ref().map(|service| Arc::clone(&service.namespace));
            bytes.push(count(
                &[
                    ("src_namespace", &text(&namespace(src))),
                    ("src_workload", &name(src)),
                    ("dst_namespace", &text(&namespace(dst).or(of_service))),
                    ("dst_workload", &name(dst)),
                    ("dst_service", service.as_ref().map_or("", |service| &service.name)),
                    ("direction", direction.name()),
                ],
                counted,
            ));
        }
        let others =
            ["src_namespace", "src_workload", "dst_namespace", "dst_workload", "dst_service", "direction"];
        bytes.push(count(&others.map(|label| (label, OTHER)), self.bytes.other()));
        page.counter(
            "netmon_workload_bytes_total",
            "Bytes as on the wire of flows by the workloads at their ends, src opened them, both ways; series beyond the cap and of workloads that have left are other.",
            bytes,
        );
        let zones = self.zones.iter().map(|((src, dst, direction), bytes)| {
            let (src, dst) = (text(src), text(dst));
            count(&[("src_zone", &src), ("dst_zone", &dst), ("direction", direction.name())], *bytes)
        });
        page.counter(
            "netmon_zone_bytes_total",
            "The same by the zones of the nodes at their ends.",
            zones.collect(),
        );
        let Some(pods) = &self.pods else { return };
        let mut bytes = Vec::new();
        for ((src, dst, direction), counted) in pods.pairs() {
            let [(src_namespace, src_pod), (dst_namespace, dst_pod)] = [words(src), words(dst)];
            bytes.push(count(
                &[
                    ("src_namespace", src_namespace),
                    ("src_pod", src_pod),
                    ("dst_namespace", dst_namespace),
                    ("dst_pod", dst_pod),
                    ("direction", direction.name()),
                ],
                counted,
            ));
        }
        let others = ["src_namespace", "src_pod", "dst_namespace", "dst_pod", "direction"];
        bytes.push(count(&others.map(|label| (label, OTHER)), pods.other()));
        page.counter("netmon_pod_bytes_total", "The same by pods (export.prometheus.per_pod).", bytes);
    }
}
