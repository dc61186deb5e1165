//! The one way from the collector to the sinks.
//!
//! Metrics, history and detector are fed on the collector's own thread, a few dozen events at a time, so that an event
//! is visible some microseconds after it was read. Followers and exporters get larger batches through a bounded
//! channel; one that is too slow loses batches and is told how many.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, watch};

use super::history::History;
use super::prometheus::FlowMetrics;
use crate::detect::Detector;
use crate::enrich::Directory;
use crate::flow::fold::Fold;
use crate::flow::update::{Batch, FlowUpdate, Sink};

/// Folded conversations that may wait for the end of their interval; beyond, they are told early.
const FOLDED: usize = 65_536;
/// Batches that may wait at least, however small `performance.buffer_size` is.
const LEAST_BATCHES: usize = 16;

/// Hands every update to all sinks.
#[derive(Debug)]
pub struct Feed {
    metrics: Arc<Mutex<FlowMetrics>>,
    history: Arc<Mutex<History>>,
    detector: Arc<Mutex<Detector>>,
    names: Directory,
    followers: broadcast::Sender<Batch>,
    pending: Vec<FlowUpdate>,
    settings: watch::Receiver<FeedSettings>,
    batch_size: usize,
    folding: Option<Folding>,
}

/// What followers get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedSettings {
    /// Updates at most at once.
    pub batch_size: usize,
    /// Client ports are folded together, and told so often.
    pub fold_every: Option<Duration>,
}

#[derive(Debug)]
struct Folding {
    fold: Fold,
    interval: Duration,
    due: Instant,
}

impl Folding {
    fn every(interval: Duration) -> Self {
        Self { fold: Fold::of(interval), interval, due: Instant::now() + interval }
    }
}

/// The channel to followers: `buffer_size` updates in batches of `batch_size`.
pub fn channel(buffer_size: usize, batch_size: usize) -> broadcast::Sender<Batch> {
    broadcast::Sender::new((buffer_size / batch_size.max(1)).clamp(LEAST_BATCHES, 1 << 16))
}

impl Feed {
    /// Feeds these. New settings may be sent at any time.
    pub fn new(
        metrics: Arc<Mutex<FlowMetrics>>,
        history: Arc<Mutex<History>>,
        detector: Arc<Mutex<Detector>>,
        names: Directory,
        followers: broadcast::Sender<Batch>,
        mut settings: watch::Receiver<FeedSettings>,
    ) -> Self {
        let FeedSettings { batch_size, fold_every } = *settings.borrow_and_update();
        Self {
            metrics,
            history,
            detector,
            names,
            followers,
            pending: Vec::new(),
            settings,
            batch_size: batch_size.max(1),
            folding: fold_every.map(Folding::every),
        }
    }

    /// What is folded until now is told as it is.
    fn configure(&mut self) {
        let FeedSettings { batch_size, fold_every } = *self.settings.borrow_and_update();
        self.batch_size = batch_size.max(1);
        if self.folding.as_ref().map(|folding| folding.interval) != fold_every
            && let Some(mut folding) = std::mem::replace(&mut self.folding, fold_every.map(Folding::every))
        {
            self.pending.extend(folding.fold.take());
        }
    }

    fn follow(&mut self, updates: &[FlowUpdate]) {
        match &mut self.folding {
            Some(folding) => {
                for update in updates {
                    folding.fold.add(update);
                    if folding.fold.len() >= FOLDED {
                        self.pending.extend(folding.fold.take());
                    }
                }
            }
            None => self.pending.extend_from_slice(updates),
        }
        if self.pending.len() >= self.batch_size {
            self.send();
        }
    }

    fn send(&mut self) {
        for batch in self.pending.chunks(self.batch_size) {
            // The last follower may have gone.
            let _ = self.followers.send(batch.into());
        }
        self.pending = Vec::new();
    }
}

impl Sink for Feed {
    fn take(&mut self, updates: &[FlowUpdate], read_at: Instant) {
        self.names.observe(updates);
        let known = self.names.known(updates);
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).apply(updates, &known, read_at);
        self.history.lock().unwrap_or_else(PoisonError::into_inner).apply(updates);
        self.detector.lock().unwrap_or_else(PoisonError::into_inner).observe(updates, &known);
        if self.followers.receiver_count() > 0 {
            self.follow(updates);
        }
    }

    fn sampling(&mut self, rate: f64) {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).set_sampling_rate(rate);
    }

    fn flush(&mut self) {
        // An error means that no more can come.
        if self.settings.has_changed().unwrap_or(false) {
            self.configure();
        }
        if let Some(folding) = self.folding.as_mut().filter(|folding| folding.due <= Instant::now()) {
            folding.due += folding.interval;
            self.pending.extend(folding.fold.take());
        }
        self.send();
    }
}

impl Drop for Feed {
    /// What is folded is told before the end.
    fn drop(&mut self) {
        if let Some(folding) = &mut self.folding {
            self.pending.extend(folding.fold.take());
        }
        self.send();
    }
}
