//! One stream of objects: lists, watches, and begins anew where it must.
//!
//! The objects come first by a streaming list where the server has them (the watch begins with all objects), else page by page.
//! Where a watch breaks off it goes on from the last version heard; only when the server has forgotten that version, or the
//! time for a full comparison has come, everything is listed again. Nothing is final: a server that starts anew refuses what it
//! grants a moment later.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::access::{Access, Failure, Reason};
use super::super::progress::Progress;
use super::super::trim::{Raw, Words};
use super::backoff::{Backoff, share};
use super::split::{Items, Lines, TooLong};
use super::told::Telling;
use super::{Timing, request};

/// Objects whose list is compared in each interval; more take that many intervals.
const COMPARED: u64 = 1000;

/// One stream.
pub(super) struct Stream {
    access: Arc<Access>,
    telling: Telling,
    selector: String,
    progress: Arc<Progress>,
    timing: Timing,
    resync: Duration,
    synced: Option<watch::Sender<bool>>,
    /// Everything up to this version is told; `None`: it must be listed.
    version: Option<String>,
    /// No list may be older.
    floor: Option<String>,
    /// Whether a streaming list is worth a try.
    streams: bool,
    /// When the next full comparison is due.
    compare_at: Option<Instant>,
    objects: u64,
    words: Words,
}

/// A line of a watch.
#[derive(Deserialize)]
struct Event<T> {
    #[serde(rename = "type")]
    kind: String,
    object: T,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Frame {
    metadata: FrameMetadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FrameMetadata {
    resource_version: String,
    #[serde(rename = "continue")]
    next: Option<String>,
}

impl From<TooLong> for Failure {
    fn from(_: TooLong) -> Self {
        Self::new(Reason::Malformed, "an object without end")
    }
}

impl Stream {
    pub(super) fn new(
        access: Arc<Access>,
        telling: Telling,
        selector: String,
        progress: Arc<Progress>,
        timing: Timing,
        resync: Duration,
        synced: Option<watch::Sender<bool>>,
    ) -> Self {
        Self {
            access,
            telling,
            selector,
            progress,
            timing,
            resync,
            synced,
            version: None,
            floor: None,
            streams: true,
            compare_at: None,
            objects: 0,
            words: Words::default(),
        }
    }

    /// Goes on until it is dropped.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(self.timing.first_retry, self.timing.last_retry);
        loop {
            let began = Instant::now();
            let lists = self.version.is_none() && !self.streams;
            let failure = match if lists { self.list().await } else { self.follow().await } {
                Ok(()) => continue,
                Err(failure) => failure,
            };
            if !lists && self.version.is_some() && began.elapsed() >= self.timing.settled {
                backoff.reset();
            }
            match failure.reason {
                Reason::Refused if self.version.is_none() && self.streams => {
                    // The server has no streaming lists: no failure.
                    self.streams = false;
                    continue;
                }
                Reason::Gone | Reason::Refused => self.version = None,
                Reason::Ahead => (self.version, self.floor) = (None, None),
                // It may not know how to end a streaming list.
                Reason::Ended | Reason::Silent if self.version.is_none() => self.streams = !self.streams,
                _ => {}
            }
            self.progress.failed(if lists { "list" } else { "watch" }, &failure);
            tokio::time::sleep(backoff.next(failure.retry_after)).await;
        }
    }

    /// Reads all pages of a list.
    async fn list(&mut self) -> Result<(), Failure> {
        let kind = self.telling.kind();
        let mut from: Option<String> = None;
        loop {
            let query = request::list(kind, &self.selector, self.floor.as_deref(), from.as_deref());
            let access = Arc::clone(&self.access);
            let mut answer = access.get(&query, request::accept(kind)).await?;
            if from.is_none() {
                self.begin();
            }
            let mut items = Items::default();
            while let Some(bytes) = answer.chunk(self.timing.silence).await? {
                self.progress.heard();
                items.feed(&bytes, |item| {
                    match serde_json::from_slice(item) {
                        Ok(raw) => self.apply(raw),
                        Err(error) => self.progress.unreadable(&error.to_string()),
                    }
                    Ok::<(), Failure>(())
                })?;
            }
            let cut = || Failure::new(Reason::Ended, "the list was cut off");
            let frame: Frame = serde_json::from_slice(items.finish().ok_or_else(cut)?)
                .map_err(|error| Failure::new(Reason::Malformed, format!("not a list: {error}")))?;
            from = frame.metadata.next.filter(|next| !next.is_empty());
            if from.is_none() {
                let version = frame.metadata.resource_version;
                if version.is_empty() {
                    return Err(Failure::new(Reason::Malformed, "a list without a version"));
                }
                self.complete(version);
                return Ok(());
            }
        }
    }

    /// Watches until the server ends it or a comparison is due; with all objects first if they are not known.
    async fn follow(&mut self) -> Result<(), Failure> {
        let kind = self.telling.kind();
        let seconds = self.timing.watch_for.mul_f64(1.0 + share()).as_secs().max(1);
        let query = match &self.version {
            Some(version) => request::watch(kind, &self.selector, version, seconds),
            None => request::stream(kind, &self.selector, self.floor.as_deref(), seconds),
        };
        let access = Arc::clone(&self.access);
        let mut answer = access.get(&query, request::accept(kind)).await?;
        self.progress.watching();
        self.progress.heard();
        let began = Instant::now();
        if self.version.is_none() {
            self.begin();
        } else {
            self.progress.well();
        }
        let mut lines = Lines::default();
        loop {
            let next = answer.chunk(self.timing.silence);
            let bytes = match self.compare_at.filter(|_| self.version.is_some()) {
                Some(due) => match tokio::time::timeout_at(due, next).await {
                    Ok(bytes) => bytes?,
                    Err(_) => {
                        self.floor = self.version.take();
                        self.compare_at = None;
                        return Ok(());
                    }
                },
                None => next.await?,
            };
            let Some(bytes) = bytes else { break };
            self.progress.heard();
            lines.feed(&bytes, |line| self.line(line))?;
        }
        // The server ends each watch in its time; one that ends at once, or within its list, is no watch.
        if self.version.is_some() && began.elapsed() >= self.timing.settled {
            return Ok(());
        }
        Err(Failure::new(Reason::Ended, "the watch was ended at once"))
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Failure> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let event: Event<Raw> = match serde_json::from_slice(line) {
            Ok(event) => event,
            // A Status looks like none of the objects.
            Err(error) => return self.odd(line, &error),
        };
        let Event { kind, object } = event;
        let version = object.version().map(str::to_owned);
        match kind.as_str() {
            "ADDED" | "MODIFIED" => {
                if kind == "ADDED" && self.version.is_some() {
                    self.progress.counted(true);
                }
                self.apply(object);
            }
            "DELETED" => {
                self.progress.counted(false);
                match object.trim(self.telling.kind(), &mut self.words) {
                    Some(object) => self.telling.gone(object),
                    None => self.progress.unreadable("it has no name"),
                }
            }
            "BOOKMARK" => {
                if self.version.is_none() && object.ends_list() {
                    let version = version.ok_or_else(|| {
                        Failure::new(Reason::Malformed, "a streaming list without a version")
                    })?;
                    self.complete(version);
                    return Ok(());
                }
            }
            _ => return self.odd(line, "of a type that is not known"),
        }
        // Within a list the versions are those of the objects, in no order.
        if let (Some(known), Some(version)) = (&mut self.version, version) {
            *known = version;
        }
        Ok(())
    }

    /// A line that is no object: the server's word that it ends the watch, or nonsense, which is counted.
    fn odd(&self, line: &[u8], why: impl std::fmt::Display) -> Result<(), Failure> {
        match serde_json::from_slice::<Event<IgnoredAny>>(line) {
            Ok(event) if event.kind == "ERROR" => {
                let status = serde_json::from_slice::<Event<serde_json::Value>>(line);
                Err(Failure::of_status(
                    status.map(|event| event.object.to_string()).unwrap_or_default().as_bytes(),
                ))
            }
            _ => {
                self.progress.unreadable(&why.to_string());
                Ok(())
            }
        }
    }

    fn begin(&mut self) {
        self.objects = 0;
        self.telling.begin();
    }

    fn apply(&mut self, raw: Raw) {
        self.objects += 1;
        match raw.trim(self.telling.kind(), &mut self.words) {
            Some(object) => self.telling.apply(object),
            None => self.progress.unreadable("it has no name"),
        }
    }

    fn complete(&mut self, version: String) {
        self.telling.complete();
        self.progress.listed(self.objects);
        self.progress.well();
        self.words.sweep();
        self.floor = Some(version.clone());
        self.version = Some(version);
        self.streams = true;
        let intervals = u32::try_from(self.objects.div_ceil(COMPARED)).unwrap_or(u32::MAX).max(1);
        // A tenth more or less, so that the agents of a cluster don't ask all at once.
        let wait = self.resync.saturating_mul(intervals).mul_f64(0.9 + 0.2 * share());
        self.compare_at = Instant::now().checked_add(wait);
        if let Some(synced) = &self.synced {
            // Nobody may listen any more.
            let _ = synced.send(true);
        }
    }
}
