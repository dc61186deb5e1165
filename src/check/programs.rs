//! The programs: what this kernel takes, and what stands in for what it does not.

use super::Finding;
use crate::kernel::load::Part;
use crate::kernel::object::{Options, Transport};
use crate::kernel::trial::Trial;

/// What was taken; `tcx` says whether the kernel has it, if that is known.
pub fn judge(trial: &Trial, options: &Options, tcx: Option<bool>) -> Vec<Finding> {
    let taken = match &trial.outcome {
        Ok(taken) => taken,
        Err(error) => {
            let fix =
                "`netmon-cli support bundle` keeps the verifier's words; the checks above may name the cause";
            return vec![Finding::fail("programs", error.to_string(), fix)];
        }
    };
    let verified = taken.instructions.map_or_else(String::new, |[ingress, egress]| {
        format!("; the verifier went through {ingress} and {egress} instructions")
    });
    let mut findings = vec![Finding::pass(
        "programs",
        format!("the kernel takes them, fitted by CO-RE to its types{verified}"),
    )];
    findings.push(match tcx {
        Some(true) => Finding::pass("attaching", "TCX, at the head of each hook"),
        Some(false) => Finding::warn(
            "attaching",
            "clsact filters, as this kernel has no TCX: packets that another program at priority 1 redirects or drops are not seen",
            "Linux 6.6 or later; without such programs nothing is lost",
        ),
        None => Finding::pass("attaching", "not known without CAP_NET_ADMIN"),
    });
    findings.push(match (taken.transport, options.transport) {
        (Transport::Ringbuf, _) => Finding::pass("events", "ring buffer"),
        (Transport::Perf, Some(_)) => Finding::pass("events", "perf buffers, as capture.transport asks"),
        (Transport::Perf, None) => Finding::warn(
            "events",
            "perf buffers, as this kernel has no ring buffer: they take more memory and are drained CPU by CPU",
            "Linux 5.8 or later; nothing is counted wrong with them",
        ),
    });
    for piece in PIECES.iter().filter(|piece| (piece.asked)(options)) {
        let out = piece.parts.iter().find_map(|part| taken.left_out.iter().find(|out| out.part == *part));
        findings.push(match out {
            None => Finding::pass(piece.check, piece.good),
            Some(out) => {
                Finding::warn(piece.check, format!("{}: {}", out.part.missing(), out.why), piece.fix)
            }
        });
    }
    findings
}

/// What the agent can do without.
struct Piece {
    check: &'static str,
    asked: fn(&Options) -> bool,
    /// What it takes; what most is lost without comes first.
    parts: &'static [Part],
    good: &'static str,
    fix: &'static str,
}

const PIECES: [Piece; 3] = [
    Piece {
        check: "drops",
        asked: |options| options.drops,
        parts: &[Part::Drops],
        good: "the kernel tells each packet that it drops, with its reason (tp_btf/kfree_skb)",
        fix: "Linux 5.17 or later, with BTF; all else works without",
    },
    Piece {
        check: "process names",
        asked: |options| options.features.who,
        parts: &[Part::Names, Part::OlderSockets],
        good: "sockets have them, those too that are older than the agent (iter/task_file)",
        fix: "Linux 5.11 or later, with BTF; without, start the agent before the services",
    },
    Piece {
        check: "NAT",
        asked: |options| options.features.nat,
        parts: &[Part::Conntrack, Part::Nat],
        good: "conntrack can be read: a translated conversation is one flow",
        fix: "a kernel that lets traffic-control programs read its memory; all else works without",
    },
];

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fail, Warn};
    use super::*;
    use crate::config::Config;
    use crate::kernel::load::{LeftOut, LoadError};
    use crate::kernel::trial::Taken;
    use crate::reload::features::options;

    fn trial(taken: Taken) -> Trial {
        Trial { outcome: Ok(taken), words: String::new() }
    }

    #[test]
    fn each_fallback_is_named_and_all_of_it_passes_on_a_new_kernel() {
        let all = Taken { transport: Transport::Ringbuf, left_out: Vec::new(), instructions: Some([1, 2]) };
        let options = options(&Config::default());
        let findings = judge(&trial(all), &options, Some(true));
        assert!(findings.iter().all(|finding| finding.fix.is_none()), "{findings:?}");
        assert_eq!(findings.len(), 6);

        let out = |part| LeftOut { part, why: "too old".into() };
        let least = Taken {
            transport: Transport::Perf,
            left_out: [Part::OlderSockets, Part::Nat, Part::Drops].map(out).to_vec(),
            instructions: None,
        };
        let findings = judge(&trial(least), &options, Some(false));
        let warned: Vec<_> =
            findings.iter().filter(|f| f.verdict == Warn).map(|f| f.check.as_str()).collect();
        assert_eq!(warned, ["attaching", "events", "drops", "process names", "NAT"]);

        let left_out = [Part::Nat, Part::Conntrack].map(out).to_vec();
        let none = Taken { transport: Transport::Ringbuf, left_out, instructions: None };
        let findings = judge(&trial(none), &options, Some(true));
        let nat = findings.iter().find(|finding| finding.check == "NAT");
        assert!(nat.is_some_and(|nat| nat.verdict == Warn && nat.found.contains("are two flows")), "{nat:?}");
    }

    #[test]
    fn a_refusal_fails_and_says_what_the_kernel_said() {
        let error =
            LoadError::Step { what: "create a flow table", source: std::io::ErrorKind::OutOfMemory.into() };
        let refused = Trial { outcome: Err(error), words: String::new() };
        let findings = judge(&refused, &options(&Config::default()), None);
        assert_eq!((findings.len(), findings[0].verdict), (1, Fail));
        assert!(findings[0].found.contains("create a flow table"));
    }
}
