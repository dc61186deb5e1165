//! The debug server of the real agent.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::io::Read;

use common::agent::Agent;
use common::net::Net;
use serde_json::Value;

fn get(net: &Net, path: &str) -> Vec<u8> {
    let line = format!("curl -s -f -m 30 'http://127.0.0.1:6060{path}'");
    let output = net.command("a", &line).output().unwrap();
    assert!(output.status.success(), "{path}: {output:?}");
    output.stdout
}

fn status(net: &Net, path: &str) -> String {
    net.exec(
        "a",
        &format!("curl -s -m 30 -o /dev/null -w '%{{http_code}}' 'http://127.0.0.1:6060{path}' || true"),
    )
}

/// A field of a protobuf message: numbers, or bytes.
#[derive(Clone, Debug)]
enum Field {
    Number(u64),
    Bytes(Vec<u8>),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            break;
        }
    }
    value
}

/// All fields of a message, by number.
fn message(mut bytes: &[u8]) -> BTreeMap<u64, Vec<Field>> {
    let mut fields: BTreeMap<u64, Vec<Field>> = BTreeMap::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let field = match key & 7 {
            0 => Field::Number(varint(&mut bytes)),
            2 => {
                let length = varint(&mut bytes) as usize;
                let (value, rest) = bytes.split_at(length);
                bytes = rest;
                Field::Bytes(value.to_vec())
            }
            kind => panic!("wire type {kind}"),
        };
        fields.entry(key >> 3).or_default().push(field);
    }
    fields
}

fn inner(field: &Field) -> &[u8] {
    match field {
        Field::Bytes(bytes) => bytes,
        Field::Number(number) => panic!("{number} is no message"),
    }
}

fn number(fields: &BTreeMap<u64, Vec<Field>>, field: u64) -> u64 {
    match fields.get(&field).map(|all| &all[0]) {
        Some(Field::Number(number)) => *number,
        None => 0,
        Some(Field::Bytes(_)) => panic!("field {field} is no number"),
    }
}

fn packed(field: &Field) -> Vec<u64> {
    let mut bytes = inner(field);
    let mut values = Vec::new();
    while !bytes.is_empty() {
        values.push(varint(&mut bytes));
    }
    values
}

#[test]
fn a_profile_names_functions_and_threads_as_pprof_reads_them() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "debug: { server: '127.0.0.1:6060' }");
    let _busy = net.spawn("a", "sh -c 'while :; do curl -so /dev/null http://127.0.0.1:9090/metrics; done'");
    let profile = get(&net, "/debug/pprof/profile?seconds=3");
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&profile[..]).read_to_end(&mut bytes).unwrap();
    let profile = message(&bytes);

    let strings: Vec<String> =
        profile[&6].iter().map(|text| String::from_utf8(inner(text).to_vec()).unwrap()).collect();
    assert_eq!(strings[0], "");
    let text = |number: u64| strings[number as usize].as_str();
    let kinds: Vec<_> = profile[&1]
        .iter()
        .map(|kind| message(inner(kind)))
        .map(|kind| (text(number(&kind, 1)), text(number(&kind, 2))))
        .collect();
    assert_eq!(kinds, [("samples", "count"), ("cpu", "nanoseconds")]);
    assert!((2_900_000_000..60_000_000_000).contains(&number(&profile, 10)), "its duration");

    let by_id = |field: u64| -> BTreeMap<u64, BTreeMap<u64, Vec<Field>>> {
        let all: Vec<_> = profile[&field].iter().map(|one| message(inner(one))).collect();
        let count = all.len();
        let map: BTreeMap<_, _> = all.into_iter().map(|one| (number(&one, 1), one)).collect();
        assert!(map.len() == count && !map.contains_key(&0), "ids are used once");
        map
    };
    let (mappings, locations, functions) = (by_id(3), by_id(4), by_id(5));
    let (mut samples, mut names) = (0, Vec::new());
    for sample in &profile[&2] {
        let sample = message(inner(sample));
        let values = packed(&sample[&2][0]);
        assert_eq!(values[1], values[0] * number(&profile, 12));
        samples += values[0];
        for location in packed(&sample[&1][0]) {
            let location = &locations[&location];
            let mapping = number(location, 2);
            assert!(mapping == 0 || mappings.contains_key(&mapping));
            let line = message(inner(&location[&4][0]));
            names.push(text(number(&functions[&number(&line, 1)], 2)));
        }
    }
    assert!(samples > 0 && names.iter().any(|name| name.starts_with("thread netmon-worker")), "{names:?}");
    // Rust's names, which readers of profiles make readable.
    assert!(names.iter().any(|name| name.starts_with("_R") || name.starts_with("_ZN")), "{names:?}");
    agent.stop();
}

#[test]
fn flows_and_configuration_are_told_and_wrong_questions_are_refused() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "debug: { server: '127.0.0.1:6060' }\nflow: { max_flows: 4321 }");
    net.exec("a", "ping -q -c 1 10.1.0.2");
    let flows = String::from_utf8(get(&net, "/debug/flows")).unwrap();
    let first: Value = serde_json::from_str(flows.lines().next().unwrap()).unwrap();
    assert_eq!((&first["protocol"], &first["dst"]["ip"]), (&"icmp".into(), &"10.1.0.2".into()));
    let config: Value = serde_json::from_slice(&get(&net, "/debug/config")).unwrap();
    assert_eq!(config["flow"]["max_flows"], 4321);
    for path in
        ["/debug/pprof/profile?seconds=0", "/debug/pprof/profile?seconds=x", "/debug/flows?limit=999999999"]
    {
        assert_eq!(status(&net, path), "400", "{path}");
    }
    assert_eq!(status(&net, "/debug/nothing"), "404");
    agent.stop();
}

#[test]
fn it_is_off_unless_asked_for() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "");
    assert_eq!(status(&net, "/debug/config"), "000");
    assert!(!net.exec("a", "ss -Hltn").contains(":6060"));
    agent.stop();
}
