//! TCP connections: one thread of clients, one of the server, both driven by epoll.

use std::net::SocketAddrV4;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, bind, connect, getsockname,
    listen, recv, send, socket_with, sockopt,
};

use super::namespaces::{Pair, enter};
use super::truth::{Flow, Truth};
use super::{CLOSED_PORT, Failure, NOWHERE, PORT, SERVER};

/// Ports of the server; a client has 64 000 ports for each.
const PORTS: u16 = 32;
/// An attempt without an answer is given up after this.
const PATIENCE: Duration = Duration::from_millis(200);
const CHUNK: usize = 64 * 1024;
/// Marks a listening socket in an event.
const LISTENER: u64 = 1 << 32;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Connections a second; 0 = no bound.
    pub rate: u64,
    /// Connections in all; 0 = no bound.
    pub count: u64,
    /// At once.
    pub concurrency: usize,
    /// Bytes of request and answer.
    pub bytes: usize,
    /// Stay open until the time is over.
    pub keep: bool,
    /// Send as much as goes, without answers.
    pub stream: bool,
    /// Fail.
    pub failure: Option<Failure>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { rate: 0, count: 0, concurrency: 64, bytes: 128, keep: false, stream: false, failure: None }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}

/// Things with small numbers, which are used again.
struct Slab<T> {
    items: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Slab<T> {
    fn new() -> Self {
        Self { items: Vec::new(), free: Vec::new() }
    }

    fn insert(&mut self, item: T) -> usize {
        match self.free.pop() {
            Some(number) => {
                self.items[number] = Some(item);
                number
            }
            None => {
                self.items.push(Some(item));
                self.items.len() - 1
            }
        }
    }

    fn remove(&mut self, number: usize) -> Option<T> {
        let item = self.items.get_mut(number)?.take();
        self.free.extend(item.is_some().then_some(number));
        item
    }
}

/// Accepts, answers every `bytes` with as many (a stream: with nothing), closes when the client does.
fn serve(plan: Plan, ready: &std::sync::mpsc::SyncSender<Result<()>>, over: &AtomicBool) -> Result<()> {
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut listeners = Vec::new();
    for port in 0..PORTS {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let listener = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        sockopt::set_socket_reuseaddr(&listener, true)?;
        bind(&listener, &SocketAddrV4::new(SERVER, PORT + port))
            .context("cannot listen on the server's ports")?;
        listen(&listener, 65_535)?;
        epoll::add(&poll, &listener, EventData::new_u64(LISTENER | u64::from(port)), EventFlags::IN)?;
        listeners.push(listener);
    }
    let _ = ready.send(Ok(()));
    let mut connections: Slab<(OwnedFd, usize)> = Slab::new();
    let mut buffer = vec![0u8; CHUNK];
    let answer = vec![b'a'; plan.bytes];
    let mut events: Vec<Event> = Vec::with_capacity(1024);
    while !over.load(Ordering::Acquire) {
        events.clear();
        let timeout = timespec(Duration::from_millis(50));
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for clients"),
        }
        for event in &events {
            let data = event.data.u64();
            if data & LISTENER != 0 {
                let listener = &listeners[(data & !LISTENER) as usize];
                while let Ok(connection) = accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
                {
                    let number = connections.insert((connection, 0));
                    if let Some(Some((connection, _))) = connections.items.get(number) {
                        epoll::add(&poll, connection, EventData::new_u64(number as u64), EventFlags::IN)?;
                    }
                }
                continue;
            }
            let number = data as usize;
            let Some(Some((connection, had))) = connections.items.get_mut(number) else { continue };
            match recv(&*connection, &mut buffer[..], RecvFlags::empty()) {
                Ok((0, _)) => drop(connections.remove(number)),
                Ok((count, _)) if !plan.stream => {
                    *had += count;
                    while *had >= plan.bytes {
                        *had -= plan.bytes;
                        // So little always finds room in the socket's buffer.
                        let _ = send(&*connection, &answer, SendFlags::NOSIGNAL);
                    }
                }
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => drop(connections.remove(number)),
            }
        }
    }
    Ok(())
}

struct Connection {
    socket: OwnedFd,
    since: Instant,
    flow: Flow,
    open: bool,
}

struct Client {
    plan: Plan,
    per_flow: bool,
    poll: OwnedFd,
    connections: Slab<Connection>,
    live: usize,
    truth: Truth,
    /// Microseconds; every 16th connection.
    latencies: Vec<u32>,
    buffer: Vec<u8>,
}

impl Client {
    fn begin(&mut self) -> Result<()> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
            .context("cannot open a socket (ulimit -n?)")?;
        let (dst, dst_port) = match self.plan.failure {
            None => (SERVER, PORT + (self.truth.attempted % u64::from(PORTS)) as u16),
            Some(Failure::Refused) => (SERVER, CLOSED_PORT),
            Some(Failure::Timeout) => (NOWHERE, PORT),
        };
        self.truth.attempted += 1;
        let connecting = connect(&socket, &SocketAddrV4::new(dst, dst_port));
        let src_port = if self.per_flow {
            SocketAddrV4::try_from(getsockname(&socket)?).map_or(0, |address| address.port())
        } else {
            0
        };
        let flow =
            Flow { protocol: "tcp", src_port, dst, dst_port, packets: 0, sent: 0, received: 0, ok: false };
        match connecting {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(_) => {
                self.finish(&flow);
                return Ok(());
            }
        }
        let number = self.connections.insert(Connection { socket, since: Instant::now(), flow, open: false });
        self.live += 1;
        if let Some(Some(connection)) = self.connections.items.get(number) {
            epoll::add(&self.poll, &connection.socket, EventData::new_u64(number as u64), EventFlags::OUT)?;
        }
        Ok(())
    }

    fn finish(&mut self, flow: &Flow) {
        if !flow.ok {
            self.truth.failed += 1;
        }
        self.truth.sent += flow.sent;
        self.truth.received += flow.received;
        if self.per_flow {
            self.truth.flows.push(*flow);
        }
    }

    fn end(&mut self, number: usize, ok: bool) {
        if let Some(connection) = self.connections.remove(number) {
            self.live -= 1;
            if ok && self.truth.attempted.is_multiple_of(16) {
                self.latencies
                    .push(u32::try_from(connection.since.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            self.finish(&Flow { ok, ..connection.flow });
        }
    }

    /// Goes on with a connection that has something to say.
    fn advance(&mut self, number: usize) -> Result<()> {
        let plan = self.plan;
        let Some(Some(connection)) = self.connections.items.get_mut(number) else { return Ok(()) };
        if !connection.open {
            if !matches!(sockopt::socket_error(&connection.socket), Ok(Ok(()))) {
                self.end(number, false);
                return Ok(());
            }
            connection.open = true;
            self.truth.opened += 1;
            let wanted = if plan.stream { EventFlags::OUT } else { EventFlags::IN };
            epoll::modify(&self.poll, connection.socket.as_fd(), EventData::new_u64(number as u64), wanted)?;
            if !plan.stream {
                if let Ok(count) = send(&connection.socket, &self.buffer[..plan.bytes], SendFlags::NOSIGNAL) {
                    connection.flow.sent += count as u64;
                }
                return Ok(());
            }
        }
        if plan.stream {
            if let Ok(count) = send(&connection.socket, &self.buffer, SendFlags::NOSIGNAL) {
                connection.flow.sent += count as u64;
            }
            return Ok(());
        }
        match recv(&connection.socket, &mut self.buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => self.end(number, false),
            Ok((count, _)) => {
                connection.flow.received += count as u64;
                if connection.flow.received >= plan.bytes as u64 && !plan.keep {
                    self.end(number, true);
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.end(number, false),
        }
        Ok(())
    }

    fn run(&mut self, time: Duration) -> Result<()> {
        let plan = self.plan;
        let began = Instant::now();
        let mut last_word = began;
        let mut events: Vec<Event> = Vec::with_capacity(1024);
        let count = if plan.count == 0 { u64::MAX } else { plan.count };
        while began.elapsed() < time {
            let due = if plan.rate == 0 {
                u64::MAX
            } else {
                1 + (began.elapsed().as_secs_f64() * plan.rate as f64) as u64
            };
            let mut burst = 0;
            while self.live < plan.concurrency && self.truth.attempted < due.min(count) && burst < 256 {
                self.begin()?;
                burst += 1;
            }
            if self.live == 0 && self.truth.attempted >= count {
                break;
            }
            events.clear();
            let timeout = timespec(Duration::from_micros(if burst == 256 { 0 } else { 500 }));
            match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("wait for the server"),
            }
            for event in &events {
                self.advance(event.data.u64() as usize)?;
            }
            if plan.failure == Some(Failure::Timeout) {
                let late = |c: &Option<Connection>| c.as_ref().is_some_and(|c| c.since.elapsed() > PATIENCE);
                let late: Vec<usize> = (0..self.connections.items.len())
                    .filter(|number| late(&self.connections.items[*number]))
                    .collect();
                late.into_iter().for_each(|number| self.end(number, false));
            }
            if last_word.elapsed() > Duration::from_secs(5) {
                last_word = Instant::now();
                eprintln!(
                    "netmon-load: {:.0} s of {:.0}: {} begun, {} open, {} failed",
                    began.elapsed().as_secs_f64(),
                    time.as_secs_f64(),
                    self.truth.attempted,
                    self.live,
                    self.truth.failed
                );
            }
        }
        self.truth.seconds = began.elapsed().as_secs_f64();
        // Those that stay open end now, as they should; others did not get their answer in time.
        for number in 0..self.connections.items.len() {
            self.end(number, plan.keep || plan.stream);
        }
        self.truth.flow_count = self.truth.attempted;
        self.latencies.sort_unstable();
        let at = |share: f64| self.latencies.get((self.latencies.len() as f64 * share) as usize).copied();
        self.truth.latency_us = at(0.5).zip(at(0.99)).map(|(half, most)| [half.into(), most.into()]);
        Ok(())
    }
}

/// Runs both sides.
pub fn run(pair: &Pair, time: Duration, per_flow: bool, plan: &Plan) -> Result<Truth> {
    let over = Arc::new(AtomicBool::new(false));
    let (ready, started) = std::sync::mpsc::sync_channel(1);
    let server = std::thread::spawn({
        let (name, over, plan) = (pair.server.clone(), Arc::clone(&over), *plan);
        move || {
            if let Err(error) = enter(&name).and_then(|()| serve(plan, &ready, &over)) {
                let _ = ready.try_send(Err(error));
            }
        }
    });
    started.recv().context("the server has ended")??;
    enter(&pair.client)?;
    let mut client = Client {
        plan: *plan,
        per_flow,
        poll: epoll::create(CreateFlags::CLOEXEC)?,
        connections: Slab::new(),
        live: 0,
        truth: Truth::default(),
        latencies: Vec::new(),
        buffer: vec![b'q'; CHUNK.max(plan.bytes)],
    };
    let done = client.run(time);
    // The server sees the last connections close.
    std::thread::sleep(Duration::from_millis(100));
    over.store(true, Ordering::Release);
    server.join().map_err(|_| anyhow!("the server has panicked"))?;
    done?;
    Ok(client.truth)
}
