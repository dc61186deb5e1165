//! The configuration as it may be shown to anybody.

use serde_json::Value;

use super::Config;

/// What the last part of a secret's key contains.
const SECRET: [&str; 4] = ["password", "secret", "token", "credential"];
/// What is shown in its place.
const HIDDEN: &str = "(hidden)";

/// Every value but secrets, of which only is told whether there is one.
pub fn public(config: &Config) -> Value {
    let mut tree = serde_json::to_value(config).unwrap_or_default();
    hide(&mut tree, false);
    tree
}

fn hide(value: &mut Value, secret: bool) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                hide(value, secret || SECRET.iter().any(|word| name.contains(word)));
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| hide(value, secret)),
        Value::String(text) if text.is_empty() => {}
        value if secret => *value = HIDDEN.into(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_however_deep_they_lie_and_nothing_else() {
        let mut tree = serde_json::json!({
            "api": { "socket": "/run/s", "bearer_token": "t0p" },
            "sink": [{ "password": ["a", 7], "port": 1 }], "client_secret": { "id": "x" }, "token": "",
        });
        hide(&mut tree, false);
        let expected = serde_json::json!({
            "api": { "socket": "/run/s", "bearer_token": HIDDEN },
            "sink": [{ "password": [HIDDEN, HIDDEN], "port": 1 }], "client_secret": { "id": HIDDEN }, "token": "",
        });
        assert_eq!(tree, expected);
        assert_eq!(public(&Config::default())["log"]["level"], "info");
    }
}
