//! What was sent.

use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// One flow, from the client's side.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Flow {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Client's port.
    pub src_port: u16,
    /// Server's address.
    pub dst: std::net::Ipv4Addr,
    /// Server's port.
    pub dst_port: u16,
    /// Datagrams; TCP: 0, since the kernel makes the segments.
    pub packets: u64,
    /// Payload bytes from the client.
    pub sent: u64,
    /// Payload bytes to the client.
    pub received: u64,
    /// Whether it came about and ended as it should.
    pub ok: bool,
}

/// Totals of a run, and its flows on demand.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Truth {
    /// Seconds from the first to the last packet sent.
    pub seconds: f64,
    /// TCP connections that were begun.
    pub attempted: u64,
    /// Those that came about.
    pub opened: u64,
    /// Those that failed.
    pub failed: u64,
    /// UDP datagrams that the kernel took.
    pub datagrams: u64,
    /// Payload bytes from the client.
    pub sent: u64,
    /// Payload bytes to the client.
    pub received: u64,
    /// Number of flows (5-tuples; a port that is used anew is another flow).
    pub flow_count: u64,
    /// Microseconds from `connect` to the end of the answer: median and 99th percentile.
    pub latency_us: Option<[u64; 2]>,
    /// The flows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flows: Vec<Flow>,
}

impl Truth {
    /// Writes it as JSON.
    pub fn write(&self, file: Option<&Path>) -> Result<()> {
        let out: Box<dyn Write> = match file {
            Some(path) => Box::new(
                std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?,
            ),
            None => Box::new(std::io::stdout()),
        };
        let mut out = BufWriter::new(out);
        serde_json::to_writer(&mut out, self).context("write what was sent")?;
        out.write_all(b"\n")?;
        Ok(out.flush()?)
    }
}
