//! What the running agent tells of itself: the source of the control API.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::{broadcast, watch};

use crate::api::Source;
use crate::api::status::{About, Accounting, InterfaceStatus, Note, Status};
use crate::clock::WallClock;
use crate::collector::handle::Report;
use crate::collector::{Flows, Handle};
use crate::config::{self, Config};
use crate::detect::Detector;
use crate::detect::alert::AlertRecord;
use crate::enrich::Directory;
use crate::enrich::kubernetes::Link;
use crate::flow::present::Presenter;
use crate::flow::update::{Batch, Flow};
use crate::governor::GovernorStatus;
use crate::kernel::attach::Method;
use crate::kernel::btf::Types;
use crate::kernel::messages::Messages;
use crate::kernel::names::Named;
use crate::kernel::object::Transport;
use crate::kernel::stats::DropStats;
use crate::reload::Reloader;
use crate::sink::history::History;
use crate::sink::prometheus::Readiness;

/// A note that is always there.
pub const LOOPBACK: &str = "loopback traffic is not watched unless `lo` is named in capture.interfaces";

/// What the API and the exporter see.
pub(super) struct State {
    pub(super) collector: Handle,
    pub(super) readiness: Readiness,
    pub(super) history: Arc<Mutex<History>>,
    pub(super) detector: Arc<Mutex<Detector>>,
    pub(super) updates: broadcast::Sender<Batch>,
    pub(super) mode: &'static str,
    pub(super) started: Timestamp,
    /// The same, for a wall clock that is set.
    pub(super) since: Instant,
    pub(super) types: Types,
    pub(super) config: watch::Receiver<Arc<Config>>,
    pub(super) reloader: Arc<Reloader>,
    pub(super) names: Directory,
    pub(super) _named: Option<Named>,
    pub(super) link: Option<Arc<Link>>,
    pub(super) governor: watch::Receiver<GovernorStatus>,
}

impl State {
    /// For `systemctl status`.
    pub(super) fn line(&self) -> String {
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
            || vec![Note { about: About::Other, text: "the collector does not answer".into() }],
            |report| notes(report, configured.capture.sampling_rate),
        );
        let mut note = |about, text: String| notes.push(Note { about, text });
        let kubernetes = self.link.as_ref().map(|link| link.status());
        let said = kubernetes.iter().flat_map(|kubernetes| kubernetes.notes());
        said.for_each(|text| note(About::Cluster, text));
        let governor = self.governor.borrow().clone();
        governor.notes().into_iter().for_each(|text| note(About::Limits, text));
        let unwritten = crate::telemetry::lines_lost();
        if unwritten > 0 {
            note(About::Other, format!("{unwritten} lines of the log could not be written (a full disk?)"));
        }
        crate::check::tested::untested_here().into_iter().for_each(|text| note(About::Kernel, text));
        self.types.note().into_iter().for_each(|text| note(About::Kernel, text));
        let nat = &configured.features.nat;
        if nat.enabled && nat.conntrack == config::Conntrack::Netlink {
            note(
                About::Other,
                "translations (NAT) are known some milliseconds late: features.nat.conntrack is netlink"
                    .into(),
            );
        }
        note(About::Intention, LOOPBACK.into());
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            mode: self.mode.into(),
            started: self.started,
            uptime_seconds: self.since.elapsed().as_secs(),
            kernel: format!("{} {}", uname.release().to_string_lossy(), uname.machine().to_string_lossy()),
            config_file: config.file.clone(),
            btf_file: self.types.file().map(|file| file.display().to_string()),
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

    fn flows(&self) -> Flows {
        self.collector.view().read()
    }

    fn ended(&self) -> Vec<Flow> {
        // Copied, so that sinks don't wait for a slow reader.
        self.history.lock().unwrap_or_else(PoisonError::into_inner).newest_first().copied().collect()
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

fn notes(report: &Report, sampling_rate: f64) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut note = |about, text: String| notes.push(Note { about, text });
    let failed = report.watched.iter().filter(|watched| watched.attached.is_err()).count();
    if failed > 0 {
        note(About::Interfaces, format!("{failed} interfaces are not watched: see the table below"));
    }
    if report.watched.is_empty() {
        note(
            About::Interfaces,
            "no interface is watched: none is up, or capture.interfaces matches none".into(),
        );
    }
    if report.watched.iter().any(|watched| watched.attached == Ok(Method::Clsact)) {
        note(
            About::Other,
            "attached by clsact: packets that another program at priority 1 redirects or drops are not seen"
                .into(),
        );
    }
    if report.transport == Transport::Perf {
        note(
            About::Other,
            "events travel by perf buffers: the kernel has no ring buffer, or capture.transport asks for it"
                .into(),
        );
    }
    for out in &report.left_out {
        note(About::Other, format!("{}: {}", out.part.missing(), out.why));
    }
    if report.stats.tracing {
        note(About::Other, "packet-trace is on: `netmon-cli debug packet-trace off` ends it".into());
    }
    if sampling_rate < 1.0 {
        note(About::Other, format!("capture.sampling_rate keeps {sampling_rate} of all flows"));
    }
    let [hardware, software, missing] = report.stats.rtt_stamps;
    if hardware + software + missing > 0 {
        note(
            About::Other,
            format!(
                "capture.timestamp_source is hardware: {hardware} round trips by the network card's stamps, {software} by the kernel's \
             clock since the card gave no stamp, {missing} not taken since only one of two packets had one (packets that go out never do)"
            ),
        );
    }
    if report.stats.events_lost.buffer_full > 0 {
        let what = "events were lost for want of room (resources.maps.event_buffer_size); no packet count is wrong for it";
        note(About::Losses, what.into());
    }
    if report.stats.table.overflow_packets > 0 {
        note(
            About::FlowTable,
            format!(
                "{} packets found no room in the flow table and are counted by protocol only (flow.max_flows)",
                report.stats.table.overflow_packets
            ),
        );
    }
    notes
}
