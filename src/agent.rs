//! The agent: wires all parts, in the order of the data, and takes them down again.
//!
//! Start: control socket (so that two agents never share a host's hooks), kernel side, collector, exporter, API,
//! interfaces, reload. Stop: interfaces, collector (detaches and tells the last), sinks, servers.

mod state;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::api;
use crate::clock::{self, WallClock};
use crate::collector::{Collector, Handle};
use crate::config::cli::Mode;
use crate::config::{self, Config, Inputs, Loaded, Switch, WatchScope};
use crate::debug;
use crate::detect::Detector;
use crate::enrich::kubernetes::object::Watched;
use crate::enrich::kubernetes::{Cluster, Link, cluster, link};
use crate::enrich::{Directory, name_sockets};
use crate::flow::who::Names;
use crate::governor::{Governor, GovernorStatus};
use crate::interfaces::{Event, Follower, Selection};
use crate::kernel::btf::Types;
use crate::kernel::object::{Object, Options};
use crate::reload::features;
use crate::reload::parts::{self, Parts};
use crate::reload::{self, Reloader};
use crate::sink::feed::{self, Feed};
use crate::sink::history::{self, History};
use crate::sink::kubernetes_events::{Events, Limits, Sign};
use crate::sink::prometheus::{Endpoint, Exporter, FlowMetrics, Latch, Readiness};
use crate::telemetry::LogHandle;
pub use state::LOOPBACK;
use state::State;

/// Time that shutting down may take.
const SHUTDOWN: Duration = Duration::from_secs(10);
/// Beyond that, what an interface may take to be detached.
const DETACH: Duration = Duration::from_millis(50);
/// Interface events that may wait.
const INTERFACE_EVENTS: usize = 1024;

/// What the agent is started with.
pub struct Start {
    /// The configuration.
    pub loaded: Loaded,
    /// What it was put together from, and will be again.
    pub inputs: Inputs,
    /// Where the agent runs.
    pub mode: Mode,
    /// File with the kernel's types, for a kernel that has no BTF.
    pub btf: Option<PathBuf>,
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
    let Start { loaded, inputs, mode, btf, log } = start;
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
    let to_load = Options { btf, ..features::options(&config) };
    let mut object = Object::load(&to_load)?;
    let types = object.types().clone();
    if to_load.btf.is_some() && types == Types::Kernel {
        tracing::info!("this kernel has BTF of its own: --btf is not needed");
    }
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
        types,
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
    let ended_itself = tokio::select! {
        () = stop => false,
        () = collector.ended() => true,
    };

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
    anyhow::ensure!(
        !ended_itself,
        "the collector has ended by itself, which is a fault of netmon: its last words are above, please report them"
    );
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
