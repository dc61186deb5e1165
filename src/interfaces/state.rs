//! What is known of this host's interfaces, and what follows from each message. Pure: no I/O and no clock.
//!
//! Notifications and dumps are told apart. While a part is being dumped, what a notification says of an object
//! stands against what the dump says of it, whichever is read first: every change is notified, so the last
//! notification is the newest word, while a dump's entry may have been written before it. What a finished dump
//! and the notifications beside it did not name is gone.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::addresses::AddressBook;
use super::wire::{Address, Link, Message};
use super::{Event, HostAddresses, Interface, LinkLayer, Selection};

/// What one dump, or two in the case of routes, gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Default routes of both families.
    Routes,
    /// Addresses.
    Addresses,
    /// Links.
    Links,
}

#[derive(Debug)]
struct Known {
    interface: Interface,
    hardware_address: Vec<u8>,
    /// As last told by an event; none while not watched.
    told: Option<Interface>,
}

/// A dump under way.
#[derive(Debug)]
struct Progress {
    part: Part,
    /// Interfaces that a default route leaves by.
    uplinks: HashSet<u32>,
    dumped_links: HashSet<u32>,
    notified_links: HashSet<u32>,
    dumped_addresses: HashSet<Address>,
    notified_addresses: HashSet<Address>,
}

/// See the module.
#[derive(Debug)]
pub struct State {
    selection: Arc<Selection>,
    links: HashMap<u32, Known>,
    book: AddressBook,
    addresses_changed: bool,
    /// Interfaces that a default route of the main table leaves by.
    uplinks: HashSet<u32>,
    routes_stale: bool,
    progress: Option<Progress>,
}

impl State {
    /// Knows nothing yet.
    pub fn new(selection: Arc<Selection>) -> Self {
        Self {
            selection,
            links: HashMap::new(),
            book: AddressBook::default(),
            addresses_changed: true,
            uplinks: HashSet::new(),
            routes_stale: false,
            progress: None,
        }
    }

    /// A notification.
    pub fn apply(&mut self, message: Message) -> Vec<Event> {
        match message {
            Message::Link(link) => {
                if let Some(progress) = &mut self.progress {
                    progress.notified_links.insert(link.index);
                }
                self.link(link)
            }
            Message::LinkGone { index } => {
                if let Some(progress) = &mut self.progress {
                    progress.notified_links.insert(index);
                }
                self.link_gone(index).into_iter().collect()
            }
            Message::Address(address) => {
                self.notified_address(address);
                self.addresses_changed |= self.book.insert(address);
                Vec::new()
            }
            Message::AddressGone(address) => {
                self.notified_address(address);
                self.addresses_changed |= self.book.remove(&address);
                // The kernel drops IPv4 routes with their source address without a word.
                self.routes_stale |= self.uplinks.contains(&address.index);
                Vec::new()
            }
            // Routes have no identity of their own that both families share: they are asked for anew.
            Message::DefaultRoute(_) | Message::DefaultRouteGone => {
                self.routes_stale = true;
                Vec::new()
            }
            Message::Done(_) | Message::Overrun | Message::Other | Message::Undecodable => Vec::new(),
        }
    }

    /// A dump of this part begins, perhaps anew.
    pub fn begin(&mut self, part: Part) {
        if part == Part::Routes {
            self.routes_stale = false;
        }
        self.progress = Some(Progress {
            part,
            uplinks: HashSet::new(),
            dumped_links: HashSet::new(),
            notified_links: HashSet::new(),
            dumped_addresses: HashSet::new(),
            notified_addresses: HashSet::new(),
        });
    }

    /// An entry of the dump under way.
    pub fn apply_dumped(&mut self, message: Message) -> Vec<Event> {
        let Some(progress) = &mut self.progress else { return Vec::new() };
        match (progress.part, message) {
            (Part::Links, Message::Link(link)) if !progress.notified_links.contains(&link.index) => {
                progress.dumped_links.insert(link.index);
                let mut events = Vec::new();
                if self.links.get(&link.index).is_some_and(|known| is_another(known, &link)) {
                    events.extend(self.link_gone(link.index));
                }
                events.extend(self.link(link));
                events
            }
            (Part::Addresses, Message::Address(address))
                if !progress.notified_addresses.contains(&address) =>
            {
                progress.dumped_addresses.insert(address);
                self.addresses_changed |= self.book.insert(address);
                Vec::new()
            }
            (Part::Routes, Message::DefaultRoute(interfaces)) => {
                progress.uplinks.extend(interfaces);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// The dump under way is over. If it is not complete (the kernel may have skipped entries) nothing is taken for
    /// gone.
    pub fn finish(&mut self, complete: bool) -> Vec<Event> {
        let Some(mut progress) = self.progress.take() else { return Vec::new() };
        match progress.part {
            Part::Routes => {
                if !complete {
                    progress.uplinks.extend(&self.uplinks);
                }
                let old = std::mem::replace(&mut self.uplinks, progress.uplinks);
                let changed: Vec<u32> = old.symmetric_difference(&self.uplinks).copied().collect();
                changed.into_iter().filter_map(|index| self.refresh(index)).collect()
            }
            Part::Addresses | Part::Links if !complete => Vec::new(),
            Part::Addresses => {
                self.addresses_changed |= self.book.retain(|address| {
                    progress.dumped_addresses.contains(address)
                        || progress.notified_addresses.contains(address)
                });
                Vec::new()
            }
            Part::Links => {
                let named = |index: &u32| {
                    progress.dumped_links.contains(index) || progress.notified_links.contains(index)
                };
                let gone: Vec<u32> = self.links.keys().copied().filter(|index| !named(index)).collect();
                gone.into_iter().filter_map(|index| self.link_gone(index)).collect()
            }
        }
    }

    /// Another selection from now on.
    pub fn select(&mut self, selection: Arc<Selection>) -> Vec<Event> {
        self.selection = selection;
        let all: Vec<u32> = self.links.keys().copied().collect();
        all.into_iter().filter_map(|index| self.refresh(index)).collect()
    }

    /// Whether the default routes have to be dumped again.
    pub fn routes_stale(&self) -> bool {
        self.routes_stale
    }

    /// Whether the addresses are other than when they were last taken.
    pub fn addresses_changed(&self) -> bool {
        self.addresses_changed
    }

    /// The addresses as they stand.
    pub fn take_addresses(&mut self) -> HostAddresses {
        self.addresses_changed = false;
        self.book.snapshot()
    }

    /// Interfaces known, watched or not.
    pub fn known(&self) -> usize {
        self.links.len()
    }

    fn notified_address(&mut self, address: Address) {
        if let Some(progress) = &mut self.progress {
            progress.notified_addresses.insert(address);
        }
    }

    fn link(&mut self, link: Link) -> Vec<Event> {
        let index = link.index;
        // The kernel drops the IPv4 routes of an interface that goes down without a word.
        self.routes_stale |= !link.up && self.uplinks.contains(&index);
        let interface = Interface {
            index,
            name: link.name,
            kind: link.kind,
            link_layer: LinkLayer::from_hardware_type(link.hardware_type),
            up: link.up,
            loopback: link.loopback,
            local_peer: false,
        };
        match self.links.entry(index) {
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                known.interface = interface;
                known.hardware_address = link.hardware_address;
            }
            Entry::Vacant(entry) => {
                if self.selection.misses(&interface) {
                    tracing::warn!(
                        interface = interface.name,
                        hardware_type = link.hardware_type,
                        "this interface is named in capture.interfaces, but its packets begin neither with an \
                         Ethernet nor with an IP header: it is not watched"
                    );
                }
                entry.insert(Known { interface, hardware_address: link.hardware_address, told: None });
            }
        }
        self.refresh(index).into_iter().collect()
    }

    fn link_gone(&mut self, index: u32) -> Option<Event> {
        let known = self.links.remove(&index)?;
        self.addresses_changed |= self.book.remove_interface(index);
        self.routes_stale |= self.uplinks.contains(&index);
        known.told.map(|told| Event::Gone { index, name: told.name })
    }

    /// What an interface is for those outside, compared with what they were told.
    fn refresh(&mut self, index: u32) -> Option<Event> {
        let known = self.links.get_mut(&index)?;
        let interface = &mut known.interface;
        interface.local_peer = leads_to_this_host(interface) && !self.uplinks.contains(&index);
        if !self.selection.wants(interface) {
            return known.told.take().map(|told| Event::Gone { index, name: told.name });
        }
        match known.told.replace(interface.clone()) {
            None => Some(Event::Appeared(interface.clone())),
            Some(told) if told != *interface => Some(Event::Changed(interface.clone())),
            Some(_) => None,
        }
    }
}

/// Whether the other side of this kind of interface is a container or guest on this host.
fn leads_to_this_host(interface: &Interface) -> bool {
    match interface.kind.as_deref() {
        Some("veth" | "netkit") => true,
        // TAP has Ethernet headers, TUN has not.
        Some("tun") => interface.link_layer == LinkLayer::Ethernet,
        _ => false,
    }
}

/// Whether the index names another interface than before. Asked only after messages were lost, when the first one
/// may have gone and the index been used again; a new hardware address alone then costs an attachment anew.
fn is_another(known: &Known, link: &Link) -> bool {
    known.interface.kind != link.kind
        || known.interface.link_layer != LinkLayer::from_hardware_type(link.hardware_type)
        || known.hardware_address != link.hardware_address
}
