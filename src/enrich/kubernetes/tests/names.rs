//! Workloads, services, nodes: what an end is called.

use super::*;

#[test]
fn workloads_are_found_from_owners() {
    let cluster = cluster(true);
    let mut cart =
        owned_by(pod("shop/cart-9c7bfccf6-689xs", 1, "10.9.1.1", 10), "ReplicaSet", "cart-9c7bfccf6");
    cart.template_hash = Some(shared("9c7bfccf6"));
    cluster.pod_applied(cart, 11.0);
    for (n, kind, owner) in [
        (2, "ReplicaSet", "plain-1"),
        (3, "Job", "report-29380000"),
        (4, "Job", "migrate"),
        (5, "StatefulSet", "db"),
        (6, "DaemonSet", "agent"),
        (7, "ReplicationController", "old"),
        (8, "ReplicaSet", "rolled-77"),
    ] {
        cluster.pod_applied(owned_by(pod("shop/x", n, &format!("10.9.1.{n}"), 10), kind, owner), 11.0);
    }
    cluster.pod_applied(pod("shop/alone", 9, "10.9.1.9", 10), 11.0);
    cluster
        .pod_applied(owned_by(pod("kube-system/etcd-node-a", 10, "10.9.1.10", 10), "Node", "node-a"), 11.0);
    let is = |n: u32| {
        let (kind, name) = workload(&cluster, &format!("10.9.1.{n}"), 12.0);
        format!("{kind} {name}")
    };
    let known = [
        (1, "Deployment cart"),
        (2, "ReplicaSet plain-1"),
        (3, "Job report-29380000"),
        (4, "Job migrate"),
        (5, "StatefulSet db"),
        (6, "DaemonSet agent"),
        (7, "ReplicationController old"),
        (8, "ReplicaSet rolled-77"),
        (9, "Pod alone"),
        (10, "Node etcd"),
    ];
    for (n, expected) in known {
        assert_eq!(is(n), expected, "before owners are heard of");
    }
    for object in [
        owned(Kind::ReplicaSet, "shop/cart-9c7bfccf6", Some(("Deployment", "cart"))),
        owned(Kind::ReplicaSet, "shop/plain-1", None),
        owned(Kind::ReplicaSet, "shop/rolled-77", Some(("Rollout", "canary"))),
        owned(Kind::Job, "shop/report-29380000", Some(("CronJob", "report"))),
        owned(Kind::Job, "shop/migrate", None),
        owned(Kind::Job, "other/migrate", Some(("CronJob", "wrong"))),
    ] {
        cluster.apply(object, 12.0);
    }
    assert_eq!(
        (is(1), is(2), is(4)),
        ("Deployment cart".into(), "ReplicaSet plain-1".into(), "Job migrate".into())
    );
    assert_eq!((is(3), is(8)), ("CronJob report".into(), "Rollout canary".into()));
    // Owners may be heard of before their pods, and pods may outlive them.
    cluster.take(Change::Gone(owned(Kind::Job, "shop/report-29380000", None)), ns(13.0));
    cluster.apply(owned(Kind::Job, "shop/report-29380001", Some(("CronJob", "report"))), 13.0);
    cluster.pod_applied(owned_by(pod("shop/y", 11, "10.9.1.11", 13), "Job", "report-29380001"), 14.0);
    assert_eq!((is(3), is(11)), ("CronJob report".into(), "CronJob report".into()));
}

#[test]
fn a_list_of_owners_forgets_those_that_it_does_not_tell() {
    let cluster = cluster(true);
    let job = |n: u32| owned(Kind::Job, &format!("shop/report-{n}"), Some(("CronJob", "report")));
    cluster.apply(job(1), 1.0);
    cluster.take(Change::Listing(Kind::Job), ns(2.0));
    cluster.apply(job(2), 2.0);
    cluster.take(Change::Listed(Kind::Job), ns(2.1));
    for n in [1, 2] {
        let address = format!("10.9.1.{n}");
        cluster.pod_applied(owned_by(pod("shop/p", n, &address, 3), "Job", &format!("report-{n}")), 4.0);
    }
    assert_eq!(workload(&cluster, "10.9.1.1", 5.0), ("Job".into(), "report-1".into()));
    assert_eq!(workload(&cluster, "10.9.1.2", 5.0), ("CronJob".into(), "report".into()));
}

#[test]
fn live_workloads_are_those_with_pods_that_run() {
    let cluster = cluster(true);
    let mut job = owned_by(pod("shop/m", 1, "10.9.1.1", 10), "Job", "migrate");
    let db = owned_by(pod("shop/db-0", 2, "10.9.1.2", 10), "StatefulSet", "db");
    cluster.pod_applied(job.clone(), 11.0);
    cluster.pod_applied(db.clone(), 11.0);
    cluster.pod_applied(db.clone(), 12.0);
    let live = || {
        let mut names: Vec<String> = cluster.workloads().iter().map(|one| one.name.to_string()).collect();
        names.sort();
        names
    };
    assert_eq!(live(), ["db", "migrate"]);
    job.ended = told(12);
    cluster.pod_applied(job.clone(), 13.0);
    assert_eq!(live(), ["db"]);
    cluster.pod_gone(db, 14.0);
    cluster.pod_gone(job, 14.0);
    assert!(live().is_empty());
}

#[test]
fn the_service_asked_and_the_pod_that_answered_are_both_told() {
    let cluster = cluster(true);
    cluster.pod_applied(pod("shop/web-0", 1, "10.9.0.10,fd00::10", 10), 11.0);
    cluster.apply(Object::Node(node("node-a", "192.168.50.1", "zone-a")), 11.0);
    let both = &["10.96.0.1", "fd96::1", "203.0.113.7"];
    cluster.apply(Object::Service(service("shop/web", both, &[(80, Some(30080))])), 11.0);
    cluster.apply(
        Object::EndpointSlice(slice("shop/web-4", "web", 8080, &[("10.9.0.10", Some("shop/web-0"))])),
        11.0,
    );
    cluster.apply(
        Object::EndpointSlice(slice("shop/web-6", "web", 8080, &[("fd00::10", Some("shop/web-0"))])),
        11.0,
    );
    let cases = [
        // Asked at, answered by.
        ("10.9.0.9:40000", "10.96.0.1:80", Some("10.9.0.10:8080")),
        ("10.9.0.9:40000", "203.0.113.7:80", Some("10.9.0.10:8080")),
        ("10.9.0.9:40000", "192.168.50.1:30080", Some("10.9.0.10:8080")),
        ("[fd00::9]:40000", "[fd96::1]:80", Some("[fd00::10]:8080")),
        // The translation was made elsewhere: the backend's address and port tell.
        ("10.9.0.9:40000", "10.9.0.10:8080", None),
        ("10.9.0.9:40000", "10.9.0.10:8080", Some("10.96.0.1:80")),
    ];
    for (src, dst, answered) in cases {
        let mut flow = flow(src, dst, 12.0);
        if let Some(answered) = answered {
            flow = translated(flow, answered);
        }
        let [_, dst_end] = cluster.ends(&flow, [None; 2]);
        assert_eq!(pod_name(&dst_end).as_deref(), Some("web-0"), "{dst}");
        assert_eq!(service_name(&dst_end).as_deref(), Some("shop/web"), "{dst}");
        assert_eq!(dst_end.zone().as_deref(), Some("zone-a"), "{dst}");
    }
    // Nobody has answered; another port than any that it serves; the pod itself, on no port of a service.
    let [_, asked] = cluster.ends_of("10.9.0.9:40000", "10.96.0.1:81", 12.0);
    assert_eq!((pod_name(&asked), service_name(&asked).as_deref()), (None, Some("shop/web")));
    let [_, scraped] = cluster.ends_of("10.9.0.9:40000", "10.9.0.10:9100", 12.0);
    assert_eq!((pod_name(&scraped).as_deref(), service_name(&scraped)), (Some("web-0"), None));
    // An opener is told by the service that it belongs to, whatever its port.
    let [src, _] = cluster.ends_of("10.9.0.10:41000", "192.0.2.1:443", 12.0);
    assert_eq!(service_name(&src).as_deref(), Some("shop/web"));
}

#[test]
fn of_several_services_the_one_with_an_address_is_told() {
    let cluster = cluster(true);
    cluster.pod_applied(pod("shop/db-0", 1, "10.9.0.10", 10), 11.0);
    for (text, address) in
        [("shop/a-headless", None), ("shop/db", Some("10.96.0.2")), ("shop/z", Some("10.96.0.3"))]
    {
        let addresses: Vec<&str> = address.into_iter().collect();
        cluster.apply(Object::Service(service(text, &addresses, &[(5432, None)])), 11.0);
        let name = text.split_once('/').unwrap().1;
        let backends = &[("10.9.0.10", Some("shop/db-0"))];
        cluster.apply(Object::EndpointSlice(slice(&format!("{text}-s"), name, 5432, backends)), 11.0);
    }
    let [_, dst] = cluster.ends_of("10.9.0.9:40000", "10.9.0.10:5432", 12.0);
    assert_eq!(service_name(&dst).as_deref(), Some("shop/db"));
}

#[test]
fn services_and_backends_have_their_time() {
    let cluster = cluster(true);
    for kind in [Kind::Service, Kind::EndpointSlice] {
        cluster.take(Change::Listing(kind), ns(1.0));
    }
    let old = service("shop/old", &["10.96.0.1"], &[(80, None)]);
    cluster.apply(Object::Service(old.clone()), 1.0);
    let backends = slice("shop/s", "old", 80, &[("10.9.0.10", None), ("10.9.0.11", None)]);
    cluster.apply(Object::EndpointSlice(backends), 1.0);
    for kind in [Kind::Service, Kind::EndpointSlice] {
        cluster.take(Change::Listed(kind), ns(1.0));
    }
    cluster.take(Change::Gone(Object::Service(old)), ns(100.0));
    cluster.apply(Object::EndpointSlice(slice("shop/s", "old", 80, &[("10.9.0.11", None)])), 100.0);
    cluster.apply(Object::Service(service("shop/new", &["10.96.0.1"], &[(80, None)])), 200.0);
    let asked = |dst: &str, at: f64| service_name(&cluster.ends_of("10.9.0.9:40000", dst, at)[1]);
    assert_eq!(asked("10.96.0.1:80", 50.0).as_deref(), Some("shop/old"));
    assert_eq!(asked("10.96.0.1:80", 150.0), None);
    assert_eq!(asked("10.96.0.1:80", 250.0).as_deref(), Some("shop/new"));
    assert_eq!(asked("10.9.0.10:80", 50.0).as_deref(), Some("shop/old"));
    assert_eq!(asked("10.9.0.10:80", 150.0), None);
    assert_eq!(asked("10.9.0.11:80", 150.0).as_deref(), Some("shop/old"));
}

#[test]
fn pods_on_the_hosts_network_are_told_by_cgroup_only() {
    let cluster = cluster(true);
    let mut host = owned_by(pod("shop/agent-x", 0xabc, "192.168.50.1", 10), "DaemonSet", "agent");
    host.host_network = true;
    cluster.pod_applied(host, 11.0);
    cluster.pod_applied(pod("shop/web-0", 0xdef, "10.9.0.10", 10), 11.0);
    cluster.apply(Object::Node(node("node-a", "192.168.50.1", "zone-a")), 11.0);
    cluster.apply(
        Object::EndpointSlice(slice("shop/s", "agent", 9090, &[("192.168.50.1", Some("shop/agent-x"))])),
        11.0,
    );
    let flow = flow("10.9.0.10:40000", "192.168.50.1:9090", 12.0);
    let [src, dst] = cluster.ends(&flow, [None; 2]);
    assert_eq!(pod_name(&src).as_deref(), Some("web-0"));
    assert_eq!(
        (pod_name(&dst), dst.node.as_ref().map(|node| node.name.to_string())),
        (None, Some("node-a".into()))
    );
    assert_eq!(
        service_name(&dst).as_deref(),
        Some("shop/agent"),
        "address and port together are the service's"
    );
    let [_, dst] = cluster.ends(&flow, [None, Some(0xabc)]);
    assert_eq!(pod_name(&dst).as_deref(), Some("agent-x"));
    // Whose socket it is beats the address, and a pod that is not known yet has no name rather than a wrong one.
    assert_eq!(pod_name(&cluster.ends(&flow, [Some(0xabc), None])[0]).as_deref(), Some("agent-x"));
    assert_eq!(pod_name(&cluster.ends(&flow, [Some(0x123), None])[0]), None);
    let [src, _] = cluster.ends_of("192.168.50.1:50000", "192.0.2.1:443", 12.0);
    assert_eq!((pod_name(&src), service_name(&src)), (None, None));
}

#[test]
fn with_the_own_nodes_pods_only_slices_tell_who_is_elsewhere() {
    let cluster = cluster(false);
    let backends = [("10.9.7.1", Some("shop/far-0")), ("10.9.7.2", Some("shop/far-1"))];
    cluster.apply(Object::EndpointSlice(slice("shop/s", "far", 80, &backends)), 11.0);
    let shared = [("10.9.7.9", Some("shop/host-0"))];
    cluster.apply(Object::EndpointSlice(slice("shop/h1", "h1", 81, &shared)), 11.0);
    cluster
        .apply(Object::EndpointSlice(slice("shop/h2", "h2", 82, &[("10.9.7.9", Some("shop/host-1"))])), 11.0);
    let [_, dst] = cluster.ends_of("10.9.0.9:40000", "10.9.7.1:80", 12.0);
    let backend = dst.backend.as_ref().unwrap();
    assert_eq!(backend.pod, Some(name("shop/far-0")));
    assert_eq!((service_name(&dst).as_deref(), dst.zone().as_deref()), (Some("shop/far"), Some("zone-b")));
    let [_, dst] = cluster.ends_of("10.9.0.9:40000", "10.9.7.9:82", 12.0);
    assert!(dst.backend.is_none(), "several pods share the address");
    assert_eq!(service_name(&dst).as_deref(), Some("shop/h2"));
}

#[test]
fn a_node_is_in_the_zone_that_was_heard_last() {
    let cluster = cluster(true);
    cluster.pod_applied(pod("shop/web-0", 1, "10.9.0.10", 10), 11.0);
    let zone = || {
        cluster
            .ends_of("10.9.0.10:1", "192.168.50.1:2", 12.0)
            .map(|end| end.zone().map(|zone| zone.to_string()))
    };
    assert_eq!(zone(), [None, None], "bound to a node that has not been heard of");
    cluster.apply(Object::Node(node("node-a", "192.168.50.1", "zone-a")), 11.0);
    assert_eq!(zone(), [Some("zone-a".into()), Some("zone-a".into())]);
    cluster.apply(Object::Node(node("node-a", "192.168.50.1", "zone-b")), 12.0);
    assert_eq!(zone(), [Some("zone-b".into()), Some("zone-b".into())]);
}
