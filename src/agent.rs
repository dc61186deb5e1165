//! The agent: wires all parts, in the order of the data, and takes them down again.
//!
//! Start: control socket (so that two agents never share a host's hooks), kernel side, collector, exporter, API,
//! interfaces, reload. Stop: interfaces, collector (detaches and tells the last), sinks, servers.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;

use crate::api::status::{Accounting, InterfaceStatus, Status};
use crate::api::{self, Source, Which};
use crate::clock::{self, WallClock};
use crate::collector::{Collector, Handle, Part};
use crate::config::cli::Mode;
use crate::config::{self, Config, Inputs, Loaded, Switch, WatchScope};
use crate::debug;
use crate::detect::Detector;
use crate::detect::alert::AlertRecord;
use crate::enrich::kubernetes::object::Watched;
use crate::enrich::kubernetes::{Cluster, Link, cluster, link};
use crate::enrich::{Directory, name_sockets};
use crate::flow::present::Presenter;
use crate::flow::update::{Batch, Flow};
use crate::flow::who::Names;
use crate::governor::{Governor, GovernorStatus};
use crate::interfaces::{Event, Follower, Selection};
use crate::kernel::attach::Method;
use crate::kernel::messages::Messages;
use crate::kernel::names::Named;
use crate::kernel::object::{Object, Transport};
use crate::kernel::stats::DropStats;
use crate::reload::features;
use crate::reload::parts::{self, Parts};
use crate::reload::{self, Reloader};
use crate::sink::feed::{self, Feed};
use crate::sink::history::{self, History};
use crate::sink::kubernetes_events::{Events, Limits, Sign};
use crate::sink::prometheus::{Endpoint, Exporter, FlowMetrics, Latch, Readiness};
use crate::telemetry::LogHandle;

/// Time that shutting down may take.
const SHUTDOWN: Duration = Duration::from_secs(10);
/// Beyond that, what an interface may take to be detached.
const DETACH: Duration = Duration::from_millis(50);
/// Interface events that may wait.
const INTERFACE_EVENTS: usize = 1024;

/// A note that is always there.
pub const LOOPBACK: &str = "loopback traffic is not watched unless `lo` is named in capture.interfaces";

/// What the API and the exporter see.
struct State {
    collector: Handle,
    readiness: Readiness,
    history: Arc<Mutex<History>>,
    detector: Arc<Mutex<Detector>>,
    updates: broadcast::Sender<Batch>,
    mode: &'static str,
    started: Timestamp,
    /// The same, for a wall clock that is set.
    since: Instant,
    config: watch::Receiver<Arc<Config>>,
    reloader: Arc<Reloader>,
    names: Directory,
    _named: Option<Named>,
    link: Option<Arc<Link>>,
    governor: watch::Receiver<GovernorStatus>,
}

/// What the agent is started with.
pub struct Start {
    /// The configuration.
    pub loaded: Loaded,
    /// What it was put together from, and will be again.
    pub inputs: Inputs,
    /// Where the agent runs.
    pub mode: Mode,
    /// The running log.
    pub log: LogHandle,
}

/// Runs until `stop` is over.
///
/// # Errors
/// When a part can't start; the message says which, why and what to do.
pub async fn run(start: Start, stop: impl Future<Output = ()>) -> Result<()> {
    // From now on it doesn't end us.
    let hangups = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let Start { loaded, inputs, mode, log } = start;
    let config = loaded.config.clone();
    let started_ns = clock::monotonic_ns();
    let kubernetes = match (mode, config.kubernetes.enabled) {
        (Mode::Kubernetes, _) | (Mode::Auto, Switch::True) => true,
        (Mode::Systemd, _) | (Mode::Auto, Switch::False) => false,
        (Mode::Auto, Switch::Auto) => std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
    };
    let readiness = Readiness::default();
    let socket = api::server::listen(Path::new(&config.api.socket), &config.api.group).await?;

    // On this thread, which alone has all privileges yet.
    let to_load = features::options(&config);
    let mut object = Object::load(&to_load)?;
    let (names, named) = if config.features.process_attribution.enabled {
        name_sockets(&mut object).context("start looking for names")?
    } else {
        (None, None)
    };
    // The watches of the API server feed it.
    let cluster = kubernetes.then(|| Arc::new(Cluster::new(cluster_settings(&config))));
    let directory = Directory { host: names, cluster };

    let mut metrics = FlowMetrics::new(
        parts::top_pairs(&config),
        &config.features.latency_tracking.histogram_buckets,
        config.capture.sampling_rate,
    );
    if kubernetes {
        let series = usize::try_from(config.export.prometheus.top_workloads).unwrap_or(1000);
        metrics = metrics.in_cluster(series, config.export.prometheus.per_pod);
    }
    let metrics = Arc::new(Mutex::new(metrics));
    let history = Arc::new(Mutex::new(History::new(history::KEPT)));
    let batch_size = usize::try_from(config.performance.batch_size).unwrap_or(1000);
    let buffer_size = usize::try_from(config.performance.buffer_size).unwrap_or(usize::MAX);
    let updates = feed::channel(buffer_size, batch_size);
    let (feed_settings, fed) = watch::channel(parts::feed(&config));
    let in_cluster = directory.cluster.is_some().then(|| Arc::new(directory.clone()) as Arc<dyn Names>);
    let detection = parts::detection(&config, started_ns, in_cluster.clone());
    let detector = Arc::new(Mutex::new(Detector::new(detection)));
    let feed = Feed::new(
        Arc::clone(&metrics),
        Arc::clone(&history),
        Arc::clone(&detector),
        directory.clone(),
        updates.clone(),
        fed,
    );
    let link = directory.cluster.clone().map(|cluster| {
        let latch = readiness.latch("the pods of this node from the Kubernetes API server");
        let watched: Arc<dyn Watched> = cluster;
        Arc::new(Link::start(&config.kubernetes, &watched, move || latch.release()))
    });
    let mut collector = Collector::start(object, &parts::collector(&config), Box::new(feed))
        .context("start the collector")?;
    let handle = collector.handle();
    let exporter = Exporter::new(
        Arc::clone(&metrics),
        Arc::clone(&detector),
        directory.clone(),
        Arc::new(move || handle.stats()),
        "/proc",
    );
    let (governor, governed) = watch::channel(GovernorStatus::default());
    let exporter = Arc::new(exporter.with_kubernetes(link.clone()).with_governor(governed.clone()));
    let counters = exporter.reloads();
    let endpoint = Arc::new(Endpoint::new(exporter, readiness.clone()));
    let (selector, selected) = watch::channel(Arc::new(parts::selection(&config)?));
    let (current, config_now) = watch::channel(Arc::new(config.clone()));
    let told = Parts {
        log,
        collector: collector.handle(),
        selection: selector,
        feed: feed_settings,
        metrics,
        detector: Arc::clone(&detector),
        endpoint: Arc::clone(&endpoint),
        kubernetes,
        started_ns,
        in_cluster,
        loaded: to_load,
    };
    let reloader = Arc::new(Reloader::new(inputs, loaded, told, counters, current));

    let state = Arc::new(State {
        collector: collector.handle(),
        readiness: readiness.clone(),
        history,
        detector,
        updates,
        mode: if kubernetes { "kubernetes" } else { "systemd" },
        started: Timestamp::now(),
        since: Instant::now(),
        config: config_now,
        reloader: Arc::clone(&reloader),
        names: directory,
        _named: named,
        link: link.clone(),
        governor: governed,
    });

    let (over, ending) = watch::channel(());
    let ended = move || {
        let mut ending = ending.clone();
        async move {
            // The sender's end is what is waited for.
            while ending.changed().await.is_ok() {}
        }
    };
    let attached = readiness.latch("the interfaces of this host to be found and attached");
    endpoint.serve_at(parts::metrics_address(&config, kubernetes)).await?;
    crate::privilege::drop_rest();
    tracing::info!(socket = %config.api.socket, "serving netmon-cli");
    let server = tokio::spawn(api::server::serve(socket, Arc::clone(&state), ended()));

    let telling = link.filter(|_| config.kubernetes.events).map(|link| tell_events(&link, &state));
    let mut debugging = None;
    if !config.debug.server.is_empty() {
        let listener = debug::listen(&config.debug.server).await?;
        let shown = state.config.clone();
        let read: debug::ReadConfig = Arc::new(move || config::public(&shown.borrow()));
        debugging = Some(tokio::spawn(debug::serve(listener, Arc::clone(&state), read, ended())));
    }
    let following = follow_interfaces(selected, &collector.handle(), attached)?;
    let governing = tokio::spawn(Governor::new(Arc::clone(&reloader), collector.handle(), governor).run());
    let reloading = tokio::spawn(reload::watch::follow(reloader, hangups));
    let beating = collector.handle();
    let watchdog = tokio::spawn(crate::service::watchdog(move || beating.heartbeat()));
    let seen = Arc::clone(&state);
    let status_lines = tokio::spawn(crate::service::keep_status(move || seen.line()));
    tokio::select! {
        () = stop => {}
        () = collector.ended() => tracing::error!("the collector has ended by itself: stopping"),
    }

    tracing::info!("stopping");
    crate::service::stopping();
    following.abort();
    telling.inspect(JoinHandle::abort);
    reloading.abort();
    governing.abort();
    status_lines.abort();
    let interfaces = u32::try_from(state.collector.interface_names().len()).unwrap_or(u32::MAX);
    let deadline = SHUTDOWN + DETACH.saturating_mul(interfaces);
    // The collector tells the last of every flow; then the servers may go.
    let stopping = async {
        let stopped = tokio::task::spawn_blocking(move || collector.stop()).await;
        drop(over);
        endpoint.stop().await;
        // A panic of theirs has been printed.
        let _ = server.await;
        if let Some(debugging) = debugging {
            let _ = debugging.await;
        }
        stopped
    };
    match tokio::time::timeout(deadline, stopping).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "a part did not end as it should"),
        Err(_) => tracing::warn!("some clients did not let go in time"),
    }
    watchdog.abort();
    // The socket is replaced at the next start in any case.
    let _ = std::fs::remove_file(&config.api.socket);
    Ok(())
}

fn cluster_settings(config: &Config) -> cluster::Settings {
    let (node, _) = link::node_name(&config.kubernetes.node_name);
    let whole = config.kubernetes.scope == WatchScope::Cluster;
    cluster::Settings { node: Some(node.into()), whole, clock: WallClock::now }
}

/// Tells the collector which interfaces come and go.
fn follow_interfaces(
    selected: watch::Receiver<Arc<Selection>>,
    collector: &Handle,
    attached: Latch,
) -> Result<JoinHandle<()>> {
    let (events, mut told) = mpsc::channel(INTERFACE_EVENTS);
    let follower = Follower::open(selected, events).context("cannot follow network interfaces (netlink)")?;
    let collector = collector.clone();
    Ok(tokio::spawn(async move {
        let mut running = std::pin::pin!(follower.run());
        loop {
            let event = tokio::select! {
                () = &mut running => return,
                event = told.recv() => event,
            };
            let Some(event) = event else { return };
            let synced = event == Event::Synced;
            let handle = collector.clone();
            // Waits when the collector has a thousand commands to do.
            let done = tokio::task::spawn_blocking(move || match event {
                Event::Appeared(interface) | Event::Changed(interface) => handle.attach(interface),
                Event::Gone { index, .. } => handle.detach(index),
                Event::Addresses(addresses) => handle.set_addresses(addresses),
                Event::Synced => handle.settled(),
            });
            if done.await.is_ok() && synced {
                attached.release();
                crate::service::ready("watching");
            }
        }
    }))
}

/// Tells alerts and interfaces that can't be attached to as Kubernetes Events.
fn tell_events(link: &Link, state: &State) -> JoinHandle<()> {
    let (detector, collector, names) =
        (Arc::clone(&state.detector), state.collector.clone(), state.names.clone());
    let alerts = move || {
        let alerts = detector.lock().unwrap_or_else(PoisonError::into_inner).alerts.newest_first();
        alerts.iter().map(|alert| Sign::of_alert(alert, Some(&names))).collect()
    };
    let interfaces = move || {
        let report = collector.report();
        let failed = report.iter().flat_map(|report| &report.watched).filter_map(|watched| {
            watched.attached.as_ref().err().map(|error| (watched.name.clone(), error.clone()))
        });
        failed.collect()
    };
    let events = Events::new(link.access(), link.own_pods(), link.node(), link.events(), Limits::default());
    tokio::spawn(events.run(alerts, interfaces))
}

fn notes(report: &crate::collector::handle::Report, sampling_rate: f64) -> Vec<String> {
    let mut notes = Vec::new();
    let failed = report.watched.iter().filter(|watched| watched.attached.is_err()).count();
    if failed > 0 {
        notes.push(format!("{failed} interfaces are not watched: see the table below"));
    }
    if report.watched.is_empty() {
        notes.push("no interface is watched: none is up, or capture.interfaces matches none".into());
    }
    if report.watched.iter().any(|watched| watched.attached == Ok(Method::Clsact)) {
        notes.push(
            "attached by clsact: packets that another program at priority 1 redirects or drops are not seen"
                .into(),
        );
    }
    if report.transport == Transport::Perf {
        notes.push(
            "events travel by perf buffers: the kernel has no ring buffer, or capture.transport asks for it"
                .into(),
        );
    }
    notes.extend(report.left_out.iter().map(|out| format!("{}: {}", out.part.missing(), out.why)));
    if report.stats.tracing {
        notes.push("packet-trace is on: `netmon-cli debug packet-trace off` ends it".into());
    }
    if sampling_rate < 1.0 {
        notes.push(format!("capture.sampling_rate keeps {sampling_rate} of all flows"));
    }
    let [hardware, software, missing] = report.stats.rtt_stamps;
    if hardware + software + missing > 0 {
        notes.push(format!(
            "capture.timestamp_source is hardware: {hardware} round trips by the network card's stamps, {software} by the kernel's \
             clock since the card gave no stamp, {missing} not taken since only one of two packets had one (packets that go out never do)"
        ));
    }
    if report.stats.events_lost.buffer_full > 0 {
        notes.push(
            "events were lost for want of room (resources.maps.event_buffer_size); no packet count is wrong for it".into(),
        );
    }
    if report.stats.table.overflow_packets > 0 {
        notes.push(format!(
            "{} packets found no room in the flow table and are counted by protocol only (flow.max_flows)",
            report.stats.table.overflow_packets
        ));
    }
    notes
}

impl State {
    /// For `systemctl status`.
    fn line(&self) -> String {
        let Some(stats) = self.collector.stats() else { return "the collector does not answer".into() };
        let lost = stats.events_lost.buffer_full + stats.events_lost.invalid;
        let mut line = format!(
            "{} flows on {} interfaces; {lost} events lost, {} packets without room for their flow",
            stats.table.entries,
            (stats.hooks.len() / 2).saturating_sub(1),
            stats.table.overflow_packets,
        );
        if let Some(error) = self.reloader.status().error {
            line.push_str(&format!("; configuration refused: {}", error.message.replace('\n', " ")));
        }
        line
    }
}

impl Source for State {
    fn status(&self) -> Status {
        let uname = rustix::system::uname();
        let sampling_rate = self.config.borrow().capture.sampling_rate;
        let configured = self.reloader.configured();
        let config = self.reloader.status();
        let report = self.collector.report();
        let interfaces = report.iter().flat_map(|report| &report.watched).map(|watched| InterfaceStatus {
            name: watched.name.clone(),
            index: watched.index,
            attach: watched.attached.as_ref().map_or("failed", |method| method.name()).into(),
            error: watched.attached.as_ref().err().cloned(),
        });
        let stats = report.as_ref().map(|report| report.stats.clone()).unwrap_or_default();
        let held = report.as_ref().map_or((0, 0), |report| {
            (report.departed.packets + report.in_table.0, report.departed.bytes + report.in_table.1)
        });
        let mut notes = report.as_ref().map_or_else(
            || vec!["the collector does not answer".into()],
            |report| notes(report, configured.capture.sampling_rate),
        );
        let kubernetes = self.link.as_ref().map(|link| link.status());
        notes.extend(kubernetes.iter().flat_map(|kubernetes| kubernetes.notes()));
        let governor = self.governor.borrow().clone();
        notes.extend(governor.notes());
        let unwritten = crate::telemetry::lines_lost();
        if unwritten > 0 {
            notes.push(format!("{unwritten} lines of the log could not be written (a full disk?)"));
        }
        notes.extend(crate::check::tested::untested_here());
        let nat = &configured.features.nat;
        if nat.enabled && nat.conntrack == config::Conntrack::Netlink {
            notes.push(
                "translations (NAT) are known some milliseconds late: features.nat.conntrack is netlink"
                    .into(),
            );
        }
        notes.push(LOOPBACK.into());
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            mode: self.mode.into(),
            started: self.started,
            uptime_seconds: self.since.elapsed().as_secs(),
            kernel: format!("{} {}", uname.release().to_string_lossy(), uname.machine().to_string_lossy()),
            config_file: config.file.clone(),
            config,
            ready: self.readiness.waiting_for().is_empty(),
            waiting_for: self.readiness.waiting_for(),
            privileges: crate::privilege::held(Path::new("/proc")),
            transport: report.as_ref().map_or("none", |report| report.transport.name()).into(),
            sampling_rate,
            interfaces: interfaces.collect(),
            kubernetes,
            governor,
            accounting: Accounting::of(&stats, held),
            kernel_stats: stats,
            notes,
        }
    }

    fn visit(&self, which: Which, part: Part, visit: &mut dyn FnMut(&Flow) -> ControlFlow<()>) {
        let mut over = false;
        self.collector.view().visit(part, &mut |flow| {
            let flow = visit(flow);
            over = flow.is_break();
            flow
        });
        // Few, next to the table: they go with its first part.
        if which == Which::All && part.number == 0 && !over {
            // Copied, so that sinks don't wait for a slow reader.
            let ended: Vec<Flow> =
                self.history.lock().unwrap_or_else(PoisonError::into_inner).newest_first().copied().collect();
            let _ = ended.iter().try_for_each(visit);
        }
    }

    fn alerts(&self) -> Vec<AlertRecord> {
        let clock = WallClock::now();
        let alerts = self.detector.lock().unwrap_or_else(PoisonError::into_inner).alerts.newest_first();
        alerts.iter().map(|alert| AlertRecord::of(alert, &clock, Some(&self.names))).collect()
    }

    fn drops(&self) -> Option<DropStats> {
        Some(self.collector.stats()?.drops)
    }

    fn folds(&self) -> bool {
        self.config.borrow().flow.aggregation
    }

    fn reloader(&self) -> Arc<Reloader> {
        Arc::clone(&self.reloader)
    }

    fn presenter(&self) -> Presenter {
        Presenter {
            clock: WallClock::now(),
            interfaces: self.collector.interface_names(),
            sampling_rate: self.config.borrow().capture.sampling_rate,
            drops: Arc::new(self.collector.flow_drops()),
            names: Some(Arc::new(self.names.clone())),
            asked: self.collector.asked(),
        }
    }

    fn messages(&self) -> Messages {
        self.collector.stats().map(|stats| stats.messages).unwrap_or_default()
    }

    fn collector(&self) -> Handle {
        self.collector.clone()
    }

    fn subscribe(&self) -> broadcast::Receiver<Batch> {
        self.updates.subscribe()
    }
}
