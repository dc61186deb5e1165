//! Where this process spends its time: the kernel notes, so many times a second of CPU time, which instruction each of its threads
//! is at (`perf_event_open`). Costs nothing when it does not run, and needs no signal handler.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::fd::FromRawFd;
use std::path::Path;
use std::sync::atomic::Ordering;

use libbpf_sys::{perf_event_attr, perf_event_mmap_page};

use super::shared::Shared;

/// Bytes of samples that a thread's buffer holds: 24 each.
const DATA_BYTES: usize = 32 * 1024;
/// Header, instruction pointer, process and thread.
const SAMPLE_BYTES: usize = 24;

/// A moment of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sample {
    /// Address of the instruction.
    pub address: u64,
    /// Thread.
    pub thread: u32,
}

/// Samples all threads of this process until it is dropped.
#[derive(Debug)]
pub struct Sampler {
    hertz: u64,
    threads: BTreeMap<u32, Stream>,
    lost: u64,
}

#[derive(Debug)]
struct Stream {
    _event: File,
    /// A page that says how far each side has come, and the ring.
    pages: Shared,
    page_bytes: usize,
    ring_bytes: usize,
}

impl Sampler {
    /// Starts, with so many samples a second of CPU time.
    ///
    /// # Errors
    /// The kernel's: without CAP_PERFMON `kernel.perf_event_paranoid` must be 2 at most.
    pub fn start(hertz: u64) -> io::Result<Self> {
        let mut sampler = Self { hertz, threads: BTreeMap::new(), lost: 0 };
        sampler.follow()?;
        Ok(sampler)
    }

    /// Takes in threads that are new; those that have ended keep what they have noted until it is read.
    fn follow(&mut self) -> io::Result<()> {
        let tasks = std::fs::read_dir(Path::new("/proc/self/task"))?.flatten();
        for thread in tasks.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
            if self.threads.contains_key(&thread) {
                continue;
            }
            match Stream::open(thread, self.hertz) {
                Ok(stream) => drop(self.threads.insert(thread, stream)),
                // It has ended meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Hands over what was noted since the last time.
    ///
    /// # Errors
    /// When a new thread can't be sampled.
    pub fn drain(&mut self, each: &mut dyn FnMut(Sample)) -> io::Result<()> {
        for stream in self.threads.values() {
            self.lost += stream.drain(each);
        }
        self.follow()
    }

    /// Samples that found no room.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

impl Stream {
    fn open(thread: u32, hertz: u64) -> io::Result<Self> {
        let with_kernel = Self::event(thread, hertz, false);
        let event = with_kernel.or_else(|_| Self::event(thread, hertz, true))?;
        let page_bytes = rustix::param::page_size();
        let ring_bytes = DATA_BYTES.max(page_bytes);
        let pages = Shared::map(&event, page_bytes + ring_bytes)?;
        Ok(Self { _event: event, pages, page_bytes, ring_bytes })
    }

    fn event(thread: u32, hertz: u64, user_only: bool) -> io::Result<File> {
        let mut attributes = perf_event_attr {
            type_: libbpf_sys::PERF_TYPE_SOFTWARE,
            size: size_of::<perf_event_attr>() as u32,
            config: u64::from(libbpf_sys::PERF_COUNT_SW_CPU_CLOCK),
            sample_type: u64::from(libbpf_sys::PERF_SAMPLE_IP | libbpf_sys::PERF_SAMPLE_TID),
            ..Default::default()
        };
        attributes.__bindgen_anon_1.sample_freq = hertz;
        attributes.set_freq(1);
        attributes.set_exclude_kernel(u64::from(user_only));
        attributes.set_exclude_hv(1);
        // SAFETY: the attributes are initialised and outlive the call, which only reads them (and writes their size on error).
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw mut attributes,
                thread,
                -1,
                -1,
                libbpf_sys::PERF_FLAG_FD_CLOEXEC,
            )
        };
        match i32::try_from(fd) {
            // SAFETY: a fresh descriptor that nobody else owns.
            Ok(fd) if fd >= 0 => Ok(unsafe { File::from_raw_fd(fd) }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Reads the ring; returns how many samples it had lost.
    fn drain(&self, each: &mut dyn FnMut(Sample)) -> u64 {
        let word = |at: usize| self.pages.word(at);
        let ends = word(offset_of!(perf_event_mmap_page, data_head))
            .zip(word(offset_of!(perf_event_mmap_page, data_tail)));
        let Some((head, read)) = ends else { return 0 };
        let (head, mut tail) = (head.load(Ordering::Acquire), read.load(Ordering::Relaxed));
        let mut lost = 0;
        while head.saturating_sub(tail) >= 8 {
            // struct perf_event_header: type, misc, size.
            let header = self.eight(tail);
            let (kind, length) = (header as u32, header >> 48);
            if length < 8 {
                break;
            }
            if kind == libbpf_sys::PERF_RECORD_SAMPLE && length >= SAMPLE_BYTES as u64 {
                let thread = (self.eight(tail + 16) >> 32) as u32;
                each(Sample { address: self.eight(tail + 8), thread });
            } else if kind == libbpf_sys::PERF_RECORD_LOST {
                lost += self.eight(tail + 16);
            }
            tail += length;
        }
        read.store(head, Ordering::Release);
        lost
    }

    /// Eight bytes of the ring: records are multiples of eight, so they never lie across its end.
    fn eight(&self, at: u64) -> u64 {
        let at = usize::try_from(at % self.ring_bytes as u64).unwrap_or(0) & !7;
        self.pages.word(self.page_bytes + at).map_or(0, |word| word.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_busy_thread_is_found_busy() {
        let mut sampler = Sampler::start(997).unwrap();
        let busy = std::thread::spawn(|| {
            let begin = std::time::Instant::now();
            while begin.elapsed().as_millis() < 300 {
                std::hint::black_box(0);
            }
        });
        let mut samples = Vec::new();
        while !busy.is_finished() {
            sampler.drain(&mut |sample| samples.push(sample)).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        busy.join().unwrap();
        assert!(
            samples.iter().any(|sample| sample.thread != std::process::id()),
            "{} samples",
            samples.len()
        );
        assert_eq!(sampler.lost(), 0);
    }
}
