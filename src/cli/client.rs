//! HTTP over the control socket.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

/// The head of an answer may take so long, and the whole of one that is no stream. A working agent waits up to 10 s for its flow
/// table to have moved, then reads a million flows, and whoever asked before comes first: less than this would cut those off.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same of an agent that has just let that pass: a bundle asks for many things.
const AGAIN: Duration = Duration::from_secs(1);
/// What to do about an agent that is there and does nothing.
const STUCK: &str = "see whether it is stopped or has no CPU (systemctl status netmon)";
/// Of an answer that has no end.
const BROKE_OFF: &str = "the answer broke off: the agent has gone, or its flow table had to move before all was read \
    (its log says so); try again";

/// The agent did not accept what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub(super) String);

/// No agent is there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Nobody(String);

/// Asks one agent.
pub struct Client {
    socket: PathBuf,
    patience: Duration,
    /// The last answer did not come in time.
    silent: AtomicBool,
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
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => Nobody(format!(
            "no netmon agent answers on {shown}; start one (`sudo netmon`), or name its socket with --socket or NETMON_SOCKET"
        ))
        .into(),
        ErrorKind::PermissionDenied => anyhow!(
            "not allowed to talk to {shown}; use sudo, or become a member of the group that owns the socket (netmon)"
        ),
        // As many wait as may.
        ErrorKind::WouldBlock => anyhow!("the agent on {shown} takes no more connections: {STUCK}"),
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
        Self { socket: socket.into(), patience: PATIENCE, silent: AtomicBool::new(false) }
    }

    /// An answer, if it comes in time.
    async fn in_time<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let silent = self.silent.load(Ordering::Relaxed);
        let patience = if silent { self.patience.min(AGAIN) } else { self.patience };
        let outcome = tokio::time::timeout(patience, answer).await;
        self.silent.store(outcome.is_err(), Ordering::Relaxed);
        outcome.unwrap_or_else(|_| {
            Err(anyhow!(
                "the agent on {} took the connection and does not answer within {} s: {STUCK}",
                self.socket.display(),
                patience.as_secs()
            ))
        })
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
        let whole = async {
            let body = self.ask(method, path, query).await?.into_body();
            body.collect().await.context("read the answer")
        };
        let body = self.in_time(whole).await?;
        serde_json::from_slice(&body.to_bytes())
            .context("the agent's answer is not understood (are netmon and netmon-cli of one version?)")
    }

    /// An answer line by line, however long it takes once it has begun.
    ///
    /// # Errors
    /// When nobody answers, or the agent refuses.
    pub async fn lines(&self, path: &str, query: &[(String, String)]) -> Result<Lines> {
        let body = self.in_time(self.ask(Method::GET, path, query)).await?.into_body();
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use serde_json::Value;

    use super::*;

    /// A socket in a folder of its own, and an impatient client for it.
    fn impatient() -> (tempfile::TempDir, UnixListener, Client) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let client = Client { patience: Duration::from_secs(1), ..Client::new(&socket) };
        (folder, listener, client)
    }

    fn is_late(error: &anyhow::Error) -> bool {
        error.to_string().contains("took the connection and does not answer within 1 s")
    }

    #[tokio::test]
    async fn an_agent_that_answers_nothing_is_not_waited_for_for_ever() {
        let (_folder, _listener, client) = impatient();
        let error = client.get::<Value>("/v1/status").await.unwrap_err();
        assert!(is_late(&error), "{error:#}");
        assert!(client.silent.load(Ordering::Relaxed));
        let error = client.lines("/v1/flows", &[]).await.err().unwrap();
        assert!(is_late(&error), "{error:#}");
    }

    #[tokio::test]
    async fn a_stream_has_all_the_time_after_its_head_and_another_answer_has_not() {
        let (_folder, listener, client) = impatient();
        let agent = std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut asked, _) = listener.accept().unwrap();
                assert!(asked.read(&mut [0; 4096]).unwrap() > 0);
                asked.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n").unwrap();
                std::thread::sleep(Duration::from_secs(2));
                // The second time nobody may be there.
                let _ = asked.write_all(b"{}\n");
            }
        });
        let mut lines = client.lines("/v1/flows", &[]).await.unwrap();
        assert_eq!(lines.next().await.unwrap(), Some(&b"{}"[..]));
        assert!(!client.silent.load(Ordering::Relaxed));
        let error = client.get::<Value>("/v1/status").await.unwrap_err();
        assert!(is_late(&error), "{error:#}");
        agent.join().unwrap();
    }
}
