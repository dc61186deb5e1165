//! `config ...`

use anyhow::{Result, bail};

use super::arguments::{Config as Command, Output};
use super::client::{Client, Refused};
use super::show::{document, documents, print};
use super::tables;
use crate::config::{Config, Inputs, schema};
use crate::reload::outcome::{Applied, Setting};

pub(super) async fn run(client: &Client, command: &Command, output: Output) -> Result<()> {
    match command {
        Command::Show => show(&client.get::<Vec<Setting>>("/v1/config").await?, output),
        Command::Get { key } => {
            let Some(known) = schema::find(key) else { bail!(Refused(unknown(key))) };
            let settings = client.get::<Vec<Setting>>("/v1/config").await?;
            match settings.iter().find(|setting| setting.key == known.path) {
                Some(setting) if output == Output::Table => print(&setting.value),
                Some(setting) => document(setting, output),
                None => bail!("the agent does not know {key} (are netmon and netmon-cli of one version?)"),
            }
        }
        Command::Set { pairs } => {
            let mut query = Vec::new();
            for pair in pairs {
                let Some((key, value)) = pair.split_once('=') else {
                    bail!(Refused(format!("`{pair}` is no KEY=VALUE, like flow.flow_timeout=60s")));
                };
                query.push((key.to_owned(), value.to_owned()));
            }
            let applied: Applied = client.post("/v1/config/set", &query).await?;
            tell(
                &applied,
                output,
                "lasts until the agent restarts; to keep it, write it into the configuration file",
            )
        }
        Command::Reload => {
            let applied: Applied = client.post("/v1/config/reload", &[]).await?;
            tell(&applied, output, "")
        }
        Command::Validate { file } => {
            let loaded = Config::load(&Inputs { file: Some(file.clone()), ..Default::default() })?;
            match output {
                Output::Table => print(&format!("{}: valid", file.display())),
                _ => document(&loaded.values, output),
            }
        }
    }
}

/// What the running agent goes by, whatever files, variables and flags it has that from.
pub(super) async fn in_force(client: &Client) -> Result<Config> {
    let settings = client.get::<Vec<Setting>>("/v1/config").await?;
    let sets: Vec<_> = settings.into_iter().map(|setting| (setting.key, setting.value)).collect();
    Ok(Config::load_with(&Inputs::default(), &sets)?.config)
}

fn unknown(key: &str) -> String {
    match schema::nearest(key) {
        Some(known) => format!("{key}: unknown key; did you mean {known}?"),
        None => format!("{key}: unknown key; `netmon-cli config show` has them all"),
    }
}

fn tell(applied: &Applied, output: Output, note: &str) -> Result<()> {
    if output != Output::Table {
        return document(applied, output);
    }
    let mut lines: Vec<String> = applied.changed.iter().map(ToString::to_string).collect();
    if lines.is_empty() {
        lines.push("nothing has changed".into());
    } else if !note.is_empty() {
        lines.push(note.into());
    }
    lines.extend(applied.after_restart.iter().map(|change| format!("after a restart: {change}")));
    print(&lines.join("\n"))
}

fn show(settings: &[Setting], output: Output) -> Result<()> {
    if output != Output::Table {
        return documents(settings, output);
    }
    let mut table = tables::table(&["KEY", "VALUE", "FROM", "CHANGES"]);
    for setting in settings {
        let changes = match &setting.after_restart {
            Some(value) => format!("{value} after a restart"),
            None if setting.live => "live".into(),
            None => "restart".into(),
        };
        table.add_row([setting.key.clone(), setting.value.clone(), setting.origin.clone(), changes]);
    }
    print(&table.to_string())
}
