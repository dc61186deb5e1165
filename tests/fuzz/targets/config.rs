//! Whatever a configuration file, the environment, flags and `config set` say: a valid configuration, which is the same when it is put
//! together again, or mistakes that are told, without a panic.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use netmon::config::{Config, Inputs, public};

static FILE: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("netmon-fuzz-{}.yaml", std::process::id())));

/// Lines of `name=value`.
fn pairs(text: &str) -> Vec<(String, String)> {
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    text.lines().filter_map(pair).collect()
}

fuzz_target!(|text: &str| {
    // The file, then what stands above it, divided by lines of one character.
    let mut parts = text.split("\n%\n");
    let written = std::fs::write(&*FILE, parts.next().unwrap_or_default());
    let inputs = Inputs {
        file: written.is_ok().then(|| FILE.clone()),
        environment: parts.next().map(pairs).unwrap_or_default(),
        flags: parts.next().map(pairs).unwrap_or_default(),
    };
    match Config::load_with(&inputs, &parts.next().map(pairs).unwrap_or_default()) {
        Ok(loaded) => {
            let again = loaded.with(&[]).map(|again| again.values);
            assert_eq!(again.ok(), Some(loaded.values.clone()));
            let _ = public(&loaded.config);
        }
        Err(mistakes) => assert!(!mistakes.to_string().is_empty()),
    }
});
