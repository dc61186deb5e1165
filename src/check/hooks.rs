//! Who else sits on the hooks of an interface, and whether somebody ahead of us takes packets away.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Finding;
use crate::kernel::neighbours::{Layer, Neighbour};
use crate::kernel::stats::{Hook, HookCounters};

const CHECK: &str = "hooks";
/// Fewer packets than this prove nothing.
const ENOUGH: u64 = 20;

/// Packets that passed a hook within the same while, by two accounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// By the interface's own counters.
    pub interface: u64,
    /// By what we have seen.
    pub seen: u64,
}

/// An interface that is watched, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// Name.
    pub interface: String,
    /// Whether the agent says that it has attached.
    pub attached: bool,
    /// Whether we come by TCX, or would.
    pub tcx: bool,
    /// Who is on its hooks, in the order of a packet's way.
    pub neighbours: Vec<Neighbour>,
    /// On ingress and egress, if the agent runs.
    pub passed: Option<[Passed; 2]>,
}

/// Packets received and sent, by the interface's own counters in sysfs.
pub fn device_packets(sys: &Path, interface: &str) -> Option<[u64; 2]> {
    let read = |name: &str| {
        let path = sys.join("class/net").join(interface).join("statistics").join(name);
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    Some([read("rx_packets")?, read("tx_packets")?])
}

/// Packets seen on ingress and egress of an interface.
pub fn seen_packets(hooks: &[HookCounters], interface: &str) -> [u64; 2] {
    Hook::ALL.map(|hook| {
        let these = hooks.iter().filter(|counters| counters.interface == interface && counters.hook == hook);
        these.map(|counters| counters.seen).sum()
    })
}

/// Judges all interfaces: one finding for each that has something to tell, or one for all.
pub fn judge(all: &[Watched]) -> Vec<Finding> {
    let told: Vec<Finding> =
        all.iter().flat_map(|one| Hook::ALL.map(|hook| one_hook(one, hook))).flatten().collect();
    if told.is_empty() {
        return vec![Finding::pass(
            CHECK,
            format!("nobody else is on the hooks of {} interfaces", all.len()),
        )];
    }
    told
}

fn one_hook(watched: &Watched, hook: Hook) -> Option<Finding> {
    let here = || watched.neighbours.iter().filter(|neighbour| neighbour.hook == hook);
    let place = format!("{} {}", watched.interface, hook.name());
    let ours = here().position(Neighbour::is_ours);
    // Names of programs are told to CAP_SYS_ADMIN alone.
    let nameless = here().any(|neighbour| neighbour.name.is_none());
    if watched.attached && ours.is_none() && !nameless {
        return Some(Finding::fail(
            CHECK,
            format!(
                "{place}: netmon's program is not there any more; somebody has removed it, and its packets are not seen"
            ),
            "restart the agent; find who runs `tc qdisc del ... clsact` or the like",
        ));
    }
    let expected = || if watched.tcx { before_tcx(here()) } else { before_clsact(here()) };
    let ahead = ours.unwrap_or_else(expected);
    let names = |some: &mut dyn Iterator<Item = &Neighbour>| some.map(title).collect::<Vec<_>>().join(", ");
    let before = names(&mut here().take(ahead));
    let behind = names(&mut here().skip(ahead).filter(|neighbour| !neighbour.is_ours()));
    let passed = watched.passed.map(|passed| passed[hook as usize]);
    if let Some(Passed { interface, seen }) = passed
        && interface >= ENOUGH
        && seen * 2 < interface
    {
        let who = if before.is_empty() {
            "nobody is to be seen ahead of netmon (a driver, hardware offload?)".into()
        } else {
            format!("ahead of netmon: {before}")
        };
        return Some(Finding::warn(
            CHECK,
            format!("{place}: {interface} packets passed the interface and netmon saw {seen} of them; {who}"),
            if watched.tcx {
                "what they drop or redirect can't be seen here: watch the interface that they redirect to"
            } else {
                "Linux 6.6 with capture.attach auto or tcx comes before all clsact filters; else watch the interface that they redirect to"
            },
        ));
    }
    let mut parts = Vec::new();
    if !before.is_empty() {
        parts.push(format!("ahead of netmon: {before}"));
    }
    if !behind.is_empty() {
        parts.push(format!("behind it: {behind}"));
    }
    if parts.is_empty() {
        return None;
    }
    let found = format!("{place}: {}", parts.join("; "));
    Some(match (before.is_empty(), passed) {
        (true, _) => Finding::pass(CHECK, found),
        (false, Some(passed)) if passed.interface >= ENOUGH => {
            Finding::pass(CHECK, format!("{found}; packets come through"))
        }
        (false, _) => Finding::warn(
            CHECK,
            format!("{found}; too little traffic to tell whether packets come through"),
            "run this again while there is traffic and the agent runs",
        ),
    })
}

/// Where we would be: at the head of TCX.
fn before_tcx<'a>(here: impl Iterator<Item = &'a Neighbour>) -> usize {
    here.take_while(|neighbour| neighbour.layer == Layer::Xdp).count()
}

/// Or among the filters, by priority.
fn before_clsact<'a>(here: impl Iterator<Item = &'a Neighbour>) -> usize {
    let ours = u16::try_from(crate::kernel::attach::CLSACT_PRIORITY).unwrap_or(u16::MAX);
    here.take_while(|neighbour| neighbour.priority.is_none_or(|priority| priority < ours)).count()
}

fn title(neighbour: &Neighbour) -> String {
    let name = neighbour.name.as_deref().unwrap_or("a program");
    let id = neighbour.program.map_or_else(String::new, |id| format!(" id {id}"));
    match (neighbour.layer, neighbour.priority) {
        (Layer::Xdp, _) => format!("{name} (XDP{id})"),
        (Layer::Tcx, _) => format!("{name} (TCX{id})"),
        (Layer::Clsact, priority) => format!("{name} (clsact priority {}{id})", priority.unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fail, Pass, Warn};
    use super::*;

    fn neighbour(layer: Layer, priority: Option<u16>, name: &str) -> Neighbour {
        Neighbour {
            layer,
            hook: Hook::Ingress,
            priority,
            handle: priority.map(|_| 1),
            program: Some(5),
            name: Some(name.into()),
        }
    }

    fn watched(neighbours: Vec<Neighbour>, passed: Option<Passed>) -> Watched {
        let ours_out = Neighbour { hook: Hook::Egress, ..neighbour(Layer::Tcx, None, "nm_egress") };
        let neighbours = [neighbours, vec![ours_out]].concat();
        Watched {
            interface: "eth0".into(),
            attached: true,
            tcx: true,
            neighbours,
            passed: passed.map(|passed| [passed, Passed::default()]),
        }
    }

    #[test]
    fn alone_passes_and_those_behind_are_named() {
        let ours = neighbour(Layer::Tcx, None, "nm_ingress");
        let found = judge(&[watched(vec![ours.clone()], None)]);
        assert_eq!((found.len(), found[0].verdict), (1, Pass));
        let found = judge(&[watched(vec![ours, neighbour(Layer::Clsact, Some(7), "pass")], None)]);
        assert_eq!(found[0].verdict, Pass);
        assert!(found[0].found.contains("behind it: pass (clsact priority 7 id 5)"), "{found:?}");
    }

    #[test]
    fn somebody_ahead_is_a_warning_when_packets_are_missing_or_too_few_to_tell() {
        let both = vec![neighbour(Layer::Xdp, None, "lb"), neighbour(Layer::Tcx, None, "nm_ingress")];
        let verdict =
            |interface, seen| judge(&[watched(both.clone(), Some(Passed { interface, seen }))])[0].verdict;
        assert_eq!(verdict(100, 100), Pass);
        assert_eq!(verdict(100, 51), Pass);
        assert_eq!(verdict(100, 49), Warn);
        assert_eq!(verdict(19, 0), Warn, "too little to tell");
        let found = &judge(&[watched(both, Some(Passed { interface: 100, seen: 1 }))])[0].found;
        assert!(found.contains("netmon saw 1 of them; ahead of netmon: lb (XDP id 5)"), "{found}");
    }

    #[test]
    fn a_program_that_somebody_has_removed_fails_unless_names_may_not_be_asked_for() {
        let mut gone = watched(vec![], None);
        assert_eq!(judge(&[gone.clone()])[0].verdict, Fail);
        gone.neighbours.insert(0, Neighbour { name: None, ..neighbour(Layer::Tcx, None, "") });
        assert_ne!(judge(&[gone])[0].verdict, Fail);
    }

    #[test]
    fn before_the_agent_runs_its_place_is_foretold() {
        let filters =
            vec![neighbour(Layer::Clsact, Some(1), "one"), neighbour(Layer::Clsact, Some(3), "three")];
        let mut soon = watched(filters, None);
        (soon.attached, soon.tcx) = (false, false);
        let found = &judge(&[soon.clone()])[0].found;
        assert!(found.contains("ahead of netmon: one (clsact priority 1 id 5); behind it: three"), "{found}");
        soon.tcx = true;
        assert_eq!(judge(&[soon])[0].verdict, Pass, "TCX comes before all filters");
    }
}
