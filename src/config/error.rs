//! What is wrong with a configuration, told all at once.

use std::fmt;

/// One mistake: where, which key, what was given, what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{origin}: cannot be read: {reason}")]
    Unreadable {
        /// File.
        origin: String,
        /// Why.
        reason: String,
    },
    /// The file is no YAML.
    #[error("{origin}: is not valid YAML: {reason}")]
    Syntax {
        /// File.
        origin: String,
        /// Parser's words with line and column.
        reason: String,
    },
    /// There is no such key.
    #[error("{origin}: {path}: unknown key{hint}")]
    UnknownKey {
        /// File, variable or flag.
        origin: String,
        /// Path.
        path: String,
        /// What may have been meant.
        hint: String,
    },
    /// The value is not what the key holds.
    #[error("{origin}: {path}: {value} is not accepted; accepted: {accepted}")]
    Value {
        /// File, variable or flag.
        origin: String,
        /// Path.
        path: String,
        /// What was given.
        value: String,
        /// What is accepted.
        accepted: String,
    },
    /// A key and its alias are both given.
    #[error("{origin}: {path} and {alias} are the same setting; give one of them")]
    Twice {
        /// File, variable or flag.
        origin: String,
        /// Path.
        path: String,
        /// The other name.
        alias: String,
    },
}

/// All mistakes of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [one] => write!(f, "{one}"),
            many => {
                write!(f, "{} mistakes in the configuration:", many.len())?;
                many.iter().try_for_each(|error| write!(f, "\n  {error}"))
            }
        }
    }
}

impl std::error::Error for ConfigErrors {}
