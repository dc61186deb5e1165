//! Translated conversations (NAT): flows and their aliases, and, where the programs may not read conntrack, what it tells by
//! netlink.
//!
//! Then a conversation may have two flows for a moment: answers come in by the other key before conntrack's word is here. That
//! word was sent before they came, and is read before any event is looked at: the second flow is told to nobody. Its
//! slot dies and its packets, which no other slot has counted (`nm_passes`), are added to the first flow's.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Work;
use crate::clock;
use crate::collector::ledger::note;
use crate::collector::tables::SlotRef;
use crate::conntrack::{Conntrack, Source, Word};
use crate::kernel::conntrack;
use crate::kernel::load::{LeftOut, Part};
use crate::kernel::pairing::{Pairing, Translated};
use crate::kernel::table::{DEAD, MOVED, Snapshot, Table};

/// After start, conversations are met halfway for so long.
const MET_HALFWAY: Duration = Duration::from_secs(60);
/// Receive buffer for news: some 20 000 of them.
const BUFFER_BYTES: usize = 16 << 20;
/// Whether conntrack is there is looked at so often.
const RETRY: Duration = Duration::from_secs(5);
/// News after which the table's size is looked at even while more wait.
const HEARD: usize = 512;
/// Datagrams of a dump that are read before events have their turn again.
const DUMPED: usize = 64;
/// At start, the first dump may hold up the rest for so long.
const FIRST_DUMP: Duration = Duration::from_secs(2);

/// A conversation that conntrack has told of.
#[derive(Debug)]
struct Known {
    keys: Translated,
    /// Tag of the key after translation.
    after: u64,
    /// The dump that has seen it, or since which it was told.
    dump: u32,
}

/// What conntrack has told.
#[derive(Debug)]
pub(super) struct Told {
    conntrack: Option<Conntrack>,
    look_at: Instant,
    /// By tag of the key before translation; at most `most`.
    known: HashMap<u64, Known>,
    /// Tag of the key before translation by that of the key after it.
    before: HashMap<u64, u64>,
    most: usize,
    dump: u32,
    words: Vec<Word>,
    /// Times that news were lost.
    pub(super) overruns: u64,
    /// Conversations that found no room here.
    pub(super) forgotten: u64,
    /// Why conntrack can't be followed.
    pub(super) trouble: Option<String>,
}

/// A dead slot whose counts belong to another flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Join {
    flow: u64,
    swapped: bool,
}

impl Told {
    pub(super) fn new(max_flows: u64) -> Self {
        Self {
            conntrack: None,
            look_at: Instant::now(),
            known: HashMap::new(),
            before: HashMap::new(),
            most: usize::try_from(max_flows).unwrap_or(usize::MAX),
            dump: 0,
            words: Vec::new(),
            overruns: 0,
            forgotten: 0,
            trouble: None,
        }
    }

    /// Follows conntrack as soon as it is there. It is not asked before: the kernel would load it.
    fn open(&mut self) {
        if self.conntrack.is_some() || self.look_at > Instant::now() {
            return;
        }
        self.look_at = Instant::now() + RETRY;
        if !conntrack::runs() {
            return;
        }
        self.trouble = None;
        match Conntrack::open(BUFFER_BYTES) {
            Ok(conntrack) => {
                self.conntrack = Some(conntrack);
                self.begin_dump();
            }
            Err(error) => self.trouble = Some(format!("conntrack can't be followed by netlink: {error}")),
        }
        let events = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_events");
        if events.is_ok_and(|events| events.trim() == "0") {
            self.trouble = Some("conntrack tells nothing: net.netfilter.nf_conntrack_events is 0".into());
        }
    }

    fn begin_dump(&mut self) {
        self.dump = self.dump.wrapping_add(1);
        if let Some(Err(error)) = self.conntrack.as_mut().map(Conntrack::begin_dump) {
            self.give_up(&error);
        }
    }

    /// Until the next try.
    fn give_up(&mut self, error: &std::io::Error) {
        self.conntrack = None;
        self.trouble = Some(format!("conntrack can't be asked by netlink: {error}"));
    }

    fn remember(&mut self, keys: Translated, [before, after]: [u64; 2]) {
        if self.known.len() >= self.most && !self.known.contains_key(&before) {
            self.forgotten += 1;
            return;
        }
        let known = Known { keys, after, dump: self.dump };
        if let Some(old) = self.known.insert(before, known).filter(|old| old.after != after) {
            self.before.remove(&old.after);
        }
        self.before.insert(after, before);
    }

    fn forget(&mut self, [before, after]: [u64; 2]) {
        // Either key may belong to a later conversation by now.
        if self.known.get(&before).is_some_and(|known| known.after == after) {
            self.known.remove(&before);
        }
        if self.before.get(&after) == Some(&before) {
            self.before.remove(&after);
        }
        // A burst is over: give its memory back.
        if self.known.len() < self.known.capacity() / 4 && self.known.capacity() > 4096 {
            let twice = self.known.len() * 2;
            self.known.shrink_to(twice);
            self.before.shrink_to(twice);
        }
    }

    /// A dump is over: what it has not seen is gone.
    fn end_dump(&mut self) {
        if let Some(conntrack) = &mut self.conntrack {
            conntrack.end_dump();
        }
        let dump = self.dump;
        let gone = self.known.iter().filter(|(_, known)| known.dump != dump);
        let gone: Vec<[u64; 2]> = gone.map(|(before, known)| [*before, known.after]).collect();
        for tags in gone {
            self.forget(tags);
        }
    }

    /// The conversation that a key belongs to, and the tag of its other key.
    fn of(&self, tag: u64) -> Option<(Translated, u64)> {
        let before = self.before.get(&tag).copied().unwrap_or(tag);
        let known = self.known.get(&before)?;
        Some((known.keys, if before == tag { known.after } else { before }))
    }

    /// Reads the next datagram; false if none is waiting.
    fn read(&mut self, from: Source) -> bool {
        self.words.clear();
        let Some(conntrack) = &mut self.conntrack else { return false };
        let words = &mut self.words;
        let read = conntrack.next(from).map(|next| next.map(|next| words.extend(next)).is_some());
        match read {
            Ok(any) => any,
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                words.push(Word::Lost);
                true
            }
            Err(error) => {
                self.give_up(&error);
                false
            }
        }
    }
}

impl Work {
    /// What was asked for and is not done.
    pub(super) fn left_out(&self) -> Vec<LeftOut> {
        let mut all = self.object.left_out();
        let told = self.told.iter();
        let out = |why| LeftOut { part: Part::Conntrack, why };
        all.extend(told.clone().filter_map(|told| told.trouble.clone()).map(out));
        let most = told.filter(|told| told.forgotten > 0);
        all.extend(most.map(|told| {
            out(format!("{} translations beyond flow.max_flows were not remembered", told.forgotten))
        }));
        all
    }

    /// Looking up conntrack costs each new flow that comes in half as much again: not where nothing is translated.
    pub(super) fn ask_for_incoming(&mut self) {
        let ask = u32::from(self.ledger.aliases > 0 || self.began.elapsed() < MET_HALFWAY);
        self.object.set_control(|control| control.ask_in = ask);
    }

    /// An alias belongs to its flow, and goes with it.
    pub(super) fn adopt(&mut self, slot: SlotRef) {
        let Some(table) = self.tables.get(slot.entry()) else { return };
        let Some(alias) = table.alias(slot.slot()) else { return };
        if alias.cold.agent_flags & (MOVED | note::DYING) != 0 {
            return;
        }
        let Some(flow) = alias.stands_for().filter(|_| alias.live()) else { return self.bury(slot) };
        // A flow that is leaving is asked for its alias at its end.
        if self.tables.find(flow).or_else(|| self.tables.find(flow | DEAD)).is_none() {
            return self.bury(slot);
        }
        if let Some(before) = self.ledger.adopt(table, slot.slot(), &alias) {
            self.bury_alias(before, flow);
        }
    }

    fn bury_alias(&mut self, tag: u64, flow: u64) {
        let Some(slot) = self.tables.find(tag) else { return };
        let alias = self.tables.get(slot.entry()).and_then(|table| table.alias(slot.slot()));
        if alias.is_some_and(|alias| alias.stands_for() == Some(flow)) {
            self.bury(slot);
        }
    }

    /// A flow has ended: so has its alias, unless a new one on the same ports goes on with it.
    pub(super) fn part(&mut self, flow: u64) {
        if let Some(pair) = self.ledger.context.pairs.get(flow)
            && self.tables.find(flow).is_none()
        {
            self.ledger.context.pairs.remove(flow);
            self.bury_alias(pair.alias, flow);
        }
    }

    /// Hears of what is translated already, before the first packet is seen.
    pub(super) fn learn_all(&mut self) {
        let until = Instant::now() + FIRST_DUMP;
        loop {
            self.learn();
            let dumping = self.told.as_ref().and_then(|told| told.conntrack.as_ref());
            if !dumping.is_some_and(Conntrack::is_dumping) || Instant::now() > until {
                return;
            }
        }
    }

    /// Takes in what conntrack has told until now. To be called after events were read and before they are looked at.
    pub(super) fn learn(&mut self) {
        let Some(mut told) = self.told.take() else { return };
        told.open();
        let mut lost = false;
        for heard in 1.. {
            if !told.read(Source::Events) {
                break;
            }
            lost |= self.hear(&mut told);
            // Each may take a slot.
            if heard % HEARD == 0 {
                self.tend_tables();
            }
        }
        if lost {
            told.overruns += 1;
            tracing::warn!("conntrack's news were lost: all translations are read anew");
            told.begin_dump();
        }
        for _ in 0..DUMPED {
            if !told.read(Source::Dump) {
                break;
            }
            // What is left out of a dump is news at its flow's next opening.
            let _ = self.hear(&mut told);
        }
        self.told = Some(told);
    }

    /// Slots that were taken and not told of yet, about: on a busy machine the collector is behind, and flows wait behind all
    /// that conntrack has said, which takes as many for aliases.
    pub(super) fn unread(&mut self) -> u64 {
        u64::from(self.object.control().opened.saturating_sub(self.noted))
    }

    /// Acts upon the words of a datagram; true if some were lost.
    fn hear(&mut self, told: &mut Told) -> bool {
        let mut lost = false;
        for word in std::mem::take(&mut told.words) {
            match word {
                Word::New(keys) => match self.object.pair(&keys, false) {
                    Ok(pairing) => {
                        told.remember(keys, pairing.tags);
                        self.paired(&pairing);
                    }
                    Err(error) => told.give_up(&error),
                },
                Word::Gone(keys) => {
                    if let Ok(pairing) = self.object.pair(&keys, true) {
                        told.forget(pairing.tags);
                    }
                }
                Word::Done(None) => told.end_dump(),
                Word::Done(Some(code)) => told.give_up(&std::io::Error::from_raw_os_error(code)),
                Word::Lost => lost = true,
            }
        }
        lost
    }

    /// A flow was opened, or goes on: conntrack may have told of it before, and there may have been no room for its alias.
    pub(super) fn recall(&mut self, slot: SlotRef) {
        let (Some(told), Some(table)) = (&self.told, self.tables.get(slot.entry())) else { return };
        let tag = table.tag(slot.slot());
        let Some((keys, other)) = told.of(tag) else { return };
        if self.ledger.context.pairs.get(tag).is_some_and(|pair| pair.alias == other) {
            return;
        }
        // A failure shows when conntrack tells of the next.
        if let Ok(pairing) = self.object.pair(&keys, false) {
            self.paired(&pairing);
        }
    }

    fn paired(&mut self, pairing: &Pairing) {
        if let Some((entry, slot)) = pairing.joined {
            let slot = SlotRef::new(entry, slot);
            // What has been told of ends as it is.
            if self.tables.read(slot).is_some_and(|snapshot| snapshot.cold.agent_flags & note::KNOWN == 0)
                && self.annotate(slot, note::JOINED)
            {
                let join = Join { flow: pairing.tags[0], swapped: pairing.swapped };
                self.joins.insert(slot, join);
            }
            self.bury(slot);
        }
        if let Some(alias) = pairing.alias {
            self.adopt(SlotRef::new(self.tables.current(), alias));
        }
    }

    /// The counts of a dead slot are final: they go to the flow that it belongs to. False if that is gone.
    pub(super) fn join(&mut self, slot: SlotRef, table: &Table, snapshot: &Snapshot) -> bool {
        let Some(join) = self.joins.remove(&slot) else { return false };
        let find = |tag| self.tables.find(tag);
        let Some(flow) = find(join.flow).or_else(|| find(join.flow | DEAD)) else { return false };
        let Some(into) = self.tables.get(flow.entry()).filter(|into| into.read(flow.slot()).is_some()) else {
            return false;
        };
        into.add(flow.slot(), snapshot, join.swapped);
        table.clear(slot.slot());
        self.active.push(flow, clock::tick_of(clock::monotonic_ns()));
        true
    }
}
