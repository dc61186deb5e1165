//! HTTP over the control socket.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

/// Of an answer that has no end.
const BROKE_OFF: &str = "the answer broke off: the agent has gone, or its flow table had to move before all was read \
    (its log says so); try again";

/// The agent did not accept what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub(super) String);

/// Asks one agent.
pub struct Client {
    socket: PathBuf,
}

/// A body, line by line.
pub struct Lines {
    body: Incoming,
    rest: Vec<u8>,
    /// Where the next line begins.
    start: usize,
}

fn unreachable(error: &std::io::Error, socket: &Path) -> anyhow::Error {
    let shown = socket.display();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => anyhow!(
            "no netmon agent answers on {shown}; start one (`sudo netmon`), or name its socket with --socket or NETMON_SOCKET"
        ),
        ErrorKind::PermissionDenied => anyhow!(
            "not allowed to talk to {shown}; use sudo, or become a member of the group that owns the socket (netmon)"
        ),
        _ => anyhow!("cannot connect to {shown}: {error}"),
    }
}

/// A page of the agent's HTTP server.
///
/// # Errors
/// When nobody answers, or with an error.
pub async fn page(address: &str, port: u16, path: &str) -> Result<String> {
    let stream = TcpStream::connect((address, port)).await;
    let stream = stream.with_context(|| format!("cannot connect to {address}:{port}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("greet the agent")?;
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "netmon").body(Empty::<Bytes>::new());
    let response = sender.send_request(request.context("ask the agent")?).await.context("ask the agent")?;
    let status = response.status();
    let body = response.into_body().collect().await.context("read the answer")?.to_bytes();
    anyhow::ensure!(status == StatusCode::OK, "{address}:{port} answered {status}");
    Ok(String::from_utf8_lossy(&body).into_owned())
}

impl Client {
    /// For the agent behind this socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.into() }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(String, String)],
    ) -> Result<Response<Incoming>> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| unreachable(&error, &self.socket))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("greet the agent")?;
        // Its end is seen as the end of the body.
        tokio::spawn(connection);
        let query = serde_urlencoded::to_string(query).context("ask the agent")?;
        let request = Request::builder()
            .method(method)
            .uri(format!("{path}?{query}"))
            .header("host", "netmon")
            // A slow reader of a long answer is then not taken for one that is idle.
            .header("connection", "close")
            .body(Empty::<Bytes>::new())
            .context("ask the agent")?;
        let response = sender.send_request(request).await.context("ask the agent")?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let status = response.status();
        let body = response.into_body().collect().await.context("read the agent's refusal")?.to_bytes();
        let message = serde_json::from_slice::<serde_json::Value>(&body)
            .ok()
            .and_then(|value| Some(value.get("error")?.as_str()?.to_owned()))
            .unwrap_or_else(|| format!("the agent answered {status}"));
        if status == StatusCode::BAD_REQUEST { Err(Refused(message).into()) } else { Err(anyhow!(message)) }
    }

    /// One answer.
    ///
    /// # Errors
    /// When nobody answers, or not what was expected.
    pub async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.answer(Method::GET, path, &[]).await
    }

    /// Has something done.
    ///
    /// # Errors
    /// When nobody answers, or the agent refuses.
    pub async fn post<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        query: &[(String, String)],
    ) -> Result<T> {
        self.answer(Method::POST, path, query).await
    }

    async fn answer<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(String, String)],
    ) -> Result<T> {
        let body = self.ask(method, path, query).await?.into_body();
        let body = body.collect().await.context("read the answer")?;
        serde_json::from_slice(&body.to_bytes())
            .context("the agent's answer is not understood (are netmon and netmon-cli of one version?)")
    }

    /// An answer line by line.
    ///
    /// # Errors
    /// When nobody answers, or the agent refuses.
    pub async fn lines(&self, path: &str, query: &[(String, String)]) -> Result<Lines> {
        let body = self.ask(Method::GET, path, query).await?.into_body();
        Ok(Lines { body, rest: Vec::new(), start: 0 })
    }
}

impl Lines {
    /// The next line without its end; `None` when the answer is over.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> Result<Option<&[u8]>> {
        let mut searched = self.start;
        loop {
            if let Some(length) = self.rest[searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.start..searched + length;
                self.start = line.end + 1;
                return Ok(Some(&self.rest[line]));
            }
            self.rest.drain(..std::mem::take(&mut self.start));
            searched = self.rest.len();
            match self.chunk().await? {
                Some(data) => self.rest.extend_from_slice(&data),
                None => return Ok(None),
            }
        }
    }

    /// The next piece of the answer as it came, which may end within a line; not to be mixed with [`Self::next`].
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.context(BROKE_OFF)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}
