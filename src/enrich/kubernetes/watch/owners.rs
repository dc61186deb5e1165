//! Whose the owners of the own pods are, asked one by one: a node that watches only itself needs some dozen of the cluster's
//! ten thousands of ReplicaSets and Jobs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::super::access::{Access, Failure, Reason};
use super::super::object::{Change, Kind, Name, Object, Watched};
use super::super::progress::Progress;
use super::super::trim::{Raw, Words};
use super::backoff::Backoff;
use super::split::OBJECT_MAX;
use super::{OwnPods, Timing, request};
use crate::clock::monotonic_ns;

/// Asks for owners: for each kind by itself, since what may not be read of one may be of the other.
pub(super) struct Owners([Asked; 2]);

/// Asks for those of one kind.
struct Asked {
    kind: Kind,
    access: Arc<Access>,
    watched: Arc<dyn Watched>,
    own: Arc<OwnPods>,
    progress: Arc<Progress>,
    timing: Timing,
    /// `None`: the server has no such object.
    known: HashMap<Name, Option<Object>>,
    words: Words,
}

impl Owners {
    pub(super) fn new(
        access: Arc<Access>,
        watched: Arc<dyn Watched>,
        own: Arc<OwnPods>,
        progress: [(Kind, Arc<Progress>); 2],
        timing: Timing,
    ) -> Self {
        Self(progress.map(|(kind, progress)| Asked {
            kind,
            access: Arc::clone(&access),
            watched: Arc::clone(&watched),
            own: Arc::clone(&own),
            progress,
            timing,
            known: HashMap::new(),
            words: Words::default(),
        }))
    }

    /// Goes on until it is dropped.
    pub(super) async fn run(self) {
        let [one, other] = self.0;
        tokio::join!(one.run(), other.run());
    }
}

impl Asked {
    async fn run(mut self) {
        let mut backoff = Backoff::new(self.timing.first_retry, self.timing.last_retry);
        loop {
            let wait = match self.look().await {
                Ok(()) => {
                    backoff.reset();
                    self.timing.owners_every
                }
                Err(failure) => backoff.next(failure.retry_after),
            };
            tokio::time::sleep(wait).await;
        }
    }

    fn tell(&self, change: Change) {
        self.watched.take(change, monotonic_ns());
    }

    fn wanted(&self) -> HashSet<Name> {
        let owners = self.own.owners().into_iter();
        owners.filter(|(kind, _)| *kind == self.kind).map(|(_, name)| name).collect()
    }

    async fn look(&mut self) -> Result<(), Failure> {
        let wanted = self.wanted();
        let gone: Vec<Name> = self.known.keys().filter(|owner| !wanted.contains(*owner)).cloned().collect();
        for owner in gone {
            if let Some(Some(object)) = self.known.remove(&owner) {
                self.tell(Change::Gone(object));
            }
        }
        let new: Vec<Name> = wanted.into_iter().filter(|owner| !self.known.contains_key(owner)).collect();
        let asks = !new.is_empty();
        let mut outcome = Ok(());
        for name in new {
            match self.ask(&name).await {
                Ok(object) => {
                    if let Some(object) = &object {
                        self.tell(Change::Applied(object.clone()));
                    }
                    self.known.insert(name, object);
                }
                Err(failure) => {
                    self.progress.failed("get", &failure);
                    outcome = Err(failure);
                }
            }
        }
        if outcome.is_ok() {
            self.progress.knows(self.known.values().flatten().count() as u64);
            if asks { self.progress.well() } else { self.progress.idle() }
        }
        outcome
    }

    async fn ask(&mut self, name: &Name) -> Result<Option<Object>, Failure> {
        let path = request::one(self.kind, &name.namespace, &name.name);
        let mut answer = match self.access.get(&path, request::accept(self.kind)).await {
            Err(failure) if failure.reason == Reason::NotFound => return Ok(None),
            answer => answer?,
        };
        let mut bytes = Vec::new();
        while let Some(more) = answer.chunk(self.timing.silence).await? {
            bytes.extend_from_slice(&more);
            if bytes.len() > OBJECT_MAX {
                return Err(Failure::new(Reason::Malformed, "an object without end"));
            }
        }
        self.progress.heard();
        let raw: Raw = serde_json::from_slice(&bytes)
            .map_err(|error| Failure::new(Reason::Malformed, format!("{path}: {error}")))?;
        Ok(raw.trim(self.kind, &mut self.words))
    }
}
