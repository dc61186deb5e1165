//! Telling what a stream has said: for most kinds as it comes, for pods joined from two streams.
//!
//! The pods of the own node come by a stream of their own, so that they are there first and stay prompt while the cluster's
//! are being listed. To those who are told there is one kind and one list: the own pods are kept here (a node has some
//! hundred at most) and told again before the cluster's list is said to be complete.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::object::{Change, Kind, Name, Object, Pod, Watched};
use crate::clock::monotonic_ns;

/// Pods of the own node, as last told.
#[derive(Debug, Default)]
pub struct OwnPods(Mutex<Own>);

#[derive(Debug, Default)]
struct Own {
    pods: HashMap<Name, Pod>,
    /// Those that the list under way has named.
    named: Option<HashSet<Name>>,
    /// A list was completed.
    listed: bool,
}

impl OwnPods {
    fn with<T>(&self, change: impl FnOnce(&mut Own) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who holds an address of its own now.
    pub fn holder(&self, address: IpAddr) -> Option<Pod> {
        self.with(|own| {
            let holds =
                |pod: &&Pod| !pod.host_network && pod.ended.is_none() && pod.addresses.contains(&address);
            own.pods.values().find(holds).cloned()
        })
    }

    /// Their owners.
    pub(super) fn owners(&self) -> HashSet<(Kind, Name)> {
        let kind = |kind: &str| match kind {
            "ReplicaSet" => Some(Kind::ReplicaSet),
            "Job" => Some(Kind::Job),
            _ => None,
        };
        let owner = |pod: &Pod| {
            let owner = pod.owner.as_ref()?;
            let name = Name { namespace: Arc::clone(&pod.name.namespace), name: Arc::clone(&owner.name) };
            Some((kind(&owner.kind)?, name))
        };
        self.with(|own| own.pods.values().filter_map(owner).collect())
    }
}

/// Which stream it is.
pub(super) enum Part {
    /// All objects of a kind.
    Whole(Kind),
    /// Pods of the own node.
    OwnPods(Arc<OwnPods>),
    /// All pods that are bound to another node.
    OtherPods(Arc<OwnPods>),
}

/// Tells a stream's objects.
pub(super) struct Telling {
    pub part: Part,
    pub watched: Arc<dyn Watched>,
}

impl Telling {
    fn tell(&self, change: Change) {
        self.watched.take(change, monotonic_ns());
    }

    /// The kind.
    pub(super) fn kind(&self) -> Kind {
        match &self.part {
            Part::Whole(kind) => *kind,
            Part::OwnPods(_) | Part::OtherPods(_) => Kind::Pod,
        }
    }

    /// A list begins.
    pub(super) fn begin(&self) {
        match &self.part {
            Part::Whole(kind) => self.tell(Change::Listing(*kind)),
            Part::OtherPods(_) => self.tell(Change::Listing(Kind::Pod)),
            Part::OwnPods(own) => own.with(|own| {
                own.named = Some(HashSet::new());
                // Later the cluster's list may be under way, and what has gone is found out here.
                if !own.listed {
                    self.tell(Change::Listing(Kind::Pod));
                }
            }),
        }
    }

    /// An object is there.
    pub(super) fn apply(&self, object: Object) {
        match (&self.part, object) {
            (Part::OwnPods(own), Object::Pod(pod)) => own.with(|own| {
                if let Some(named) = &mut own.named {
                    named.insert(pod.name.clone());
                }
                let before = own.pods.insert(pod.name.clone(), pod.clone());
                // Of another of that name nobody will say any more that it has gone.
                if let Some(before) = before.filter(|before| before.uid != pod.uid) {
                    self.tell(Change::Gone(Object::Pod(before)));
                }
                self.tell(Change::Applied(Object::Pod(pod)));
            }),
            (_, object) => self.tell(Change::Applied(object)),
        }
    }

    /// An object has gone.
    pub(super) fn gone(&self, object: Object) {
        match (&self.part, object) {
            (Part::OwnPods(own), Object::Pod(pod)) => own.with(|own| {
                own.pods.remove(&pod.name);
                self.tell(Change::Gone(Object::Pod(pod)));
            }),
            (_, object) => self.tell(Change::Gone(object)),
        }
    }

    /// The list is complete.
    pub(super) fn complete(&self) {
        match &self.part {
            Part::Whole(kind) => self.tell(Change::Listed(*kind)),
            // Under the lock, so that no change of an own pod comes between.
            Part::OtherPods(own) => own.with(|own| {
                for pod in own.pods.values() {
                    self.tell(Change::Applied(Object::Pod(pod.clone())));
                }
                self.tell(Change::Listed(Kind::Pod));
            }),
            Part::OwnPods(own) => own.with(|own| {
                let named = own.named.take().unwrap_or_default();
                let gone: Vec<Name> =
                    own.pods.keys().filter(|name| !named.contains(*name)).cloned().collect();
                for pod in gone.iter().filter_map(|name| own.pods.remove(name)) {
                    self.tell(Change::Gone(Object::Pod(pod)));
                }
                if !std::mem::replace(&mut own.listed, true) {
                    self.tell(Change::Listed(Kind::Pod));
                }
            }),
        }
    }
}
