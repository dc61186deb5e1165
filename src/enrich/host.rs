//! What the numbers in flows mean on this host.
//!
//! Fed on the collector's own thread: a number that is known costs one look into a map; one that is new, two lookups in the
//! kernel's maps. What the kernel did not take down (cgroups of sockets that are older than the agent) a thread of its own looks
//! up in the cgroup tree, at most once in two seconds.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::place::{self, Place};
use super::recent::Recent;
use super::tree::Tree;
use crate::flow::record::{Direction, Endpoint};
use crate::flow::update::{Change, FlowUpdate};
use crate::flow::who::Who;
use crate::kernel::names::{Name, NameReader};

/// Numbers kept: those used last, 200 bytes each.
const KEPT: usize = 32_768;
/// Cgroups kept.
const PLACES: usize = 8192;
/// The tree is read again this long after it was read, at the earliest.
const WALK_EVERY: Duration = Duration::from_secs(2);
/// Ended flows that the attributed share is taken over, about: half of them are forgotten when there are twice as many.
const SHARE_OF: u64 = 10_000;

/// Units that are told apart until they are asked for.
const UNITS: usize = 16_384;
/// Stands for the rest.
pub const OTHER: &str = "other";

/// Where names come from: the kernel's maps.
pub trait Source: Send + Sync + std::fmt::Debug {
    /// The process of this number.
    fn name(&self, number: u32) -> Option<Name>;
    /// The path of this cgroup.
    fn path(&self, cgroup: u64) -> Option<String>;
}

impl Source for NameReader {
    fn name(&self, number: u32) -> Option<Name> {
        Self::name(self, number)
    }

    fn path(&self, cgroup: u64) -> Option<String> {
        Self::path(self, cgroup)
    }
}

/// What one number stands for.
#[derive(Debug)]
struct Known {
    name: Option<Name>,
    /// `None`: not known yet.
    place: Option<Arc<Place>>,
    /// Bytes by direction, since they were taken.
    bytes: [u64; 4],
}

impl Known {
    fn is_named(&self) -> bool {
        self.name.is_some() || self.place.as_ref().is_some_and(|place| !place.is_empty())
    }
}

#[derive(Debug)]
struct Inner {
    known: Recent<Who, Known>,
    places: Recent<u64, Arc<Place>>,
    /// From the tree, by the low bits of the number.
    walked: HashMap<u32, Arc<Place>>,
    /// Flows ended with a local end, and those of them whose local ends all have names.
    ended: (u64, u64),
    /// Bytes of units whose numbers have left.
    left: HashMap<(String, Direction), u64>,
}

/// The names of this host. Shared: readers and the collector hold it for some hundred nanoseconds at a time.
#[derive(Debug)]
pub struct Host {
    source: Box<dyn Source>,
    inner: Arc<Mutex<Inner>>,
    walk: SyncSender<()>,
}

fn direction_index(direction: Direction) -> usize {
    Direction::ALL.iter().position(|one| *one == direction).unwrap_or(0)
}

impl Host {
    /// Learns from `source`, and from the tree where there is one.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub fn start(source: Box<dyn Source>, tree: Option<Tree>) -> std::io::Result<Self> {
        let inner = Arc::new(Mutex::new(Inner {
            known: Recent::new(KEPT),
            places: Recent::new(PLACES),
            walked: HashMap::new(),
            ended: (0, 0),
            left: HashMap::new(),
        }));
        let (walk, asked) = sync_channel(1);
        if let Some(tree) = tree {
            let inner = Arc::clone(&inner);
            std::thread::Builder::new().name("netmon-names".into()).spawn(move || {
                crate::privilege::drop_rest();
                keep_walking(&tree, &inner, &asked);
            })?;
            // The first walk: the channel is empty and has room.
            let _ = walk.try_send(());
        }
        Ok(Self { source, inner, walk })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns who is in these updates, and counts.
    pub fn observe(&self, updates: &[FlowUpdate]) {
        let mut inner = self.lock();
        for update in updates {
            let bytes = update.delta.bytes();
            let mut counted: Option<Arc<Place>> = None;
            let named = update.flow.who.map(|who| {
                who != Who::Unknown
                    && self.learn(&mut inner, who).is_some_and(|known| {
                        // Once, where both ends are of one unit.
                        let again = counted.is_some() && unit(&counted) == unit(&known.place);
                        if !again {
                            known.bytes[direction_index(update.flow.direction)] += bytes;
                        }
                        counted.clone_from(&known.place);
                        known.is_named()
                    })
            });
            if update.change == Change::Ended {
                let all = match update.flow.direction {
                    Direction::Egress => named[0],
                    Direction::Ingress => named[1],
                    Direction::Internal => named[0] && named[1],
                    Direction::Forwarded => continue,
                };
                inner.ended.0 += 1;
                inner.ended.1 += u64::from(all);
                if inner.ended.0 > 2 * SHARE_OF {
                    inner.ended = (inner.ended.0 / 2, inner.ended.1 / 2);
                }
            }
        }
    }

    fn learn<'a>(&self, inner: &'a mut Inner, who: Who) -> Option<&'a mut Known> {
        if inner.known.get(who).is_none() {
            let (name, cgroup) = match who {
                Who::Unknown => return None,
                Who::Socket(number) => {
                    let name = self.source.name(number)?;
                    let cgroup = name.cgroup;
                    (Some(name), cgroup)
                }
                Who::Cgroup(number) => (None, u64::from(number)),
            };
            let place = self.place(inner, cgroup);
            let left = inner.known.insert(who, Known { name, place, bytes: [0; 4] });
            for mut known in left.into_values() {
                count_units(&mut known, &mut inner.left);
            }
        }
        let walked = inner.known.get(who)?;
        if walked.place.is_none() {
            let cgroup = walked.name.as_ref().map_or(0, |name| name.cgroup);
            let number = if let Who::Cgroup(number) = who { number } else { low(cgroup) };
            let place = inner.walked.get(&number).cloned();
            inner.known.get(who)?.place = place;
        }
        inner.known.get(who)
    }

    /// Where a cgroup is; asks for a walk when that is not known.
    fn place(&self, inner: &mut Inner, cgroup: u64) -> Option<Arc<Place>> {
        if cgroup <= 1 {
            return Some(Arc::default());
        }
        if let Some(place) = inner.places.get(cgroup) {
            return Some(Arc::clone(place));
        }
        if let Some(path) = self.source.path(cgroup) {
            let place = Arc::new(place::read(&path));
            inner.places.insert(cgroup, Arc::clone(&place));
            return Some(place);
        }
        let walked = inner.walked.get(&low(cgroup)).cloned();
        if walked.is_none() {
            // Full: a walk is asked for already.
            let _ = self.walk.try_send(());
        }
        walked
    }

    /// Tells what is known of a number, and returns the UID of the pod that it stands for.
    pub fn tell(&self, who: Who, end: &mut Endpoint) -> Option<u128> {
        if who == Who::Unknown {
            return None;
        }
        let mut inner = self.lock();
        let known = self.learn(&mut inner, who)?;
        if let Some(name) = &known.name {
            end.process = Some(name.comm.clone());
            end.pid = Some(name.pid);
        }
        let place = known.place.as_ref()?;
        end.unit.clone_from(&place.unit);
        end.container.clone_from(&place.container);
        place.pod()
    }

    /// UIDs of the pods whose sockets are at the ends of these flows.
    pub fn pods_of(&self, updates: &[FlowUpdate]) -> Vec<[Option<u128>; 2]> {
        let mut inner = self.lock();
        let mut pod = |who: Who| {
            if who == Who::Unknown { None } else { self.learn(&mut inner, who)?.place.as_ref()?.pod() }
        };
        updates.iter().map(|update| update.flow.who.map(&mut pod)).collect()
    }

    /// Share of the flows that ended lately with a local end whose local ends all have names; `None` before the first.
    pub fn attributed_ratio(&self) -> Option<f64> {
        let (ended, named) = self.lock().ended;
        (ended > 0).then(|| named as f64 / ended as f64)
    }

    /// Bytes of flows by the units at their ends and direction, since this was asked last.
    pub fn take_unit_bytes(&self) -> HashMap<(String, Direction), u64> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut taken = std::mem::take(&mut inner.left);
        for known in inner.known.values_mut() {
            count_units(known, &mut taken);
        }
        taken
    }
}

fn count_units(known: &mut Known, into: &mut HashMap<(String, Direction), u64>) {
    // Until it is known where that is, they wait.
    let Some(place) = &known.place else { return };
    for (bytes, direction) in known.bytes.iter_mut().zip(Direction::ALL) {
        let bytes = std::mem::take(bytes);
        let Some(unit) = place.unit.as_ref().filter(|_| bytes > 0) else { continue };
        let unit = if into.len() < UNITS { unit.as_str() } else { OTHER };
        *into.entry((unit.to_owned(), *direction)).or_default() += bytes;
    }
}

fn unit(place: &Option<Arc<Place>>) -> Option<&str> {
    place.as_ref()?.unit.as_deref()
}

/// The low bits, as packets carry them.
fn low(cgroup: u64) -> u32 {
    (cgroup & 0x3fff_ffff) as u32
}

fn keep_walking(tree: &Tree, inner: &Mutex<Inner>, asked: &Receiver<()>) {
    // Ends when the other end goes.
    while asked.recv().is_ok() {
        let walked = tree.walk();
        let walked =
            walked.iter().map(|(number, path)| (low(*number), Arc::new(place::read(path)))).collect();
        inner.lock().unwrap_or_else(PoisonError::into_inner).walked = walked;
        std::thread::sleep(WALK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::flow::key::{FlowKey, Protocol};
    use crate::flow::update::{Counters, Flow};

    /// Knows number 1 only, in cgroup 77; cgroup 88 is gone before anybody asks.
    #[derive(Debug)]
    struct Kernel;

    impl Source for Kernel {
        fn name(&self, number: u32) -> Option<Name> {
            (number == 1).then(|| Name { pid: 4711, cgroup: 77, comm: "nginx".into() })
        }

        fn path(&self, cgroup: u64) -> Option<String> {
            (cgroup == 77).then(|| "/system.slice/nginx.service".into())
        }
    }

    fn host() -> Host {
        Host::start(Box::new(Kernel), None).unwrap()
    }

    fn update(direction: Direction, who: [Who; 2], change: Change) -> FlowUpdate {
        let (src, dst) = (([10, 0, 0, 1], 40_000).into(), ([10, 0, 0, 2], 80).into());
        let flow = Flow { who, ..Flow::new(1, FlowKey { protocol: Protocol::TCP, src, dst }, direction) };
        let delta = Counters { packets_sent: 1, bytes_sent: 100, packets_received: 1, bytes_received: 60 };
        FlowUpdate::new(flow, delta, change)
    }

    #[test]
    fn a_number_is_told_in_words() {
        let mut end = Endpoint::bare([10, 0, 0, 1].into(), None);
        host().tell(Who::Socket(1), &mut end);
        assert_eq!((end.process.as_deref(), end.pid), (Some("nginx"), Some(4711)));
        assert_eq!((end.unit.as_deref(), end.container), (Some("nginx.service"), None));
        let mut unknown = Endpoint::bare([10, 0, 0, 1].into(), None);
        for who in [Who::Unknown, Who::Socket(2), Who::Cgroup(88)] {
            host().tell(who, &mut unknown);
        }
        assert_eq!(unknown, Endpoint::bare([10, 0, 0, 1].into(), None));
    }

    #[test]
    fn bytes_of_units_are_taken_once() {
        let host = host();
        let known = [Who::Socket(1), Who::Unknown];
        host.observe(&[
            update(Direction::Egress, known, Change::Opened),
            update(Direction::Egress, known, Change::Ended),
        ]);
        host.observe(&[update(Direction::Ingress, [Who::Socket(2), Who::Cgroup(88)], Change::Active)]);
        let expected = HashMap::from([(("nginx.service".to_owned(), Direction::Egress), 320)]);
        assert_eq!(host.take_unit_bytes(), expected);
        assert!(host.take_unit_bytes().is_empty());
        host.observe(&[update(Direction::Internal, [Who::Socket(1); 2], Change::Active)]);
        assert_eq!(host.take_unit_bytes().into_values().sum::<u64>(), 160, "with itself");
    }

    #[test]
    fn bytes_wait_until_it_is_known_whose_they_are() {
        let host = host();
        let older = [Who::Cgroup(88), Who::Unknown];
        host.observe(&[update(Direction::Egress, older, Change::Opened)]);
        assert!(host.take_unit_bytes().is_empty());
        let place = Place { unit: Some("old.service".into()), ..Place::default() };
        host.lock().walked.insert(88, Arc::new(place));
        host.observe(&[update(Direction::Egress, older, Change::Active)]);
        let expected = HashMap::from([(("old.service".to_owned(), Direction::Egress), 320)]);
        assert_eq!(host.take_unit_bytes(), expected);
    }

    #[test]
    fn bytes_are_kept_when_a_number_leaves() {
        let host = host();
        host.observe(&[update(Direction::Egress, [Who::Socket(1), Who::Unknown], Change::Active)]);
        for number in 0..3 * KEPT as u32 {
            host.observe(&[update(
                Direction::Egress,
                [Who::Cgroup(100 + number), Who::Unknown],
                Change::Active,
            )]);
        }
        assert!(host.lock().known.values_mut().count() <= 2 * KEPT);
        assert_eq!(host.take_unit_bytes().into_values().sum::<u64>(), 160);
    }

    #[test]
    fn the_share_is_of_flows_with_an_end_here() {
        let host = host();
        assert_eq!(host.attributed_ratio(), None);
        let (known, unknown) = (Who::Socket(1), Who::Unknown);
        for (direction, who) in [
            (Direction::Egress, [known, unknown]),
            (Direction::Egress, [unknown, known]),
            (Direction::Internal, [known, unknown]),
            (Direction::Ingress, [unknown, known]),
            (Direction::Forwarded, [unknown, unknown]),
        ] {
            host.observe(&[update(direction, who, Change::Opened), update(direction, who, Change::Ended)]);
        }
        assert_eq!(host.attributed_ratio(), Some(0.5));
    }
}
