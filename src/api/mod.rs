//! The control API: HTTP/1.1 over a unix socket, answered by [`server`], asked by `netmon-cli`.
//!
//! `GET /v1/status`, `GET /v1/flows` (one JSON record a line, streamed; `follow=true` goes on), `GET /v1/stats/flows`, `.../dns` and
//! `.../http`, `GET /v1/alerts`, `GET /v1/drops`.
//! `GET /v1/packets` (one JSON line a packet until it ends), `POST /v1/packets/off`.
//! `GET /v1/config`, `POST /v1/config/reload`, `POST /v1/config/set?KEY=VALUE`, `POST /v1/config/trace?on=true`.
//! Errors are `{"error": "..."}` with a 4xx status. Knows flows only through [`source::Source`].

mod config;
mod dump;
pub mod filter;
pub mod packets;
pub mod server;
pub mod source;
pub mod status;

pub use filter::Filter;
pub use source::Source;
