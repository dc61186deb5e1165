//! `debug trace`: the log level goes up, and back to what it is without.

use super::outcome::{Applied, Cause};
use super::{Refused, Reloader};
use crate::config::Loaded;

/// The key.
const LEVEL: &str = "log.level";
const TRACE: &str = "trace";

/// How it was.
pub(super) struct Before {
    /// The value and its origin are in here.
    wanted: Loaded,
    /// What `config set` had said.
    set: Option<String>,
}

impl Reloader {
    /// Raises the log level to trace, or brings back what the layers say without that. A level that was set meanwhile stays.
    ///
    /// # Errors
    /// Says why nothing has changed.
    pub async fn trace(&self, on: bool) -> Result<Applied, Refused> {
        // There is one at a time as long as this is held.
        let mut sets = self.sets.lock().await;
        let mut before = self.before_trace.lock().await;
        let wanted = self.lock().wanted.clone();
        let is_raised = wanted.values.get(LEVEL).is_some_and(|level| level == TRACE);
        if on {
            if is_raised {
                return Ok(Applied::default());
            }
            let raised = wanted.with(&[(LEVEL.into(), TRACE.into())])?;
            let applied = self.take_over(Cause::Trace, Ok(raised)).await?;
            *before = Some(Before { wanted, set: sets.insert(LEVEL, TRACE.into()) });
            return Ok(applied);
        }
        let Some(was) = before.as_ref().filter(|_| is_raised) else {
            *before = None;
            return Ok(Applied::default());
        };
        let mut without = sets.clone();
        match &was.set {
            Some(level) => without.insert(LEVEL, level.clone()),
            None => without.remove(LEVEL),
        };
        // The file may say something else by now; while it is broken, what was in force before the trace holds.
        let fresh = self.load(&without).await;
        let lowered = wanted.keeping(&[LEVEL], fresh.as_ref().unwrap_or(&was.wanted))?;
        let applied = self.take_over(Cause::Trace, Ok(lowered)).await?;
        *sets = without;
        *before = None;
        Ok(applied)
    }
}
