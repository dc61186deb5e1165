//! A trace of packets over the control socket: what is asked for, and one JSON line a packet until it ends.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc};
use warp::Filter as _;
use warp::Rejection;
use warp::http::StatusCode;

use super::filter::BadParameter;
use super::server::{Asked, Chunk, Reply, error, json, streamed};
use super::source::Source;
use crate::clock::WallClock;
use crate::collector::trace::{Trace, TraceError};
use crate::flow::cidr::Cidr;
use crate::flow::key::Protocol;
use crate::flow::verdict::flag_letters;
use crate::kernel::stats::{Hook, Outcome};
use crate::kernel::trace::{Line, NotTold, Rule};

/// How often lines are read; the programs' queue holds more than come between.
const PAUSE: Duration = Duration::from_millis(50);
/// How often it is told how many are not shown.
const TELL: Duration = Duration::from_secs(1);
/// Lines of one chunk at most.
const LINES: usize = 512;
/// Chunks that may wait for a slow client; then lines wait in the queue, and are lost when that is full.
const CHUNKS: usize = 16;
/// Lines a second, without a word and at most.
const RATE: (u32, u32) = (100, 1000);
/// How long a trace lasts, without a word and at most.
const TIME: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));

/// A packet's header, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketRecord {
    /// When the kernel saw it.
    pub time: Timestamp,
    /// Interface.
    pub interface: String,
    /// Hook.
    pub hook: Hook,
    /// IP protocol, if it is known.
    pub protocol: Option<Protocol>,
    /// Source.
    pub src: Option<PacketEnd>,
    /// Destination.
    pub dst: Option<PacketEnd>,
    /// Letters of `FSRPAUEC`; TCP only.
    pub tcp_flags: Option<String>,
    /// ICMP and ICMPv6 only.
    pub icmp: Option<IcmpHeader>,
    /// On the wire, link header included.
    pub bytes: u32,
    /// More than one: a super-packet (GSO, GRO).
    pub packets: u32,
    /// Id of its flow.
    pub flow_id: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it is not IP or malformed.
    pub reason: Option<String>,
}

/// An end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketEnd {
    /// Address.
    pub ip: IpAddr,
    /// Port, where the protocol has one.
    pub port: Option<u16>,
}

/// Of an ICMP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IcmpHeader {
    /// Type (RFC 792, RFC 4443).
    pub r#type: u8,
    /// Code.
    pub code: u8,
    /// Identifier, of echoes.
    pub id: Option<u16>,
}

/// Packets that match and are not shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotShown {
    /// More came than lines a second are allowed.
    pub rate: u64,
    /// There was no room for their lines: the client is slow.
    pub lost: u64,
}

/// How a trace ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceEnd {
    /// `time`: its time was over; `off`: by `debug packet-trace off`; `stop`: the agent stops.
    pub why: String,
    /// Lines told.
    pub shown: u64,
    /// All that were not, since it began.
    pub not_shown: NotShown,
}

/// A line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Told {
    /// A packet.
    Packet(Box<PacketRecord>),
    /// Packets left out since the last such line.
    NotShown {
        /// How many.
        not_shown: NotShown,
    },
    /// The last line.
    End {
        /// Why, and the sums.
        end: TraceEnd,
    },
}

fn has_ports(protocol: Protocol) -> bool {
    [Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&protocol)
}

impl PacketRecord {
    fn of(line: &Line, clock: &WallClock, names: &HashMap<u32, String>) -> Self {
        // What is cut short has no ports, flags and types yet.
        let whole = line.outcome != Outcome::Malformed;
        let ports = line.ends.map_or([0; 2], |ends| ends.map(|end| end.port()));
        let ported = line.protocol.is_some_and(has_ports) && ports != [0; 2];
        let end = |end: SocketAddr| PacketEnd { ip: end.ip(), port: ported.then_some(end.port()) };
        let is_icmp = line.protocol.is_some_and(|p| p == Protocol::ICMP || p == Protocol::ICMPV6);
        let [r#type, code] = line.icmp;
        let id = (ports[0] != 0).then_some(ports[0]);
        Self {
            time: clock.utc(line.stamp_ns),
            interface: names.get(&line.interface).cloned().unwrap_or_else(|| format!("if{}", line.interface)),
            hook: line.hook,
            protocol: line.protocol,
            src: line.ends.map(|[src, _]| end(src)),
            dst: line.ends.map(|[_, dst]| end(dst)),
            tcp_flags: (whole && line.protocol == Some(Protocol::TCP)).then(|| flag_letters(line.tcp_flags)),
            icmp: (whole && is_icmp).then_some(IcmpHeader { r#type, code, id }),
            bytes: line.bytes,
            packets: line.packets,
            flow_id: line.flow.map(|id| format!("{id:016x}")),
            outcome: line.outcome,
            reason: line.reason.map(Into::into),
        }
    }
}

/// What a trace is asked for.
#[derive(Debug)]
struct Request {
    rule: Rule,
    time: Duration,
}

fn parse(pairs: &[(String, String)], interfaces: &HashMap<u32, String>) -> Result<Request, BadParameter> {
    let mut request = Request { rule: Rule { lines_per_second: RATE.0, ..Rule::default() }, time: TIME.0 };
    for (name, value) in pairs {
        let rule = &mut request.rule;
        let bad = |accepted| BadParameter { name: name.clone(), value: value.clone(), accepted };
        let same = || BadParameter::of(name, value);
        match name.as_str() {
            "protocol" => rule.protocol = Some(Protocol::parse(value).ok_or_else(same)?),
            "ip" | "cidr" if rule.network.is_some() => return Err(bad("an address or a network, once")),
            "ip" => rule.network = Some(Cidr::of(value.parse().map_err(|_| same())?)),
            "cidr" => rule.network = Some(Cidr::parse(value).ok_or_else(same)?),
            "port" => rule.port = Some(value.parse().map_err(|_| same())?),
            "interface" => {
                // A name may have been another's before: numbers go up.
                let named = interfaces.iter().filter(|(_, name)| *name == value).map(|(index, _)| *index);
                rule.interface = Some(named.max().ok_or_else(|| bad("the name of a watched interface"))?);
            }
            "outcome" => {
                let known = Outcome::ALL.into_iter().find(|outcome| outcome.name() == value);
                let all = "counted, duplicate, sampled_out, not_ip, malformed or overflow";
                rule.outcomes.push(known.ok_or_else(|| bad(all))?);
            }
            "rate" => {
                let rate = value.parse().ok().filter(|rate| (1..=RATE.1).contains(rate));
                rule.lines_per_second = rate.ok_or_else(|| bad("lines a second, from 1 to 1000"))?;
            }
            "for" => {
                let time =
                    value.parse::<SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
                let time = time.filter(|time| (Duration::from_secs(1)..=TIME.1).contains(time));
                request.time = time.ok_or_else(|| bad("a time from 1s to 10m"))?;
            }
            _ => return Err(bad("no such parameter")),
        }
    }
    Ok(request)
}

/// Starts a trace and ends it for all.
pub(super) fn routes<S: Source>(
    asked: Asked<S>,
    over: broadcast::Sender<()>,
) -> impl warp::Filter<Extract = (Reply,), Error = Rejection> + Clone + Send + Sync + 'static {
    let given = warp::any().map(move || asked.clone());
    let on = warp::get()
        .and(warp::path!("v1" / "packets"))
        .and(warp::query::<Vec<(String, String)>>())
        .and(given.clone())
        .then(move |pairs: Vec<(String, String)>, asked: Asked<S>| {
            let over = over.subscribe();
            asked.answer(move |source| begin(Arc::clone(source), &pairs, over))
        });
    let off = warp::post().and(warp::path!("v1" / "packets" / "off")).and(given).then(
        |asked: Asked<S>| async move {
            let collector = asked.source.collector();
            let end = |source: &Arc<S>| {
                json(StatusCode::OK, &serde_json::json!({ "ended": source.collector().end_trace() }))
            };
            let reply = asked.answer(end).await;
            // Whoever reads it lets go of it within a moment: then the next may begin.
            for _ in 0..40 {
                if !collector.is_tracing() {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            reply
        },
    );
    on.or(off).unify()
}

fn begin<S: Source>(source: Arc<S>, pairs: &[(String, String)], over: broadcast::Receiver<()>) -> Reply {
    let collector = source.collector();
    let request = match parse(pairs, &collector.interface_names()) {
        Ok(request) => request,
        Err(bad) => return error(StatusCode::BAD_REQUEST, &bad.to_string()),
    };
    let trace = match collector.trace(&request.rule, request.time) {
        Ok(trace) => trace,
        Err(busy @ TraceError::Busy) => return error(StatusCode::CONFLICT, &busy.to_string()),
        Err(failed) => return error(StatusCode::INTERNAL_SERVER_ERROR, &failed.to_string()),
    };
    let shown: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    tracing::info!(seconds = request.time.as_secs(), filter = shown.join(" "), "packet-trace is on");
    let (chunks, body) = mpsc::channel(CHUNKS);
    tokio::task::spawn_blocking(move || {
        let why = Reader {
            source,
            trace,
            chunks,
            clock: WallClock::now(),
            waiting: Vec::new(),
            shown: 0,
            told: NotTold::default(),
        }
        .run(request.time, over);
        tracing::info!(why, "packet-trace is off");
    });
    streamed(body)
}

/// Carries lines from the programs to the client.
struct Reader<S> {
    source: Arc<S>,
    trace: Trace,
    chunks: mpsc::Sender<Chunk>,
    /// Kept, so that equal times stay equal.
    clock: WallClock,
    /// Text that the client has not taken yet.
    waiting: Vec<u8>,
    shown: u64,
    /// What has been told of what is not shown.
    told: NotTold,
}

impl<S: Source> Reader<S> {
    /// Until the client has gone, the time is over, or somebody ends it; says which.
    fn run(mut self, time: Duration, mut over: broadcast::Receiver<()>) -> &'static str {
        let began = Instant::now();
        let mut last = began;
        let why = loop {
            std::thread::sleep(PAUSE);
            if self.chunks.is_closed() {
                return "the client has gone";
            }
            self.read();
            if last.elapsed() >= TELL {
                self.tell_not_shown();
                last = Instant::now();
            }
            self.send();
            if self.trace.is_ended() {
                break "off";
            }
            if began.elapsed() >= time {
                break "time";
            }
            if !matches!(over.try_recv(), Err(broadcast::error::TryRecvError::Empty)) {
                break "stop";
            }
        };
        self.trace.hush();
        // Packets that have seen the programs on are told within this time.
        std::thread::sleep(PAUSE);
        self.read();
        self.tell_not_shown();
        let NotTold { rate, lost } = self.told;
        let end = TraceEnd { why: why.into(), shown: self.shown, not_shown: NotShown { rate, lost } };
        self.put(&Told::End { end });
        for _ in 0..20 {
            self.send();
            if self.waiting.is_empty() || self.chunks.is_closed() {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        why
    }

    /// Takes what waits in the queue, unless the client has not taken what came before.
    fn read(&mut self) {
        if !self.waiting.is_empty() {
            return;
        }
        self.clock = self.clock.unless_moved(WallClock::now());
        let clock = self.clock;
        let names = self.source.collector().interface_names();
        for _ in 0..LINES {
            let Some(line) = self.trace.next_line() else { break };
            self.shown += 1;
            self.put(&Told::Packet(Box::new(PacketRecord::of(&line, &clock, &names))));
        }
    }

    fn tell_not_shown(&mut self) {
        let now = self.trace.not_told();
        let not_shown = NotShown {
            rate: now.rate.saturating_sub(self.told.rate),
            lost: now.lost.saturating_sub(self.told.lost),
        };
        if not_shown != NotShown::default() {
            self.told = now;
            self.put(&Told::NotShown { not_shown });
        }
    }

    fn put(&mut self, told: &Told) {
        if serde_json::to_writer(&mut self.waiting, told).is_ok() {
            self.waiting.push(b'\n');
        }
    }

    fn send(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        // Without room it waits; what a second adds to it is a short line.
        if let Ok(room) = self.chunks.try_reserve() {
            room.send(Ok(std::mem::take(&mut self.waiting).into()));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_parameter_takes_what_it_says_and_refuses_the_rest() {
        let interfaces = HashMap::from([(3, "eth0".to_owned()), (7, "eth0".to_owned())]);
        let ask = |name: &str, value: &str| parse(&[(name.into(), value.into())], &interfaces);
        assert_eq!(ask("protocol", "tcp").unwrap().rule.protocol, Some(Protocol::TCP));
        assert_eq!(ask("ip", "fd00::1").unwrap().rule.network, Cidr::parse("fd00::1/128"));
        assert_eq!(ask("cidr", "10.0.0.0/8").unwrap().rule.network, Cidr::parse("10.0.0.0/8"));
        assert_eq!(ask("port", "53").unwrap().rule.port, Some(53));
        assert_eq!(ask("interface", "eth0").unwrap().rule.interface, Some(7));
        assert_eq!(ask("outcome", "malformed").unwrap().rule.outcomes, [Outcome::Malformed]);
        assert_eq!(ask("rate", "1000").unwrap().rule.lines_per_second, 1000);
        assert_eq!(ask("for", "10m").unwrap().time, Duration::from_secs(600));
        for (name, value) in [
            ("protocol", "carrier-pigeon"),
            ("ip", "10.0.0"),
            ("cidr", "10.0.0.0/33"),
            ("port", "65536"),
            ("interface", "eth1"),
            ("outcome", "lost"),
            ("rate", "0"),
            ("rate", "1001"),
            ("for", "500ms"),
            ("for", "11m"),
            ("for", "-5s"),
            ("colour", "red"),
        ] {
            let error = ask(name, value).unwrap_err();
            assert_eq!((error.name.as_str(), error.value.as_str()), (name, value));
        }
        let twice = [("ip".to_owned(), "10.0.0.1".to_owned()), ("cidr".to_owned(), "10.0.0.0/8".to_owned())];
        assert_eq!(parse(&twice, &interfaces).unwrap_err().name, "cidr");
    }
}
