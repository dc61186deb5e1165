//! Whose clsact filters they are. All agents of a network namespace would use one priority and handle, and a filter that a killed run
//! left looks like that of one that lives: so an agent claims them before it touches any, by a name that the kernel frees when the agent is gone.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, UCred, connect, socket_with};

/// Abstract name: of the network namespace, not of the file system.
const NAME: &str = "netmon-clsact";

/// As long as it lives, no other agent of this user touches clsact filters of ours here.
#[derive(Debug)]
pub struct Claim {
    /// None when somebody who is no agent of this user sits on the name: nobody may shut an agent out like that.
    name: Option<UnixListener>,
}

impl Claim {
    /// Lets those go who have asked whose it is: they wait in a queue, and behind a full one nobody is seen.
    pub fn answer(&self) {
        while self.name.as_ref().is_some_and(|name| name.accept().is_ok()) {}
    }
}

/// Claims them.
///
/// # Errors
/// The process id of the agent that has.
pub fn claim() -> Result<Claim, u32> {
    claim_name(NAME)
}

fn claim_name(name: &str) -> Result<Claim, u32> {
    let Ok(address) = SocketAddr::from_abstract_name(name) else { return Ok(Claim { name: None }) };
    match UnixListener::bind_addr(&address) {
        Ok(listener) => {
            // Or `answer` would wait for somebody to ask.
            let name = listener.set_nonblocking(true).is_ok().then_some(listener);
            Ok(Claim { name })
        }
        Err(error) if error.kind() == ErrorKind::AddrInUse => match holder(name) {
            Some(holder) if holder.uid == rustix::process::geteuid() => {
                Err(holder.pid.as_raw_nonzero().get().unsigned_abs())
            }
            _ => Ok(Claim { name: None }),
        },
        Err(_) => Ok(Claim { name: None }),
    }
}

/// Who listens at a name; `None` if nobody does, or lets nobody in.
fn holder(name: &str) -> Option<UCred> {
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).ok()?;
    // A full queue of connections is not waited for: it may be full on purpose.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    connect(&socket, &address).ok()?;
    socket_peercred(socket).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_at_a_time_has_them_and_nobody_else_can_sit_on_them() {
        let name = format!("netmon-test-{}", std::process::id());
        let held = claim_name(&name).unwrap();
        let queue = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        for _ in 0..queue.trim().parse::<u32>().unwrap() + 10 {
            assert!(claim_name(&name).is_err());
            held.answer();
        }
        assert_eq!(claim_name(&name).unwrap_err(), std::process::id());
        drop(held);
        drop(claim_name(&name).unwrap());
        let sitting = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        assert!(claim_name(&name).is_ok());
        drop(sitting);
    }
    #[test]
    fn whoever_sits_on_them_and_lets_nobody_in_holds_nobody_up() {
        let name = format!("netmon-test-full-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let sitting = UnixListener::bind_addr(&address).unwrap();
        rustix::net::listen(&sitting, 0).unwrap();
        let _waiting = UnixStream::connect_addr(&address).unwrap();
        let (told, answer) = channel();
        std::thread::spawn(move || told.send(claim_name(&name).is_ok()));
        assert_eq!(answer.recv_timeout(Duration::from_secs(20)), Ok(true), "still waiting");
    }
}
