//! What is counted by name in a Kubernetes cluster: bytes between workloads, zones and, when asked for, pods; and for which services
//! other counts have series of their own.
//!
//! Every metric has a cap; what it folds away, and what has left, is `other`, so sums stay exact. A series leaves when a workload,
//! service or pod in it has not been there for [`LEAVES_AFTER`].

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::proto::Metric;

use super::page::{Page, count};
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

/// Of whom the bytes between two workloads are: of which kind those are is not told.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Between {
    src: Option<Name>,
    dst: Option<Name>,
    service: Service,
}

/// Pods by their names: a StatefulSet's next pod of the same name goes on where the last one was.
type Pods = (Option<Name>, Option<Name>);
type Zones = (Option<Arc<str>>, Option<Arc<str>>, Direction);

/// The heaviest of each direction, each with what it folds away, so that sums are exact by direction.
#[derive(Debug)]
struct Heaviest<K> {
    cap: usize,
    each: BTreeMap<Direction, TopPairs<K>>,
}

impl<K: Clone + Eq + Hash + Ord> Heaviest<K> {
    fn new(cap: usize) -> Self {
        Self { cap, each: BTreeMap::new() }
    }

    fn add(&mut self, direction: Direction, key: K, bytes: u64) {
        self.each.entry(direction).or_insert_with(|| TopPairs::new(self.cap)).add(key, bytes);
    }

    fn let_go(&mut self, mut leaves: impl FnMut(&K) -> bool) {
        for top in self.each.values_mut() {
            top.let_go(&mut leaves);
        }
    }

    /// Series of all, each with the sum of those keys that are told alike, and of those without a place.
    fn series<const N: usize>(&self, labels: [&str; N], values: impl Fn(&K) -> [Arc<str>; N]) -> Vec<Metric> {
        let mut series = Vec::new();
        for (direction, top) in &self.each {
            let mut sums = BTreeMap::from([(std::array::from_fn(|_| OTHER.into()), top.other())]);
            for (key, bytes) in top.pairs() {
                *sums.entry(values(key)).or_default() += bytes;
            }
            for (values, bytes) in sums {
                let mut told: Vec<(&str, &str)> =
                    labels.into_iter().zip(values.iter().map(|value| &**value)).collect();
                told.push(("direction", direction.name()));
                series.push(count(&told, bytes));
            }
        }
        series
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Thing {
    Workload(Name),
    Service(Arc<Name>),
    Pod(Name),
}

/// Who is there.
#[derive(Debug, Default)]
pub struct There {
    /// Workloads with running pods.
    pub workloads: HashSet<Name>,
    /// Services.
    pub services: HashSet<Arc<Name>>,
    /// Pods by namespace and name.
    pub pods: HashSet<Name>,
}

impl There {
    /// As the cluster stands.
    pub fn ask(cluster: &Cluster, pods: bool) -> Self {
        Self {
            workloads: cluster.workloads().iter().map(|workload| named(workload)).collect(),
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

fn named(workload: &Workload) -> Name {
    Name { namespace: Arc::clone(&workload.namespace), name: Arc::clone(&workload.name) }
}

fn words(name: Option<&Name>) -> [Arc<str>; 2] {
    name.map_or_else(Default::default, |name| [&name.namespace, &name.name].map(Arc::clone))
}

/// What is counted by name.
#[derive(Debug)]
pub struct Names {
    cap: usize,
    bytes: Heaviest<Between>,
    pods: Option<Heaviest<Pods>>,
    zones: HashMap<Zones, u64>,
    services: HashSet<Arc<Name>>,
    other: Arc<Name>,
    missing: HashMap<Thing, Instant>,
    looked: Option<Instant>,
}

impl Names {
    /// With so many series of each metric and direction; by pod, too.
    pub fn new(cap: usize, per_pod: bool) -> Self {
        Self {
            cap,
            bytes: Heaviest::new(cap),
            pods: per_pod.then(|| Heaviest::new(cap)),
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
        let workload = |end: &Known| end.pod.as_ref().map(|pod| named(&pod.workload()));
        let between = Between { src: workload(src), dst: workload(dst), service: dst.service.clone() };
        self.bytes.add(direction, between, bytes);
        let zones = (src.zone(), dst.zone(), direction);
        let zones = if self.zones.len() < self.cap || self.zones.contains_key(&zones) {
            zones
        } else {
            (Some(OTHER.into()), Some(OTHER.into()), direction)
        };
        *self.zones.entry(zones).or_default() += bytes;
        if let Some(pods) = &mut self.pods {
            let pod = |end: &Known| end.pod.as_ref().map(|pod| pod.full_name());
            pods.add(direction, (pod(src), pod(dst)), bytes);
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
            pods.let_go(|(src, dst)| {
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
        let bytes = self.bytes.series(
            ["src_namespace", "src_workload", "dst_namespace", "dst_workload", "dst_service"],
            |Between { src, dst, service }| {
                let ([src_namespace, src], [dst_namespace, dst]) = (words(src.as_ref()), words(dst.as_ref()));
                let [of_service, service] = words(service.as_deref());
                let dst_namespace = if dst.is_empty() { of_service } else { dst_namespace };
                [src_namespace, src, dst_namespace, dst, service]
            },
        );
        page.counter(
            "netmon_workload_bytes_total",
            "Bytes as on the wire of flows by the workloads at their ends, src opened them, both ways; series beyond the cap and of workloads that have left are other.",
            bytes,
        );
        let zones = self.zones.iter().map(|((src, dst, direction), bytes)| {
            let [src, dst] = [src, dst].map(|zone| zone.as_deref().unwrap_or(""));
            count(&[("src_zone", src), ("dst_zone", dst), ("direction", direction.name())], *bytes)
        });
        page.counter(
            "netmon_zone_bytes_total",
            "The same by the zones of the nodes at their ends.",
            zones.collect(),
        );
        let Some(pods) = &self.pods else { return };
        let labels = ["src_namespace", "src_pod", "dst_namespace", "dst_pod"];
        let bytes = pods.series(labels, |(src, dst)| {
            let ([src_namespace, src], [dst_namespace, dst]) = (words(src.as_ref()), words(dst.as_ref()));
            [src_namespace, src, dst_namespace, dst]
        });
        page.counter("netmon_pod_bytes_total", "The same by pods (export.prometheus.per_pod).", bytes);
    }
}
