//! One flow table of the kernel, mapped into this process: the very memory that the programs write.
//!
//! A slot's tag decides everything (see `nm_types.h`): 0 free, else live or, with [`DEAD`], leaving. Programs
//! alone turn 0 into a tag; the collector alone kills, clears and keeps notes. Reading is free for every
//! thread: a torn read is told by the tag, read before and after.
#![allow(unsafe_code)]

use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use libbpf_rs::{MapHandle, MapType};
use memmap2::{MmapOptions, MmapRaw};

use super::decode;
use super::skeleton::types::{
    nm_bucket, nm_cold, nm_detail, nm_dns, nm_hot, nm_timing, nm_told, nm_track, nm_wide,
};
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

const UDP: u8 = 17;
const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_F_INNER_MAP: u32 = 1 << 12;

/// One table: a BPF array of buckets, mapped.
#[derive(Debug)]
pub struct Table {
    map: MapHandle,
    memory: MmapRaw,
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

/// A slot as it was read: consistent in itself.
#[derive(Clone, Copy, Debug)]
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
            map_flags: BPF_F_MMAPABLE | BPF_F_INNER_MAP,
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
        let bytes = buckets as usize * layout.bucket_bytes();
        let memory = MmapOptions::new().len(bytes).map_raw(&map.as_fd())?;
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

    /// Address of a field of `nm_wide`, behind the narrow part; `None` in a narrow table.
    fn wide_field<T>(&self, slot: u32, offset: usize) -> Option<*mut T> {
        if self.layout == Layout::Wide { self.field(slot, offset) } else { None }
    }

    /// Address of a slot's `nm_dns`, which lies over its `nm_track`.
    fn dns_field(&self, slot: u32) -> Option<*mut nm_dns> {
        const { assert!(size_of::<nm_dns>() <= size_of::<nm_track>()) };
        Some(self.wide_field::<nm_track>(slot, offset_of!(nm_wide, track))?.cast())
    }

    /// Address of a bucket field's element `index` for a slot; `None` beyond the table.
    fn field<T>(&self, slot: u32, offset: usize) -> Option<*mut T> {
        let (bucket, index) = (slot / SLOTS, slot % SLOTS);
        if bucket >= self.buckets {
            return None;
        }
        let at = bucket as usize * self.layout.bucket_bytes() + offset + index as usize * size_of::<T>();
        debug_assert!(at + size_of::<T>() <= self.memory.len());
        // SAFETY: `at` lies within the mapping: bucket and index are in range and every offset passed
        // here is that of an array of SLOTS elements of T in nm_bucket, or in nm_wide if the table is that wide.
        Some(unsafe { self.memory.as_mut_ptr().add(at) }.cast())
    }

    fn tag_cell(&self, slot: u32) -> Option<&AtomicU64> {
        let cell = self.field::<u64>(slot, offset_of!(nm_bucket, tags))?;
        // SAFETY: in bounds and eight-byte aligned (the mapping is page aligned, nm_bucket a multiple of 8);
        // programs and threads access it by whole-word loads and stores only.
        Some(unsafe { AtomicU64::from_ptr(cell) })
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
        let hot = self.field::<nm_hot>(slot, offset_of!(nm_bucket, hot))?;
        let cold = self.field::<nm_cold>(slot, offset_of!(nm_bucket, cold))?;
        // SAFETY: both are in bounds and aligned; the types are plain integers for which every bit pattern is
        // valid. Programs write meanwhile: words are read whole (u64 and u32 loads), and the tag is read again.
        let (hot, cold) = unsafe { (hot.read_volatile(), cold.read_volatile()) };
        let timing = self.wide_field::<nm_timing>(slot, offset_of!(nm_wide, timing));
        // SAFETY: as above.
        let timing = timing.map_or_else(nm_timing::default, |timing| unsafe { timing.read_volatile() });
        let detail = self.wide_field::<nm_detail>(slot, offset_of!(nm_wide, detail));
        // SAFETY: as above.
        let detail = detail.map_or_else(nm_detail::default, |detail| unsafe { detail.read_volatile() });
        let dns = self.dns_field(slot).filter(|_| cold.protocol == UDP);
        // SAFETY: as above.
        let dns = dns.map_or_else(nm_dns::default, |dns| unsafe { dns.read_volatile() });
        let again = self.tag(slot);
        (again & !DEAD == tag & !DEAD).then_some(Snapshot { tag: again, hot, cold, timing, detail, dns })
    }

    /// Tick of the last packet of either direction; reads one cache line.
    pub fn last_tick(&self, slot: u32) -> u32 {
        let Some(hot) = self.field::<nm_hot>(slot, offset_of!(nm_bucket, hot)) else { return 0 };
        // SAFETY: in bounds and aligned; two whole-word loads of plain integers.
        later(unsafe { (&raw const (*hot).seen_ticks).read_volatile() })
    }

    /// An alias is as young as its flow.
    pub fn touch(&self, slot: u32, tick: u32) {
        let Some(hot) = self.field::<nm_hot>(slot, offset_of!(nm_bucket, hot)) else { return };
        // SAFETY: in bounds and aligned; a whole-word store of a plain integer, which programs store as well.
        unsafe { (&raw mut (*hot).seen_ticks[0]).write_volatile(tick) }
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

    /// Frees a slot that has been dead for a whole grace period.
    pub fn clear(&self, slot: u32) {
        let fields = (
            self.field::<nm_hot>(slot, offset_of!(nm_bucket, hot)),
            self.field::<nm_cold>(slot, offset_of!(nm_bucket, cold)),
            self.field::<nm_told>(slot, offset_of!(nm_bucket, told)),
            self.tag_cell(slot),
        );
        if let (Some(hot), Some(cold), Some(told), Some(tag)) = fields {
            debug_assert!(tag.load(Ordering::Relaxed) & DEAD != 0, "only a dead slot may be cleared");
            // SAFETY: in bounds and aligned; after the grace period no program holds the slot, and the
            // collector is the only thread that writes here.
            unsafe {
                hot.write(nm_hot::default());
                cold.write(nm_cold::default());
                told.write(nm_told::default());
            }
            let wide = (
                self.wide_field::<nm_track>(slot, offset_of!(nm_wide, track)),
                self.wide_field::<nm_timing>(slot, offset_of!(nm_wide, timing)),
                self.wide_field::<nm_detail>(slot, offset_of!(nm_wide, detail)),
                self.wide_field::<u32>(slot, offset_of!(nm_wide, told_retransmits)),
            );
            if let (Some(track), Some(timing), Some(detail), Some(told)) = wide {
                // SAFETY: as above.
                unsafe {
                    track.write(nm_track::default());
                    timing.write(nm_timing::default());
                    detail.write(nm_detail::default());
                    told.write(0);
                }
            }
            tag.store(0, Ordering::Release);
        }
    }

    /// What the agent has told of the flow in this slot, by side of the key.
    pub fn told(&self, slot: u32) -> nm_told {
        self.field::<nm_told>(slot, offset_of!(nm_bucket, told))
            // SAFETY: in bounds and aligned; only the collector writes it.
            .map_or_else(nm_told::default, |told| unsafe { told.read() })
    }

    /// Notes what has been told.
    pub fn set_told(&self, slot: u32, told: nm_told) {
        if let Some(cell) = self.field::<nm_told>(slot, offset_of!(nm_bucket, told)) {
            // SAFETY: in bounds and aligned; only the collector writes it.
            unsafe { cell.write(told) }
        }
    }

    fn told_retransmits(&self, slot: u32) -> u32 {
        self.wide_field::<u32>(slot, offset_of!(nm_wide, told_retransmits))
            // SAFETY: in bounds and aligned; only the collector writes it.
            .map_or(0, |cell| unsafe { cell.read() })
    }

    /// Notes how many retransmits have been told; returns how many of them are new.
    pub fn tell_retransmits(&self, slot: u32, total: u32) -> u32 {
        let Some(cell) = self.wide_field::<u32>(slot, offset_of!(nm_wide, told_retransmits)) else {
            return 0;
        };
        // SAFETY: in bounds and aligned; only the collector writes it.
        unsafe {
            let before = cell.read();
            cell.write(total);
            total.wrapping_sub(before)
        }
    }

    fn note_cells(&self, slot: u32) -> Option<(&AtomicU8, &AtomicU8)> {
        let cold = self.field::<nm_cold>(slot, offset_of!(nm_bucket, cold))?.cast::<u8>();
        // SAFETY: both offsets lie within nm_cold; single bytes that programs leave alone (nm_move runs
        // only while the collector waits for it).
        unsafe {
            Some((
                AtomicU8::from_ptr(cold.add(offset_of!(nm_cold, agent_direction))),
                AtomicU8::from_ptr(cold.add(offset_of!(nm_cold, agent_flags))),
            ))
        }
    }

    /// Writes the agent's own notes of a slot.
    pub fn set_notes(&self, slot: u32, direction: u8, flags: u8) {
        if let Some((direction_cell, flags_cell)) = self.note_cells(slot) {
            direction_cell.store(direction, Ordering::Relaxed);
            flags_cell.store(flags, Ordering::Relaxed);
        }
    }

    /// Adds an older slot's notes to those made since.
    pub fn add_notes(&self, slot: u32, direction: u8, flags: u8) {
        if let Some((direction_cell, flags_cell)) = self.note_cells(slot) {
            if direction_cell.load(Ordering::Relaxed) == 0 {
                direction_cell.store(direction, Ordering::Relaxed);
            }
            flags_cell.fetch_or(flags, Ordering::Relaxed);
        }
    }

    /// Adds what an old slot of the same flow counted: atomically, since packets are being counted here.
    pub fn absorb(&self, slot: u32, old: &Snapshot, from: (&Self, u32)) {
        let told = from.0.told(from.1);
        let Some(cell) = self.field::<nm_hot>(slot, offset_of!(nm_bucket, hot)) else { return };
        let hot = &old.hot;
        for side in 0..2 {
            // SAFETY: the first 32 bytes of nm_hot are packets[2] and bytes[2], eight-byte aligned, and
            // programs change them by atomic adds only.
            unsafe {
                let packets = cell.cast::<u64>().add(offset_of!(nm_hot, packets) / 8 + side);
                let bytes = cell.cast::<u64>().add(offset_of!(nm_hot, bytes) / 8 + side);
                AtomicU64::from_ptr(packets).fetch_add(hot.packets[side], Ordering::Relaxed);
                AtomicU64::from_ptr(bytes).fetch_add(hot.bytes[side], Ordering::Relaxed);
            }
        }
        // A packet may have marked the old slot after its marks were taken along; programs do so again if they overwrite it.
        // SAFETY: the offset lies within nm_hot.
        let marks = unsafe { AtomicU8::from_ptr(cell.cast::<u8>().add(offset_of!(nm_hot, marks))) };
        marks.fetch_or(hot.marks & decode::MARK_TUNNEL, Ordering::Relaxed);
        self.absorb_measured(slot, old, from.0.told_retransmits(from.1));
        let mut here = self.told(slot);
        for side in 0..2 {
            here.bytes[side] += told.bytes[side];
            here.packets[side] = here.packets[side].wrapping_add(told.packets[side]);
        }
        self.set_told(slot, here);
    }

    /// Adds what another slot of the same conversation counted. What else it knew this one has seen for itself (`nm_passes`), but
    /// for where its packets came in, if nothing else tells it here. `swapped`: its side 0 is side 1 here.
    pub fn add(&self, slot: u32, other: &Snapshot, swapped: bool) {
        let Some(cell) = self.field::<nm_hot>(slot, offset_of!(nm_bucket, hot)) else { return };
        for side in 0..2 {
            let theirs = side ^ usize::from(swapped);
            // SAFETY: in bounds and aligned; whole words and bytes. Programs change the counters by atomic adds only, and of the
            // rest what they store at this very moment may stand instead.
            unsafe {
                let packets = AtomicU64::from_ptr(&raw mut (*cell).packets[side]);
                let bytes = AtomicU64::from_ptr(&raw mut (*cell).bytes[side]);
                let owner = AtomicU32::from_ptr(&raw mut (*cell).owner[side]);
                let flags = AtomicU8::from_ptr(&raw mut (*cell).tcp_flags[side]);
                packets.fetch_add(other.hot.packets[theirs], Ordering::Relaxed);
                bytes.fetch_add(other.hot.bytes[theirs], Ordering::Relaxed);
                flags.fetch_or(other.hot.tcp_flags[theirs], Ordering::Relaxed);
                let _ =
                    owner.compare_exchange(0, other.hot.owner[theirs], Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// The same for what was measured. Extremes are merged by plain words: a sample that is taken at this very moment may
    /// miss being one.
    fn absorb_measured(&self, slot: u32, old: &Snapshot, told_retransmits: u32) {
        let (Some(timing), Some(detail)) = (
            self.wide_field::<nm_timing>(slot, offset_of!(nm_wide, timing)),
            self.wide_field::<nm_detail>(slot, offset_of!(nm_wide, detail)),
        ) else {
            return;
        };
        // SAFETY: in bounds and aligned; u64 and u32 words that programs change by atomic adds only.
        let add64 =
            |cell: *mut u64, more| unsafe { AtomicU64::from_ptr(cell).fetch_add(more, Ordering::Relaxed) };
        // SAFETY: as above.
        let add32 =
            |cell: *mut u32, more| unsafe { AtomicU32::from_ptr(cell).fetch_add(more, Ordering::Relaxed) };
        for side in 0..2 {
            // SAFETY: in bounds and aligned; whole words.
            unsafe {
                let (min, max) = (&raw mut (*timing).rtt_min_us[side], &raw mut (*timing).rtt_max_us[side]);
                if old.timing.rtt_samples[side] > 0 {
                    let here = (&raw const (*timing).rtt_samples[side]).read_volatile() > 0;
                    let least = if here { min.read_volatile() } else { u32::MAX };
                    min.write_volatile(least.min(old.timing.rtt_min_us[side]));
                    max.write_volatile(max.read_volatile().max(old.timing.rtt_max_us[side]));
                }
                add64(&raw mut (*timing).rtt_sum_us[side], old.timing.rtt_sum_us[side]);
                add32(&raw mut (*timing).rtt_samples[side], old.timing.rtt_samples[side]);
                for (cell, more) in [
                    (&raw mut (*detail).zero_windows[side], old.detail.zero_windows[side]),
                    (&raw mut (*detail).repeat_bursts[side], old.detail.repeat_bursts[side]),
                ] {
                    cell.write_volatile(cell.read_volatile().saturating_add(more));
                }
                add32(&raw mut (*detail).retransmits[side], old.detail.retransmits[side]);
                add32(&raw mut (*detail).out_of_order[side], old.detail.out_of_order[side]);
            }
        }
        for (index, lanes) in old.detail.lanes.iter().enumerate() {
            // SAFETY: as above.
            unsafe { add64(&raw mut (*detail).lanes[index], *lanes) };
        }
        // SAFETY: as above.
        unsafe { add64(&raw mut (*detail).lanes_sum_us, old.detail.lanes_sum_us) };
        if old.cold.protocol == UDP
            && let Some(dns) = self.dns_field(slot)
        {
            // SAFETY: as above.
            unsafe {
                add32(&raw mut (*dns).queries, old.dns.queries);
                add32(&raw mut (*dns).responses, old.dns.responses);
            }
        }
        let told = self.told_retransmits(slot).wrapping_add(told_retransmits);
        self.tell_retransmits(slot, told);
    }

    /// Takes out the round trips that are new.
    pub fn take_rtts(&self, slot: u32) -> NewRtts {
        let mut new = NewRtts::default();
        let Some(detail) = self.wide_field::<nm_detail>(slot, offset_of!(nm_wide, detail)) else {
            return new;
        };
        // SAFETY: in bounds and aligned; u64 words that programs change by atomic adds only.
        let take = |cell: *mut u64| unsafe { AtomicU64::from_ptr(cell).swap(0, Ordering::Relaxed) };
        for (word, buckets) in new.buckets.chunks_mut(4).enumerate() {
            // SAFETY: as above.
            let lanes = take(unsafe { &raw mut (*detail).lanes[word] });
            for (lane, bucket) in buckets.iter_mut().enumerate() {
                *bucket = (lanes >> (16 * lane)) as u16;
            }
        }
        // SAFETY: as above.
        new.sum_us = take(unsafe { &raw mut (*detail).lanes_sum_us });
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

/// A word of the kernel's control block.
pub(super) fn word(cell: &mut u32) -> &AtomicU32 {
    // SAFETY: aligned, valid as long as the borrow, and accessed by whole-word loads and stores on both sides.
    unsafe { AtomicU32::from_ptr(cell) }
}
