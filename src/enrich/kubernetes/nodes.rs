//! Nodes: their addresses and zones.

use std::collections::{HashMap, HashSet};
use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex, PoisonError};

use super::key;
use super::object::Node;
use super::timed::{Span, Timed};

/// Addresses of nodes that have gone which are kept.
const KEPT: usize = 4096;

/// A node.
#[derive(Debug)]
pub struct KnownNode {
    /// Its name.
    pub name: Arc<str>,
    zone: Mutex<Option<Arc<str>>>,
}

impl KnownNode {
    /// Its zone, as last heard.
    pub fn zone(&self) -> Option<Arc<str>> {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug)]
struct Entry {
    node: Arc<KnownNode>,
    addresses: Vec<Ipv6Addr>,
    /// The server has it; else pods are bound to it.
    told: bool,
}

/// All nodes.
#[derive(Debug)]
pub(super) struct Nodes {
    by_name: HashMap<Arc<str>, Entry>,
    by_address: Timed<Ipv6Addr, KnownNode>,
    sweep_at: usize,
    unseen: HashSet<Arc<str>>,
    listed: bool,
}

impl Nodes {
    pub fn new() -> Self {
        Self {
            by_name: HashMap::new(),
            by_address: Timed::new(KEPT),
            sweep_at: 64,
            unseen: HashSet::new(),
            listed: false,
        }
    }

    /// The node of this name, heard of or not.
    pub fn named(&mut self, name: &Arc<str>) -> Arc<KnownNode> {
        if let Some(known) = self.by_name.get(name) {
            return Arc::clone(&known.node);
        }
        if self.by_name.len() >= self.sweep_at {
            self.by_name.retain(|_, entry| entry.told || Arc::strong_count(&entry.node) > 1);
            self.sweep_at = 2 * self.by_name.len() + 64;
        }
        let node = Arc::new(KnownNode { name: Arc::clone(name), zone: Mutex::new(None) });
        let entry = Entry { node: Arc::clone(&node), addresses: Vec::new(), told: false };
        self.by_name.insert(Arc::clone(name), entry);
        node
    }

    pub fn applied(&mut self, told: &Node, at_ns: u64) {
        self.unseen.remove(&told.name);
        let node = self.named(&told.name);
        node.zone.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&told.zone);
        let Some(entry) = self.by_name.get_mut(&told.name) else { return };
        let now: Vec<Ipv6Addr> = told.addresses.iter().map(|ip| key(*ip)).collect();
        let before = std::mem::replace(&mut entry.addresses, now.clone());
        entry.told = true;
        for address in before.iter().filter(|address| !now.contains(address)) {
            self.by_address.leave(*address, &node, at_ns);
        }
        // What the first list tells has been so before.
        let since = if self.listed { at_ns } else { 0 };
        for address in now.iter().filter(|address| !before.contains(address)) {
            self.by_address.hold(*address, Arc::clone(&node), Span::new(since, at_ns));
        }
    }

    pub fn gone(&mut self, name: &str, at_ns: u64) {
        let Some(entry) = self.by_name.get_mut(name) else { return };
        entry.told = false;
        for address in std::mem::take(&mut entry.addresses) {
            self.by_address.leave(address, &entry.node, at_ns);
        }
    }

    pub fn listing(&mut self) {
        let told = self.by_name.iter().filter(|(_, entry)| entry.told);
        self.unseen = told.map(|(name, _)| Arc::clone(name)).collect();
    }

    pub fn listed(&mut self, at_ns: u64) {
        for name in std::mem::take(&mut self.unseen) {
            self.gone(&name, at_ns);
        }
        self.listed = true;
    }

    /// Whose address it was.
    pub fn at(&self, address: Ipv6Addr, start: u64, end: u64) -> Option<&Arc<KnownNode>> {
        self.by_address.at(address, start, end)
    }
}
