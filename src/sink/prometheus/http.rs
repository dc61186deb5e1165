//! `/metrics`, `/healthz` and `/readyz`.

use std::future::Future;
use std::sync::Arc;

use anyhow::{Context, Result};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use warp::Filter;
use warp::http::{Response, StatusCode};

use super::{Exporter, Readiness};
use crate::http::{self, Server};

/// Scrapes rendered at once; more wait.
const SCRAPES: usize = 2;

/// Listens; the address tells the port when 0 was asked for.
///
/// # Errors
/// When the address is taken or not ours.
pub async fn listen(address: &str, port: u16) -> Result<TcpListener> {
    TcpListener::bind((address, port)).await.with_context(|| {
        format!(
            "cannot serve metrics on {address}:{port} (is something else listening there? \
             set export.prometheus.port to another port, or export.prometheus.enabled to false)"
        )
    })
}

fn text(status: StatusCode, body: impl Into<Vec<u8>>) -> Response<Vec<u8>> {
    http::answer(status, "text/plain; version=0.0.4; charset=utf-8", body.into())
}

async fn metrics(
    exporter: Arc<Exporter>,
    turns: Arc<Semaphore>,
) -> Result<Response<Vec<u8>>, std::convert::Infallible> {
    let turn = turns.acquire_owned().await;
    // Rendering asks the collector and waits for it. Its turn ends with it: clients that don't wait would start any number otherwise.
    let page = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        exporter.render()
    })
    .await;
    Ok(match page {
        Ok(Ok(page)) => text(StatusCode::OK, page),
        Ok(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot render: {error}\n")),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot render: {error}\n")),
    })
}

/// Serves until `until` is over.
pub async fn serve(
    listener: TcpListener,
    exporter: Arc<Exporter>,
    readiness: Readiness,
    until: impl Future<Output = ()> + Send + 'static,
) {
    let turns = Arc::new(Semaphore::new(SCRAPES));
    let scrape = warp::path!("metrics").and_then(move || metrics(Arc::clone(&exporter), Arc::clone(&turns)));
    let health = warp::path!("healthz").map(|| text(StatusCode::OK, "ok\n"));
    let ready = warp::path!("readyz").map(move || match readiness.waiting_for() {
        missing if missing.is_empty() => text(StatusCode::OK, "ready\n"),
        missing => text(StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", missing.join("; "))),
    });
    let routes = warp::get().and(scrape.or(health).or(ready));
    let service = TowerToHyperService::new(warp::service(routes));
    http::serve(Server::Metrics, listener, service, until).await;
}
