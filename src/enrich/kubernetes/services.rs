//! Services: by the addresses and ports at which they are asked, and by those of their backends.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::key;
use super::object::{Backend, EndpointSlice, Name, Service};
use super::timed::{Span, Timed};
use crate::flow::key::Protocol;

/// Addresses of services, and of backends, that are over and kept.
const KEPT: usize = 32_768;

/// A service as it stands.
#[derive(Debug)]
struct Front {
    name: Arc<Name>,
    service: Service,
}

/// Some of the backends of a service: what they share.
#[derive(Debug)]
struct Backs {
    service: Arc<Name>,
    ports: Box<[(Protocol, u16)]>,
}

#[derive(Debug)]
struct Slice {
    backs: Option<Arc<Backs>>,
    addresses: Vec<Ipv6Addr>,
    /// Backends of which no more will be heard.
    elsewhere: Vec<Arc<Backend>>,
}

/// All services.
#[derive(Debug)]
pub(super) struct Services {
    fronts: HashMap<Name, Arc<Front>>,
    by_address: Timed<Ipv6Addr, Front>,
    by_node_port: Timed<(Protocol, u16), Front>,
    slices: HashMap<Name, Slice>,
    backs: Timed<Ipv6Addr, Backs>,
    elsewhere: Timed<Ipv6Addr, Backend>,
    /// All pods are heard of, so slices need not say who they are.
    whole: bool,
    unseen: HashSet<Name>,
    unseen_slices: HashSet<Name>,
    listed: [bool; 2],
}

impl Services {
    pub fn new(whole: bool) -> Self {
        Self {
            fronts: HashMap::new(),
            by_address: Timed::new(KEPT),
            by_node_port: Timed::new(KEPT),
            slices: HashMap::new(),
            backs: Timed::new(KEPT),
            elsewhere: Timed::new(KEPT),
            whole,
            unseen: HashSet::new(),
            unseen_slices: HashSet::new(),
            listed: [false; 2],
        }
    }

    pub fn applied(&mut self, told: Service, at_ns: u64) {
        self.unseen.remove(&told.name);
        if self.fronts.get(&told.name).is_some_and(|known| known.service == told) {
            return;
        }
        self.gone(&told.name, at_ns);
        // What the first list tells has been so before.
        let span = Span::new(if self.listed[0] { at_ns } else { 0 }, at_ns);
        let front = Arc::new(Front { name: Arc::new(told.name.clone()), service: told });
        for address in &front.service.addresses {
            self.by_address.hold(key(*address), Arc::clone(&front), span);
        }
        for port in &front.service.ports {
            if let Some(number) = port.node_port {
                self.by_node_port.hold((port.protocol, number), Arc::clone(&front), span);
            }
        }
        self.fronts.insert(front.service.name.clone(), front);
    }

    pub fn gone(&mut self, name: &Name, at_ns: u64) {
        let Some(front) = self.fronts.remove(name) else { return };
        for address in &front.service.addresses {
            self.by_address.leave(key(*address), &front, at_ns);
        }
        for port in &front.service.ports {
            if let Some(number) = port.node_port {
                self.by_node_port.leave((port.protocol, number), &front, at_ns);
            }
        }
    }

    pub fn listing(&mut self) {
        self.unseen = self.fronts.keys().cloned().collect();
    }

    pub fn listed(&mut self, at_ns: u64) {
        for name in std::mem::take(&mut self.unseen) {
            self.gone(&name, at_ns);
        }
        self.listed[0] = true;
    }

    pub fn slice_applied(&mut self, told: EndpointSlice, at_ns: u64) {
        self.unseen_slices.remove(&told.name);
        let span = Span::new(if self.listed[1] { at_ns } else { 0 }, at_ns);
        let mut addresses: Vec<Ipv6Addr> =
            told.backends.iter().flat_map(|backend| &backend.addresses).map(|ip| key(*ip)).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.shrink_to_fit();
        let before = self.slices.remove(&told.name);
        // Backends come and go; what they share stays.
        let same = before.as_ref().and_then(|slice| slice.backs.clone()).filter(|backs| {
            Some(&backs.service.name) == told.service.as_ref() && *backs.ports == *told.ports
        });
        let backs = same.or_else(|| {
            let name = Name { namespace: Arc::clone(&told.name.namespace), name: told.service.clone()? };
            Some(Arc::new(Backs { service: Arc::new(name), ports: told.ports.clone().into() }))
        });
        let kept = |old: &Slice, address: &Ipv6Addr| {
            old.addresses.binary_search(address).is_ok()
                && old.backs.as_ref().map(Arc::as_ptr) == backs.as_ref().map(Arc::as_ptr)
        };
        if let Some(backs) = &backs {
            for address in &addresses {
                if !before.as_ref().is_some_and(|old| kept(old, address)) {
                    self.backs.hold(*address, Arc::clone(backs), span);
                }
            }
        }
        if let Some(old) = &before {
            self.let_go(old, at_ns, |address| {
                addresses.binary_search(address).is_err() || !kept(old, address)
            });
        }
        let elsewhere = self.take_elsewhere(told.backends, before, span);
        self.slices.insert(told.name, Slice { backs, addresses, elsewhere });
    }

    /// Backends that only slices tell of.
    fn take_elsewhere(&mut self, told: Vec<Backend>, before: Option<Slice>, span: Span) -> Vec<Arc<Backend>> {
        let whole = self.whole;
        let only_here = |backend: &Backend| {
            if whole { backend.pod.is_none() && backend.zone.is_some() } else { backend.pod.is_some() }
        };
        let mut before = before.map(|slice| slice.elsewhere).unwrap_or_default();
        let mut now = Vec::new();
        for backend in told.into_iter().filter(only_here) {
            if let Some(known) = before.iter().position(|old| **old == backend) {
                now.push(before.swap_remove(known));
                continue;
            }
            let backend = Arc::new(backend);
            for address in &backend.addresses {
                self.elsewhere.hold(key(*address), Arc::clone(&backend), span);
            }
            now.push(backend);
        }
        self.leave_elsewhere(&before, span.heard);
        now
    }

    fn leave_elsewhere(&mut self, backends: &[Arc<Backend>], at_ns: u64) {
        for backend in backends {
            for address in &backend.addresses {
                self.elsewhere.leave(key(*address), backend, at_ns);
            }
        }
    }

    fn let_go(&mut self, slice: &Slice, at_ns: u64, which: impl Fn(&Ipv6Addr) -> bool) {
        let Some(backs) = &slice.backs else { return };
        for address in slice.addresses.iter().filter(|address| which(address)) {
            self.backs.leave(*address, backs, at_ns);
        }
    }

    pub fn slice_gone(&mut self, name: &Name, at_ns: u64) {
        let Some(slice) = self.slices.remove(name) else { return };
        self.let_go(&slice, at_ns, |_| true);
        self.leave_elsewhere(&slice.elsewhere, at_ns);
    }

    pub fn slices_listing(&mut self) {
        self.unseen_slices = self.slices.keys().cloned().collect();
    }

    pub fn slices_listed(&mut self, at_ns: u64) {
        for name in std::mem::take(&mut self.unseen_slices) {
            self.slice_gone(&name, at_ns);
        }
        self.listed[1] = true;
    }

    /// The service that is asked at this address, whatever the port if only one is there.
    pub fn asked_at(
        &self,
        protocol: Protocol,
        end: SocketAddr,
        (start, over): (u64, u64),
    ) -> Option<&Arc<Name>> {
        let all = || self.by_address.all_at(key(end.ip()), start, over);
        let serves = |front: &&Arc<Front>| {
            front.service.ports.iter().any(|port| (port.protocol, port.port) == (protocol, end.port()))
        };
        let first = all().next()?;
        let found = all().find(serves).or_else(|| all().all(|one| one.name == first.name).then_some(first));
        found.map(|front| &front.name)
    }

    /// The service that is asked at this port of a node.
    pub fn asked_at_node(
        &self,
        protocol: Protocol,
        port: u16,
        (start, over): (u64, u64),
    ) -> Option<&Arc<Name>> {
        self.by_node_port.at((protocol, port), start, over).map(|front| &front.name)
    }

    /// The service of which this is a backend, on this port or on any. Of several, one that has an address of its own; then by
    /// name, so that it is always the same.
    pub fn served_by(
        &self,
        address: Ipv6Addr,
        port: Option<(Protocol, u16)>,
        namespace: Option<&str>,
        (start, over): (u64, u64),
    ) -> Option<&Arc<Name>> {
        let serves = |backs: &&Arc<Backs>| {
            port.is_none_or(|port| backs.ports.is_empty() || backs.ports.contains(&port))
                && namespace.is_none_or(|namespace| *backs.service.namespace == *namespace)
        };
        let headless =
            |name: &Name| self.fronts.get(name).is_none_or(|front| front.service.addresses.is_empty());
        let mut found = self.backs.all_at(address, start, over).filter(serves).map(|backs| &backs.service);
        let first = found.next()?;
        Some(found.fold(first, |best, other| {
            let rank = |name: &Arc<Name>| (headless(name), Arc::clone(name));
            if best != other && rank(other) < rank(best) { other } else { best }
        }))
    }

    /// A backend that no other object tells of; `None` also where several share the address.
    pub fn elsewhere(&self, address: Ipv6Addr, (start, over): (u64, u64)) -> Option<&Arc<Backend>> {
        let mut found = self.elsewhere.all_at(address, start, over);
        let first = found.next()?;
        found.all(|other| other.pod == first.pod).then_some(first)
    }

    /// Services that there are, those that only slices tell of included.
    pub fn names(&self) -> impl Iterator<Item = &Arc<Name>> {
        let of_slices = self.slices.values().filter_map(|slice| slice.backs.as_ref());
        self.fronts.values().map(|front| &front.name).chain(of_slices.map(|backs| &backs.service))
    }
}
