//! UDP over many flows.

use std::io::IoSlice;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::addr::SocketAddrArg;
use rustix::net::{
    AddressFamily, MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, SocketType, bind, sendmmsg, socket,
};

use super::namespaces::{Pair, enter};
use super::truth::{Flow, Truth};
use super::{CLIENT, NOWHERE};

/// Datagrams handed over at once.
const BATCH: usize = 64;
/// Source ports; flows beyond that differ in the destination port.
const SOURCES: u64 = 1024;
const FIRST_SOURCE: u16 = 20_000;
const FIRST_DESTINATION: u16 = 1000;

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// 5-tuples.
    pub flows: u64,
    /// Datagrams; 0 = no bound.
    pub packets: u64,
    /// Datagrams a second; 0 = no bound.
    pub rate: u64,
    /// Payload bytes of each.
    pub bytes: usize,
}

/// A step that visits every flow once before any twice, far from the last one each time.
fn stride(flows: u64) -> u64 {
    let common = |mut a: u64, mut b: u64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let start = (flows as f64 * 0.618) as u64 | 1;
    (start..).find(|step| common(*step, flows) == 1).unwrap_or(1)
}

/// Sends.
pub fn run(pair: &Pair, time: Duration, per_flow: bool, plan: &Plan) -> Result<Truth> {
    enter(&pair.client)?;
    let flows = plan.flows.clamp(1, SOURCES * 60_000);
    let sources = flows.min(SOURCES);
    let ports = flows.div_ceil(sources);
    let sockets = (0..sources)
        .map(|n| {
            let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
            bind(&socket, &SocketAddrV4::new(CLIENT, FIRST_SOURCE + n as u16))?;
            Ok(socket)
        })
        .collect::<rustix::io::Result<Vec<_>>>()
        .context("cannot open the sending sockets (ulimit -n?)")?;
    let destinations: Vec<SocketAddrAny> =
        (0..ports).map(|n| SocketAddr::from((NOWHERE, FIRST_DESTINATION + n as u16)).as_any()).collect();
    let payload = vec![b'n'; plan.bytes];
    let mut sent = vec![0u32; usize::try_from(flows)?];
    // A batch goes out of one socket, to destinations far apart; the next batch takes the next socket.
    let step = stride(ports);
    let mut next = vec![0u64; usize::try_from(sources)?];
    let (mut total, mut turn) = (0u64, 0usize);
    let began = Instant::now();
    let limit = if plan.packets == 0 { u64::MAX } else { plan.packets };
    while total < limit && began.elapsed() < time {
        if plan.rate > 0 {
            let due = (began.elapsed().as_secs_f64() * plan.rate as f64) as u64;
            if total >= due {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            }
        }
        let source = turn % sockets.len();
        turn += 1;
        let room = (limit - total).min(BATCH as u64).min(ports) as usize;
        let mut flow_of = [0usize; BATCH];
        let slices = [IoSlice::new(&payload)];
        let mut controls: [SendAncillaryBuffer<'_, '_, '_>; BATCH] =
            std::array::from_fn(|_| Default::default());
        let mut messages = Vec::with_capacity(room);
        for (place, control) in flow_of.iter_mut().zip(&mut controls).take(room) {
            let mut destination = next[source];
            // The last port has fewer flows than sources.
            while destination * sources + source as u64 >= flows {
                destination = (destination + step) % ports;
            }
            next[source] = (destination + step) % ports;
            *place = usize::try_from(destination * sources + source as u64)?;
            messages.push(MMsgHdr::new_with_addr(
                &destinations[usize::try_from(destination)?],
                &slices,
                control,
            ));
        }
        let done = match sendmmsg(&sockets[source], &mut messages, SendFlags::empty()) {
            Ok(done) => done,
            Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::AGAIN) => 0,
            Err(error) => return Err(error).context("cannot send"),
        };
        total += done as u64;
        for flow in &flow_of[..done] {
            sent[*flow] += 1;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let listed = |(flow, count): (usize, &u32)| Flow {
        protocol: "udp",
        src_port: FIRST_SOURCE + (flow as u64 % sources) as u16,
        dst: NOWHERE,
        dst_port: FIRST_DESTINATION + (flow as u64 / sources) as u16,
        packets: u64::from(*count),
        sent: u64::from(*count) * plan.bytes as u64,
        received: 0,
        ok: true,
    };
    let used = sent.iter().enumerate().filter(|(_, count)| **count > 0);
    Ok(Truth {
        seconds,
        datagrams: total,
        sent: total * plan.bytes as u64,
        flow_count: used.clone().count() as u64,
        flows: if per_flow { used.map(listed).collect() } else { Vec::new() },
        ..Truth::default()
    })
}
