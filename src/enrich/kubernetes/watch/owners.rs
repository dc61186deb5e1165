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

/// Asks for owners.
pub(super) struct Owners {
    access: Arc<Access>,
    watched: Arc<dyn Watched>,
    own: Arc<OwnPods>,
    progress: [(Kind, Arc<Progress>); 2],
    timing: Timing,
    /// `None`: the server has no such object.
    known: HashMap<(Kind, Name), Option<Object>>,
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
        Self { access, watched, own, progress, timing, known: HashMap::new(), words: Words::default() }
    }

    /// Goes on until it is dropped.
    pub(super) async fn run(mut self) {
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

    async fn look(&mut self) -> Result<(), Failure> {
        let wanted = self.own.owners();
        let gone: Vec<(Kind, Name)> =
            self.known.keys().filter(|owner| !wanted.contains(*owner)).cloned().collect();
        for owner in gone {
            if let Some(Some(object)) = self.known.remove(&owner) {
                self.tell(Change::Gone(object));
            }
        }
        let new: HashSet<(Kind, Name)> =
            wanted.into_iter().filter(|owner| !self.known.contains_key(owner)).collect();
        let mut failed = None;
        for (kind, name) in new {
            // What may not be read of one kind may be of the other.
            match self.ask(kind, &name).await {
                Ok(object) => {
                    if let Some(object) = &object {
                        self.tell(Change::Applied(object.clone()));
                    }
                    self.known.insert((kind, name), object);
                }
                Err(failure) => {
                    self.of(kind).inspect(|progress| progress.failed("get", &failure));
                    failed = Some(failure);
                }
            }
        }
        if let Some(failure) = failed {
            return Err(failure);
        }
        for (kind, progress) in &self.progress {
            progress.knows(
                self.known.iter().filter(|((of, _), found)| of == kind && found.is_some()).count() as u64,
            );
            progress.well();
        }
        Ok(())
    }

    fn of(&self, kind: Kind) -> Option<&Arc<Progress>> {
        self.progress.iter().find(|(of, _)| *of == kind).map(|(_, progress)| progress)
    }

    async fn ask(&mut self, kind: Kind, name: &Name) -> Result<Option<Object>, Failure> {
        let path = request::one(kind, &name.namespace, &name.name);
        let mut answer = match self.access.get(&path, request::accept(kind)).await {
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
        self.of(kind).inspect(|progress| progress.heard());
        let raw: Raw = serde_json::from_slice(&bytes)
            .map_err(|error| Failure::new(Reason::Malformed, format!("{path}: {error}")))?;
        Ok(raw.trim(kind, &mut self.words))
    }
}
