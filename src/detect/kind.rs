//! The kinds of signs: their names, how grave they are, and what to do about them.

use serde::{Deserialize, Serialize};

/// How grave a sign is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// May well be harmless.
    Low,
    /// Between the two.
    Medium,
    /// Does harm now.
    High,
}

impl Severity {
    /// The name used in records and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident => $name:literal, $severity:ident, $hint:literal;)+) => {
        /// What it looks like.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Kind { $($(#[$doc])* $kind),+ }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// The name used in labels and records.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name),+ }
            }

            /// How grave it is.
            pub fn severity(self) -> Severity {
                match self { $(Self::$kind => Severity::$severity),+ }
            }

            /// What to do about it.
            pub fn hint(self) -> &'static str {
                match self { $(Self::$kind => $hint),+ }
            }
        }
    };
}

kinds! {
    /// One source tries many ports of one host.
    PortScan => "port_scan", Medium,
        "find out who the source is; block it, or allow it if it is your own scanner";
    /// One source tries one port of many hosts.
    HostSweep => "host_sweep", Medium,
        "a source of your own may be infected or hold a stale list of hosts; block a foreign one";
    /// Many connections to one port are begun and not finished.
    SynFlood => "syn_flood", High,
        "see that net.ipv4.tcp_syncookies is on, then limit the rate in front of the host; an overloaded server looks alike";
    /// TCP packets whose flags no connection begins with: none, FIN alone, FIN+PSH+URG.
    StealthProbe => "stealth_probe", Medium,
        "nothing but a scanner sends these: block the source";
    /// Packets from very many networks to one host, from none of which anybody goes on to talk.
    SpoofedBurst => "spoofed_burst", Medium,
        "the sources are likely forged, so blocking them is in vain: ask the provider to filter; peers that look for a service that has moved look alike";
    /// Many short conversations of one size with a login service.
    LoginBurst => "login_burst", Low,
        "look into the service's log for failed logins; allow sources that run a command for each connection";
    /// Small conversations with a host on the Internet, as regular as a clock.
    Beacon => "beacon", Low,
        "find the process on the source: malware asks its master like this, and so do updaters and monitoring agents; allow those by source or destination";
    /// Large queries to a DNS server, many and for long.
    DnsTunnel => "dns_tunnel", Medium,
        "look at the names in the server's query log; reputation lookups (anti-virus, mail filters) may look alike: allow their source or server";
    /// A port of this host answers that has not answered before.
    NewService => "new_service", Low,
        "see who listens (ss -lntup) and whether that was meant to be reached from there";
}
