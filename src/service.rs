//! Telling systemd how we are (sd_notify). Outside of systemd every call does nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::telemetry::message;

/// Time between two lines for `systemctl status`.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// Whether systemd was told that we are ready: what is reloaded before that must not tell it.
static READY: AtomicBool = AtomicBool::new(false);

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd can't be told");
    }
}

/// Programs are attached.
pub fn ready(status: &str) {
    READY.store(true, Ordering::Release);
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A line for `systemctl status`.
pub fn status(text: &str) {
    notify(&[NotifyState::Status(text)]);
}

/// A configuration is being read (`Type=notify-reload`).
pub fn reloading() {
    if READY.load(Ordering::Acquire)
        && let Ok(now) = NotifyState::monotonic_usec_now()
    {
        notify(&[NotifyState::Reloading, now]);
    }
}

/// That is over; `trouble` if there was any.
pub fn reloaded(trouble: Option<String>) {
    if READY.load(Ordering::Acquire) {
        let trouble = trouble.as_deref().map(|trouble| trouble.replace('\n', " "));
        let mut states = vec![NotifyState::Ready];
        states.extend(trouble.as_deref().map(NotifyState::Status));
        notify(&states);
    }
}

/// The agent is about to end.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Tells `line` from time to time, if there is anybody to tell it. It may block.
pub async fn keep_status(line: impl Fn() -> String + Send + Sync + 'static) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let line = std::sync::Arc::new(line);
    let mut every = tokio::time::interval(STATUS_EVERY);
    loop {
        every.tick().await;
        let line = std::sync::Arc::clone(&line);
        if READY.load(Ordering::Acquire)
            && let Ok(text) = tokio::task::spawn_blocking(move || line()).await
        {
            status(&text);
        }
    }
}

/// Feeds systemd's watchdog for as long as `heartbeat`, a number that the collector counts up, goes on. Never ends where there
/// is one.
pub async fn watchdog(heartbeat: impl Fn() -> u64 + Send) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    // Twice in half of the time, as sd_watchdog_enabled(3) wants it: the collector sleeps a second at most.
    let mut every = tokio::time::interval((limit / 4).max(Duration::from_millis(10)));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut progress = Progress::default();
    loop {
        every.tick().await;
        match progress.look(heartbeat()) {
            Look::Alive => notify(&[NotifyState::Watchdog]),
            Look::Still => {}
            Look::Stuck => tracing::error!(
                message_id = message::COLLECTOR_STUCK,
                "the collector makes no progress: systemd will restart the agent unless it goes on"
            ),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// It has gone on.
    Alive,
    /// It has not, this once.
    Still,
    /// For the second time in a row; said once.
    Stuck,
}

#[derive(Default)]
struct Progress {
    last: Option<u64>,
    still: u32,
}

impl Progress {
    fn look(&mut self, beats: u64) -> Look {
        if self.last.replace(beats) != Some(beats) {
            self.still = 0;
            return Look::Alive;
        }
        self.still = self.still.saturating_add(1);
        if self.still == 2 { Look::Stuck } else { Look::Still }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_collector_that_goes_on_feeds_the_watchdog() {
        let mut progress = Progress::default();
        let looks: Vec<Look> = [5, 6, 6, 6, 6, 7].into_iter().map(|beats| progress.look(beats)).collect();
        let expected = [Look::Alive, Look::Alive, Look::Still, Look::Stuck, Look::Still, Look::Alive];
        assert_eq!(looks, expected);
    }
}
