//! `netmon-cli`: asks the running agent over its control socket and shows the answer.

pub mod arguments;
pub mod bundle;
pub mod client;
mod config;
mod debug;
pub mod doctor;
mod documents;
mod evidence;
pub mod hints;
mod manual;
pub mod redact;
pub mod show;
pub mod tables;
pub mod why;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;

use arguments::{Arguments, Command, Flows, Stats, Support};

/// Flows in a table when no limit is given.
const TABLE_LIMIT: usize = 50;

/// Ctrl-C came before the end, as shells say it.
const INTERRUPTED: u8 = 130;

/// Runs a command; the exit status is that of the contract.
pub async fn run(arguments: Arguments) -> ExitCode {
    crate::kernel::silence_libbpf();
    let outcome = tokio::select! {
        outcome = execute(&arguments) => outcome,
        _ = tokio::signal::ctrl_c() => {
            if !arguments.command.goes_on() {
                return ExitCode::from(INTERRUPTED);
            }
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be done when standard error is gone too.
            let _ = writeln!(std::io::stderr(), "netmon-cli: {error:#}");
            if error.is::<client::Refused>() || error.is::<crate::config::ConfigErrors>() {
                ExitCode::from(2)
            } else if error.is::<doctor::CannotRun>() {
                ExitCode::from(3)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// Whoever reads what is printed has gone. A connection to the agent that breaks is another matter.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let of_agent = error.chain().any(|cause| cause.is::<hyper::Error>());
    !of_agent
        && error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
            .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

async fn execute(arguments: &Arguments) -> Result<()> {
    let client = client::Client::new(&arguments.socket);
    let output = arguments.output();
    match &arguments.command {
        Command::Status => show::status(&client.get("/v1/status").await?, output),
        Command::Stats(Stats::Flows) => show::flow_stats(&client.get("/v1/stats/flows").await?, output),
        Command::Stats(Stats::Dns) => show::dns_stats(&client.get("/v1/stats/dns").await?, output),
        Command::Stats(Stats::Http) => show::http_stats(&client.get("/v1/stats/http").await?, output),
        Command::Config(command) => config::run(&client, command, output).await,
        Command::Debug(command) => debug::run(&client, command, output).await,
        Command::Alerts => show::alerts(&client.get::<Vec<_>>("/v1/alerts").await?, output),
        Command::Drops => show::drops(&client.get("/v1/drops").await?, output),
        Command::Why { src, dst } => show::why(&why::ask(&client, src, dst).await?, output),
        Command::Doctor(setup) => doctor::doctor(&client, &arguments.socket, setup.clone(), output).await,
        Command::CheckSystem(setup) => doctor::check_system(setup.clone(), output).await,
        Command::Support(Support::Bundle(wanted)) | Command::SupportBundle(wanted) => {
            bundle::write(&client, &arguments.socket, wanted).await
        }
        Command::Completions { shell, program } => manual::completions(*shell, program),
        Command::Man { folder } => manual::pages(folder),
        Command::Flows(Flows::Dump(dump)) => {
            let table = output == arguments::Output::Table;
            let mut query = dump.query();
            if table && !dump.follow {
                if dump.limit.is_none() {
                    query.push(("limit".into(), (TABLE_LIMIT + 1).to_string()));
                }
                if dump.sort.is_none() {
                    query.push(("sort".into(), "bytes".into()));
                }
            }
            let lines = client.lines("/v1/flows", &query).await?;
            show::flows(lines, output, dump.follow, dump.limit.is_none().then_some(TABLE_LIMIT)).await
        }
    }
}
