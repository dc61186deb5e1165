//! Who held an address when, against a model that knows.

use proptest::prelude::*;

use super::*;

/// One pod that held the address, in milliseconds.
#[derive(Clone, Debug)]
struct Life {
    /// The kubelet saw it; the API tells the second.
    started: u64,
    /// It got the address.
    from: u64,
    heard: u64,
    /// It gave the address back.
    to: u64,
    gone_heard: u64,
    /// It ended by itself: the API tells the second, heard then.
    end_heard: Option<u64>,
}

impl Life {
    /// By when it is known to have ended: when that was heard, or the end of the second that was told.
    fn end_told(&self) -> u64 {
        let ended = self.end_heard.filter(|end| *end <= self.gone_heard);
        let heard =
            ended.filter(|end| (self.heard..self.gone_heard).contains(end)).unwrap_or(self.gone_heard);
        ended.map_or(heard, |_| heard.min(self.to / 1000 * 1000 + 1000))
    }
}

fn lives() -> impl Strategy<Value = Vec<Life>> {
    let one = (0u64..6000, 0u64..1500, 0u64..1500, 1u64..8000, 0u64..1500, proptest::option::of(0u64..1500));
    proptest::collection::vec(one, 1..12).prop_map(|ones| {
        let (mut free, mut told) = (10_000, 0);
        ones.into_iter()
            .map(|(idle, sandbox, report, life, removal, ends)| {
                // Its containers are made while the one before may still be there; the address is not given twice, and the API tells
                // of its pods in order.
                let started = free + idle;
                let from = started + sandbox;
                let to = from + life;
                let heard = (from + report).max(told + 1);
                (free, told) = (to, heard);
                Life {
                    started,
                    from,
                    heard,
                    to,
                    gone_heard: (to + removal).max(heard),
                    end_heard: ends.map(|late| to + late),
                }
            })
            .collect()
    })
}

fn milli(ms: u64) -> f64 {
    ms as f64 / 1e3
}

fn as_told(n: usize, life: &Life, ended: bool) -> Pod {
    let mut pod = pod(&format!("shop/pod-{n}"), n as u128 + 1, "10.9.0.20", (life.started / 1000) as i64);
    pod.ended = if ended { told((life.to / 1000) as i64) } else { None };
    pod
}

/// Everything that the API says of these, in the order in which it is heard.
fn tell(cluster: &Cluster, lives: &[Life]) {
    let mut told: Vec<(u64, usize, u8)> = Vec::new();
    for (n, life) in lives.iter().enumerate() {
        told.push((life.heard, n, 0));
        let ended = life.end_heard.filter(|end| (life.heard..life.gone_heard).contains(end));
        told.extend(ended.map(|end| (end, n, 1)));
        told.push((life.gone_heard, n, 2));
    }
    told.sort_unstable();
    for (at, n, what) in told {
        let ended = what > 0 && lives[n].end_heard.is_some_and(|end| end <= at);
        let pod = as_told(n, &lives[n], ended);
        match what {
            2 => cluster.pod_gone(pod, milli(at)),
            _ => cluster.pod_applied(pod, milli(at)),
        }
    }
}

proptest! {
    #[test]
    fn a_flow_has_the_name_of_who_held_the_address(lives in lives()) {
        let cluster = cluster(true);
        tell(&cluster, &lives);
        let last = lives.last().map_or(0, |life| life.to);
        for at in (8_000..last + 8_000).step_by(37) {
            let found = cluster.pod_at("10.9.0.20", milli(at));
            let name = |n: usize| Some(format!("shop/pod-{n}"));
            let Some((n, life)) = lives.iter().enumerate().find(|(_, life)| (life.from..life.to).contains(&at)) else {
                // Nobody held it: only who held it just before or after may be taken for it.
                let near = lives.iter().any(|life| at + 5000 >= life.started && at < life.gone_heard + 5000);
                prop_assert!(found.is_none() || near, "{at} ms: {found:?}");
                continue;
            };
            if found == name(n) {
                continue;
            }
            // Nobody can know more than is told. The end of one before lies before it was heard, if that was before this one was
            // heard of; where the end of this one was not heard before the next was heard of, the next began in the second that it names.
            let unsure = lives[..n].iter().enumerate().any(|(m, old)| {
                found == name(m) && at < old.end_told() && old.end_told() <= life.heard
            });
            let next = lives.get(n + 1);
            let gave_way = next.is_some_and(|next| life.end_told() > next.heard && at >= next.started / 1000 * 1000);
            prop_assert!(
                unsure || (gave_way && found == name(n + 1)),
                "{at} ms: {found:?} in place of pod-{n} {life:?}, {next:?}"
            );
        }
    }

    #[test]
    fn a_list_of_the_past_tells_as_much_in_any_order(lives in lives(), order in any::<prop::sample::Index>(), at in 0u64..100_000) {
        // Jobs' pods that have ended stay in the list; the last pod may live.
        let cluster = cluster(true);
        let mut pods: Vec<usize> = (0..lives.len()).collect();
        pods.rotate_left(order.index(lives.len()));
        cluster.take(Change::Listing(Kind::Pod), ns(1000.0));
        for n in pods {
            cluster.pod_applied(as_told(n, &lives[n], n + 1 < lives.len()), 1000.0);
        }
        cluster.take(Change::Listed(Kind::Pod), ns(1000.1));
        let found = cluster.pod_at("10.9.0.20", milli(at));
        let sure = lives.iter().enumerate().find(|(n, life)| {
            let next = lives.get(n + 1).map_or(u64::MAX, |next| next.started / 1000 * 1000);
            let before = n.checked_sub(1).map_or(0, |before| lives[before].to / 1000 * 1000 + 1000);
            (life.from.max(before)..life.to.min(next)).contains(&at)
        });
        if let Some((n, _)) = sure {
            prop_assert_eq!(found, Some(format!("shop/pod-{n}")));
        }
    }
}

#[test]
fn a_flow_that_is_older_than_the_news_gets_its_name_later() {
    let cluster = cluster(true);
    assert_eq!(cluster.pod_at("10.9.0.20", 10.2), None);
    cluster.pod_applied(pod("shop/web-0", 1, "10.9.0.20", 10), 11.0);
    assert_eq!(cluster.pod_at("10.9.0.20", 10.2).as_deref(), Some("shop/web-0"));
}

#[test]
fn a_long_flow_is_who_it_began_with() {
    let cluster = cluster(true);
    cluster.pod_applied(pod("shop/old", 1, "10.9.0.20", 10), 10.5);
    cluster.pod_gone(pod("shop/old", 1, "10.9.0.20", 10), 20.0);
    cluster.pod_applied(pod("shop/new", 2, "10.9.0.20", 30), 30.5);
    let during = |from: f64, to: f64| {
        cluster.at("10.9.0.20".parse().unwrap(), (ns(from), ns(to))).pod.map(|pod| pod.name.to_string())
    };
    assert_eq!(during(15.0, 40.0).as_deref(), Some("old"));
    assert_eq!(
        during(25.0, 40.0).as_deref(),
        Some("new"),
        "who came in its time is better than who had left"
    );
    assert_eq!(during(25.0, 26.0), None);
}

#[test]
fn what_a_list_does_not_tell_has_gone() {
    let cluster = cluster(true);
    cluster.pod_applied(pod("shop/web-0", 1, "10.9.0.10", 10), 10.5);
    cluster.pod_applied(pod("shop/web-1", 2, "10.9.0.11", 10), 10.5);
    cluster.take(Change::Listing(Kind::Pod), ns(50.0));
    // While the list is read the last known names stay.
    assert!(cluster.pod_at("10.9.0.10", 50.0).is_some());
    cluster.pod_applied(pod("shop/web-1", 2, "10.9.0.11", 10), 50.1);
    cluster.take(Change::Listed(Kind::Pod), ns(50.2));
    assert_eq!(cluster.pod_at("10.9.0.10", 60.0), None);
    assert!(cluster.pod_at("10.9.0.10", 40.0).is_some());
    assert!(cluster.pod_at("10.9.0.11", 60.0).is_some());
    assert_eq!(cluster.pod_names().len(), 1);
}

#[test]
fn a_pod_that_gets_another_address_leaves_the_first() {
    let cluster = cluster(true);
    cluster.pod_applied(pod("shop/web-0", 1, "10.9.0.10,fd00::10", 10), 10.5);
    cluster.pod_applied(pod("shop/web-0", 1, "10.9.0.99,fd00::10", 10), 30.0);
    assert!(cluster.pod_at("10.9.0.10", 20.0).is_some() && cluster.pod_at("10.9.0.10", 40.0).is_none());
    assert!(cluster.pod_at("10.9.0.99", 20.0).is_none() && cluster.pod_at("10.9.0.99", 40.0).is_some());
    assert!(cluster.pod_at("fd00::10", 20.0).is_some() && cluster.pod_at("fd00::10", 40.0).is_some());
}

#[test]
fn those_that_have_gone_are_kept_within_bounds() {
    let cluster = cluster(true);
    for n in 0..100_000u32 {
        let address = IpAddr::from((0x0a00_0000 + n).to_be_bytes()).to_string();
        let pod = pod(&format!("jobs/job-{n}"), u128::from(n), &address, 10);
        cluster.pod_applied(pod.clone(), 10.5);
        cluster.pod_gone(pod, 11.0);
    }
    assert_eq!(cluster.pod_names().len(), 0);
    let kept = (0..100_000u32).filter(|n| {
        cluster.pod_at(&IpAddr::from((0x0a00_0000 + n).to_be_bytes()).to_string(), 10.6).is_some()
    });
    let kept: Vec<u32> = kept.collect();
    assert!(kept.len() <= 32_768 && kept.contains(&99_999) && !kept.contains(&0), "{}", kept.len());
}
