//! Taking over a changed configuration while the agent runs: the whole of it or nothing.
//!
//! All layers are read anew and checked ([`Config::load_with`]). If they are valid, what a running agent can take over
//! ([`schema::Key::live`], and what [`features`] are loaded) goes to its [`parts`]; what it can't is named and waits for a restart. If they are not, or a part
//! refuses (a port that is taken), everything stays as it is; the log, `status` and a counter say so. Causes: the file has
//! changed ([`watch`]), SIGHUP, `netmon-cli config reload`, `config set` and `debug trace`.

pub mod features;
pub mod outcome;
pub mod parts;
mod trace;
pub mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch as channel;

use crate::config::schema::{self, KEYS};
use crate::config::{Config, ConfigErrors, Inputs, Loaded, show};
use crate::governor::state::Shed;
use crate::{service, telemetry};
use outcome::{Applied, Cause, Changed, ConfigStatus, Counters, Failure, Setting};
use parts::Parts;

/// Why nothing was taken over.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is not valid.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// `config set` of what can't change.
    #[error(
        "{0} can't change while the agent runs; write it into the configuration file and restart the agent"
    )]
    NeedsRestart(String),
    /// A part of the agent can't do it.
    #[error("{0:#}")]
    Part(anyhow::Error),
}

/// What is in force.
struct Running {
    /// As it is in force.
    loaded: Loaded,
    /// What the governor takes off it.
    shed: Shed,
    /// As the layers have it: differs in keys that wait for a restart.
    wanted: Loaded,
    /// When and by what it was taken over.
    since: (Timestamp, Cause),
    changed: Vec<Changed>,
    error: Option<Failure>,
}

/// Owns the running configuration.
pub struct Reloader {
    inputs: Inputs,
    parts: Parts,
    counters: Arc<Counters>,
    config: channel::Sender<Arc<Config>>,
    running: Mutex<Running>,
    /// What `config set` said; held while a configuration is taken over, so that there is one at a time.
    sets: tokio::sync::Mutex<BTreeMap<&'static str, String>>,
    /// What the log level was before `debug trace on`.
    before_trace: tokio::sync::Mutex<Option<trace::Before>>,
}

impl Reloader {
    /// Starts with what the agent was started with.
    pub fn new(
        inputs: Inputs,
        loaded: Loaded,
        parts: Parts,
        counters: Arc<Counters>,
        config: channel::Sender<Arc<Config>>,
    ) -> Self {
        let since = (Timestamp::now(), Cause::Start);
        counters.succeeded(since.0);
        let shed = Shed::default();
        let running =
            Running { wanted: loaded.clone(), loaded, shed, since, changed: Vec::new(), error: None };
        Self {
            inputs,
            parts,
            counters,
            config,
            running: Mutex::new(running),
            sets: Default::default(),
            before_trace: Default::default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file that is read, if any.
    pub fn file(&self) -> Option<&std::path::Path> {
        self.inputs.file.as_deref()
    }

    /// Reads all layers anew and takes them over.
    ///
    /// # Errors
    /// Says why nothing has changed.
    pub async fn reload(&self, cause: Cause) -> Result<Applied, Refused> {
        let sets = self.sets.lock().await;
        service::reloading();
        let wanted = self.load(&sets).await;
        let outcome = self.take_over(cause, wanted).await;
        service::reloaded(outcome.as_ref().err().map(|error| format!("configuration refused: {error}")));
        outcome
    }

    /// All layers as they are now, with what `config set` said.
    async fn load(&self, sets: &BTreeMap<&'static str, String>) -> Result<Loaded, Refused> {
        let pairs: Vec<_> = sets.iter().map(|(path, value)| ((*path).to_owned(), value.clone())).collect();
        let inputs = self.inputs.clone();
        let loaded = tokio::task::spawn_blocking(move || Config::load_with(&inputs, &pairs)).await;
        loaded.map_err(|error| Refused::Part(error.into())).and_then(|loaded| Ok(loaded?))
    }

    /// Changes keys until the agent ends: all of them or none.
    ///
    /// # Errors
    /// Says why nothing has changed.
    pub async fn set(&self, pairs: &[(String, String)]) -> Result<Applied, Refused> {
        let mut sets = self.sets.lock().await;
        let wanted = self.lock().wanted.with(pairs)?;
        let known: Vec<_> =
            pairs.iter().filter_map(|(path, value)| Some((schema::find(path)?, value))).collect();
        let not_loaded = self.parts.not_loaded(&wanted.config);
        let waits = |key: &schema::Key| !key.live || not_loaded.contains(&key.path);
        if let Some((fixed, _)) = known.iter().find(|(key, _)| waits(key)) {
            return Err(Refused::NeedsRestart(fixed.path.into()));
        }
        let applied = self.take_over(Cause::Set, Ok(wanted)).await?;
        sets.extend(known.into_iter().map(|(key, value)| (key.path, value.clone())));
        Ok(applied)
    }

    /// As it is configured, whatever the governor takes off.
    pub fn configured(&self) -> Config {
        self.lock().loaded.config.clone()
    }

    /// Takes this off what is configured, from now on.
    ///
    /// # Errors
    /// When a part can't; then nothing has changed.
    pub async fn govern(&self, shed: Shed) -> anyhow::Result<()> {
        // One change at a time.
        let _sets = self.sets.lock().await;
        let (config, before) = {
            let running = self.lock();
            (running.loaded.config.clone(), running.shed)
        };
        let governed = shed.apply(&config);
        self.parts.apply(&before.apply(&config), &governed).await?;
        self.config.send_replace(Arc::new(governed));
        self.lock().shed = shed;
        Ok(())
    }

    async fn take_over(&self, cause: Cause, wanted: Result<Loaded, Refused>) -> Result<Applied, Refused> {
        let outcome = match wanted {
            Ok(wanted) => self.try_take_over(cause, wanted).await,
            Err(error) => Err(error),
        };
        match &outcome {
            Ok(applied) => self.tell(cause, applied),
            // Whoever set it is told, and nothing is amiss with what is in force.
            Err(error) if cause == Cause::Set => tracing::info!(%error, "config set refused"),
            Err(error) => {
                self.counters.failed();
                let at = Timestamp::now();
                self.lock().error = Some(Failure { at, cause, message: error.to_string() });
                tracing::error!(
                    message_id = telemetry::message::RELOAD_FAILED, cause = cause.words(), %error,
                    "the configuration was refused; the running one stays"
                );
            }
        }
        outcome
    }

    async fn try_take_over(&self, cause: Cause, wanted: Loaded) -> Result<Applied, Refused> {
        let (before, shed) = {
            let running = self.lock();
            (running.loaded.clone(), running.shed)
        };
        let mut fixed: Vec<&'static str> = KEYS.iter().filter(|key| !key.live).map(|key| key.path).collect();
        fixed.extend(self.parts.not_loaded(&wanted.config));
        let loaded = wanted.keeping(&fixed, &before)?;
        let governed = shed.apply(&loaded.config);
        self.parts.apply(&shed.apply(&before.config), &governed).await.map_err(Refused::Part)?;

        let applied =
            Applied { changed: changes(&before, &loaded), after_restart: changes(&loaded, &wanted) };
        self.config.send_replace(Arc::new(governed));
        let at = Timestamp::now();
        self.counters.succeeded(at);
        let mut running = self.lock();
        *running = Running {
            loaded,
            shed,
            wanted,
            since: (at, cause),
            changed: applied.changed.clone(),
            error: None,
        };
        Ok(applied)
    }

    fn tell(&self, cause: Cause, applied: &Applied) {
        let list =
            |changes: &[Changed]| changes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        tracing::info!(
            message_id = telemetry::message::RELOADED,
            cause = cause.words(),
            changes = applied.changed.len(),
            "configuration taken over: {}",
            if applied.changed.is_empty() { "nothing has changed".into() } else { list(&applied.changed) }
        );
        if !applied.after_restart.is_empty() {
            tracing::warn!(
                "these settings wait for a restart of the agent: {}",
                list(&applied.after_restart)
            );
        }
    }

    /// Every key with its value and where that came from.
    pub fn settings(&self) -> Vec<Setting> {
        let running = self.lock();
        KEYS.iter()
            .filter_map(|key| {
                let (value, wanted) =
                    (running.loaded.values.get(key.path)?, running.wanted.values.get(key.path)?);
                Some(Setting {
                    key: key.path.into(),
                    value: show::text(&key.kind, value),
                    origin: running.loaded.origins.get(key.path)?.words(),
                    live: key.live,
                    after_restart: (value != wanted).then(|| show::text(&key.kind, wanted)),
                })
            })
            .collect()
    }

    /// How the last reloads went.
    pub fn status(&self) -> ConfigStatus {
        let running = self.lock();
        ConfigStatus {
            file: self.inputs.file.as_ref().map(|path| path.display().to_string()),
            since: Some(running.since.0),
            cause: Some(running.since.1),
            failures: self.counters.failures(),
            changed: running.changed.clone(),
            after_restart: changes(&running.loaded, &running.wanted),
            error: running.error.clone(),
        }
    }
}

/// Keys whose values differ.
fn changes(before: &Loaded, after: &Loaded) -> Vec<Changed> {
    KEYS.iter()
        .filter_map(|key| {
            let (from, to) = (before.values.get(key.path)?, after.values.get(key.path)?);
            (from != to).then(|| Changed {
                key: key.path.into(),
                from: show::text(&key.kind, from),
                to: show::text(&key.kind, to),
            })
        })
        .collect()
}
