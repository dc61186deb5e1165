//! Logging: to the journal when systemd started us, to standard error otherwise; the level can change live.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{Log, LogFormat, LogLevel};

/// What operators alert on, as `MESSAGE_ID` in the journal: stable names (`deploy/systemd/README.md` tells what to do).
pub mod message {
    /// An interface is not watched.
    pub const ATTACH_FAILED: &str = "6f9d0f6a3c0b4d2f8a9e1c5b7d3e2a10";
    /// A configuration was refused.
    pub const RELOAD_FAILED: &str = "1b6a2f0e9d8c4b7aa5f4e3d2c1b0a911";
    /// A configuration was taken over.
    pub const RELOADED: &str = "c2d7e5f8b1a9446d9b0f3e8c7a6d5412";
    /// The collector makes no progress.
    pub const COLLECTOR_STUCK: &str = "a8e4c9d1f7b2453e8d6c0b9f5e1a7313";
    /// Events or packets' flows were lost.
    pub const LOSS: &str = "4d8b6e2a7c1f49d3b5e0a9f8c6d2b714";
    /// A sign of attack.
    pub const SECURITY_ALERT: &str = "e7c3a1f5d9b84602a4c6e8f0b2d41815";
    /// Less is done, to stay within `resources`.
    pub const SHED: &str = "b5f2d8c4e6a14790b3d7c9e1f8a5d216";
    /// More of it is done again.
    pub const RECOVERED: &str = "9c1e7a5b3d8f4264a0e6d4c2b8f71a17";
    /// A limit of `resources` is not held.
    pub const EXHAUSTED: &str = "d3a8f6c1b9e54e07a2c5f7d9b1e34a18";
    /// All of them and what each means.
    pub const ALL: &[(&str, &str)] = &[
        (ATTACH_FAILED, "an interface is not watched"),
        (RELOAD_FAILED, "a configuration was refused"),
        (RELOADED, "a configuration was taken over"),
        (COLLECTOR_STUCK, "the collector makes no progress"),
        (LOSS, "events were lost, or new flows found no room"),
        (SECURITY_ALERT, "a sign of attack"),
        (SHED, "less is done, to stay within resources.cpu_limit and memory_limit"),
        (RECOVERED, "more of that is done again"),
        (EXHAUSTED, "a limit is not held, and there is nothing left to shed"),
    ];
}

/// Lines that could not be written, and those of them that the log has told of since.
static LOST: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Lines that standard error did not take.
pub fn lines_lost() -> u64 {
    LOST[0].load(Ordering::Relaxed)
}

/// Standard error. What it does not take (its disk is full) is counted, and told of once it takes lines again.
struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.write_all(line).map(|()| line.len())
    }

    fn write_all(&mut self, line: &[u8]) -> std::io::Result<()> {
        let written = std::io::stderr().lock().write_all(line);
        if written.is_err() {
            LOST[0].fetch_add(1, Ordering::Relaxed);
            return written;
        }
        let lost = lines_lost();
        let lines = lost - LOST[1].swap(lost, Ordering::Relaxed).min(lost);
        if lines > 0 {
            // Comes here again, with nothing left to tell.
            tracing::error!(lines, "lines of the log are missing here: they could not be written");
        }
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Changes the level of a running log.
#[derive(Clone)]
pub struct LogHandle(reload::Handle<EnvFilter, Registry>);

fn filter(level: LogLevel) -> EnvFilter {
    // It calls each refusal an error; whoever asks says what became of it.
    EnvFilter::new(format!("{},kube_client=off", level.name()))
}

impl LogHandle {
    /// Logs at this level from now on.
    ///
    /// # Errors
    /// When the log is gone.
    pub fn set_level(&self, level: LogLevel) -> Result<()> {
        self.0.reload(filter(level)).context("change the log level")
    }
}

/// Starts logging. May be called once a process.
///
/// # Errors
/// When logging has been started already.
pub fn start(log: &Log) -> Result<LogHandle> {
    let (filter, handle) = reload::Layer::new(filter(log.level));
    let registry = tracing_subscriber::registry().with(filter);
    let journal = match log.format {
        LogFormat::Auto => started_by_systemd(),
        LogFormat::Journal => true,
        LogFormat::Text | LogFormat::Json => false,
    };
    let mut refused = None;
    if journal {
        match tracing_journald::layer() {
            Ok(layer) => {
                // Without a prefix: `message_id` is the journal's own MESSAGE_ID.
                let layer = layer.with_field_prefix(None);
                registry.with(layer).try_init().context("start logging")?;
                return Ok(LogHandle(handle));
            }
            Err(error) => refused = Some(error),
        }
    }
    if log.format == LogFormat::Json {
        registry.with(fmt::layer().json().with_writer(|| Lines)).try_init().context("start logging")?;
    } else {
        let colours =
            std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let layer = fmt::layer().with_writer(|| Lines).with_ansi(colours).with_target(false);
        registry.with(layer).try_init().context("start logging")?;
    }
    if let Some(error) = refused {
        tracing::warn!(%error, "the journal can't be reached: logging to standard error");
    }
    Ok(LogHandle(handle))
}

/// systemd says in `JOURNAL_STREAM` which device and inode it has connected to the journal.
fn started_by_systemd() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let Ok(stat) = rustix::fs::fstat(std::io::stderr()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}
