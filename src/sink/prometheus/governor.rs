//! What the agent uses, may use, and sheds.

use super::page::{Page, count, level};
use crate::governor::state::Resource;
use crate::governor::{GovernorStatus, measures};

pub(super) fn families(page: &mut Page, status: &GovernorStatus) {
    page.gauge(
        "netmon_governor_cpu_cores",
        "CPU in the last second, cores: of the agent's threads, and of its programs in the kernel.",
        vec![
            level(&[("kind", "agent")], status.agent_cores),
            level(&[("kind", "ebpf")], status.programs_cores),
        ],
    );
    page.gauge(
        "netmon_governor_cpu_limit_cores",
        "CPU that may be used, cores.",
        vec![level(&[], status.cpu_limit_cores)],
    );
    page.gauge(
        "netmon_governor_memory_limit_bytes",
        "Memory that may be used, bytes: resources.memory_limit, or four fifths of the control group's limit if that is less.",
        vec![level(&[], status.memory_limit_bytes as f64)],
    );
    let is_shed = |measure: &&str| status.shed.iter().any(|shedding| shedding.measure == *measure);
    page.gauge(
        "netmon_governor_shed",
        "1 while it is shed to stay within the limits.",
        measures()
            .iter()
            .map(|measure| level(&[("measure", measure)], f64::from(u8::from(is_shed(measure)))))
            .collect(),
    );
    let is_exhausted = |resource: &Resource| status.exhausted.iter().any(|name| name == resource.name());
    page.gauge(
        "netmon_governor_exhausted",
        "1 while the limit is not held although all is shed.",
        Resource::ALL
            .iter()
            .map(|resource| {
                level(&[("resource", resource.name())], f64::from(u8::from(is_exhausted(resource))))
            })
            .collect(),
    );
    let steps = |action, times: [u64; 2]| {
        Resource::ALL
            .into_iter()
            .zip(times)
            .map(move |(resource, times)| count(&[("resource", resource.name()), ("action", action)], times))
    };
    page.counter(
        "netmon_governor_steps_total",
        "Times that more was shed, and that less was (recovered), by the resource that was scarce.",
        steps("shed", status.times_shed).chain(steps("recovered", status.times_recovered)).collect(),
    );
}
