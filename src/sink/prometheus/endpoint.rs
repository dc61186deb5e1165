//! The metrics server, which can move: to another address, off and on again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use super::{Exporter, Readiness, http};

/// Time that clients have to let go.
const STOP: Duration = Duration::from_secs(2);

/// Owns the server.
pub struct Endpoint {
    exporter: Arc<Exporter>,
    readiness: Readiness,
    serving: Mutex<Option<Serving>>,
}

struct Serving {
    at: (String, u16),
    /// The server ends when it is dropped.
    over: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Serving {
    async fn stop(mut self) {
        drop(self.over);
        if tokio::time::timeout(STOP, &mut self.task).await.is_err() {
            self.task.abort();
            // It has been told to go; that it was is no news.
            let _ = self.task.await;
        }
    }
}

impl Endpoint {
    /// Serves nothing yet.
    pub fn new(exporter: Arc<Exporter>, readiness: Readiness) -> Self {
        Self { exporter, readiness, serving: Mutex::new(None) }
    }

    /// Serves there from now on, or nowhere. If that fails, everything is as it was.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub async fn serve_at(&self, wanted: Option<(String, u16)>) -> Result<()> {
        let mut serving = self.serving.lock().await;
        if serving.as_ref().map(|serving| &serving.at) == wanted.as_ref() {
            return Ok(());
        }
        let listener = match &wanted {
            None => None,
            Some((address, port)) => match http::listen(address, *port).await {
                Ok(listener) => Some(listener),
                // What is in the way may be the server itself: the same port of another address.
                Err(error) => match serving.take_if(|serving| serving.at.1 == *port) {
                    Some(old) => Some(self.replace(old, &mut serving, address, *port).await?),
                    None => return Err(error),
                },
            },
        };
        let old = serving.take();
        if let (Some(at), Some(listener)) = (wanted, listener) {
            *serving = Some(self.start(at, listener)?);
        }
        if let Some(old) = old {
            // Scrapes that are under way are answered.
            tokio::spawn(old.stop());
        }
        Ok(())
    }

    /// Ends the old server to listen on its port; listens there again if that fails.
    async fn replace(
        &self,
        old: Serving,
        serving: &mut Option<Serving>,
        address: &str,
        port: u16,
    ) -> Result<TcpListener> {
        let at = old.at.clone();
        old.stop().await;
        match http::listen(address, port).await {
            Ok(listener) => Ok(listener),
            Err(error) => {
                let again = http::listen(&at.0, at.1).await.context("go back to the old address")?;
                *serving = Some(self.start(at, again)?);
                Err(error)
            }
        }
    }

    fn start(&self, at: (String, u16), listener: TcpListener) -> Result<Serving> {
        let address = listener.local_addr().context("ask for the metrics port")?;
        tracing::info!(%address, "serving metrics");
        let (over, mut ending) = watch::channel(());
        let until = async move {
            // Nothing is ever sent: the other end is what is waited for.
            while ending.changed().await.is_ok() {}
        };
        let served = http::serve(listener, Arc::clone(&self.exporter), self.readiness.clone(), until);
        Ok(Serving { at, over, task: tokio::spawn(served) })
    }

    /// Answers what is under way, and ends.
    pub async fn stop(&self) {
        if let Some(serving) = self.serving.lock().await.take() {
            serving.stop().await;
        }
    }
}
