//! Serving the control socket.

use std::future::Future;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use futures_util::Stream;
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast, mpsc};
use warp::Filter as _;
use warp::http::{Response, StatusCode};
use warp::hyper::body::Bytes;
use warp::path::FullPath;

use super::source::Source;
use super::status::FlowTally;
use super::{config, dump, packets};
use crate::collector::{Moved, Part};
use crate::http::{self, Server};

/// Answers that are being made at once, dumps aside; more wait, and are forgotten when their client goes.
pub(super) const TURNS: usize = 4;

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

/// What is streamed: bytes, or why they break off.
pub(super) type Chunk = Result<Bytes, Moved>;
type Body = Pin<Box<dyn Stream<Item = Chunk> + Send + Sync>>;

pub(super) struct Reply(Response<Body>);

impl warp::Reply for Reply {
    fn into_response(self) -> warp::reply::Response {
        self.0.map(|body| warp::reply::stream(body).into_response().into_body())
    }
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let body = futures_util::stream::once(std::future::ready(Ok(Bytes::from(bytes))));
    Reply(http::answer(status, "application/json", Box::pin(body)))
}

/// Lines as they come.
pub(super) fn streamed(mut body: mpsc::Receiver<Chunk>) -> Reply {
    let body = futures_util::stream::poll_fn(move |context| body.poll_recv(context));
    Reply(http::answer(StatusCode::OK, "application/x-ndjson", Box::pin(body)))
}

pub(super) fn error(status: StatusCode, message: &str) -> Reply {
    json(status, &serde_json::json!({ "error": message }))
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
    pub(super) async fn answer(self, make: impl FnOnce(&Arc<S>) -> Reply + Send + 'static) -> Reply {
        let turn = self.turns.acquire_owned().await;
        let made = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            make(&self.source)
        });
        made.await.unwrap_or_else(|failure| error(StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string()))
    }
}

fn flow_stats<S: Source>(source: &Arc<S>) -> Reply {
    let mut tally = FlowTally::default();
    let read = source.flows().visit(Part::WHOLE, &mut |flow| {
        tally.add(flow);
        ControlFlow::Continue(())
    });
    match read {
        Ok(()) => json(StatusCode::OK, &tally.finish(source.status().kernel_stats.table.map_bytes)),
        Err(moved) => error(StatusCode::SERVICE_UNAVAILABLE, &moved.to_string()),
    }
}

/// What is known of the messages of a protocol.
fn messages(protocol: &str, totals: Option<impl Serialize>) -> Reply {
    match totals {
        Some(totals) => json(StatusCode::OK, &totals),
        None => error(
            StatusCode::NOT_FOUND,
            &format!(
                "{protocol} messages are not looked at: features.protocol_detection is off or leaves {protocol} out"
            ),
        ),
    }
}

/// What stands at a path and takes no parameters.
async fn page<S: Source>(path: FullPath, asked: Asked<S>) -> Reply {
    let make: fn(&Arc<S>) -> Reply = match path.as_str() {
        "/v1/status" => |source| json(StatusCode::OK, &source.status()),
        "/v1/stats/flows" => flow_stats,
        "/v1/stats/dns" => |source| messages("dns", source.messages().dns),
        "/v1/stats/http" => |source| messages("http", source.messages().http),
        "/v1/alerts" => |source| json(StatusCode::OK, &source.alerts()),
        "/v1/drops" => |source| match source.drops() {
            Some(drops) => json(StatusCode::OK, &drops),
            None => error(StatusCode::SERVICE_UNAVAILABLE, "the collector does not answer"),
        },
        _ => {
            return error(
                StatusCode::NOT_FOUND,
                "there are /v1/status, /v1/flows, /v1/stats/flows, /v1/stats/dns, /v1/stats/http, /v1/alerts, /v1/drops, /v1/packets and /v1/config",
            );
        }
    };
    asked.answer(make).await
}

/// Serves until `until` is over.
pub async fn serve<S: Source>(
    listener: UnixListener,
    source: Arc<S>,
    until: impl Future<Output = ()> + Send + 'static,
) {
    let (over, _) = broadcast::channel::<()>(1);
    let config = config::routes(source.reloader());
    let flows = dump::routes(Arc::clone(&source), over.clone());
    let asked = Asked { source, turns: Arc::new(Semaphore::new(TURNS)) };
    let packets = packets::routes(asked.clone(), over.clone());
    let given = warp::any().map(move || asked.clone());
    let pages = warp::get().and(warp::path::full()).and(given).then(page);
    let routes = config.or(packets).unify().or(flows).unify().or(pages);
    let stop = async move {
        until.await;
        // Streams that follow end too. Nobody may be following.
        let _ = over.send(());
    };
    let service = TowerToHyperService::new(warp::service(routes));
    http::serve(Server::Control, listener, service, stop).await;
}
