//! Guessing of passwords: many short conversations with a login service that are as like as refusals are.
//!
//! Passed over: those in which the client says nothing (health checks that connect and hang up), and those with a database from
//! a network of one's own (a connection for each request is usual there, and a small answer is no larger than a refusal).

use std::net::IpAddr;

use super::alert::{Alerts, Found, Subject};
use super::kind::Kind;
use super::places::Places;
use super::signs::{ACK, is_public, payload};
use crate::flow::key::Protocol;
use crate::flow::update::Flow;

/// So many within a minute: health checks that log in are an order of magnitude slower.
const LOGINS: u32 = 60;
const WINDOW_NS: u64 = 60_000_000_000;
/// As long and as large as some refusals on one connection.
const LONGEST_NS: u64 = 30_000_000_000;
const MOST_BYTES: u64 = 20_000;
/// What a client says at least to log in.
const LEAST_SAID: u64 = 16;
/// Refusals differ by the length of a name: the standard deviation of their bytes is at most this share of the mean.
const ALIKE: f64 = 0.25;
/// FTP, SSH, Telnet, SMB, RDP, VNC.
const LOGIN_PORTS: [u16; 6] = [21, 22, 23, 445, 3389, 5900];
/// MS SQL, MySQL, PostgreSQL: one that is refused gets little.
const DATABASE_PORTS: [u16; 3] = [1433, 3306, 5432];
const DATABASE_BYTES: u64 = 4_000;

#[derive(Debug)]
struct Place {
    since_ns: u64,
    bytes: f64,
    squares: f64,
    found: Found,
}

/// Who logs in where.
#[derive(Debug, Default)]
pub struct Logins {
    places: Places<(IpAddr, IpAddr, u16), Place>,
}

impl Logins {
    /// Looks at a TCP flow that has ended.
    pub fn look(&mut self, flow: &Flow, alerts: &mut Alerts) {
        let (src, dst, port) = (flow.key.src.ip(), flow.key.dst.ip(), flow.key.dst.port());
        let database = DATABASE_PORTS.contains(&port);
        let judged = if database { is_public(src) } else { LOGIN_PORTS.contains(&port) };
        let stood = flow.tcp_flags[0] & flow.tcp_flags[1] & ACK != 0;
        let said = payload(&flow.key, flow.total.bytes_sent, flow.total.packets_sent);
        if !judged || !stood || said < LEAST_SAID {
            return;
        }
        let who = (src, dst, port);
        let most = if database { DATABASE_BYTES } else { MOST_BYTES };
        let bytes = flow.total.bytes();
        if flow.end_ns.saturating_sub(flow.start_ns) > LONGEST_NS || bytes > most {
            if let Some(place) = self.places.known(&who) {
                place.found.answered = place.found.answered.saturating_add(1);
            }
            return;
        }
        let now_ns = flow.end_ns;
        let over = |place: &Place| now_ns.saturating_sub(place.since_ns) > WINDOW_NS;
        let fresh = || Place { since_ns: now_ns, bytes: 0.0, squares: 0.0, found: Found::since(flow) };
        let Some(place) = self.places.of(who, now_ns, over, fresh) else { return };
        if over(place) {
            *place = fresh();
        }
        place.found.add(flow);
        place.found.keep(flow);
        place.bytes += bytes as f64;
        place.squares += (bytes * bytes) as f64;
        let count = f64::from(place.found.in_vain);
        let mean = place.bytes / count;
        let alike = (place.squares / count - mean * mean).max(0.0).sqrt() <= mean * ALIKE;
        if place.found.in_vain >= LOGINS && alike && place.found.answered < place.found.in_vain / 4 {
            let subject =
                Subject { protocol: Some(Protocol::TCP), src: Some(src), dst: Some(dst), port: Some(port) };
            alerts.raise(Kind::LoginBurst, subject, &place.found);
        }
    }

    /// Observations that found no place.
    pub fn untracked(&self) -> u64 {
        self.places.untracked()
    }
}
