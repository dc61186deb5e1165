//! A profile in the format of pprof (`profile.proto`), gzipped: what `go tool pprof`, Speedscope and Grafana read.
//!
//! Each sample has two frames: the function, and the thread. Callers are not told: that takes frame pointers, which Rust programs are
//! built without.

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

use super::symbols::{Symbols, is_kernel};
use crate::kernel::sampling::Sample;

/// What was sampled.
#[derive(Debug)]
pub struct Profile {
    /// How often each place was found.
    pub counts: HashMap<Sample, u64>,
    /// Names of threads.
    pub threads: HashMap<u32, String>,
    /// When it began.
    pub started: Timestamp,
    /// For how long.
    pub duration: Duration,
    /// Samples a second of CPU time.
    pub hertz: u64,
    /// Samples that found no room.
    pub lost: u64,
}

/// A protobuf message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) -> &mut Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn bytes(&mut self, field: u64, value: &[u8]) -> &mut Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    fn packed(&mut self, field: u64, values: &[u64]) -> &mut Self {
        let mut inner = Self::default();
        values.iter().for_each(|value| inner.varint(*value));
        self.bytes(field, &inner.0)
    }
}

/// Strings by number; the first is empty.
struct Strings {
    numbers: HashMap<String, u64>,
    all: Vec<String>,
}

impl Strings {
    fn number(&mut self, text: &str) -> u64 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.all.len() as u64;
        self.all.push(text.into());
        self.numbers.insert(text.into(), number);
        number
    }
}

impl Profile {
    /// Looks up names and writes. Blocking: reads symbol tables.
    ///
    /// # Errors
    /// When it can't be packed.
    pub fn encode(&self) -> std::io::Result<Vec<u8>> {
        let symbols = Symbols::of_this_process(self.counts.keys().any(|sample| is_kernel(sample.address)));
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(&self.message(&symbols))?;
        packed.finish()
    }

    // Numbers of fields are those of profile.proto.
    fn message(&self, symbols: &Symbols) -> Vec<u8> {
        let mut strings = Strings { numbers: HashMap::new(), all: Vec::new() };
        strings.number("");
        let mut profile = Message::default();
        let kind = |strings: &mut Strings, kind: &str, unit: &str| {
            let mut message = Message::default();
            message.number(1, strings.number(kind)).number(2, strings.number(unit));
            message.0
        };
        for (name, unit) in [("samples", "count"), ("cpu", "nanoseconds")] {
            profile.bytes(1, &kind(&mut strings, name, unit));
        }
        let period_ns = 1_000_000_000 / self.hertz.max(1);
        // Places of code by address, then places that stand for threads.
        let mut functions: HashMap<String, u64> = HashMap::new();
        let mut places: HashMap<(u64, Option<u32>), u64> = HashMap::new();
        let (mut function_messages, mut place_messages) = (Message::default(), Message::default());
        let mut place = |address: u64, thread: Option<u32>, name: String, strings: &mut Strings| {
            let next = places.len() as u64 + 1;
            *places.entry((address, thread)).or_insert_with(|| {
                let next_function = functions.len() as u64 + 1;
                let function = *functions.entry(name.clone()).or_insert_with(|| {
                    let mut message = Message::default();
                    let number = strings.number(&name);
                    message.number(1, next_function).number(2, number).number(3, number);
                    function_messages.bytes(5, &message.0);
                    next_function
                });
                let (mut line, mut message) = (Message::default(), Message::default());
                line.number(1, function);
                let mapping = symbols.mapping(address).map_or(0, |(number, _)| number as u64 + 1);
                message.number(1, next).number(2, mapping).number(3, address).bytes(4, &line.0);
                place_messages.bytes(4, &message.0);
                next
            })
        };
        let mut counts: Vec<_> = self.counts.iter().collect();
        counts.sort_unstable();
        for (sample, count) in counts {
            let thread = self.threads.get(&sample.thread).map_or("ended", String::as_str);
            let code = place(sample.address, None, symbols.name(sample.address), &mut strings);
            let root = place(0, Some(sample.thread), format!("thread {thread}"), &mut strings);
            let (mut message, mut label) = (Message::default(), Message::default());
            label.number(1, strings.number("thread")).number(2, strings.number(thread));
            message.packed(1, &[code, root]).packed(2, &[*count, count * period_ns]).bytes(3, &label.0);
            profile.bytes(2, &message.0);
        }
        for (number, mapping) in symbols.mappings.iter().enumerate() {
            let mut message = Message::default();
            message.number(1, number as u64 + 1).number(2, mapping.start).number(3, mapping.end);
            message.number(4, mapping.offset).number(5, strings.number(&mapping.path)).number(7, 1);
            profile.bytes(3, &message.0);
        }
        profile.0.extend(place_messages.0);
        profile.0.extend(function_messages.0);
        profile.number(9, u64::try_from(self.started.as_nanosecond()).unwrap_or(0));
        profile.number(10, u64::try_from(self.duration.as_nanos()).unwrap_or(0));
        profile.bytes(11, &kind(&mut strings, "cpu", "nanoseconds"));
        profile.number(12, period_ns);
        if self.lost > 0 {
            profile.number(13, strings.number(&format!("{} samples were lost", self.lost)));
        }
        for text in &strings.all {
            profile.bytes(6, text.as_bytes());
        }
        profile.0
    }
}
