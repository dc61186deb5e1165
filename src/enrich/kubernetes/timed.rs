//! Who held what when: addresses and ports change hands.
//!
//! Times are nanoseconds of `CLOCK_MONOTONIC`. What the API says of times comes in steps of a second and by other machines' clocks;
//! what is heard comes late. So a beginning lies between what was said and when it was heard, and an end no later than it was heard.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

/// Clocks of nodes differ by this much, or less: who is next to a moment that nobody holds has it.
const SLACK_NS: u64 = 2_000_000_000;
/// No end is known.
pub(super) const STILL: u64 = u64::MAX;

/// From when to when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// It began no earlier.
    pub since: u64,
    /// It began no later: then it was heard of.
    pub heard: u64,
    /// It was over; [`STILL`] while it goes on.
    pub until: u64,
}

impl Span {
    /// One that goes on; said to have begun `since`, heard of at `heard`.
    pub fn new(since: u64, heard: u64) -> Self {
        Self { since: since.min(heard), heard, until: STILL }
    }

    /// By its beginning; in the same second what was over when it was heard of goes before what is not, then as they were heard of.
    fn order(&self) -> (u64, bool, u64) {
        (self.since, self.until > self.heard, self.heard)
    }

    /// What is only heard of is heard of late: it may have begun a little before, and was over by the time it is said to be.
    fn touches(&self, start: u64, end: u64) -> bool {
        self.since <= end.saturating_add(SLACK_NS) && start < self.until
    }
}

#[derive(Clone, Debug)]
struct Held<T> {
    span: Span,
    what: Arc<T>,
}

/// In the order in which they began. Nearly always one.
#[derive(Debug)]
enum Holders<T> {
    One(Held<T>),
    Many(Vec<Held<T>>),
}

impl<T> Holders<T> {
    fn all(&self) -> &[Held<T>] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    fn all_mut(&mut self) -> &mut [Held<T>] {
        match self {
            Self::One(one) => std::slice::from_mut(one),
            Self::Many(many) => many,
        }
    }

    /// Who had it, alone, from `start` to `end`: at the start, else first after it.
    fn at(&self, start: u64, end: u64) -> Option<&Held<T>> {
        let held = self.all();
        // From when each had it until when, in order. One that is not known to be over gave way when the next began; one that is
        // known to be over had it until then, though the next says that it began in the same second.
        let mut from = 0;
        let spans = held.iter().enumerate().map(|(n, one)| {
            let begin = one.span.since.max(from);
            let over = match held.get(n + 1) {
                Some(next) if one.span.until > next.span.heard => next.span.since.max(begin),
                _ => one.span.until,
            };
            from = over.min(STILL - 1);
            (begin, over, one)
        });
        let mut nearest: Option<(u64, &Held<T>)> = None;
        for (begin, over, one) in spans {
            if begin >= over {
                continue;
            }
            let away = if start < begin {
                if begin <= end { 0 } else { begin - start }
            } else if start < over {
                return Some(one);
            } else {
                start - over + 1
            };
            // Whoever held it during the flow is better than who held it before, and the first of them best.
            if away <= SLACK_NS && nearest.is_none_or(|(best, _)| away < best) {
                nearest = Some((away, one));
            }
        }
        nearest.map(|(_, one)| one)
    }
}

/// Holders by key. Those that are over are kept as long as there is room for them, the last ones longest.
#[derive(Debug)]
pub(super) struct Timed<K, T> {
    held: HashMap<K, Holders<T>>,
    over: VecDeque<(K, Arc<T>)>,
    kept: usize,
}

impl<K: Copy + Eq + Hash, T> Timed<K, T> {
    /// Keeps so many that are over.
    pub fn new(kept: usize) -> Self {
        Self { held: HashMap::new(), over: VecDeque::new(), kept }
    }

    /// Takes a holder in.
    pub fn hold(&mut self, key: K, what: Arc<T>, span: Span) {
        let new = Held { span, what };
        match self.held.remove(&key) {
            None => self.held.insert(key, Holders::One(new)),
            Some(holders) => {
                let mut many = match holders {
                    Holders::One(one) => Vec::from([one]),
                    Holders::Many(many) => many,
                };
                let at = many.partition_point(|one| one.span.order() <= new.span.order());
                many.insert(at, new);
                self.held.insert(key, Holders::Many(many))
            }
        };
    }

    /// The same holder has a new state.
    pub fn replace(&mut self, key: K, old: &Arc<T>, new: &Arc<T>) {
        for one in self.held.get_mut(&key).into_iter().flat_map(Holders::all_mut) {
            if Arc::ptr_eq(&one.what, old) {
                one.what = Arc::clone(new);
            }
        }
    }

    /// A holder has let go, no later than `at`.
    pub fn leave(&mut self, key: K, what: &Arc<T>, at: u64) {
        if let Some(holders) = self.held.get_mut(&key).map(Holders::all_mut) {
            for one in holders.iter_mut().filter(|one| Arc::ptr_eq(&one.what, what)) {
                if one.span.until == STILL {
                    self.over.push_back((key, Arc::clone(what)));
                }
                one.span.until = one.span.until.min(at.max(one.span.since));
            }
            holders.sort_by_key(|one| one.span.order());
        }
        while self.over.len() > self.kept {
            let Some((key, what)) = self.over.pop_front() else { break };
            self.forget(key, &what);
        }
    }

    fn forget(&mut self, key: K, what: &Arc<T>) {
        let Some(holders) = self.held.remove(&key) else { return };
        let stays = |one: &Held<T>| one.span.until == STILL || !Arc::ptr_eq(&one.what, what);
        let left = match holders {
            Holders::One(one) => Some(one).filter(stays).map(Holders::One),
            Holders::Many(mut many) => {
                many.retain(stays);
                match many.len() {
                    0 | 1 => many.pop().map(Holders::One),
                    _ => {
                        many.shrink_to_fit();
                        Some(Holders::Many(many))
                    }
                }
            }
        };
        if let Some(left) = left {
            self.held.insert(key, left);
        }
    }

    /// Who had it, alone, when something went on from `start` to `end`.
    pub fn at(&self, key: K, start: u64, end: u64) -> Option<&Arc<T>> {
        self.held.get(&key)?.at(start, end).map(|one| &one.what)
    }

    /// All who had it then, where several may.
    pub fn all_at(&self, key: K, start: u64, end: u64) -> impl Iterator<Item = &Arc<T>> {
        let holders = self.held.get(&key).map_or(&[] as &[_], Holders::all);
        // The last to have begun first.
        holders.iter().rev().filter(move |one| one.span.touches(start, end)).map(|one| &one.what)
    }
}
