//! Alerts and interfaces that can't be attached to, as Kubernetes Events (`events.k8s.io/v1`) of the pod or the node.
//!
//! Nothing is queued: the detector's own bounded memory is looked at every second, and what is new in it is told, one thing
//! at a time. An alert that goes on is a series on the same Event. A cap on Events keeps a storm out of the API server; what
//! it holds back, and what fails, is counted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::clock::WallClock;
use crate::detect::alert::Alert;
use crate::detect::kind::Severity;
use crate::enrich::kubernetes::access::{Access, Failure, Reason};
use crate::enrich::kubernetes::progress::EventCounts;
use crate::enrich::kubernetes::watch::{Backoff, OwnPods};
use crate::flow::who::Names;

/// How often alerts are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Looks at alerts between two at interfaces.
const LOOKS: u32 = 10;
/// A server that takes no Event is tried again within so long.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A look ends at so many that are forbidden, as all may be.
const FORBIDDEN_MAX: usize = 4;
/// Bytes of a note that a server takes.
const NOTE_MAX: usize = 1024;

/// How many Events are told.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// So many may be told at once.
    pub burst: u32,
    /// Each of these one more may be.
    pub refill: Duration,
    /// A series is told on no sooner than this.
    pub series: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { burst: 10, refill: Duration::from_secs(10), series: Duration::from_secs(300) }
    }
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Sign {
    /// The same for the same thing.
    pub key: String,
    /// When it began, nanoseconds of `CLOCK_MONOTONIC`: another beginning is another Event.
    pub first_ns: u64,
    /// When it was seen last.
    pub last_ns: u64,
    /// In one word, like `PortScan`.
    pub reason: String,
    /// What was done, in one word.
    pub action: &'static str,
    /// May well be harmless.
    pub harmless: bool,
    /// In one sentence.
    pub note: String,
    /// Whom it may be about.
    pub addresses: Vec<IpAddr>,
}

impl Sign {
    /// Of an alert, with the names of its ends.
    pub fn of_alert(alert: &Alert, names: Option<&dyn Names>) -> Self {
        let word = |word: &str| word[..1].to_uppercase() + &word[1..];
        Self {
            key: alert.id(),
            first_ns: alert.first_ns,
            last_ns: alert.found.last_ns,
            reason: alert.kind.name().split('_').map(word).collect(),
            action: "Detect",
            harmless: alert.kind.severity() == Severity::Low,
            note: format!("{}; {}", alert.message(&alert.ends(names)), alert.kind.hint()),
            addresses: [alert.subject.src, alert.subject.dst].into_iter().flatten().collect(),
        }
    }

    /// Of an interface that can't be attached to.
    pub fn of_interface(name: &str, error: &str) -> Self {
        Self {
            key: format!("attach-{name}"),
            first_ns: 0,
            last_ns: 0,
            reason: "AttachFailed".into(),
            action: "Attach",
            harmless: false,
            note: format!("packets of interface {name} are not seen: {error}"),
            addresses: Vec::new(),
        }
    }
}

/// What was told of a thing.
struct Told {
    first_ns: u64,
    last_ns: u64,
    /// Path of the Event; `None`: it was held back.
    path: Option<String>,
    count: u32,
    at: Instant,
}

/// The server forbade it: its namespace may be going, or closed to us.
struct Forbidden {
    backoff: Backoff,
    until: Instant,
}

/// Tells Events.
pub struct Events {
    access: Arc<Access>,
    own: Arc<OwnPods>,
    node: String,
    counts: Arc<EventCounts>,
    limits: Limits,
    told: HashMap<String, Told>,
    /// By key; each is tried again by itself.
    forbidden: HashMap<String, Forbidden>,
    /// Events that may be told now, and when that was reckoned.
    left: f64,
    reckoned: Instant,
}

fn micro(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

impl Events {
    /// About this node and its pods.
    pub fn new(
        access: Arc<Access>,
        own: Arc<OwnPods>,
        node: &str,
        counts: Arc<EventCounts>,
        limits: Limits,
    ) -> Self {
        Self {
            access,
            own,
            node: node.into(),
            counts,
            limits,
            told: HashMap::new(),
            forbidden: HashMap::new(),
            left: f64::from(limits.burst),
            reckoned: Instant::now(),
        }
    }

    /// Goes on until it is dropped. `alerts` must be quick; `interfaces` (those that failed, and why) may block.
    pub async fn run<A, I>(mut self, alerts: A, interfaces: I)
    where
        A: Fn() -> Vec<Sign> + Send,
        I: Fn() -> Vec<(String, String)> + Clone + Send + 'static,
    {
        let mut backoff = Backoff::new(LOOK, RETRY_MAX);
        let mut failed = Vec::new();
        for look in 0u32.. {
            if look % LOOKS == 0 {
                let interfaces = interfaces.clone();
                failed = tokio::task::spawn_blocking(interfaces).await.unwrap_or_default();
            }
            let attaches = failed.iter().map(|(name, error)| Sign::of_interface(name, error));
            let wait = match self.look(alerts().into_iter().chain(attaches).collect()).await {
                Ok(()) => {
                    backoff.reset();
                    LOOK
                }
                // So few wait by themselves, and nothing else with them.
                Err(failure)
                    if failure.reason == Reason::Forbidden && self.forbidden.len() < FORBIDDEN_MAX =>
                {
                    LOOK
                }
                Err(failure) => backoff.next(failure.retry_after).max(LOOK),
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Tells what is new. What is wrong with one does not stand in the way of the others.
    ///
    /// # Errors
    /// The last failure; what the server did not judge for good is tried again at a later look.
    pub async fn look(&mut self, mut signs: Vec<Sign>) -> Result<(), Failure> {
        self.told.retain(|key, _| signs.iter().any(|sign| sign.key == *key));
        self.forbidden.retain(|key, _| signs.iter().any(|sign| sign.key == *key));
        // What was forbidden comes last, and in turn.
        signs.sort_by_key(|sign| self.forbidden.get(&sign.key).map(|forbidden| forbidden.until));
        let mut outcome = Ok(());
        let mut forbidden = 0;
        for sign in signs {
            let Err(failure) = self.tell_news(&sign).await else { continue };
            self.counts.failed(&failure);
            match failure.reason {
                Reason::Forbidden => {
                    self.put_off(&sign, &failure);
                    forbidden += 1;
                }
                Reason::Refused | Reason::NotFound => {}
                // It would be the same for all.
                _ => return Err(failure),
            }
            outcome = Err(failure);
            if forbidden == FORBIDDEN_MAX {
                break;
            }
        }
        outcome
    }

    /// Tells what is new of one, unless it is put off.
    async fn tell_news(&mut self, sign: &Sign) -> Result<(), Failure> {
        if self.forbidden.get(&sign.key).is_some_and(|forbidden| Instant::now() < forbidden.until) {
            return Ok(());
        }
        let known = self.told.get(&sign.key).filter(|told| told.first_ns == sign.first_ns);
        let told = match known {
            None => self.tell(sign).await,
            Some(told) if told.last_ns < sign.last_ns && told.at.elapsed() >= self.limits.series => {
                match told.path.clone() {
                    Some(path) => self.go_on(sign, &path).await,
                    None => Ok(()),
                }
            }
            Some(_) => Ok(()),
        };
        if told.is_ok() {
            self.forbidden.remove(&sign.key);
        }
        told
    }

    /// Each time for longer.
    fn put_off(&mut self, sign: &Sign, failure: &Failure) {
        let new = || Forbidden { backoff: Backoff::new(LOOK, RETRY_MAX), until: Instant::now() };
        let forbidden = self.forbidden.entry(sign.key.clone()).or_insert_with(new);
        forbidden.until = Instant::now() + forbidden.backoff.next(failure.retry_after).max(LOOK);
    }

    /// Takes one of the Events that may be told.
    fn may_tell(&mut self) -> bool {
        let more = self.reckoned.elapsed().as_secs_f64() / self.limits.refill.as_secs_f64().max(1e-3);
        self.reckoned = Instant::now();
        self.left = (self.left + more).min(f64::from(self.limits.burst));
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }

    fn keep(&mut self, sign: &Sign, path: Option<String>, count: u32) {
        let told = Told { first_ns: sign.first_ns, last_ns: sign.last_ns, path, count, at: Instant::now() };
        self.told.insert(sign.key.clone(), told);
    }

    async fn tell(&mut self, sign: &Sign) -> Result<(), Failure> {
        if !self.may_tell() {
            self.counts.held_back();
            self.keep(sign, None, 0);
            return Ok(());
        }
        let (namespace, event) = self.event(sign);
        let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        let name = event["metadata"]["name"].as_str().unwrap_or_default();
        let own_path = format!("{path}/{name}");
        match self.access.write(Method::POST, &path, "application/json", event.to_string().into_bytes()).await
        {
            Ok(()) => {
                self.counts.sent();
                self.keep(sign, Some(own_path), 1);
                Ok(())
            }
            // The server will not take it another time either.
            Err(failure) if matches!(failure.reason, Reason::Refused | Reason::NotFound) => {
                self.keep(sign, None, 0);
                Err(failure)
            }
            Err(failure) => {
                self.left += 1.0;
                Err(failure)
            }
        }
    }

    /// It goes on: another of its series.
    async fn go_on(&mut self, sign: &Sign, path: &str) -> Result<(), Failure> {
        let count = self.told.get(&sign.key).map_or(1, |told| told.count).saturating_add(1);
        let last = micro(WallClock::now().utc(sign.last_ns));
        let patch = json!({ "series": { "count": count, "lastObservedTime": last } });
        let patched = self
            .access
            .write(Method::PATCH, path, "application/merge-patch+json", patch.to_string().into_bytes())
            .await;
        match patched {
            Ok(()) => {
                self.counts.sent();
                self.keep(sign, Some(path.into()), count);
                Ok(())
            }
            // Servers forget Events after an hour.
            Err(failure) if failure.reason == Reason::NotFound => {
                self.told.remove(&sign.key);
                Ok(())
            }
            Err(failure) => {
                self.keep(sign, Some(path.into()), count - 1);
                Err(failure)
            }
        }
    }

    fn event(&self, sign: &Sign) -> (String, Value) {
        let pod = sign.addresses.iter().find_map(|address| self.own.holder(*address));
        let (namespace, regarding) = match pod {
            Some(pod) => {
                let uid = format!("{:032x}", pod.uid);
                let uid = [&uid[..8], &uid[8..12], &uid[12..16], &uid[16..20], &uid[20..]].join("-");
                let namespace = pod.name.namespace.to_string();
                let regarding = json!({ "apiVersion": "v1", "kind": "Pod", "namespace": namespace,
                    "name": *pod.name.name, "uid": uid });
                (namespace, regarding)
            }
            // Events of what has no namespace stand in `default`; a node's are found by its name as uid, as kubelet's are.
            None => {
                let regarding =
                    json!({ "apiVersion": "v1", "kind": "Node", "name": self.node, "uid": self.node });
                ("default".into(), regarding)
            }
        };
        let time = if sign.first_ns == 0 { Timestamp::now() } else { WallClock::now().utc(sign.first_ns) };
        let mut note = sign.note.clone();
        while note.len() > NOTE_MAX {
            note.pop();
        }
        // Of this node, thing and time: agents don't get into each other's way.
        let name: String = format!("netmon.{}.{:x}", sign.key, time.as_microsecond())
            .to_lowercase()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
            .collect();
        let event = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": { "name": name, "namespace": namespace },
            "eventTime": micro(time),
            "reportingController": "netmon",
            "reportingInstance": self.node,
            "action": sign.action,
            "reason": sign.reason,
            "type": if sign.harmless { "Normal" } else { "Warning" },
            "note": note,
            "regarding": regarding,
        });
        (namespace, event)
    }
}
