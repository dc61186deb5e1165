//! Whose pods are: from the controller that a pod names to the workload that people know.
//!
//! A ReplicaSet belongs to a Deployment, a Job to a CronJob. Nearly all of them are called by their owner's name, a dash and one word
//! more: of these no more than a fingerprint of eight bytes is kept, since a cluster may have ten old ReplicaSets for each new one.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::object::{Kind, Name, Owned, Owner, Pod};

/// What people know pods by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Workload {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Deployment, StatefulSet, DaemonSet, CronJob, ...; Node for static pods, Pod for pods of nobody.
    pub kind: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// The controller that pods name.
#[derive(Debug)]
pub(super) struct Controller {
    direct: Workload,
    top: Mutex<Arc<Workload>>,
    /// Pods of it that run.
    live: AtomicU32,
}

impl Controller {
    fn new(direct: Workload, top: Workload) -> Arc<Self> {
        Arc::new(Self { direct, top: Mutex::new(Arc::new(top)), live: AtomicU32::new(0) })
    }

    /// Where it belongs, as far as is known.
    pub fn workload(&self) -> Arc<Workload> {
        Arc::clone(&self.top.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Arc<str> {
        &self.direct.namespace
    }

    /// One of its pods runs, or no longer.
    pub fn count(&self, more: bool) {
        if more {
            self.live.fetch_add(1, Ordering::Relaxed);
        } else {
            self.live.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Found by what it is itself.
#[derive(Debug)]
struct ByItself(Arc<Controller>);

impl Borrow<Workload> for ByItself {
    fn borrow(&self) -> &Workload {
        &self.0.direct
    }
}
impl Hash for ByItself {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.direct.hash(state);
    }
}
impl PartialEq for ByItself {
    fn eq(&self, other: &Self) -> bool {
        self.0.direct == other.0.direct
    }
}
impl Eq for ByItself {}

/// What is known of the owners of one kind.
#[derive(Debug, Default)]
struct Known {
    /// Fingerprints of those that are called by their owner's name and one word more.
    regular: HashSet<u64>,
    others: HashMap<Name, Option<Owner>>,
}

/// All controllers that pods name, and whose they are.
#[derive(Debug, Default)]
pub(super) struct Owners {
    controllers: HashSet<ByItself>,
    sweep_at: usize,
    /// Names of kinds that those have: a handful, shared.
    kinds: HashSet<Arc<str>>,
    sets: Known,
    jobs: Known,
    /// What a list that is being read has told so far.
    listing: HashMap<Kind, Known>,
    hasher: RandomState,
}

/// What its kind is called, and that of its usual owner.
fn kinds(kind: Kind) -> (&'static str, &'static str) {
    if kind == Kind::Job { ("Job", "CronJob") } else { ("ReplicaSet", "Deployment") }
}

/// `cart` of `cart-9c7bfccf6`.
fn stem(name: &str) -> Option<&str> {
    name.rsplit_once('-').map(|(stem, _)| stem).filter(|stem| !stem.is_empty())
}

impl Owners {
    fn known(&self, kind: &str) -> Option<(Kind, &Known)> {
        match kind {
            "ReplicaSet" => Some((Kind::ReplicaSet, &self.sets)),
            "Job" => Some((Kind::Job, &self.jobs)),
            _ => None,
        }
    }

    fn sharing_kind(&mut self, workload: Workload) -> Workload {
        match self.kinds.get(&workload.kind) {
            Some(kind) => Workload { kind: Arc::clone(kind), ..workload },
            None => {
                self.kinds.insert(Arc::clone(&workload.kind));
                workload
            }
        }
    }

    fn fingerprint(&self, name: &Name) -> u64 {
        self.hasher.hash_one((&*name.namespace, &*name.name))
    }

    /// Where a controller belongs; `template_hash` as its pods tell it.
    fn top(&self, direct: &Workload, template_hash: Option<&str>) -> Workload {
        let usual = |kind: Kind| {
            let name = stem(&direct.name)?;
            Some(Workload { kind: kinds(kind).1.into(), name: name.into(), ..direct.clone() })
        };
        let found = self.known(&direct.kind).and_then(|(kind, known)| {
            let name = Name { namespace: Arc::clone(&direct.namespace), name: Arc::clone(&direct.name) };
            if let Some(owner) = known.others.get(&name) {
                return owner.as_ref().map(|owner| Workload {
                    kind: Arc::clone(&owner.kind),
                    name: Arc::clone(&owner.name),
                    ..direct.clone()
                });
            }
            // A Deployment puts this label on its ReplicaSets, and its value into their names.
            let by_hash = || {
                let rest = direct.name.strip_suffix(template_hash?)?.strip_suffix('-')?;
                (kind == Kind::ReplicaSet && !rest.is_empty()).then_some(())
            };
            if known.regular.contains(&self.fingerprint(&name)) || by_hash().is_some() {
                return usual(kind);
            }
            None
        });
        found.unwrap_or_else(|| direct.clone())
    }

    /// The controller of a pod: a pod of nobody is its own.
    pub fn of(&mut self, pod: &Pod) -> Arc<Controller> {
        let name = &pod.name.name;
        // Static pods have a mirror on each node that runs them, called by the node.
        let mirrored = |node: &str| name.strip_suffix(node)?.strip_suffix('-').map(Arc::from);
        let (kind, name) = match &pod.owner {
            Some(owner) if &*owner.kind == "Node" => {
                (Arc::clone(&owner.kind), mirrored(&owner.name).unwrap_or_else(|| Arc::clone(name)))
            }
            Some(owner) => (Arc::clone(&owner.kind), Arc::clone(&owner.name)),
            None => ("Pod".into(), Arc::clone(name)),
        };
        let direct = Workload { namespace: Arc::clone(&pod.name.namespace), kind, name };
        if let Some(known) = self.controllers.get(&direct) {
            return Arc::clone(&known.0);
        }
        if self.controllers.len() >= self.sweep_at {
            self.controllers.retain(|known| Arc::strong_count(&known.0) > 1);
            self.sweep_at = 2 * self.controllers.len() + 64;
            self.kinds.retain(|kind| Arc::strong_count(kind) > 1);
        }
        let top = self.top(&direct, pod.template_hash.as_deref());
        let controller = Controller::new(self.sharing_kind(direct), self.sharing_kind(top));
        self.controllers.insert(ByItself(Arc::clone(&controller)));
        controller
    }

    /// It is known whose a ReplicaSet or Job is.
    pub fn applied(&mut self, owned: &Owned) {
        let (own, usual) = kinds(owned.kind);
        let print = self.fingerprint(&owned.name);
        let is_regular = owned
            .owner
            .as_ref()
            .is_some_and(|owner| &*owner.kind == usual && stem(&owned.name.name) == Some(&*owner.name));
        let known = if owned.kind == Kind::Job { &mut self.jobs } else { &mut self.sets };
        for known in [Some(known), self.listing.get_mut(&owned.kind)].into_iter().flatten() {
            if is_regular {
                known.others.remove(&owned.name);
                known.regular.insert(print);
            } else {
                known.regular.remove(&print);
                known.others.insert(owned.name.clone(), owned.owner.clone());
            }
        }
        let Name { namespace, name } = owned.name.clone();
        let direct = Workload { namespace, kind: own.into(), name };
        if let Some(ByItself(controller)) = self.controllers.get(&direct) {
            let top = self.top(&controller.direct, None);
            let mut told = controller.top.lock().unwrap_or_else(PoisonError::into_inner);
            if **told != top {
                *told = Arc::new(top);
            }
        }
    }

    /// It has gone; pods that were its keep their workload.
    pub fn gone(&mut self, owned: &Owned) {
        let print = self.fingerprint(&owned.name);
        let known = if owned.kind == Kind::Job { &mut self.jobs } else { &mut self.sets };
        known.regular.remove(&print);
        known.others.remove(&owned.name);
    }

    /// A list begins.
    pub fn listing(&mut self, kind: Kind) {
        self.listing.insert(kind, Known::default());
    }

    /// A list is complete: what it did not tell has gone.
    pub fn listed(&mut self, kind: Kind) {
        if let Some(told) = self.listing.remove(&kind) {
            *(if kind == Kind::Job { &mut self.jobs } else { &mut self.sets }) = told;
        }
    }

    /// Workloads with pods that run.
    pub fn live(&self) -> impl Iterator<Item = Arc<Workload>> {
        let controllers = self.controllers.iter().map(|known| &known.0);
        controllers.filter(|one| one.live.load(Ordering::Relaxed) > 0).map(|one| one.workload())
    }
}
