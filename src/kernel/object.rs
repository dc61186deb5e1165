//! The loaded BPF object: load-time settings, and access to its maps and programs.

use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;

use libbpf_rs::skel::Skel;
use libbpf_rs::{MapCore, MapFlags, ProgramInput};

use super::btf::Types;
use super::decode;
use super::drops::Watch;
use super::load::{LeftOut, Part};
use super::shared::Shared;
use super::skeleton::NetmonSkel;
use super::skeleton::types::{__sk_buff, bss, nm_control, nm_kind};
use super::stats::RunTime;
use super::table::{Layout, Table};
use crate::flow::app::App;
use crate::flow::tunnel::TunnelKind;

/// No table (`NM_NO_TABLE`).
pub const NO_TABLE: u32 = u32::MAX;
/// Entry of the outer map that no packet uses: updating it waits for a grace period.
pub const GRACE_ENTRY: u32 = 3;
/// Entries of the outer map that tables may use.
pub const TABLE_ENTRIES: u32 = 3;

/// How events reach userspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// BPF ring buffer (5.8).
    Ringbuf,
    /// One perf buffer a CPU.
    Perf,
}

impl Transport {
    /// Name in `status` and configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ringbuf => "ringbuf",
            Self::Perf => "perf",
        }
    }
}

/// Load-time settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// `None`: ring buffer if the kernel has it.
    pub transport: Option<Transport>,
    /// Events that fit into the buffer.
    pub event_buffer_events: u64,
    /// What the programs look at beyond counters.
    pub features: Features,
    /// Load the yardsticks of `benches/packet` too.
    pub bench: bool,
    /// Count what the kernel drops, if it can be had.
    pub drops: bool,
    /// File with the kernel's types, for a kernel that has no BTF.
    pub btf: Option<PathBuf>,
}

/// What the programs look at beyond counters (`NM_FEATURE_`). What is off is not in the loaded programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Round trips, first bytes and signs of loss.
    pub timing: bool,
    /// A round trip for every segment, not ten a second.
    pub precise: bool,
    /// Round trips by the network card's stamps where it gives them.
    pub hardware: bool,
    /// Application protocols, those that may be told.
    pub protocols: Vec<App>,
    /// Processes and cgroups of local ends.
    pub who: bool,
    /// Translated conversations are joined through conntrack (`nm_nat`).
    pub nat: bool,
    /// How conntrack is asked; `None`: by the programs, if they may.
    pub conntrack: Option<By>,
    /// Tunnels whose inner packets are counted.
    pub tunnels: Option<LookInto>,
    /// Messages of application protocols, with `protocols` only.
    pub messages: MessageFeatures,
    /// Upper bounds of the buckets of all histograms, microseconds.
    pub bounds_us: Vec<u32>,
}

/// How conntrack is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The programs read its entries: a translation is known with the packet.
    Programs,
    /// The agent follows it by netlink: known some time after the first packets.
    Netlink,
}

/// Tunnels that are looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookInto {
    /// Which.
    pub kinds: Vec<TunnelKind>,
    /// Flows at most whose tunnel is noted; 16 bytes each, and some 130 when it is.
    pub flows: u32,
}

/// Which messages are looked into.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageFeatures {
    /// DNS queries and responses.
    pub dns: bool,
    /// The last name that was asked for in a flow.
    pub dns_names: bool,
    /// What TLS clients ask for: server and protocol.
    pub tls_names: bool,
    /// HTTP/1 responses, with a place of their own for so many servers.
    pub http_servers: Option<u32>,
}

impl Features {
    pub(super) fn bits(&self) -> u32 {
        u32::from(self.timing)
            | u32::from(self.precise && self.timing) << 1
            | u32::from(!self.protocols.is_empty()) << 2
            | u32::from(self.who) << 3
            | u32::from(self.hardware && self.timing) << 4
            | if self.protocols.is_empty() { 0 } else { self.messages.bits() }
    }

    /// What is loaded: precision is a matter of switching alone.
    pub(super) fn loaded_bits(&self) -> u32 {
        self.bits() | u32::from(self.timing) << 1
    }

    /// Protocols that may be told.
    fn apps(&self) -> u32 {
        self.protocols.iter().fold(0, |set, app| set | 1 << decode::app_number(*app))
    }

    /// What a slot must hold for it.
    pub fn layout(&self) -> Layout {
        if self.bits() == 0 { Layout::Narrow } else { Layout::Wide }
    }
}

impl MessageFeatures {
    fn bits(&self) -> u32 {
        u32::from(self.dns) << 8
            | u32::from(self.dns && self.dns_names) << 9
            | u32::from(self.http_servers.is_some()) << 10
            | u32::from(self.tls_names) << 11
    }
}

/// The object, loaded. Only the collector thread holds it.
pub struct Object {
    /// Programs and maps.
    pub(super) skel: NetmonSkel<'static>,
    /// What the programs call `.bss`. The skeleton's own reference to it is not for memory that others write.
    pub(super) bss: Shared,
    /// Where the kernel's types were read.
    pub(super) types: Types,
    pub(super) transport: Transport,
    pub(super) features: Features,
    /// Unless translated conversations are left alone.
    pub(super) conntrack: Option<By>,
    /// Unless drops are left out.
    pub(super) drops: Option<Watch>,
    /// Unless they are switched off.
    pub(super) drops_on: bool,
    pub(super) left_out: Vec<LeftOut>,
}

impl Object {
    /// How events travel.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Where the kernel's types were read.
    pub fn types(&self) -> &Types {
        &self.types
    }

    /// What the programs look at.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Switches features, from the next packet on: those that are loaded. What is not loaded stays off.
    pub fn switch(&mut self, features: &Features, drops: bool) {
        self.drops_on = drops;
        self.set_control(|control| {
            control.apps = features.apps();
            control.features = features.bits() | u32::from(drops) << 5;
        });
    }

    /// What was asked for and is not done.
    pub fn left_out(&self) -> Vec<LeftOut> {
        self.left_out.clone()
    }

    /// How conntrack is asked; `None`: not at all.
    pub fn conntrack(&self) -> Option<By> {
        self.conntrack
    }

    /// Why a part is left out, if it is.
    pub fn without(&self, part: Part) -> Option<&str> {
        self.left_out.iter().find(|out| out.part == part).map(|out| out.why.as_str())
    }

    /// Goes on without a part.
    pub fn leave_out(&mut self, part: Part, why: String) {
        self.left_out.push(LeftOut { part, why });
    }

    /// The words shared with the programs, as they are now.
    pub fn control(&self) -> nm_control {
        self.bss.load(offset_of!(bss, nm_control)).unwrap_or_default()
    }

    /// Changes some of them. Programs may see two as changed before all are.
    pub fn set_control(&self, change: impl Fn(&mut nm_control)) {
        self.bss.update(offset_of!(bss, nm_control), change);
    }

    /// Puts a table into an entry of the outer map. Returns after a grace period: every program that could
    /// still see what was there before has finished (kernel commit 1ae80cf31938).
    ///
    /// # Errors
    /// The kernel's.
    pub fn install(&self, entry: u32, table: &Table) -> std::io::Result<()> {
        let fd = table.fd().as_raw_fd().to_ne_bytes();
        self.skel
            .maps
            .nm_tables
            .update(&entry.to_ne_bytes(), &fd, MapFlags::ANY)
            .map_err(std::io::Error::other)
    }

    /// Takes a table out of the outer map.
    ///
    /// # Errors
    /// The kernel's.
    pub fn uninstall(&self, entry: u32) -> std::io::Result<()> {
        self.skel.maps.nm_tables.delete(&entry.to_ne_bytes()).map_err(std::io::Error::other)
    }

    /// Runs `nm_move` over `buckets` buckets of the previous table.
    ///
    /// # Errors
    /// The kernel's.
    pub fn move_buckets(&self, buckets: u32) -> std::io::Result<()> {
        let packet = [0u8; 64];
        let input = ProgramInput { data_in: Some(&packet), repeat: buckets, ..Default::default() };
        self.skel.progs.nm_move.test_run(input).map(drop).map_err(std::io::Error::other)
    }

    /// Runs a program on a crafted frame, as if received on an interface that the agent has not named.
    /// Returns nanoseconds a run.
    ///
    /// # Errors
    /// The kernel's.
    pub fn run_on_frame(
        &self,
        program: TestProgram,
        frame: &[u8],
        repeat: u32,
    ) -> std::io::Result<(i32, u32)> {
        self.run(program, ProgramInput { data_in: Some(frame), repeat, ..Default::default() })
    }

    /// The same once, for a frame that the network card has stamped, nanoseconds of its own clock.
    ///
    /// # Errors
    /// The kernel's.
    pub fn run_on_stamped_frame(
        &self,
        program: TestProgram,
        frame: &[u8],
        stamp_ns: u64,
    ) -> std::io::Result<()> {
        let mut context = [0u8; size_of::<__sk_buff>()];
        let at = offset_of!(__sk_buff, hwtstamp);
        context[at..at + 8].copy_from_slice(&stamp_ns.to_ne_bytes());
        let input =
            ProgramInput { data_in: Some(frame), context_in: Some(&mut context), ..Default::default() };
        self.run(program, input).map(drop)
    }

    fn run(&self, program: TestProgram, input: ProgramInput<'_>) -> std::io::Result<(i32, u32)> {
        let program = match program {
            TestProgram::Ingress => &self.skel.progs.nm_ingress,
            TestProgram::Egress => &self.skel.progs.nm_egress,
            TestProgram::Empty => &self.skel.progs.nm_empty,
            TestProgram::BenchEmpty => &self.skel.progs.nm_bench_empty,
            TestProgram::BenchFlows => &self.skel.progs.nm_bench_flows,
        };
        let output = program.test_run(input).map_err(std::io::Error::other)?;
        let nanoseconds = u32::try_from(output.duration.as_nanos()).unwrap_or(u32::MAX);
        Ok((output.return_value as i32, nanoseconds))
    }

    /// What the attached programs have taken until now.
    pub fn run_time(&self) -> RunTime {
        let programs = &self.skel.progs;
        let fds = [programs.nm_ingress.as_fd(), programs.nm_egress.as_fd()];
        let drop = self.drops.is_some().then(|| programs.nm_drop.as_fd());
        let times = fds.iter().chain(&drop).filter_map(|fd| fdinfo(fd.as_raw_fd(), "run_time_ns:"));
        let counted_ns: u64 = times.sum();
        RunTime {
            counted_ns: (counted_ns > 0).then_some(counted_ns),
            sampled_ns: self.kind(nm_kind::NM_KIND_RUN_NS),
        }
    }

    /// Instructions that the verifier went through for each attached program; `None` before Linux 5.16.
    pub fn verified_instructions(&self) -> Option<[u64; 2]> {
        let count = |fd: BorrowedFd<'_>| fdinfo(fd.as_raw_fd(), "verified_insns:");
        Some([count(self.skel.progs.nm_ingress.as_fd())?, count(self.skel.progs.nm_egress.as_fd())?])
    }

    /// Kernel memory of all maps but the tables, bytes, as the kernel accounts it (`memlock` in fdinfo).
    pub fn map_bytes(&self) -> u64 {
        self.skel.object().maps().map(|map| accounted_bytes(map.as_fd().as_raw_fd())).sum()
    }
}

/// Program to run on a crafted frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestProgram {
    /// `nm_ingress`
    Ingress,
    /// `nm_egress`
    Egress,
    /// `nm_empty`, which does nothing; with [`Options::bench`] only, as the next two
    Empty,
    /// `nm_bench_empty`: writes another source address into the frame
    BenchEmpty,
    /// `nm_bench_flows`: the same, and counts it
    BenchFlows,
}

/// Bytes that the kernel accounts to a map; 0 when it does not tell.
pub fn accounted_bytes(fd: i32) -> u64 {
    fdinfo(fd, "memlock:").unwrap_or(0)
}

/// A number that the kernel tells of a descriptor.
pub(super) fn fdinfo(fd: i32, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}
