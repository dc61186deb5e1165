//! Values: from what was written to what a key holds. Durations become milliseconds, sizes bytes.

use serde_json::{Value, json};

use super::schema::Kind;
use crate::flow::cidr::Cidr;
use crate::flow::measured::LANES;

/// Durations as milliseconds.
pub(super) mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// The value in its normal form; `None` if the key does not hold such a thing. `text`: it comes from the
/// environment or a flag, where everything is text and lists are separated by commas.
pub(super) fn normal(kind: &Kind, value: &Value, text: bool) -> Option<Value> {
    let word = value.as_str();
    match kind {
        Kind::Bool => value.as_bool().or_else(|| word.filter(|_| text)?.parse().ok()).map(Value::from),
        Kind::Integer(low, high) => {
            let number = value.as_u64().or_else(|| word.filter(|_| text)?.trim().parse().ok())?;
            (low..=high).contains(&&number).then(|| json!(number))
        }
        Kind::Share(low, high) => {
            let number = value.as_f64().or_else(|| word.filter(|_| text)?.trim().parse().ok())?;
            (number > *low && number <= *high).then(|| json!(number))
        }
        Kind::Duration(least) => duration_ms(word?).filter(|ms| ms >= least).map(Value::from),
        Kind::Size => value.as_u64().or_else(|| size(word?)).filter(|bytes| *bytes > 0).map(Value::from),
        Kind::Cores => {
            let cores = value.as_f64().or_else(|| word?.trim().parse().ok())?;
            (cores > 0.0 && cores.is_finite()).then(|| json!(cores))
        }
        Kind::Text => word.map(Value::from),
        Kind::Address => {
            let word = word?;
            let valid = word.is_empty()
                || word.rsplit_once(':').is_some_and(|(h, p)| !h.is_empty() && p.parse::<u16>().is_ok());
            valid.then(|| json!(word))
        }
        Kind::Choice(words) => {
            let word = value.as_bool().map(|b| b.to_string()).or_else(|| word.map(str::to_owned))?;
            words.contains(&word.as_str()).then(|| json!(word))
        }
        Kind::Globs => {
            let globs = words(value, text)?;
            crate::interfaces::Selection::new(&globs, &[]).ok().map(|_| json!(globs))
        }
        Kind::Networks => {
            let networks = words(value, text)?;
            let is_one =
                |text: &String| Cidr::parse(text).is_some() || crate::detect::workload(text).is_some();
            networks.iter().all(is_one).then(|| json!(networks))
        }
        Kind::Words(known) => {
            let words = words(value, text)?;
            words.iter().all(|word| known.contains(&word.as_str())).then(|| json!(words))
        }
        Kind::Buckets => {
            let numbers: Vec<f64> = match value {
                Value::Array(items) => items.iter().map(Value::as_f64).collect::<Option<_>>()?,
                _ => {
                    word.filter(|_| text)?.split(',').map(|n| n.trim().parse().ok()).collect::<Option<_>>()?
                }
            };
            let ascending = numbers.windows(2).all(|pair| pair[0] < pair[1]);
            let fits = (1..LANES).contains(&numbers.len());
            (fits && numbers[0] >= 0.001 && ascending && numbers.iter().all(|ms| *ms <= 4e6))
                .then(|| json!(numbers))
        }
    }
}

fn words(value: &Value, text: bool) -> Option<Vec<String>> {
    match value {
        Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        Value::String(list) if text => {
            Some(list.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect())
        }
        _ => None,
    }
}

/// `1h30m`, `300s`, `100ms` in milliseconds.
fn duration_ms(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        total += number
            * match &rest[..letters] {
                "ms" => 1.0,
                "s" => 1e3,
                "m" | "min" => 60e3,
                "h" => 3600e3,
                "d" => 86_400e3,
                _ => return None,
            };
        rest = rest[letters..].trim_start();
    }
    // A thousand years is long enough.
    (total.is_finite() && total < 3.2e13).then_some(total as u64)
}

/// `512Mi`, `1G`, `1048576` in bytes.
fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim().trim_end_matches('B') {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number * unit;
    (bytes.is_finite() && bytes < 1e18).then_some(bytes as u64)
}
