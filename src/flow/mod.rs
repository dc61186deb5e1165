//! Flows: what a conversation is, what became of it, and how it is told.
//!
//! Owns the types that every other room speaks: [`key`] (who), [`update`] (what the collector
//! reports), [`record`] (what users read). Pure: nothing here touches the kernel, the network or
//! a clock.

pub mod key;
pub mod record;
pub mod update;
