//! Grace periods: "every program that was running when I asked has finished".
//!
//! Updating an array of maps from userspace returns only after an RCU grace period (`maybe_wait_bpf_programs`,
//! kernel commit 1ae80cf31938), and TC programs run within one RCU read section. A thread of its own waits, so
//! that the collector never does.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::events::Nudge;
use super::object::{GRACE_ENTRY, Object};
use super::table::Table;

#[derive(Debug, Default)]
struct Shared {
    requested: AtomicU64,
    completed: AtomicU64,
    stop: AtomicBool,
}

/// Asks for grace periods and tells when they have passed.
#[derive(Debug)]
pub struct Grace {
    shared: Arc<Shared>,
    nudge: Nudge,
    thread: Option<JoinHandle<()>>,
}

impl Grace {
    /// Starts the waiting thread. `nudge` is called whenever a grace period has passed.
    ///
    /// # Errors
    /// When the outer map can't be shared or the thread can't be made.
    pub fn start(object: &Object, nudge: Nudge) -> std::io::Result<Self> {
        let outer = MapHandle::try_from(&object.skel.maps.nm_tables).map_err(std::io::Error::other)?;
        let placeholder = Table::create(1, object.features().layout())?.fd().try_clone_to_owned()?;
        let shared = Arc::new(Shared::default());
        let (theirs, their_nudge) = (Arc::clone(&shared), nudge.clone());
        let thread = std::thread::Builder::new()
            .name("netmon-grace".into())
            .spawn(move || wait_for_all(&theirs, &outer, &placeholder, &their_nudge))?;
        Ok(Self { shared, nudge, thread: Some(thread) })
    }

    /// Asks for a grace period that begins no earlier than now; returns its number.
    pub fn after_now(&self) -> u64 {
        let number = self.shared.requested.fetch_add(1, Ordering::AcqRel) + 1;
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
        number
    }

    /// Wakes whoever waits for grace periods.
    pub fn nudge(&self) -> Nudge {
        self.nudge.clone()
    }

    /// Whether that grace period has passed.
    pub fn passed(&self, number: u64) -> bool {
        self.shared.completed.load(Ordering::Acquire) >= number
    }
}

impl Drop for Grace {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic over there has been printed by the panic hook.
            let _ = thread.join();
        }
    }
}

fn wait_for_all(shared: &Shared, outer: &MapHandle, placeholder: &OwnedFd, nudge: &Nudge) {
    let value = placeholder.as_fd().as_raw_fd().to_ne_bytes();
    let mut complained = false;
    while !shared.stop.load(Ordering::Acquire) {
        let number = shared.requested.load(Ordering::Acquire);
        if number == shared.completed.load(Ordering::Relaxed) {
            std::thread::park();
            continue;
        }
        match outer.update(&GRACE_ENTRY.to_ne_bytes(), &value, MapFlags::ANY) {
            Ok(()) => {
                shared.completed.store(number, Ordering::Release);
                nudge.wake();
            }
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::error!(%error, "cannot wait for a grace period: ended flows stay in the table");
                }
                std::thread::park_timeout(std::time::Duration::from_secs(1));
            }
        }
    }
}
