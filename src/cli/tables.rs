//! Tables that fit the terminal, and numbers that people read.

use std::net::{IpAddr, SocketAddr};

use comfy_table::{ContentArrangement, Table};

use crate::flow::record::{Endpoint, FlowRecord, NatEnd};

/// Bytes with a binary unit.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A duration given in microseconds.
pub fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        1_000_000..60_000_000 => format!("{:.1} s", us as f64 / 1e6),
        _ => {
            let seconds = us / 1_000_000;
            format!("{}h{:02}m{:02}s", seconds / 3600, seconds / 60 % 60, seconds % 60)
        }
    }
}

/// Address and port, with the name of who is there if it is known. In a cluster names stand in place of the address: of `dst` the
/// service that was asked, and the pod that answered.
pub fn end(end: &Endpoint, is_dst: bool) -> String {
    if let Some(name) = end.cluster_name() {
        let port = end.port.map(|port| format!(":{port}")).unwrap_or_default();
        return match (&end.namespace, &end.service, &end.pod) {
            (Some(namespace), Some(service), Some(pod)) if is_dst => {
                format!("{namespace}/{service}{port} ({pod})")
            }
            (_, None, None) => {
                let process = self::name(end).map(|name| format!(" ({name})")).unwrap_or_default();
                format!("{name}{port}{process}")
            }
            _ => format!("{name}{port}"),
        };
    }
    let address = address(end.ip, end.port);
    name(end).map_or(address.clone(), |name| format!("{address} ({name})"))
}

/// An address, with its port where there is one.
pub fn address(ip: IpAddr, port: Option<u16>) -> String {
    port.map_or_else(|| ip.to_string(), |port| SocketAddr::new(ip, port).to_string())
}

/// The shortest name that says who it is: service, process and its container. A scope or session says less than the process.
fn name(end: &Endpoint) -> Option<String> {
    let service = end.unit.as_ref().filter(|unit| unit.ends_with(".service"));
    if service.is_some() {
        return service.cloned();
    }
    // As much of an id as `docker ps` shows.
    let container = end.container.as_ref().map(|id| id.chars().take(12).collect::<String>());
    match (&end.process, container) {
        (Some(process), Some(container)) => Some(format!("{process} in {container}")),
        (process, container) => process.clone().or(container).or_else(|| end.unit.clone()),
    }
}

/// State, and why it failed.
pub fn state(record: &FlowRecord) -> String {
    match record.reason {
        Some(reason) => format!("{} {}", record.status.name(), reason.name()),
        None => record.state.name().into(),
    }
}

/// Application protocol; a guess has a question mark.
pub fn app(record: &FlowRecord) -> String {
    match (&record.app_protocol, &record.app_guess) {
        (Some(app), _) => match record.tls.as_ref().and_then(|tls| tls.version.as_ref()) {
            Some(version) => format!("{app} {version}"),
            None => app.clone(),
        },
        (None, Some(guess)) => format!("{guess}?"),
        (None, None) => String::new(),
    }
}

/// An empty table that fits the terminal.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header.to_vec());
    if terminal_width().is_some() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

/// Characters in a line of the terminal, if that is what answers go to.
fn terminal_width() -> Option<usize> {
    Table::new().width().map(usize::from)
}

/// Interfaces, and the tunnel that it was seen in.
pub fn via(record: &FlowRecord) -> String {
    let interfaces = record.interfaces.join(",");
    match record.tunnel {
        Some(tunnel) => format!("{interfaces} ({} {})", tunnel.kind.name(), tunnel.vni),
        None => interfaces,
    }
}

/// What the ends are called on the other side of a translation (NAT).
fn nat(record: &FlowRecord) -> String {
    let Some(nat) = &record.nat else { return String::new() };
    let told = |word: &str, end: &Option<NatEnd>| {
        end.as_ref().map(|end| format!("{word} {}", address(end.ip, end.port)))
    };
    let both = [told("from", &nat.src), told("to", &nat.dst)];
    both.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// The server that a TLS client asks for.
fn server_name(record: &FlowRecord) -> String {
    record.tls.as_ref().and_then(|tls| tls.sni.clone()).unwrap_or_default()
}

/// A table of flows. What few flows have is a column only if one of them has it.
#[derive(Debug, Default)]
pub struct Flows {
    rows: Vec<[String; 12]>,
}

impl Flows {
    /// One more.
    pub fn add(&mut self, record: &FlowRecord) {
        let [protocol, app, src, dst, state, direction, sent, received, lasted, via] = flow_cells(record);
        let (nat, server) = (nat(record), server_name(record));
        self.rows.push([protocol, app, server, src, dst, nat, state, direction, sent, received, lasted, via]);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// None yet.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table.
    pub fn table(self) -> Table {
        let columns = self.columns(terminal_width().unwrap_or(usize::MAX));
        let mut table = table(&columns.iter().map(|column| FLOW_TITLES[*column]).collect::<Vec<_>>());
        for row in self.rows {
            table.add_row(columns.iter().map(|column| &row[*column]));
        }
        table
    }

    /// Those that tell something, and have room within so many characters.
    fn columns(&self, room: usize) -> Vec<usize> {
        let longest =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let rare = |column: usize| ["SERVER NAME", "NAT"].contains(&FLOW_TITLES[column]);
        let mut columns: Vec<usize> =
            (0..FLOW_TITLES.len()).filter(|column| !rare(*column) || longest(*column) > 0).collect();
        for title in GIVE_WAY {
            // A space on either side.
            let width = |column: &usize| longest(*column).max(FLOW_TITLES[*column].len()) + 2;
            if columns.iter().map(width).sum::<usize>() <= room {
                break;
            }
            columns.retain(|column| FLOW_TITLES[*column] != title);
        }
        columns
    }
}

/// Columns that give way where a terminal is too narrow for all, the first one first: rather none than one of single letters.
const GIVE_WAY: [&str; 4] = ["INTERFACES", "DIRECTION", "LASTED", "APP"];

/// The cells of a flow that are always shown.
pub fn flow_cells(record: &FlowRecord) -> [String; 10] {
    [
        record.protocol.to_string(),
        app(record),
        end(&record.src, false),
        end(&record.dst, true),
        state(record),
        record.direction.name().into(),
        bytes(record.bytes_sent),
        bytes(record.bytes_received),
        duration(record.duration_us),
        via(record),
    ]
}

const FLOW_TITLES: [&str; 12] = [
    "PROTO",
    "APP",
    "SERVER NAME",
    "SOURCE",
    "DESTINATION",
    "NAT",
    "STATE",
    "DIRECTION",
    "SENT",
    "RECEIVED",
    "LASTED",
    "INTERFACES",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_has_the_name_that_says_most() {
        let mut here = Endpoint::bare([10, 0, 0, 1].into(), Some(80));
        let shown = |here: &Endpoint| end(here, false);
        assert_eq!(shown(&here), "10.0.0.1:80");
        (here.process, here.unit) = (Some("curl".into()), Some("session-3.scope".into()));
        assert_eq!(shown(&here), "10.0.0.1:80 (curl)");
        here.container = Some("0123456789abcdef".into());
        assert_eq!(shown(&here), "10.0.0.1:80 (curl in 0123456789ab)");
        here.unit = Some("nginx.service".into());
        assert_eq!(shown(&here), "10.0.0.1:80 (nginx.service)");
        here.node = Some("node-a".into());
        assert_eq!(shown(&here), "node-a:80 (nginx.service)");
        (here.namespace, here.service) = (Some("shop".into()), Some("web".into()));
        assert_eq!(shown(&here), "shop/web:80");
        here.pod = Some("web-0".into());
        assert_eq!(shown(&here), "shop/web-0:80");
        assert_eq!(end(&here, true), "shop/web:80 (web-0)");
    }

    #[test]
    fn columns_that_say_least_give_way_on_a_narrow_terminal() {
        let row = [
            "tcp",
            "tls",
            "",
            "10.0.0.1:40000",
            "10.0.0.2:443",
            "",
            "closed",
            "egress",
            "1 B",
            "2 B",
            "3 s",
            "e0",
        ];
        let flows = Flows { rows: vec![row.map(str::to_owned)] };
        let shown =
            |room| flows.columns(room).into_iter().map(|column| FLOW_TITLES[column]).collect::<Vec<_>>();
        assert_eq!((shown(200).len(), shown(97).len()), (10, 10));
        assert!(!shown(96).contains(&"INTERFACES") && shown(96).len() == 9);
        assert_eq!(shown(1), ["PROTO", "SOURCE", "DESTINATION", "STATE", "SENT", "RECEIVED"]);
    }

    #[test]
    fn numbers_are_told_in_fitting_units() {
        assert_eq!((bytes(0), bytes(1023), bytes(1536)), ("0 B".into(), "1023 B".into(), "1.5 KiB".into()));
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(
            (duration(7), duration(1_500), duration(2_500_000)),
            ("7 us".into(), "1.5 ms".into(), "2.5 s".into())
        );
        assert_eq!(duration(3_725_000_000), "1h02m05s");
    }
}
