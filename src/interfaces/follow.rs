//! The task that follows the interfaces: netlink in, [`Event`]s out.
//!
//! Subscribes, then dumps default routes, addresses and links in this order, so that an interface appears with
//! its `local_peer` settled. If messages are lost (the receive buffer ran over because the receiver of the events
//! was slow, or the socket died) everything is opened and dumped again and the difference told: slow is possible,
//! stale is not. Sockets are opened in the network namespace of the runtime's threads.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::socket::Socket;
use super::state::{Part, State};
use super::wire::{Dump, Message, frames};
use super::{Event, Selection};
use crate::netlink::DATAGRAM_BYTES;

const RECEIVE_BUFFER_BYTES: usize = 16 << 20;
/// Addresses are told at most this often: on a host with thousands of them a copy is not free.
const ADDRESSES_EVERY: Duration = Duration::from_millis(20);
/// Between a loss and the next try; doubled while tries fail.
const RETRY: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A dump that was interrupted by changes is made anew so often at once, then [`REDUMP_AFTER`].
const DUMP_TRIES: u32 = 3;
const REDUMP_AFTER: Duration = Duration::from_secs(1);

/// What went other than smoothly.
#[derive(Debug, Default)]
pub struct FollowCounters {
    resyncs: AtomicU64,
    undecodable: AtomicU64,
}

impl FollowCounters {
    /// Times everything was dumped again because messages were lost.
    pub fn resyncs(&self) -> u64 {
        self.resyncs.load(Ordering::Relaxed)
    }

    /// Messages of a kind that matters that could not be made out.
    pub fn undecodable(&self) -> u64 {
        self.undecodable.load(Ordering::Relaxed)
    }
}

/// Follows the interfaces of this host's network namespace. Holds one socket, and a second during dumps.
#[derive(Debug)]
pub struct Follower {
    selection: watch::Receiver<Arc<Selection>>,
    events: mpsc::Sender<Event>,
    counters: Arc<FollowCounters>,
    buffer_bytes: usize,
    first: Socket,
}

/// Why following stopped.
enum Stop {
    /// Nobody listens any more.
    Closed,
    /// Messages are lost.
    Lost(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

impl From<mpsc::error::SendError<Event>> for Stop {
    fn from(_: mpsc::error::SendError<Event>) -> Self {
        Self::Closed
    }
}

impl Follower {
    /// Subscribes; [`run`](Self::run) does the rest. A new selection may be sent at any time. Must be called in a
    /// tokio runtime with I/O and time.
    ///
    /// # Errors
    /// No netlink socket can be had: `AF_NETLINK` is forbidden by a seccomp filter or a service manager.
    pub fn open(selection: watch::Receiver<Arc<Selection>>, events: mpsc::Sender<Event>) -> io::Result<Self> {
        Self::open_with_buffer(selection, events, RECEIVE_BUFFER_BYTES)
    }

    /// As [`open`](Self::open), with another size of the receive buffer for notifications.
    ///
    /// # Errors
    /// The same.
    pub fn open_with_buffer(
        selection: watch::Receiver<Arc<Selection>>,
        events: mpsc::Sender<Event>,
        buffer_bytes: usize,
    ) -> io::Result<Self> {
        let first = Socket::subscribed(buffer_bytes)?;
        Ok(Self { selection, events, counters: Arc::default(), buffer_bytes, first })
    }

    /// What went other than smoothly, as it counts on.
    pub fn counters(&self) -> Arc<FollowCounters> {
        Arc::clone(&self.counters)
    }

    /// Follows until the receiver of the events is dropped.
    pub async fn run(self) {
        let Self { mut selection, events, counters, buffer_bytes, first } = self;
        let state = State::new(Arc::clone(&selection.borrow_and_update()));
        let mut task = Task {
            selection,
            selection_open: true,
            events,
            counters,
            state,
            notified: vec![0; DATAGRAM_BYTES],
            dumped: vec![0; DATAGRAM_BYTES],
            sequence: 0,
            synced: false,
        };
        let mut opened = Ok(first);
        let mut pause = RETRY;
        loop {
            let stop = match opened {
                Ok(socket) => task.session(&socket).await,
                Err(error) => {
                    task.synced = false;
                    Stop::Lost(error)
                }
            };
            let Stop::Lost(error) = stop else { return };
            pause = if task.synced { RETRY } else { (pause * 2).min(RETRY_MAX) };
            tracing::warn!(%error, "netlink messages lost: interfaces and addresses are read anew");
            tokio::select! {
                () = sleep(pause) => {}
                () = task.events.closed() => return,
            }
            task.counters.resyncs.fetch_add(1, Ordering::Relaxed);
            opened = Socket::subscribed(buffer_bytes);
        }
    }
}

struct Task {
    selection: watch::Receiver<Arc<Selection>>,
    /// The sender of selections is still there.
    selection_open: bool,
    events: mpsc::Sender<Event>,
    counters: Arc<FollowCounters>,
    state: State,
    notified: Vec<u8>,
    dumped: Vec<u8>,
    sequence: u32,
    /// This session has told everything that was there.
    synced: bool,
}

/// Dumps to be made, the one under way first.
#[derive(Default)]
struct Dumps {
    waiting: VecDeque<Dump>,
    current: Option<(Dump, Socket)>,
    /// The dump under way was interrupted by a change.
    interrupted_now: bool,
    /// Times in a row that a dump was interrupted.
    interrupted: u32,
    /// When to dump everything again, because a dump may have left something out.
    again_at: Option<Instant>,
}

impl Dumps {
    const ROUTES: [Dump; 2] = [Dump::RoutesV4, Dump::RoutesV6];

    fn add_all(&mut self) {
        self.waiting.extend(Self::ROUTES);
        self.waiting.extend([Dump::Addresses, Dump::Links]);
    }

    /// The dump under way is over, but entries may have been left out. True if it will be made anew now; else it
    /// has to do until later.
    fn retry(&mut self, dump: Dump) -> bool {
        self.interrupted += 1;
        if self.interrupted >= DUMP_TRIES {
            self.interrupted = 0;
            self.again_at = Some(Instant::now() + REDUMP_AFTER);
            return false;
        }
        self.waiting.push_front(dump);
        if dump == Dump::RoutesV6 {
            self.waiting.push_front(Dump::RoutesV4);
        }
        true
    }

    fn idle(&self) -> bool {
        self.current.is_none() && self.waiting.is_empty()
    }

    /// The datagram of the dump under way; never, if none is.
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.current {
            Some((_, socket)) => socket.receive(buffer).await,
            None => std::future::pending().await,
        }
    }
}

impl Task {
    /// One subscription, from its dump to its loss.
    async fn session(&mut self, notifications: &Socket) -> Stop {
        self.synced = false;
        match self.follow(notifications).await {
            Ok(()) => Stop::Closed,
            Err(stop) => stop,
        }
    }

    async fn follow(&mut self, notifications: &Socket) -> Result<(), Stop> {
        let mut dumps = Dumps::default();
        dumps.add_all();
        // `None` until the first dump has told them.
        let mut addresses_due = None;
        loop {
            if dumps.idle() && self.state.routes_stale() {
                dumps.waiting.extend(Dumps::ROUTES);
            }
            self.start_dump(&mut dumps)?;
            let tell_at = addresses_due.filter(|_| self.state.addresses_changed());
            tokio::select! {
                received = notifications.receive(&mut self.notified) => {
                    let length = received?;
                    self.notified(length).await?;
                }
                received = dumps.receive(&mut self.dumped) => {
                    let length = received?;
                    let told = self.dumped(length, &mut dumps).await?;
                    addresses_due = told.or(addresses_due);
                }
                () = sleep_until(tell_at.unwrap_or_else(Instant::now)), if tell_at.is_some() => {
                    addresses_due = Some(self.tell_addresses().await?);
                }
                () = sleep_until(dumps.again_at.unwrap_or_else(Instant::now)), if dumps.again_at.is_some() => {
                    dumps.again_at = None;
                    dumps.add_all();
                }
                changed = self.selection.changed(), if self.selection_open => {
                    self.selection_open = changed.is_ok();
                    let selection = Arc::clone(&self.selection.borrow_and_update());
                    let events = self.state.select(selection);
                    self.tell(events).await?;
                }
                () = self.events.closed() => return Ok(()),
            }
        }
    }

    fn start_dump(&mut self, dumps: &mut Dumps) -> io::Result<()> {
        if dumps.current.is_some() {
            return Ok(());
        }
        let Some(dump) = dumps.waiting.pop_front() else { return Ok(()) };
        match dump {
            Dump::RoutesV4 => self.state.begin(Part::Routes),
            // Goes on with what RoutesV4 began.
            Dump::RoutesV6 => {}
            Dump::Addresses => self.state.begin(Part::Addresses),
            Dump::Links => self.state.begin(Part::Links),
        }
        let socket = Socket::plain()?;
        self.sequence = self.sequence.wrapping_add(1);
        socket.send(&dump.request(self.sequence))?;
        dumps.current = Some((dump, socket));
        Ok(())
    }

    async fn notified(&mut self, length: usize) -> Result<(), Stop> {
        let mut events = Vec::new();
        let mut overrun = false;
        for frame in frames(self.notified.get(..length).unwrap_or_default()) {
            match frame.message {
                Message::Overrun => overrun = true,
                Message::Undecodable => self.undecodable(),
                message => events.extend(self.state.apply(message)),
            }
        }
        // First what the state holds for told.
        self.tell(events).await?;
        if overrun { Err(lost("a message's header lies about its length")) } else { Ok(()) }
    }

    /// Gives when to tell the addresses next if it told them.
    async fn dumped(&mut self, length: usize, dumps: &mut Dumps) -> Result<Option<Instant>, Stop> {
        let mut events = Vec::new();
        let (mut overrun, mut done) = (false, None);
        for frame in frames(self.dumped.get(..length).unwrap_or_default()) {
            if frame.sequence != self.sequence && frame.message != Message::Overrun {
                continue;
            }
            dumps.interrupted_now |= frame.interrupted;
            match frame.message {
                Message::Overrun => overrun = true,
                Message::Undecodable => self.undecodable(),
                Message::Done(error) => done = Some(error),
                message => events.extend(self.state.apply_dumped(message)),
            }
        }
        self.tell(events).await?;
        if overrun {
            return Err(lost("a dump's header lies about its length"));
        }
        let (Some(done), Some((dump, _))) = (done, &dumps.current) else { return Ok(None) };
        let dump = *dump;
        dumps.current = None;
        let complete = !std::mem::take(&mut dumps.interrupted_now);
        if complete {
            dumps.interrupted = 0;
        } else if dumps.retry(dump) {
            return Ok(None);
        }
        if let Some(code) = done {
            let error = io::Error::from_raw_os_error(code);
            if matches!(dump, Dump::Addresses | Dump::Links) {
                return Err(error.into());
            }
            // A kernel without this family has no routes of it.
            tracing::debug!(?dump, %error, "routes can't be dumped");
        }
        self.dump_done(dump, complete).await
    }

    async fn dump_done(&mut self, dump: Dump, complete: bool) -> Result<Option<Instant>, Stop> {
        if dump == Dump::RoutesV4 {
            return Ok(None);
        }
        let events = self.state.finish(complete);
        self.tell(events).await?;
        if dump == Dump::Links {
            self.synced = true;
            self.events.send(Event::Synced).await?;
        }
        if dump == Dump::Addresses && self.state.addresses_changed() {
            return Ok(Some(self.tell_addresses().await?));
        }
        Ok((dump == Dump::Addresses).then(Instant::now))
    }

    async fn tell_addresses(&mut self) -> Result<Instant, Stop> {
        let addresses = Arc::new(self.state.take_addresses());
        self.events.send(Event::Addresses(addresses)).await?;
        Ok(Instant::now() + ADDRESSES_EVERY)
    }

    async fn tell(&self, events: Vec<Event>) -> Result<(), Stop> {
        for event in events {
            self.events.send(event).await?;
        }
        Ok(())
    }

    fn undecodable(&self) {
        self.counters.undecodable.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("a netlink message about an interface, address or route can't be made out");
    }
}

fn lost(what: &'static str) -> Stop {
    Stop::Lost(io::Error::new(io::ErrorKind::InvalidData, what))
}
