//! Cuts answers into objects as they arrive, so that neither a list nor a stream is ever held as a whole. Pure.

use std::ops::Range;

/// Bytes of one object at most: etcd keeps none above 1.5 MiB, and its JSON is not ten times as long.
pub(super) const OBJECT_MAX: usize = 16 << 20;

/// An object is too long to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Lines of a watch.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Calls `each` with each line that is complete now; ends early when told so.
    pub(super) fn feed<E: From<TooLong>>(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if self.pending.is_empty() {
                each(line)?;
            } else {
                self.pending.extend_from_slice(line);
                let whole = std::mem::take(&mut self.pending);
                each(&whole)?;
                self.pending = whole;
                self.pending.clear();
            }
        }
        if self.pending.len() + bytes.len() > OBJECT_MAX {
            return Err(TooLong.into());
        }
        self.pending.extend_from_slice(bytes);
        Ok(())
    }
}

/// Items of a list: `{"kind":"PodList","metadata":{...},"items":[{...},{...}]}`.
#[derive(Debug, Default)]
pub(super) struct Items {
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// The last text at depth 1: a key of the list.
    key: Vec<u8>,
    in_items: bool,
    /// What has come of the item under way.
    item: Vec<u8>,
    /// The list without its items.
    frame: Vec<u8>,
}

impl Items {
    /// Calls `each` with each item that is complete now.
    pub(super) fn feed<E: From<TooLong>>(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        // Where in `bytes` the item under way goes on.
        let mut from = 0;
        for (at, byte) in bytes.iter().enumerate() {
            let (was, quoted) = (self.depth, self.in_string);
            self.step(*byte);
            if self.in_items && was == 2 && self.depth == 3 {
                from = at;
            } else if self.in_items && was == 3 && self.depth == 2 {
                self.complete(bytes, from..at + 1, &mut each)?;
            } else if self.depth < 3 || !self.in_items {
                self.frame(*byte, was, quoted);
            }
        }
        if self.in_items && self.depth >= 3 {
            self.item.extend_from_slice(&bytes[from..]);
        }
        if self.item.len() > OBJECT_MAX || self.frame.len() > OBJECT_MAX {
            Err(TooLong.into())
        } else {
            Ok(())
        }
    }

    fn complete<E>(
        &mut self,
        bytes: &[u8],
        range: Range<usize>,
        each: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.item.is_empty() {
            return each(&bytes[range]);
        }
        self.item.extend_from_slice(&bytes[range]);
        let told = each(&self.item);
        self.item.clear();
        told
    }

    fn step(&mut self, byte: u8) {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }

    /// Keeps a byte that belongs to no item, and learns the list's keys from it.
    fn frame(&mut self, byte: u8, was: u32, quoted: bool) {
        // Commas between items are left out: nothing stands between them.
        if !(self.in_items && self.depth == 2 && byte == b',') {
            self.frame.push(byte);
        }
        match (was, self.depth) {
            (1, 1) if quoted && self.in_string => self.key.push(byte),
            (1, 1) if !quoted && self.in_string => self.key.clear(),
            (1, 2) => self.in_items = byte == b'[' && self.key == b"items",
            (2, 1) => self.in_items = false,
            _ => {}
        }
    }

    /// The list without its items, once all of it has come; `None` before.
    pub(super) fn finish(&self) -> Option<&[u8]> {
        (self.depth == 0 && !self.frame.is_empty()).then_some(&self.frame)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn items(text: &[u8], cut: usize) -> (Vec<String>, Option<String>) {
        let (mut splitter, mut items) = (Items::default(), Vec::new());
        for chunk in text.chunks(cut) {
            let told: Result<(), TooLong> = splitter.feed(chunk, |item| {
                items.push(String::from_utf8(item.to_vec()).unwrap());
                Ok(())
            });
            told.unwrap();
        }
        (items, splitter.finish().map(|frame| String::from_utf8(frame.to_vec()).unwrap()))
    }

    const LIST: &str = r#"{"kind":"PodList","metadata":{"items":[{"no":1}],"resourceVersion":"7"},
        "items": [ {"a":"}]\"{[","b":[{"c":{}}]} , {"d":"items"}], "tail":["x"]}"#;

    #[test]
    fn items_are_the_same_however_the_bytes_come() {
        let whole = items(LIST.as_bytes(), LIST.len());
        assert_eq!(whole.0, [r#"{"a":"}]\"{[","b":[{"c":{}}]}"#, r#"{"d":"items"}"#]);
        let frame: serde_json::Value = serde_json::from_str(whole.1.as_deref().unwrap()).unwrap();
        assert_eq!(frame["metadata"]["resourceVersion"], "7");
        assert_eq!(frame["items"], serde_json::json!([]));
        for cut in 1..40 {
            assert_eq!(items(LIST.as_bytes(), cut), whole, "cut every {cut}");
        }
    }

    #[test]
    fn null_items_and_a_cut_list() {
        assert_eq!(items(br#"{"metadata":{},"items":null}"#, 3).0, Vec::<String>::new());
        assert_eq!(items(br#"{"items":[{"a":1},{"b""#, 4), (vec![r#"{"a":1}"#.into()], None));
    }

    #[test]
    fn lines_are_the_same_however_the_bytes_come() {
        for cut in 1..9 {
            let (mut lines, mut told) = (Lines::default(), Vec::new());
            for chunk in b"ab\n\ncde\nf".chunks(cut) {
                let fed: Result<(), TooLong> = lines.feed(chunk, |line| {
                    told.push(line.to_vec());
                    Ok(())
                });
                fed.unwrap();
            }
            assert_eq!(told, [b"ab".to_vec(), b"".to_vec(), b"cde".to_vec()], "cut every {cut}");
        }
    }

    #[test]
    fn an_object_without_end_is_refused() {
        let endless = vec![b'x'; OBJECT_MAX / 4];
        let mut lines = Lines::default();
        let fed: Vec<Result<(), TooLong>> = (0..5).map(|_| lines.feed(&endless, |_| Ok(()))).collect();
        assert_eq!(fed[4], Err(TooLong));
        let mut list = Items::default();
        let _: Result<(), TooLong> = list.feed(br#"{"items":[{"a":""#, |_| Ok(()));
        let fed: Vec<Result<(), TooLong>> = (0..5).map(|_| list.feed(&endless, |_| Ok(()))).collect();
        assert_eq!(fed[4], Err(TooLong));
    }

    proptest! {
        #[test]
        fn lying_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 1usize..50) {
            let mut list = Items::default();
            for chunk in bytes.chunks(cut) {
                let _: Result<(), TooLong> = list.feed(chunk, |_| Ok(()));
            }
            let _ = list.finish();
        }
    }
}
