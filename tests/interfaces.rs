//! The follower against a real kernel, in network namespaces that each test makes and removes.
//!
//! Needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN) and iproute2; without them these tests fail and say so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::net::Net;
use netmon::interfaces::{Event, FollowCounters, Follower, HostAddresses, Interface, Selection};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Descriptors and threads of the process are counted, so one test at a time.
static ALONE: Mutex<()> = Mutex::new(());
const LIMIT: Duration = Duration::from_secs(2);

/// A network namespace as it is when it is new.
struct Namespace(Net);

impl Namespace {
    fn new() -> Self {
        let net = Net::new(&["n"]);
        let ipv6 = "net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0";
        net.exec("n", &format!("ip link set lo down && sysctl -qw {ipv6}"));
        Self(net)
    }

    fn name(&self) -> String {
        self.0.name("n")
    }

    /// Runs `ip` commands in it, a line each.
    fn ip_now(name: &str, commands: &str) {
        let mut child = Command::new("ip")
            .args(["-n", name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr));
    }

    async fn ip(&self, commands: impl Into<String>) {
        let (name, commands) = (self.name(), commands.into());
        tokio::task::spawn_blocking(move || Self::ip_now(&name, &commands)).await.unwrap();
    }

    /// Runs a test on a thread of its own that has moved into the namespace.
    fn run(test: impl AsyncFnOnce(&Namespace) + Send) {
        let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let namespace = Self::new();
        namespace.0.inside("n", || {
            // One thread for `ip`, so that the pool's own growth is not mistaken for a leak.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .max_blocking_threads(1)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(test(&namespace));
        });
    }
}

/// A running follower and what it has told.
struct Followed {
    events: mpsc::Receiver<Event>,
    selection: watch::Sender<Arc<Selection>>,
    counters: Arc<FollowCounters>,
    watched: BTreeMap<u32, Interface>,
    addresses: Arc<HostAddresses>,
    task: tokio::task::JoinHandle<()>,
}

impl Followed {
    /// The default selection, followed until the first dump is told.
    async fn synced() -> Self {
        let mut followed = Self::start(64, None);
        while followed.next().await != Event::Synced {}
        followed
    }

    fn start(capacity: usize, buffer_bytes: Option<usize>) -> Self {
        let (selection, selected) = watch::channel(Arc::new(Selection::default()));
        let (sender, events) = mpsc::channel(capacity);
        let follower = match buffer_bytes {
            None => Follower::open(selected, sender),
            Some(bytes) => Follower::open_with_buffer(selected, sender, bytes),
        }
        .unwrap();
        let counters = follower.counters();
        let task = tokio::spawn(follower.run());
        Self { events, selection, counters, watched: BTreeMap::new(), addresses: Arc::default(), task }
    }

    /// The next event; checks that each makes sense after those before it.
    async fn next(&mut self) -> Event {
        let event = timeout(LIMIT, self.events.recv()).await.expect("no event within 2 s").unwrap();
        match &event {
            Event::Appeared(interface) => {
                let before = self.watched.insert(interface.index, interface.clone());
                assert_eq!(before, None, "appeared twice");
            }
            Event::Changed(interface) => {
                let before = self.watched.insert(interface.index, interface.clone());
                assert!(before.is_some_and(|before| before != *interface), "{interface:?} is no change");
            }
            Event::Gone { index, name } => {
                let before = self.watched.remove(index).expect("gone without having appeared");
                assert_eq!(before.name, *name);
            }
            Event::Addresses(addresses) => self.addresses = Arc::clone(addresses),
            Event::Synced => {}
        }
        event
    }

    /// The next event about an interface.
    async fn about_interface(&mut self) -> Event {
        loop {
            match self.next().await {
                Event::Addresses(_) => {}
                event => return event,
            }
        }
    }

    async fn appeared(&mut self, name: &str) -> Interface {
        match self.about_interface().await {
            Event::Appeared(interface) if interface.name == name => interface,
            event => panic!("expected {name} to appear, not {event:?}"),
        }
    }

    async fn gone(&mut self, expected: &str) {
        match self.about_interface().await {
            Event::Gone { name, .. } if name == expected => {}
            event => panic!("expected {expected} to be gone, not {event:?}"),
        }
    }

    async fn until(&mut self, what: &str, reached: impl Fn(&Self) -> bool) {
        let until = async {
            while !reached(self) {
                self.next().await;
            }
        };
        timeout(LIMIT, until).await.unwrap_or_else(|_| panic!("not within 2 s: {what}"));
    }

    fn named(&self, name: &str) -> Option<&Interface> {
        self.watched.values().find(|interface| interface.name == name)
    }
}

#[test]
fn a_veth_is_followed_through_its_life() {
    Namespace::run(async |here| {
        let mut followed = Followed::synced().await;
        assert!(followed.watched.is_empty(), "nothing is up in a new namespace: {:?}", followed.watched);

        here.ip("link add veth0 type veth peer name peer0\nlink set veth0 up").await;
        let veth = followed.appeared("veth0").await;
        assert_eq!(veth.kind.as_deref(), Some("veth"));
        assert!(veth.up && veth.local_peer && !veth.loopback);

        here.ip("link set veth0 down").await;
        followed.gone("veth0").await;
        here.ip("link set veth0 name first\nlink set first up").await;
        assert_eq!(followed.appeared("first").await.index, veth.index);

        followed.selection.send_replace(Arc::new(Selection::new(&["lo".into()], &[]).unwrap()));
        followed.gone("first").await;
        here.ip("link set lo up").await;
        assert!(followed.appeared("lo").await.loopback);
        followed.selection.send_replace(Arc::default());
        let mut both = [followed.about_interface().await, followed.about_interface().await];
        both.sort_by_key(|event| matches!(event, Event::Gone { .. }));
        assert!(matches!(&both, [Event::Appeared(_), Event::Gone { name, .. }] if name == "lo"), "{both:?}");

        let there = Namespace::new();
        here.ip(format!("link set first netns {}", there.name())).await;
        followed.gone("first").await;
        there.ip(format!("link set first netns {}", here.name())).await;
        here.ip("link set first up").await;
        followed.appeared("first").await;

        here.ip("link add br0 type bridge\nlink set br0 up").await;
        assert!(!followed.appeared("br0").await.local_peer);
        // A port that enters and leaves a bridge stays what it is.
        here.ip("link set first master br0\nlink set first nomaster").await;
        here.ip("link del first").await;
        followed.gone("first").await;
        here.ip("link del br0").await;
        followed.gone("br0").await;
        assert_eq!(followed.counters.resyncs(), 0);
        assert_eq!(followed.counters.undecodable(), 0);
    });
}

#[test]
fn a_rename_while_up_is_a_change() {
    Namespace::run(async |here| {
        let mut followed = Followed::synced().await;
        here.ip("link add veth0 up type veth peer name peer0").await;
        let veth = followed.appeared("veth0").await;
        let name = here.name();
        let renamed = tokio::task::spawn_blocking(move || {
            Command::new("ip").args(["-n", &name, "link", "set", "veth0", "name", "other"]).status()
        });
        if !renamed.await.unwrap().unwrap().success() {
            println!(
                "this kernel does not rename what is up (Linux 6.2 does): only down, rename, up is tested"
            );
            return;
        }
        let event = followed.about_interface().await;
        assert_eq!(event, Event::Changed(Interface { name: "other".into(), ..veth }));
    });
}

#[test]
fn addresses_and_default_routes_are_followed() {
    Namespace::run(async |here| {
        here.ip(
            "link add veth0 up type veth peer name peer0\nlink set peer0 up\naddr add 10.9.0.1/24 dev veth0",
        )
        .await;
        let mut followed = Followed::synced().await;
        let has = |address: &str| {
            let address = address.parse().unwrap();
            move |followed: &Followed| followed.addresses.contains(&address)
        };
        assert!(has("10.9.0.1")(&followed), "dumped before synced");
        assert!(!has("10.9.0.2")(&followed));
        here.ip("addr add 10.9.0.2/24 broadcast + dev veth0\naddr add fd00::9/64 dev veth0 nodad").await;
        followed.until("IPv4 address", has("10.9.0.2")).await;
        followed.until("IPv6 address", has("fd00::9")).await;
        assert!(followed.addresses.is_group(&"10.9.0.255".parse().unwrap()));
        here.ip("addr del 10.9.0.2/24 dev veth0").await;
        followed.until("address gone", |followed| !has("10.9.0.2")(followed)).await;

        let peer = |expected: bool| {
            move |followed: &Followed| followed.named("veth0").is_some_and(|veth| veth.local_peer == expected)
        };
        assert!(peer(true)(&followed));
        for (add, delete) in [
            ("route add default via 10.9.0.254", "route del default"),
            ("route add default nexthop via 10.9.0.253 nexthop via 10.9.0.254", "route del default"),
            ("route add default via fd00::1", "route del default via fd00::1"),
            // The kernel does not tell that these remove the route.
            ("route add default via 10.9.0.254", "link set veth0 down\nlink set veth0 up"),
            ("route add default via 10.9.0.254", "addr flush dev veth0"),
        ] {
            for (commands, expected) in [(add, false), (delete, true)] {
                here.ip(commands).await;
                followed.until(commands, peer(expected)).await;
            }
        }
        followed.until("address flushed", |followed| !has("10.9.0.1")(followed)).await;

        // Another follower finds the route in its first dump.
        here.ip("addr add 10.9.0.1/24 dev veth0\nroute add default via 10.9.0.254").await;
        let mut second = Followed::synced().await;
        assert!(peer(false)(&second));
        second.events.close();
        timeout(LIMIT, second.task).await.expect("the follower ends with its receiver").unwrap();
    });
}

fn descriptors_and_threads() -> (usize, usize) {
    let count = |path: &str| std::fs::read_dir(path).unwrap().count();
    (count("/proc/self/fd"), count("/proc/self/task"))
}

/// Median and greatest, milliseconds.
fn spread(mut delays: Vec<Duration>) -> String {
    delays.sort();
    let ms = |delay: Duration| delay.as_secs_f64() * 1e3;
    format!("median {:.1} ms, greatest {:.1} ms", ms(delays[delays.len() / 2]), ms(delays[delays.len() - 1]))
}

/// `NETMON_TEST_CHURN=10000` for the long run.
#[test]
fn comings_and_goings_are_told_soon_and_leave_nothing_behind() {
    let rounds =
        std::env::var("NETMON_TEST_CHURN").map_or(200, |rounds| rounds.parse::<usize>().expect("a number"));
    Namespace::run(async move |here| {
        let mut followed = Followed::synced().await;
        let (mut came, mut went) = (Vec::new(), Vec::new());
        let mut before = (0, 0);
        for round in 0..rounds + 10 {
            if round == 10 {
                before = descriptors_and_threads();
            }
            let start = Instant::now();
            let name = format!("veth{round}");
            let ((), delay) =
                tokio::join!(here.ip(format!("link add {name} up type veth peer name peer{round}")), async {
                    followed.appeared(&name).await;
                    start.elapsed()
                });
            came.push(delay);
            let start = Instant::now();
            let ((), delay) = tokio::join!(here.ip(format!("link del {name}")), async {
                followed.gone(&name).await;
                start.elapsed()
            });
            went.push(delay);
        }
        let after = descriptors_and_threads();
        println!("{rounds} comings, from before ip is started to the event: {}", spread(came));
        println!("{rounds} goings, the same: {}", spread(went));
        println!("descriptors and threads: {before:?} before, {after:?} after");
        assert!(after.0 <= before.0 && after.1 <= before.1, "leak: {before:?} before, {after:?} after");
        assert_eq!(followed.counters.resyncs(), 0);
    });
}

#[test]
fn thousands_at_once_are_told() {
    const PAIRS: usize = 1000;
    Namespace::run(async |here| {
        let mut followed = Followed::synced().await;
        let commands: String =
            (0..PAIRS).map(|n| format!("link add veth{n} up type veth peer name peer{n}\n")).collect();
        let start = Instant::now();
        let ((), told) = tokio::join!(here.ip(commands), async {
            while followed.watched.len() < PAIRS {
                followed.next().await;
            }
            start.elapsed()
        });
        println!("{PAIRS} veth pairs: made in {:?}, all told {told:?} after the start", start.elapsed());

        let start = Instant::now();
        let second = Followed::synced().await;
        println!("first dump of {} interfaces: {:?}", 2 * PAIRS + 1, start.elapsed());
        assert_eq!(second.watched, followed.watched);
        assert_eq!(followed.counters.resyncs(), 0);
    });
}

#[test]
fn lost_messages_lead_to_a_new_dump_and_never_to_a_stale_state() {
    Namespace::run(async |here| {
        here.ip(
            "link add kept up type veth peer name kept-peer\nlink add gone up type veth peer name gone-peer",
        )
        .await;
        // A receive buffer for a few messages, and a receiver that does not listen.
        let mut followed = Followed::start(1, Some(8192));
        while followed.next().await != Event::Synced {}
        let commands: String =
            (0..100).map(|n| format!("link add veth{n} up type veth peer name peer{n}\n")).collect();
        here.ip(commands).await;
        let commands: String = (0..100).step_by(2).map(|n| format!("link del veth{n}\n")).collect();
        here.ip(format!("{commands}link del gone\nlink set kept name kept2\naddr add 10.9.0.1/24 dev kept2"))
            .await;
        let ours = "10.9.0.1".parse().unwrap();
        followed
            .until("the state after the loss", |followed| {
                followed.watched.len() == 51
                    && followed.named("kept2").is_some()
                    && followed.named("veth99").is_some()
                    && followed.addresses.contains(&ours)
            })
            .await;
        println!("resyncs: {}", followed.counters.resyncs());
        assert!(followed.counters.resyncs() > 0, "nothing was lost: the test tests nothing");
    });
}
