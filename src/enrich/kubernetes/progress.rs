//! What each watch of the API server says of itself: kept as data, read by status, metrics and log.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::access::{Failure, Reason};

/// A failure that has gone by so soon is not logged: an API server that starts refuses a while what it will grant.
const WORTH_A_WORD: Duration = Duration::from_secs(2);

/// One watch, as users read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchStatus {
    /// `own_pods`, `pods`, `services`, `endpointslices`, `nodes`, `replicasets`, `jobs`.
    pub kind: String,
    /// Since when it knows every object, UTC; `null`: not yet.
    pub synced_since: Option<Timestamp>,
    /// Objects that there are.
    pub objects: u64,
    /// When the server said something last, UTC.
    pub last_word: Option<Timestamp>,
    /// What is wrong now; what was known before stays in use.
    pub error: Option<String>,
}

/// The connection to the API server, as users read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesStatus {
    /// Its address; `null`: no way to one is known.
    pub server: Option<String>,
    /// This node's name.
    pub node: String,
    /// Where that was learnt.
    pub node_from: String,
    /// `node` or `cluster`.
    pub scope: String,
    /// What is watched.
    pub watches: Vec<WatchStatus>,
    /// Why Events can't be told.
    pub events_error: Option<String>,
}

/// What one watch counts.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Whether it knows every object.
    pub synced: bool,
    /// Objects that there are.
    pub objects: u64,
    /// Seconds since the server said something; `None`: it never has.
    pub silence_seconds: Option<f64>,
    /// Lists that were read in full.
    pub lists: u64,
    /// Watches that were begun.
    pub watches: u64,
    /// Objects that could not be read.
    pub unreadable: u64,
    /// Failures by reason.
    pub failures: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    synced_since: Option<Timestamp>,
    last_word: Option<(Instant, Timestamp)>,
    trouble: Option<Trouble>,
}

#[derive(Debug)]
struct Trouble {
    reason: Reason,
    message: String,
    since: Instant,
    logged: bool,
}

/// One watch's own record.
#[derive(Debug)]
pub struct Progress {
    /// That the server can't be reached has been logged, for all.
    away: Arc<AtomicBool>,
    kind: &'static str,
    /// What RBAC calls it, like `pods` or `replicasets.apps`.
    resource: String,
    state: Mutex<State>,
}

impl Progress {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The server said something.
    pub(super) fn heard(&self) {
        self.with(|state| state.last_word = Some((Instant::now(), Timestamp::now())));
    }

    /// A watch was begun.
    pub(super) fn watching(&self) {
        self.with(|state| state.counts.watches += 1);
    }

    /// All is well.
    pub(super) fn well(&self) {
        let logged = self.with(|state| state.trouble.take()).is_some_and(|trouble| trouble.logged);
        if self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("the Kubernetes API server can be reached again");
        } else if logged {
            tracing::info!(kind = self.kind, "the Kubernetes API server tells {} again", self.resource);
        }
    }

    /// Nothing is to be asked: nothing is wrong with it, which says nothing of the server.
    pub(super) fn idle(&self) {
        self.with(|state| state.trouble = None);
    }

    /// A list is complete and has so many objects.
    pub(super) fn listed(&self, objects: u64) {
        self.with(|state| state.counts.lists += 1);
        self.knows(objects);
    }

    /// All objects are known, and there are so many.
    pub(super) fn knows(&self, objects: u64) {
        self.with(|state| {
            state.counts.synced = true;
            state.counts.objects = objects;
            state.synced_since.get_or_insert_with(Timestamp::now);
        });
    }

    /// An object came or went.
    pub(super) fn counted(&self, more: bool) {
        self.with(|state| {
            let objects = &mut state.counts.objects;
            *objects = if more { *objects + 1 } else { objects.saturating_sub(1) };
        });
    }

    /// An object could not be read.
    pub(super) fn unreadable(&self, why: &str) {
        let first = self.with(|state| {
            state.counts.unreadable += 1;
            state.counts.unreadable == 1
        });
        if first {
            tracing::warn!(
                kind = self.kind,
                error = why,
                "an object that the API server told can't be read and is left out; more are counted only"
            );
        }
    }

    /// A request by this verb failed. Logged once for each change that lasts.
    pub(super) fn failed(&self, verb: &str, failure: &Failure) {
        let message = match failure.reason {
            Reason::Forbidden => format!(
                "may not {verb} {}: a ClusterRole bound to this service account must grant the verb `{verb}` on `{}` ({})",
                self.resource, self.resource, failure.message
            ),
            _ => format!("cannot {verb} {}: {}", self.resource, failure.message),
        };
        let say = self.with(|state| {
            *state.counts.failures.entry(failure.reason.name()).or_default() += 1;
            let known = state.trouble.take_if(|trouble| trouble.reason == failure.reason);
            let (since, logged) =
                known.map_or((Instant::now(), false), |trouble| (trouble.since, trouble.logged));
            let say = !logged && since.elapsed() >= WORTH_A_WORD;
            let trouble =
                Trouble { reason: failure.reason, message: message.clone(), since, logged: logged || say };
            state.trouble = Some(trouble);
            say
        });
        // One line for all kinds, if it is the same for all.
        let said = failure.reason.is_of_the_connection() && say && self.away.swap(true, Ordering::Relaxed);
        if say && !said {
            tracing::warn!(kind = self.kind, reason = failure.reason.name(), "Kubernetes: {message}");
        } else {
            tracing::debug!(kind = self.kind, reason = failure.reason.name(), "Kubernetes: {message}");
        }
    }

    fn counts(&self) -> Counts {
        self.with(|state| Counts {
            silence_seconds: state.last_word.map(|(at, _)| at.elapsed().as_secs_f64()),
            ..state.counts.clone()
        })
    }

    fn status(&self) -> WatchStatus {
        self.with(|state| WatchStatus {
            kind: self.kind.into(),
            synced_since: state.synced_since,
            objects: state.counts.objects,
            last_word: state.last_word.map(|(_, at)| at),
            error: state.trouble.as_ref().map(|trouble| trouble.message.clone()),
        })
    }
}

/// All watches.
#[derive(Clone, Debug, Default)]
pub struct Progresses {
    all: Arc<Mutex<Vec<Arc<Progress>>>>,
    away: Arc<AtomicBool>,
}

impl Progresses {
    pub(super) fn add(&self, kind: &'static str, resource: String) -> Arc<Progress> {
        let progress =
            Arc::new(Progress { away: Arc::clone(&self.away), kind, resource, state: Mutex::default() });
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&progress));
        progress
    }

    fn all(&self) -> Vec<Arc<Progress>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What each counts, by its kind.
    pub fn counts(&self) -> Vec<(&'static str, Counts)> {
        self.all().iter().map(|progress| (progress.kind, progress.counts())).collect()
    }

    /// What each says.
    pub fn statuses(&self) -> Vec<WatchStatus> {
        self.all().iter().map(|progress| progress.status()).collect()
    }
}

/// What became of the Events that were told.
#[derive(Debug, Default)]
pub struct EventCounts(Mutex<EventState>);

#[derive(Debug, Default)]
struct EventState {
    sent: u64,
    failed: u64,
    held_back: u64,
    trouble: Option<String>,
}

impl EventCounts {
    fn with<T>(&self, change: impl FnOnce(&mut EventState) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// By outcome.
    pub fn outcomes(&self) -> [(&'static str, u64); 3] {
        self.with(|state| [("sent", state.sent), ("failed", state.failed), ("held_back", state.held_back)])
    }

    /// Why none can be told now.
    pub fn trouble(&self) -> Option<String> {
        self.with(|state| state.trouble.clone())
    }

    /// The server took one.
    pub fn sent(&self) {
        let before = self.with(|state| {
            state.sent += 1;
            state.trouble.take()
        });
        if before.is_some() {
            tracing::info!("Kubernetes Events can be told again");
        }
    }

    /// The server did not.
    pub fn failed(&self, failure: &Failure) {
        let why = match failure.reason {
            Reason::Forbidden => format!(
                "a ClusterRole bound to this service account must grant the verbs create and patch on events.events.k8s.io, or \
                 kubernetes.events be false ({failure})"
            ),
            _ => failure.to_string(),
        };
        let before = self.with(|state| {
            state.failed += 1;
            state.trouble.replace(why.clone())
        });
        if before.is_none() {
            tracing::warn!("Kubernetes Events can't be told: {why}");
        }
    }

    /// There were too many.
    pub fn held_back(&self) {
        self.with(|state| state.held_back += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_says_that_the_server_is_there_again() {
        let all = Progresses::default();
        let owners = all.add("jobs", "jobs.batch".into());
        owners.failed("get", &Failure::new(Reason::Unreachable, "no connection"));
        all.away.store(true, Ordering::Relaxed);
        owners.idle();
        assert!(all.away.load(Ordering::Relaxed), "nothing was asked");
        assert_eq!(all.statuses()[0].error, None);
        owners.well();
        assert!(!all.away.load(Ordering::Relaxed));
    }
}
