//! Interfaces: attached, detached, and what each has counted, also after it is gone.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::interfaces::{Interface, LinkLayer};
use crate::kernel::attach::{self, Attachment, Method};
use crate::kernel::claim::{self, Claim};
use crate::kernel::grace::Grace;
use crate::kernel::object::Object;
use crate::kernel::stats::{Hook, HookCounters};
use crate::kernel::types::nm_interface;
use crate::telemetry::message;

/// Length of an Ethernet header.
const ETHERNET_BYTES: u32 = 14;
/// What could not be attached to is tried again this often: what was in the way may have gone.
const RETRY: Duration = Duration::from_secs(10);

/// How an interface is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Method, or why it failed.
    pub attached: Result<Method, String>,
}

struct Entry {
    interface: Interface,
    attachment: Result<Attachment, String>,
    tried: Instant,
}

/// All watched interfaces.
#[derive(Default)]
pub struct Hooks {
    entries: BTreeMap<u32, Entry>,
    /// Detached; counted by programs on their way until the grace period has passed.
    leaving: Vec<(u64, u32)>,
    departed: nm_interface,
    method: Option<Method>,
    /// While there are clsact filters of ours; after them, so that they are gone first.
    claim: Option<Claim>,
}

fn add(sum: &mut nm_interface, more: &nm_interface) {
    for (sum, more) in sum.hooks.iter_mut().zip(&more.hooks) {
        sum.seen += more.seen;
        sum.counted_bytes += more.counted_bytes;
        for (sum, more) in sum.outcomes.iter_mut().zip(more.outcomes) {
            *sum += more;
        }
    }
}

impl Hooks {
    /// `method` forces one; `None` tries TCX, then clsact.
    pub fn new(method: Option<Method>) -> Self {
        Self { method, ..Self::default() }
    }

    /// Attaches an interface that has appeared, or has changed and could not be attached to before. A failure is kept and told,
    /// not fatal.
    pub fn attach(&mut self, object: &Object, interface: &Interface) {
        let before = match self.entries.get_mut(&interface.index) {
            Some(Entry { interface: known, attachment: Ok(_), .. }) => {
                known.clone_from(interface);
                return;
            }
            Some(Entry { attachment: Err(error), .. }) => Some(std::mem::take(error)),
            None => None,
        };
        // The index may be on its way out after a quick return: settle it first.
        if self.leaving.iter().any(|(_, index)| *index == interface.index) {
            self.settle_one(object, interface.index);
        }
        let attachment = self.try_attach(object, interface);
        match &attachment {
            Ok(attachment) => {
                tracing::info!(interface = %interface.name, index = interface.index, method = attachment.method().name(), "attached");
            }
            // Told once.
            Err(error) if before.as_ref() == Some(error) => {}
            Err(error) => {
                tracing::warn!(
                    message_id = message::ATTACH_FAILED, interface = %interface.name, index = interface.index, %error,
                    "not watched"
                )
            }
        }
        let entry = Entry { interface: interface.clone(), attachment, tried: Instant::now() };
        self.entries.insert(interface.index, entry);
    }

    fn try_attach(&mut self, object: &Object, interface: &Interface) -> Result<Attachment, String> {
        let link_bytes = match interface.link_layer {
            LinkLayer::Ethernet => ETHERNET_BYTES,
            LinkLayer::Raw => 0,
            LinkLayer::Unsupported(kind) => return Err(format!("link layer type {kind} is not understood")),
        };
        let claim = self.claim.take().map_or_else(claim::claim, Ok);
        if claim.is_ok() {
            let removed = attach::remove_leftovers(object, interface.index);
            if removed > 0 {
                tracing::info!(interface = %interface.name, removed, "removed filters that a killed run had left");
            }
        }
        object
            .add_interface(interface.index, link_bytes)
            .map_err(|error| format!("cannot count packets of it: {error}"))?;
        let attached = attach::attach(object, interface.index, self.method, claim.as_ref().err().copied());
        let by_clsact = |entry: &Entry| {
            entry.attachment.as_ref().is_ok_and(|attachment| attachment.method() == Method::Clsact)
        };
        if attached.as_ref().is_ok_and(|attachment| attachment.method() == Method::Clsact)
            || self.entries.values().any(by_clsact)
        {
            self.claim = claim.ok();
        }
        attached.map_err(|error| {
            object.remove_interface(interface.index);
            error.to_string()
        })
    }

    /// Detaches an interface that is gone or no longer wanted.
    pub fn detach(&mut self, grace: &Grace, index: u32) {
        if let Some(entry) = self.entries.remove(&index) {
            tracing::info!(interface = %entry.interface.name, index, "detached");
            drop(entry.attachment);
            self.leaving.push((grace.after_now(), index));
        }
    }

    fn settle_one(&mut self, object: &Object, index: u32) {
        if let Some(last) = object.interface(index) {
            add(&mut self.departed, &last);
            object.remove_interface(index);
        }
        self.leaving.retain(|(_, leaving)| *leaving != index);
    }

    /// Tries one of those again that could not be attached to, and folds the counters of interfaces whose programs have all finished.
    pub fn tend(&mut self, object: &Object, grace: &Grace) {
        let passed: Vec<u32> = self
            .leaving
            .iter()
            .filter(|(number, _)| grace.passed(*number))
            .map(|(_, index)| *index)
            .collect();
        for index in passed {
            self.settle_one(object, index);
        }
        // Time alone makes no link layer understood.
        let waits = |entry: &&Entry| {
            entry.attachment.is_err()
                && !matches!(entry.interface.link_layer, LinkLayer::Unsupported(_))
                && entry.tried.elapsed() >= RETRY
        };
        let next = self.entries.values().filter(waits).min_by_key(|entry| entry.tried);
        if let Some(interface) = next.map(|entry| entry.interface.clone()) {
            self.attach(object, &interface);
        }
        if let Some(claim) = &self.claim {
            claim.answer();
        }
    }

    /// Packets by interface and hook; those of interfaces that are gone, or that no name is known for, under
    /// `other`.
    pub fn counters(&self, object: &Object) -> Vec<HookCounters> {
        let mut other = self.departed;
        for (_, index) in &self.leaving {
            if let Some(leaving) = object.interface(*index) {
                add(&mut other, &leaving);
            }
        }
        if let Some(unnamed) = object.interface(0) {
            add(&mut other, &unnamed);
        }
        let mut all = Vec::with_capacity(self.entries.len() * 2 + 2);
        let mut push = |name: &str, sum: &nm_interface| {
            for (hook, counts) in Hook::ALL.into_iter().zip(&sum.hooks) {
                all.push(HookCounters {
                    interface: name.to_owned(),
                    hook,
                    seen: counts.seen,
                    outcomes: counts.outcomes,
                    counted_bytes: counts.counted_bytes,
                });
            }
        };
        for (index, entry) in &self.entries {
            if let Some(sum) = object.interface(*index) {
                push(&entry.interface.name, &sum);
            }
        }
        push("other", &other);
        all
    }

    /// How each interface is watched.
    pub fn watched(&self) -> Vec<Watched> {
        let watched = |(index, entry): (&u32, &Entry)| Watched {
            index: *index,
            name: entry.interface.name.clone(),
            attached: entry.attachment.as_ref().map(Attachment::method).map_err(Clone::clone),
        };
        self.entries.iter().map(watched).collect()
    }

    /// Names by index.
    pub fn names(&self) -> HashMap<u32, String> {
        self.entries.iter().map(|(index, entry)| (*index, entry.interface.name.clone())).collect()
    }

    /// Interfaces whose other side is on this host.
    pub fn local_peers(&self) -> std::collections::HashSet<u32> {
        self.entries.iter().filter(|(_, entry)| entry.interface.local_peer).map(|(index, _)| *index).collect()
    }

    /// Detaches one of those left; false when there is none.
    pub fn detach_next(&mut self, grace: &Grace) -> bool {
        let next = self.entries.keys().next().copied();
        if let Some(index) = next {
            self.detach(grace, index);
        }
        next.is_some()
    }
}
