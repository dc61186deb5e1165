//! HTTP/1.1 for all servers of the agent: clients that are slow, idle or too many hold nobody up.
//!
//! A connection that brings no whole request for [`HEAD`] is closed. When as many are open as a server takes, the one that was
//! opened first among those for which no answer is being made gives way to the newest; where all have one, the newest is turned away.
//! Both are counted. An answer that is made and only waits for its reader does not count: who never reads holds no place for good.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io::{ErrorKind, Result};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{self, AbortHandle, JoinError, JoinSet};

/// Time that the head of a request may take, and that a connection may be idle between two: no common scrape interval.
const HEAD: Duration = Duration::from_secs(20);
/// Longest head. Where so much waits for a slow reader, beside the socket's buffer, no further part of an answer is taken.
const BUFFER_BYTES: usize = 64 * 1024;
/// Time that answers have to end in when the server does.
const DRAIN: Duration = Duration::from_secs(5);
/// After it could not accept: files may be closed by then.
const PAUSE: Duration = Duration::from_secs(1);

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// `/metrics`.
    Metrics,
    /// The control socket.
    Control,
    /// The debug server.
    Debug,
}

static TURNED_AWAY: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

impl Server {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Metrics, Self::Control, Self::Debug];

    /// Label of metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Control => "control",
            Self::Debug => "debug",
        }
    }

    /// Connections that it has had to close for want of room.
    pub fn turned_away(self) -> u64 {
        TURNED_AWAY[self as usize].load(Ordering::Relaxed)
    }

    /// Connections at once.
    fn room(self) -> usize {
        match self {
            // Each may hold a page of some megabytes that its client does not read.
            Self::Metrics => 64,
            Self::Control => 128,
            Self::Debug => 16,
        }
    }
}

/// Where connections come from.
pub trait Listener {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next one.
    fn next(&self) -> impl Future<Output = Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

/// An open connection.
struct Open {
    task: AbortHandle,
    /// Has one more owner for each answer that is being made.
    answering: Arc<()>,
}

impl Open {
    fn is_answering(&self) -> bool {
        // The task owns one.
        Arc::strong_count(&self.answering) > 2
    }
}

fn forget(open: &mut VecDeque<Open>, ended: std::result::Result<(task::Id, ()), JoinError>) {
    let id = match ended {
        Ok((id, ())) => id,
        Err(error) => error.id(),
    };
    open.retain(|open| open.task.id() != id);
}

/// An answer.
pub fn answer<B>(status: StatusCode, kind: &'static str, body: B) -> Response<B> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Serves until `until` is over, then answers what it has begun to.
pub async fn serve<S, B>(server: Server, listener: impl Listener, service: S, until: impl Future<Output = ()>)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: Body + Send + Sync + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let graceful = GracefulShutdown::new();
    let mut tasks = JoinSet::new();
    // The oldest first.
    let mut open: VecDeque<Open> = VecDeque::new();
    let mut until = pin!(until);
    loop {
        let stream = tokio::select! {
            () = &mut until => break,
            Some(ended) = tasks.join_next_with_id() => {
                forget(&mut open, ended);
                continue;
            }
            accepted = listener.next() => match accepted {
                Ok(stream) => stream,
                // Its client has thought better of it.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    tracing::warn!(server = server.name(), %error, "clients can't be let in: trying again in a second");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        if open.len() >= server.room() {
            TURNED_AWAY[server as usize].fetch_add(1, Ordering::Relaxed);
            let Some(idle) = open.iter().position(|open| !open.is_answering()).and_then(|at| open.remove(at))
            else {
                continue;
            };
            idle.task.abort();
            // It is gone, and its file closed, before there is another.
            while tasks.len() >= server.room()
                && let Some(ended) = tasks.join_next_with_id().await
            {
                forget(&mut open, ended);
            }
        }
        let answering = Arc::new(());
        let held = Arc::clone(&answering);
        let service = service.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let held = Arc::clone(&held);
            // An authority alone is for CONNECT (RFC 9112 3.2.3), which nobody here answers; what is behind takes a path for granted.
            if request.uri().path_and_query().is_none() {
                *request.uri_mut() = Uri::from_static("/");
            }
            let answer = service.call(request);
            async move {
                // Held until hyper has the last of the body, not until its reader has it: a page is one frame and queued as a whole.
                answer.await.map(|response| {
                    response.map(|body| {
                        body.map_frame(move |frame| {
                            let _held = &held;
                            frame
                        })
                    })
                })
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        let task = tasks.spawn(async move {
            // What a client does is its affair.
            if let Err(error) = connection.await {
                tracing::debug!(server = server.name(), %error, "a connection ended early");
            }
        });
        open.push_back(Open { task, answering });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::info!(server = server.name(), "clients that did not let go were cut off");
    }
}
