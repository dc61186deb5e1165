//! Application protocols: told by content in the kernel, or guessed by port where content told nothing.

use serde::{Deserialize, Serialize};

use super::key::Protocol;

macro_rules! apps {
    ($($(#[$doc:meta])* $variant:ident => $name:literal),+ $(,)?) => {
        /// An application protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum App {
            $($(#[$doc])* $variant,)+
            /// There was payload, and it was not recognised.
            Unknown,
        }

        impl App {
            /// What can be recognised, in the order of the documentation.
            pub const KNOWN: &'static [Self] = &[$(Self::$variant),+];
            /// Their names.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The name used in records, labels and filters.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                    Self::Unknown => "unknown",
                }
            }
        }
    };
}

apps! {
    /// HTTP/1.
    Http => "http",
    /// HTTP/2 other than gRPC.
    Http2 => "http2",
    /// gRPC.
    Grpc => "grpc",
    /// TLS.
    Tls => "tls",
    /// DNS, and mDNS and LLMNR, which are written alike.
    Dns => "dns",
    /// MySQL and MariaDB.
    Mysql => "mysql",
    /// PostgreSQL.
    Postgresql => "postgresql",
    /// Redis and its kin.
    Redis => "redis",
    /// Kafka.
    Kafka => "kafka",
    /// MongoDB.
    Mongodb => "mongodb",
    /// AMQP 0-9-1 and 1.0.
    Amqp => "amqp",
    /// MQTT.
    Mqtt => "mqtt",
    /// SSH.
    Ssh => "ssh",
    /// QUIC.
    Quic => "quic",
    /// Memcached.
    Memcached => "memcached",
    /// NATS.
    Nats => "nats",
}

impl App {
    /// The usual user of a server's port (IANA "Service Name and Transport Protocol Port Number Registry", and habit):
    /// no more than a guess.
    pub fn by_port(protocol: Protocol, port: u16) -> Option<Self> {
        let app = match (protocol, port) {
            (Protocol::UDP | Protocol::TCP, 53 | 5353 | 5355) => Self::Dns,
            (Protocol::UDP, 443) => Self::Quic,
            (Protocol::UDP | Protocol::TCP, 11211) => Self::Memcached,
            (Protocol::TCP, 80 | 8000 | 8080) => Self::Http,
            (Protocol::TCP, 443 | 465 | 636 | 853 | 993 | 995 | 8443) => Self::Tls,
            (Protocol::TCP, 22) => Self::Ssh,
            (Protocol::TCP, 3306) => Self::Mysql,
            (Protocol::TCP, 5432) => Self::Postgresql,
            (Protocol::TCP, 6379) => Self::Redis,
            (Protocol::TCP, 9092) => Self::Kafka,
            (Protocol::TCP, 27017) => Self::Mongodb,
            (Protocol::TCP, 5672) => Self::Amqp,
            (Protocol::TCP, 1883) => Self::Mqtt,
            (Protocol::TCP, 4222) => Self::Nats,
            _ => return None,
        };
        Some(app)
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TlsVersion(u8);

impl TlsVersion {
    const NAMES: [&'static str; 5] = ["ssl3", "1.0", "1.1", "1.2", "1.3"];

    /// By its second byte on the wire (RFC 8446 4.1.2): 0x0303 is TLS 1.2.
    pub fn of_minor(minor: u8) -> Option<Self> {
        (usize::from(minor) < Self::NAMES.len()).then_some(Self(minor))
    }

    /// Like `1.3`.
    pub fn name(self) -> &'static str {
        Self::NAMES[usize::from(self.0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_serde_writes() {
        for (app, name) in App::KNOWN.iter().zip(App::NAMES) {
            assert_eq!((app.name(), serde_json::json!(app)), (*name, serde_json::json!(name)));
        }
        assert_eq!(TlsVersion::of_minor(4).map(TlsVersion::name), Some("1.3"));
        assert_eq!(TlsVersion::of_minor(5), None);
    }
}
