//! A dump of flows over the control socket, and what follows it: one JSON line a flow.

use std::collections::BinaryHeap;
use std::ops::ControlFlow;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{Semaphore, broadcast, mpsc};
use warp::Filter as _;
use warp::Rejection;
use warp::http::StatusCode;
use warp::hyper::body::Bytes;

use super::filter::{BadParameter, Filter};
use super::server::{Chunk, Reply, error, streamed};
use super::source::Source;
use crate::collector::{Flows, Moved, Part};
use crate::flow::update::{Batch, Flow};

/// Chunks that may wait for a slow client.
const CHUNKS: usize = 16;
/// Bytes of a chunk, about.
const CHUNK_BYTES: usize = 64 * 1024;
/// Threads that make the lines of one dump, at most.
const PRINTERS: u32 = 4;
/// Dumps at once; more are turned away.
const DUMPS: usize = 16;
/// Flows that a sorted dump keeps at most.
const SORTED: usize = 100_000;

/// What a dump was asked for.
struct Request {
    filter: Filter,
    /// After the flows of the table, those that have ended lately.
    ended: bool,
    follow: bool,
}

fn parse(pairs: &[(String, String)]) -> Result<Request, BadParameter> {
    let mut request = Request { filter: Filter::default(), ended: false, follow: false };
    let now = Timestamp::now();
    for (name, value) in pairs {
        let flag = || {
            let bad =
                |_| BadParameter { name: name.clone(), value: value.clone(), accepted: "true or false" };
            value.parse::<bool>().map_err(bad)
        };
        match name.as_str() {
            "follow" => request.follow = flag()?,
            "ended" => request.ended = flag()?,
            _ => request.filter.set(name, value, now)?,
        }
    }
    Ok(request)
}

/// Dumps flows; what follows them ends with `over`.
pub(super) fn routes<S: Source>(
    source: Arc<S>,
    over: broadcast::Sender<()>,
) -> impl warp::Filter<Extract = (Reply,), Error = Rejection> + Clone + Send + Sync + 'static {
    let slots = Arc::new(Semaphore::new(DUMPS));
    warp::get().and(warp::path!("v1" / "flows")).and(warp::query::<Vec<(String, String)>>()).map(
        move |pairs: Vec<(String, String)>| {
            let request = match parse(&pairs) {
                Ok(request) => request,
                Err(bad) => return error(StatusCode::BAD_REQUEST, &bad.to_string()),
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                return error(StatusCode::SERVICE_UNAVAILABLE, "too many dumps at once; try again");
            };
            let (chunks, body) = mpsc::channel(CHUNKS);
            let updates = request.follow.then(|| source.subscribe());
            let (source, ending) = (Arc::clone(&source), over.subscribe());
            tokio::spawn(async move {
                let _slot = slot;
                dump(source, request, chunks, updates, ending).await;
            });
            streamed(body)
        },
    )
}

/// A flow by its rank, for the heap of a sorted dump.
struct Ranked(u64, Flow);

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl Eq for Ranked {}
impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Ranked {
    // Least rank on top, so that it is the one to go.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.cmp(&self.0)
    }
}

struct Lines {
    chunks: mpsc::Sender<Chunk>,
    text: Vec<u8>,
    left: usize,
}

impl Lines {
    /// Adds a line; breaks when the client is gone or has enough.
    fn put(&mut self, value: &impl serde::Serialize) -> ControlFlow<()> {
        if self.left == 0 {
            return ControlFlow::Break(());
        }
        self.left -= 1;
        if serde_json::to_writer(&mut self.text, value).is_ok() {
            self.text.push(b'\n');
        }
        if self.text.len() >= CHUNK_BYTES { self.flush() } else { ControlFlow::Continue(()) }
    }

    fn flush(&mut self) -> ControlFlow<()> {
        if self.text.is_empty() {
            return ControlFlow::Continue(());
        }
        let chunk = Bytes::from(std::mem::replace(&mut self.text, Vec::with_capacity(CHUNK_BYTES + 2048)));
        if self.chunks.blocking_send(Ok(chunk)).is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }
}

async fn dump<S: Source>(
    source: Arc<S>,
    request: Request,
    chunks: mpsc::Sender<Chunk>,
    updates: Option<broadcast::Receiver<Batch>>,
    mut ending: broadcast::Receiver<()>,
) {
    let Request { filter, ended, .. } = request;
    let filter = Arc::new(filter);
    let limit = filter.limit.unwrap_or(usize::MAX);
    // Lines are made on all CPUs, unless they have to be counted or sorted.
    let of = if filter.limit.is_some() || filter.sort.is_some() { 1 } else { cpus() };
    let mut left = limit;
    if updates.is_none() || !source.folds() {
        let asked = Arc::clone(&source);
        let Ok(flows) = tokio::task::spawn_blocking(move || Arc::new(asked.flows())).await else { return };
        // The last share has what was theirs together, so that none is kept here.
        let printing = (0..of).zip(std::iter::repeat_n(flows, of as usize)).map(|(number, flows)| {
            let lines = Lines { chunks: chunks.clone(), text: Vec::new(), left: limit };
            let (source, filter) = (Arc::clone(&source), Arc::clone(&filter));
            let share = Share { flows, part: Part { number, of }, ended };
            tokio::task::spawn_blocking(move || print_share(&*source, &filter, share, lines))
        });
        for printed in printing.collect::<Vec<_>>() {
            let Ok(Some(after)) = printed.await else { return };
            left = after;
        }
    }
    let Some(mut updates) = updates else { return };
    loop {
        let batch = tokio::select! {
            // What the collector told last still waits when all is over.
            biased;
            batch = updates.recv() => batch,
            _ = ending.recv() => return,
            () = chunks.closed() => return,
        };
        let mut text = Vec::new();
        match batch {
            Ok(batch) => {
                let presenter = source.presenter();
                for update in batch.iter().filter(|update| filter.may_match(&update.flow)) {
                    let record = presenter.record(&update.flow);
                    if left > 0
                        && filter.matches(&record)
                        && serde_json::to_writer(&mut text, &record).is_ok()
                    {
                        text.push(b'\n');
                        left -= 1;
                    }
                }
            }
            Err(broadcast::error::RecvError::Lagged(lost)) => {
                text.extend(format!("{{\"lost_batches\":{lost}}}\n").into_bytes());
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
        if (!text.is_empty() && chunks.send(Ok(text.into())).await.is_err()) || left == 0 {
            return;
        }
    }
}

fn cpus() -> u32 {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cpus).unwrap_or(1).min(PRINTERS)
}

/// What one of the threads of a dump goes through.
struct Share {
    flows: Arc<Flows>,
    part: Part,
    ended: bool,
}

impl Share {
    /// Calls `visit` for each flow, until it breaks. The last thread to let go of the table goes on with the flows that have ended:
    /// few, next to those, and whatever left the table meanwhile is among them.
    fn visit<S: Source>(
        self,
        source: &S,
        visit: &mut dyn FnMut(&Flow) -> ControlFlow<()>,
    ) -> Result<(), Moved> {
        let mut over = false;
        self.flows.visit(self.part, &mut |flow| {
            let next = visit(flow);
            over = next.is_break();
            next
        })?;
        let last = Arc::into_inner(self.flows).map(drop).is_some();
        if last && self.ended && !over {
            let _ = source.ended().iter().try_for_each(visit);
        }
        Ok(())
    }
}

/// Prints what is there; returns how many more may be printed, `None` when the client is gone or the table has moved.
fn print_share<S: Source>(source: &S, filter: &Filter, share: Share, mut lines: Lines) -> Option<usize> {
    let presenter = source.presenter();
    let mut gone = ControlFlow::Continue(());
    let read = if filter.sort.is_some() {
        let keep = lines.left.min(SORTED);
        let mut heap = BinaryHeap::new();
        let read = share.visit(source, &mut |flow| {
            if filter.may_match(flow) && filter.matches(&presenter.record(flow)) {
                heap.push(Ranked(filter.rank(flow), *flow));
                if heap.len() > keep {
                    heap.pop();
                }
            }
            ControlFlow::Continue(())
        });
        for Ranked(_, flow) in heap.into_sorted_vec() {
            gone = lines.put(&presenter.record(&flow));
            if gone.is_break() {
                break;
            }
        }
        read
    } else {
        share.visit(source, &mut |flow| {
            if filter.may_match(flow) {
                let record = presenter.record(flow);
                if filter.matches(&record) {
                    gone = lines.put(&record);
                }
            }
            gone
        })
    };
    if let Err(moved) = read {
        tracing::warn!(why = %moved, "a dump of flows breaks off");
        // If its client has gone, nobody asks why.
        let _ = lines.chunks.blocking_send(Err(moved));
        return None;
    }
    let flushed = lines.flush();
    (flushed.is_continue() && (gone.is_continue() || lines.left == 0)).then_some(lines.left)
}
