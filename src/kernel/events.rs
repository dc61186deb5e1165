//! Reading events: ring buffer or perf buffers, by timer, without a wake-up per event.
//!
//! Waiting is edge triggered: a ring that merely holds data does not end a wait, only the programs' own
//! wake-up (half full, table short of room) or another thread's nudge does.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use libbpf_rs::{RingBuffer, RingBufferBuilder};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

use super::decode::{self, Event};
use super::object::{Object, Transport};

/// Wakes the collector from another thread.
#[derive(Clone, Debug)]
pub struct Nudge(Arc<OwnedFd>);

impl Nudge {
    /// Makes one.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?)))
    }

    /// Ends the collector's wait.
    pub fn wake(&self) {
        // A full counter means that it is about to wake anyway.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    fn clear(&self) {
        let _ = rustix::io::read(&*self.0, &mut [0u8; 8]);
    }
}

#[derive(Default)]
struct Inbox {
    events: VecDeque<Event>,
    invalid: u64,
}

impl Inbox {
    fn take(&mut self, bytes: &[u8]) {
        match decode::event(bytes) {
            Some(event) => self.events.push_back(event),
            None => self.invalid += 1,
        }
    }
}

enum Source {
    Ring(RingBuffer<'static>),
    Perf(PerfBuffer),
}

/// The reading end.
pub struct Events {
    source: Source,
    inbox: Rc<RefCell<Inbox>>,
    epoll: OwnedFd,
    nudge: Nudge,
}

impl Events {
    /// Opens the reading end for the transport that the object was loaded with.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(object: &Object, nudge: Nudge) -> std::io::Result<Self> {
        let inbox = Rc::new(RefCell::new(Inbox::default()));
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let edge = EventFlags::IN | EventFlags::ET;
        let source = match object.transport() {
            Transport::Ringbuf => {
                let map = &object.skel.maps.nm_ring;
                let taker = Rc::clone(&inbox);
                let mut builder = RingBufferBuilder::new();
                builder
                    .add(map, move |bytes| {
                        taker.borrow_mut().take(bytes);
                        0
                    })
                    .map_err(std::io::Error::other)?;
                let ring = builder.build().map_err(std::io::Error::other)?;
                epoll::add(&epoll, map.as_fd(), EventData::new_u64(0), edge)?;
                Source::Ring(ring)
            }
            Transport::Perf => {
                let buffer = PerfBuffer::open(object, Rc::clone(&inbox))?;
                epoll::add(&epoll, buffer.epoll_fd(), EventData::new_u64(0), edge)?;
                Source::Perf(buffer)
            }
        };
        epoll::add(&epoll, &*nudge.0, EventData::new_u64(1), EventFlags::IN)?;
        Ok(Self { source, inbox, epoll, nudge })
    }

    /// Waits until the programs or another thread call, or the time is over.
    pub fn wait(&self, timeout: Duration) {
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let mut buffer = Vec::with_capacity(2);
        // An interrupted wait is a short wait.
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut buffer), Some(&timeout));
        self.nudge.clear();
    }

    /// Appends at most `limit` events to `into`; returns how many.
    pub fn read(&mut self, into: &mut Vec<Event>, limit: usize) -> usize {
        let waiting = self.inbox.borrow().events.len();
        if waiting < limit {
            match &self.source {
                // A failed read leaves the events where they are, for the next one.
                Source::Ring(ring) => drop(ring.consume_raw_n(limit - waiting)),
                Source::Perf(buffer) => buffer.consume(),
            }
        }
        let mut inbox = self.inbox.borrow_mut();
        let count = inbox.events.len().min(limit);
        into.extend(inbox.events.drain(..count));
        count
    }

    /// Events that could not be decoded, since the last call.
    pub fn take_invalid(&self) -> u64 {
        std::mem::take(&mut self.inbox.borrow_mut().invalid)
    }
}

/// Of a perf buffer.
const PERF_PAGES: usize = 64;

/// libbpf's perf buffer with a watermark, which its plain interface can't set.
struct PerfBuffer {
    raw: NonNull<libbpf_sys::perf_buffer>,
    /// What the callback writes to; freed after the buffer.
    _inbox: Rc<RefCell<Inbox>>,
}

impl PerfBuffer {
    fn open(object: &Object, inbox: Rc<RefCell<Inbox>>) -> std::io::Result<Self> {
        let mut attributes = libbpf_sys::perf_event_attr {
            type_: libbpf_sys::PERF_TYPE_SOFTWARE,
            size: size_of::<libbpf_sys::perf_event_attr>() as u32,
            config: u64::from(libbpf_sys::PERF_COUNT_SW_BPF_OUTPUT),
            sample_type: u64::from(libbpf_sys::PERF_SAMPLE_RAW),
            ..Default::default()
        };
        attributes.__bindgen_anon_1.sample_period = 1;
        attributes.set_watermark(1);
        attributes.__bindgen_anon_2.wakeup_watermark = (PERF_PAGES * rustix::param::page_size() / 2) as u32;
        // SAFETY: the map is a perf event array of a loaded object; the attributes are initialised; the context
        // outlives the buffer, since this struct keeps it.
        let raw = unsafe {
            libbpf_sys::perf_buffer__new_raw(
                object.skel.maps.nm_perf.as_fd().as_raw_fd(),
                PERF_PAGES as libbpf_sys::size_t,
                &mut attributes,
                Some(on_perf_event),
                Rc::as_ptr(&inbox).cast_mut().cast::<c_void>(),
                std::ptr::null(),
            )
        };
        let raw = NonNull::new(raw).ok_or_else(std::io::Error::last_os_error)?;
        Ok(Self { raw, _inbox: inbox })
    }

    fn epoll_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the fd belongs to the buffer, which outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(libbpf_sys::perf_buffer__epoll_fd(self.raw.as_ptr())) }
    }

    fn consume(&self) {
        // SAFETY: the buffer is valid; the callback takes the inbox, which nobody holds here.
        unsafe { libbpf_sys::perf_buffer__consume(self.raw.as_ptr()) };
    }
}

impl Drop for PerfBuffer {
    fn drop(&mut self) {
        // SAFETY: made by perf_buffer__new_raw and freed once.
        unsafe { libbpf_sys::perf_buffer__free(self.raw.as_ptr()) }
    }
}

unsafe extern "C" fn on_perf_event(
    context: *mut c_void,
    _cpu: std::os::raw::c_int,
    event: *mut libbpf_sys::perf_event_header,
) -> libbpf_sys::bpf_perf_event_ret {
    // SAFETY: libbpf passes the context given at open, a live RefCell<Inbox>, on the thread that consumes, and a whole record, `size`
    // bytes with its header, which the kernel does not write over before this returns.
    let (inbox, kind, record) = unsafe {
        let size = usize::from((*event).size);
        (
            &*context.cast::<RefCell<Inbox>>(),
            (*event).type_,
            std::slice::from_raw_parts(event.cast::<u8>(), size),
        )
    };
    if let Ok(mut inbox) = inbox.try_borrow_mut() {
        match kind {
            libbpf_sys::PERF_RECORD_SAMPLE => match decode::perf_sample(record) {
                Some(bytes) => inbox.take(bytes),
                None => inbox.invalid += 1,
            },
            // The programs have counted those: bpf_perf_event_output told them.
            libbpf_sys::PERF_RECORD_LOST => {}
            _ => inbox.invalid += 1,
        }
    }
    libbpf_sys::LIBBPF_PERF_EVENT_CONT
}
