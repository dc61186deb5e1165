//! Memory that the kernel and this process write at the same time: mapped maps and buffers.
//!
//! It is never referred to as a plain value, only as atomic words of eight bytes, so that neither what programs write
//! meanwhile nor what this process's own threads do can be undefined behaviour. A value of several words may be read while
//! some of them change: whoever reads it has to tell.
#![allow(unsafe_code)]

use std::io::Result;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapAsRawDesc, MmapOptions, MmapRaw};

use super::skeleton::types::{
    nm_cold, nm_control, nm_detail, nm_dns, nm_hot, nm_pairing, nm_timing, nm_told, nm_track,
};

/// What can be read and written as words.
///
/// # Safety
/// Made of integers alone, for which any bytes will do, without padding, which must not be read.
pub(super) unsafe trait Plain: Copy + Default {}

macro_rules! plain {
    ($($name:ty),+) => {$(
        // SAFETY: integers and arrays of them; the shared header names its padding and asserts sizes.
        unsafe impl Plain for $name {}
    )+};
}
plain!([u32; 2], [u32; 8]);
plain!(nm_cold, nm_control, nm_detail, nm_dns, nm_hot, nm_pairing, nm_timing, nm_told, nm_track);

/// A value that can be taken apart into words.
#[derive(Clone, Copy, Default)]
#[repr(C, align(8))]
struct Words<T>(T);

impl<T: Plain> Words<T> {
    const COUNT: usize = {
        assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() <= 8, "whole words");
        size_of::<T>() / 8
    };

    fn of(cells: &[AtomicU64]) -> Self {
        let mut value = Self::default();
        for (word, cell) in value.words().iter_mut().zip(cells) {
            *word = cell.load(Ordering::Relaxed);
        }
        value
    }

    fn words(&mut self) -> &mut [u64] {
        // SAFETY: aligned, of so many words, and plain: all of it is there, and any words may be put in.
        unsafe { std::slice::from_raw_parts_mut((&raw mut self.0).cast(), Self::COUNT) }
    }
}

/// A mapping. Positions are in bytes from its beginning; beyond its end there is nothing to read, and what is written is lost.
#[derive(Debug)]
pub(super) struct Shared(MmapRaw);

impl Shared {
    /// Maps the first bytes of a map or buffer.
    pub(super) fn map(of: impl MmapAsRawDesc, bytes: usize) -> Result<Self> {
        MmapOptions::new().len(bytes).map_raw(of).map(Self)
    }

    fn cells(&self) -> &[AtomicU64] {
        // SAFETY: a mapping begins with a page and is as long as `self` lives; nothing but this refers to it.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() / 8) }
    }

    fn cells_of<T: Plain>(&self, at: usize) -> Option<&[AtomicU64]> {
        debug_assert!(at.is_multiple_of(8));
        self.cells().get(at / 8..)?.get(..Words::<T>::COUNT)
    }

    /// The word there.
    pub(super) fn word(&self, at: usize) -> Option<&AtomicU64> {
        debug_assert!(at.is_multiple_of(8));
        self.cells().get(at / 8)
    }

    /// What stands there, word by word.
    pub(super) fn load<T: Plain>(&self, at: usize) -> Option<T> {
        Some(Words::of(self.cells_of::<T>(at)?).0)
    }

    /// Puts something there, word by word.
    pub(super) fn store<T: Plain>(&self, at: usize, value: T) {
        for (cell, word) in self.cells_of::<T>(at).into_iter().flatten().zip(Words(value).words()) {
            cell.store(*word, Ordering::Relaxed);
        }
    }

    /// Changes what stands there and leaves alone what others change meanwhile: each word is exchanged, and worked out anew if it
    /// isn't any more what it was. Returns what stood there.
    pub(super) fn update<T: Plain>(&self, at: usize, change: impl Fn(&mut T)) -> Option<T> {
        let cells = self.cells_of::<T>(at)?;
        let mut before = Words::<T>::of(cells);
        let mut after = before;
        change(&mut after.0);
        for (index, cell) in cells.iter().enumerate() {
            loop {
                let (was, is) = (before.words()[index], after.words()[index]);
                if was == is {
                    break;
                }
                let exchanged = cell.compare_exchange(was, is, Ordering::AcqRel, Ordering::Relaxed);
                let Err(now) = exchanged else { break };
                before.words()[index] = now;
                after = before;
                change(&mut after.0);
            }
        }
        Some(before.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::Cell;

    use super::*;

    fn memory(bytes: usize) -> Shared {
        Shared(memmap2::MmapMut::map_anon(bytes).unwrap().into())
    }

    #[test]
    fn what_is_put_there_is_found_there_and_nothing_lies_beyond_the_end() {
        let memory = memory(64);
        let told = nm_told { bytes: [1, 2], packets: [3, 4] };
        memory.store(40, told);
        assert_eq!(
            memory.load::<nm_told>(40).map(|found| (found.bytes, found.packets)),
            Some(([1, 2], [3, 4]))
        );
        assert_eq!(memory.word(40).unwrap().load(Ordering::Relaxed), 1);
        assert!(memory.load::<nm_told>(48).is_none() && memory.word(64).is_none());
        memory.store(48, told);
        assert_eq!(memory.word(56).unwrap().load(Ordering::Relaxed).to_ne_bytes()[..4], 3u32.to_ne_bytes());
        assert!(memory.update(48, |_: &mut nm_told| {}).is_none());
    }

    #[test]
    fn a_change_loses_nothing_that_others_change_meanwhile() {
        let memory = memory(64);
        let disturbed = Cell::new(false);
        let before = memory.update(0, |told: &mut nm_told| {
            // Between the reading and the writing.
            if !disturbed.replace(true) {
                memory.word(0).unwrap().fetch_add(1 << 32, Ordering::Relaxed);
                memory.word(8).unwrap().store(7, Ordering::Relaxed);
            }
            told.bytes[0] += 1;
            told.packets[1] += 3;
        });
        let told: nm_told = memory.load(0).unwrap();
        assert_eq!((told.bytes, told.packets), ([1 << 32 | 1, 7], [0, 3]));
        assert_eq!(before.map(|before| before.bytes[0]), Some(1 << 32), "what stood in its place");
    }
}
