//! `doctor` and `check-system`: gather, judge, show.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::{mpsc, watch};

use super::arguments::{Output, Setup};
use super::client::{Client, Nobody};
use super::config::in_force;
use super::show;
use super::tables;
use crate::api::status::Status;
use crate::check::hooks::{self, Passed, Watched};
use crate::check::host::Host;
use crate::check::{self, Finding, Verdict, failures, kubernetes, port, programs};
use crate::config::{Attach, Config, Inputs};
use crate::interfaces::{Event, Follower, Interface, Selection};
use crate::kernel::neighbours::{self, Neighbour};
use crate::kernel::object::Options;
use crate::kernel::trial;
use crate::reload::features;

/// For so long packets are counted by both accounts.
const SAMPLE: Duration = Duration::from_secs(1);
/// Time that the kernel has to tell its interfaces.
const TELLING: Duration = Duration::from_secs(10);
/// The interface is gone.
const ENODEV: i32 = 19;
/// Where Kubernetes puts a pod's account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The system can't run the agent.
#[derive(Debug, thiserror::Error)]
#[error("this system can't run netmon: {0} of these fail")]
pub struct CannotRun(usize);

/// `doctor`
///
/// # Errors
/// When a check fails, after all have been shown.
pub async fn doctor(client: &Client, socket: &Path, setup: Setup, output: Output) -> Result<()> {
    let findings = examine(client, socket, setup).await;
    show(&findings, output, ["VERDICT", "CHECK", "FOUND"])?;
    match failures(&findings) {
        0 => Ok(()),
        1 => bail!("1 check failed"),
        failed => bail!("{failed} checks failed"),
    }
}

/// `check-system`
///
/// # Errors
/// [`CannotRun`], after all has been shown.
pub async fn check_system(setup: Setup, output: Output) -> Result<()> {
    let findings = tokio::task::spawn_blocking(move || system(setup)).await.context("look at the system")?;
    show(&findings, output, ["WORKS", "PIECE", "FOUND"])?;
    match failures(&findings) {
        0 => Ok(()),
        failed => Err(CannotRun(failed).into()),
    }
}

/// All that `check-system` finds.
pub fn system(setup: Setup) -> Vec<Finding> {
    let (config, mut findings) = configuration(setup.config);
    let host = Host::look(Path::new("/"), setup.btf.as_deref());
    findings.splice(..0, host.judge_kernel());
    let options = Options { btf: setup.btf, ..features::options(&config) };
    findings.extend(programs::judge(&trial::load(&options), &options, neighbours::has_tcx()));
    findings.push(host.judge_mounts());
    findings
}

/// All that `doctor` finds.
pub async fn examine(client: &Client, socket: &Path, setup: Setup) -> Vec<Finding> {
    let answer = client.get::<Status>("/v1/status").await;
    let setup = setup.or_of(answer.as_ref().ok());
    let (mut config, configured) = configuration(setup.config);
    let host = Host::look(Path::new("/"), setup.btf.as_deref()).beside_agent(answer.is_ok());
    let mut findings = host.judge_kernel();
    findings.push(host.judge_clock());
    findings.extend(configured);
    let (running, watched) = match answer {
        Ok(status) => {
            findings.extend(check::agent::judge(&status));
            match in_force(client).await {
                Ok(own) => config = own,
                Err(error) => findings.push(unanswered(&error, socket)),
            }
            let watched = watched_by(&status, client).await;
            (Some(status.pid), watched)
        }
        Err(error) => {
            findings.push(unanswered(&error, socket));
            findings.push(host.judge_mounts());
            let options = Options { btf: setup.btf, ..features::options(&config) };
            let tcx = neighbours::has_tcx();
            let tried =
                tokio::task::spawn_blocking(move || programs::judge(&trial::load(&options), &options, tcx))
                    .await;
            findings.extend(tried.unwrap_or_default());
            (None, to_be_watched(&config, tcx == Some(true)).await)
        }
    };
    match watched {
        Ok(watched) => findings.extend(hooks::judge(&watched)),
        Err(error) => findings.push(Finding::warn(
            "hooks",
            format!("who else sits on them can't be asked: {error:#}"),
            "run this as root, where the agent runs",
        )),
    }
    findings.push(port::judge(&config.export.prometheus, Path::new("/proc"), running));
    findings.push(kubernetes::judge(|name| std::env::var(name).ok(), Path::new(ACCOUNT)));
    findings
}

fn show(findings: &[Finding], output: Output, header: [&str; 3]) -> Result<()> {
    if output != Output::Table {
        return show::documents(findings, output);
    }
    let mut table = tables::table(&header);
    for finding in findings {
        table.add_row([finding.verdict.name(), &finding.check, &finding.found]);
    }
    let fixes = findings.iter().filter(|finding| finding.verdict > Verdict::Pass);
    let fixes = fixes.filter_map(|finding| {
        Some(format!("\n{}: {}: {}", finding.verdict.name(), finding.check, finding.fix.as_ref()?))
    });
    let fixes: String = fixes.collect();
    let end = if fixes.is_empty() { "\nnothing to mend".into() } else { format!("\nto mend it:{fixes}") };
    show::print(&format!("{table}\n{end}"))
}

/// The configuration, or the defaults when it has mistakes.
fn configuration(file: Option<PathBuf>) -> (Config, Vec<Finding>) {
    let shown = file.as_ref().map_or_else(|| "none: defaults".into(), |file| file.display().to_string());
    match Config::load(&Inputs { file, ..Inputs::default() }) {
        Ok(loaded) => (loaded.config, vec![Finding::pass("configuration", shown)]),
        Err(errors) => {
            let fix = "mend what is named; configs/netmon.yaml holds every key with what is accepted";
            (Config::default(), vec![Finding::fail("configuration", errors.to_string(), fix)])
        }
    }
}

fn unanswered(error: &anyhow::Error, socket: &Path) -> Finding {
    if !socket.exists() || error.is::<Nobody>() {
        let fix = "start it (`sudo netmon`, `systemctl start netmon`), or name its socket (--socket, NETMON_SOCKET)";
        Finding::warn("agent", format!("none answers on {}", socket.display()), fix)
    } else {
        Finding::fail(
            "agent",
            format!("{error:#}"),
            "the message says it; `journalctl -u netmon` may tell more",
        )
    }
}

/// Whether a process is known to be in another network namespace than this one, where indices mean other interfaces.
fn is_elsewhere(pid: u32) -> bool {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    // Seen from another PID namespace it may be somebody else.
    let is_agent =
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "netmon");
    is_agent && namespace(&pid.to_string()).is_some_and(|there| Some(there) != namespace("self"))
}

/// What the agent watches, counted for a while by both accounts.
async fn watched_by(status: &Status, client: &Client) -> Result<Vec<Watched>> {
    let pid = status.pid;
    if is_elsewhere(pid) {
        bail!(
            "the agent is in another network namespace; `nsenter -t {pid} -n netmon-cli doctor` looks from there"
        );
    }
    let sys = Path::new("/sys");
    let device = |status: &Status| -> Vec<Option<[u64; 2]>> {
        status.interfaces.iter().map(|interface| hooks::device_packets(sys, &interface.name)).collect()
    };
    let first = client.get::<Status>("/v1/status").await?;
    let before = device(status);
    tokio::time::sleep(SAMPLE).await;
    // The order is the same, so that both whiles are equally long.
    let last = client.get::<Status>("/v1/status").await?;
    let after = device(status);
    let mut all = Vec::new();
    for (interface, (before, after)) in status.interfaces.iter().zip(before.into_iter().zip(after)) {
        let Some(neighbours) = neighbours_of(interface.index)? else { continue };
        let seen = |status: &Status| hooks::seen_packets(&status.kernel_stats.hooks, &interface.name);
        let (seen_before, seen_after) = (seen(&first), seen(&last));
        let passed = before.zip(after).map(|(before, after)| {
            [0, 1].map(|hook| Passed {
                interface: after[hook].saturating_sub(before[hook]),
                seen: seen_after[hook].saturating_sub(seen_before[hook]),
            })
        });
        all.push(Watched {
            interface: interface.name.clone(),
            attached: interface.error.is_none(),
            tcx: interface.attach == "tcx",
            neighbours,
            passed,
        });
    }
    Ok(all)
}

/// What an agent with this configuration would watch.
async fn to_be_watched(config: &Config, has_tcx: bool) -> Result<Vec<Watched>> {
    let selection = Selection::new(&config.capture.interfaces, &config.capture.exclude_interfaces)?;
    let tcx = has_tcx && config.capture.attach != Attach::Clsact;
    let mut all = Vec::new();
    for interface in interfaces(selection).await? {
        let Some(neighbours) = neighbours_of(interface.index)? else { continue };
        all.push(Watched { neighbours, interface: interface.name, attached: false, tcx, passed: None });
    }
    Ok(all)
}

/// Who is on the hooks of an interface; none when it is gone.
fn neighbours_of(index: u32) -> Result<Option<Vec<Neighbour>>> {
    match neighbours::list(index) {
        Ok(all) => Ok(Some(all)),
        Err(error) if error.raw_os_error() == Some(ENODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The interfaces of a selection that are there now.
///
/// # Errors
/// When netlink can't be used, or does not answer.
pub async fn interfaces(selection: Selection) -> Result<Vec<Interface>> {
    let (_selector, selected) = watch::channel(Arc::new(selection));
    let (events, mut told) = mpsc::channel(1024);
    let follower = Follower::open(selected, events).context("cannot ask for network interfaces (netlink)")?;
    let mut running = std::pin::pin!(follower.run());
    let telling = async {
        let mut all = Vec::new();
        loop {
            let event = tokio::select! {
                () = &mut running => bail!("netlink has gone"),
                event = told.recv() => event,
            };
            match event {
                Some(Event::Appeared(interface)) => all.push(interface),
                Some(Event::Synced) => return Ok(all),
                Some(_) => {}
                None => bail!("netlink has gone"),
            }
        }
    };
    tokio::time::timeout(TELLING, telling).await.context("the kernel does not tell its interfaces")?
}
