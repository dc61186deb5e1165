//! The watches of a Kubernetes API server, against one that behaves as recorded: the whole story, and everything that goes wrong.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "kubernetes/watching.rs"]
mod watching;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::agent::{Agent, Held};
use common::apiserver::{ApiServer, Fault, Request, pod, recorded, status};
use common::net::Net;
use netmon::config::WatchScope;
use netmon::enrich::kubernetes::watch::{Settings, Timing};
use serde_json::{Value, json};
use watching::{Watching, settings, timing};

/// Pods of other nodes.
fn others(request: &Request) -> bool {
    request.kind() == "pods" && request.selector().contains("!=node-a")
}

fn of(kind: &'static str) -> impl Fn(&Request) -> bool {
    move |request| request.kind() == kind
}

fn watches_of(kind: &'static str) -> impl Fn(&Request) -> bool {
    move |request| request.kind() == kind && request.verb() == "watch"
}

const PODS_AFTER: &[&str] = &[
    "Pod agent-host node-a [192.168.50.1] host",
    "Pod cart-9c7bfccf6-689xs node-a [10.9.1.10] of ReplicaSet/cart-9c7bfccf6",
    "Pod cart-9c7bfccf6-bq2q8 node-b [10.9.1.11] of ReplicaSet/cart-9c7bfccf6",
    "Pod cart-9c7bfccf6-mwwsv node-a [10.9.1.12] of ReplicaSet/cart-9c7bfccf6",
    "Pod job-1 node-a [10.9.0.20] ended",
    "Pod newpod node-b [10.9.0.20]",
    "Pod web-0 node-a [10.9.0.10]",
    "Pod web-1 node-b [10.9.0.11]",
];

#[test]
fn the_recorded_story_is_told_change_by_change() {
    let server = ApiServer::start();
    let watching = Watching::start(&server);
    watching.wait_synced();
    let before = watching.told().len();
    server.play();
    // Pods by two streams of ten each, services, slices and nodes.
    watching.wait("all of it is told", |it| it.told().len() >= before + 27);
    let told = watching.told().split_off(before);
    let of = |part: &str| -> Vec<&str> {
        told.iter().map(String::as_str).filter(|line| line.contains(part)).collect()
    };
    assert_eq!(
        of(" node-a ").iter().filter(|line| line.contains("Pod ")).copied().collect::<Vec<_>>(),
        [
            "+Pod web-0 node-a []",
            "+Pod web-0 node-a [10.9.0.10]",
            "+Pod agent-host node-a [] host",
            "+Pod agent-host node-a [192.168.50.1] host",
            "+Pod cart-9c7bfccf6-689xs node-a [] of ReplicaSet/cart-9c7bfccf6",
            "+Pod cart-9c7bfccf6-689xs node-a [10.9.1.10] of ReplicaSet/cart-9c7bfccf6",
            "+Pod cart-9c7bfccf6-mwwsv node-a [] of ReplicaSet/cart-9c7bfccf6",
            "+Pod cart-9c7bfccf6-mwwsv node-a [10.9.1.12] of ReplicaSet/cart-9c7bfccf6",
            "+Pod job-1 node-a []",
            "+Pod job-1 node-a [10.9.0.20] ended",
        ]
    );
    assert_eq!(
        of(" node-b ").iter().filter(|line| line.contains("Pod ")).copied().collect::<Vec<_>>(),
        [
            "+Pod web-1 node-b []",
            "+Pod web-1 node-b [10.9.0.11]",
            "+Pod redis-0 node-b []",
            "+Pod redis-0 node-b [10.9.0.20]",
            "+Pod cart-9c7bfccf6-bq2q8 node-b [] of ReplicaSet/cart-9c7bfccf6",
            "+Pod cart-9c7bfccf6-bq2q8 node-b [10.9.1.11] of ReplicaSet/cart-9c7bfccf6",
            "+Pod redis-0 node-b [10.9.0.20]",
            "-Pod redis-0 node-b [10.9.0.20]",
            "+Pod newpod node-b []",
            "+Pod newpod node-b [10.9.0.20]",
        ]
    );
    assert_eq!(of("Service "), ["+Service web [10.96.195.113] [80]", "+Service redis [] [6379]"]);
    assert_eq!(
        of("EndpointSlice "),
        [
            "+EndpointSlice web-ff877 web [\"web-0\", \"web-1\"]",
            "+EndpointSlice redis-cxf5r redis [\"redis-0\"]",
            "+EndpointSlice redis-cxf5r redis [\"redis-0\"]",
            "+EndpointSlice redis-cxf5r redis []",
        ]
    );
    assert_eq!(of("Node "), ["+Node node-a [192.168.50.1] zone-b"]);
    // No pod without a node was told: nobody could have an address of it.
    assert_eq!((of("Pod ").len(), told.len()), (20, 27), "{told:#?}");
    let pods: Vec<String> = watching.there().into_iter().filter(|brief| brief.starts_with("Pod")).collect();
    assert_eq!(pods, PODS_AFTER);
    let objects: Vec<u64> = ["own_pods", "pods", "services", "endpointslices", "nodes"]
        .map(|kind| watching.status(kind).objects)
        .to_vec();
    assert_eq!(objects, [5, 3, 3, 2, 2]);
}

#[test]
fn a_recorded_streaming_list_is_taken_as_it_was_sent() {
    let server = ApiServer::start();
    // As recorded, all pods come by the own stream.
    server.fault(1, Fault::Lines(recorded("watchlist-pods.ndjson")), |request| {
        request.kind() == "pods" && request.selector() == "spec.nodeName=node-a"
    });
    let watching = Watching::start(&server);
    watching.wait("the own pods", |it| it.status("own_pods").objects == 8);
    watching.wait_there("Pod web-0 node-a [10.9.0.99]");
}

#[test]
fn own_pods_are_there_while_the_clusters_are_still_on_their_way() {
    let server = ApiServer::start();
    for n in 0..3 {
        server.put("pods", pod(&format!("own-{n}"), "node-a", &format!("10.9.0.{n}")));
        server.put("pods", pod(&format!("other-{n}"), "node-b", &format!("10.9.1.{n}")));
    }
    server.fault(1, Fault::SilentAfter(1), others);
    let watching = Watching::start(&server);
    watching.wait("ready", |it| it.ready.load(Ordering::Acquire));
    watching.wait_there("Pod other-0");
    // The own ones stay prompt meanwhile, and nothing of the half list is believed.
    server.put("pods", pod("own-9", "node-a", "10.9.0.9"));
    watching.wait_there("Pod own-9");
    assert_eq!(watching.status("pods").synced_since, None);
    let told = watching.told();
    let complete = told.iter().position(|line| line == "Pod listed").unwrap();
    assert_eq!(told[..complete].iter().filter(|line| line.starts_with("+Pod own")).count(), 3);
}

#[test]
fn the_list_of_other_pods_leaves_the_own_ones_there() {
    let server = ApiServer::start();
    server.put("pods", pod("own", "node-a", "10.9.0.1"));
    server.put("pods", pod("other", "node-b", "10.9.1.1"));
    let watching = Watching::start(&server);
    watching.wait_synced();
    watching.wait_there("Pod other");
    let pods: Vec<String> = watching.there().into_iter().filter(|brief| brief.starts_with("Pod")).collect();
    assert_eq!(pods, ["Pod other node-b [10.9.1.1]", "Pod own node-a [10.9.0.1]"]);
}

#[test]
fn a_pod_that_is_no_longer_shown_leaves_the_others_alone() {
    let server = ApiServer::start();
    server.put("pods", pod("own", "node-a", "10.9.0.1"));
    let watching = Watching::start(&server);
    watching.wait_synced();
    // Bound only later: it comes when it has a node.
    server.put("pods", pod("later", "", ""));
    server.put("pods", pod("later", "node-a", "10.9.0.2"));
    watching.wait_there("Pod later");
    server.remove("pods", &pod("later", "node-a", "10.9.0.2"));
    watching.wait_gone("Pod later");
    let told: Vec<String> = watching.told().into_iter().filter(|line| line.contains("later")).collect();
    assert_eq!(told, ["+Pod later node-a [10.9.0.2]", "-Pod later node-a [10.9.0.2]"]);
    watching.wait_there("Pod own");
}

#[test]
fn a_server_that_is_away_at_the_start_is_said_and_found_when_it_comes() {
    let server = ApiServer::absent();
    let watching = Watching::start(&server);
    watching.wait("the failure is said", |it| {
        it.status("own_pods").error.is_some_and(|error| error.contains("refused"))
    });
    assert!(!watching.ready.load(Ordering::Acquire));
    server.restart();
    server.play();
    watching.wait_synced();
    watching.wait_there("Pod newpod");
    assert!(watching.ready.load(Ordering::Acquire));
    assert!(watching.failures("own_pods", "unreachable") > 0);
}

/// Each kind so many times, as a server does after its start.
fn refuse_all(server: &ApiServer, times: usize) {
    for kind in ["pods", "services", "endpointslices", "nodes", "replicasets", "jobs"] {
        server.fault(times, Fault::Answer(403, String::new(), recorded("list-403.json")), of(kind));
    }
}

#[test]
fn a_restart_with_403_and_410_loses_nothing_that_is_known() {
    let server = ApiServer::start();
    server.play();
    let watching = Watching::start(&server);
    watching.wait_synced();
    watching.wait_there("Pod newpod");
    let before = watching.told().len();
    server.stop();
    watching.wait("it is missed", |it| it.status("pods").error.is_some());
    // While it was away: one pod ended, one began.
    let redis = pod("web-1", "node-b", "10.9.0.11");
    server.remove("pods", &redis);
    server.put("pods", pod("late", "node-a", "10.9.0.77"));
    server.compact();
    refuse_all(&server, 2);
    server.restart();
    watching.wait_there("Pod late");
    watching.wait_gone("Pod web-1");
    watching.wait_synced();
    watching.wait("all was refused", |_| server.faults_are_over());
    for kind in ["own_pods", "pods", "services"] {
        watching.wait(&format!("410 of {kind}"), |it| it.failures(kind, "gone") > 0);
    }
    watching.wait("403 of services", |it| it.failures("services", "forbidden") > 0);
    watching.wait_synced();
    // Nothing else was ever said to have gone.
    let gone: Vec<String> =
        watching.told().split_off(before).into_iter().filter(|line| line.starts_with('-')).collect();
    assert_eq!(gone, Vec::<String>::new(), "by a list, not one by one");
    for pod in PODS_AFTER.iter().filter(|pod| !pod.contains("web-1")) {
        watching.wait_there(pod);
    }
}

/// As recorded: down for 3.5 s, 403 at first, then 410. kube's own watcher was blind for 10 to 21 s.
#[test]
fn names_are_back_soon_after_a_restart() {
    let server = ApiServer::start();
    server.play();
    let timing = Timing { settled: Duration::from_millis(1), ..Timing::default() };
    let watching = Watching::with(&server, &Settings { timing, ..settings() });
    watching.wait_synced();
    server.stop();
    std::thread::sleep(Duration::from_millis(3500));
    server.put("pods", pod("late", "node-a", "10.9.0.77"));
    server.put("pods", pod("late-other", "node-b", "10.9.1.77"));
    server.compact();
    refuse_all(&server, 1);
    server.restart();
    let back = Instant::now();
    watching.wait_there("Pod late ");
    watching.wait_there("Pod late-other");
    println!("pods are known {:?} after the server was back", back.elapsed());
}

#[test]
fn a_missing_right_is_named_and_the_rest_goes_on() {
    let server = ApiServer::start();
    server.forbid("watch", "services");
    server.forbid("watch", "replicasets");
    let watching = Watching::start(&server);
    watching.wait("the rest is synced", |it| {
        ["own_pods", "pods", "endpointslices", "nodes", "jobs"]
            .iter()
            .all(|kind| it.status(kind).synced_since.is_some())
    });
    watching.wait("both are named", |it| {
        it.status("services").error.is_some() && it.status("replicasets").error.is_some()
    });
    let error = watching.status("services").error.unwrap();
    assert!(
        error.starts_with("may not watch services:") && error.contains("the verb `watch` on `services`"),
        "{error}"
    );
    let error = watching.status("replicasets").error.unwrap();
    assert!(error.contains("the verb `watch` on `replicasets.apps`"), "{error}");
    assert!(error.contains("system:serviceaccount:shop:netmon"), "who asked is told: {error}");
    server.allow("watch", "services");
    watching.wait("services come when it is granted", |it| it.status("services").synced_since.is_some());
    assert_eq!(watching.status("services").error, None);
}

#[test]
fn a_broken_watch_goes_on_where_it_was() {
    let server = ApiServer::start();
    let watching = Watching::start(&server);
    watching.wait_synced();
    let lists = watching.counts("own_pods").lists;
    for n in 0..5 {
        server.reset();
        server.put("pods", pod(&format!("own-{n}"), "node-a", &format!("10.9.0.{n}")));
        watching.wait_there(&format!("Pod own-{n}"));
    }
    assert_eq!(watching.counts("own_pods").lists, lists, "nothing was listed again");
    assert_eq!(watching.status("own_pods").objects, 5);
    let told = watching.told();
    assert_eq!(told.iter().filter(|line| line.starts_with("+Pod own")).count(), 5, "{told:#?}");
}

#[test]
fn a_connection_that_died_in_silence_is_given_up() {
    let server = ApiServer::start();
    let timing = Timing { silence: Duration::from_millis(400), ..timing() };
    let watching = Watching::with(&server, &Settings { timing, ..settings() });
    watching.wait_synced();
    server.freeze();
    server.put("pods", pod("own", "node-a", "10.9.0.1"));
    watching.wait_there("Pod own");
    assert!(watching.failures("own_pods", "silent") > 0);
}

#[test]
fn a_server_that_never_answers_is_asked_again() {
    let server = ApiServer::start();
    server.fault(1, Fault::Silent, |request| request.selector() == "spec.nodeName=node-a");
    server.fault(1, Fault::Silent, of("nodes"));
    let watching = Watching::start(&server);
    watching.wait_synced();
    assert!(watching.failures("own_pods", "silent") > 0 && watching.failures("nodes", "silent") > 0);
}

#[test]
fn a_slow_list_is_waited_for() {
    let server = ApiServer::start();
    for n in 0..20 {
        server.put("pods", pod(&format!("own-{n}"), "node-a", &format!("10.9.0.{n}")));
    }
    server.fault(1, Fault::Slow(Duration::from_millis(40)), |request| {
        request.selector() == "spec.nodeName=node-a"
    });
    let watching = Watching::start(&server);
    watching.wait("all of it is there", |it| it.status("own_pods").objects == 20);
    assert_eq!(watching.counts("own_pods").failures, BTreeMap::new());
}

#[test]
fn an_expired_token_is_read_again_from_its_file() {
    let server = ApiServer::start();
    let watching = Watching::start(&server);
    watching.wait_synced();
    server.expect_token("second");
    server.reset();
    watching.wait("the refusal is said", |it| {
        it.status("own_pods").error.is_some_and(|error| error.contains("401"))
    });
    server.write_token("second");
    server.put("pods", pod("own", "node-a", "10.9.0.1"));
    watching.wait_there("Pod own");
    watching.wait_synced();
}

#[test]
fn a_server_that_asks_for_time_gets_it() {
    let server = ApiServer::start();
    let busy = status(429, "TooManyRequests", "too many requests, please try again later");
    server.fault(1, Fault::Answer(429, "Retry-After: 1\r\n".into(), busy), of("nodes"));
    let failing = status(503, "ServiceUnavailable", "not ready");
    server.fault(1, Fault::Answer(503, "Retry-After: 1\r\n".into(), failing), of("jobs"));
    let began = Instant::now();
    let watching = Watching::start(&server);
    watching.wait_synced();
    assert!(began.elapsed() >= Duration::from_secs(1), "it was asked again after {:?}", began.elapsed());
    assert_eq!((watching.failures("nodes", "busy"), watching.failures("jobs", "failing")), (1, 1));
}

#[test]
fn a_server_without_streaming_lists_is_read_page_by_page() {
    let server = ApiServer::start();
    server.without_streaming_lists();
    for n in 0..1234 {
        server.put("pods", pod(&format!("other-{n}"), "node-b", &format!("10.10.{}.{}", n / 250, n % 250)));
    }
    let watching = Watching::start(&server);
    watching.wait_synced();
    assert_eq!(watching.status("pods").objects, 1234);
    assert_eq!(watching.there().iter().filter(|brief| brief.starts_with("Pod")).count(), 1234);
    let pages =
        server.requests().into_iter().filter(|request| others(request) && request.verb() == "list").count();
    assert!(pages >= 3, "{pages}");
    // No refusal of what older servers don't have is a failure.
    assert_eq!(watching.counts("pods").failures, BTreeMap::new());
    server.put("pods", pod("last", "node-b", "10.11.0.1"));
    watching.wait_there("Pod last");
}

#[test]
fn half_a_list_is_not_taken_for_a_whole_one() {
    for paged in [false, true] {
        let server = ApiServer::start();
        if paged {
            server.without_streaming_lists();
        }
        for n in 0..10 {
            server.put("pods", pod(&format!("other-{n}"), "node-b", &format!("10.9.1.{n}")));
        }
        server.fault(2, Fault::CutAfter(5), move |request| others(request) && request.streams() != paged);
        let watching = Watching::start(&server);
        watching.wait_synced();
        assert!(server.faults_are_over(), "paged: {paged}");
        assert_eq!(watching.status("pods").objects, 10);
        let told = watching.told();
        // The own list is the first that is complete.
        let complete = told.iter().rposition(|line| line == "Pod listed").unwrap();
        let begun = told[..complete].iter().rposition(|line| line == "Pod listing").unwrap();
        assert_eq!(told[begun..complete].iter().filter(|line| line.starts_with("+Pod other")).count(), 10);
        assert_eq!(told.iter().filter(|line| *line == "Pod listed").count(), 2);
    }
}

#[test]
fn pages_that_expire_are_begun_anew() {
    let server = ApiServer::start();
    server.without_streaming_lists();
    for n in 0..600 {
        server.put("pods", pod(&format!("other-{n}"), "node-b", &format!("10.10.{}.{}", n / 250, n % 250)));
    }
    let expired = status(410, "Expired", "The provided continue parameter is too old");
    server.fault(1, Fault::Answer(410, String::new(), expired), |request| {
        request.query.contains_key("continue")
    });
    let watching = Watching::start(&server);
    watching.wait_synced();
    assert_eq!((watching.status("pods").objects, watching.failures("pods", "gone")), (600, 1));
}

#[test]
fn what_went_while_nobody_watched_is_found_by_the_next_list() {
    let server = ApiServer::start();
    let [own, other] = [pod("own", "node-a", "10.9.0.1"), pod("other", "node-b", "10.9.1.1")];
    server.put("pods", own.clone());
    server.put("pods", other.clone());
    server.put("pods", pod("stays", "node-a", "10.9.0.2"));
    let watching = Watching::start(&server);
    watching.wait_synced();
    watching.wait_there("Pod other");
    server.stop();
    server.remove("pods", &own);
    server.remove("pods", &other);
    server.compact();
    server.restart();
    watching.wait_gone("Pod own");
    watching.wait_gone("Pod other");
    watching.wait_there("Pod stays");
    assert_eq!(watching.status("own_pods").objects, 1);
}

#[test]
fn another_pod_of_the_same_name_is_another_pod() {
    let server = ApiServer::start();
    let mut redis = pod("redis-0", "node-a", "10.9.0.1");
    server.put("pods", redis.clone());
    let watching = Watching::start(&server);
    watching.wait_synced();
    server.stop();
    server.remove("pods", &redis);
    redis["metadata"]["uid"] = "0000000000000000000000000000000b".into();
    redis["status"]["podIPs"][0]["ip"] = "10.9.0.2".into();
    redis["status"]["podIP"] = "10.9.0.2".into();
    server.put("pods", redis);
    server.compact();
    server.restart();
    watching.wait_there("Pod redis-0 node-a [10.9.0.2]");
    let gone = |line: &&String| line.starts_with("-Pod redis-0 node-a [10.9.0.1]");
    assert_eq!(watching.told().iter().filter(gone).count(), 1, "{:#?}", watching.told());
}

#[test]
fn a_server_that_was_set_back_is_believed() {
    let server = ApiServer::start();
    server.play();
    let watching = Watching::start(&server);
    watching.wait_synced();
    server.stop();
    server.set_back();
    server.restart();
    server.put("nodes", serde_json::json!({ "metadata": { "name": "node-c" }, "status": {} }));
    watching.wait_there("Node node-c");
    watching.wait_synced();
    assert!(watching.failures("nodes", "ahead") > 0);
}

#[test]
fn lines_that_make_no_sense_are_counted_and_passed_over() {
    let server = ApiServer::start();
    let nonsense = "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":7}}}\n\n[]\n{\"type\":\"ODD\",\"object\":{}}\n\
                    {\"type\":\"ADDED\",\"object\":{\"metadata\":{}}}\n\u{fffd}\n";
    server.fault(1, Fault::Lines(nonsense.into()), of("nodes"));
    let watching = Watching::start(&server);
    watching.wait_synced();
    assert_eq!(watching.counts("nodes").unreadable, 5);
    let error = "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":500,\"message\":\"etcdserver: leader changed\"}}\n";
    server.fault(1, Fault::Lines(error.into()), watches_of("nodes"));
    server.reset();
    watching.wait("the server's own error is told by its reason", |it| it.failures("nodes", "failing") == 1);
    watching.wait_synced();
}

#[test]
fn a_full_comparison_finds_what_no_watch_has_told() {
    let server = ApiServer::start();
    server.put("pods", pod("stays", "node-a", "10.9.0.2"));
    let watching = Watching::with(&server, &Settings { resync: Duration::from_millis(300), ..settings() });
    watching.wait_synced();
    watching.wait("lists are read again", |it| {
        it.counts("own_pods").lists >= 3 && it.counts("services").lists >= 3
    });
    assert_eq!(watching.counts("own_pods").failures, BTreeMap::new());
    assert_eq!(watching.status("own_pods").objects, 1);
}

/// A ReplicaSet or Job of one of these.
fn owned(kind: &str, name: &str) -> Value {
    json!({ "metadata": { "name": name, "namespace": "shop",
            "ownerReferences": [{ "kind": kind, "name": "cart", "controller": true }] } })
}

#[test]
fn a_node_asks_for_no_more_than_it_needs() {
    let server = ApiServer::start();
    server.play();
    server.put("replicasets", owned("Deployment", "cart-9c7bfccf6"));
    server.put("replicasets", owned("Deployment", "elsewhere"));
    let watching = Watching::with(&server, &Settings { scope: WatchScope::Node, ..settings() });
    watching.wait_there("ReplicaSet cart-9c7bfccf6 of Deployment/cart");
    watching.wait_synced();
    let there = watching.there();
    assert!(
        there.iter().all(|brief| !brief.contains("elsewhere") && !brief.starts_with("Pod newpod")),
        "{there:#?}"
    );
    assert!(there.iter().any(|brief| brief.starts_with("EndpointSlice web")), "{there:#?}");
    for request in server.requests() {
        match request.kind() {
            "pods" => assert_eq!(request.selector(), "spec.nodeName=node-a"),
            "nodes" => assert_eq!(request.selector(), "metadata.name=node-a"),
            "replicasets" | "jobs" => {
                assert_eq!(request.verb(), "get");
                assert!(request.accept.contains("PartialObjectMetadata"), "{}", request.accept);
            }
            _ => {}
        }
    }
    // With its last pod here an owner goes, too.
    for name in ["cart-9c7bfccf6-689xs", "cart-9c7bfccf6-mwwsv"] {
        server.remove("pods", &pod(name, "node-a", "10.9.1.1"));
    }
    watching.wait_gone("ReplicaSet cart-9c7bfccf6");
}

#[test]
fn owners_of_one_kind_are_told_while_those_of_the_other_may_not_be_read() {
    let server = ApiServer::start();
    let put = |name: &str, kind: &str, owner: &str| {
        let mut pod = pod(name, "node-a", "10.9.1.1");
        pod["metadata"]["ownerReferences"] = json!([{ "kind": kind, "name": owner, "controller": true }]);
        server.put("pods", pod);
    };
    server.forbid("get", "jobs");
    put("backup-1-x", "Job", "backup-1");
    // What has failed is not asked again while this test lasts.
    let never = Duration::from_secs(1_000_000);
    let timing = Timing { first_retry: never, last_retry: never, ..timing() };
    let watching = Watching::with(&server, &Settings { scope: WatchScope::Node, timing, ..settings() });
    watching.wait("the missing right is named", |it| {
        it.status("jobs").error.is_some_and(|error| error.contains("the verb `get` on `jobs.batch`"))
    });
    server.put("replicasets", owned("Deployment", "cart-1"));
    put("cart-1-x", "ReplicaSet", "cart-1");
    watching.wait_there("ReplicaSet cart-1 of Deployment/cart");
    watching.wait("ReplicaSets are synced", |it| it.status("replicasets").objects == 1);
    let replicasets = watching.status("replicasets");
    assert!(replicasets.synced_since.is_some() && replicasets.error.is_none(), "{replicasets:#?}");
    assert_eq!(watching.failures("jobs", "forbidden"), 1, "asked again at the other's pace");
    // Otherwise it is, and comes when it is granted.
    let watching = Watching::with(&server, &Settings { scope: WatchScope::Node, ..settings() });
    watching.wait("jobs are refused", |it| it.failures("jobs", "forbidden") > 1);
    server.put("jobs", owned("CronJob", "backup-1"));
    server.allow("get", "jobs");
    watching.wait_there("Job backup-1 of CronJob/cart");
    watching.wait_synced();
}

#[test]
fn the_watches_end_at_once_whatever_they_wait_for() {
    let server = ApiServer::start();
    server.fault(usize::MAX, Fault::Silent, of("nodes"));
    server.forbid("watch", "jobs");
    let watching = Watching::start(&server);
    watching.wait("they wait", |it| {
        it.status("jobs").error.is_some() && it.status("pods").synced_since.is_some()
    });
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(watching);
        done.send(()).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(5)).expect("the runtime and its watches end");
}

#[test]
fn the_agent_runs_without_a_server_says_so_and_syncs_when_it_comes() {
    let net = Net::two_hosts();
    let server = net.inside("a", ApiServer::absent);
    let agent =
        Agent::launch_kubernetes(&net, "a", &server.kubeconfig(), "kubernetes: { node_name: node-a }");
    agent.wait("it watches the interface", 20, |agent| {
        agent
            .try_cli(&["status"])
            .is_some_and(|status| status["interfaces"].as_array().is_some_and(|all| !all.is_empty()))
    });
    let ready = || net.command("a", "curl -s -m 2 http://127.0.0.1:9090/readyz").output().unwrap().stdout;
    agent.wait("readyz says what is missing", 20, |_| {
        String::from_utf8(ready()).unwrap()
            == "waiting for the pods of this node from the Kubernetes API server\n"
    });
    let status = agent.cli(&["status"]);
    assert_eq!((status["mode"].as_str(), status["ready"].as_bool()), (Some("kubernetes"), Some(false)));
    let watches = |status: &Value| status["kubernetes"]["watches"].as_array().unwrap().clone();
    agent.wait("status says why", 20, |agent| {
        watches(&agent.cli(&["status"])).iter().any(|watch| {
            watch["kind"] == "own_pods"
                && watch["error"].as_str().is_some_and(|error| error.contains("refused"))
        })
    });
    // Flows are counted without names.
    net.exec("b", "ping -c 3 -i 0.2 10.1.0.1");
    agent.wait("the flow is there", 20, |agent| !agent.flows(&["--protocol", "icmp"]).is_empty());

    net.inside("a", || server.restart());
    server.play();
    agent.wait("it is ready", 60, |_| ready() == b"ready\n");
    agent.wait("all is synced", 60, |agent| {
        watches(&agent.cli(&["status"]))
            .iter()
            .all(|watch| !watch["synced_since"].is_null() && watch["error"].is_null())
    });
    let metrics = agent.metrics();
    assert_eq!(metrics.sum("netmon_kubernetes_objects", &["kind=\"own_pods\""]), 5.0);
    assert_eq!(metrics.sum("netmon_kubernetes_synced", &[]), 7.0);
    assert!(
        metrics.sum("netmon_kubernetes_watch_errors_total", &["kind=\"own_pods\"", "unreachable"]) >= 1.0
    );
    let (_, table, _) = agent.cli_text(&["status"]);
    for word in [
        "kubernetes http://127.0.0.1:",
        "scope cluster, node node-a",
        "SYNCED SINCE",
        "own_pods",
        "replicasets",
    ] {
        assert!(table.contains(word), "{word}: {table}");
    }
    // Names come to flows, over the whole way.
    server.put("pods", pod("here", "node-a", "10.1.0.1"));
    server.put("pods", pod("there", "node-b", "10.1.0.2"));
    agent.wait("both pods are known", 20, |agent| {
        agent.metrics().sum("netmon_kubernetes_objects", &["pods\""]) == 10.0
    });
    net.exec("b", "ping -c 3 -i 0.2 10.1.0.1");
    agent.wait("the flow names its pods", 20, |agent| {
        let named = |flow: &Value| flow["src"]["pod"] == "there" && flow["dst"]["pod"] == "here";
        agent.flows(&["--protocol", "icmp"]).iter().any(named)
    });
    agent.assert_law();
    let log = agent.stop();
    assert!(!log.contains("kube_client"), "its own words are kept out: {log}");
}

#[test]
fn a_long_list_is_never_held_as_a_whole() {
    const PODS: usize = 10_000;
    const PADDING: usize = 8_000;
    let net = Net::new(&["a"]);
    for streams in [true, false] {
        let server = net.inside("a", ApiServer::absent);
        if !streams {
            server.without_streaming_lists();
        }
        for n in 0..PODS {
            let mut pod =
                pod(&format!("{n}"), "node-b", &format!("10.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255));
            pod["metadata"]["annotations"] = serde_json::json!({ "padding": "x".repeat(PADDING) });
            server.put("pods", pod);
        }
        let agent = Agent::launch_kubernetes(
            &net,
            "a",
            &server.kubeconfig(),
            "kubernetes: { node_name: node-a, events: false }",
        );
        agent.wait("it runs", 60, |agent| agent.try_cli(&["status"]).is_some());
        let before = agent.held().memory_kib;
        let (done, watched) = std::sync::mpsc::channel::<()>();
        let pid = agent.pid();
        let peak = std::thread::spawn(move || {
            let mut peak = 0;
            while watched.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                peak = peak.max(Held::of(pid).memory_kib);
                std::thread::sleep(Duration::from_millis(5));
            }
            peak
        });
        let began = Instant::now();
        net.inside("a", || server.restart());
        agent.wait("all pods are known", 120, |agent| {
            agent.cli(&["status"])["kubernetes"]["watches"].as_array().unwrap().iter().any(|watch| {
                watch["kind"] == "pods" && watch["objects"] == PODS && !watch["synced_since"].is_null()
            })
        });
        let took = began.elapsed();
        drop(done);
        let more = peak.join().unwrap().saturating_sub(before);
        println!(
            "{PODS} pods of {PADDING} bytes, streams: {streams}: {took:?}, {more} KiB more memory at most"
        );
        assert!(more < 24 << 10, "{more} KiB more than before, for a list of {} bytes", PODS * PADDING);
        agent.stop();
    }
}
