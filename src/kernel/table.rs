//! One flow table of the kernel, mapped into this process: the very memory that the programs write.
//!
//! A slot's tag decides everything (see `nm_types.h`): 0 free, else live or, with [`DEAD`], leaving. Programs
//! alone turn 0 into a tag; the collector alone kills, clears and keeps notes. Reading is free for every
//! thread: a torn read is told by the tag, read before and after.

use std::marker::PhantomData;
use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering, fence};

use libbpf_rs::{MapHandle, MapType};

use super::decode;
use super::shared::{Plain, Shared};
use super::skeleton::types::{
    nm_bucket, nm_cold, nm_detail, nm_dns, nm_hot, nm_timing, nm_told, nm_track, nm_wide,
};
use crate::flow::key::Protocol;
use crate::flow::measured::NewRtts;
use crate::flow::update::Counters;

/// Slots of a bucket (`NM_SLOTS`).
pub const SLOTS: u32 = 8;
/// Tag bit of a slot that is leaving (`NM_DEAD`).
pub const DEAD: u64 = 1 << 63;
/// Note of `nm_move` on a slot: its flow lives on in another (`NM_FLAG_MOVED`).
pub const MOVED: u8 = 0x80;
/// Marks of an alias (`NM_MARK_ALIAS`, `NM_MARK_SWAPPED`).
const MARK_ALIAS: u8 = 0x40;
const MARK_SWAPPED: u8 = 0x80;

/// One table: a BPF array of buckets, mapped.
#[derive(Debug)]
pub struct Table {
    map: MapHandle,
    memory: Shared,
    buckets: u32,
    layout: Layout,
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Counters and key: `nm_bucket`, 160 bytes a slot.
    Narrow,
    /// What features know as well: `nm_wide`, 360 bytes a slot.
    Wide,
}

impl Layout {
    fn bucket_bytes(self) -> usize {
        match self {
            Self::Narrow => size_of::<nm_bucket>(),
            Self::Wide => size_of::<nm_wide>(),
        }
    }

    /// Bytes of a slot.
    pub fn slot_bytes(self) -> usize {
        self.bucket_bytes() / SLOTS as usize
    }
}

/// Where a bucket has the values of a kind, one a slot.
struct Field<T> {
    offset: usize,
    stride: usize,
    layout: Layout,
    of: PhantomData<T>,
}

impl<T> Field<T> {
    const fn of(layout: Layout, offset: usize) -> Self {
        Self { offset, stride: size_of::<T>(), layout, of: PhantomData }
    }

    /// A part of each value of another.
    const fn within<U>(whole: &Field<U>, offset: usize) -> Self {
        assert!(offset + size_of::<T>() <= size_of::<U>());
        Self { offset: whole.offset + offset, stride: whole.stride, layout: whole.layout, of: PhantomData }
    }
}

const TAG: Field<u64> = Field::of(Layout::Narrow, offset_of!(nm_bucket, tags));
const HOT: Field<nm_hot> = Field::of(Layout::Narrow, offset_of!(nm_bucket, hot));
const SEEN: Field<[u32; 2]> = Field::within(&HOT, offset_of!(nm_hot, seen_ticks));
const COLD: Field<nm_cold> = Field::of(Layout::Narrow, offset_of!(nm_bucket, cold));
const TOLD: Field<nm_told> = Field::of(Layout::Narrow, offset_of!(nm_bucket, told));
const TRACK: Field<nm_track> = Field::of(Layout::Wide, offset_of!(nm_wide, track));
/// Of UDP, in the place of the track.
const DNS: Field<nm_dns> = Field::within(&TRACK, 0);
const TIMING: Field<nm_timing> = Field::of(Layout::Wide, offset_of!(nm_wide, timing));
const DETAIL: Field<nm_detail> = Field::of(Layout::Wide, offset_of!(nm_wide, detail));
/// Those of all slots of the bucket: half a word each.
const TOLD_RETRANSMITS: Field<[u32; SLOTS as usize]> =
    Field { stride: 0, ..Field::of(Layout::Wide, offset_of!(nm_wide, told_retransmits)) };

/// A slot as it was read: consistent in itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Snapshot {
    /// Tag when it was read.
    pub tag: u64,
    /// Counters and recency.
    pub hot: nm_hot,
    /// Key and what was written when the slot was taken.
    pub cold: nm_cold,
    /// What features have measured; zeros in a narrow table.
    pub timing: nm_timing,
    /// The same.
    pub detail: nm_detail,
    /// The same of DNS over UDP.
    pub dns: nm_dns,
}

impl Table {
    /// Makes a table for at least `slots` flows.
    ///
    /// # Errors
    /// When the kernel has no memory for it or does not know mappable inner maps (before 5.10).
    pub fn create(slots: u64, layout: Layout) -> std::io::Result<Self> {
        let buckets = u32::try_from(slots.div_ceil(u64::from(SLOTS)).clamp(1, 1 << 24)).unwrap_or(1 << 24);
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
            map_flags: libbpf_sys::BPF_F_MMAPABLE | libbpf_sys::BPF_F_INNER_MAP,
            ..Default::default()
        };
        let map = MapHandle::create(
            MapType::Array,
            Some("nm_table"),
            size_of::<u32>() as u32,
            layout.bucket_bytes() as u32,
            buckets,
            &options,
        )
        .map_err(std::io::Error::other)?;
        let memory = Shared::map(&map.as_fd(), buckets as usize * layout.bucket_bytes())?;
        Ok(Self { map, memory, buckets, layout })
    }

    /// The map, to be put into the outer map.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }

    /// Number of buckets.
    pub fn buckets(&self) -> u32 {
        self.buckets
    }

    /// Number of slots.
    pub fn slots(&self) -> u32 {
        self.buckets * SLOTS
    }

    /// Where the value of a slot stands; beyond the table there is nothing. `None` if the table has none of its kind.
    fn at<T>(&self, field: &Field<T>, slot: u32) -> Option<usize> {
        let (bucket, index) = ((slot / SLOTS) as usize, (slot % SLOTS) as usize);
        let has = field.layout == Layout::Narrow || self.layout == Layout::Wide;
        has.then_some(bucket * self.layout.bucket_bytes() + field.offset + index * field.stride)
    }

    fn load<T: Plain>(&self, field: &Field<T>, slot: u32) -> Option<T> {
        self.memory.load(self.at(field, slot)?)
    }

    fn store<T: Plain>(&self, field: &Field<T>, slot: u32, value: T) {
        if let Some(at) = self.at(field, slot) {
            self.memory.store(at, value);
        }
    }

    fn update<T: Plain>(&self, field: &Field<T>, slot: u32, change: impl Fn(&mut T)) -> Option<T> {
        self.memory.update(self.at(field, slot)?, change)
    }

    fn tag_cell(&self, slot: u32) -> Option<&AtomicU64> {
        self.memory.word(self.at(&TAG, slot)?)
    }

    /// Tag of a slot; 0 beyond the table.
    pub fn tag(&self, slot: u32) -> u64 {
        self.tag_cell(slot).map_or(0, |cell| cell.load(Ordering::Acquire))
    }

    /// The flow in a slot as it stands, live or leaving; `None` when there is none or the slot changed hands meanwhile.
    pub fn read(&self, slot: u32) -> Option<Snapshot> {
        self.read_any(slot).filter(|snapshot| snapshot.stands_for().is_none())
    }

    /// The alias in a slot, live or leaving.
    pub fn alias(&self, slot: u32) -> Option<Snapshot> {
        self.read_any(slot).filter(|snapshot| snapshot.stands_for().is_some())
    }

    /// Where a word of the tags stands.
    pub fn slot_of(&self, tag: u64) -> Option<u32> {
        // As nm_first_bucket and nm_second_bucket.
        let buckets = u64::from(self.buckets);
        let pair = [((tag & 0xffff_ffff) * buckets) >> 32, (((tag >> 32) & 0x7fff_ffff) * buckets) >> 31];
        pair.iter()
            .flat_map(|bucket| (*bucket as u32 * SLOTS)..(*bucket as u32 + 1) * SLOTS)
            .find(|slot| self.tag(*slot) == tag)
    }

    /// What is in a slot, flow or alias.
    pub fn read_any(&self, slot: u32) -> Option<Snapshot> {
        let tag = self.tag(slot);
        if tag == 0 {
            return None;
        }
        let cold = self.load(&COLD, slot)?;
        let dns = if cold.protocol == Protocol::UDP.0 { self.load(&DNS, slot) } else { None };
        let read = Snapshot {
            tag,
            hot: self.load(&HOT, slot)?,
            cold,
            timing: self.load(&TIMING, slot).unwrap_or_default(),
            detail: self.load(&DETAIL, slot).unwrap_or_default(),
            dns: dns.unwrap_or_default(),
        };
        // All that is read before the tag is read again.
        fence(Ordering::Acquire);
        let again = self.tag(slot);
        (again & !DEAD == tag & !DEAD).then_some(Snapshot { tag: again, ..read })
    }

    /// Tick of the last packet of either direction; reads one cache line.
    pub fn last_tick(&self, slot: u32) -> u32 {
        self.load(&SEEN, slot).map_or(0, later)
    }

    /// An alias is as young as its flow.
    pub fn touch(&self, slot: u32, tick: u32) {
        self.update(&SEEN, slot, |ticks| ticks[0] = tick);
    }

    /// Marks a live slot as leaving: from now on no packet finds it. False if it was not live.
    pub fn kill(&self, slot: u32) -> bool {
        let Some(cell) = self.tag_cell(slot) else { return false };
        let tag = cell.load(Ordering::Acquire);
        if tag == 0 || tag & DEAD != 0 {
            return false;
        }
        cell.store(tag | DEAD, Ordering::Release);
        true
    }

    /// Frees a slot that has been dead for a whole grace period: no program holds it any more.
    pub fn clear(&self, slot: u32) {
        debug_assert!(self.tag(slot) & DEAD != 0, "only a dead slot may be cleared");
        self.store(&HOT, slot, nm_hot::default());
        self.store(&COLD, slot, nm_cold::default());
        self.store(&TOLD, slot, nm_told::default());
        self.store(&TRACK, slot, nm_track::default());
        self.store(&TIMING, slot, nm_timing::default());
        self.store(&DETAIL, slot, nm_detail::default());
        self.tell_retransmits(slot, 0);
        if let Some(tag) = self.tag_cell(slot) {
            tag.store(0, Ordering::Release);
        }
    }

    /// What the agent has told of the flow in this slot, by side of the key.
    pub fn told(&self, slot: u32) -> nm_told {
        self.load(&TOLD, slot).unwrap_or_default()
    }

    /// Notes what has been told.
    pub fn set_told(&self, slot: u32, told: nm_told) {
        self.store(&TOLD, slot, told);
    }

    fn told_retransmits(&self, slot: u32) -> u32 {
        self.load(&TOLD_RETRANSMITS, slot).map_or(0, |told| told[(slot % SLOTS) as usize])
    }

    /// Notes how many retransmits have been told; returns how many of them are new.
    pub fn tell_retransmits(&self, slot: u32, total: u32) -> u32 {
        let index = (slot % SLOTS) as usize;
        let before = self.update(&TOLD_RETRANSMITS, slot, |told| told[index] = total);
        before.map_or(0, |before| total.wrapping_sub(before[index]))
    }

    /// Writes the agent's own notes of a slot.
    pub fn set_notes(&self, slot: u32, direction: u8, flags: u8) {
        self.update(&COLD, slot, |cold| (cold.agent_direction, cold.agent_flags) = (direction, flags));
    }

    /// Adds an older slot's notes to those made since.
    pub fn add_notes(&self, slot: u32, direction: u8, flags: u8) {
        self.update(&COLD, slot, |cold| {
            if cold.agent_direction == 0 {
                cold.agent_direction = direction;
            }
            cold.agent_flags |= flags;
        });
    }

    /// Adds what an old slot of the same flow counted.
    pub fn absorb(&self, slot: u32, old: &Snapshot, from: (&Self, u32)) {
        self.update(&HOT, slot, |hot| {
            for side in 0..2 {
                hot.packets[side] = hot.packets[side].wrapping_add(old.hot.packets[side]);
                hot.bytes[side] = hot.bytes[side].wrapping_add(old.hot.bytes[side]);
            }
        });
        let begun_ns = self.load(&COLD, slot).map_or(0, |cold| cold.start_ns);
        // Else it is an alias, or its ports were used anew before it could move.
        if old.stands_for().is_none() && (old.hot.closed_ns == 0 || begun_ns <= old.hot.closed_ns) {
            self.absorb_said(slot, old);
        }
        self.absorb_measured(slot, old);
        let told = from.0.told(from.1);
        self.update(&TOLD, slot, |here| {
            for side in 0..2 {
                here.bytes[side] = here.bytes[side].wrapping_add(told.bytes[side]);
                here.packets[side] = here.packets[side].wrapping_add(told.packets[side]);
            }
        });
        let told = self.told_retransmits(slot).wrapping_add(from.0.told_retransmits(from.1));
        self.tell_retransmits(slot, told);
    }

    /// Adds what packets said that had found an old slot before its flow moved, and said it after this was taken along.
    fn absorb_said(&self, slot: u32, old: &Snapshot) {
        self.update(&HOT, slot, |hot| {
            hot.marks |= old.hot.marks & decode::MARKS_SET;
            hot.marks &= old.hot.marks | !decode::MARK_HANDSHAKE;
            for (here, old) in hot.tcp_flags.iter_mut().zip(old.hot.tcp_flags) {
                *here |= old;
            }
            hot.icmp_errors |= old.hot.icmp_errors;
            if hot.closed_ns == 0 {
                hot.closed_ns = old.hot.closed_ns;
            }
        });
        if old.cold.handshake_us > 0 {
            self.update(&COLD, slot, |cold| cold.handshake_us = old.cold.handshake_us);
        }
    }

    /// Adds what another slot of the same conversation counted. What else it knew this one has seen for itself (`nm_passes`), but
    /// for where its packets came in, if nothing else tells it here. `swapped`: its side 0 is side 1 here.
    pub fn add(&self, slot: u32, other: &Snapshot, swapped: bool) {
        self.update(&HOT, slot, |hot| {
            for side in 0..2 {
                let theirs = side ^ usize::from(swapped);
                hot.packets[side] = hot.packets[side].wrapping_add(other.hot.packets[theirs]);
                hot.bytes[side] = hot.bytes[side].wrapping_add(other.hot.bytes[theirs]);
                hot.tcp_flags[side] |= other.hot.tcp_flags[theirs];
                if hot.owner[side] == 0 {
                    hot.owner[side] = other.hot.owner[theirs];
                }
            }
        });
    }

    /// Adds what an old slot of the same flow measured.
    fn absorb_measured(&self, slot: u32, old: &Snapshot) {
        let (timing, detail, dns) = (&old.timing, &old.detail, &old.dns);
        self.update(&TIMING, slot, |here| {
            for side in 0..2 {
                if timing.rtt_samples[side] > 0 {
                    let least = if here.rtt_samples[side] > 0 { here.rtt_min_us[side] } else { u32::MAX };
                    here.rtt_min_us[side] = least.min(timing.rtt_min_us[side]);
                    here.rtt_max_us[side] = here.rtt_max_us[side].max(timing.rtt_max_us[side]);
                }
                here.rtt_sum_us[side] = here.rtt_sum_us[side].wrapping_add(timing.rtt_sum_us[side]);
                here.rtt_samples[side] = here.rtt_samples[side].wrapping_add(timing.rtt_samples[side]);
            }
        });
        self.update(&DETAIL, slot, |here| {
            for side in 0..2 {
                here.retransmits[side] = here.retransmits[side].wrapping_add(detail.retransmits[side]);
                here.out_of_order[side] = here.out_of_order[side].wrapping_add(detail.out_of_order[side]);
                here.zero_windows[side] = here.zero_windows[side].saturating_add(detail.zero_windows[side]);
                here.repeat_bursts[side] =
                    here.repeat_bursts[side].saturating_add(detail.repeat_bursts[side]);
            }
            for (here, lanes) in here.lanes.iter_mut().zip(detail.lanes) {
                *here = here.wrapping_add(lanes);
            }
            here.lanes_sum_us = here.lanes_sum_us.wrapping_add(detail.lanes_sum_us);
        });
        if old.cold.protocol == Protocol::UDP.0 {
            self.update(&DNS, slot, |here| {
                here.queries = here.queries.wrapping_add(dns.queries);
                here.responses = here.responses.wrapping_add(dns.responses);
            });
        }
    }

    /// Takes out the round trips that are new.
    pub fn take_rtts(&self, slot: u32) -> NewRtts {
        let taken =
            self.update(&DETAIL, slot, |detail| (detail.lanes, detail.lanes_sum_us) = Default::default());
        let taken = taken.unwrap_or_default();
        let mut new = NewRtts { sum_us: taken.lanes_sum_us, ..NewRtts::default() };
        for (buckets, lanes) in new.buckets.chunks_mut(4).zip(taken.lanes) {
            for (lane, bucket) in buckets.iter_mut().enumerate() {
                *bucket = (lanes >> (16 * lane)) as u16;
            }
        }
        new
    }
}

impl Snapshot {
    /// Of an alias: the tag of its flow.
    pub fn stands_for(&self) -> Option<u64> {
        (self.hot.marks & MARK_ALIAS != 0).then_some(self.hot.closed_ns)
    }

    /// Of an alias: whether its side 0 is side 1 of its flow.
    pub fn swapped(&self) -> bool {
        self.hot.marks & MARK_SWAPPED != 0
    }

    /// Whether there are round trips to be taken out.
    pub fn has_rtts(&self) -> bool {
        self.detail.lanes.iter().any(|lanes| *lanes != 0)
    }

    /// Whether packets still find this slot.
    pub fn live(&self) -> bool {
        self.tag & DEAD == 0
    }

    /// Counters, opener first.
    pub fn counters(&self) -> Counters {
        let opener = usize::from(self.cold.opener & 1);
        Counters {
            packets_sent: self.hot.packets[opener],
            packets_received: self.hot.packets[1 - opener],
            bytes_sent: self.hot.bytes[opener],
            bytes_received: self.hot.bytes[1 - opener],
        }
    }

    /// Tick of the last packet of either direction.
    pub fn last_tick(&self) -> u32 {
        later(self.hot.seen_ticks)
    }
}

/// The later of two ticks; they wrap around.
fn later([a, b]: [u32; 2]) -> u32 {
    if a.wrapping_sub(b) > u32::MAX / 2 { b } else { a }
}
