#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;

fn trim(kind: Kind, json: &str) -> Option<Object> {
    serde_json::from_str::<Raw>(json).unwrap().trim(kind, &mut Words::default())
}

fn pod(json: &str) -> Pod {
    match trim(Kind::Pod, json) {
        Some(Object::Pod(pod)) => pod,
        other => panic!("not a pod: {other:?}"),
    }
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_pod_with_two_addresses_keeps_both_once() {
    let pod = pod(r#"{"metadata":{"name":"p","namespace":"n","uid":"4eeb67a1-bfce-4545-b94f-8a25f9b36225"},
        "status":{"podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"},{"ip":"fd00::1"}]}}"#);
    assert_eq!(pod.addresses, ips(&["10.0.0.1", "fd00::1"]));
    assert_eq!(pod.uid, 0x4eeb_67a1_bfce_4545_b94f_8a25_f9b3_6225);
}

#[test]
fn a_finished_pod_ends_when_its_last_container_did() {
    let container = |name: &str, at: &str| {
        format!(
            r#"{{"name":"{name}","containerID":"containerd://{name}{name}","state":{{"terminated":{{"finishedAt":"{at}"}}}}}}"#
        )
    };
    let json = format!(
        r#"{{"metadata":{{"name":"j"}},"status":{{"phase":"Failed","startTime":"2026-11-23T08:00:00Z","containerStatuses":[{},{}]}}}}"#,
        container("a", "2026-11-23T08:00:09Z"),
        container("b", "2026-11-23T08:00:05Z")
    );
    let pod = pod(&json);
    assert_eq!(pod.ended, Some("2026-11-23T08:00:09Z".parse().unwrap()));
    assert_eq!(pod.containers[0], ("aa".into(), "a".into()));
}

#[test]
fn a_finished_pod_ends_though_nobody_said_when() {
    let with = |status: &str| {
        pod(&format!(r#"{{"metadata":{{"name":"j"}},"status":{{"phase":"Succeeded"{status}}}}}"#))
    };
    let before = Timestamp::now();
    assert!(with("").ended.is_some_and(|ended| ended >= before));
    let turned = with(r#","conditions":[{"lastTransitionTime":"2026-11-23T08:01:00Z"}]"#);
    assert_eq!(turned.ended, Some("2026-11-23T08:01:00Z".parse().unwrap()));
}

#[test]
fn a_static_pod_is_known_by_what_its_cgroup_is_called() {
    let pod = pod(r#"{"metadata":{"name":"etcd","uid":"4eeb67a1-bfce-4545-b94f-8a25f9b36225",
        "annotations":{"kubernetes.io/config.hash":"0123456789abcdef0123456789abcdef"}}}"#);
    assert_eq!(pod.uid, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
}

#[test]
fn a_service_keeps_addresses_of_every_family_and_source() {
    let json = r#"{"metadata":{"name":"s","namespace":"n"},
        "spec":{"clusterIP":"10.96.0.1","clusterIPs":["10.96.0.1","fd00::9"],"externalIPs":["192.0.2.1"],
        "ports":[{"port":53,"protocol":"UDP"},{"port":80,"nodePort":30080}]},
        "status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.5"},{"hostname":"lb.example"}]}}}"#;
    let Some(Object::Service(service)) = trim(Kind::Service, json) else { panic!() };
    assert_eq!(service.addresses, ips(&["10.96.0.1", "fd00::9", "192.0.2.1", "203.0.113.5"]));
    assert_eq!(
        service.ports,
        [
            ServicePort { protocol: Protocol::UDP, port: 53, node_port: None },
            ServicePort { protocol: Protocol::TCP, port: 80, node_port: Some(30080) }
        ]
    );
}

#[test]
fn headless_and_null_mean_nothing_rather_than_an_error() {
    let json = r#"{"metadata":{"name":"s","labels":null,"ownerReferences":null},"spec":{"clusterIP":"None","ports":null},"status":null}"#;
    let Some(Object::Service(service)) = trim(Kind::Service, json) else { panic!() };
    assert!(service.addresses.is_empty() && service.ports.is_empty());
    let json = r#"{"metadata":{"name":"x","namespace":"n","labels":{"kubernetes.io/service-name":"s"}},"endpoints":null,"ports":null}"#;
    let Some(Object::EndpointSlice(slice)) = trim(Kind::EndpointSlice, json) else { panic!() };
    assert_eq!(slice.service.as_deref(), Some("s"));
    assert!(slice.backends.is_empty());
}

#[test]
fn only_a_controller_is_an_owner() {
    let json = r#"{"metadata":{"name":"rs","namespace":"n","ownerReferences":[{"kind":"X","name":"x"},{"kind":"Deployment","name":"d","controller":true}]}}"#;
    let Some(Object::Owned(owned)) = trim(Kind::ReplicaSet, json) else { panic!() };
    assert_eq!(owned.owner, Some(Owner { kind: "Deployment".into(), name: "d".into() }));
}

#[test]
fn a_bookmark_has_a_version_and_is_no_object() {
    let raw: Raw = serde_json::from_str(
        r#"{"metadata":{"resourceVersion":"438","annotations":{"k8s.io/initial-events-end":"true"}},"spec":{"containers":null}}"#,
    )
    .unwrap();
    assert_eq!((raw.version(), raw.ends_list()), (Some("438"), true));
    assert!(raw.trim(Kind::Pod, &mut Words::default()).is_none());
}

#[test]
fn names_are_shared_and_forgotten_with_their_last_holder() {
    let mut words = Words::default();
    let first = words.share("shop");
    assert!(Arc::ptr_eq(&first, &words.share("shop")));
    words.share("gone");
    words.sweep();
    assert_eq!(words.held.len(), 1);
}
