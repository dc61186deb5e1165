//! Logging: to the journal when systemd started us, to standard error otherwise; the level can change live.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{Log, LogFormat, LogLevel};

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
                registry.with(layer).try_init().context("start logging")?;
                return Ok(LogHandle(handle));
            }
            Err(error) => refused = Some(error),
        }
    }
    if log.format == LogFormat::Json {
        registry
            .with(fmt::layer().json().with_writer(std::io::stderr))
            .try_init()
            .context("start logging")?;
    } else {
        let colours =
            std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false);
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
