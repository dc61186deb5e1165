//! Interfaces that come and go under the running agent.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::agent::{Agent, Held};
use common::net::{Net, run};

fn attached(agent: &Agent<'_>) -> usize {
    agent.cli(&["status"])["interfaces"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|i| i["attach"] != "failed")
        .count()
}

#[test]
fn hundreds_of_interfaces_are_followed_and_leave_nothing_behind() {
    let net = Net::new(&["a", "b"]);
    let agent = Agent::start(&net, "a", "log: { level: warn }");
    let (a, b) = (net.name("a"), net.name("b"));
    let batch = |verb: &str, line: &dyn Fn(usize) -> String| {
        let lines: String = (0..200).map(|n| line(n) + "\n").collect();
        let file = std::env::temp_dir().join(format!("{a}-{verb}"));
        std::fs::write(&file, lines).unwrap();
        run(&format!("ip -n {a} -batch {}", file.display()));
        std::fs::remove_file(file).unwrap();
    };
    let mut before: Option<Held> = None;
    for round in 0..3 {
        batch("add", &|n| format!("link add v{n} type veth peer name w{n} netns {b}"));
        batch("up", &|n| format!("link set v{n} up"));
        agent.wait("200 attached", 20, |agent| attached(agent) == 200);
        // A packet on one of them is seen.
        net.exec("b", &format!("ip link set w{round} up && ip addr add 10.9.0.2/24 dev w{round}"));
        net.exec("a", &format!("ip addr add 10.9.0.1/24 dev v{round} && ping -q -c 2 -i 0.05 -W 2 10.9.0.2"));
        agent.assert_law();
        // Renamed, moved away, deleted: in each case it is gone.
        net.exec("a", "ip link set v100 name other0");
        run(&format!("ip -n {a} link set v101 netns {b}"));
        agent.wait("the moved one gone", 10, |agent| attached(agent) == 199);
        assert!(agent.cli(&["status"])["interfaces"].to_string().contains("other0"));
        run(&format!("ip -n {b} link del v101 && ip -n {a} link del other0"));
        batch("del", &|n| {
            if n == 100 || n == 101 { "link show lo".into() } else { format!("link del v{n}") }
        });
        agent.wait("all gone", 20, |agent| attached(agent) == 0);
        agent.assert_law();
        // The first round makes what stays: worker threads, the collector's buffers.
        let now = agent.held();
        let first = *before.get_or_insert(now);
        assert!(
            now.files <= first.files + 2 && now.threads <= first.threads + 2,
            "{first:?} held, now {now:?}"
        );
    }
    let books = agent.books();
    assert!(
        books["outcomes"]["counted"].as_u64().unwrap() >= 12,
        "what interfaces counted outlives them: {books:#}"
    );
    agent.stop();
}

#[test]
fn an_interface_is_watched_within_a_moment_of_its_coming_up() {
    let net = Net::new(&["a", "b"]);
    let agent = Agent::start(&net, "a", "");
    net.veth(("a", "va", "10.1.0.1/24"), ("b", "vb", "10.1.0.2/24"));
    let begun = std::time::Instant::now();
    agent.wait("va attached", 5, |agent| attached(agent) == 1);
    println!("attached {} ms after the last set-up command", begun.elapsed().as_millis());
    agent.stop();
}
