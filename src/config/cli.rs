//! The command line of `netmon`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Where the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Kubernetes if it finds itself in a pod.
    Auto,
    /// A Linux host.
    Systemd,
    /// A Kubernetes node.
    Kubernetes,
}

/// Watches every connection of this host or node.
#[derive(Clone, Debug, Parser)]
#[command(name = "netmon", version, about)]
pub struct Arguments {
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE", env = "NETMON_CONFIG")]
    pub config: Option<PathBuf>,
    /// Watch this interface (name or glob); may be given again. Default: every interface that matters
    #[arg(long, value_name = "IF")]
    pub interface: Vec<String>,
    /// Where the agent runs
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    pub mode: Mode,
    /// For a kernel without BTF: a file with the types of this very kernel (BTF, or ELF that holds it). Not read where the kernel has BTF
    #[arg(long, value_name = "FILE", env = "NETMON_BTF")]
    pub btf: Option<PathBuf>,
    /// Log at debug level
    #[arg(long)]
    pub debug: bool,
    /// How much is logged: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Serve debugging pages on this address, e.g. 127.0.0.1:6060
    #[arg(long, value_name = "ADDR")]
    pub debug_server: Option<String>,
    /// Check the configuration and exit
    #[arg(long)]
    pub check_config: bool,
}

impl Arguments {
    /// What the flags say of the configuration: paths and values.
    pub fn settings(&self) -> Vec<(String, String)> {
        let mut settings = Vec::new();
        let mut put = |path: &str, value: String| settings.push((path.to_owned(), value));
        if !self.interface.is_empty() {
            put("capture.interfaces", self.interface.join(","));
        }
        if self.debug {
            put("log.level", "debug".into());
        }
        if let Some(level) = &self.log_level {
            put("log.level", level.clone());
        }
        if let Some(address) = &self.debug_server {
            put("debug.server", address.clone());
        }
        settings
    }
}
