//! `netmon`: the agent.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use netmon::agent::Start;
use netmon::config::cli::Arguments;
use netmon::config::{Config, ConfigErrors, Inputs};
use netmon::kernel::btf::NoTypes;
use netmon::kernel::load::LoadError;
use netmon::privilege::{self, MissingPrivilege};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    match start(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The exit status tells even where standard error can't.
            let _ = writeln!(std::io::stderr(), "netmon: {error:#}");
            ExitCode::from(status_of(&error))
        }
    }
}

/// 1 the job failed, 2 bad configuration, 3 this system can't run it.
fn status_of(error: &anyhow::Error) -> u8 {
    let load = error.downcast_ref::<LoadError>();
    if error.is::<ConfigErrors>() || matches!(load, Some(LoadError::Types(NoTypes::File { .. }))) {
        2
    } else if error.is::<MissingPrivilege>() || error.chain().any(|cause| cause.is::<LoadError>()) {
        3
    } else {
        1
    }
}

/// The same file for whoever is told of it in another folder. Symbolic links stay: that of a ConfigMap leads elsewhere later.
fn absolute(file: Option<&Path>) -> Option<PathBuf> {
    file.map(|file| std::path::absolute(file).unwrap_or_else(|_| file.into()))
}

fn start(arguments: &Arguments) -> Result<()> {
    let inputs = Inputs {
        file: absolute(arguments.config.as_deref()),
        environment: std::env::vars_os()
            .map(|(name, value)| [name, value].map(|text| text.to_string_lossy().into_owned()).into())
            .collect(),
        flags: arguments.settings(),
    };
    let loaded = Config::load(&inputs)?;
    if arguments.check_config {
        writeln!(std::io::stdout(), "netmon: the configuration is valid").context("tell so")?;
        return Ok(());
    }
    let log = netmon::telemetry::start(&loaded.config.log)?;
    privilege::check()?;
    netmon::kernel::log_libbpf();
    let workers = usize::try_from(loaded.config.performance.workers).unwrap_or(4);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("netmon-worker")
        .on_thread_start(privilege::drop_rest)
        .enable_all()
        .build()
        .context("start the worker threads")?;
    let ended = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let btf = absolute(arguments.btf.as_deref());
        let start = Start { loaded, inputs, mode: arguments.mode, btf, log };
        netmon::agent::run(start, stop).await
    });
    // A name that is being resolved can't be called back.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ended
}
