//! Shell completions and man pages, made from the very command lines.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use super::arguments::Arguments;
use crate::config::cli::Arguments as Agent;

fn programs() -> [clap::Command; 2] {
    [Agent::command(), Arguments::command()]
}

/// Prints the completions of a program.
pub(super) fn completions(shell: Shell, program: &str) -> Result<()> {
    let mut text = Vec::new();
    for mut command in programs().into_iter().filter(|command| command.get_name() == program) {
        clap_complete::generate(shell, &mut command, program, &mut text);
    }
    super::show::print(String::from_utf8(text).context("completions are text")?.trim_end())
}

/// Writes `netmon.1`, `netmon-cli.1` and a page for each command.
pub(super) fn pages(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    programs().into_iter().try_for_each(|command| page(folder, command.disable_help_subcommand(true)))
}

fn page(folder: &Path, mut command: clap::Command) -> Result<()> {
    // Names become those of the pages: netmon-cli-flows-dump.
    command.build();
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        page(folder, below.clone())?;
    }
    let man = clap_mangen::Man::new(command);
    let path = folder.join(man.get_filename());
    let mut file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    man.render(&mut file).with_context(|| format!("cannot write {}", path.display()))
}
