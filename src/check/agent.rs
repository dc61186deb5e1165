//! The running agent, by what it says of itself.

use super::Finding;
use crate::api::status::{About, Status};
use crate::enrich::kubernetes::progress::KubernetesStatus;
use crate::governor::GovernorStatus;

/// The table is told as nearly full from here on, percent.
const FULL_PERCENT: u64 = 90;

/// Judges a status. What the agent notes of itself comes in its own words.
pub fn judge(status: &Status) -> Vec<Finding> {
    let mut findings = vec![version(status), ready(status), interfaces(status), books(status), table(status)];
    let stats = &status.kernel_stats;
    let lost = stats.events_lost.buffer_full + stats.events_lost.invalid;
    findings.push(if lost == 0 {
        Finding::pass("losses", format!("{} events read, none lost", stats.events_processed))
    } else {
        Finding::warn(
            "losses",
            format!("{lost} of {} events were lost; no count is wrong for it", stats.events_processed + lost),
            "a larger resources.maps.event_buffer_size",
        )
    });
    findings.push(limits(&status.governor));
    findings.extend(status.kubernetes.as_ref().map(cluster));
    if stats.names_lost > 0 {
        findings.push(Finding::warn(
            "names",
            format!("{} sockets have no name for want of memory", stats.names_lost),
            "more memory for the agent's cgroup",
        ));
    }
    // The others are told with their fixes above.
    let notes = status.notes.iter().filter(|note| note.about == About::Other);
    findings.extend(notes.map(|note| Finding::warn("note", &note.text, "the note says it")));
    findings
}

fn version(status: &Status) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    if status.version == own {
        Finding::pass("agent", format!("netmon {own} answers (pid {})", status.pid))
    } else {
        Finding::warn(
            "agent",
            format!("the agent is netmon {}, this command {own}", status.version),
            "restart the agent, or update this command",
        )
    }
}

fn ready(status: &Status) -> Finding {
    if status.ready {
        Finding::pass("readiness", "every part is ready")
    } else {
        Finding::fail(
            "readiness",
            format!("the agent waits for {}", status.waiting_for.join("; ")),
            "look into its log (`journalctl -u netmon`)",
        )
    }
}

fn interfaces(status: &Status) -> Finding {
    let failed: Vec<String> = status
        .interfaces
        .iter()
        .filter_map(|interface| Some(format!("{} ({})", interface.name, interface.error.as_ref()?)))
        .collect();
    match (status.interfaces.len(), failed.len()) {
        (0, _) => Finding::fail(
            "interfaces",
            "no interface is watched: none is up, or capture.interfaces matches none",
            "`ip link` shows them; name them in capture.interfaces",
        ),
        (all, 0) => Finding::pass("interfaces", format!("{all} are watched")),
        (all, some) => Finding::fail(
            "interfaces",
            format!("{some} of {all} are not watched: {}", failed.join(", ")),
            "the words in brackets are the kernel's; each is tried again every 10 s; capture.exclude_interfaces leaves it out",
        ),
    }
}

fn books(status: &Status) -> Finding {
    let books = &status.accounting;
    if books.conserved {
        Finding::pass("books", format!("each of {} packets has its outcome", books.seen))
    } else {
        Finding::fail(
            "books",
            format!("{} packets were seen, and not each has one outcome", books.seen),
            "this is a fault of netmon: please report it with a support bundle",
        )
    }
}

fn cluster(cluster: &KubernetesStatus) -> Finding {
    let Some(server) = &cluster.server else {
        return Finding::fail(
            "cluster",
            "no way to an API server is known",
            "run the agent in a pod with a service account, or set kubernetes.enabled to false",
        );
    };
    let wrong: Vec<String> = cluster
        .watches
        .iter()
        .filter_map(|watch| Some(format!("{} ({})", watch.kind, watch.error.as_ref()?)))
        .collect();
    if !wrong.is_empty() {
        let fix = "the words in brackets are the server's; where it forbids, the agent's ClusterRole lacks the kind (deploy/kubernetes has it)";
        return Finding::fail("cluster", format!("{server} does not tell {}", wrong.join(", ")), fix);
    }
    match &cluster.events_error {
        Some(error) => Finding::warn(
            "cluster",
            format!("Events can't be told: {error}"),
            "let the agent's ClusterRole create events (events.k8s.io)",
        ),
        None if cluster.lacks_own_pods() => Finding::warn(
            "cluster",
            format!("{server} knows no pod on a node called {} (from {})", cluster.node, cluster.node_from),
            "set kubernetes.node_name or NODE_NAME if that is not its name",
        ),
        None => {
            Finding::pass("cluster", format!("{server} tells {} kinds of objects", cluster.watches.len()))
        }
    }
}

fn limits(governor: &GovernorStatus) -> Finding {
    let notes = governor.notes().join("; ");
    let fix = if governor.limited_by_group {
        "more memory for the agent's control group, a larger resources.cpu_limit or memory_limit, or fewer interfaces"
    } else {
        "a larger resources.cpu_limit or memory_limit, or fewer interfaces (capture.interfaces)"
    };
    if !governor.exhausted.is_empty() {
        Finding::fail("limits", notes, fix)
    } else if !governor.shed.is_empty() {
        Finding::warn("limits", notes, fix)
    } else {
        Finding::pass(
            "limits",
            format!(
                "{:.3} of {} cores in the last second, nothing is shed",
                governor.agent_cores + governor.programs_cores,
                governor.cpu_limit_cores
            ),
        )
    }
}

fn table(status: &Status) -> Finding {
    let table = &status.kernel_stats.table;
    let found = format!("{} flows of {} at most", table.entries, table.capacity);
    if table.overflow_packets > 0 {
        Finding::warn(
            "flow table",
            format!(
                "{found}; {} packets found no room and are counted by protocol only",
                table.overflow_packets
            ),
            "a larger flow.max_flows and resources.maps.flow_map_size, or a shorter flow.flow_timeout",
        )
    } else if table.entries * 100 >= table.capacity * FULL_PERCENT && table.capacity > 0 {
        Finding::warn(
            "flow table",
            format!("{found}: it is nearly full"),
            "a larger flow.max_flows and resources.maps.flow_map_size",
        )
    } else {
        Finding::pass("flow table", found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{self, Fail, Pass, Warn};
    use super::*;
    use crate::api::status::{Accounting, InterfaceStatus, Note};
    use crate::governor::Shedding;

    fn note(about: About) -> Note {
        Note { about, text: "processes are not known".into() }
    }

    fn good() -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            ready: true,
            interfaces: vec![InterfaceStatus {
                name: "eth0".into(),
                index: 2,
                attach: "tcx".into(),
                error: None,
            }],
            accounting: Accounting { conserved: true, ..Accounting::default() },
            notes: vec![note(About::Intention)],
            ..Status::default()
        }
    }

    fn of(status: &Status, check: &str) -> Option<Verdict> {
        judge(status).iter().find(|finding| finding.check == check).map(|finding| finding.verdict)
    }

    #[test]
    fn a_good_agent_passes_in_all() {
        assert!(judge(&good()).iter().all(|finding| finding.verdict == Pass), "{:?}", judge(&good()));
    }

    #[test]
    fn a_cluster_that_does_not_tell_all_is_found() {
        let mut status = good();
        let with = |status: &mut Status, cluster| {
            status.kubernetes = Some(cluster);
            of(status, "cluster")
        };
        let server = || Some("https://10.0.0.1".to_owned());
        let watch = |error: Option<&str>| {
            let json = serde_json::json!({ "kind": "pods", "objects": 0, "error": error });
            serde_json::from_value(json).into_iter().collect()
        };
        let good = KubernetesStatus { server: server(), watches: watch(None), ..Default::default() };
        assert_eq!(with(&mut status, good), Some(Pass));
        let forbidden =
            KubernetesStatus { server: server(), watches: watch(Some("forbidden")), ..Default::default() };
        assert_eq!(with(&mut status, forbidden), Some(Fail));
        assert_eq!(with(&mut status, KubernetesStatus::default()), Some(Fail), "no server");
        let silent =
            KubernetesStatus { server: server(), events_error: Some("no".into()), ..Default::default() };
        assert_eq!(with(&mut status, silent), Some(Warn));
        let own =
            serde_json::json!({ "kind": "own_pods", "objects": 0, "synced_since": "2026-11-23T09:14:00Z" });
        let own = serde_json::from_value(own).into_iter().collect();
        let strange = KubernetesStatus { server: server(), watches: own, ..Default::default() };
        assert_eq!(with(&mut status, strange), Some(Warn), "no pod on its node");
    }

    #[test]
    fn each_fault_is_found() {
        let change = |change: &dyn Fn(&mut Status)| {
            let mut status = good();
            change(&mut status);
            status
        };
        let shedding = || Shedding { measure: "interval".into(), what: "less".into() };
        let cases = [
            ("agent", Warn, change(&|status| status.version = "0.0.1".into())),
            ("readiness", Fail, change(&|status| status.ready = false)),
            ("interfaces", Fail, change(&|status| status.interfaces.clear())),
            ("interfaces", Fail, change(&|status| status.interfaces[0].error = Some("no".into()))),
            ("books", Fail, change(&|status| status.accounting.conserved = false)),
            ("losses", Warn, change(&|status| status.kernel_stats.events_lost.buffer_full = 1)),
            ("flow table", Warn, change(&|status| status.kernel_stats.table.overflow_packets = 1)),
            (
                "flow table",
                Warn,
                change(&|status| {
                    (status.kernel_stats.table.entries, status.kernel_stats.table.capacity) = (90, 100);
                }),
            ),
            ("names", Warn, change(&|status| status.kernel_stats.names_lost = 1)),
            ("limits", Warn, change(&|status| status.governor.shed.push(shedding()))),
            ("limits", Fail, change(&|status| status.governor.exhausted.push("cpu".into()))),
            ("note", Warn, change(&|status| status.notes.push(note(About::Other)))),
        ];
        for (check, expected, status) in cases {
            assert_eq!(of(&status, check), Some(expected), "{check}");
        }
    }
}
