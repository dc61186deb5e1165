//! Kubernetes: whether the API server can be asked. Only what is needed to reach it is looked at here.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use super::Finding;

const CHECK: &str = "Kubernetes";
/// Time that the API server has to take a connection.
const PATIENCE: Duration = Duration::from_secs(3);

/// Looks and judges. `variable` reads the environment; `account` is the folder of the service account.
pub fn judge(variable: impl Fn(&str) -> Option<String>, account: &Path) -> Finding {
    let Some(host) = variable("KUBERNETES_SERVICE_HOST") else {
        return Finding::pass(CHECK, "not in a pod");
    };
    let port = variable("KUBERNETES_SERVICE_PORT").and_then(|port| port.parse().ok()).unwrap_or(443_u16);
    if let Err(error) = std::fs::metadata(account.join("token")) {
        return Finding::fail(
            CHECK,
            format!("no token of a service account: {}: {error}", account.join("token").display()),
            "give the pod its service account (serviceAccountName, automountServiceAccountToken: true)",
        );
    }
    let reached = (host.as_str(), port).to_socket_addrs().and_then(|addresses| {
        let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
        for address in addresses {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    });
    match reached {
        Ok(_) => Finding::pass(CHECK, format!("the API server answers on {host}:{port}")),
        Err(error) => Finding::fail(
            CHECK,
            format!("the API server can't be reached on {host}:{port}: {error}"),
            "look for a NetworkPolicy or firewall between this node and the API server; with hostNetwork, dnsPolicy: ClusterFirstWithHostNet",
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::Verdict::{Fail, Pass};
    use super::*;

    #[test]
    fn what_keeps_a_pod_from_the_api_server_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let pod = |name: &str| match name {
            "KUBERNETES_SERVICE_HOST" => Some("127.0.0.1".to_owned()),
            _ => Some(port.to_string()),
        };
        assert_eq!(judge(|_| None, folder.path()).verdict, Pass);
        assert!(judge(pod, folder.path()).found.contains("no token"));
        std::fs::write(folder.path().join("token"), "t").unwrap();
        assert_eq!(judge(pod, folder.path()).verdict, Pass);
        drop(listener);
        let gone = judge(pod, folder.path());
        assert_eq!(gone.verdict, Fail);
        assert!(gone.found.contains("can't be reached"), "{gone:?}");
    }
}
