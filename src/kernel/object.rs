//! The loaded BPF object: opening, load-time settings, and access to its maps and programs.
//!
//! What a kernel lacks is found by trying: the ring buffer gives way to the perf buffer. Errors say what
//! was attempted and what to do.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, OpenObject, ProgramInput};
use thiserror::Error;

use super::decode;
use super::drops::{self, Drops, Watch};
use super::skeleton::types::{nm_http_counts, nm_http_server, nm_transport};
use super::skeleton::{NetmonSkel, NetmonSkelBuilder};
use super::table::{Layout, Table, word};
use crate::flow::app::App;
use crate::flow::measured::LANES;
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
}

/// What the programs look at beyond counters (`NM_FEATURE_`). What is off is not in the loaded programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Round trips, first bytes and signs of loss, with the upper bounds of the histogram's buckets in microseconds.
    pub timing: Option<Vec<u32>>,
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
    /// Tunnels whose inner packets are counted.
    pub tunnels: Option<LookInto>,
    /// Messages of application protocols, with `protocols` only.
    pub messages: MessageFeatures,
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
    /// Upper bounds of the histogram's buckets, microseconds: the same as those of round trips.
    pub bounds_us: Vec<u32>,
}

impl Features {
    fn bits(&self) -> u32 {
        u32::from(self.timing.is_some())
            | u32::from(self.precise && self.timing.is_some()) << 1
            | u32::from(!self.protocols.is_empty()) << 2
            | u32::from(self.who) << 3
            | u32::from(self.hardware && self.timing.is_some()) << 4
            | if self.protocols.is_empty() { 0 } else { self.messages.bits() }
    }

    /// Upper bounds of the buckets of all histograms, microseconds.
    fn bounds_us(&self) -> &[u32] {
        self.timing.as_ref().unwrap_or(&self.messages.bounds_us)
    }

    /// What a slot must hold for it.
    pub fn layout(&self) -> Layout {
        if self.bits() == 0 { Layout::Narrow } else { Layout::Wide }
    }
}

/// Which sockets can be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// None: it is off, or the kernel refuses the program.
    None,
    /// Those that appear from now on.
    New,
    /// Those that are there already, too (5.11).
    All,
}

/// What the rest can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Drops,
    /// Some kernels let no traffic-control program read memory (`bpf_probe_read_kernel`).
    Nat,
    OlderSockets,
    Names,
}

/// What is left out, try by try, until the kernel takes it.
const ATTEMPTS: [&[Part]; 7] = [
    &[],
    &[Part::Nat],
    &[Part::OlderSockets],
    &[Part::OlderSockets, Part::Names],
    &[Part::Drops],
    &[Part::Nat, Part::OlderSockets, Part::Drops],
    &[Part::Nat, Part::OlderSockets, Part::Names, Part::Drops],
];

impl MessageFeatures {
    fn bits(&self) -> u32 {
        u32::from(self.dns) << 8
            | u32::from(self.dns && self.dns_names) << 9
            | u32::from(self.http_servers.is_some()) << 10
            | u32::from(self.tls_names) << 11
    }
}

/// Why the kernel side could not be set up.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The kernel refused a program or map.
    #[error("cannot load the eBPF programs: {source}. {hint}")]
    Load {
        /// libbpf's error.
        source: libbpf_rs::Error,
        /// What to do about it.
        hint: String,
    },
    /// A later step failed.
    #[error("cannot {what}: {source}")]
    Step {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

fn step(what: &'static str) -> impl FnOnce(libbpf_rs::Error) -> LoadError {
    move |error| LoadError::Step { what, source: std::io::Error::other(error) }
}

/// The object, loaded. Only the collector thread holds it.
pub struct Object {
    /// Programs and maps.
    pub(super) skel: NetmonSkel<'static>,
    transport: Transport,
    naming: Naming,
    features: Features,
    /// NAT was asked for, and the kernel refused it.
    nat_refused: bool,
    /// Whether conntrack was there when the programs were fitted to the kernel.
    conntrack: bool,
    /// Or why drops are not told.
    pub(super) drops: Result<Watch, String>,
}

// SAFETY: libbpf objects are not tied to a thread; `Object` is moved once, into the collector thread, and is
// never shared (it is not Sync).
unsafe impl Send for Object {}

impl Object {
    /// Loads the programs. What the kernel refuses, and the rest can do without, is left out.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(options: &Options) -> Result<Self, LoadError> {
        let drops = if options.drops {
            drops::probe()
        } else {
            Err("features.drop_monitoring.enabled is false".into())
        };
        let transports: &[Transport] = match options.transport {
            Some(Transport::Ringbuf) => &[Transport::Ringbuf],
            Some(Transport::Perf) => &[Transport::Perf],
            None => &[Transport::Ringbuf, Transport::Perf],
        };
        let mut refused: Option<LoadError> = None;
        for transport in transports {
            for without in ATTEMPTS {
                let drops = match &refused {
                    Some(error) if without.contains(&Part::Drops) => {
                        let refused = |_| Err(format!("the kernel refuses the program: {error}"));
                        drops.as_ref().map_err(Clone::clone).and_then(refused)
                    }
                    _ => drops.as_ref().map_err(Clone::clone),
                };
                let naming = match without {
                    _ if !options.features.who || without.contains(&Part::Names) => Naming::None,
                    _ if without.contains(&Part::OlderSockets) => Naming::New,
                    _ => Naming::All,
                };
                let mut options = options.clone();
                let nat_refused = options.features.nat && without.contains(&Part::Nat);
                options.features.nat &= !nat_refused;
                match Self::load_with(&options, *transport, naming, drops) {
                    Ok(object) => return Ok(Self { nat_refused, ..object }),
                    Err(error) => drop(refused.get_or_insert(error)),
                }
            }
        }
        Err(refused.unwrap_or_else(|| LoadError::Step {
            what: "load the programs",
            source: std::io::ErrorKind::Unsupported.into(),
        }))
    }

    fn load_with(
        options: &Options,
        transport: Transport,
        naming: Naming,
        drops: Result<&Drops, String>,
    ) -> Result<Self, LoadError> {
        let refused = |source| LoadError::Load { source, hint: load_hint() };
        // The object lives as long as the process uses it; libbpf-rs wants a place for it.
        let place: &'static mut MaybeUninit<OpenObject> = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = NetmonSkelBuilder::default().open(place).map_err(refused)?;
        let inner = Table::create(1, options.features.layout())
            .map_err(|source| LoadError::Step { what: "create a flow table", source })?;
        open.maps.nm_tables.set_inner_map_fd(inner.fd()).map_err(step("set the inner map"))?;

        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            let mut keys = vec![0u8; size_of_val(&rodata.nm_hash_keys)];
            std::fs::File::open("/dev/urandom")
                .and_then(|mut random| std::io::Read::read_exact(&mut random, &mut keys))
                .map_err(|source| LoadError::Step { what: "read /dev/urandom", source })?;
            for (key, bytes) in rodata.nm_hash_keys.iter_mut().zip(keys.as_chunks().0) {
                *key = u64::from_ne_bytes(*bytes);
            }
            rodata.nm_features = options.features.bits();
            rodata.nm_nat = u32::from(options.features.nat);
            rodata.nm_apps =
                options.features.protocols.iter().fold(0, |set, app| set | 1 << decode::app_number(*app));
            rodata.nm_bounds_us = [u32::MAX; LANES - 1];
            for (bound, us) in rodata.nm_bounds_us.iter_mut().zip(options.features.bounds_us()) {
                *bound = *us;
            }
            let looked_into = options.features.tunnels.iter().flat_map(|tunnels| &tunnels.kinds);
            rodata.nm_decapsulate =
                looked_into.fold(0, |bits, kind| bits | u32::from(decode::tunnel_bit(*kind)));
            rodata.nm_transport = match transport {
                Transport::Ringbuf => nm_transport::NM_RINGBUF.0,
                Transport::Perf => nm_transport::NM_PERF.0,
            };
            rodata.nm_drop_to_sk = u32::from(drops.as_ref().is_ok_and(|drops| drops.to_socket));
            rodata.nm_netns = own_namespace();
        }
        open.progs.nm_empty.set_autoload(options.bench);
        open.progs.nm_bench_empty.set_autoload(options.bench);
        open.progs.nm_bench_flows.set_autoload(options.bench);
        if drops.is_err() {
            open.progs.nm_drop.set_autoload(false);
            open.maps.nm_drops.set_max_entries(1).map_err(step("shrink a map"))?;
            open.maps.nm_flow_drops.set_max_entries(1).map_err(step("shrink a map"))?;
        }
        if let Some(tunnels) = &options.features.tunnels {
            open.maps
                .nm_tunnels
                .set_max_entries(tunnels.flows.max(1))
                .map_err(step("size the map of tunnels"))?;
        }
        open.progs.nm_sock_create.set_autoload(naming != Naming::None);
        open.progs.nm_sock_older.set_autoload(naming == Naming::All);
        let maps = &mut open.maps;
        let who = options.features.who;
        maps.nm_sockets.set_autocreate(who).map_err(step("leave out a map"))?;
        maps.nm_names.set_autocreate(who).map_err(step("leave out a map"))?;
        maps.nm_cgroups.set_autocreate(who).map_err(step("leave out a map"))?;
        // 24 bytes an event: 16 and the record's header.
        let ring = (options.event_buffer_events.clamp(1, 1 << 26) * 24).next_power_of_two().max(4096);
        let ring = u32::try_from(ring).unwrap_or(1 << 31);
        match transport {
            Transport::Ringbuf => {
                open.maps.nm_ring.set_max_entries(ring).map_err(step("size the ring buffer"))?
            }
            // The program may not name a map that the kernel does not know: a perf array stands in.
            Transport::Perf => {
                let map = &mut open.maps.nm_ring;
                map.set_type(libbpf_rs::MapType::PerfEventArray).map_err(step("replace the ring buffer"))?;
                map.set_key_size(4).map_err(step("replace the ring buffer"))?;
                map.set_value_size(4).map_err(step("replace the ring buffer"))?;
            }
        }
        let messages = &options.features.messages;
        // A map that no program uses: libbpf-rs can't leave it out.
        for (map, used) in [
            (&mut open.maps.nm_dns_waits, messages.dns),
            (&mut open.maps.nm_dns_names, messages.dns_names),
            (&mut open.maps.nm_tls_names, messages.tls_names),
        ] {
            if !used {
                map.set_max_entries(1).map_err(step("size a map"))?;
            }
        }
        // One more for the rest.
        let servers = messages.http_servers.map_or(1, |servers| servers.saturating_add(1));
        open.maps.nm_http.set_max_entries(servers).map_err(step("size a map"))?;
        let mut skel = open.load().map_err(refused)?;
        if let Some(bss) = skel.maps.bss_data.as_deref_mut() {
            word(&mut bss.nm_control.previous).store(NO_TABLE, Ordering::Relaxed);
            word(&mut bss.nm_control.sample_below).store(u32::MAX, Ordering::Relaxed);
            word(&mut bss.nm_control.interval_ticks).store(4768, Ordering::Relaxed);
            word(&mut bss.nm_control.room).store(u32::MAX, Ordering::Relaxed);
            word(&mut bss.nm_control.wake_bytes).store(ring / 2, Ordering::Relaxed);
        }
        let rest = [0; size_of::<nm_http_counts>()];
        skel.maps
            .nm_http
            .update(&[0; size_of::<nm_http_server>()], &rest, MapFlags::ANY)
            .map_err(step("make a place for HTTP servers without one"))?;
        let drops = drops.and_then(|drops| {
            let attached = skel.progs.nm_drop.attach();
            let link = attached
                .map_err(|error| format!("the tracepoint kfree_skb can't be attached to: {error}"))?;
            Ok(Watch { drops: drops.clone(), _link: link })
        });
        let object = Self {
            skel,
            transport,
            naming,
            features: options.features.clone(),
            nat_refused: false,
            conntrack: has_conntrack(),
            drops,
        };
        object
            .install(GRACE_ENTRY, &inner)
            .map_err(|source| LoadError::Step { what: "install a table", source })?;
        Ok(object)
    }

    /// How events travel.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Which sockets can be named.
    pub fn naming(&self) -> Naming {
        self.naming
    }

    /// What the programs look at.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Why translated conversations are not joined, though they were to be.
    pub fn nat_trouble(&self) -> Option<&'static str> {
        if self.nat_refused {
            return Some(
                "this kernel lets no traffic-control program read conntrack (bpf_probe_read_kernel)",
            );
        }
        (self.features.nat && !self.conntrack && has_conntrack())
            .then_some("nf_conntrack was loaded after the agent; restart the agent")
    }

    /// The control block shared with the programs.
    pub fn control(&mut self) -> Control<'_> {
        Control { object: self }
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
        let mut context = [0u8; size_of::<super::skeleton::types::__sk_buff>()];
        let at = std::mem::offset_of!(super::skeleton::types::__sk_buff, hwtstamp);
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

    /// Nanoseconds that the attached programs have run, `None` while the kernel does not count
    /// (`sysctl kernel.bpf_stats_enabled`).
    pub fn run_time_ns(&self) -> Option<u64> {
        let programs = &self.skel.progs;
        let fds = [programs.nm_ingress.as_fd(), programs.nm_egress.as_fd()];
        let drop = self.drops.is_ok().then(|| programs.nm_drop.as_fd());
        let times = fds.iter().chain(&drop).filter_map(|fd| fdinfo(fd.as_raw_fd(), "run_time_ns:"));
        let sum = times.sum();
        (sum > 0).then_some(sum)
    }

    /// Instructions that the verifier went through for each attached program; `None` before Linux 5.16.
    pub fn verified_instructions(&self) -> Option<[u64; 2]> {
        let count = |fd: BorrowedFd<'_>| fdinfo(fd.as_raw_fd(), "verified_insns:");
        Some([count(self.skel.progs.nm_ingress.as_fd())?, count(self.skel.progs.nm_egress.as_fd())?])
    }

    /// Kernel memory of all maps but the tables, bytes, as the kernel accounts it (`memlock` in fdinfo).
    pub fn map_bytes(&self) -> u64 {
        let maps = &self.skel.maps;
        let who: &[BorrowedFd<'_>] = if self.features.who {
            &[maps.nm_sockets.as_fd(), maps.nm_names.as_fd(), maps.nm_cgroups.as_fd()]
        } else {
            &[]
        };
        [
            maps.nm_tables.as_fd(),
            maps.nm_locks.as_fd(),
            maps.nm_interfaces.as_fd(),
            maps.nm_near.as_fd(),
            maps.nm_scratch.as_fd(),
            maps.nm_look.as_fd(),
            maps.nm_fragments.as_fd(),
            maps.nm_tunnels.as_fd(),
            maps.nm_overflow.as_fd(),
            maps.nm_kinds.as_fd(),
            maps.nm_overflow_at.as_fd(),
            maps.nm_dns_waits.as_fd(),
            maps.nm_dns_totals.as_fd(),
            maps.nm_dns_names.as_fd(),
            maps.nm_tls_names.as_fd(),
            maps.nm_http.as_fd(),
            maps.nm_ring.as_fd(),
            maps.nm_perf.as_fd(),
            maps.nm_drops.as_fd(),
            maps.nm_flow_drops.as_fd(),
            maps.bss.as_fd(),
            maps.rodata.as_fd(),
        ]
        .iter()
        .chain(who)
        .map(|fd| accounted_bytes(fd.as_raw_fd()))
        .sum()
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

/// Inode of this process's network namespace; 0, which none has, when it can't be told.
fn own_namespace() -> u32 {
    use std::os::unix::fs::MetadataExt;
    let inode = std::fs::metadata("/proc/self/ns/net").map_or(0, |namespace| namespace.ino());
    u32::try_from(inode).unwrap_or(0)
}

/// Built in or loaded as a module.
fn has_conntrack() -> bool {
    std::fs::exists("/sys/module/nf_conntrack").unwrap_or(false)
}

fn load_hint() -> String {
    if std::fs::exists("/sys/kernel/btf/vmlinux").unwrap_or(false) {
        "Needed: Linux 5.10 or later and CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (run as root); \
         `--log-level debug` shows the verifier's words"
            .into()
    } else {
        "This kernel has no BTF (/sys/kernel/btf/vmlinux is missing): it needs CONFIG_DEBUG_INFO_BTF=y".into()
    }
}

/// The words shared with the programs.
pub struct Control<'a> {
    object: &'a mut Object,
}

macro_rules! control_words {
    ($($name:ident, $set:ident: $doc:literal;)+) => {
        impl Control<'_> {$(
            #[doc = concat!("Reads ", $doc, ".")]
            pub fn $name(&mut self) -> u32 {
                self.cell(|control| &mut control.$name).map_or(0, |cell| cell.load(Ordering::Acquire))
            }
            #[doc = concat!("Sets ", $doc, ".")]
            pub fn $set(&mut self, value: u32) {
                if let Some(cell) = self.cell(|control| &mut control.$name) {
                    cell.store(value, Ordering::Release);
                }
            }
        )+}
    };
}

control_words! {
    current, set_current: "the table that takes new flows";
    previous, set_previous: "the table that is being emptied";
    wake_bytes, set_wake_bytes: "bytes in the ring at which the reader is woken; 0 = at the first event";
    sample_below, set_sample_below: "the sampling threshold; `u32::MAX` keeps every flow";
    interval_ticks, set_interval_ticks: "the reporting interval";
    move_cursor, set_move_cursor: "the bucket that `nm_move` looks at next";
    move_failed, set_move_failed: "the number of flows that found no room when moved";
    waking, set_waking: "whether the reader was woken";
    bench_flows, set_bench_flows: "how many flows the yardsticks spread over; 0 = a new one each time";
    ask_in, set_ask_in: "whether conntrack is asked for packets that come in";
    opened, set_opened: "how many slots were claimed since the reader came";
    room, set_room: "how many may be claimed before the reader is woken";
}

impl Control<'_> {
    fn cell(
        &mut self,
        pick: impl FnOnce(&mut super::skeleton::types::nm_control) -> &mut u32,
    ) -> Option<&std::sync::atomic::AtomicU32> {
        let bss = self.object.skel.maps.bss_data.as_deref_mut()?;
        Some(word(pick(&mut bss.nm_control)))
    }

    /// Sets the number of buckets of an entry of the outer map.
    pub fn set_buckets(&mut self, entry: u32, buckets: u32) {
        if let Some(bss) = self.object.skel.maps.bss_data.as_deref_mut()
            && let Some(cell) = bss.nm_control.buckets.get_mut(entry as usize)
        {
            word(cell).store(buckets, Ordering::Release);
        }
    }
}
