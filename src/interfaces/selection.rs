//! Which interfaces are watched: `capture.interfaces` and `capture.exclude_interfaces`. Pure.

use super::glob::{Pattern, PatternError};
use super::{Interface, LinkLayer};

/// The user's choice of interfaces. The default is every interface that matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

impl Selection {
    /// From names or globs. With nothing to include, every interface but loopback is.
    ///
    /// # Errors
    /// Names the first pattern that can't match any interface, and why.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, PatternError> {
        fn compile(patterns: &[String]) -> Result<Vec<Pattern>, PatternError> {
            patterns.iter().map(|pattern| Pattern::new(pattern)).collect()
        }
        Ok(Self { include: compile(include)?, exclude: compile(exclude)? })
    }

    /// Whether to watch an interface: it is up, its packets can be read, and the user's patterns say so.
    /// Exclusion wins. Loopback is watched only if it is named outright, never by a glob.
    pub fn wants(&self, interface: &Interface) -> bool {
        interface.up
            && !matches!(interface.link_layer, LinkLayer::Unsupported(_))
            && self.chosen(&interface.name, interface.loopback)
    }

    /// Whether an interface that can't be watched was asked for by its very name: worth a warning.
    pub fn misses(&self, interface: &Interface) -> bool {
        matches!(interface.link_layer, LinkLayer::Unsupported(_))
            && self.include.iter().any(|pattern| pattern.names(&interface.name))
    }

    fn chosen(&self, name: &str, loopback: bool) -> bool {
        let included = if loopback {
            self.include.iter().any(|pattern| pattern.names(name))
        } else {
            self.include.is_empty() || self.include.iter().any(|pattern| pattern.matches(name))
        };
        included && !self.exclude.iter().any(|pattern| pattern.matches(name))
    }
}
