//! What the API asks the agent for.

use std::sync::Arc;

use tokio::sync::broadcast;

use super::status::Status;
use crate::collector::{Flows, Handle};
use crate::detect::alert::AlertRecord;
use crate::flow::present::Presenter;
use crate::flow::update::{Batch, Flow};
use crate::kernel::messages::Messages;
use crate::kernel::stats::DropStats;
use crate::reload::Reloader;

/// The agent, seen from the API.
pub trait Source: Send + Sync + 'static {
    /// The agent's state. Blocking.
    fn status(&self) -> Status;
    /// The flows of the table. Blocking.
    fn flows(&self) -> Flows;
    /// Flows that have ended lately, newest first. Asked for after [`Self::flows`] it may tell some of those a second time; one that
    /// ends in between stands here some 100 ms later.
    fn ended(&self) -> Vec<Flow>;
    /// Turns flows into records.
    fn presenter(&self) -> Presenter;
    /// Signs of attack, newest first.
    fn alerts(&self) -> Vec<AlertRecord>;
    /// Packets that the kernel dropped; `None` once the collector has ended. Blocking.
    fn drops(&self) -> Option<DropStats>;
    /// DNS and HTTP/1. Blocking.
    fn messages(&self) -> Messages;
    /// Whether updates are folded (`flow.aggregation`): then each is what happened in an interval, and goes with no flow of
    /// the table.
    fn folds(&self) -> bool;
    /// Who owns the configuration.
    fn reloader(&self) -> Arc<Reloader>;
    /// Who traces packets.
    fn collector(&self) -> Handle;
    /// Updates from now on.
    fn subscribe(&self) -> broadcast::Receiver<Batch>;
}
