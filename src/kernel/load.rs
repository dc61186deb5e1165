//! Loading the programs: what a kernel lacks is found by trying. The ring buffer gives way to the perf buffer, and what the rest
//! can do without is left out. Errors say what was attempted and what to do.

use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, OpenObject};
use thiserror::Error;

use super::btf::{self, NoTypes, Types};
use super::conntrack::Conntrack;
use super::decode;
use super::drops::{self, Drops, Watch};
use super::object::{By, Features, GRACE_ENTRY, NO_TABLE, Object, Options, Transport};
use super::shared::Shared;
use super::skeleton::types::{bss, nm_http_counts, nm_http_server, nm_nat_by, nm_transport};
use super::skeleton::{NetmonSkelBuilder, OpenNetmonSkel};
use super::table::Table;
use crate::flow::measured::LANES;

/// What the rest can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Drops, by the kernel's reasons.
    Drops,
    /// Reading of conntrack by the programs. Some kernels let no traffic-control program read memory
    /// (`bpf_probe_read_kernel`).
    Nat,
    /// Conntrack, by whatever way.
    Conntrack,
    /// Names of sockets that are there already (5.11).
    OlderSockets,
    /// Names of sockets.
    Names,
}

impl Part {
    /// What is not known without it.
    pub fn missing(self) -> &'static str {
        match self {
            Self::Drops => "packets that the kernel drops are not told",
            Self::Nat => "translations (NAT) are known some milliseconds late, by netlink",
            Self::Conntrack => "translated connections (NAT) are two flows",
            Self::OlderSockets => "sockets that are older than the agent are known by cgroup only",
            Self::Names => "processes are not known, only cgroups",
        }
    }

    fn needs(self) -> &'static str {
        match self {
            Self::Drops => "tp_btf/kfree_skb (Linux 5.17)",
            Self::Nat => "traffic-control programs that may read conntrack (bpf_probe_read_kernel)",
            Self::Conntrack => "conntrack",
            Self::OlderSockets => "iter/task_file (Linux 5.11)",
            Self::Names => "cgroup/sock_create with socket storage (Linux 5.10)",
        }
    }
}

/// A part that was asked for and is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Which.
    pub part: Part,
    /// Why.
    pub why: String,
}

/// Why drops are not told where nobody asks for them.
pub(super) const DROPS_OFF: &str = "features.drop_monitoring.enabled is false";

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

/// Of the verifier's words, the sums alone (the kernel's BPF_LOG_STATS).
const VERIFIER_SUMS: u32 = 4;

/// Why the kernel side could not be set up.
#[derive(Debug, Error)]
pub enum LoadError {
    /// There are no types to fit the programs to.
    #[error("cannot load the eBPF programs: {0}")]
    Types(#[from] NoTypes),
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

impl LoadError {
    /// What happened, without what to do about it.
    fn reason(&self) -> String {
        match self {
            Self::Load { source, .. } => source.to_string(),
            Self::Types(_) | Self::Step { .. } => self.to_string(),
        }
    }
}

fn step(what: &'static str) -> impl FnOnce(libbpf_rs::Error) -> LoadError {
    move |error| LoadError::Step { what, source: std::io::Error::other(error) }
}

impl Object {
    /// Loads the programs. What the kernel refuses, and the rest can do without, is left out.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(options: &Options) -> Result<Self, LoadError> {
        let types = Types::find(options.btf.as_deref())?;
        let drops = match &types {
            _ if !options.drops => Err(DROPS_OFF.into()),
            Types::Kernel => drops::probe(),
            Types::File(_) => Err(btf::TAKES_OWN.into()),
        };
        let probed = if options.features.nat { Conntrack::probe(&types) } else { Conntrack::default() };
        let drops_missing = drops.as_ref().err().map(|why| LeftOut { part: Part::Drops, why: why.clone() });
        let older_missing = (options.features.who && types != Types::Kernel)
            .then(|| LeftOut { part: Part::OlderSockets, why: btf::TAKES_OWN.into() });
        let missing: Vec<LeftOut> = drops_missing.into_iter().chain(older_missing).collect();
        let transports: &[Transport] = match options.transport {
            Some(Transport::Ringbuf) => &[Transport::Ringbuf],
            Some(Transport::Perf) => &[Transport::Perf],
            None => &[Transport::Ringbuf, Transport::Perf],
        };
        // Wanted in the log: how much the verifier had to look at. Where it refuses, its reasons instead, which it gives at length.
        let sums = tracing::enabled!(target: "libbpf", tracing::Level::DEBUG);
        let mut refused: Option<LoadError> = None;
        for transport in transports {
            for without in ATTEMPTS {
                let refused_part = |part: &Part| LeftOut {
                    part: *part,
                    why: format!(
                        "the kernel refuses the program, which needs {}{}",
                        part.needs(),
                        refused
                            .as_ref()
                            .map_or_else(String::new, |refused| format!(" ({})", refused.reason()))
                    ),
                };
                let is_new = |part: &&Part| {
                    asks_for(options, **part) && missing.iter().all(|missing| missing.part != **part)
                };
                let left_out = without.iter().filter(is_new).map(refused_part);
                // Of what can't be had at all the first reason stands.
                let left_out: Vec<_> = missing.iter().cloned().chain(left_out).collect();
                let load = |sums| {
                    let found = (&types, &probed, drops.as_ref().ok());
                    load_with(options, *transport, left_out.clone(), found, sums)
                };
                match if sums { load(true).or_else(|_| load(false)) } else { load(false) } {
                    Ok(object) => return Ok(object),
                    Err(error) => drop(refused.get_or_insert(error)),
                }
            }
        }
        Err(refused.unwrap_or_else(|| LoadError::Step {
            what: "load the programs",
            source: std::io::ErrorKind::Unsupported.into(),
        }))
    }
}

fn asks_for(options: &Options, part: Part) -> bool {
    match part {
        Part::Drops => options.drops,
        Part::Nat => options.features.nat && options.features.conntrack != Some(By::Netlink),
        Part::Conntrack => options.features.nat,
        Part::OlderSockets | Part::Names => options.features.who,
    }
}

fn load_with(
    options: &Options,
    transport: Transport,
    mut left_out: Vec<LeftOut>,
    (types, probed, drops): (&Types, &Conntrack, Option<&Drops>),
    sums: bool,
) -> Result<Object, LoadError> {
    let refused = |source| LoadError::Load { source, hint: load_hint(types) };
    let has = |part: Part| asks_for(options, part) && left_out.iter().all(|out| out.part != part);
    let drops = drops.filter(|_| has(Part::Drops));
    let (names, older) = (has(Part::Names), has(Part::Names) && has(Part::OlderSockets));
    let (conntrack, conntrack_missing) = who_tells_of_nat(&options.features, has(Part::Nat), types, probed);
    left_out.extend(conntrack_missing);
    let features = &options.features;
    // The object lives as long as the process uses it; libbpf-rs wants a place for it.
    let place: &'static mut MaybeUninit<OpenObject> = Box::leak(Box::new(MaybeUninit::uninit()));
    let mut builder = NetmonSkelBuilder::default();
    if let Some(file) = types.file() {
        builder.object_builder_mut().btf_custom_path(file).map_err(refused)?;
    }
    let mut open = builder.open(place).map_err(refused)?;
    let inner = Table::create(1, features.layout())
        .map_err(|source| LoadError::Step { what: "create a flow table", source })?;
    open.maps.nm_tables.set_inner_map_fd(inner.fd()).map_err(step("set the inner map"))?;

    set_constants(&mut open, features, (conntrack, probed.lookup), transport, drops)?;
    open.progs.nm_empty.set_autoload(options.bench);
    open.progs.nm_bench_empty.set_autoload(options.bench);
    open.progs.nm_bench_flows.set_autoload(options.bench);
    open.progs.nm_drop.set_autoload(drops.is_some());
    open.progs.nm_pair_told.set_autoload(conntrack == Some(By::Netlink));
    open.progs.nm_sock_create.set_autoload(names);
    open.progs.nm_sock_older.set_autoload(older);
    let ring = size_maps(&mut open, options, transport, drops.is_some())?;
    if let Some(bss) = open.maps.bss_data.as_deref_mut() {
        let control = &mut bss.nm_control;
        control.previous = NO_TABLE;
        control.sample_below = u32::MAX;
        control.interval_ticks = 4768;
        control.room = u32::MAX;
        control.wake_bytes = ring / 2;
    }
    if sums {
        for mut program in open.open_object_mut().progs_mut() {
            program.set_log_level(VERIFIER_SUMS);
        }
    }
    let skel = open.load().map_err(refused)?;
    let bss = Shared::map(&skel.maps.bss.as_fd(), size_of::<bss>())
        .map_err(|source| LoadError::Step { what: "map the words shared with the programs", source })?;
    let rest = [0; size_of::<nm_http_counts>()];
    skel.maps
        .nm_http
        .update(&[0; size_of::<nm_http_server>()], &rest, MapFlags::ANY)
        .map_err(step("make a place for HTTP servers without one"))?;
    let mut watch = None;
    if let Some(drops) = drops {
        match skel.progs.nm_drop.attach() {
            Ok(link) => watch = Some(Watch { drops: drops.clone(), _link: link }),
            Err(error) => {
                let why = format!("the tracepoint kfree_skb can't be attached to: {error}");
                left_out.push(LeftOut { part: Part::Drops, why });
            }
        }
    }
    let features = features.clone();
    let drops_on = watch.is_some();
    let mut object = Object {
        skel,
        bss,
        types: types.clone(),
        transport,
        features: features.clone(),
        conntrack,
        drops: watch,
        drops_on,
        left_out,
    };
    object.switch(&features, drops_on);
    object
        .install(GRACE_ENTRY, &inner)
        .map_err(|source| LoadError::Step { what: "install a table", source })?;
    Ok(object)
}

/// Who tells of translations (NAT), and what is missing of what was asked for. `readable`: programs that read conntrack are
/// asked for, and the kernel takes them.
fn who_tells_of_nat(
    features: &Features,
    readable: bool,
    types: &Types,
    probed: &Conntrack,
) -> (Option<By>, Option<LeftOut>) {
    let by = match features.conntrack {
        _ if !features.nat => return (None, None),
        // A module that comes later has types that these programs can't be fitted to any more.
        None if readable && probed.layout => Some(By::Programs),
        Some(By::Programs) if readable => Some(By::Programs),
        Some(By::Programs) => None,
        None | Some(By::Netlink) => Some(By::Netlink),
    };
    let missing = |part, why| Some(LeftOut { part, why });
    if by.is_none() {
        let why = "features.nat.conntrack is programs, which this kernel does not let read it";
        return (by, missing(Part::Conntrack, why.into()));
    }
    if !readable || !probed.runs || probed.layout {
        return (by, None);
    }
    let part = if by == Some(By::Netlink) { Part::Nat } else { Part::Conntrack };
    let why = match types.file() {
        None => "this kernel does not tell how conntrack's entries are laid out (Linux 5.11 with \
                 CONFIG_DEBUG_INFO_BTF_MODULES does)"
            .into(),
        Some(file) => format!("{} does not tell how conntrack's entries are laid out", file.display()),
    };
    (by, missing(part, why))
}

/// What the programs read and the verifier sees as constants.
fn set_constants(
    open: &mut OpenNetmonSkel<'_>,
    features: &Features,
    (conntrack, has_lookup): (Option<By>, bool),
    transport: Transport,
    drops: Option<&Drops>,
) -> Result<(), LoadError> {
    let Some(rodata) = open.maps.rodata_data.as_deref_mut() else { return Ok(()) };
    let mut keys = vec![0u8; size_of_val(&rodata.nm_hash_keys)];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| std::io::Read::read_exact(&mut random, &mut keys))
        .map_err(|source| LoadError::Step { what: "read /dev/urandom", source })?;
    for (key, bytes) in rodata.nm_hash_keys.iter_mut().zip(keys.as_chunks().0) {
        *key = u64::from_ne_bytes(*bytes);
    }
    rodata.nm_features = features.loaded_bits();
    rodata.nm_nat = match conntrack {
        None => nm_nat_by::NM_NAT_OFF.0,
        Some(By::Programs) => nm_nat_by::NM_NAT_READ.0,
        Some(By::Netlink) => nm_nat_by::NM_NAT_TOLD.0,
    };
    rodata.nm_ask_conntrack = u32::from(has_lookup);
    rodata.nm_bounds_us = [u32::MAX; LANES - 1];
    for (bound, us) in rodata.nm_bounds_us.iter_mut().zip(&features.bounds_us) {
        *bound = *us;
    }
    let looked_into = features.tunnels.iter().flat_map(|tunnels| &tunnels.kinds);
    rodata.nm_decapsulate = looked_into.fold(0, |bits, kind| bits | u32::from(decode::tunnel_bit(*kind)));
    rodata.nm_transport = match transport {
        Transport::Ringbuf => nm_transport::NM_RINGBUF.0,
        Transport::Perf => nm_transport::NM_PERF.0,
    };
    rodata.nm_drop_to_sk = u32::from(drops.is_some_and(|drops| drops.to_socket));
    rodata.nm_netns = own_namespace();
    Ok(())
}

/// Returns the size of the ring buffer, bytes.
fn size_maps(
    open: &mut OpenNetmonSkel<'_>,
    options: &Options,
    transport: Transport,
    drops: bool,
) -> Result<u32, LoadError> {
    let maps = &mut open.maps;
    let Features { who, messages, tunnels, .. } = &options.features;
    if !drops {
        maps.nm_drops.set_max_entries(1).map_err(step("shrink a map"))?;
        maps.nm_flow_drops.set_max_entries(1).map_err(step("shrink a map"))?;
    }
    if let Some(tunnels) = tunnels {
        maps.nm_tunnels.set_max_entries(tunnels.flows.max(1)).map_err(step("size the map of tunnels"))?;
    }
    maps.nm_sockets.set_autocreate(*who).map_err(step("leave out a map"))?;
    maps.nm_names.set_autocreate(*who).map_err(step("leave out a map"))?;
    maps.nm_cgroups.set_autocreate(*who).map_err(step("leave out a map"))?;
    // 24 bytes an event: 16 and the record's header.
    let ring = (options.event_buffer_events.clamp(1, 1 << 26) * 24).next_power_of_two().max(4096);
    let ring = u32::try_from(ring).unwrap_or(1 << 31);
    match transport {
        Transport::Ringbuf => maps.nm_ring.set_max_entries(ring).map_err(step("size the ring buffer"))?,
        // The program may not name a map that the kernel does not know: a perf array stands in.
        Transport::Perf => {
            let map = &mut maps.nm_ring;
            map.set_type(libbpf_rs::MapType::PerfEventArray).map_err(step("replace the ring buffer"))?;
            map.set_key_size(4).map_err(step("replace the ring buffer"))?;
            map.set_value_size(4).map_err(step("replace the ring buffer"))?;
        }
    }
    // A map that no program uses: libbpf-rs can't leave it out.
    for (map, used) in [
        (&mut maps.nm_dns_waits, messages.dns),
        (&mut maps.nm_dns_names, messages.dns_names),
        (&mut maps.nm_tls_names, messages.tls_names),
    ] {
        if !used {
            map.set_max_entries(1).map_err(step("size a map"))?;
        }
    }
    // One more for the rest.
    let servers = messages.http_servers.map_or(1, |servers| servers.saturating_add(1));
    maps.nm_http.set_max_entries(servers).map_err(step("size a map"))?;
    Ok(ring)
}

/// Inode of this process's network namespace; 0, which none has, when it can't be told.
fn own_namespace() -> u32 {
    use std::os::unix::fs::MetadataExt;
    let inode = std::fs::metadata("/proc/self/ns/net").map_or(0, |namespace| namespace.ino());
    u32::try_from(inode).unwrap_or(0)
}

fn load_hint(types: &Types) -> String {
    let file = types.file().map_or_else(String::new, |file| {
        format!("; types are read from {}, which must be those of this very kernel", file.display())
    });
    format!(
        "Needed: Linux 5.10 or later and CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (run as root){file}; \
         `--log-level debug` shows the verifier's words"
    )
}
