//! Serving the control socket.

use std::collections::BinaryHeap;
use std::convert::Infallible;
use std::future::Future;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use futures_util::Stream;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio::task::JoinError;
use warp::Filter as _;
use warp::http::{Response, StatusCode};
use warp::hyper::body::Bytes;

use super::filter::Filter;
use super::source::{Source, Which};
use super::status::FlowTally;
use crate::collector::Part;
use crate::flow::update::Flow;
use crate::http::{self, Server};
use crate::kernel::messages::Messages;

/// Chunks of a dump that may wait for a slow client.
const CHUNKS: usize = 16;
/// Bytes of a chunk, about.
const CHUNK_BYTES: usize = 64 * 1024;
/// Threads that make the lines of one dump, at most.
const PRINTERS: u32 = 4;
/// Dumps at once; more are turned away.
const DUMPS: usize = 16;
/// Other answers that are being made at once; more wait, and are forgotten when their client goes.
pub(super) const TURNS: usize = 4;
/// Flows that a sorted dump keeps at most.
const SORTED: usize = 100_000;

/// Opens the socket: mode 0660, of this group unless that is empty, in place of one that nobody listens on any more.
///
/// # Errors
/// When another agent listens, or the path can't be used.
pub async fn listen(path: &Path, group: &str) -> Result<UnixListener> {
    let shown = path.display();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    if UnixStream::connect(path).await.is_ok() {
        bail!("another netmon answers on {shown}; stop it, or give this one its own api.socket");
    }
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => {
            use std::os::unix::fs::FileTypeExt;
            if !metadata.file_type().is_socket() {
                bail!("{shown} is in the way and is no socket; remove it or set api.socket");
            }
            std::fs::remove_file(path).with_context(|| format!("cannot replace the stale socket {shown}"))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot look at {shown}")),
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {shown}"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .with_context(|| format!("cannot set the mode of {shown}"))?;
    if !group.is_empty() {
        let Some(id) = group_id(group, "/etc/group") else {
            bail!("api.group: there is no group {group} in /etc/group");
        };
        std::os::unix::fs::chown(path, None, Some(id))
            .with_context(|| format!("cannot give {shown} to the group {group}"))?;
    }
    Ok(listener)
}

/// A group's number, by its name or as it stands.
fn group_id(group: &str, file: &str) -> Option<u32> {
    let entry = |line: &str| {
        let mut fields = line.split(':');
        (fields.next()? == group).then(|| fields.nth(1)?.parse().ok())?
    };
    group.parse().ok().or_else(|| std::fs::read_to_string(file).ok()?.lines().find_map(entry))
}

pub(super) type Body = Pin<Box<dyn Stream<Item = Result<Bytes, Infallible>> + Send + Sync>>;

pub(super) fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let body = futures_util::stream::once(std::future::ready(Ok(Bytes::from(bytes))));
    answer(status, "application/json", Box::pin(body))
}

fn answer(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(warp::http::header::CONTENT_TYPE, warp::http::HeaderValue::from_static(kind));
    response
}

/// Lines as they come.
pub(super) fn streamed(body: mpsc::Receiver<Bytes>) -> Response<Body> {
    let body = futures_util::stream::unfold(body, |mut body| async move {
        body.recv().await.map(|chunk| (Ok(chunk), body))
    });
    answer(StatusCode::OK, "application/x-ndjson", Box::pin(body))
}

pub(super) fn error(status: StatusCode, message: &str) -> Response<Body> {
    json(status, &serde_json::json!({ "error": message }))
}

pub(super) struct Reply(pub(super) Response<Body>);

impl warp::Reply for Reply {
    fn into_response(self) -> warp::reply::Response {
        self.0.map(|body| warp::reply::stream(body).into_response().into_body())
    }
}

/// What a dump was asked for.
struct Request {
    filter: Filter,
    which: Which,
    follow: bool,
}

fn parse(pairs: &[(String, String)]) -> Result<Request, super::filter::BadParameter> {
    let mut request = Request { filter: Filter::default(), which: Which::Live, follow: false };
    let now = Timestamp::now();
    for (name, value) in pairs {
        let flag = || {
            value.parse::<bool>().map_err(|_| super::filter::BadParameter {
                name: name.clone(),
                value: value.clone(),
                accepted: "true or false",
            })
        };
        match name.as_str() {
            "follow" => request.follow = flag()?,
            "ended" => request.which = if flag()? { Which::All } else { Which::Live },
            _ => request.filter.set(name, value, now)?,
        }
    }
    Ok(request)
}

/// Who is asked, one after the other by each of [`TURNS`].
pub(super) struct Asked<S> {
    pub(super) source: Arc<S>,
    turns: Arc<Semaphore>,
}

impl<S> Clone for Asked<S> {
    fn clone(&self) -> Self {
        Self { source: Arc::clone(&self.source), turns: Arc::clone(&self.turns) }
    }
}

impl<S: Source> Asked<S> {
    /// Makes an answer where waiting is allowed. The turn ends when that is done, not when the client goes: clients that don't
    /// wait would start any number otherwise.
    pub(super) async fn make<T: Send + 'static>(
        self,
        make: impl FnOnce(&S) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let turn = self.turns.acquire_owned().await;
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            make(&self.source)
        })
        .await
    }
}

/// What is known of the messages of a protocol.
async fn messages<S: Source, T: serde::Serialize + Send + 'static>(
    asked: Asked<S>,
    protocol: &str,
    pick: fn(Messages) -> Option<T>,
) -> Reply {
    match asked.make(move |source| pick(source.messages())).await {
        Ok(Some(totals)) => Reply(json(StatusCode::OK, &totals)),
        Ok(None) => Reply(error(
            StatusCode::NOT_FOUND,
            &format!(
                "{protocol} messages are not looked at: features.protocol_detection is off or leaves {protocol} out"
            ),
        )),
        Err(failure) => Reply(error(StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string())),
    }
}

/// Serves until `until` is over.
pub async fn serve<S: Source>(
    listener: UnixListener,
    source: Arc<S>,
    until: impl Future<Output = ()> + Send + 'static,
) {
    let (over, _) = broadcast::channel::<()>(1);
    let slots = Arc::new(Semaphore::new(DUMPS));
    let asked = Asked { source: Arc::clone(&source), turns: Arc::new(Semaphore::new(TURNS)) };
    let packets = super::packets::routes(asked.clone(), over.clone());
    let config = super::config::routes(source.reloader()).or(packets).unify();
    let given = warp::any().map(move || asked.clone());
    let status = warp::path!("v1" / "status").and(given.clone()).then(|asked: Asked<S>| async move {
        match asked.make(S::status).await {
            Ok(status) => Reply(json(StatusCode::OK, &status)),
            Err(failure) => Reply(error(StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string())),
        }
    });
    let stats = warp::path!("v1" / "stats" / "flows").and(given.clone()).then(|asked: Asked<S>| async move {
        let tally = asked.make(|source| {
            let mut tally = FlowTally::default();
            source.visit(Which::Live, Part::WHOLE, &mut |flow| {
                tally.add(flow);
                ControlFlow::Continue(())
            });
            tally.finish(source.status().kernel_stats.table.map_bytes)
        });
        match tally.await {
            Ok(stats) => Reply(json(StatusCode::OK, &stats)),
            Err(failure) => Reply(error(StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string())),
        }
    });
    let dns = warp::path!("v1" / "stats" / "dns")
        .and(given.clone())
        .then(|asked: Asked<S>| async move { messages(asked, "dns", |messages| messages.dns).await });
    let http = warp::path!("v1" / "stats" / "http")
        .and(given.clone())
        .then(|asked: Asked<S>| async move { messages(asked, "http", |messages| messages.http).await });
    let alerts = warp::path!("v1" / "alerts").and(given.clone()).then(|asked: Asked<S>| async move {
        match asked.make(S::alerts).await {
            Ok(alerts) => Reply(json(StatusCode::OK, &alerts)),
            Err(failure) => Reply(error(StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string())),
        }
    });
    let drops = warp::path!("v1" / "drops").and(given.clone()).then(|asked: Asked<S>| async move {
        match asked.make(S::drops).await {
            Ok(Some(drops)) => Reply(json(StatusCode::OK, &drops)),
            Ok(None) => Reply(error(StatusCode::SERVICE_UNAVAILABLE, "the collector does not answer")),
            Err(failure) => Reply(error(StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string())),
        }
    });
    let ending = over.clone();
    let flows = warp::path!("v1" / "flows").and(warp::query::<Vec<(String, String)>>()).and(given).then(
        move |pairs: Vec<(String, String)>, asked: Asked<S>| {
            let source = asked.source;
            let (slots, ending) = (Arc::clone(&slots), ending.subscribe());
            async move {
                let request = match parse(&pairs) {
                    Ok(request) => request,
                    Err(bad) => return Reply(error(StatusCode::BAD_REQUEST, &bad.to_string())),
                };
                let Ok(slot) = slots.try_acquire_owned() else {
                    return Reply(error(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "too many dumps at once; try again",
                    ));
                };
                let (chunks, body) = mpsc::channel(CHUNKS);
                let updates = request.follow.then(|| source.subscribe());
                tokio::spawn(async move {
                    let _slot = slot;
                    dump(source, request, chunks, updates, ending).await;
                });
                Reply(streamed(body))
            }
        },
    );
    let unknown = warp::any().map(|| {
        Reply(error(
            StatusCode::NOT_FOUND,
            "there are /v1/status, /v1/flows, /v1/stats/flows, /v1/stats/dns, /v1/stats/http, /v1/alerts, /v1/drops, /v1/packets and /v1/config",
        ))
    });
    let stats = stats.or(dns).unify().or(http).unify();
    let routes = config.or(warp::get().and(
        status.or(stats).unify().or(alerts).unify().or(drops).unify().or(flows).unify().or(unknown).unify(),
    ));
    let stop = async move {
        until.await;
        // Streams that follow end too. Nobody may be following.
        let _ = over.send(());
    };
    let service = TowerToHyperService::new(warp::service(routes));
    http::serve(Server::Control, listener, service, stop).await;
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
    chunks: mpsc::Sender<Bytes>,
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
        if self.chunks.blocking_send(chunk).is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }
}

async fn dump<S: Source>(
    source: Arc<S>,
    request: Request,
    chunks: mpsc::Sender<Bytes>,
    updates: Option<broadcast::Receiver<crate::flow::update::Batch>>,
    mut ending: broadcast::Receiver<()>,
) {
    let Request { filter, which, .. } = request;
    let filter = Arc::new(filter);
    let limit = filter.limit.unwrap_or(usize::MAX);
    // Lines are made on all CPUs, unless they have to be counted or sorted.
    let of = if filter.limit.is_some() || filter.sort.is_some() { 1 } else { cpus() };
    let printing = (0..if updates.is_some() && source.folds() { 0 } else { of }).map(|number| {
        let lines = Lines { chunks: chunks.clone(), text: Vec::new(), left: limit };
        let (source, filter) = (Arc::clone(&source), Arc::clone(&filter));
        tokio::task::spawn_blocking(move || print_part(&*source, &filter, which, Part { number, of }, lines))
    });
    let mut left = limit;
    for printed in printing.collect::<Vec<_>>() {
        let Ok(Some(after)) = printed.await else { return };
        left = after;
    }
    let Some(mut updates) = updates else { return };
    loop {
        let batch = tokio::select! {
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
        if (!text.is_empty() && chunks.send(text.into()).await.is_err()) || left == 0 {
            return;
        }
    }
}

fn cpus() -> u32 {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cpus).unwrap_or(1).min(PRINTERS)
}

/// Prints what is there; returns how many more may be printed, `None` when the client is gone.
fn print_part<S: Source>(
    source: &S,
    filter: &Filter,
    which: Which,
    part: Part,
    mut lines: Lines,
) -> Option<usize> {
    let presenter = source.presenter();
    let mut gone = ControlFlow::Continue(());
    if filter.sort.is_some() {
        let keep = lines.left.min(SORTED);
        let mut heap = BinaryHeap::new();
        source.visit(which, part, &mut |flow| {
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
    } else {
        source.visit(which, part, &mut |flow| {
            if filter.may_match(flow) {
                let record = presenter.record(flow);
                if filter.matches(&record) {
                    gone = lines.put(&record);
                }
            }
            gone
        });
    }
    let flushed = lines.flush();
    (flushed.is_continue() && (gone.is_continue() || lines.left == 0)).then_some(lines.left)
}
