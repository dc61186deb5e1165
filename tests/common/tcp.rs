//! TCP connections between namespaces, and what the kernels at both of their ends say of them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::net::Net;
use super::raw;

/// No test waits longer for a byte.
const LIMIT: Duration = Duration::from_secs(20);

/// `struct tcp_info` (linux/tcp.h), the fields that tests compare with.
#[derive(Clone, Copy, Debug)]
pub struct TcpInfo {
    /// Both ends send timestamps.
    pub timestamps: bool,
    /// Segments that are not acknowledged yet.
    pub unacked: u32,
    /// Smoothed round-trip time, and its mean deviation.
    pub rtt_us: u32,
    pub rttvar_us: u32,
    pub min_rtt_us: u32,
    /// Segments sent again, with SYNs.
    pub total_retrans: u32,
    /// Segments with payload, those sent again included.
    pub data_segs_in: u32,
    pub data_segs_out: u32,
    /// Segments that the other end said it had got twice.
    pub dsack_dups: u32,
    /// Segments that came before one sent earlier.
    pub rcv_ooopack: u32,
}

impl TcpInfo {
    pub fn of(socket: &TcpStream) -> Self {
        let bytes = raw::tcp_info(socket.as_fd()).unwrap();
        // A kernel that doesn't know the last of the fields (5.4 brought it) fails here.
        let at = |offset: usize| u32::from_ne_bytes(bytes[offset..offset + 4].try_into().unwrap());
        Self {
            timestamps: bytes[5] & 1 != 0,
            unacked: at(24),
            rtt_us: at(68),
            rttvar_us: at(72),
            total_retrans: at(100),
            min_rtt_us: at(148),
            data_segs_in: at(152),
            data_segs_out: at(156),
            dsack_dups: at(216),
            rcv_ooopack: at(224),
        }
    }
}

/// One end asks so many bytes, the other thinks and answers so many, so many times.
#[derive(Clone, Copy, Debug)]
pub struct Talk {
    pub rounds: usize,
    pub request: usize,
    pub response: usize,
    pub think: Duration,
}

/// Both ends of a connection.
pub struct Connection {
    pub client: TcpStream,
    pub server: TcpStream,
}

impl Connection {
    /// From a namespace to an address of another, at a free port.
    pub fn open(net: &Net, client: &str, (server, ip): (&str, &str)) -> Self {
        let address = SocketAddr::new(ip.parse().unwrap(), 0);
        // Sockets stay in the namespace that they were made in.
        let listener = net.inside(server, || TcpListener::bind(address).unwrap());
        let address = listener.local_addr().unwrap();
        let client = net.inside(client, || TcpStream::connect_timeout(&address, LIMIT).unwrap());
        let connection = Self { client, server: listener.accept().unwrap().0 };
        for end in [&connection.client, &connection.server] {
            end.set_nodelay(true).unwrap();
            end.set_read_timeout(Some(LIMIT)).unwrap();
            end.set_write_timeout(Some(LIMIT)).unwrap();
        }
        connection
    }

    /// Ports of the client and of the server.
    pub fn ports(&self) -> [u16; 2] {
        [&self.client, &self.server].map(|end| end.local_addr().unwrap().port())
    }

    pub fn talk(&self, talk: Talk) {
        let (mut client, mut server) = (&self.client, &self.server);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let (mut request, response) = (vec![0; talk.request], vec![2; talk.response]);
                for _ in 0..talk.rounds {
                    server.read_exact(&mut request).unwrap();
                    std::thread::sleep(talk.think);
                    server.write_all(&response).unwrap();
                }
            });
            let (request, mut response) = (vec![1; talk.request], vec![0; talk.response]);
            for _ in 0..talk.rounds {
                client.write_all(&request).unwrap();
                client.read_exact(&mut response).unwrap();
            }
        });
    }

    /// What the client's kernel and the server's say, once all is acknowledged.
    pub fn info(&self) -> [TcpInfo; 2] {
        let deadline = Instant::now() + LIMIT;
        loop {
            let ends = [&self.client, &self.server].map(TcpInfo::of);
            if ends.iter().all(|end| end.unacked == 0) {
                return ends;
            }
            assert!(Instant::now() < deadline, "not acknowledged: {ends:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
