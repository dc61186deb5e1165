//! From a recorded watch to changes: as much as the story needs.

use serde_json::Value;

use super::*;

fn texts<'a>(value: &'a Value, key: &str) -> Vec<&'a str> {
    let texts = value.as_array().into_iter().flatten();
    texts.filter_map(|one| if key.is_empty() { one.as_str() } else { one[key].as_str() }).collect()
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().filter_map(|ip| ip.parse().ok()).collect()
}

fn time(value: &Value) -> Option<jiff::Timestamp> {
    value.as_str()?.parse().ok()
}

fn object(raw: &Value) -> Option<Object> {
    let (meta, spec, status) = (&raw["metadata"], &raw["spec"], &raw["status"]);
    let text = |value: &Value| value.as_str().map(Arc::<str>::from);
    let name = Name { namespace: text(&meta["namespace"]).unwrap_or_default(), name: text(&meta["name"])? };
    let zone = text(&meta["labels"]["topology.kubernetes.io/zone"]);
    Some(match raw["kind"].as_str()? {
        "Pod" => {
            let owner = meta["ownerReferences"].get(0);
            let over = matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"));
            Object::Pod(Pod {
                uid: u128::from_str_radix(&meta["uid"].as_str()?.replace('-', ""), 16).ok()?,
                node: text(&spec["nodeName"]),
                addresses: addresses(&texts(&status["podIPs"], "ip")),
                host_network: spec["hostNetwork"] == true,
                owner: owner.and_then(|owner| {
                    Some(Owner { kind: text(&owner["kind"])?, name: text(&owner["name"])? })
                }),
                template_hash: text(&meta["labels"]["pod-template-hash"]),
                started: time(&status["startTime"]),
                ended: if over { time(&status["startTime"]) } else { None },
                containers: Vec::new(),
                name,
            })
        }
        "Service" => Object::Service(Service {
            addresses: addresses(&texts(&spec["clusterIPs"], "")),
            ports: spec["ports"]
                .as_array()?
                .iter()
                .map(|port| ServicePort {
                    protocol: Protocol::TCP,
                    port: port["port"].as_u64().unwrap() as u16,
                    node_port: None,
                })
                .collect(),
            name,
        }),
        "EndpointSlice" => Object::EndpointSlice(EndpointSlice {
            service: text(&meta["labels"]["kubernetes.io/service-name"]),
            ports: raw["ports"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|port| (Protocol::TCP, port["port"].as_u64().unwrap() as u16))
                .collect(),
            backends: raw["endpoints"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|endpoint| Backend {
                    addresses: addresses(&texts(&endpoint["addresses"], "")),
                    pod: None,
                    node: text(&endpoint["nodeName"]),
                    zone: text(&endpoint["zone"]),
                })
                .collect(),
            name,
        }),
        "Node" => Object::Node(Node {
            name: name.name,
            addresses: addresses(&texts(&status["addresses"], "address")),
            zone,
        }),
        _ => return None,
    })
}

/// The latest time that an object tells, in seconds of the tests' clock.
fn latest(raw: &Value) -> Option<i64> {
    let (meta, status) = (&raw["metadata"], &raw["status"]);
    let times = [&meta["creationTimestamp"], &meta["deletionTimestamp"], &status["startTime"]];
    times.into_iter().filter_map(time).max().map(|time| time.as_second() - EPOCH)
}

/// The changes of all streams in the order of their versions, each with the latest second that was told until then.
pub(super) fn changes(streams: &[&str]) -> Vec<(i64, Change)> {
    let lines = streams.iter().flat_map(|stream| stream.lines());
    let mut lines: Vec<(u64, Value)> = lines
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| (line["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap(), line))
        .collect();
    lines.sort_by_key(|(version, _)| *version);
    let mut at = 0;
    let change = |(_, line): (u64, Value)| {
        at = at.max(latest(&line["object"]).unwrap_or(0));
        let object = object(&line["object"])?;
        match line["type"].as_str()? {
            "ADDED" | "MODIFIED" => Some((at, Change::Applied(object))),
            "DELETED" => Some((at, Change::Gone(object))),
            _ => None,
        }
    };
    lines.into_iter().filter_map(change).collect()
}

/// The objects of a list, which don't say their kind.
pub(super) fn list(text: &str) -> Vec<Object> {
    let list: Value = serde_json::from_str(text).unwrap();
    let kind = list["kind"].as_str().unwrap().strip_suffix("List").unwrap();
    let items = list["items"].as_array().unwrap().iter().cloned();
    items
        .filter_map(|mut item| {
            item["kind"] = kind.into();
            object(&item)
        })
        .collect()
}
