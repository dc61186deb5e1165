//! Flows: what a conversation is, what became of it, and how it is told.
//!
//! Owns the types that every other room speaks: [`key`] (between whom), [`mod@who`] (whose sockets), [`app`] (in which protocol),
//! [`messages`] (what was asked), [`measured`] (how well), [`tunnel`] (in what), [`update`] (what the collector reports),
//! [`record`] (what users read), and the rules that lead from one to the next: [`verdict`], [`direction`],
//! [`present`], [`fold`]. Pure: nothing here touches the kernel, the network or a clock.

pub mod app;
pub mod cidr;
pub mod direction;
pub mod fold;
pub mod key;
pub mod measured;
pub mod messages;
pub mod present;
pub mod record;
#[cfg(test)]
mod tests;
pub mod tunnel;
pub mod update;
pub mod verdict;
pub mod who;
