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
#[derive(Clone, Debug)]
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
