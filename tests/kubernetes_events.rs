//! Alerts and failures to attach as Kubernetes Events, against a server that takes them or does not.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::agent::Agent;
use common::apiserver::{ApiServer, Fault, Request, pod, recorded, status};
use common::net::Net;
use netmon::clock::monotonic_ns;
use netmon::enrich::kubernetes::access::{Access, Failure, Reason};
use netmon::enrich::kubernetes::progress::EventCounts;
use netmon::enrich::kubernetes::watch::OwnPods;
use netmon::sink::kubernetes_events::{Events, Limits, Sign};
use serde_json::Value;

/// What is told to a server.
struct Teller {
    server: ApiServer,
    events: Events,
    counts: Arc<EventCounts>,
    runtime: tokio::runtime::Runtime,
}

impl Teller {
    fn new(limits: Limits) -> Self {
        let server = ApiServer::start();
        let access = Arc::new(Access::new(Some(server.kubeconfig()), Duration::from_secs(5)));
        let counts = Arc::new(EventCounts::default());
        let own = Arc::new(OwnPods::default());
        let events = Events::new(access, own, "node-a", Arc::clone(&counts), limits);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        Self { server, events, counts, runtime }
    }

    fn look(&mut self, signs: &[Sign]) -> Result<(), Failure> {
        self.runtime.block_on(self.events.look(signs.to_vec()))
    }

    /// Looks until these are the outcomes.
    fn look_until(&mut self, signs: &[Sign], outcomes: [u64; 3]) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.outcomes() != outcomes && Instant::now() < deadline {
            let _ = self.look(signs);
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(self.outcomes(), outcomes);
    }

    /// What came: verb, path, object.
    fn came(&self) -> Vec<(&'static str, String, Value)> {
        let told = |request: Request| {
            (request.verb(), request.path.clone(), serde_json::from_str(&request.body).unwrap())
        };
        self.server.requests().into_iter().map(told).collect()
    }

    fn outcomes(&self) -> [u64; 3] {
        self.counts.outcomes().map(|(_, count)| count)
    }
}

fn limits() -> Limits {
    Limits { burst: 3, refill: Duration::from_secs(3600), series: Duration::ZERO }
}

fn sign(key: &str) -> Sign {
    let now = monotonic_ns();
    Sign {
        key: key.into(),
        first_ns: now,
        last_ns: now,
        reason: "PortScan".into(),
        action: "Detect",
        harmless: false,
        note: "10.1.0.9 tried about 40 tcp ports of 10.1.0.1".into(),
        addresses: vec!["10.1.0.9".parse().unwrap()],
    }
}

#[test]
fn a_thing_that_goes_on_is_one_event_with_a_series() {
    let mut teller = Teller::new(limits());
    let mut sign = sign("9f2c");
    for _ in 0..3 {
        teller.look(std::slice::from_ref(&sign)).unwrap();
    }
    let came = teller.came();
    assert_eq!(came.len(), 1, "what says nothing new is not told: {came:#?}");
    let (verb, path, event) = &came[0];
    assert_eq!((*verb, path.as_str()), ("create", "/apis/events.k8s.io/v1/namespaces/default/events"));
    for (field, value) in [
        ("reason", "PortScan"),
        ("action", "Detect"),
        ("type", "Warning"),
        ("reportingController", "netmon"),
        ("reportingInstance", "node-a"),
    ] {
        assert_eq!(event[field], value, "{field}");
    }
    assert_eq!(
        (&event["regarding"]["kind"], &event["regarding"]["name"]),
        (&"Node".into(), &"node-a".into())
    );
    // The server reads microseconds and nothing else.
    let time = event["eventTime"].as_str().unwrap();
    assert!(time.len() == "2026-11-25T00:00:00.000000Z".len() && time.ends_with('Z'), "{time}");

    sign.last_ns += 1_000_000;
    teller.look(std::slice::from_ref(&sign)).unwrap();
    let (verb, path, patch) = teller.came().pop().unwrap();
    assert_eq!(verb, "patch");
    assert!(path.ends_with(event["metadata"]["name"].as_str().unwrap()), "{path}");
    assert_eq!(patch["series"]["count"], 2);
    assert_eq!(teller.outcomes(), [2, 0, 0]);
    // The same thing another time is another Event.
    sign.first_ns += 1_000_000_000;
    teller.look(&[sign]).unwrap();
    assert_eq!(teller.came().pop().unwrap().0, "create");
}

#[test]
fn a_storm_is_held_back_and_counted() {
    let mut teller = Teller::new(limits());
    let storm: Vec<Sign> = (0..50).map(|n| sign(&format!("{n:04x}"))).collect();
    for _ in 0..3 {
        teller.look(&storm).unwrap();
    }
    assert_eq!(teller.came().len(), 3);
    assert_eq!(teller.outcomes(), [3, 0, 47]);
}

#[test]
fn a_missing_right_is_named_and_what_failed_is_told_later() {
    let mut teller = Teller::new(limits());
    let forbidden = recorded("list-403.json");
    teller.server.fault(2, Fault::Answer(403, String::new(), forbidden), |_| true);
    let signs = [sign("9f2c"), sign("0001")];
    let failure = teller.look(&signs).unwrap_err();
    assert_eq!((failure.reason, teller.outcomes()), (Reason::Forbidden, [0, 2, 0]));
    assert!(teller.counts.trouble().unwrap().contains("create and patch on events.events.k8s.io"));
    teller.look_until(&signs, [2, 2, 0]);
    assert_eq!(teller.counts.trouble(), None);
}

#[test]
fn an_event_that_is_forbidden_does_not_stand_in_the_way_of_others_and_is_told_later() {
    let mut teller = Teller::new(Limits { burst: 4, ..limits() });
    let forbidden = recorded("list-403.json");
    teller.server.fault(2, Fault::Answer(403, String::new(), forbidden), |request| {
        request.body.contains("netmon.9f2c.")
    });
    let signs = ["9f2c", "0001", "0002", "0003"].map(sign);
    assert_eq!(teller.look(&signs).unwrap_err().reason, Reason::Forbidden);
    assert_eq!(teller.outcomes(), [3, 1, 0]);
    teller.look(&signs).unwrap();
    assert_eq!(teller.came().len(), 4, "it is not asked again at once");
    // It has not used up what may be told.
    teller.look_until(&signs, [4, 2, 0]);
}

#[test]
fn where_all_is_forbidden_few_are_asked_and_each_in_its_turn() {
    let mut teller = Teller::new(limits());
    let forbidden = recorded("list-403.json");
    teller.server.fault(100, Fault::Answer(403, String::new(), forbidden), |_| true);
    let signs: Vec<Sign> = (0..20).map(|n| sign(&format!("{n:04x}"))).collect();
    for looks in 1..=5 {
        assert_eq!(teller.look(&signs).unwrap_err().reason, Reason::Forbidden);
        assert_eq!(teller.outcomes(), [0, looks * 4, 0]);
    }
    let names: std::collections::HashSet<String> =
        teller.came().into_iter().map(|(_, _, event)| event["metadata"]["name"].to_string()).collect();
    assert_eq!(names.len(), 20);
}

#[test]
fn an_event_that_the_server_refuses_does_not_stand_in_the_way_of_others() {
    let mut teller = Teller::new(limits());
    let invalid = status(422, "Invalid", "Event is invalid: note: can have at most 1024 bytes");
    teller.server.fault(1, Fault::Answer(422, String::new(), invalid), |_| true);
    let signs = [sign("9f2c"), sign("0001")];
    teller.look(&signs).unwrap_err();
    teller.look(&signs).unwrap();
    teller.look(&signs).unwrap();
    assert_eq!((teller.came().len(), teller.outcomes()), (2, [1, 1, 0]));
}

#[test]
fn an_event_that_the_server_forgot_is_told_anew() {
    let mut teller = Teller::new(limits());
    let mut sign = sign("9f2c");
    teller.look(std::slice::from_ref(&sign)).unwrap();
    sign.last_ns += 1_000_000;
    let forgotten = status(404, "NotFound", "events.events.k8s.io not found");
    teller.server.fault(1, Fault::Answer(404, String::new(), forgotten), |_| true);
    teller.look(std::slice::from_ref(&sign)).unwrap();
    teller.look(&[sign]).unwrap();
    let verbs: Vec<&str> = teller.came().into_iter().map(|(verb, ..)| verb).collect();
    assert_eq!(verbs, ["create", "patch", "create"]);
}

#[test]
fn a_long_note_and_an_odd_interface_are_made_to_fit() {
    let mut teller = Teller::new(limits());
    teller.look(&[Sign::of_interface("Veth:1@x", &"é".repeat(2000))]).unwrap();
    let (_, _, event) = teller.came().pop().unwrap();
    assert!((1000..=1024).contains(&event["note"].as_str().unwrap().len()));
    let name = event["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("netmon.attach-veth-1-x."), "{name}");
    assert_eq!(event["reason"], "AttachFailed");
}

/// Two hosts, and an API server in `a`.
fn cluster() -> (Net, ApiServer) {
    let net = Net::two_hosts();
    let server = net.inside("a", ApiServer::start);
    (net, server)
}

/// The Event of a reason, when it has been told.
fn event(agent: &Agent<'_>, server: &ApiServer, reason: &str) -> Value {
    let told = || {
        let created = server.requests().into_iter().filter(|request| request.verb() == "create");
        let mut events = created.map(|request| serde_json::from_str::<Value>(&request.body).unwrap());
        events.find(|event| event["reason"] == reason)
    };
    agent.wait(reason, 60, |_| told().is_some());
    told().unwrap()
}

/// An `ingress` queueing discipline stands where clsact belongs, and has no place for what goes out.
#[test]
fn an_interface_that_can_not_be_attached_to_becomes_an_event_of_the_node() {
    let (net, server) = cluster();
    net.exec("a", "tc qdisc add dev va ingress");
    let config = "kubernetes: { node_name: node-a }\ncapture: { attach: clsact }";
    let agent = Agent::launch_kubernetes(&net, "a", &server.kubeconfig(), config);
    let event = event(&agent, &server, "AttachFailed");
    assert_eq!(
        (&event["regarding"]["kind"], &event["regarding"]["name"]),
        (&"Node".into(), &"node-a".into())
    );
    assert_eq!(event["type"], "Warning");
    let note = event["note"].as_str().unwrap();
    assert!(note.starts_with("packets of interface va are not seen: "), "{note}");
    agent.stop();
}

#[test]
fn a_port_scan_becomes_an_event_of_the_pod_that_scans() {
    let (net, server) = cluster();
    server.put("pods", pod("scanner", "node-a", "10.1.0.2"));
    let config = "kubernetes: { node_name: node-a }";
    let agent = Agent::launch_kubernetes(&net, "a", &server.kubeconfig(), config).ready();
    net.exec("b", "nmap -n -Pn -sS -T5 --max-retries 0 -p 1-200 10.1.0.1");
    let event = event(&agent, &server, "PortScan");
    let regarding = &event["regarding"];
    assert_eq!(
        (regarding["kind"].as_str(), regarding["namespace"].as_str(), regarding["name"].as_str()),
        (Some("Pod"), Some("shop"), Some("scanner"))
    );
    assert_eq!(event["metadata"]["namespace"], "shop");
    agent.wait("it is counted", 60, |agent| {
        agent.metrics().sum("netmon_kubernetes_events_total", &["outcome=\"sent\""]) >= 1.0
    });
    agent.stop();
}
