//! Starting the collector and talking to it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use super::hooks::Watched;
use super::ledger::{Context, Departed};
use super::pairs::Pairs;
use super::tables::Tables;
use super::trace::Tracer;
use super::view::FlowView;
use super::work::Work;
use crate::flow::present::AskedNames;
use crate::flow::record::FlowDrops;
use crate::flow::update::Sink;
use crate::interfaces::{HostAddresses, Interface};
use crate::kernel::attach::Method;
use crate::kernel::drops::FlowDropsView;
use crate::kernel::events::{Events, Nudge};
use crate::kernel::grace::Grace;
use crate::kernel::load::LeftOut;
use crate::kernel::object::{By, Features, Object, Transport};
use crate::kernel::stats::{KernelStats, RunTime};

/// Commands waiting for the collector at most; a sender waits when there are more.
const COMMANDS: usize = 1024;

/// What the collector is told, at start and when it changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Flows at most.
    pub max_flows: u64,
    /// Idle flows leave after this.
    pub flow_timeout: Duration,
    /// An unanswered attempt has failed after this.
    pub connect_timeout: Duration,
    /// Long flows report this often.
    pub active_interval: Duration,
    /// Share of flows kept, in (0, 1].
    pub sampling_rate: f64,
    /// Forced attach method.
    pub method: Option<Method>,
    /// Features that are on, of those that are loaded.
    pub features: Features,
    /// Whether packets that the kernel drops are counted, if that is loaded.
    pub drops: bool,
}

/// Everything that the collector knows about itself.
#[derive(Clone, Debug)]
pub struct Report {
    /// Counters.
    pub stats: KernelStats,
    /// Interfaces.
    pub watched: Vec<Watched>,
    /// Flows that have left.
    pub departed: Departed,
    /// Packets and bytes in the slots of the table, those on their way out included.
    pub in_table: (u64, u64),
    /// How events travel.
    pub transport: Transport,
    /// What was asked for and is not done.
    pub left_out: Vec<LeftOut>,
}

/// What the kernel side uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of the programs.
    pub run_time: RunTime,
    /// Memory of the flow tables in use, bytes.
    pub tables_bytes: u64,
    /// Memory of all other maps, bytes, as it was in the last half minute.
    pub maps_bytes: u64,
    /// What a slot of a flow table takes, bytes.
    pub slot_bytes: u64,
}

/// What takes the kernel its time: one at a time, with events between them.
pub(super) enum Job {
    Attach(Interface),
    Detach(u32),
    /// Says that all before it are done.
    Settled(SyncSender<()>),
}

/// A command.
pub(super) enum Command {
    Job(Job),
    Addresses(Arc<HostAddresses>),
    /// Says when it is done.
    Configure(Settings, SyncSender<()>),
    /// Whether packets are shown to `nm_trace`. Says when it is done.
    Tracing(bool, SyncSender<()>),
    Stats(SyncSender<KernelStats>),
    Usage(oneshot::Sender<Usage>),
    Report(SyncSender<Report>),
    Stop,
}

/// Talks to the collector; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    commands: SyncSender<Command>,
    nudge: Nudge,
    view: FlowView,
    names: Arc<Mutex<Arc<HashMap<u32, String>>>>,
    flow_drops: Option<FlowDropsView>,
    asked: Option<Arc<dyn AskedNames>>,
    heartbeat: Arc<AtomicU64>,
    pub(super) tracer: Arc<Tracer>,
}

/// The running thread.
pub struct Collector {
    handle: Handle,
    thread: JoinHandle<()>,
    ended: oneshot::Receiver<()>,
}

impl Collector {
    /// Prepares the tables and starts the thread. What is new about flows goes to `sink`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(mut object: Object, settings: &Settings, sink: Box<dyn Sink>) -> std::io::Result<Self> {
        let tables = Tables::install(&mut object, settings.max_flows)?;
        // Packets of interfaces that no name is known for (test runs) are counted too.
        object.add_interface(0, 14)?;
        let nudge = Nudge::new()?;
        let asked = object.asked_names()?.map(|names| Arc::new(names) as Arc<dyn AskedNames>);
        let context = Context {
            addresses: Arc::default(),
            local_peers: Arc::new(HashSet::new()),
            timing: object.features().timing,
            tunnels: object.tunnels()?.map(Arc::new),
            pairs: Pairs::default(),
            told_only: object.conntrack() == Some(By::Netlink),
        };
        let shared_context = Arc::new(Mutex::new(context));
        let view = FlowView { readers: tables.readers(), context: Arc::clone(&shared_context) };
        let (commands, inbox) = sync_channel(COMMANDS);
        let names = Arc::new(Mutex::new(Arc::new(HashMap::new())));
        let flow_drops = object.flow_drops();
        let tracer = Arc::new(Tracer::new(object.trace()?));
        let names_known = Arc::clone(&names);
        let heartbeat = Arc::new(AtomicU64::new(0));
        let handle = Handle {
            commands,
            nudge: nudge.clone(),
            view,
            names: names_known,
            flow_drops,
            asked,
            heartbeat: Arc::clone(&heartbeat),
            tracer,
        };
        let (ready, started) = sync_channel(1);
        let (alive, ended) = oneshot::channel();
        let settings = settings.clone();
        let view = handle.view.clone();
        let thread = std::thread::Builder::new().name("netmon-collector".into()).spawn(move || {
            let _alive = alive;
            // The reading end is bound to its thread, so it is opened here.
            let opened = Events::open(&object, nudge.clone()).and_then(|events| {
                crate::privilege::drop_rest();
                Ok((events, Grace::start(&object, nudge)?))
            });
            match opened {
                Ok((events, grace)) => {
                    let _ = ready.send(Ok(()));
                    Work::new(object, tables, events, grace, settings, sink, view, names, heartbeat)
                        .run(&inbox);
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
        started.recv().map_err(std::io::Error::other)??;
        Ok(Self { handle, thread, ended })
    }

    /// To talk to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits for the thread to end, which it does only when told or after a panic.
    pub async fn ended(&mut self) {
        // Nothing is ever sent: the other end goes with the thread.
        let _ = (&mut self.ended).await;
    }

    /// Detaches everything, tells the last of every flow and ends the thread. Blocking.
    pub fn stop(self) {
        // If the command does not arrive the thread is gone already.
        let _ = self.handle.commands.send(Command::Stop);
        self.handle.nudge.wake();
        if self.thread.join().is_err() {
            tracing::error!("the collector thread has panicked");
        }
    }
}

impl Handle {
    pub(super) fn send(&self, command: Command) {
        // A stopped collector needs no commands.
        let _ = self.commands.send(command);
        self.nudge.wake();
    }

    /// Watch this interface (or take over its new name).
    pub fn attach(&self, interface: Interface) {
        self.send(Command::Job(Job::Attach(interface)));
    }

    /// Stop watching this interface.
    pub fn detach(&self, index: u32) {
        self.send(Command::Job(Job::Detach(index)));
    }

    /// Waits until all interfaces asked for so far are attached or detached: two grace periods of the kernel each, some
    /// 25 ms by TCX. Blocking.
    pub fn settled(&self) {
        let (answer, reply) = sync_channel(1);
        self.send(Command::Job(Job::Settled(answer)));
        // An error means that the collector has ended.
        let _ = reply.recv();
    }

    /// The host's addresses have changed.
    pub fn set_addresses(&self, addresses: Arc<HostAddresses>) {
        self.send(Command::Addresses(addresses));
    }

    /// Goes on with these settings; returns when it does. Blocking: as long as telling of every flow takes when the sampling rate
    /// changes, some 0.2 s for a million. `method` is for interfaces that come.
    pub fn configure(&self, settings: Settings) {
        let (answer, reply) = sync_channel(1);
        self.send(Command::Configure(settings, answer));
        if reply.recv_timeout(Duration::from_secs(30)).is_err() {
            tracing::error!("the collector has not taken over new settings for half a minute");
        }
    }

    /// A number that counts up for as long as the collector goes on: at least once a second.
    pub fn heartbeat(&self) -> u64 {
        self.heartbeat.load(Ordering::Relaxed)
    }

    /// Counters now. Blocking, some milliseconds at most; `None` once the collector has ended.
    pub fn stats(&self) -> Option<KernelStats> {
        let (answer, reply): (_, Receiver<KernelStats>) = sync_channel(1);
        self.send(Command::Stats(answer));
        reply.recv_timeout(Duration::from_secs(5)).ok()
    }

    /// What the kernel side uses now; `None` while the collector is stuck and once it has ended. Asked each second, so no thread
    /// waits for it: one would be kept for that.
    pub async fn usage(&self) -> Option<Usage> {
        let (answer, reply) = oneshot::channel();
        self.send(Command::Usage(answer));
        tokio::time::timeout(Duration::from_secs(5), reply).await.ok()?.ok()
    }

    /// Everything, flow sums included: reads the whole table. Blocking; `None` once the collector has ended.
    pub fn report(&self) -> Option<Report> {
        let (answer, reply) = sync_channel(1);
        self.send(Command::Report(answer));
        reply.recv_timeout(Duration::from_secs(10)).ok()
    }

    /// The live table, for dumps.
    pub fn view(&self) -> &FlowView {
        &self.view
    }

    /// Names of interfaces by index, those lately gone included.
    pub fn interface_names(&self) -> Arc<HashMap<u32, String>> {
        Arc::clone(&self.names.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Packets that the kernel dropped, by flow id, of flows that had drops lately. Some microseconds a flow.
    pub fn flow_drops(&self) -> HashMap<u64, FlowDrops> {
        self.flow_drops.as_ref().map(FlowDropsView::read).unwrap_or_default()
    }

    /// Names that flows have asked for; `None` if they are not kept.
    pub fn asked(&self) -> Option<Arc<dyn AskedNames>> {
        self.asked.clone()
    }
}
