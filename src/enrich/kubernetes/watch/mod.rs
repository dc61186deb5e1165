//! The watches of the API server.
//!
//! Each kind has a [`Stream`](stream::Stream) of its own that lists, watches and begins anew where it must; what was known stays
//! in use meanwhile. Own pods come first; the rest of the cluster follows once they are there. README.md in this folder says what
//! it costs the server and us.

mod backoff;
mod owners;
mod request;
mod split;
mod stream;
mod told;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

pub use self::backoff::Backoff;
use self::stream::Stream;
pub use self::told::OwnPods;
use self::told::{Part, Telling};
use super::access::Access;
use super::object::{Kind, Watched};
use super::progress::Progresses;
use crate::config::WatchScope;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The first retry comes within.
    pub first_retry: Duration,
    /// No retry waits longer.
    pub last_retry: Duration,
    /// A watch in which nothing is said for so long is taken for dead; servers send a bookmark a minute.
    pub silence: Duration,
    /// A watch that has lived so long was none in vain: the next failure is retried as soon as a first one.
    pub settled: Duration,
    /// The server ends a watch after so long, or up to twice as much.
    pub watch_for: Duration,
    /// The other kinds wait for the own pods so long at most.
    pub head_start: Duration,
    /// A node that asks for owners one by one looks for new ones this often.
    pub owners_every: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            first_retry: Duration::from_millis(250),
            last_retry: Duration::from_secs(30),
            silence: Duration::from_secs(90),
            settled: Duration::from_secs(5),
            watch_for: Duration::from_secs(300),
            head_start: Duration::from_secs(2),
            owners_every: Duration::from_secs(1),
        }
    }
}

/// What to watch, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The own node's name; empty: not known, then no pods come first.
    pub node: String,
    /// How much of the cluster: all, or pods of the own node and their owners, the own node, services and EndpointSlices.
    pub scope: WatchScope,
    /// A list of up to a thousand objects is compared anew this often; longer ones more seldom in proportion.
    pub resync: Duration,
    /// How long things may take.
    pub timing: Timing,
}

/// Running watches; they end when this is dropped.
#[derive(Debug)]
pub struct Watches {
    _tasks: JoinSet<()>,
    own: Arc<OwnPods>,
}

impl Watches {
    /// Starts them on the current runtime; `first_sync` is called once the pods of the own node are known (all pods, if the own
    /// node is not).
    pub fn start(
        settings: &Settings,
        access: &Arc<Access>,
        watched: &Arc<dyn Watched>,
        progresses: &Progresses,
        first_sync: impl FnOnce() + Send + 'static,
    ) -> Self {
        let own = Arc::new(OwnPods::default());
        let (synced, mut first) = watch::channel(false);
        let mut start = Start { settings, access, watched, progresses, tasks: JoinSet::new() };
        let node = settings.node.as_str();
        let of_node = |field: &str| format!("{field}={node}");
        let mut synced = Some(synced);
        if !node.is_empty() {
            let part = Part::OwnPods(Arc::clone(&own));
            start.stream("own_pods", part, of_node("spec.nodeName"), synced.take(), None);
        }
        let after = first.clone();
        let after = || Some(after.clone()).filter(|_| !node.is_empty());
        start.tasks.spawn(async move {
            // An end without it is the end of the watches.
            if first.wait_for(|synced| *synced).await.is_ok() {
                first_sync();
            }
        });
        let whole = |kind: Kind| (request::plural(kind), Part::Whole(kind));
        match settings.scope {
            WatchScope::Cluster => {
                // Pods that no node has yet have no address either.
                let selector = if node.is_empty() {
                    "spec.nodeName!=".to_owned()
                } else {
                    format!("spec.nodeName!=,spec.nodeName!={node}")
                };
                start.stream("pods", Part::OtherPods(Arc::clone(&own)), selector, synced.take(), after());
                for kind in [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ReplicaSet, Kind::Job] {
                    let (name, part) = whole(kind);
                    start.stream(name, part, String::new(), None, after());
                }
            }
            WatchScope::Node => {
                for (kind, selector) in [
                    (Kind::Service, String::new()),
                    (Kind::EndpointSlice, String::new()),
                    (Kind::Node, of_node("metadata.name")),
                ] {
                    let (name, part) = whole(kind);
                    start.stream(name, part, selector, None, after());
                }
                start.owners(&own, synced.take());
            }
        }
        Self { _tasks: start.tasks, own }
    }

    /// Pods of the own node.
    pub fn own_pods(&self) -> Arc<OwnPods> {
        Arc::clone(&self.own)
    }
}

struct Start<'a> {
    settings: &'a Settings,
    access: &'a Arc<Access>,
    watched: &'a Arc<dyn Watched>,
    progresses: &'a Progresses,
    tasks: JoinSet<()>,
}

impl Start<'_> {
    /// A stream that says when it is synced, and waits until another is.
    fn stream(
        &mut self,
        name: &'static str,
        part: Part,
        selector: String,
        synced: Option<watch::Sender<bool>>,
        after: Option<watch::Receiver<bool>>,
    ) {
        let strictly = matches!(part, Part::OtherPods(_));
        let telling = Telling { part, watched: Arc::clone(self.watched) };
        let progress = self.progresses.add(name, request::resource(telling.kind()));
        let Settings { resync, timing, .. } = *self.settings;
        let head_start = timing.head_start;
        let stream =
            Stream::new(Arc::clone(self.access), telling, selector, progress, timing, resync, synced);
        self.tasks.spawn(async move {
            if let Some(mut after) = after {
                let synced = after.wait_for(|synced| *synced);
                if strictly {
                    // Two lists of one kind must not be told at once.
                    let _ = synced.await;
                } else {
                    let _ = tokio::time::timeout(head_start, synced).await;
                }
            }
            stream.run().await;
        });
    }

    fn owners(&mut self, own: &Arc<OwnPods>, synced: Option<watch::Sender<bool>>) {
        let asked = [Kind::ReplicaSet, Kind::Job]
            .map(|kind| (kind, self.progresses.add(request::plural(kind), request::resource(kind))));
        let owners = owners::Owners::new(
            Arc::clone(self.access),
            Arc::clone(self.watched),
            Arc::clone(own),
            asked,
            self.settings.timing,
        );
        self.tasks.spawn(async move {
            // Kept, so that nobody takes its end for a sync.
            let _synced = synced;
            owners.run().await;
        });
    }
}
