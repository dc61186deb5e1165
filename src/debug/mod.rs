//! The debug server (`debug.server`): where the agent spends its time, its flows, its configuration. Off unless asked for.
//!
//! `/debug/pprof/profile?seconds=N` is for `go tool pprof` and its kin; `/debug/flows?limit=N` has one record a line;
//! `/debug/config` is what is in force, secrets hidden.

pub mod pprof;
pub mod symbols;

use std::collections::HashMap;
use std::future::Future;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warp::Filter;
use warp::http::{Response, StatusCode};

use crate::api::Source;
use crate::collector::{Moved, Part};
use crate::http::{self, Server};
use crate::kernel::sampling::{Sample, Sampler};
use pprof::Profile;

/// Samples a second of CPU time: no round number, so that nothing keeps step with it.
const HERTZ: u64 = 97;
/// Time between two readings of the samples.
const DRAIN: Duration = Duration::from_millis(250);
/// Seconds of a profile: when nothing is said, and at most.
const SECONDS: (u64, u64) = (30, 300);
/// Flows: when nothing is said, and at most.
const FLOWS: (u64, u64) = (1000, 100_000);

type Query = HashMap<String, String>;

/// Tells the configuration that is in force, without secrets.
pub type ReadConfig = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// Listens.
///
/// # Errors
/// When the address is taken or not ours.
pub async fn listen(address: &str) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    let listener =
        listener.with_context(|| format!("cannot serve debugging pages on {address} (debug.server)"))?;
    let local = listener.local_addr().context("ask for the debug server's address")?;
    if local.ip().is_loopback() {
        tracing::info!(address = %local, "serving debugging pages");
    } else {
        tracing::warn!(address = %local, "serving debugging pages to whoever reaches this address: flows are told to all");
    }
    Ok(listener)
}

fn refusal(status: StatusCode, message: &str) -> Response<Vec<u8>> {
    http::answer(status, "text/plain; charset=utf-8", format!("{message}\n").into_bytes())
}

/// A number of the query; a default when it is not there.
fn number(query: &Query, name: &str, (default, most): (u64, u64)) -> Result<u64, String> {
    let Some(text) = query.get(name) else { return Ok(default) };
    match text.parse::<u64>() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(format!("{name} is a whole number from 1 to {most}, not {text}")),
    }
}

/// Serves until `until` is over.
pub async fn serve<S: Source>(
    listener: TcpListener,
    source: Arc<S>,
    config: ReadConfig,
    until: impl Future<Output = ()> + Send + 'static,
) {
    // One of each at a time.
    let (profiling, dumping) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(1)));
    let query = warp::query::<Query>;
    let profile = warp::path!("debug" / "pprof" / "profile").and(query()).then(move |query: Query| {
        let turn = Arc::clone(&profiling).try_acquire_owned();
        let seconds = number(&query, "seconds", SECONDS);
        async move {
            match (turn, seconds) {
                (_, Err(refused)) => refusal(StatusCode::BAD_REQUEST, &refused),
                (Err(_), _) => {
                    refusal(StatusCode::SERVICE_UNAVAILABLE, "a profile is being taken; try again")
                }
                (Ok(turn), Ok(seconds)) => take_profile(seconds, turn).await,
            }
        }
    });
    let flows = warp::path!("debug" / "flows").and(query()).then(move |query: Query| {
        let turn = Arc::clone(&dumping).try_acquire_owned();
        let source = Arc::clone(&source);
        let limit = number(&query, "limit", FLOWS);
        async move {
            match (turn, limit) {
                (_, Err(refused)) => refusal(StatusCode::BAD_REQUEST, &refused),
                (Err(_), _) => refusal(StatusCode::SERVICE_UNAVAILABLE, "flows are being told; try again"),
                (Ok(turn), Ok(limit)) => {
                    let limit = usize::try_from(limit).unwrap_or(1);
                    let made = tokio::task::spawn_blocking(move || {
                        // To its end, whether its client waits or not.
                        let _turn = turn;
                        lines(&*source, limit)
                    })
                    .await;
                    match made {
                        Ok(Ok(lines)) => http::answer(StatusCode::OK, "application/x-ndjson", lines),
                        Ok(Err(moved)) => refusal(StatusCode::SERVICE_UNAVAILABLE, &moved.to_string()),
                        Err(failed) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &failed.to_string()),
                    }
                }
            }
        }
    });
    let config = warp::path!("debug" / "config").map(move || {
        let text = serde_json::to_vec_pretty(&config()).unwrap_or_default();
        http::answer(StatusCode::OK, "application/json", text)
    });
    let unknown = warp::any().map(|| {
        refusal(
            StatusCode::NOT_FOUND,
            "there are /debug/pprof/profile?seconds=N, /debug/flows?limit=N and /debug/config",
        )
    });
    let routes = warp::get().and(profile.or(flows).unify().or(config).unify().or(unknown).unify());
    // By names that the compiler can follow.
    let (routes, until) = (routes.boxed(), Box::pin(until));
    let service = TowerToHyperService::new(warp::service(routes));
    http::serve(Server::Debug, listener, service, until).await;
}

fn lines<S: Source>(source: &S, limit: usize) -> Result<Vec<u8>, Moved> {
    let presenter = source.presenter();
    let (mut text, mut left) = (Vec::new(), limit);
    source.flows().visit(Part::WHOLE, &mut |flow| {
        if serde_json::to_writer(&mut text, &presenter.record(flow)).is_ok() {
            text.push(b'\n');
        }
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(text)
}

async fn take_profile(seconds: u64, turn: OwnedSemaphorePermit) -> Response<Vec<u8>> {
    let profile = match sample(Duration::from_secs(seconds)).await {
        Ok(profile) => profile,
        Err(error) => {
            let message = format!(
                "threads can't be sampled: {error}; it takes CAP_PERFMON, or kernel.perf_event_paranoid of 2 at most"
            );
            return refusal(StatusCode::INTERNAL_SERVER_ERROR, &message);
        }
    };
    let encoded = tokio::task::spawn_blocking(move || {
        // To its end, whether its client waits or not.
        let _turn = turn;
        profile.encode()
    });
    match encoded.await.unwrap_or_else(|error| Err(error.into())) {
        Ok(bytes) => http::answer(StatusCode::OK, "application/octet-stream", bytes),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn sample(duration: Duration) -> std::io::Result<Profile> {
    let started = jiff::Timestamp::now();
    let begin = tokio::time::Instant::now();
    let mut sampler = Sampler::start(HERTZ)?;
    let mut counts: HashMap<Sample, u64> = HashMap::new();
    let mut threads: HashMap<u32, String> = HashMap::new();
    while begin.elapsed() < duration {
        tokio::time::sleep(DRAIN.min(duration.saturating_sub(begin.elapsed()))).await;
        sampler.drain(&mut |sample| {
            *counts.entry(sample).or_default() += 1;
            threads.entry(sample.thread).or_insert_with(|| {
                let name = std::fs::read_to_string(format!("/proc/self/task/{}/comm", sample.thread));
                name.map_or_else(|_| "ended".into(), |name| name.trim().to_owned())
            });
        })?;
    }
    Ok(Profile { counts, threads, started, duration: begin.elapsed(), hertz: HERTZ, lost: sampler.lost() })
}
