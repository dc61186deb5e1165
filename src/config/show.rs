//! Values as one would write them: what [`values`](super::values) reads, the other way round.

use serde_json::Value;

use super::schema::Kind;

const DURATIONS: [(u64, &str); 5] =
    [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];
const SIZES: [(u64, &str); 4] = [(1 << 40, "Ti"), (1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];

/// A value in its normal form, in words that are accepted for it on a command line.
pub fn text(kind: &Kind, value: &Value) -> String {
    match (kind, value) {
        (Kind::Duration(_), Value::Number(ms)) => ms.as_u64().map_or_else(String::new, duration),
        (Kind::Size, Value::Number(bytes)) => bytes.as_u64().map_or_else(String::new, size),
        (_, Value::String(word)) => word.clone(),
        (_, Value::Array(items)) => {
            let words: Vec<String> = items
                .iter()
                .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
                .collect();
            words.join(",")
        }
        (_, other) => other.to_string(),
    }
}

/// In the largest unit that leaves no rest.
fn duration(ms: u64) -> String {
    let unit = DURATIONS.iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{ms}ms"), |(unit, name)| format!("{}{name}", ms / unit))
}

fn size(bytes: u64) -> String {
    let unit = SIZES.iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| bytes.to_string(), |(unit, name)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::config::schema::KEYS;
    use crate::config::{Config, Inputs, values};

    #[test]
    fn every_default_is_shown_as_it_can_be_set() {
        let loaded = Config::load(&Inputs::default()).unwrap();
        for key in KEYS {
            let value = &loaded.values[key.path];
            let shown = text(&key.kind, value);
            assert_eq!(values::normal(&key.kind, &json!(shown), true).as_ref(), Some(value), "{}", key.path);
        }
    }

    proptest! {
        #[test]
        fn durations_and_sizes_survive(number in 1u64..1 << 40) {
            for kind in [Kind::Duration(1), Kind::Size] {
                let shown = json!(text(&kind, &json!(number)));
                prop_assert_eq!(values::normal(&kind, &shown, true), Some(json!(number)));
            }
        }
    }

    #[test]
    fn they_are_shown_as_people_write_them() {
        assert_eq!(text(&Kind::Duration(1), &json!(300_000)), "5m");
        assert_eq!(text(&Kind::Duration(1), &json!(1500)), "1500ms");
        assert_eq!(text(&Kind::Size, &json!(1u64 << 30)), "1Gi");
        assert_eq!(text(&Kind::Globs, &json!(["eth0", "veth*"])), "eth0,veth*");
    }
}
