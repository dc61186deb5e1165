//! Packets that the kernel drops: by the running kernel's own reasons, whose names are read from its BTF, by interface and by
//! flow. What this kernel can't give is found before the program is loaded.

use std::collections::HashMap;
use std::sync::Arc;

use libbpf_rs::btf::types::{Enum, FuncProto, Ptr, Typedef};
use libbpf_rs::btf::{Btf, TypeId};
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle};

use super::decode;
use super::load::Part;
use super::object::{Object, fdinfo};
use super::skeleton::types::nm_kind;
use crate::flow::record::FlowDrops;

/// Interface index that stands for those of other network namespaces (`NM_ELSEWHERE`).
pub const ELSEWHERE: u32 = u32::MAX;
/// Entries read by one system call.
const BATCH: u32 = 1024;

/// Names of the reasons, as this kernel's own source calls them.
#[derive(Debug, Default)]
pub struct Reasons {
    core: HashMap<u32, String>,
    subsystems: HashMap<u32, String>,
}

impl Reasons {
    /// From the members of `enum skb_drop_reason` and `enum skb_drop_reason_subsys`.
    pub fn of(
        core: impl IntoIterator<Item = (String, u32)>,
        subsystems: impl IntoIterator<Item = (String, u32)>,
    ) -> Self {
        let short = |name: String| {
            let name = ["SKB_DROP_REASON_SUBSYS_", "SKB_DROP_REASON_", "SKB_"]
                .iter()
                .find_map(|prefix| name.strip_prefix(prefix))
                .unwrap_or(&name);
            name.to_ascii_lowercase()
        };
        Self {
            core: core.into_iter().map(|(name, value)| (value, short(name))).collect(),
            subsystems: subsystems.into_iter().map(|(name, value)| (value, short(name))).collect(),
        }
    }

    /// The name of a reason: `no_socket`; of a subsystem's, which are not named in the kernel's own BTF, `openvswitch-3`.
    pub fn name(&self, reason: u32) -> String {
        let (subsystem, number) = (reason >> 16, reason & 0xffff);
        match (self.core.get(&reason), self.subsystems.get(&subsystem)) {
            (Some(name), _) if subsystem == 0 => name.clone(),
            (_, Some(name)) if subsystem != 0 => format!("{name}-{number}"),
            _ => format!("subsystem-{subsystem}-reason-{number}"),
        }
    }
}

/// What this kernel tells of its drops.
#[derive(Clone, Debug)]
pub(super) struct Drops {
    pub(super) reasons: Arc<Reasons>,
    /// Whether the receiving socket is the tracepoint's fourth argument.
    pub(super) to_socket: bool,
}

/// Looks into the kernel's BTF. The error says what is missing.
pub(super) fn probe() -> Result<Drops, String> {
    let btf = Btf::from_vmlinux().map_err(|error| format!("the kernel's BTF can't be read: {error}"))?;
    let arguments =
        tracepoint_arguments(&btf).ok_or("the kernel's BTF does not know the tracepoint kfree_skb")?;
    let core = members(&btf, "skb_drop_reason");
    if arguments < 3 || core.is_empty() {
        return Err("this kernel gives no reasons (it takes Linux 5.17 or later)".into());
    }
    let reasons = Reasons::of(core, members(&btf, "skb_drop_reason_subsys"));
    Ok(Drops { reasons: Arc::new(reasons), to_socket: arguments > 3 })
}

/// How many arguments the kernel gives: `typedef void (*btf_trace_kfree_skb)(void *, ...)`.
fn tracepoint_arguments(btf: &Btf<'_>) -> Option<usize> {
    use libbpf_rs::btf::ReferencesType as _;
    let pointer: Ptr<'_> =
        btf.type_by_id(btf.type_by_name::<Typedef<'_>>("btf_trace_kfree_skb")?.referenced_type().type_id())?;
    let id: TypeId = pointer.referenced_type().type_id();
    btf.type_by_id::<FuncProto<'_>>(id)?.len().checked_sub(1)
}

fn members(btf: &Btf<'_>, name: &str) -> Vec<(String, u32)> {
    let Some(found) = btf.type_by_name::<Enum<'_>>(name) else { return Vec::new() };
    let member = |member: libbpf_rs::btf::types::EnumMember<'_>| {
        // Masks are larger than any reason.
        Some((member.name?.to_str()?.to_owned(), u32::try_from(member.value).ok()?))
    };
    found.iter().filter_map(member).collect()
}

/// Drops by flow, for readers on other threads.
#[derive(Clone, Debug)]
pub struct FlowDropsView {
    map: Arc<MapHandle>,
    reasons: Arc<Reasons>,
}

impl FlowDropsView {
    /// Drops of all flows that had some lately, by the flow's id. One system call a thousand flows.
    pub fn read(&self) -> HashMap<u64, FlowDrops> {
        let one = |(id, drops): (Vec<u8>, Vec<u8>)| {
            let (packets, reason) = decode::flow_drops(&drops)?;
            let id = u64::from_ne_bytes(id.try_into().ok()?);
            Some((id, FlowDrops { packets, last_reason: self.reasons.name(reason) }))
        };
        entries(&*self.map).filter_map(one).collect()
    }
}

fn entries(map: &impl MapCore) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    // An error is an iterator without entries.
    map.lookup_batch(BATCH, MapFlags::ANY, MapFlags::ANY).into_iter().flatten()
}

/// Packets dropped for one reason at one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The kernel's name of the reason.
    pub reason: String,
    /// Interface index; 0 = none is known, [`ELSEWHERE`] = one of another network namespace.
    pub interface: u32,
    /// Packets since load.
    pub packets: u64,
    key: [u8; 8],
}

/// The attached program.
pub(super) struct Watch {
    pub(super) drops: Drops,
    pub(super) _link: Link,
}

impl Object {
    /// Why drops are not told, if they are not.
    pub fn drops_off(&self) -> Option<&str> {
        let off = self.drops.is_some() && !self.drops_on;
        self.without(Part::Drops).or(off.then_some(super::load::DROPS_OFF))
    }

    /// Packets dropped so far, by reason and interface.
    pub fn drops(&self) -> Vec<Dropped> {
        let Some(watch) = &self.drops else { return Vec::new() };
        let one = |(key, count): (Vec<u8>, Vec<u8>)| {
            let (reason, interface) = decode::drop_key(&key)?;
            let packets = u64::from_ne_bytes(count.try_into().ok()?);
            Some(Dropped {
                reason: watch.drops.reasons.name(reason),
                interface,
                packets,
                key: key.try_into().ok()?,
            })
        };
        entries(&self.skel.maps.nm_drops).filter_map(one).collect()
    }

    /// Frees the place of an interface that is gone; returns the packets that it had last.
    pub fn forget_drops(&self, dropped: &Dropped) -> u64 {
        let last = self.skel.maps.nm_drops.lookup_and_delete(&dropped.key);
        let last = last.ok().flatten().and_then(|count| Some(u64::from_ne_bytes(count.try_into().ok()?)));
        last.unwrap_or(dropped.packets)
    }

    /// Packets dropped for which there was no room in the table of reasons and interfaces.
    pub fn drops_unnamed(&self) -> u64 {
        self.kind(nm_kind::NM_KIND_DROP_UNNAMED)
    }

    /// Packets dropped that could not be noted with their flow.
    pub fn drops_unjoined(&self) -> u64 {
        self.kind(nm_kind::NM_KIND_DROP_UNJOINED)
    }

    /// Times that the kernel did not run the program because it was running already on that CPU (told from 5.12).
    pub fn drops_nested(&self) -> u64 {
        use std::os::fd::{AsFd, AsRawFd};
        if self.drops.is_none() {
            return 0;
        }
        fdinfo(self.skel.progs.nm_drop.as_fd().as_raw_fd(), "recursion_misses:").unwrap_or(0)
    }

    /// Drops by flow, to be read by other threads; `None` when they are not told.
    pub fn flow_drops(&self) -> Option<FlowDropsView> {
        let watch = self.drops.as_ref()?;
        let map = MapHandle::try_from(&self.skel.maps.nm_flow_drops).ok()?;
        Some(FlowDropsView { map: Arc::new(map), reasons: Arc::clone(&watch.drops.reasons) })
    }
}
