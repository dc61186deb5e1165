//! Pods, by UID and by the addresses that they held.
//!
//! What is kept of a pod is counted in bytes: there may be 100 000 of them.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::nodes::{KnownNode, Nodes};
use super::object::{Name, Pod};
use super::owners::{Controller, Owners, Workload};
use super::timed::{Span, Timed};

/// Pods that have gone which are kept, and addresses that they held: 100 to 200 bytes each.
const KEPT: usize = 32_768;
/// Containers of one pod whose names are known, those of former runs included.
const CONTAINERS: usize = 64;

type Uid = [u8; 16];

/// A pod.
#[derive(Debug)]
pub struct KnownPod {
    /// A `u128` as bytes: as a number it would cost padding.
    uid: Uid,
    /// Its name.
    pub name: Arc<str>,
    controller: Arc<Controller>,
    /// The node that it is bound to.
    pub node: Option<Arc<KnownNode>>,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    /// Counted as one of its controller's that run.
    live: AtomicBool,
    gone: AtomicBool,
}

impl KnownPod {
    /// Its namespace.
    pub fn namespace(&self) -> &Arc<str> {
        self.controller.namespace()
    }

    /// Both.
    pub fn full_name(&self) -> Name {
        Name { namespace: Arc::clone(self.namespace()), name: Arc::clone(&self.name) }
    }

    /// What it belongs to; a pod of nobody to itself.
    pub fn workload(&self) -> Arc<Workload> {
        self.controller.workload()
    }

    fn uid(&self) -> u128 {
        u128::from_ne_bytes(self.uid)
    }

    fn addresses(&self) -> impl Iterator<Item = Ipv6Addr> + use<> {
        self.v4.map(|v4| v4.to_ipv6_mapped()).into_iter().chain(self.v6)
    }

    pub(super) fn has(&self, address: Ipv6Addr) -> bool {
        self.addresses().any(|own| own == address)
    }

    fn lives(&self, live: bool) {
        if self.live.swap(live, Ordering::Relaxed) != live {
            self.controller.count(live);
        }
    }
}

/// Found by its UID.
#[derive(Debug)]
struct ByUid(Arc<KnownPod>);

impl Borrow<Uid> for ByUid {
    fn borrow(&self) -> &Uid {
        &self.0.uid
    }
}
impl Hash for ByUid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.uid.hash(state);
    }
}
impl PartialEq for ByUid {
    fn eq(&self, other: &Self) -> bool {
        self.0.uid == other.0.uid
    }
}
impl Eq for ByUid {}

/// When things that are told of a pod have happened, nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// `status.startTime`.
    pub started: Option<u64>,
    /// The end of the second in which it ended.
    pub ended: Option<u64>,
    /// When it was heard of.
    pub heard: u64,
}

/// Container ids and their names.
type Containers = Vec<(Arc<str>, Arc<str>)>;

/// All pods.
#[derive(Debug)]
pub(super) struct Pods {
    by_uid: HashSet<ByUid>,
    by_address: Timed<Ipv6Addr, KnownPod>,
    gone: VecDeque<Arc<KnownPod>>,
    /// Of the pods of the own node.
    containers: HashMap<u128, Containers>,
    /// Known before the list that is being read, and not told by it so far.
    pub unseen: HashSet<u128>,
}

impl Pods {
    pub fn new() -> Self {
        Self {
            by_uid: HashSet::new(),
            by_address: Timed::new(KEPT),
            gone: VecDeque::new(),
            containers: HashMap::new(),
            unseen: HashSet::new(),
        }
    }

    /// `own`: it is on this node.
    pub fn applied(&mut self, told: &Pod, times: Times, own: bool, owners: &mut Owners, nodes: &mut Nodes) {
        self.unseen.remove(&told.uid);
        let before = self.of_uid(told.uid).filter(|pod| !pod.gone.load(Ordering::Relaxed)).cloned();
        let pod = self.state(told, before.as_ref(), owners, nodes);
        if before.as_ref().is_none_or(|before| !Arc::ptr_eq(before, &pod)) {
            self.move_addresses(before.as_ref(), &pod, times);
            self.by_uid.replace(ByUid(Arc::clone(&pod)));
        }
        match times.ended {
            None => pod.lives(true),
            Some(ended) => {
                for address in pod.addresses() {
                    self.by_address.leave(address, &pod, ended.min(times.heard));
                }
                pod.lives(false);
            }
        }
        if own && !told.containers.is_empty() {
            let known = self.containers.entry(told.uid).or_default();
            for container in &told.containers {
                if known.len() < CONTAINERS && !known.iter().any(|(id, _)| *id == container.0) {
                    known.push(container.clone());
                }
            }
        }
    }

    /// What is told, as a new state if it differs from the one before.
    fn state(
        &self,
        told: &Pod,
        before: Option<&Arc<KnownPod>>,
        owners: &mut Owners,
        nodes: &mut Nodes,
    ) -> Arc<KnownPod> {
        let (mut v4, mut v6) = (None, None);
        for address in told.addresses.iter().filter(|_| !told.host_network) {
            match address {
                IpAddr::V4(address) => v4 = v4.or(Some(*address)),
                IpAddr::V6(address) => v6 = v6.or(Some(*address)),
            }
        }
        let node = told.node.as_ref().map(|name| nodes.named(name));
        let controller = owners.of(told);
        let same = before.filter(|before| {
            before.name == told.name.name
                && (before.v4, before.v6) == (v4, v6)
                && Arc::ptr_eq(&before.controller, &controller)
                && before.node.as_ref().map(Arc::as_ptr) == node.as_ref().map(Arc::as_ptr)
        });
        same.cloned().unwrap_or_else(|| {
            Arc::new(KnownPod {
                uid: told.uid.to_ne_bytes(),
                name: Arc::clone(&told.name.name),
                controller,
                node,
                v4,
                v6,
                live: AtomicBool::new(false),
                gone: AtomicBool::new(false),
            })
        })
    }

    fn move_addresses(&mut self, before: Option<&Arc<KnownPod>>, pod: &Arc<KnownPod>, times: Times) {
        for (before, address) in
            before.iter().flat_map(|before| before.addresses().map(move |address| (before, address)))
        {
            if pod.has(address) {
                self.by_address.replace(address, before, pod);
            } else {
                self.by_address.leave(address, before, times.heard);
            }
        }
        // One that had another address got this one since.
        let first = before.is_none_or(|before| before.addresses().next().is_none());
        let since = times.started.filter(|_| first).unwrap_or(times.heard);
        for address in pod.addresses() {
            if before.is_none_or(|before| !before.has(address)) {
                self.by_address.hold(address, Arc::clone(pod), Span::new(since, times.heard));
            }
        }
        if let Some(before) = before {
            before.lives(false);
        }
    }

    pub fn gone(&mut self, uid: u128, at_ns: u64) {
        let Some(pod) = self.of_uid(uid).cloned() else { return };
        if pod.gone.swap(true, Ordering::Relaxed) {
            return;
        }
        for address in pod.addresses() {
            self.by_address.leave(address, &pod, at_ns);
        }
        pod.lives(false);
        self.gone.push_back(pod);
        if self.gone.len() > KEPT
            && let Some(oldest) = self.gone.pop_front()
            && self.of_uid(oldest.uid()).is_some_and(|known| Arc::ptr_eq(known, &oldest))
        {
            self.by_uid.remove(&oldest.uid);
            self.containers.remove(&oldest.uid());
        }
    }

    fn there(&self) -> impl Iterator<Item = &KnownPod> {
        self.by_uid.iter().map(|pod| &*pod.0).filter(|pod| !pod.gone.load(Ordering::Relaxed))
    }

    /// UIDs of those that have not gone.
    pub fn uids(&self) -> HashSet<u128> {
        self.there().map(KnownPod::uid).collect()
    }

    /// Namespaces and names of those that have not gone.
    pub fn names(&self) -> impl Iterator<Item = Name> {
        self.there().map(KnownPod::full_name)
    }

    /// The pod with this UID, also after it has gone.
    pub fn of_uid(&self, uid: u128) -> Option<&Arc<KnownPod>> {
        self.by_uid.get(&uid.to_ne_bytes()).map(|pod| &pod.0)
    }

    /// Whose address it was.
    pub fn at(&self, address: Ipv6Addr, start: u64, end: u64) -> Option<&Arc<KnownPod>> {
        self.by_address.at(address, start, end)
    }

    /// The name of a container of a pod of this node.
    pub fn container(&self, pod: &KnownPod, id: &str) -> Option<&Arc<str>> {
        self.containers.get(&pod.uid())?.iter().find(|(known, _)| **known == *id).map(|(_, name)| name)
    }
}
