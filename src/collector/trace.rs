//! A trace of packets: at most one at a time, off again when whoever asked for it lets go of it.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::handle::{Command, Handle};
use crate::clock;
use crate::kernel::trace::{Line, NotTold, Rule, TraceMaps};

/// The collector answers within this time.
const ANSWER: Duration = Duration::from_secs(5);

/// Why there is no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// There is one already.
    #[error(
        "another packet-trace is running; `netmon-cli debug packet-trace off` ends it, or wait until it is over"
    )]
    Busy,
    /// The kernel refused.
    #[error("cannot tell the programs what to trace: {0}")]
    Kernel(#[from] std::io::Error),
}

/// What all handles share.
#[derive(Debug)]
pub(super) struct Tracer {
    maps: TraceMaps,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    /// Of the last trace.
    number: u32,
    /// That it is to end; `None` while there is no trace.
    end: Option<Arc<AtomicBool>>,
}

impl Tracer {
    pub(super) fn new(maps: TraceMaps) -> Self {
        Self { maps, running: Mutex::default() }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A trace that is under way; dropping it ends it.
pub struct Trace {
    handle: Handle,
    number: u32,
    end: Arc<AtomicBool>,
}

impl Handle {
    /// Has packets told, for so long at most. Returns when they are. Blocking, some milliseconds.
    ///
    /// # Errors
    /// When another trace is under way, or the kernel refuses.
    pub fn trace(&self, rule: &Rule, time: Duration) -> Result<Trace, TraceError> {
        let mut running = self.tracer.running();
        if running.end.is_some() {
            return Err(TraceError::Busy);
        }
        let number = running.number.wrapping_add(1);
        let time_ns = clock::nanoseconds(time);
        self.tracer.maps.begin(rule, clock::monotonic_ns().saturating_add(time_ns), number)?;
        let end = Arc::new(AtomicBool::new(false));
        running.number = number;
        let (answer, reply) = sync_channel(1);
        self.send(Command::Tracing(true, answer));
        if reply.recv_timeout(ANSWER).is_err() {
            self.hush();
            return Err(std::io::Error::new(ErrorKind::TimedOut, "the collector does not answer").into());
        }
        running.end = Some(Arc::clone(&end));
        Ok(Trace { handle: self.clone(), number, end })
    }

    /// Ends the trace, whoever asked for it; false when there is none.
    pub fn end_trace(&self) -> bool {
        let running = self.tracer.running();
        if let Some(end) = &running.end {
            end.store(true, Ordering::Release);
            self.hush();
        }
        running.end.is_some()
    }

    /// Tells no more packets.
    fn hush(&self) {
        // Commands are obeyed one after the other: nobody need wait for it.
        self.send(Command::Tracing(false, sync_channel(1).0));
    }

    /// Whether there is a trace.
    pub fn is_tracing(&self) -> bool {
        self.tracer.running().end.is_some()
    }
}

impl Trace {
    /// The next line; `None` when none waits.
    pub fn next_line(&self) -> Option<Line> {
        self.handle.tracer.maps.next(self.number)
    }

    /// What was asked for and not told so far.
    pub fn not_told(&self) -> NotTold {
        self.handle.tracer.maps.not_told()
    }

    /// Whether somebody has ended it.
    pub fn is_ended(&self) -> bool {
        self.end.load(Ordering::Acquire)
    }

    /// Tells no more packets; what waits can still be read.
    pub fn hush(&self) {
        self.handle.hush();
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let mut running = self.handle.tracer.running();
        // Before the next one can begin.
        self.hush();
        running.end = None;
    }
}
