//! Putting the layers together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::{File, FileFormat};
use serde_json::{Map, Value};

use super::error::{ConfigError, ConfigErrors};
use super::schema::{self, Key};
use super::{Config, values};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// The command line.
    Flag,
    /// `netmon-cli config set`.
    Set,
}

impl Origin {
    /// In words.
    pub fn words(&self) -> String {
        match self {
            Self::Default => "default".into(),
            Self::File(path) => format!("file {}", path.display()),
            Self::Environment(name) => format!("environment {name}"),
            Self::Flag => "flag".into(),
            Self::Set => "set".into(),
        }
    }
}

/// All that is put together.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Configuration file, if any.
    pub file: Option<PathBuf>,
    /// Environment: names and values; those that don't begin with `NETMON_` are left alone.
    pub environment: Vec<(String, String)>,
    /// Command line: paths and values.
    pub flags: Vec<(String, String)>,
}

/// A valid configuration and where each value came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Origin of each key of the schema.
    pub origins: BTreeMap<&'static str, Origin>,
    /// Value of each key of the schema in its normal form: durations in milliseconds, sizes in bytes.
    pub values: BTreeMap<&'static str, Value>,
}

impl Loaded {
    /// The same with these keys as they are in `other`.
    ///
    /// # Errors
    /// None is known: both are valid.
    pub fn keeping(&self, keys: &[&'static str], other: &Self) -> Result<Self, ConfigErrors> {
        let mut settings = self.settings();
        for (path, setting) in other.settings() {
            if keys.contains(&path) {
                settings.insert(path, setting);
            }
        }
        Layers { settings, errors: Vec::new() }.finish()
    }

    /// The same with what a running agent was told (paths and values).
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn with(&self, sets: &[(String, String)]) -> Result<Self, ConfigErrors> {
        let mut layers = Layers { settings: self.settings(), errors: Vec::new() };
        layers.sets(sets);
        layers.finish()
    }

    fn settings(&self) -> BTreeMap<&'static str, (Value, Origin)> {
        let values = self.values.iter();
        values
            .zip(self.origins.values())
            .map(|((path, value), origin)| (*path, (value.clone(), origin.clone())))
            .collect()
    }
}

/// Variables that other parts of the product read.
const OTHER_VARIABLES: &[&str] = &["NETMON_SOCKET", "NETMON_CLANG", "NETMON_CONFIG", "NETMON_BTF"];

struct Layers {
    settings: BTreeMap<&'static str, (Value, Origin)>,
    errors: Vec<ConfigError>,
}

impl Config {
    /// Puts the layers together.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn load(inputs: &Inputs) -> Result<Loaded, ConfigErrors> {
        Self::load_with(inputs, &[])
    }

    /// The same, with what a running agent was told (paths and values) above the command line.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn load_with(inputs: &Inputs, sets: &[(String, String)]) -> Result<Loaded, ConfigErrors> {
        let mut layers = Layers { settings: BTreeMap::new(), errors: Vec::new() };
        layers.defaults();
        if let Some(file) = &inputs.file {
            layers.file(file);
        }
        layers.environment(&inputs.environment);
        for (path, value) in &inputs.flags {
            layers.put_text("command line", path, value, Origin::Flag);
        }
        layers.sets(sets);
        layers.finish()
    }
}

impl Default for Config {
    #[expect(clippy::expect_used, reason = "the schema's own defaults; a test loads them")]
    fn default() -> Self {
        Self::load(&Inputs::default()).expect("the schema's defaults are valid").config
    }
}

fn parse_yaml(text: &str) -> Result<Value, config::ConfigError> {
    config::Config::builder().add_source(File::from_str(text, FileFormat::Yaml)).build()?.try_deserialize()
}

impl Layers {
    fn defaults(&mut self) {
        for key in schema::KEYS {
            let parsed = parse_yaml(&format!("value: {}", key.default)).ok();
            let value = parsed.as_ref().and_then(|tree| tree.get("value"));
            match value.and_then(|value| values::normal(&key.kind, value, false)) {
                Some(value) => drop(self.settings.insert(key.path, (value, Origin::Default))),
                None => self.wrong("schema", key, key.path, key.default),
            }
        }
    }

    fn wrong(&mut self, origin: &str, key: &Key, path: &str, value: &str) {
        self.errors.push(ConfigError::Value {
            origin: origin.into(),
            path: path.into(),
            value: format!("`{value}`"),
            accepted: key.kind.accepted(),
        });
    }

    fn unknown(&mut self, origin: &str, path: &str) {
        let hint = schema::nearest(path).map_or_else(String::new, |known| format!("; did you mean {known}?"));
        self.errors.push(ConfigError::UnknownKey { origin: origin.into(), path: path.into(), hint });
    }

    fn file(&mut self, file: &Path) {
        let origin = file.display().to_string();
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => {
                return self.errors.push(ConfigError::Unreadable { origin, reason: error.to_string() });
            }
        };
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return;
        }
        match parse_yaml(&text) {
            Ok(tree) => {
                let mut given = BTreeMap::new();
                self.walk(&origin, String::new(), &tree, &mut given, file);
            }
            Err(error) => self.errors.push(ConfigError::Syntax { origin, reason: error.to_string() }),
        }
    }

    /// Takes the leaves of a tree. A section left empty in the file is no mistake.
    fn walk(
        &mut self,
        origin: &str,
        path: String,
        value: &Value,
        given: &mut BTreeMap<&'static str, String>,
        file: &Path,
    ) {
        if let Some(key) = schema::find(&path) {
            if let Some(other) = given.insert(key.path, path.clone()) {
                self.errors.push(ConfigError::Twice { origin: origin.into(), path, alias: other });
                return;
            }
            match values::normal(&key.kind, value, false) {
                Some(value) => drop(self.settings.insert(key.path, (value, Origin::File(file.into())))),
                None => self.wrong(origin, key, &path, &shown(value)),
            }
            return;
        }
        let prefix = format!("{path}.");
        let section = path.is_empty() || schema::KEYS.iter().any(|key| key.path.starts_with(&prefix));
        match value {
            Value::Object(map) if section => {
                for (name, value) in map {
                    let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    self.walk(origin, below, value, given, file);
                }
            }
            Value::Null if section => {}
            other if section => self.errors.push(ConfigError::Value {
                origin: origin.into(),
                path: if path.is_empty() { "(the whole file)".into() } else { path },
                value: format!("`{}`", shown(other)),
                accepted: "a section with keys of its own".into(),
            }),
            _ => self.unknown(origin, &path),
        }
    }

    fn environment(&mut self, variables: &[(String, String)]) {
        let ours = || {
            let ours = variables.iter().filter(|(name, _)| name.starts_with("NETMON_"));
            ours.filter(|(name, _)| !OTHER_VARIABLES.contains(&name.as_str()))
        };
        // NETMON_DEBUG=true is `--debug`, and gives way to a level as that does.
        for (name, value) in ours().filter(|(name, _)| name == "NETMON_DEBUG") {
            match value.parse::<bool>() {
                Ok(true) => self.put_text(name, "log.level", "debug", Origin::Environment(name.clone())),
                Ok(false) => {}
                Err(_) => self.errors.push(ConfigError::Value {
                    origin: name.clone(),
                    path: "log.level".into(),
                    value: format!("`{value}`"),
                    accepted: "true or false".into(),
                }),
            }
        }
        let mut given = BTreeMap::new();
        for (name, value) in ours().filter(|(name, _)| name != "NETMON_DEBUG") {
            let Some(key) = schema::find_environment(name) else {
                let path = name.trim_start_matches("NETMON_").to_ascii_lowercase();
                self.errors.push(ConfigError::UnknownKey {
                    origin: name.clone(),
                    path,
                    hint: "; variables are NETMON_ and the path with _ between its parts".into(),
                });
                continue;
            };
            match given.insert(key.path, (name, value)) {
                Some((other, said)) if said != value => self.errors.push(ConfigError::Twice {
                    origin: "environment".into(),
                    path: name.clone(),
                    alias: other.clone(),
                }),
                _ => self.put_text(name, key.path, value, Origin::Environment(name.clone())),
            }
        }
    }

    fn sets(&mut self, sets: &[(String, String)]) {
        for (path, value) in sets {
            self.put_text("config set", path, value, Origin::Set);
        }
    }

    fn put_text(&mut self, origin: &str, path: &str, text: &str, from: Origin) {
        match schema::find(path) {
            Some(key) => match values::normal(&key.kind, &Value::from(text), true) {
                Some(value) => drop(self.settings.insert(key.path, (value, from))),
                None => self.wrong(origin, key, path, text),
            },
            None => self.unknown(origin, path),
        }
    }

    fn finish(self) -> Result<Loaded, ConfigErrors> {
        if !self.errors.is_empty() {
            return Err(ConfigErrors(self.errors));
        }
        let mut tree = Value::Object(Map::new());
        let mut origins = BTreeMap::new();
        let mut values = BTreeMap::new();
        for (path, (value, origin)) in self.settings {
            origins.insert(path, origin);
            values.insert(path, value.clone());
            let mut at = &mut tree;
            for part in path.split('.') {
                if !at.is_object() {
                    *at = Value::Object(Map::new());
                }
                at = &mut at[part];
            }
            *at = value;
        }
        let config = serde_json::from_value(tree).map_err(|error| {
            ConfigErrors(vec![ConfigError::Syntax { origin: "schema".into(), reason: error.to_string() }])
        })?;
        Ok(Loaded { config, origins, values })
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
