//! What is shed, decided by what is used: a state machine without clock, system or configuration of its own.
//!
//! CPU goes by a ladder of [`Measure`]s, one at a time: [`OVER`] readings above the limit in a row take the next, [`CALM`] readings
//! below [`CALM_SHARE`] of it give the last one back. No step back more than doubles what is used, so that it does not lead
//! over the limit again by itself. Memory goes by the number of flows that fit.

use crate::collector::tables::FIRST_SLOTS;

/// Readings above the limit, one after the other, before something is shed.
pub const OVER: u32 = 3;
/// Readings far below the limit, one after the other, before something is taken up again.
pub const CALM: u32 = 5;
/// Far below: this share of the limit.
pub const CALM_SHARE: f64 = 0.45;
/// Flows that are always allowed.
pub const LEAST_FLOWS: u64 = 1000;
/// Fill of a table with the flows that it is for (`collector::tables`), and one of half its size beside it while flows move. It may be
/// three quarters: for that moment a sixth more is used.
const SLOTS_A_FLOW: f64 = 1.5 / 0.62;
/// The bound of flows stays when it would change by less.
const LOWER_BY: f64 = 0.95;
const RAISE_BY: f64 = 1.1;

/// A way to use less CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Long flows report so many times less often.
    Interval(u32),
    /// A feature is off.
    Feature(Feature),
    /// One of so many flows is kept, of those that are kept by `capture.sampling_rate`.
    Sampling(u32),
}

/// Features that can be done without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// `features.latency_tracking`
    Latency,
    /// `features.protocol_detection`
    Protocols,
    /// `features.process_attribution`
    Attribution,
    /// `features.security_monitoring`
    Security,
}

/// The order in which things are shed: what costs least knowledge first, of features the most expensive first.
pub const LADDER: &[Measure] = &[
    Measure::Interval(2),
    Measure::Interval(4),
    Measure::Feature(Feature::Latency),
    Measure::Feature(Feature::Protocols),
    Measure::Feature(Feature::Attribution),
    Measure::Feature(Feature::Security),
    Measure::Sampling(2),
    Measure::Sampling(4),
    Measure::Sampling(8),
    Measure::Sampling(16),
    Measure::Sampling(32),
    Measure::Sampling(64),
];

/// What is used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Cores, of agent and programs, since the last reading.
    pub cpu_cores: f64,
    /// Bytes, of the agent and of all maps.
    pub memory_bytes: u64,
    /// Bytes of the flow tables among them.
    pub tables_bytes: u64,
    /// Bytes of a slot of a table.
    pub slot_bytes: u64,
}

/// What may be used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Cores.
    pub cpu_cores: f64,
    /// Bytes.
    pub memory_bytes: u64,
    /// Flows, as configured.
    pub flows: u64,
}

/// What is shed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shed {
    /// Steps of the ladder that are taken.
    pub steps: usize,
    /// Flows at most, for want of memory; `None`: as configured.
    pub flows: Option<u64>,
}

impl Shed {
    fn taken(&self) -> impl DoubleEndedIterator<Item = Measure> {
        LADDER.iter().take(self.steps).copied()
    }

    /// Long flows report so many times less often.
    pub fn interval(&self) -> u32 {
        let factor = |measure| if let Measure::Interval(factor) = measure { Some(factor) } else { None };
        self.taken().rev().find_map(factor).unwrap_or(1)
    }

    /// One of so many flows is kept.
    pub fn sampling(&self) -> u32 {
        let divisor = |measure| if let Measure::Sampling(divisor) = measure { Some(divisor) } else { None };
        self.taken().rev().find_map(divisor).unwrap_or(1)
    }

    /// Features that are off.
    pub fn features(&self) -> impl Iterator<Item = Feature> {
        self.taken()
            .filter_map(|measure| if let Measure::Feature(feature) = measure { Some(feature) } else { None })
    }
}

/// What is scarce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// CPU.
    Cpu,
    /// Memory.
    Memory,
}

/// What a reading has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// More is shed.
    Shed(Resource),
    /// Less is shed.
    Recovered(Resource),
    /// The limit is not held, and there is nothing left to shed; told once.
    Exhausted(Resource),
}

/// The state.
#[derive(Clone, Debug, Default)]
pub struct State {
    shed: Shed,
    over: u32,
    calm: u32,
    over_memory: u32,
    exhausted: [bool; 2],
}

impl State {
    /// What is shed.
    pub fn shed(&self) -> Shed {
        self.shed
    }

    /// Whether limits are not held although all is shed: CPU, memory.
    pub fn exhausted(&self) -> [bool; 2] {
        self.exhausted
    }

    /// Takes a reading in. `has`: whether a measure changes anything as the agent is configured.
    pub fn judge(&mut self, used: &Reading, limits: &Limits, has: impl Fn(Measure) -> bool) -> Vec<Step> {
        self.judge_cpu(used, limits, has).into_iter().chain(self.judge_memory(used, limits)).collect()
    }

    fn judge_cpu(&mut self, used: &Reading, limits: &Limits, has: impl Fn(Measure) -> bool) -> Option<Step> {
        let count = |so_far: u32, holds: bool| if holds { so_far.saturating_add(1) } else { 0 };
        self.over = count(self.over, used.cpu_cores > limits.cpu_cores);
        self.calm = count(self.calm, used.cpu_cores < limits.cpu_cores * CALM_SHARE);
        self.exhausted[0] &= self.over > 0;
        let useful = |step: &usize| LADDER.get(*step).is_some_and(|measure| has(*measure));
        let steps = self.shed.steps;
        if self.over >= OVER {
            let Some(next) = (steps..LADDER.len()).find(useful) else {
                return (!std::mem::replace(&mut self.exhausted[0], true))
                    .then_some(Step::Exhausted(Resource::Cpu));
            };
            self.shed.steps = next + 1;
        } else if self.calm >= CALM && steps > 0 {
            self.shed.steps = (0..steps - 1).rev().find(useful).map_or(0, |step| step + 1);
        } else {
            return None;
        }
        (self.over, self.calm) = (0, 0);
        let more = self.shed.steps > steps;
        Some(if more { Step::Shed(Resource::Cpu) } else { Step::Recovered(Resource::Cpu) })
    }

    fn judge_memory(&mut self, used: &Reading, limits: &Limits) -> Option<Step> {
        let over = used.memory_bytes > limits.memory_bytes;
        self.over_memory = if over { self.over_memory.saturating_add(1) } else { 0 };
        self.exhausted[1] &= over;
        let rest = used.memory_bytes.saturating_sub(used.tables_bytes);
        // The table before those two goes when the kernel has the time: it is small, or long gone.
        let room = limits.memory_bytes.saturating_sub(rest + FIRST_SLOTS * used.slot_bytes) as f64;
        let fit = ((room / (used.slot_bytes.max(1) as f64 * SLOTS_A_FLOW)) as u64).max(LEAST_FLOWS);
        let bound = self.shed.flows.unwrap_or(limits.flows).min(limits.flows);
        let scaled = |factor: f64| bound as f64 * factor;
        let lower = (fit as f64) < scaled(LOWER_BY);
        let raise = self.shed.flows.is_some() && (fit as f64 > scaled(RAISE_BY) || bound == limits.flows);
        if lower || raise {
            self.shed.flows = (fit < limits.flows).then_some(fit);
            return Some(if lower {
                Step::Shed(Resource::Memory)
            } else {
                Step::Recovered(Resource::Memory)
            });
        }
        let tell = self.over_memory >= OVER && !std::mem::replace(&mut self.exhausted[1], true);
        tell.then_some(Step::Exhausted(Resource::Memory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const LIMITS: Limits = Limits { cpu_cores: 1.0, memory_bytes: 1024 * MIB, flows: 1_000_000 };

    fn cpu(cores: f64) -> Reading {
        Reading { cpu_cores: cores, memory_bytes: 60 * MIB, tables_bytes: 12 * MIB, slot_bytes: 360 }
    }

    fn memory(rest_mib: u64, tables_mib: u64) -> Reading {
        let memory_bytes = (rest_mib + tables_mib) * MIB;
        Reading { memory_bytes, tables_bytes: tables_mib * MIB, ..cpu(0.1) }
    }

    /// The steps that so many readings lead to.
    fn feed(state: &mut State, used: Reading, times: u32) -> Vec<Step> {
        (0..times).flat_map(|_| state.judge(&used, &LIMITS, |_| true)).collect()
    }

    #[test]
    fn what_is_within_the_limits_changes_nothing() {
        let mut state = State::default();
        assert_eq!(feed(&mut state, cpu(1.0), 1000), []);
        assert_eq!(feed(&mut state, cpu(0.0), 1000), []);
        assert_eq!(state.shed(), Shed::default());
    }

    #[test]
    fn a_moment_above_the_limit_sheds_nothing() {
        let mut state = State::default();
        for _ in 0..100 {
            assert_eq!(feed(&mut state, cpu(5.0), OVER - 1), []);
            assert_eq!(feed(&mut state, cpu(0.9), 1), []);
        }
    }

    #[test]
    fn the_ladder_is_gone_down_in_order_and_up_again() {
        let mut state = State::default();
        for (step, measure) in LADDER.iter().enumerate() {
            assert_eq!(feed(&mut state, cpu(1.1), OVER), [Step::Shed(Resource::Cpu)], "{measure:?}");
            assert_eq!(state.shed().steps, step + 1);
        }
        assert_eq!((state.shed().interval(), state.shed().sampling()), (4, 64));
        let off: Vec<Feature> = state.shed().features().collect();
        assert_eq!(off, [Feature::Latency, Feature::Protocols, Feature::Attribution, Feature::Security]);
        assert_eq!(feed(&mut state, cpu(1.1), OVER * 10), [Step::Exhausted(Resource::Cpu)], "told once");
        assert_eq!(state.exhausted(), [true, false]);
        for step in (0..LADDER.len()).rev() {
            assert_eq!(feed(&mut state, cpu(0.4), CALM), [Step::Recovered(Resource::Cpu)]);
            assert_eq!(state.shed().steps, step);
        }
        assert_eq!(state.exhausted(), [false, false]);
        assert_eq!(feed(&mut state, cpu(0.4), CALM * 10), [], "nothing is left to take up");
    }

    #[test]
    fn nothing_moves_between_the_limit_and_what_is_far_below_it() {
        let mut state = State::default();
        feed(&mut state, cpu(1.1), OVER * 4);
        for cores in [0.46, 0.7, 1.0] {
            assert_eq!(feed(&mut state, cpu(cores), 100), []);
        }
        assert_eq!(feed(&mut state, cpu(0.4), CALM - 1), [], "not for a moment");
    }

    /// Whatever share of the load a step takes away, no load makes it go to and fro.
    #[test]
    fn a_steady_load_comes_to_rest() {
        for tenths in 1..1000 {
            let load = f64::from(tenths) / 10.0;
            let mut state = State::default();
            let mut last = 0;
            for second in 0..1000 {
                let used = load / f64::from(state.shed().interval() * state.shed().sampling());
                if !state.judge(&cpu(used), &LIMITS, |_| true).is_empty() {
                    last = second;
                }
            }
            assert!(last < 150, "{load} cores: still at it after {last} readings");
        }
    }

    #[test]
    fn what_would_change_nothing_is_passed_over() {
        let mut state = State::default();
        let has = |measure: Measure| !matches!(measure, Measure::Interval(_) | Measure::Sampling(4));
        let mut seen = Vec::new();
        for _ in 0..OVER * 20 {
            if !state.judge(&cpu(2.0), &LIMITS, has).is_empty() {
                seen.push(LADDER[state.shed().steps - 1]);
            }
        }
        let expected: Vec<Measure> = LADDER.iter().copied().filter(|measure| has(*measure)).collect();
        // And once more, when there is nothing left.
        assert_eq!(seen[..expected.len()], expected);
        assert_eq!(seen.len(), expected.len() + 1);
        for measure in expected.iter().rev() {
            assert_eq!(LADDER[state.shed().steps - 1], *measure);
            for _ in 0..CALM {
                state.judge(&cpu(0.1), &LIMITS, has);
            }
        }
        assert_eq!(state.shed().steps, 0);
    }

    #[test]
    fn as_many_flows_are_allowed_as_fit() {
        let mut state = State::default();
        assert_eq!(feed(&mut state, memory(60, 12), 10), []);
        assert_eq!(feed(&mut state, memory(200, 600), 10), [], "a full table within the limit");
        // 424 MiB are left.
        assert_eq!(feed(&mut state, memory(600, 100), 10), [Step::Shed(Resource::Memory)]);
        let bound = state.shed().flows.unwrap_or(0);
        assert!((490_000..505_000).contains(&bound), "{bound}");
        // Tables of that size, and the old one beside, fit.
        let slots = bound as f64 / 0.62;
        assert!(slots * 360.0 * 1.5 <= (424 * MIB) as f64);
        assert_eq!(feed(&mut state, memory(605, 100), 10), [], "little is nothing");
        assert_eq!(feed(&mut state, memory(590, 100), 10), []);
        assert_eq!(feed(&mut state, memory(500, 100), 10), [Step::Recovered(Resource::Memory)]);
        assert_eq!(feed(&mut state, memory(100, 100), 10), [Step::Recovered(Resource::Memory)]);
        assert_eq!(state.shed().flows, None);
    }

    #[test]
    fn memory_that_no_bound_can_hold_is_told_once() {
        let mut state = State::default();
        let steps = feed(&mut state, memory(2000, 20), 20);
        assert_eq!(steps, [Step::Shed(Resource::Memory), Step::Exhausted(Resource::Memory)]);
        assert_eq!(state.shed().flows, Some(LEAST_FLOWS));
        assert_eq!(state.exhausted(), [false, true]);
        assert_eq!(feed(&mut state, memory(100, 20), 20), [Step::Recovered(Resource::Memory)]);
        assert_eq!(state.exhausted(), [false, false]);
    }

    #[test]
    fn fewer_flows_in_the_configuration_end_a_bound() {
        let mut state = State::default();
        feed(&mut state, memory(600, 100), 1);
        let fewer = Limits { flows: 400_000, ..LIMITS };
        assert_eq!(state.judge(&memory(600, 100), &fewer, |_| true), [Step::Recovered(Resource::Memory)]);
        assert_eq!(state.shed().flows, None);
    }
}
