//! All that gives names: this host's own numbers, and the Kubernetes cluster's addresses.
//!
//! The one way for records and for counts: [`Directory::known`] is what counts are by, [`Names::tell`] the same in words.

use std::sync::Arc;

use super::host::Host;
use super::kubernetes::Cluster;
use super::kubernetes::cluster::Known;
use crate::flow::record::Endpoint;
use crate::flow::update::{Flow, FlowUpdate};
use crate::flow::who::Names;

/// Asks both.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// `features.process_attribution`.
    pub host: Option<Arc<Host>>,
    /// In Kubernetes mode.
    pub cluster: Option<Arc<Cluster>>,
}

impl Directory {
    /// Learns who is in these updates.
    pub fn observe(&self, updates: &[FlowUpdate]) {
        if let Some(host) = &self.host {
            host.observe(updates);
        }
    }

    /// Who is at the ends of the flows of these updates, opener first; nothing at all outside of a cluster.
    pub fn known(&self, updates: &[FlowUpdate]) -> Vec<[Known; 2]> {
        let Some(cluster) = &self.cluster else { return Vec::new() };
        let mut uids = self.host.as_ref().map(|host| host.pods_of(updates)).unwrap_or_default().into_iter();
        updates.iter().map(|update| cluster.ends(&update.flow, uids.next().unwrap_or_default())).collect()
    }

    fn words(&self, known: &Known, end: &mut Endpoint) {
        let text = |word: &Arc<str>| Some(word.to_string());
        let (pod, backend) = (known.pod.as_ref(), known.backend.as_ref());
        if let Some(pod) = pod {
            let workload = pod.workload();
            end.namespace = text(pod.namespace());
            end.pod = Some(pod.name.to_string());
            end.workload = text(&workload.name);
            end.workload_kind = text(&workload.kind);
            let id = end.container.as_ref().zip(self.cluster.as_ref());
            if let Some(name) = id.and_then(|(id, cluster)| cluster.container(pod, id)) {
                end.container = text(&name);
            }
        } else if let Some(name) = backend.and_then(|backend| backend.pod.as_ref()) {
            end.namespace = text(&name.namespace);
            end.pod = text(&name.name);
        }
        if let Some(service) = &known.service {
            end.service = text(&service.name);
            end.namespace = end.namespace.take().or_else(|| text(&service.namespace));
        }
        end.node = known
            .node
            .as_ref()
            .map(|node| &node.name)
            .or(backend.and_then(|b| b.node.as_ref()))
            .and_then(text);
        end.zone = known.zone().as_ref().and_then(text);
    }
}

impl Names for Directory {
    fn tell(&self, flow: &Flow, ends: [&mut Endpoint; 2]) {
        let [src, dst] = ends;
        let uids = match &self.host {
            Some(host) => [host.tell(flow.who[0], src), host.tell(flow.who[1], dst)],
            None => [None; 2],
        };
        if let Some(cluster) = &self.cluster {
            let known = cluster.ends(flow, uids);
            self.words(&known[0], src);
            self.words(&known[1], dst);
        }
    }

    fn tell_address(&self, end: &mut Endpoint, span: (u64, u64)) {
        if let Some(cluster) = &self.cluster {
            self.words(&cluster.at(end.ip, span), end);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::host::Source;
    use super::super::kubernetes::cluster::Settings;
    use super::super::kubernetes::object::{Change, Name, Object, Pod, Watched};
    use super::*;
    use crate::clock::WallClock;
    use crate::flow::key::{FlowKey, Protocol};
    use crate::flow::record::Direction;
    use crate::flow::who::Who;
    use crate::kernel::names::Name as Socket;

    const UID: u128 = 0x0d1c_2b3a_4f5e_6d7c_8b9a_a0b1_c2d3_e4f5;

    fn id() -> String {
        "0123456789abcdef".repeat(4)
    }

    /// Socket 1 is in a container of a pod.
    #[derive(Debug)]
    struct Kernel;

    impl Source for Kernel {
        fn name(&self, number: u32) -> Option<Socket> {
            (number == 1).then(|| Socket { pid: 4711, cgroup: 77, comm: "node".into() })
        }

        fn path(&self, cgroup: u64) -> Option<String> {
            let pod = "/kubepods.slice/kubepods-pod0d1c2b3a_4f5e_6d7c_8b9a_a0b1c2d3e4f5.slice";
            (cgroup == 77).then(|| format!("{pod}/cri-containerd-{}.scope", id()))
        }
    }

    #[test]
    fn a_local_pod_is_told_by_its_cgroup_down_to_the_container() {
        let clock = || WallClock::ahead_by(0);
        let cluster = Cluster::new(Settings { node: Some("node-a".into()), whole: true, clock });
        let pod = |name: &str, uid, host_network| Pod {
            name: Name { namespace: "shop".into(), name: name.into() },
            uid,
            node: Some("node-a".into()),
            addresses: vec![[192, 168, 50, 1].into()],
            host_network,
            owner: None,
            template_hash: None,
            started: None,
            ended: None,
            containers: vec![(id().into(), "app".into())],
        };
        cluster.take(Change::Applied(Object::Pod(pod("host-x", UID, true))), 0);
        cluster.take(Change::Applied(Object::Pod(pod("wrong", 5, false))), 0);
        let host = Host::start(Box::new(Kernel), None).unwrap();
        let directory = Directory { host: Some(Arc::new(host)), cluster: Some(Arc::new(cluster)) };
        let key = FlowKey {
            protocol: Protocol::TCP,
            src: ([192, 168, 50, 1], 40_000).into(),
            dst: ([192, 168, 50, 1], 80).into(),
        };
        let flow = Flow { who: [Who::Socket(1), Who::Unknown], ..Flow::new(1, key, Direction::Egress) };
        let mut ends = [key.src, key.dst].map(|end| Endpoint::bare(end.ip(), Some(end.port())));
        let [src, dst] = &mut ends;
        directory.tell(&flow, [src, dst]);
        let [src, dst] = ends;
        assert_eq!((src.pod.as_deref(), src.container.as_deref()), (Some("host-x"), Some("app")));
        assert_eq!((src.process.as_deref(), src.workload_kind.as_deref()), (Some("node"), Some("Pod")));
        assert_eq!((src.namespace.as_deref(), src.node.as_deref()), (Some("shop"), Some("node-a")));
        assert_eq!(dst.pod.as_deref(), Some("wrong"), "without a socket the address tells");
        let known = directory.known(&[FlowUpdate::new(
            flow,
            Default::default(),
            crate::flow::update::Change::Opened,
        )]);
        assert_eq!(known[0][0].pod.as_ref().unwrap().name.as_ref(), "host-x");
        let nobody = Directory { cluster: None, ..directory };
        assert!(nobody.known(&[]).is_empty());
    }
}
