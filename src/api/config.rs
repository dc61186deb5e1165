//! The configuration over the control socket.

use std::sync::Arc;

use tokio::sync::Semaphore;
use warp::http::StatusCode;
use warp::{Filter, Rejection};

use super::server::{Reply, TURNS, error, json};
use crate::reload::outcome::{Applied, Cause};
use crate::reload::{Refused, Reloader};

/// What `debug trace` asks for.
#[derive(serde::Deserialize)]
struct Trace {
    on: bool,
}

fn reply(outcome: Result<Applied, Refused>) -> Reply {
    match outcome {
        Ok(applied) => json(StatusCode::OK, &applied),
        Err(refused @ (Refused::Config(_) | Refused::NeedsRestart(_))) => {
            error(StatusCode::BAD_REQUEST, &refused.to_string())
        }
        Err(refused @ Refused::Part(_)) => error(StatusCode::CONFLICT, &refused.to_string()),
    }
}

/// A configuration is taken over to its end even if whoever asked for it has gone.
async fn whole(
    turns: Arc<Semaphore>,
    work: impl Future<Output = Result<Applied, Refused>> + Send + 'static,
) -> Reply {
    let turn = turns.acquire_owned().await;
    let work = async move {
        let _turn = turn;
        work.await
    };
    match tokio::spawn(work).await {
        Ok(outcome) => reply(outcome),
        Err(failure) => error(StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string()),
    }
}

/// Shows, reloads and sets.
pub(super) fn routes(
    reloader: Arc<Reloader>,
) -> impl Filter<Extract = (Reply,), Error = Rejection> + Clone + Send + Sync + 'static {
    let given = warp::any().map(move || Arc::clone(&reloader));
    let turns = Arc::new(Semaphore::new(TURNS));
    let turn = warp::any().map(move || Arc::clone(&turns));
    let show = warp::get()
        .and(warp::path!("v1" / "config"))
        .and(given.clone())
        .map(|reloader: Arc<Reloader>| json(StatusCode::OK, &reloader.settings()));
    let reload =
        warp::post().and(warp::path!("v1" / "config" / "reload")).and(given.clone()).and(turn.clone()).then(
            |reloader: Arc<Reloader>, turns| whole(turns, async move { reloader.reload(Cause::Cli).await }),
        );
    let set = warp::post()
        .and(warp::path!("v1" / "config" / "set"))
        .and(warp::query::<Vec<(String, String)>>())
        .and(given.clone())
        .and(turn.clone())
        .then(|pairs: Vec<(String, String)>, reloader: Arc<Reloader>, turns| {
            whole(turns, async move { reloader.set(&pairs).await })
        });
    let trace = warp::post()
        .and(warp::path!("v1" / "config" / "trace"))
        .and(warp::query::<Trace>())
        .and(given)
        .and(turn)
        .then(|asked: Trace, reloader: Arc<Reloader>, turns| {
            whole(turns, async move { reloader.trace(asked.on).await })
        });
    show.or(reload).unify().or(set).unify().or(trace).unify()
}
