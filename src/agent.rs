//! The agent: wires all parts, in the order of the data, and takes them down again.
//!
//! Start: control socket (so that two agents never share a host's hooks), kernel side, collector, exporter, API,
//! interfaces. Stop: interfaces, collector (detaches and tells the last), sinks, servers.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;

use crate::api::status::{Accounting, InterfaceStatus, Status};
use crate::api::{self, Source, Which};
use crate::clock::{self, WallClock};
use crate::collector::{Collector, Handle, Part, Settings};
use crate::config::cli::Mode;
use crate::config::{self, Attach, Config, Precision, Switch, TimestampSource, TransportChoice, WatchScope};
use crate::debug;
use crate::detect::alert::AlertRecord;
use crate::detect::{self, Detector, services};
use crate::enrich::kubernetes::object::Watched;
use crate::enrich::kubernetes::{Cluster, Link, cluster, link};
use crate::enrich::{Directory, name_sockets};
use crate::flow::cidr::Cidr;
use crate::flow::present::Presenter;
use crate::flow::update::{Batch, Flow};
use crate::flow::who::Names;
use crate::interfaces::{Event, Follower, Selection};
use crate::kernel::attach::Method;
use crate::kernel::messages::Messages;
use crate::kernel::names::Named;
use crate::kernel::object::{Features, LookInto, MessageFeatures, Object, Options, Transport};
use crate::kernel::stats::DropStats;
use crate::sink::feed::{self, Feed};
use crate::sink::history::{self, History};
use crate::sink::kubernetes_events::{Events, Limits, Sign};
use crate::sink::prometheus::{Exporter, FlowMetrics, Readiness, http};

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
    config_file: Option<String>,
    started: Timestamp,
    sampling_rate: f64,
    folds: bool,
    names: Directory,
    _named: Option<Named>,
    link: Option<Arc<Link>>,
}

/// Runs until `stop` is over.
///
/// # Errors
/// When a part can't start; the message says which, why and what to do.
pub async fn run(
    config: Config,
    mode: Mode,
    config_file: Option<&Path>,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let kubernetes = match (mode, config.kubernetes.enabled) {
        (Mode::Kubernetes, _) | (Mode::Auto, Switch::True) => true,
        (Mode::Systemd, _) | (Mode::Auto, Switch::False) => false,
        (Mode::Auto, Switch::Auto) => std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
    };
    let readiness = Readiness::default();
    let socket = api::server::listen(Path::new(&config.api.socket)).await?;

    let mut object = tokio::task::spawn_blocking({
        let options = options(&config);
        move || Object::load(&options)
    })
    .await
    .context("load the eBPF programs")??;
    let (names, named) = if config.features.process_attribution.enabled {
        name_sockets(&mut object).context("start looking for names")?
    } else {
        (None, None)
    };
    // The watches of the API server feed it.
    let cluster = kubernetes.then(|| Arc::new(Cluster::new(cluster_settings(&config))));
    let directory = Directory { host: names, cluster };

    let settings = Settings {
        max_flows: config.max_flows(),
        flow_timeout: config.flow.flow_timeout,
        connect_timeout: config.flow.connect_timeout,
        active_interval: config.flow.active_interval,
        sampling_rate: config.capture.sampling_rate,
        method: match config.capture.attach {
            Attach::Auto => None,
            Attach::Tcx => Some(Method::Tcx),
            Attach::Clsact => Some(Method::Clsact),
        },
    };
    let top_pairs = usize::try_from(config.export.prometheus.top_pairs).unwrap_or(1000);
    let mut metrics = FlowMetrics::new(
        top_pairs,
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
    let fold_every = config.flow.aggregation.then_some(config.flow.active_interval);
    let security = &config.features.security_monitoring;
    let detector = Arc::new(Mutex::new(Detector::new(detect::Settings {
        port_scans: security.enabled && security.detect_port_scans,
        patterns: security.enabled && security.detect_suspicious_patterns,
        allow: security.allow.iter().filter_map(|network| Cidr::parse(network)).collect(),
        allow_workloads: security.allow.iter().filter_map(|text| detect::workload(text)).collect(),
        names: directory.cluster.is_some().then(|| Arc::new(directory.clone()) as Arc<dyn Names>),
        learn_until_ns: clock::monotonic_ns()
            .saturating_add(u64::try_from(security.learning_time.as_nanos()).unwrap_or(u64::MAX)),
        ephemeral: std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
            .ok()
            .and_then(|range| services::ephemeral(&range))
            .unwrap_or(services::EPHEMERAL),
    })));
    let feed = Feed::new(
        Arc::clone(&metrics),
        Arc::clone(&history),
        Arc::clone(&detector),
        directory.clone(),
        updates.clone(),
        batch_size,
        fold_every,
    );
    let link = directory.cluster.clone().map(|cluster| {
        let latch = readiness.latch("the pods of this node from the Kubernetes API server");
        let watched: Arc<dyn Watched> = cluster;
        Arc::new(Link::start(&config.kubernetes, &watched, move || latch.release()))
    });
    let mut collector = Collector::start(object, &settings, Box::new(feed)).context("start the collector")?;

    let state = Arc::new(State {
        collector: collector.handle(),
        readiness: readiness.clone(),
        history,
        detector: Arc::clone(&detector),
        updates,
        mode: if kubernetes { "kubernetes" } else { "systemd" },
        config_file: config_file.map(|path| path.display().to_string()),
        started: Timestamp::now(),
        sampling_rate: config.capture.sampling_rate,
        folds: config.flow.aggregation,
        names: directory.clone(),
        _named: named,
        link: link.clone(),
    });

    let (over, ending) = watch::channel(());
    let ended = move || {
        let mut ending = ending.clone();
        async move {
            // The sender's end is what is waited for.
            while ending.changed().await.is_ok() {}
        }
    };
    let mut servers: Vec<JoinHandle<()>> = Vec::new();
    if config.export.prometheus.enabled {
        let address = match config.export.prometheus.address.as_str() {
            "" if kubernetes => "0.0.0.0",
            "" => "127.0.0.1",
            address => address,
        };
        let listener = http::listen(address, config.export.prometheus.port).await?;
        tracing::info!(address = %listener.local_addr().context("ask for the metrics port")?, "serving metrics");
        let handle = collector.handle();
        let exporter = Exporter::new(metrics, detector, directory, Arc::new(move || handle.stats()), "/proc");
        let exporter = Arc::new(exporter.with_kubernetes(link.clone()));
        servers.push(tokio::spawn(http::serve(listener, exporter, readiness.clone(), ended())));
    }
    tracing::info!(socket = %config.api.socket, "serving netmon-cli");
    servers.push(tokio::spawn(api::server::serve(socket, Arc::clone(&state), ended())));

    let telling = link.filter(|_| config.kubernetes.events).map(|link| tell_events(&link, &state));
    if !config.debug.server.is_empty() {
        let listener = debug::listen(&config.debug.server).await?;
        let shown = config.clone();
        let read: debug::ReadConfig = Arc::new(move || config::public(&shown));
        servers.push(tokio::spawn(debug::serve(listener, Arc::clone(&state), read, ended())));
    }

    let following = follow_interfaces(&config, &collector.handle(), &readiness)?;
    tokio::select! {
        () = stop => {}
        () = collector.ended() => tracing::error!("the collector has ended by itself: stopping"),
    }

    tracing::info!("stopping");
    crate::service::stopping();
    following.abort();
    telling.inspect(JoinHandle::abort);
    let interfaces = u32::try_from(state.collector.interface_names().len()).unwrap_or(u32::MAX);
    let deadline = SHUTDOWN + DETACH.saturating_mul(interfaces);
    // The collector tells the last of every flow; then the servers may go.
    let stopping = async {
        let stopped = tokio::task::spawn_blocking(move || collector.stop()).await;
        drop(over);
        for server in servers {
            // Its panic has been printed.
            let _ = server.await;
        }
        stopped
    };
    match tokio::time::timeout(deadline, stopping).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "a part did not end as it should"),
        Err(_) => tracing::warn!("some clients did not let go in time"),
    }
    // The socket is replaced at the next start in any case.
    let _ = std::fs::remove_file(&config.api.socket);
    Ok(())
}

fn cluster_settings(config: &Config) -> cluster::Settings {
    let (node, _) = link::node_name(&config.kubernetes.node_name);
    let whole = config.kubernetes.scope == WatchScope::Cluster;
    cluster::Settings { node: Some(node.into()), whole, clock: WallClock::now }
}

/// What is loaded with a configuration.
pub fn options(config: &Config) -> Options {
    Options {
        transport: match config.capture.transport {
            TransportChoice::Auto => None,
            TransportChoice::Ringbuf => Some(Transport::Ringbuf),
            TransportChoice::Perf => Some(Transport::Perf),
        },
        event_buffer_events: config.resources.maps.event_buffer_size,
        features: features(config),
        bench: false,
        drops: config.features.drop_monitoring.enabled,
    }
}

fn features(config: &Config) -> Features {
    let latency = &config.features.latency_tracking;
    let detection = &config.features.protocol_detection;
    let looks_for = |name: &str| detection.enabled && detection.protocols.iter().any(|known| known == name);
    let servers = u32::try_from(config.export.prometheus.top_destinations).unwrap_or(u32::MAX);
    Features {
        messages: MessageFeatures {
            dns: looks_for("dns"),
            dns_names: detection.dns_names,
            tls_names: looks_for("tls") && detection.tls_names,
            http_servers: looks_for("http").then_some(servers),
        },
        timing: latency.enabled,
        bounds_us: latency.histogram_buckets.iter().map(|ms| (ms * 1e3).round() as u32).collect(),
        hardware: config.capture.timestamp_source == TimestampSource::Hardware,
        precise: latency.precision == Precision::High,
        protocols: config.features.protocol_detection.apps(),
        who: config.features.process_attribution.enabled,
        nat: config.features.nat.enabled,
        tunnels: (!config.capture.decapsulate.is_empty()).then(|| LookInto {
            kinds: config.capture.decapsulate.clone(),
            flows: u32::try_from(config.max_flows()).unwrap_or(u32::MAX),
        }),
    }
}

/// Tells the collector which interfaces come and go.
fn follow_interfaces(config: &Config, collector: &Handle, readiness: &Readiness) -> Result<JoinHandle<()>> {
    let attached = readiness.latch("the interfaces of this host to be found and attached");
    let selection = Selection::new(&config.capture.interfaces, &config.capture.exclude_interfaces)
        .context("capture.interfaces")?;
    // The sender lives as long as the task: it is where a new selection will come from.
    let (selector, selected) = watch::channel(Arc::new(selection));
    let (events, mut told) = mpsc::channel(INTERFACE_EVENTS);
    let follower = Follower::open(selected, events).context("cannot follow network interfaces (netlink)")?;
    let collector = collector.clone();
    Ok(tokio::spawn(async move {
        let _selector = selector;
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

impl Source for State {
    fn status(&self) -> Status {
        let uname = rustix::system::uname();
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
            |report| notes(report, self.sampling_rate),
        );
        let kubernetes = self.link.as_ref().map(|link| link.status());
        notes.extend(kubernetes.iter().flat_map(|kubernetes| kubernetes.notes()));
        notes.push(LOOPBACK.into());
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            mode: self.mode.into(),
            started: self.started,
            uptime_seconds: u64::try_from(Timestamp::now().duration_since(self.started).as_secs())
                .unwrap_or(0),
            kernel: format!("{} {}", uname.release().to_string_lossy(), uname.machine().to_string_lossy()),
            config_file: self.config_file.clone(),
            ready: self.readiness.waiting_for().is_empty(),
            waiting_for: self.readiness.waiting_for(),
            transport: report.as_ref().map_or("none", |report| report.transport.name()).into(),
            sampling_rate: self.sampling_rate,
            interfaces: interfaces.collect(),
            kubernetes,
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
        self.folds
    }

    fn presenter(&self) -> Presenter {
        Presenter {
            clock: WallClock::now(),
            interfaces: self.collector.interface_names(),
            sampling_rate: self.sampling_rate,
            drops: Arc::new(self.collector.flow_drops()),
            names: Some(Arc::new(self.names.clone())),
            asked: self.collector.asked(),
        }
    }

    fn messages(&self) -> Messages {
        self.collector.stats().map(|stats| stats.messages).unwrap_or_default()
    }

    fn subscribe(&self) -> broadcast::Receiver<Batch> {
        self.updates.subscribe()
    }
}
