//! What is loaded into the kernel with a configuration, and what of another one the loaded programs can be switched to.

use crate::config::{Config, Conntrack, Precision, TimestampSource, TransportChoice};
use crate::kernel::object::{By, Features, LookInto, MessageFeatures, Options, Transport};

/// What is loaded with a configuration.
pub fn options(config: &Config) -> Options {
    Options {
        transport: match config.capture.transport {
            TransportChoice::Auto => None,
            TransportChoice::Ringbuf => Some(Transport::Ringbuf),
            TransportChoice::Perf => Some(Transport::Perf),
        },
        event_buffer_events: config.resources.maps.event_buffer_size,
        features: features(config),
        bench: false,
        drops: config.features.drop_monitoring.enabled,
        btf: None,
    }
}

/// What the programs look at with a configuration.
pub fn features(config: &Config) -> Features {
    let latency = &config.features.latency_tracking;
    let detection = &config.features.protocol_detection;
    let looks_for = |name: &str| detection.enabled && detection.protocols.iter().any(|known| known == name);
    let servers = u32::try_from(config.export.prometheus.top_destinations).unwrap_or(u32::MAX);
    Features {
        messages: MessageFeatures {
            dns: looks_for("dns"),
            dns_names: detection.dns_names,
            tls_names: looks_for("tls") && detection.tls_names,
            http_servers: looks_for("http").then_some(servers),
        },
        timing: latency.enabled,
        bounds_us: latency.histogram_buckets.iter().map(|ms| (ms * 1e3).round() as u32).collect(),
        hardware: config.capture.timestamp_source == TimestampSource::Hardware,
        precise: latency.precision == Precision::High,
        protocols: config.features.protocol_detection.apps(),
        who: config.features.process_attribution.enabled,
        nat: config.features.nat.enabled,
        conntrack: match config.features.nat.conntrack {
            Conntrack::Auto => None,
            Conntrack::Programs => Some(By::Programs),
            Conntrack::Netlink => Some(By::Netlink),
        },
        tunnels: (!config.capture.decapsulate.is_empty()).then(|| LookInto {
            kinds: config.capture.decapsulate.clone(),
            flows: u32::try_from(config.max_flows()).unwrap_or(u32::MAX),
        }),
    }
}

/// Keys that ask for what was off when the programs were loaded: privileges to load others have been given up since.
pub fn not_loaded(loaded: &Options, config: &Config) -> Vec<&'static str> {
    let (has, wanted) = (&loaded.features, features(config));
    let names = |features: &Features| {
        (features.messages.dns && features.messages.dns_names, features.messages.tls_names)
    };
    let serves = |features: &Features| features.messages.http_servers.is_some();
    let detects = |features: &Features| !features.protocols.is_empty();
    // Nothing is looked for either where the list is empty.
    let more = detects(&wanted) && !detects(has)
        || wanted.messages.dns && !has.messages.dns
        || serves(&wanted) && !serves(has);
    let asked = [
        ("features.latency_tracking.enabled", wanted.timing && !has.timing),
        ("features.protocol_detection.enabled", detects(&wanted) && !detects(has)),
        ("features.protocol_detection.protocols", more),
        ("features.protocol_detection.dns_names", names(&wanted).0 && !names(has).0),
        ("features.protocol_detection.tls_names", names(&wanted).1 && !names(has).1),
        ("features.process_attribution.enabled", wanted.who && !has.who),
        ("features.drop_monitoring.enabled", config.features.drop_monitoring.enabled && !loaded.drops),
    ];
    asked.into_iter().filter(|(_, asked)| *asked).map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::Inputs;

    fn with(pairs: &[(&str, &str)]) -> Config {
        let pairs: Vec<(String, String)> =
            pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        Config::load_with(&Inputs::default(), &pairs).unwrap().config
    }

    #[test]
    fn what_was_on_at_the_start_goes_off_and_on() {
        let loaded = options(&with(&[]));
        for key in ["latency_tracking", "protocol_detection", "process_attribution", "drop_monitoring"] {
            let off = with(&[(&format!("features.{key}.enabled"), "false")]);
            assert_eq!(not_loaded(&loaded, &off), Vec::<&str>::new(), "{key}");
            let held = not_loaded(&options(&off), &with(&[]));
            assert_eq!(held[0], format!("features.{key}.enabled"));
            assert!(held[1..].iter().all(|held| held.contains(key)), "{held:?}");
        }
        let precise = with(&[("features.latency_tracking.precision", "high")]);
        assert!(not_loaded(&loaded, &precise).is_empty());
    }

    #[test]
    fn protocols_are_switched_unless_their_messages_are_not_loaded() {
        const PROTOCOLS: &str = "features.protocol_detection.protocols";
        let loaded = options(&with(&[(PROTOCOLS, "ssh,http")]));
        assert!(not_loaded(&loaded, &with(&[(PROTOCOLS, "mysql,http,kafka")])).is_empty());
        assert_eq!(not_loaded(&loaded, &with(&[(PROTOCOLS, "dns")])), [PROTOCOLS]);
        let nothing = options(&with(&[(PROTOCOLS, "")]));
        assert!(not_loaded(&nothing, &with(&[(PROTOCOLS, "ssh")])).contains(&PROTOCOLS));
        let names = with(&[("features.protocol_detection.dns_names", "true")]);
        assert_eq!(not_loaded(&options(&with(&[])), &names), ["features.protocol_detection.dns_names"]);
    }
}
