//! The collector's thread: its loop, and what it does with events, due slots and commands.

mod leaving;
mod live;
mod losses;
mod nat;
mod stats;
mod sweep;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::leaving::LINGER;
use self::nat::{Join, Told};
use self::sweep::Swept;
use super::drops::Drops;
use super::handle::{Command, Job, Settings};
use super::hooks::Hooks;
use super::ledger::{Ledger, attempt_open};
use super::rechecks::Rechecks;
use super::tables::{Handed, SlotRef, Tables};
use super::view::FlowView;
use crate::clock;
use crate::flow::update::{Change, FlowUpdate, Sink};
use crate::kernel::decode::{Event, EventKind};
use crate::kernel::events::Events;
use crate::kernel::grace::Grace;
use crate::kernel::messages::Servers;
use crate::kernel::object::{By, Object, TABLE_ENTRIES, Transport};

/// The timer: how long an event waits at most, 80 ms.
const TICK: Duration = Duration::from_millis(80);
/// After so long without an event it sleeps longer, and the first event wakes it.
const QUIET: Duration = Duration::from_secs(1);
/// Until then at most.
const SLEEP: Duration = Duration::from_secs(1);
/// Events read, looked at and told in one run.
const RUN: usize = 16;
/// Runs after which the table's size is looked at even while more events wait.
const RUNS: usize = 64;
/// Slots looked at before events have their turn again.
const LOOKS: usize = 4096;
/// Names of interfaces that are gone, kept for flows that still mention them.
const GONE_NAMES: usize = 4096;

pub(super) struct Work {
    object: Object,
    tables: Tables,
    events: Events,
    grace: Grace,
    settings: Settings,
    sink: Box<dyn Sink>,
    view: FlowView,
    names: Arc<Mutex<Arc<HashMap<u32, String>>>>,
    hooks: Hooks,
    drops: Drops,
    jobs: VecDeque<Job>,
    ledger: Ledger,
    /// Slots that had an event: their last packets are told even if they fall silent.
    active: Rechecks,
    /// Attempts without an answer.
    attempts: Rechecks,
    /// Closed flows.
    closed: Rechecks,
    /// To be buried once the table has moved.
    postponed: Vec<SlotRef>,
    dying: Vec<SlotRef>,
    dead: Option<(u64, Vec<SlotRef>)>,
    sweep_at: u32,
    sweep_entry: u32,
    /// By entry of the outer map.
    swept: [Swept; TABLE_ENTRIES as usize],
    /// Slots still to be swept because events were lost.
    sweep_left: u64,
    swept_ns: u64,
    /// More is due than was done.
    behind: bool,
    began: Instant,
    last_event: Instant,
    /// Bytes in the ring at which the programs wake this thread while it is at work.
    wake_bytes: u32,
    out: Vec<FlowUpdate>,
    read: Vec<Event>,
    processed: u64,
    invalid: u64,
    lost_seen: u64,
    overflow_warned: Option<Instant>,
    lost_warned: Option<Instant>,
    resize_warned: Option<Instant>,
    /// Memory of all maps but the tables, and when it was asked for.
    maps_bytes: Option<(Instant, u64)>,
    context_changed: bool,
    servers: Servers,
    /// Counts up for as long as the thread goes on.
    heartbeat: Arc<AtomicU64>,
    /// What conntrack has told, if it is asked by netlink.
    told: Option<Told>,
    /// Dead slots whose counts belong to other flows.
    joins: HashMap<SlotRef, Join>,
    /// Slots that events since the last drain began have told of.
    noted: u32,
}

impl Work {
    #[expect(clippy::too_many_arguments, reason = "the parts of the thread, each made by its own room")]
    pub(super) fn new(
        object: Object,
        tables: Tables,
        events: Events,
        grace: Grace,
        settings: Settings,
        sink: Box<dyn Sink>,
        view: FlowView,
        names: Arc<Mutex<Arc<HashMap<u32, String>>>>,
        heartbeat: Arc<AtomicU64>,
    ) -> Self {
        let context = view.context.lock().unwrap_or_else(PoisonError::into_inner).clone();
        object.set_control(|control| {
            control.sample_below = live::threshold(settings.sampling_rate);
            control.interval_ticks = clock::ticks(settings.active_interval);
            // Before the first hook is there: what it meets halfway may be translated.
            control.ask_in = 1;
        });
        Self {
            hooks: Hooks::new(settings.method),
            drops: Drops::default(),
            jobs: VecDeque::new(),
            ledger: Ledger::new(context),
            active: Rechecks::after(clock::ticks(settings.active_interval)),
            attempts: Rechecks::after(clock::ticks(settings.connect_timeout)),
            closed: Rechecks::after(clock::ticks(LINGER)),
            postponed: Vec::new(),
            dying: Vec::new(),
            dead: None,
            sweep_at: 0,
            sweep_entry: 0,
            swept: Default::default(),
            sweep_left: 0,
            swept_ns: clock::monotonic_ns(),
            behind: false,
            began: Instant::now(),
            last_event: Instant::now(),
            wake_bytes: object.control().wake_bytes,
            out: Vec::with_capacity(RUN),
            read: Vec::with_capacity(RUN),
            processed: 0,
            invalid: 0,
            lost_seen: 0,
            overflow_warned: None,
            lost_warned: None,
            resize_warned: None,
            maps_bytes: None,
            context_changed: false,
            servers: Servers::default(),
            heartbeat,
            told: (object.conntrack() == Some(By::Netlink)).then(|| Told::new(settings.max_flows)),
            joins: HashMap::new(),
            noted: 0,
            object,
            tables,
            events,
            grace,
            settings,
            sink,
            view,
            names,
        }
    }

    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        self.learn_all();
        loop {
            self.heartbeat.fetch_add(1, Ordering::Relaxed);
            self.events.wait(self.pause());
            loop {
                match commands.try_recv() {
                    Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return self.finish(),
                    Ok(command) => self.obey(command),
                    Err(TryRecvError::Empty) => break,
                }
            }
            self.work_off();
            self.publish_context();
            self.drain();
            self.tend();
        }
    }

    /// Nothing has happened for a while, and nothing is under way. Perf buffers can't wake at the first event.
    fn is_quiet(&self) -> bool {
        self.last_event.elapsed() > QUIET
            && self.object.transport() == Transport::Ringbuf
            && self.tables.is_settled()
            && self.dead.is_none()
            && self.sweep_left == 0
    }

    fn pause(&self) -> Duration {
        if self.behind || !self.jobs.is_empty() {
            return Duration::ZERO;
        }
        if !self.is_quiet() {
            return self.tables.pause(TICK);
        }
        let now = clock::tick_of(clock::monotonic_ns());
        let due =
            [&self.active, &self.closed, &self.attempts].into_iter().filter_map(|queue| queue.due_in(now));
        due.min().map_or(SLEEP, |ticks| clock::of_ticks(ticks).clamp(TICK, SLEEP))
    }

    /// Does what waits, for as long as events may wait for it.
    fn work_off(&mut self) {
        let began = Instant::now();
        while began.elapsed() < TICK / 2
            && let Some(job) = self.jobs.pop_front()
        {
            match job {
                Job::Attach(interface) => self.hooks.attach(&self.object, &interface),
                Job::Detach(index) => self.hooks.detach(&self.grace, index),
                // Whoever asked may have gone.
                Job::Settled(answer) => drop(answer.send(())),
            }
            self.context_changed = true;
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Job(job) => self.jobs.push_back(job),
            Command::Addresses(addresses) => {
                self.ledger.context.addresses = addresses;
                self.context_changed = true;
            }
            Command::Configure(settings, answer) => {
                self.configure(settings);
                let _ = answer.send(());
            }
            Command::Tracing(on, answer) => {
                self.object.set_control(|control| control.tracing = u32::from(on));
                let _ = answer.send(());
            }
            // Whoever asked may have gone.
            Command::Stats(answer) => drop(answer.send(self.stats())),
            Command::Usage(answer) => {
                let _ = answer.send(self.usage());
            }
            Command::Report(answer) => {
                self.drain();
                drop(answer.send(self.report()));
            }
            Command::Stop => {}
        }
    }

    fn publish_context(&mut self) {
        if !std::mem::take(&mut self.context_changed) {
            return;
        }
        self.ledger.context.local_peers = Arc::new(self.hooks.local_peers());
        *self.view.context.lock().unwrap_or_else(PoisonError::into_inner) = self.ledger.context.clone();
        let current = self.hooks.names();
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = HashMap::clone(&names);
        if all.len() > current.len() + GONE_NAMES {
            all.clear();
        }
        all.extend(current);
        *names = Arc::new(all);
    }

    /// Reads all waiting events, run by run.
    fn drain(&mut self) {
        let room = self.tables.room(self.ledger.taken());
        let wake_bytes = if self.is_quiet() { 0 } else { self.wake_bytes };
        self.noted = 0;
        // Before the ring is read: what comes after the last read finds it asleep.
        self.object.set_control(|control| {
            (control.opened, control.room) = (0, room);
            (control.wake_bytes, control.waking) = (wake_bytes, 0);
        });
        for run in 1.. {
            let mut read = std::mem::take(&mut self.read);
            read.clear();
            let count = self.events.read(&mut read, RUN);
            self.heartbeat.fetch_add(1, Ordering::Relaxed);
            let read_at = Instant::now();
            let now_ns = clock::monotonic_ns();
            self.learn();
            for event in &read {
                self.on_event(event, now_ns);
            }
            self.read = read;
            self.processed += count as u64;
            if count > 0 {
                self.last_event = read_at;
            }
            self.tell(read_at);
            if count < RUN {
                break;
            }
            if run % RUNS == 0 {
                self.tend_tables();
            }
        }
        self.invalid += self.events.take_invalid();
        self.sink.flush();
    }

    fn tell(&mut self, read_at: Instant) {
        if !self.out.is_empty() {
            self.sink.take(&self.out, read_at);
            self.out.clear();
        }
    }

    fn on_event(&mut self, event: &Event, now_ns: u64) {
        let slot = SlotRef::new(u32::from(event.table), event.slot);
        match event.kind {
            EventKind::Overflow => self.on_overflow(event),
            EventKind::Opened | EventKind::Active => {
                self.noted += u32::from(event.kind == EventKind::Opened);
                self.recall(slot);
                self.look(slot, now_ns, event.stamp_ns);
                if event.kind == EventKind::Opened {
                    self.tables.note_opened(event.stamp_ns);
                }
                self.active.push(slot, clock::tick_of(now_ns));
            }
            EventKind::Alias => {
                self.noted += 1;
                self.tables.note_opened(event.stamp_ns);
                self.adopt(slot);
            }
            EventKind::Error => {
                self.look_anew(slot, now_ns, event.stamp_ns, true);
                let snapshot = self.tables.read(slot);
                if snapshot.is_some_and(|snapshot| attempt_open(&snapshot)) {
                    self.attempts.push(slot, clock::tick_of(now_ns));
                }
            }
            EventKind::Ended => {
                self.look(slot, now_ns, event.stamp_ns);
                self.queue_closed(slot, clock::tick_of(now_ns));
            }
        }
    }

    /// Tells what is new in a slot, and queues what must be looked at later.
    fn look(&mut self, slot: SlotRef, now_ns: u64, event_ns: u64) {
        self.look_anew(slot, now_ns, event_ns, false);
    }

    fn look_anew(&mut self, slot: SlotRef, now_ns: u64, event_ns: u64, told_apart: bool) {
        let Some(table) = self.tables.get(slot.entry()) else { return };
        let Some(update) = self.ledger.look(table, slot.slot(), now_ns, event_ns, told_apart) else { return };
        if update.change == Change::Opened
            && table.read(slot.slot()).is_some_and(|snapshot| attempt_open(&snapshot))
        {
            self.attempts.push(slot, clock::tick_of(now_ns));
        }
        self.out.push(update);
    }

    /// All that is not an event.
    fn tend(&mut self) {
        let now_ns = clock::monotonic_ns();
        self.look_at_due(now_ns);
        self.ask_for_incoming();
        self.tables.note_ended(self.ledger.given_back());
        self.hooks.tend(&self.object, &self.grace);
        self.tend_tables();
        self.tell(Instant::now());
        self.sink.flush();
        let now = clock::tick_of(now_ns);
        let waiting = [&self.active, &self.closed, &self.attempts].iter().any(|queue| queue.is_due(now));
        self.behind = waiting || self.sweep_left > 0;
    }

    /// The slots whose time has come.
    fn look_at_due(&mut self, now_ns: u64) {
        let now = clock::tick_of(now_ns);
        for _ in 0..LOOKS {
            let Some(slot) = self.active.pop_due(now) else { break };
            self.look(slot, now_ns, 0);
        }
        for _ in 0..LOOKS {
            let Some(slot) = self.closed.pop_due(now) else { break };
            self.on_closed_due(slot, now);
        }
        for _ in 0..LOOKS {
            let Some(slot) = self.attempts.pop_due(now) else { break };
            self.on_attempt_due(slot, now_ns);
        }
        self.sweep(now_ns);
        self.harvest(now_ns);
    }

    fn tend_tables(&mut self) {
        let mut handed = Handed::default();
        let taken = self.ledger.taken() + self.unread();
        if let Err(error) = self.tables.tend(&mut self.object, &self.grace, taken, &mut handed)
            && self.resize_warned.is_none_or(|at| at.elapsed() > Duration::from_secs(10))
        {
            self.resize_warned = Some(Instant::now());
            tracing::error!(%error, "cannot resize the flow table; trying again");
        }
        let now = clock::tick_of(clock::monotonic_ns());
        for slot in handed.strays {
            self.bury_dead(slot);
        }
        if !handed.unplaced.is_empty() {
            let flows = handed.unplaced.len();
            tracing::warn!(
                flows,
                "more flows came than the new table was made for: these end, and are opened anew"
            );
        }
        for slot in handed.unplaced.into_iter().chain(std::mem::take(&mut self.postponed)) {
            self.bury(slot);
        }
        if self.sweep_left > 0 && !handed.moved.is_empty() {
            // Some have moved to where the sweep has been.
            self.sweep_left = self.slots();
        }
        for slot in handed.moved {
            self.swept[slot.entry() as usize].look_into(slot.slot(), now);
            let table = self.tables.get(slot.entry());
            if let Some((table, snapshot)) = table.and_then(|table| Some((table, table.read(slot.slot())?))) {
                // It waited in the queue under its old name; its event named the old slot, however long ago.
                if snapshot.hot.bytes != table.told(slot.slot()).bytes
                    || clock::ticks_since(snapshot.last_tick(), now)
                        <= clock::ticks(self.settings.active_interval * 2)
                {
                    self.active.push(slot, now);
                }
                if snapshot.hot.closed_ns > 0 {
                    self.queue_closed(slot, now);
                } else if attempt_open(&snapshot) {
                    self.attempts.push(slot, now);
                }
            } else {
                // An alias: the event that told of it named the old slot, and may come after the move.
                self.adopt(slot);
            }
        }
    }

    /// Detaches, waits for programs on their way, and tells the last of every flow.
    fn finish(mut self) {
        let mut drained = Instant::now();
        while self.hooks.detach_next(&self.grace) {
            if drained.elapsed() > TICK {
                self.drain();
                self.tend();
                drained = Instant::now();
            }
        }
        let number = self.grace.after_now();
        let deadline = Instant::now() + Duration::from_secs(2);
        while !self.grace.passed(number) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        // What an unfinished resize has still to add up is told, too.
        loop {
            self.drain();
            self.tend();
            if !self.behind && !self.tables.resizing() || Instant::now() > deadline {
                break;
            }
            std::thread::sleep(self.tables.pause(Duration::from_millis(16)));
        }
        // The table stays where it is: a move would take flows to where the sweep has been.
        self.sweep_left = self.slots();
        while self.sweep_left > 0 {
            self.look_at_due(clock::monotonic_ns());
            self.tell(Instant::now());
        }
        // The dying tell theirs a grace period later.
        let deadline = Instant::now() + Duration::from_secs(1);
        while (self.dead.is_some() || !self.dying.is_empty()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
            self.harvest(clock::monotonic_ns());
            self.tell(Instant::now());
        }
        self.sink.flush();
    }
}
