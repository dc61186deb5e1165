//! `netmon-cli`: asks the running agent.

use std::process::ExitCode;

use clap::Parser;
use netmon::cli::arguments::Arguments;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    netmon::cli::run(Arguments::parse()).await
}
