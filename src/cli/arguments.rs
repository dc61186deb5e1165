//! The command line of `netmon-cli`.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};

use crate::api::status::Status;

/// How answers are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Table,
    /// One JSON document.
    Json,
    /// One JSON document a line.
    Ndjson,
}

/// Heads the options that every command has.
const EVERYWHERE: &str = "Options of every command";
/// What [`Output`] is called.
pub const FORMATS: [&str; 3] = ["table", "json", "ndjson"];

/// Talks to the running netmon agent.
#[derive(Clone, Debug, Parser)]
#[command(name = "netmon-cli", version)]
pub struct Arguments {
    /// Control socket of the agent
    #[arg(
        long,
        global = true,
        help_heading = EVERYWHERE,
        env = "NETMON_SOCKET",
        default_value = "/run/netmon/netmon.sock",
        value_name = "PATH"
    )]
    pub socket: PathBuf,
    // Text, since `support bundle --output FILE` is of the same name, and clap hands one on to the other.
    /// How answers are shown
    #[arg(
        long,
        short,
        global = true,
        help_heading = EVERYWHERE,
        default_value = "table",
        value_name = "FORMAT",
        value_parser = PossibleValuesParser::new(FORMATS)
    )]
    output: String,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// How answers are shown.
    pub fn output(&self) -> Output {
        match self.output.as_str() {
            "json" => Output::Json,
            "ndjson" => Output::Ndjson,
            _ => Output::Table,
        }
    }
}

/// Commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// The agent: interfaces and how each is attached, table fill, losses, the books
    Status,
    /// The flow table
    #[command(subcommand)]
    Flows(Flows),
    /// Counts
    #[command(subcommand)]
    Stats(Stats),
    /// The configuration of the running agent
    #[command(subcommand)]
    Config(Config),
    /// A closer look at the running agent
    #[command(subcommand)]
    Debug(Debug),
    /// Signs of attack, newest first
    Alerts,
    /// Packets that this host's kernel dropped, and what its reasons mean
    Drops,
    /// What happened between two ends, in one sentence, and the evidence
    Why {
        /// The side that connects: an address, a name, or NAMESPACE/NAME of a pod, service or workload
        src: String,
        /// The other side: the same, with or without :PORT
        #[arg(value_name = "DST[:PORT]")]
        dst: String,
    },
    /// What is wrong on this host and how to mend it; exit status 1 when something fails. Needs no agent
    Doctor(Setup),
    /// What works fully on this system and what falls back to what; exit status 3 when it can't run the agent. Needs no agent
    CheckSystem(Setup),
    /// What a report of a fault needs
    #[command(subcommand)]
    Support(Support),
    /// The same as `support bundle`
    #[command(hide = true)]
    SupportBundle(Bundle),
    /// Prints shell completions: put them where your shell looks for them
    Completions {
        /// Shell
        shell: clap_complete::Shell,
        /// Which program's
        #[arg(long, default_value = "netmon-cli", value_parser = PossibleValuesParser::new(["netmon", "netmon-cli"]))]
        program: String,
    },
    /// Writes man pages of both programs
    Man {
        /// Folder, which must be there
        folder: PathBuf,
    },
}

impl Command {
    /// Whether it goes on until somebody ends it: Ctrl-C is then how it is done.
    pub fn goes_on(&self) -> bool {
        match self {
            Self::Flows(Flows::Dump(dump)) => dump.follow,
            Self::Debug(debug) => matches!(debug, Debug::PacketTrace(PacketTrace::On(_))),
            _ => false,
        }
    }
}

/// What to examine.
#[derive(Clone, Debug, Args)]
pub struct Setup {
    /// Configuration file of the agent; default: the one that the running agent has
    #[arg(long, value_name = "FILE", env = "NETMON_CONFIG")]
    pub config: Option<PathBuf>,
    /// For a kernel without BTF: a file with its types; default: the one that the running agent has
    #[arg(long, value_name = "FILE", env = "NETMON_BTF")]
    pub btf: Option<PathBuf>,
}

impl Setup {
    /// What is not given is as the running agent has it, if one answers.
    pub fn or_of(self, agent: Option<&Status>) -> Self {
        let of_agent = |pick: fn(&Status) -> &Option<String>| agent.and_then(|agent| pick(agent).clone());
        Self {
            config: self.config.or_else(|| of_agent(|status| &status.config_file).map(PathBuf::from)),
            btf: self.btf.or_else(|| of_agent(|status| &status.btf_file).map(PathBuf::from)),
        }
    }
}

/// `support ...`
#[derive(Clone, Debug, Subcommand)]
pub enum Support {
    /// Writes an archive: versions, configuration without secrets, status, metrics, logs, the verifier's words, attached programs. Its
    /// first file says what is in it
    Bundle(Bundle),
}

/// What a support bundle is to be.
#[derive(Clone, Debug, Args)]
pub struct Bundle {
    /// Archive to write; must not be there yet
    #[arg(long, short, value_name = "FILE.tar.gz", default_value = "netmon-support.tar.gz")]
    pub output: String,
    /// Replace IP and Ethernet addresses by numbers, the same address by the same number
    #[arg(long)]
    pub redact_addresses: bool,
    /// What to examine
    #[command(flatten)]
    pub setup: Setup,
}

/// `flows ...`
#[derive(Clone, Debug, Subcommand)]
pub enum Flows {
    /// Shows flows
    #[command(alias = "list")]
    Dump(Box<Dump>),
}

/// `stats ...`
#[derive(Clone, Debug, Subcommand)]
pub enum Stats {
    /// Flows by protocol, state and direction; top talkers; memory per flow
    Flows,
    /// DNS queries by type, responses by rcode, and how long they took
    Dns,
    /// HTTP/1 responses by server and class, and how long they took
    Http,
}

/// `config ...`
#[derive(Clone, Debug, Subcommand)]
pub enum Config {
    /// Every key: its value, where that came from, and whether a change needs a restart
    Show,
    /// The value of one key
    Get {
        /// Path, like flow.flow_timeout
        key: String,
    },
    /// Changes keys of the running agent until it restarts: all of them or none
    Set {
        /// Path and value, like flow.flow_timeout=60s
        #[arg(required = true, value_name = "KEY=VALUE")]
        pairs: Vec<String>,
    },
    /// Checks a file, without an agent
    Validate {
        /// Configuration file (YAML)
        #[arg(env = "NETMON_CONFIG", default_value = "/etc/netmon/netmon.yaml")]
        file: PathBuf,
    },
    /// Reads the file again and takes it over: the whole of it or nothing
    Reload,
}

/// `debug ...`
#[derive(Clone, Debug, Subcommand)]
pub enum Debug {
    /// Raises the log level to trace, and brings back what is configured
    #[command(subcommand)]
    Trace(Switch),
    /// A line for each packet's header, never what it carries: interface, hook, flow, outcome
    #[command(subcommand)]
    PacketTrace(PacketTrace),
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Switch {
    /// Until the agent restarts
    On,
    /// As it was before
    Off,
}

/// `debug packet-trace ...`
#[derive(Clone, Debug, Subcommand)]
pub enum PacketTrace {
    /// Shows packets until the time is over or this command ends
    On(Box<Packets>),
    /// Ends the trace, whoever began it
    Off,
}

/// Which packets a trace shows. All that are given must match; what does not match costs no line.
#[derive(Clone, Debug, Args)]
pub struct Packets {
    /// tcp, udp, icmp, ... or a protocol number
    #[arg(long)]
    pub protocol: Option<String>,
    /// Either end's address
    #[arg(long, conflicts_with = "cidr")]
    pub ip: Option<String>,
    /// Either end's network
    #[arg(long)]
    pub cidr: Option<String>,
    /// Either end's port (TCP, UDP, SCTP)
    #[arg(long)]
    pub port: Option<String>,
    /// The interface that it passes
    #[arg(long)]
    pub interface: Option<String>,
    /// counted, duplicate, sampled_out, not_ip, malformed or overflow; several: any of them
    #[arg(long, value_delimiter = ',')]
    pub outcome: Vec<String>,
    /// Lines a second at most, up to 1000; how many more there were is told
    #[arg(long, default_value = "100", value_name = "LINES")]
    pub rate: String,
    /// For how long, up to 10m
    #[arg(long = "for", default_value = "30s", value_name = "TIME")]
    pub time: String,
}

/// Those that have a value, as query pairs.
fn given(all: &[(&str, &Option<String>)]) -> impl Iterator<Item = (String, String)> {
    all.iter().filter_map(|(name, value)| Some(((*name).to_owned(), (*value).clone()?)))
}

impl Packets {
    /// As query pairs.
    pub fn query(&self) -> Vec<(String, String)> {
        let texts = [
            ("protocol", &self.protocol),
            ("ip", &self.ip),
            ("cidr", &self.cidr),
            ("port", &self.port),
            ("interface", &self.interface),
        ];
        let outcomes = self.outcome.iter().map(|outcome| ("outcome", outcome));
        let bounds = [("rate", &self.rate), ("for", &self.time)];
        let more = outcomes.chain(bounds).map(|(name, value)| (name.to_owned(), value.clone()));
        given(&texts).chain(more).collect()
    }
}

/// Filters of a dump. All that are given must match.
#[derive(Clone, Debug, Args)]
pub struct Dump {
    /// tcp, udp, icmp, ... or a protocol number
    #[arg(long)]
    pub protocol: Option<String>,
    /// Either end's address
    #[arg(long)]
    pub ip: Option<String>,
    /// Either end's network
    #[arg(long)]
    pub cidr: Option<String>,
    /// Either end's port
    #[arg(long)]
    pub port: Option<String>,
    /// Either end's pod, as namespace/name
    #[arg(long)]
    pub pod: Option<String>,
    /// Either end's Kubernetes namespace
    #[arg(long)]
    pub namespace: Option<String>,
    /// Either end's workload, or namespace/workload
    #[arg(long)]
    pub workload: Option<String>,
    /// Either end's service, or namespace/service
    #[arg(long)]
    pub service: Option<String>,
    /// Either end's systemd unit
    #[arg(long)]
    pub unit: Option<String>,
    /// Either end's process: its name or id
    #[arg(long)]
    pub process: Option<String>,
    /// Either end's container: its name or the beginning of its id
    #[arg(long)]
    pub container: Option<String>,
    /// active, ok or failed
    #[arg(long)]
    pub status: Option<String>,
    /// refused, reset, timeout, unreachable or prohibited
    #[arg(long)]
    pub reason: Option<String>,
    /// Virtual network (VNI) of the tunnel that it was seen in
    #[arg(long)]
    pub vni: Option<String>,
    /// Application protocol
    #[arg(long)]
    pub app: Option<String>,
    /// An interface that saw it
    #[arg(long)]
    pub interface: Option<String>,
    /// Last packet no older than this (5m, 1h), or not before this time
    #[arg(long)]
    pub since: Option<String>,
    /// At most so many flows; a table shows 50 unless this says otherwise
    #[arg(long)]
    pub limit: Option<usize>,
    /// bytes, packets, start or duration; largest first, and no more than 100000
    #[arg(long)]
    pub sort: Option<String>,
    /// Flows that have ended lately, too
    #[arg(long)]
    pub ended: bool,
    /// Go on with each update
    #[arg(long, short)]
    pub follow: bool,
}

impl Dump {
    /// As query pairs.
    pub fn query(&self) -> Vec<(String, String)> {
        let texts = [
            ("protocol", &self.protocol),
            ("ip", &self.ip),
            ("cidr", &self.cidr),
            ("port", &self.port),
            ("pod", &self.pod),
            ("namespace", &self.namespace),
            ("workload", &self.workload),
            ("service", &self.service),
            ("unit", &self.unit),
            ("process", &self.process),
            ("container", &self.container),
            ("status", &self.status),
            ("reason", &self.reason),
            ("vni", &self.vni),
            ("app", &self.app),
            ("interface", &self.interface),
            ("since", &self.since),
            ("sort", &self.sort),
        ];
        let mut query: Vec<(String, String)> = given(&texts).collect();
        if let Some(limit) = self.limit {
            query.push(("limit".into(), limit.to_string()));
        }
        // A failed flow ends soon after it has failed: whoever asks for one means those as well.
        if self.ended || self.status.as_deref().is_some_and(|s| s != "active") || self.reason.is_some() {
            query.push(("ended".into(), "true".into()));
        }
        if self.follow {
            query.push(("follow".into(), "true".into()));
        }
        query
    }
}
