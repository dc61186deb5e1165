//! Which flows a dump shows. One definition for the server and for `netmon-cli`: as query pairs over the wire, as
//! flags on the command line.

use std::net::{IpAddr, SocketAddr};

use jiff::{SignedDuration, Timestamp};

use crate::flow::app::App;
use crate::flow::cidr::Cidr;
use crate::flow::key::Protocol;
use crate::flow::record::{Endpoint, FlowRecord, Reason, Status};
use crate::flow::update::Flow;

/// Order of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Heaviest first.
    Bytes,
    /// Most packets first.
    Packets,
    /// Newest first.
    Start,
    /// Longest first.
    Duration,
}

/// A filter; an empty one shows all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// IP protocol.
    pub protocol: Option<Protocol>,
    /// Either end's address.
    pub ip: Option<IpAddr>,
    /// Either end's network.
    pub cidr: Option<Cidr>,
    /// Either end's port.
    pub port: Option<u16>,
    /// Status.
    pub status: Option<Status>,
    /// Reason of failure.
    pub reason: Option<Reason>,
    /// An interface that saw it.
    pub interface: Option<String>,
    /// Last packet at this time or later.
    pub since: Option<Timestamp>,
    /// Either end's namespace and pod.
    pub pod: Option<(String, String)>,
    /// Either end's Kubernetes namespace.
    pub namespace: Option<String>,
    /// Either end's workload: its name, or namespace/name.
    pub workload: Option<String>,
    /// Either end's service: its name, or namespace/name.
    pub service: Option<String>,
    /// Either end's systemd unit.
    pub unit: Option<String>,
    /// Virtual network of its tunnel.
    pub vni: Option<u32>,
    /// Either end's process: its name or id.
    pub process: Option<String>,
    /// Either end's container: its name, or the beginning of its id.
    pub container: Option<String>,
    /// Application protocol, as content told it.
    pub app: Option<App>,
    /// At most so many.
    pub limit: Option<usize>,
    /// Order; without it as they come.
    pub sort: Option<Sort>,
}

/// A parameter that is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: `{value}` is not accepted; accepted: {accepted}")]
pub struct BadParameter {
    /// Name.
    pub name: String,
    /// What was given.
    pub value: String,
    /// What is accepted.
    pub accepted: &'static str,
}

impl BadParameter {
    /// Of a parameter that is in [`PARAMETERS`], or is none.
    pub(super) fn of(name: &str, value: &str) -> Self {
        let known = PARAMETERS.iter().find(|(known, _)| *known == name);
        let accepted = known.map_or("no such parameter", |(_, accepted)| accepted);
        Self { name: name.into(), value: value.into(), accepted }
    }
}

/// Every parameter: name, and what is accepted.
pub const PARAMETERS: &[(&str, &str)] = &[
    ("protocol", "a protocol name like tcp, udp, icmp, or a number"),
    ("ip", "an IP address"),
    ("cidr", "a network like 10.0.0.0/8"),
    ("port", "a port from 0 to 65535"),
    ("status", "active, ok or failed"),
    ("reason", "refused, reset, timeout, unreachable or prohibited"),
    ("interface", "an interface name"),
    ("since", "an age like 5m or 1h, or a time like 2026-11-23T08:00:00Z"),
    ("pod", "namespace/name"),
    ("namespace", "a Kubernetes namespace"),
    ("workload", "a workload name, or namespace/name"),
    ("service", "a service name, or namespace/name"),
    ("unit", "a systemd unit"),
    ("vni", "a virtual network's number from 0 to 16777215"),
    ("process", "a process name or id"),
    ("container", "a container name or the beginning of its id"),
    ("app", "an application protocol like http, tls, dns or postgresql, or unknown"),
    ("limit", "a number of flows"),
    ("sort", "bytes, packets, start or duration"),
];

fn named<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str, text: &str) -> Option<T> {
    all.iter().copied().find(|item| name(*item) == text)
}

fn since(text: &str, now: Timestamp) -> Option<Timestamp> {
    text.parse().ok().or_else(|| {
        let age: SignedDuration = text.parse().ok()?;
        (!age.is_negative()).then(|| now.checked_sub(age).ok())?
    })
}

/// Whether it is called so: by its name, or by namespace and name.
fn is_named(end: &Endpoint, name: &Option<String>, wanted: &str) -> bool {
    let Some(name) = name else { return false };
    match wanted.split_once('/') {
        Some((namespace, wanted)) => name == wanted && end.namespace.as_deref() == Some(namespace),
        None => name == wanted,
    }
}

impl Filter {
    /// Takes one parameter. `now` is what ages are counted from.
    ///
    /// # Errors
    /// Names the parameter, the value and what is accepted.
    pub fn set(&mut self, name: &str, value: &str, now: Timestamp) -> Result<(), BadParameter> {
        let text = || Some(value.to_owned()).filter(|text| !text.is_empty());
        let done = match name {
            "protocol" => Protocol::parse(value).map(|v| self.protocol = Some(v)),
            "ip" => value.parse().ok().map(|v| self.ip = Some(v)),
            "cidr" => Cidr::parse(value).map(|v| self.cidr = Some(v)),
            "port" => value.parse().ok().map(|v| self.port = Some(v)),
            "status" => named(Status::ALL, Status::name, value).map(|v| self.status = Some(v)),
            "reason" => named(Reason::ALL, Reason::name, value).map(|v| self.reason = Some(v)),
            "interface" => text().map(|v| self.interface = Some(v)),
            "since" => since(value, now).map(|v| self.since = Some(v)),
            "pod" => value
                .split_once('/')
                .filter(|(namespace, pod)| !namespace.is_empty() && !pod.is_empty())
                .map(|(namespace, pod)| self.pod = Some((namespace.into(), pod.into()))),
            "namespace" => text().map(|v| self.namespace = Some(v)),
            "workload" => text().map(|v| self.workload = Some(v)),
            "service" => text().map(|v| self.service = Some(v)),
            "unit" => text().map(|v| self.unit = Some(v)),
            "vni" => value.parse().ok().filter(|vni| *vni < 1 << 24).map(|v| self.vni = Some(v)),
            "process" => text().map(|v| self.process = Some(v)),
            "container" => text().map(|v| self.container = Some(v)),
            "app" => App::KNOWN
                .iter()
                .chain(&[App::Unknown])
                .find(|app| app.name() == value)
                .map(|v| self.app = Some(*v)),
            "limit" => value.parse().ok().map(|v| self.limit = Some(v)),
            "sort" => match value {
                "bytes" => Some(Sort::Bytes),
                "packets" => Some(Sort::Packets),
                "start" => Some(Sort::Start),
                "duration" => Some(Sort::Duration),
                _ => None,
            }
            .map(|v| self.sort = Some(v)),
            _ => None,
        };
        done.ok_or_else(|| BadParameter::of(name, value))
    }

    /// Whether a flow may match: the cheap part, before a record is made.
    pub fn may_match(&self, flow: &Flow) -> bool {
        // Those behind a translation as well.
        let nat = flow.nat.unwrap_or_default();
        let any = |fits: &dyn Fn(SocketAddr) -> bool| {
            [Some(flow.key.src), Some(flow.key.dst), nat.src, nat.dst].into_iter().flatten().any(fits)
        };
        self.protocol.is_none_or(|protocol| flow.key.protocol == protocol)
            && self.ip.is_none_or(|ip| any(&|end| end.ip() == ip))
            && self.cidr.is_none_or(|net| any(&|end| net.contains(end.ip())))
            && self.port.is_none_or(|port| any(&|end| end.port() == port))
            && self.status.is_none_or(|status| flow.status == status)
            && self.reason.is_none_or(|reason| flow.reason == Some(reason))
            && self.vni.is_none_or(|vni| flow.tunnel.is_some_and(|tunnel| tunnel.vni == vni))
            && self.app.is_none_or(|app| flow.app == Some(app))
    }

    /// Whether a record matches, once [`Self::may_match`] has let its flow through.
    pub fn matches(&self, record: &FlowRecord) -> bool {
        let either = |wanted: &Option<String>, get: fn(&Endpoint) -> &Option<String>| {
            wanted.is_none() || get(&record.src) == wanted || get(&record.dst) == wanted
        };
        let in_pod = |end: &Endpoint, (namespace, pod): &(String, String)| {
            end.namespace.as_ref() == Some(namespace) && end.pod.as_ref() == Some(pod)
        };
        let some = |wanted: &Option<String>, is: fn(&Endpoint, &str) -> bool| {
            wanted.as_ref().is_none_or(|wanted| is(&record.src, wanted) || is(&record.dst, wanted))
        };
        self.interface.as_ref().is_none_or(|name| record.interfaces.contains(name))
            && self.since.is_none_or(|since| record.end_time >= since)
            && self.pod.as_ref().is_none_or(|pod| in_pod(&record.src, pod) || in_pod(&record.dst, pod))
            && either(&self.namespace, |end| &end.namespace)
            && some(&self.workload, |end, wanted| is_named(end, &end.workload, wanted))
            && some(&self.service, |end, wanted| is_named(end, &end.service, wanted))
            && either(&self.unit, |end| &end.unit)
            && some(&self.process, |end, wanted| {
                end.process.as_deref() == Some(wanted) || end.pid.is_some_and(|pid| wanted.parse() == Ok(pid))
            })
            && some(&self.container, |end, wanted| {
                end.container.as_ref().is_some_and(|container| container.starts_with(wanted))
            })
    }

    /// What a flow is sorted by, largest first; 0 without an order.
    pub fn rank(&self, flow: &Flow) -> u64 {
        match self.sort {
            Some(Sort::Bytes) => flow.total.bytes(),
            Some(Sort::Packets) => flow.total.packets(),
            Some(Sort::Start) => flow.start_ns,
            Some(Sort::Duration) => flow.end_ns.saturating_sub(flow.start_ns),
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_parameter_takes_what_it_says_and_refuses_the_rest() {
        let good = [
            ("protocol", "tcp"),
            ("ip", "fd00::1"),
            ("cidr", "10.0.0.0/8"),
            ("port", "443"),
            ("status", "failed"),
            ("reason", "refused"),
            ("interface", "eth0"),
            ("since", "5m"),
            ("since", "2026-11-23T08:00:00Z"),
            ("pod", "shop/cart"),
            ("limit", "10"),
            ("sort", "bytes"),
            ("app", "tls"),
            ("vni", "16777215"),
        ];
        for (name, value) in good {
            Filter::default().set(name, value, Timestamp::UNIX_EPOCH).unwrap();
        }
        for (name, value) in [
            ("protocol", "carrier-pigeon"),
            ("ip", "10.0.0"),
            ("cidr", "10.0.0.0/33"),
            ("port", "70000"),
            ("since", "-5m"),
            ("vni", "16777216"),
            ("sort", "colour"),
            ("app", "smtp"),
            ("colour", "red"),
        ] {
            let error = Filter::default().set(name, value, Timestamp::UNIX_EPOCH).unwrap_err();
            assert_eq!((error.name.as_str(), error.value.as_str()), (name, value));
        }
    }

    #[test]
    fn names_are_those_of_either_end() {
        let mut src = Endpoint::bare([10, 9, 0, 1].into(), Some(40_000));
        let words = |text: &str| Some(text.to_owned());
        (src.namespace, src.pod, src.workload) = (words("shop"), words("cart-1"), words("cart"));
        let mut dst = Endpoint::bare([10, 96, 0, 1].into(), Some(80));
        (dst.namespace, dst.pod, dst.service) = (words("store"), words("web-0"), words("web"));
        let key = crate::flow::key::FlowKey {
            protocol: Protocol::TCP,
            src: ([10, 9, 0, 1], 40_000).into(),
            dst: ([10, 96, 0, 1], 80).into(),
        };
        let presenter = crate::flow::present::Presenter {
            clock: crate::clock::WallClock::ahead_by(0),
            interfaces: std::sync::Arc::default(),
            sampling_rate: 1.0,
            drops: std::sync::Arc::default(),
            names: None,
            asked: None,
        };
        let flow = Flow::new(1, key, crate::flow::record::Direction::Egress);
        let record = FlowRecord { src, dst, ..presenter.record(&flow) };
        let matches = |name: &str, value: &str| {
            let mut filter = Filter::default();
            filter.set(name, value, Timestamp::UNIX_EPOCH).unwrap();
            filter.matches(&record)
        };
        for (name, value, fits) in [
            ("pod", "shop/cart-1", true),
            ("pod", "store/web-0", true),
            ("pod", "store/cart-1", false),
            ("namespace", "store", true),
            ("namespace", "other", false),
            ("workload", "cart", true),
            ("workload", "shop/cart", true),
            ("workload", "store/cart", false),
            ("service", "web", true),
            ("service", "store/web", true),
            ("service", "shop/web", false),
            ("service", "cart", false),
        ] {
            assert_eq!(matches(name, value), fits, "{name} {value}");
        }
    }

    #[test]
    fn networks_hold_their_addresses_only() {
        let net = Cidr::parse("10.1.0.0/16").unwrap();
        assert!(net.contains("10.1.255.1".parse().unwrap()) && !net.contains("10.2.0.1".parse().unwrap()));
        assert!(!net.contains("a01::1".parse().unwrap()));
        assert!(Cidr::parse("::/0").unwrap().contains("fd00::1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn no_parameter_makes_it_panic(name in "[a-z]{0,10}", value in ".{0,30}") {
            let _ = Filter::default().set(&name, &value, Timestamp::UNIX_EPOCH);
            for (known, _) in PARAMETERS {
                let _ = Filter::default().set(known, &value, Timestamp::UNIX_EPOCH);
            }
        }
    }
}
