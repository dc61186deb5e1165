//! The link to a cluster, as the agent holds it: started with what takes the objects in, asked how it fares.

use std::sync::Arc;
use std::time::Duration;

use super::access::Access;
use super::object::Watched;
use super::progress::{Counts, EventCounts, KubernetesStatus, Progresses};
use super::watch::{OwnPods, Settings, Timing, Watches};
use crate::config::{Kubernetes, WatchScope};

/// A connection and the beginning of an answer may take so long; servers let a request wait for its turn fifteen seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// The link; its watches end with it.
#[derive(Debug)]
pub struct Link {
    access: Arc<Access>,
    progresses: Progresses,
    watches: Watches,
    settings: Settings,
    node_from: &'static str,
    events: Arc<EventCounts>,
}

/// The own node's name, and where it comes from.
pub fn node_name(configured: &str) -> (String, &'static str) {
    if !configured.is_empty() {
        return (configured.into(), "kubernetes.node_name");
    }
    // From the downward API, as most manifests call it.
    if let Some(name) = std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty()) {
        return (name, "NODE_NAME");
    }
    // What kubelet calls a node by default.
    (rustix::system::uname().nodename().to_string_lossy().to_lowercase(), "the host's name")
}

impl Link {
    /// Starts to watch, on the current runtime; `synced` is called once the pods of the own node are known.
    pub fn start(
        config: &Kubernetes,
        watched: &Arc<dyn Watched>,
        synced: impl FnOnce() + Send + 'static,
    ) -> Self {
        let (node, node_from) = node_name(&config.node_name);
        let settings =
            Settings { node, scope: config.scope, resync: config.resync, timing: Timing::default() };
        tracing::info!(node = settings.node, from = node_from, "asking the Kubernetes API server for names");
        let access = Arc::new(Access::new(None, PATIENCE));
        let progresses = Progresses::default();
        let watches = Watches::start(&settings, &access, watched, &progresses, synced);
        Self { access, progresses, watches, settings, node_from, events: Arc::default() }
    }

    /// The way to the API server, for others.
    pub fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access)
    }

    /// The own node's name.
    pub fn node(&self) -> &str {
        &self.settings.node
    }

    /// Pods of the own node.
    pub fn own_pods(&self) -> Arc<OwnPods> {
        self.watches.own_pods()
    }

    /// What each watch counts, by its kind.
    pub fn counts(&self) -> Vec<(&'static str, Counts)> {
        self.progresses.counts()
    }

    /// What became of Events.
    pub fn events(&self) -> Arc<EventCounts> {
        Arc::clone(&self.events)
    }

    /// How it fares.
    pub fn status(&self) -> KubernetesStatus {
        KubernetesStatus {
            server: self.access.server(),
            node: self.settings.node.clone(),
            node_from: self.node_from.into(),
            scope: match self.settings.scope {
                WatchScope::Cluster => "cluster".into(),
                WatchScope::Node => "node".into(),
            },
            watches: self.progresses.statuses(),
            events_error: self.events.trouble(),
        }
    }
}

impl KubernetesStatus {
    /// Whether the own node is one that no pod is on, as if it were called otherwise.
    pub fn lacks_own_pods(&self) -> bool {
        let own = self.watches.iter().find(|watch| watch.kind == "own_pods");
        own.is_some_and(|own| own.synced_since.is_some() && own.objects == 0)
    }

    /// What a user should know beside the table, in plain words.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let failing: Vec<&str> = self
            .watches
            .iter()
            .filter(|watch| watch.error.is_some())
            .map(|watch| watch.kind.as_str())
            .collect();
        if !failing.is_empty() {
            notes.push(format!(
                "Kubernetes: {} can't be watched now and what was known stays in use: see the table below",
                failing.join(", ")
            ));
        }
        if let Some(why) = &self.events_error {
            notes.push(format!("Kubernetes Events can't be told: {why}"));
        }
        if self.lacks_own_pods() {
            notes.push(format!(
                "Kubernetes knows no pod on a node called {} (from {}): set kubernetes.node_name or NODE_NAME if that is not its name",
                self.node, self.node_from
            ));
        }
        notes
    }
}
