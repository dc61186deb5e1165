//! `debug ...`

use anyhow::{Result, bail};

use super::arguments::{Debug as Command, Output, PacketTrace, Switch};
use super::client::Client;
use super::documents::Documents;
use super::show::{document, print};
use super::tables;
use crate::api::packets::{NotShown, PacketEnd, PacketRecord, Told, TraceEnd};
use crate::reload::outcome::Applied;

pub(super) async fn run(client: &Client, command: &Command, output: Output) -> Result<()> {
    match command {
        Command::Trace(switch) => trace(client, *switch, output).await,
        Command::PacketTrace(PacketTrace::On(wanted)) => packets(client, &wanted.query(), output).await,
        Command::PacketTrace(PacketTrace::Off) => {
            let answer: serde_json::Value = client.post("/v1/packets/off", &[]).await?;
            match output {
                Output::Table if answer["ended"] == true => print("packet-trace is off"),
                Output::Table => print("no packet-trace was on"),
                _ => document(&answer, output),
            }
        }
    }
}

async fn trace(client: &Client, switch: Switch, output: Output) -> Result<()> {
    let on = matches!(switch, Switch::On);
    let query = [("on".to_owned(), on.to_string())];
    let applied: Applied = client.post("/v1/config/trace", &query).await?;
    if output != Output::Table {
        return document(&applied, output);
    }
    let Some(changed) = applied.changed.first() else {
        return print(if on {
            "log.level is trace already: nothing has changed"
        } else {
            "the log level is not what `debug trace on` made it: nothing has changed"
        });
    };
    let note = if on {
        "\nlasts until the agent restarts; `netmon-cli debug trace off` brings back what is configured"
    } else {
        ""
    };
    print(&format!("{changed}{note}"))
}

async fn packets(client: &Client, query: &[(String, String)], output: Output) -> Result<()> {
    let mut lines = client.lines("/v1/packets", query).await?;
    let mut documents = Documents::new(output);
    let mut ended = false;
    while let Some(line) = lines.next().await? {
        let told = serde_json::from_slice::<Told>(line);
        ended = matches!(told, Ok(Told::End { .. }));
        match told {
            Ok(told) if output == Output::Table => documents.put(text(&told).as_bytes())?,
            _ => documents.put(line)?,
        }
        documents.flush()?;
    }
    documents.end()?;
    if !ended {
        bail!("the agent has gone, or this end read too slowly to be told how the trace ended");
    }
    Ok(())
}

fn text(told: &Told) -> String {
    match told {
        Told::Packet(packet) => line(packet),
        Told::NotShown { not_shown } => not_shown_text(not_shown),
        Told::End { end: TraceEnd { why, shown, not_shown } } => {
            let why = match why.as_str() {
                "time" => "the time is over",
                "off" => "ended by `debug packet-trace off`",
                _ => "the agent stops",
            };
            let rest = not_shown.rate + not_shown.lost;
            format!("{why}: {shown} packets shown, {rest} more not shown")
        }
    }
}

fn not_shown_text(NotShown { rate, lost }: &NotShown) -> String {
    let rate = (*rate > 0).then(|| format!("... {rate} more not shown: --rate allows no more a second"));
    let lost = (*lost > 0).then(|| format!("... {lost} more not shown: this end reads too slowly"));
    rate.into_iter().chain(lost).collect::<Vec<_>>().join("\n")
}

fn line(packet: &PacketRecord) -> String {
    let hook = packet.hook.name();
    let detail = match (&packet.tcp_flags, &packet.icmp) {
        (Some(flags), _) => flags.clone(),
        (None, Some(icmp)) => {
            let id = icmp.id.map(|id| format!(" id {id}")).unwrap_or_default();
            format!("type {}/{}{id}", icmp.r#type, icmp.code)
        }
        (None, None) => String::new(),
    };
    let protocol = packet.protocol.map_or_else(|| "-".into(), |protocol| protocol.to_string());
    let size = if packet.packets > 1 {
        format!("{} B in {}", packet.bytes, packet.packets)
    } else {
        format!("{} B", packet.bytes)
    };
    let reason = packet.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let end =
        |end: Option<PacketEnd>| end.map_or_else(|| "?".into(), |end| tables::address(end.ip, end.port));
    format!(
        "{}  {:<10} {hook:<7}  {protocol:<6} {:<21} > {:<21} {detail:<10} {size:>8}  flow {:<16}  {}{reason}",
        packet.time.strftime("%T%.6f"),
        packet.interface,
        end(packet.src),
        end(packet.dst),
        packet.flow_id.as_deref().unwrap_or("-"),
        packet.outcome.name(),
    )
}
