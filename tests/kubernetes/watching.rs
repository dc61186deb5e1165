//! The real watches of one test, and what they have told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use netmon::config::WatchScope;
use netmon::enrich::kubernetes::access::Access;
use netmon::enrich::kubernetes::object::{Change, Kind, Object, Watched};
use netmon::enrich::kubernetes::progress::{Counts, Progresses, WatchStatus};
use netmon::enrich::kubernetes::watch::{Settings, Timing, Watches};
use tokio::runtime::Runtime;

use crate::common::apiserver::ApiServer;

/// Keeps what is told, and what there is by it.
#[derive(Default)]
struct Recorder {
    told: Mutex<Vec<Change>>,
    there: Mutex<There>,
}

#[derive(Default)]
struct There {
    objects: BTreeMap<String, (Kind, Object)>,
    /// Not applied since their list began.
    doubtful: BTreeSet<String>,
}

fn kind_of(object: &Object) -> Kind {
    match object {
        Object::Pod(_) => Kind::Pod,
        Object::Service(_) => Kind::Service,
        Object::EndpointSlice(_) => Kind::EndpointSlice,
        Object::Node(_) => Kind::Node,
        Object::Owned(owned) => owned.kind,
    }
}

/// An object in brief: kind, name, and what matters of it.
fn brief(object: &Object) -> String {
    let words = match object {
        Object::Pod(pod) => {
            let node = pod.node.as_deref().unwrap_or("-");
            let owner = pod
                .owner
                .as_ref()
                .map_or(String::new(), |owner| format!(" of {}/{}", owner.kind, owner.name));
            let host = if pod.host_network { " host" } else { "" };
            let ended = if pod.ended.is_some() { " ended" } else { "" };
            format!("{} {node} {:?}{owner}{host}{ended}", pod.name.name, pod.addresses)
        }
        Object::Service(service) => {
            let ports: Vec<u16> = service.ports.iter().map(|port| port.port).collect();
            format!("{} {:?} {ports:?}", service.name.name, service.addresses)
        }
        Object::EndpointSlice(slice) => {
            let pods: Vec<&str> = slice
                .backends
                .iter()
                .map(|backend| backend.pod.as_ref().map_or("-", |pod| &pod.name))
                .collect();
            format!("{} {} {pods:?}", slice.name.name, slice.service.as_deref().unwrap_or("-"))
        }
        Object::Node(node) => {
            format!("{} {:?} {}", node.name, node.addresses, node.zone.as_deref().unwrap_or("-"))
        }
        Object::Owned(owned) => {
            let owner =
                owned.owner.as_ref().map_or("-".into(), |owner| format!("{}/{}", owner.kind, owner.name));
            format!("{} of {owner}", owned.name.name)
        }
    };
    format!("{:?} {words}", kind_of(object))
}

fn name(object: &Object) -> String {
    brief(object).split(' ').take(2).collect::<Vec<_>>().join(" ")
}

impl Watched for Recorder {
    fn take(&self, change: Change, _: u64) {
        let mut there = self.there.lock().unwrap();
        match &change {
            Change::Listing(kind) => {
                let of: Vec<String> = there
                    .objects
                    .iter()
                    .filter(|(_, (of, _))| of == kind)
                    .map(|(name, _)| name.clone())
                    .collect();
                there.doubtful.extend(of);
            }
            Change::Applied(object) => {
                there.doubtful.remove(&name(object));
                there.objects.insert(name(object), (kind_of(object), object.clone()));
            }
            Change::Gone(object) => {
                there.objects.remove(&name(object));
            }
            Change::Listed(kind) => {
                let There { objects, doubtful } = &mut *there;
                objects.retain(|name, (of, _)| of != kind || !doubtful.remove(name));
            }
        }
        self.told.lock().unwrap().push(change);
    }
}

/// The real watches, and what they told.
pub struct Watching {
    recorder: Arc<Recorder>,
    pub progresses: Progresses,
    pub ready: Arc<AtomicBool>,
    _watches: Watches,
    _runtime: Runtime,
}

pub fn timing() -> Timing {
    Timing {
        first_retry: Duration::from_millis(20),
        last_retry: Duration::from_millis(200),
        silence: Duration::from_secs(30),
        settled: Duration::ZERO,
        watch_for: Duration::from_secs(60),
        head_start: Duration::from_millis(300),
        owners_every: Duration::from_millis(20),
    }
}

pub fn settings() -> Settings {
    Settings {
        node: "node-a".into(),
        scope: WatchScope::Cluster,
        resync: Duration::from_secs(600),
        timing: timing(),
    }
}

impl Watching {
    pub fn start(server: &ApiServer) -> Self {
        Self::with(server, &settings())
    }

    pub fn with(server: &ApiServer, settings: &Settings) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let recorder = Arc::new(Recorder::default());
        let progresses = Progresses::default();
        let ready = Arc::new(AtomicBool::new(false));
        let watches = {
            let _inside = runtime.enter();
            let access = Arc::new(Access::new(Some(server.kubeconfig()), Duration::from_secs(2)));
            let watched: Arc<dyn Watched> = recorder.clone();
            let ready = ready.clone();
            Watches::start(settings, &access, &watched, &progresses, move || {
                ready.store(true, Ordering::Release)
            })
        };
        Self { recorder, progresses, ready, _watches: watches, _runtime: runtime }
    }

    /// Waits until something holds; says what is, if it does not within 20 seconds.
    pub fn wait(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition(self) {
            assert!(
                Instant::now() < deadline,
                "not in time: {what}\nthere is: {:#?}\nstatus: {:#?}\ncounts: {:#?}",
                self.there(),
                self.progresses.statuses(),
                self.progresses.counts()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn wait_synced(&self) {
        self.wait("everything is synced", |it| {
            it.progresses.statuses().iter().all(|watch| watch.synced_since.is_some() && watch.error.is_none())
        });
    }

    pub fn wait_there(&self, name: &str) {
        self.wait(&format!("{name} is there"), |it| it.there().iter().any(|brief| brief.starts_with(name)));
    }

    pub fn wait_gone(&self, name: &str) {
        self.wait(&format!("{name} has gone"), |it| !it.there().iter().any(|brief| brief.starts_with(name)));
    }

    /// What there is by what was told, in brief.
    pub fn there(&self) -> Vec<String> {
        self.recorder.there.lock().unwrap().objects.values().map(|(_, object)| brief(object)).collect()
    }

    /// What was told, in brief.
    pub fn told(&self) -> Vec<String> {
        let told = self.recorder.told.lock().unwrap();
        let line = |change: &Change| match change {
            Change::Listing(kind) => format!("{kind:?} listing"),
            Change::Listed(kind) => format!("{kind:?} listed"),
            Change::Applied(object) => format!("+{}", brief(object)),
            Change::Gone(object) => format!("-{}", brief(object)),
        };
        told.iter().map(line).collect()
    }

    pub fn status(&self, kind: &str) -> WatchStatus {
        self.progresses.statuses().into_iter().find(|watch| watch.kind == kind).unwrap()
    }

    pub fn counts(&self, kind: &str) -> Counts {
        self.progresses.counts().into_iter().find(|(of, _)| *of == kind).unwrap().1
    }

    pub fn failures(&self, kind: &str, reason: &str) -> u64 {
        self.counts(kind).failures.get(reason).copied().unwrap_or(0)
    }
}
