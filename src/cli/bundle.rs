//! `support bundle`: what a report of a fault needs, in one archive whose first file says what is in it.
//!
//! What can't be had is in the list with its reason; the bundle is written all the same.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use serde_json::Value;

use super::arguments::{Bundle, FORMATS, Setup};
use super::client::{self, Client, Refused};
use super::config::in_force;
use super::doctor;
use super::redact::Redactor;
use crate::api::status::Status;
use crate::config::{self, Config, Inputs};
use crate::interfaces::Selection;
use crate::kernel::object::Options;
use crate::kernel::{neighbours, trial};
use crate::reload::features;

/// Of a log, the last so many bytes.
const LOG_BYTES: u64 = 4 << 20;
/// Lines of the journal.
const LOG_LINES: &str = "20000";
/// Time that the metrics page may take.
const SCRAPE: Duration = Duration::from_secs(20);

/// An archive that is not whole: removed with this, since it would be in the way of the next.
struct Half<'a>(&'a Path);

impl Drop for Half<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

/// One file of the archive.
struct Part {
    name: &'static str,
    what: &'static str,
    content: Result<String>,
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(value).context("write JSON")
}

/// Writes it, and says what is in it.
///
/// # Errors
/// When the archive can't be written.
pub async fn write(client: &Client, socket: &Path, wanted: &Bundle) -> Result<()> {
    if FORMATS.contains(&wanted.output.as_str()) {
        bail!(Refused(format!(
            "--output of a bundle is its file, like netmon-support.tar.gz, not {}",
            wanted.output
        )));
    }
    let path = PathBuf::from(&wanted.output);
    // Before all the work: readable by its owner alone, and never over something that is there.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("cannot write {}", path.display()))?;
    let half = Half(&path);
    let mut parts = gather(client, socket, wanted.setup.clone()).await;
    if wanted.redact_addresses {
        let mut redactor = Redactor::default();
        for part in &mut parts {
            part.content = std::mem::replace(&mut part.content, Ok(String::new()))
                .map(|text| redactor.redact(&text))
                .map_err(|error| anyhow::anyhow!(redactor.redact(&format!("{error:#}"))));
        }
    }
    let list = list(&parts, wanted.redact_addresses);
    archive(file, &list, &parts).with_context(|| format!("cannot write {}", path.display()))?;
    std::mem::forget(half);
    super::show::print(&format!("{list}\nwritten to {}", path.display()))
}

fn list(parts: &[Part], redacted: bool) -> String {
    let addresses = if redacted {
        "IP and Ethernet addresses are replaced by numbers"
    } else {
        "IP addresses of this host and its peers are in it (--redact-addresses takes them out)"
    };
    let mut text = format!(
        "netmon support bundle, {}\n{addresses}. No payload, no secret of the configuration. Names of interfaces, units, processes and \
         services are in it.\n\n",
        jiff::Timestamp::now().strftime("%FT%TZ")
    );
    for part in parts {
        let had = match &part.content {
            Ok(content) => format!("{} bytes", content.len()),
            Err(error) => format!("missing: {error:#}"),
        };
        text.push_str(&format!("{:<20} {} ({had})\n", part.name, part.what));
    }
    text
}

fn archive(file: File, list: &str, parts: &[Part]) -> Result<()> {
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    let seconds = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
    let mut put = |name: &str, content: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(seconds);
        archive.append_data(&mut header, format!("netmon-support/{name}"), content.as_bytes())
    };
    put("CONTENTS.txt", list)?;
    for part in parts {
        if let Ok(content) = &part.content {
            put(part.name, content)?;
        }
    }
    archive.into_inner()?.finish()?.sync_all()?;
    Ok(())
}

async fn gather(client: &Client, socket: &Path, setup: Setup) -> Vec<Part> {
    let status = client.get::<Status>("/v1/status").await;
    let known = status.as_ref().ok();
    let setup = setup.or_of(known);
    let loaded = match in_force(client).await {
        Ok(config) => Ok(config),
        Err(_) => Config::load(&Inputs { file: setup.config.clone(), ..Inputs::default() })
            .map(|loaded| loaded.config),
    };
    let settings = loaded.clone().unwrap_or_default();
    let pid = known.map(|status| status.pid);

    let mut parts = Vec::new();
    let mut part = |name, what, content| parts.push(Part { name, what, content });
    part("versions.txt", "programs, kernel, distribution", Ok(versions(known)));
    let configuration = loaded.map_err(anyhow::Error::from).and_then(|config| json(&config::public(&config)));
    part(
        "config.json",
        "the configuration, secrets left out: in force, or that of the file where no agent answers",
        configuration,
    );
    let metrics = metrics(&settings).await;
    part("metrics.txt", "the metrics page", metrics);
    for (name, what, path) in [
        ("stats-flows.json", "flows counted, heaviest pairs of addresses", "/v1/stats/flows"),
        ("alerts.json", "signs of attack", "/v1/alerts"),
        ("drops.json", "packets that the kernel dropped", "/v1/drops"),
    ] {
        let answer = client.get::<Value>(path).await.and_then(|value| json(&value));
        part(name, what, answer);
    }
    let findings = doctor::examine(client, socket, setup.clone()).await;
    part("doctor.json", "what `netmon-cli doctor` finds", json(&findings));
    let system = tokio::task::spawn_blocking(move || {
        let options = Options { btf: setup.btf.clone(), ..features::options(&settings) };
        (doctor::system(setup), trial::load(&options))
    });
    match system.await {
        Ok((findings, trial)) => {
            part("check-system.json", "what `netmon-cli check-system` finds", json(&findings));
            part(
                "verifier.log",
                "what libbpf and the verifier say when the programs are loaded",
                Ok(trial.words),
            );
        }
        Err(error) => part("verifier.log", "what libbpf and the verifier say", Err(error.into())),
    }
    part("attached.json", "programs and filters on the hooks of all interfaces", attached().await);
    part("process.txt", "limits and memory of the agent", process(pid));
    let log = tokio::task::spawn_blocking(move || log(pid)).await;
    part("log.txt", "the end of the agent's log", log.unwrap_or_else(|error| Err(error.into())));
    part("status.json", "what `netmon-cli status` tells", status.and_then(|status| json(&status)));
    parts
}

fn versions(status: Option<&Status>) -> String {
    let uname = rustix::system::uname();
    let system = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("not known");
    format!(
        "netmon-cli {}\nagent {}\nkernel {} {} {}\nsystem {system}\n",
        env!("CARGO_PKG_VERSION"),
        status.map_or("does not answer", |status| &status.version),
        uname.release().to_string_lossy(),
        uname.version().to_string_lossy(),
        uname.machine().to_string_lossy(),
    )
}

async fn metrics(config: &Config) -> Result<String> {
    let prometheus = &config.export.prometheus;
    let address = match prometheus.address.as_str() {
        "" | "0.0.0.0" | "::" => "127.0.0.1",
        address => address,
    };
    tokio::time::timeout(SCRAPE, client::page(address, prometheus.port, "/metrics"))
        .await
        .with_context(|| format!("{address}:{} does not answer in time", prometheus.port))?
}

async fn attached() -> Result<String> {
    let mut all = serde_json::Map::new();
    for interface in doctor::interfaces(Selection::default()).await? {
        let there = match neighbours::list(interface.index) {
            Ok(there) => serde_json::to_value(there)?,
            Err(error) => Value::String(error.to_string()),
        };
        all.insert(interface.name, there);
    }
    json(&all)
}

fn process(pid: Option<u32>) -> Result<String> {
    let pid = pid.context("no agent answers")?;
    let read = |name: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/{name}")).context("the agent's /proc can't be read")
    };
    Ok(format!("{}\n{}", read("status")?, read("limits")?))
}

/// From the file that the agent writes to, else from the journal.
fn log(pid: Option<u32>) -> Result<String> {
    let written = pid.map(|pid| format!("/proc/{pid}/fd/2")).and_then(|path| tail(Path::new(&path)));
    if let Some(text) = written.filter(|text| !text.is_empty()) {
        return Ok(text);
    }
    let mut journal = Command::new("journalctl");
    journal.args(["--no-pager", "--quiet", "--output", "short-iso", "--lines", LOG_LINES, "_COMM=netmon"]);
    let output = journal.output().context("neither a file nor a journal: journalctl can't be run")?;
    anyhow::ensure!(
        output.status.success(),
        "journalctl: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The end of a regular file.
fn tail(path: &Path) -> Option<String> {
    let mut file =
        File::open(path).ok().filter(|file| file.metadata().is_ok_and(|metadata| metadata.is_file()))?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
