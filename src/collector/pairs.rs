//! Which live flows are translated (NAT): by the flow's tag, its alias in the table and what its ends are called on the
//! other side. Written by the collector, read by whoever tells flows.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::flow::key::FlowKey;
use crate::flow::update::Translation;

/// A flow's alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Its tag.
    pub alias: u64,
    /// Its ends, by side of the flow's key.
    pub ends: [SocketAddr; 2],
}

/// All of them: at most as many as the table has slots.
#[derive(Clone, Debug, Default)]
pub struct Pairs(Arc<Book>);

#[derive(Debug, Default)]
struct Book {
    /// Without a translated flow nobody takes the lock.
    count: AtomicUsize,
    by_flow: Mutex<HashMap<u64, Pair>>,
}

impl Pairs {
    /// Takes a pair in; the one that it takes the place of.
    pub fn insert(&self, flow: u64, pair: Pair) -> Option<Pair> {
        let mut by_flow = self.0.by_flow.lock().unwrap_or_else(PoisonError::into_inner);
        let before = by_flow.insert(flow, pair);
        self.0.count.store(by_flow.len(), Ordering::Release);
        before
    }

    /// The pair of a flow.
    pub fn get(&self, flow: u64) -> Option<Pair> {
        if self.0.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.0.by_flow.lock().unwrap_or_else(PoisonError::into_inner).get(&flow).copied()
    }

    /// Forgets a flow.
    pub fn remove(&self, flow: u64) {
        let mut by_flow = self.0.by_flow.lock().unwrap_or_else(PoisonError::into_inner);
        by_flow.remove(&flow);
        // A burst is over: give its memory back.
        if by_flow.len() < by_flow.capacity() / 4 && by_flow.capacity() > 4096 {
            let twice = by_flow.len() * 2;
            by_flow.shrink_to(twice);
        }
        self.0.count.store(by_flow.len(), Ordering::Release);
    }

    /// What the ends of a flow are called on the other side. `opener`: its side in the flow's key.
    pub fn translation(&self, flow: u64, key: &FlowKey, opener: usize) -> Option<Translation> {
        let ends = self.get(flow)?.ends;
        let other = |end: SocketAddr, here: SocketAddr| (end != here).then_some(end);
        Some(Translation {
            src: other(ends[opener & 1], key.src),
            dst: other(ends[1 - (opener & 1)], key.dst),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::flow::key::Protocol;

    #[test]
    fn only_what_differs_is_told() {
        let end = |text: &str| text.parse::<SocketAddr>().unwrap();
        let pairs = Pairs::default();
        let key = FlowKey { protocol: Protocol::TCP, src: end("10.0.0.9:4000"), dst: end("10.0.0.1:8080") };
        assert_eq!(pairs.translation(7, &key, 1), None);
        // The opener is side 1 of the flow's key.
        let ends = [end("10.0.1.2:80"), end("10.0.0.9:4000")];
        assert_eq!(pairs.insert(7, Pair { alias: 8, ends }), None);
        let told = pairs.translation(7, &key, 1).unwrap();
        assert_eq!((told.src, told.dst), (None, Some(end("10.0.1.2:80"))));
        pairs.remove(7);
        assert_eq!(pairs.get(7), None);
    }
}
