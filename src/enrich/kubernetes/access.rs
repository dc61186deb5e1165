//! The way to the API server: who we are, where it is, and what an answer that is none means.
//!
//! Every wait is bounded. After anything that hints at a stale connection, certificate or token the client is made anew, which
//! reads token and authorities from their files again: a pooled connection whose other end has vanished would otherwise be
//! taken again for the next try.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http_body_util::BodyExt;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::Deserialize;

/// Bytes of a refusal that are read.
const REFUSAL_MAX: usize = 64 << 10;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// No service account and no kubeconfig, or they can't be read.
    NoAccess,
    /// No connection, or it broke.
    Unreachable,
    /// Nothing came for too long.
    Silent,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404: the server has no such thing.
    NotFound,
    /// 410: the version is too old.
    Gone,
    /// The version is ahead of the server, which has been set back.
    Ahead,
    /// 400 or 422: the server does not do what was asked.
    Refused,
    /// 429.
    Busy,
    /// 5xx.
    Failing,
    /// Not what an API server says.
    Malformed,
    /// The answer ended before its time.
    Ended,
}

impl Reason {
    /// The name used in labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoAccess => "no_access",
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Gone => "gone",
            Self::Ahead => "ahead",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::Failing => "failing",
            Self::Malformed => "malformed",
            Self::Ended => "ended",
        }
    }

    /// Whether a new client may do better.
    pub(super) fn is_of_the_connection(self) -> bool {
        matches!(self, Self::Unreachable | Self::Silent | Self::Unauthorized | Self::NoAccess)
    }
}

/// No answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// In words.
    pub message: String,
    /// How long the server asks us to wait.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// One of our own.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), retry_after: None }
    }

    /// What a `Status` object in a stream says.
    pub fn of_status(bytes: &[u8]) -> Self {
        match serde_json::from_slice::<Refusal>(bytes) {
            Ok(refusal) => refusal.failure(StatusCode::from_u16(refusal.code).unwrap_or_default(), None),
            Err(error) => Self::new(Reason::Malformed, format!("an error that can't be read: {error}")),
        }
    }
}

/// `v1` Status.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    message: String,
    reason: String,
    code: u16,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Details {
    retry_after_seconds: u64,
    causes: Option<Vec<Cause>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
}

impl Refusal {
    fn failure(&self, status: StatusCode, retry_after: Option<Duration>) -> Failure {
        let causes = self.details.iter().flat_map(|details| details.causes.iter().flatten());
        let ahead = causes.into_iter().any(|cause| cause.reason == "ResourceVersionTooLarge");
        let reason = match status.as_u16() {
            _ if ahead => Reason::Ahead,
            401 => Reason::Unauthorized,
            403 => Reason::Forbidden,
            404 => Reason::NotFound,
            410 => Reason::Gone,
            429 => Reason::Busy,
            400..=499 => Reason::Refused,
            // An error event may come without a code.
            _ if matches!(self.reason.as_str(), "Expired" | "Gone") => Reason::Gone,
            500..=599 => Reason::Failing,
            _ => Reason::Malformed,
        };
        let asked = self.details.as_ref().map(|details| details.retry_after_seconds).filter(|s| *s > 0);
        Failure {
            reason,
            message: format!("{}: {}", status.as_u16(), self.message.trim()),
            retry_after: retry_after.or(asked.map(Duration::from_secs)),
        }
    }
}

struct Made {
    number: u64,
    client: Client,
    server: String,
}

/// The way to the API server.
pub struct Access {
    kubeconfig: Option<PathBuf>,
    /// A connection and the beginning of an answer may take so long.
    patience: Duration,
    made: Mutex<(u64, Option<Made>)>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("server", &self.server()).finish_non_exhaustive()
    }
}

impl Access {
    /// By a kubeconfig, or by what the surroundings say: the pod's service account, else `KUBECONFIG` or `~/.kube/config`.
    /// A connection and the beginning of an answer may take as long as `patience`.
    pub fn new(kubeconfig: Option<PathBuf>, patience: Duration) -> Self {
        Self { kubeconfig, patience, made: Mutex::new((0, None)) }
    }

    /// The server's address, once it is known.
    pub fn server(&self) -> Option<String> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.1.as_ref().map(|made| made.server.clone())
    }

    async fn config(&self) -> Result<Config, String> {
        if let Some(file) = &self.kubeconfig {
            let kubeconfig = Kubeconfig::read_from(file).map_err(|error| chain(&error))?;
            let options = KubeConfigOptions::default();
            return Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| chain(&error));
        }
        // In a pod nobody but its service account is meant, whatever lies in the image.
        if std::env::var_os("KUBECONFIG").is_none()
            && let Ok(config) = Config::incluster()
        {
            return Ok(config);
        }
        Config::infer().await.map_err(|error| chain(&error))
    }

    async fn client(&self) -> Result<(u64, Client), Failure> {
        {
            let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(made) = &made.1 {
                return Ok((made.number, made.client.clone()));
            }
        }
        let no_access = |why: String| {
            Failure::new(
                Reason::NoAccess,
                format!("no way to an API server is known (service account, KUBECONFIG): {why}"),
            )
        };
        let mut config = self.config().await.map_err(no_access)?;
        config.connect_timeout = Some(self.patience);
        // Each watch has its own idea of silence, and its own retries.
        config.read_timeout = None;
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|error| no_access(chain(&error)))?;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.0 += 1;
        let number = made.0;
        made.1 = Some(Made { number, client: client.clone(), server });
        Ok((number, client))
    }

    /// The next request takes another connection and reads the token again; only the first of several that fail alike does
    /// it.
    fn renew(&self, number: u64) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.1.take_if(|made| made.number == number);
    }

    /// Asks for something whose answer is read piece by piece.
    ///
    /// # Errors
    /// When there is no answer in time, or a refusal.
    pub async fn get(&self, path: &str, accept: &str) -> Result<Answer<'_>, Failure> {
        self.send(Method::GET, path, accept, None).await
    }

    /// Sends an object, as `application/json` or a patch of another type.
    ///
    /// # Errors
    /// When there is no answer in time, or a refusal.
    pub async fn write(
        &self,
        method: Method,
        path: &str,
        kind: &'static str,
        body: Vec<u8>,
    ) -> Result<(), Failure> {
        let mut answer = self.send(method, path, "application/json", Some((kind, body))).await?;
        // Read to its end, so that the connection serves again.
        while answer.chunk(self.patience).await?.is_some() {}
        Ok(())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&'static str, Vec<u8>)>,
    ) -> Result<Answer<'_>, Failure> {
        let (number, client) = match tokio::time::timeout(self.patience, self.client()).await {
            Ok(client) => client?,
            Err(_) => return Err(Failure::new(Reason::NoAccess, "the credentials can't be read in time")),
        };
        let answer = async {
            let mut request = Request::builder().method(method).uri(path).header(ACCEPT, accept);
            let body = match body {
                Some((kind, body)) => {
                    request = request.header(CONTENT_TYPE, kind);
                    Body::from(body)
                }
                None => Body::empty(),
            };
            let request = request
                .body(body)
                .map_err(|error| Failure::new(Reason::Malformed, format!("{path}: {error}")))?;
            let sent = tokio::time::timeout(self.patience, client.send(request)).await;
            let response = sent
                .map_err(|_| Failure::new(Reason::Silent, format!("no answer within {:?}", self.patience)))?
                .map_err(|error| Failure::new(Reason::Unreachable, chain(&error)))?;
            if response.status().is_success() {
                Ok(Answer { access: self, number, body: response.into_body() })
            } else {
                Err(self.refusal(response).await)
            }
        };
        let answer: Result<Answer<'_>, Failure> = answer.await;
        if let Err(failure) = &answer
            && failure.reason.is_of_the_connection()
        {
            self.renew(number);
        }
        answer
    }

    async fn refusal(&self, response: Response<Body>) -> Failure {
        let status = response.status();
        let retry_after =
            response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(wait);
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        let read = async {
            while let Some(Ok(frame)) = body.frame().await {
                bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                if bytes.len() > REFUSAL_MAX {
                    break;
                }
            }
        };
        // What has come so far says enough.
        let _ = tokio::time::timeout(self.patience, read).await;
        let refusal = serde_json::from_slice(&bytes).unwrap_or_else(|_| Refusal {
            // A proxy's page.
            message: String::from_utf8_lossy(&bytes).chars().take(200).collect(),
            ..Refusal::default()
        });
        refusal.failure(status, retry_after)
    }
}

/// `Retry-After`: seconds, or a date.
fn wait(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    SystemTime::from(date).duration_since(SystemTime::now()).ok()
}

/// An error with its causes: the outermost word alone is often `error trying to connect`.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

/// An answer that is read piece by piece.
pub struct Answer<'a> {
    access: &'a Access,
    number: u64,
    body: Body,
}

impl Answer<'_> {
    /// The next piece, `None` at the end.
    ///
    /// # Errors
    /// When nothing comes for as long as `silence`, or the connection breaks.
    pub async fn chunk(&mut self, silence: Duration) -> Result<Option<Bytes>, Failure> {
        loop {
            let failure = match tokio::time::timeout(silence, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    // Trailers.
                    Err(_) => continue,
                },
                Ok(Some(Err(error))) => Failure::new(Reason::Unreachable, chain(&error)),
                Err(_) => Failure::new(Reason::Silent, format!("nothing came for {silence:?}")),
            };
            self.access.renew(self.number);
            return Err(failure);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_a_number_of_seconds_or_a_date() {
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("Fri, 31 Dec 1999 23:59:59 GMT"), None);
        assert!(wait("Fri, 31 Dec 2100 23:59:59 GMT").is_some_and(|wait| wait > Duration::from_secs(1000)));
        assert_eq!(wait("soon"), None);
    }

    #[test]
    fn what_a_refusal_means_is_told_by_code_and_cause() {
        let of = |json: &str| Failure::of_status(json.as_bytes()).reason;
        assert_eq!(of(r#"{"code":410,"reason":"Expired"}"#), Reason::Gone);
        assert_eq!(of(r#"{"code":500,"reason":"InternalError"}"#), Reason::Failing);
        assert_eq!(
            of(
                r#"{"code":504,"details":{"causes":[{"reason":"ResourceVersionTooLarge"}],"retryAfterSeconds":1}}"#
            ),
            Reason::Ahead
        );
        assert_eq!(of("[]"), Reason::Malformed);
    }
}
