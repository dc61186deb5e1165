//! What is asked of the API server: paths and queries. Pure.

use super::super::object::Kind;

/// Objects in a page of a list.
const PAGE: u32 = 500;
/// Metadata alone, of one object and of a list.
const PARTIAL: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// A kind as its path calls it: group and version, plural.
const fn place(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Pod => ("api/v1", "pods"),
        Kind::Service => ("api/v1", "services"),
        Kind::Node => ("api/v1", "nodes"),
        Kind::EndpointSlice => ("apis/discovery.k8s.io/v1", "endpointslices"),
        Kind::ReplicaSet => ("apis/apps/v1", "replicasets"),
        Kind::Job => ("apis/batch/v1", "jobs"),
    }
}

/// The name that metrics and RBAC know a kind by.
pub(super) const fn plural(kind: Kind) -> &'static str {
    place(kind).1
}

/// As RBAC writes it: `pods`, `replicasets.apps`.
pub(super) fn resource(kind: Kind) -> String {
    let (group, plural) = place(kind);
    match group.strip_prefix("apis/").and_then(|group| group.split_once('/')) {
        Some((group, _)) => format!("{plural}.{group}"),
        None => plural.into(),
    }
}

/// What is accepted: of owners the metadata is enough, where the server can send it alone.
pub(super) const fn accept(kind: Kind) -> &'static str {
    match kind {
        Kind::ReplicaSet | Kind::Job => PARTIAL,
        _ => "application/json",
    }
}

/// Puts a value into a query.
fn put(query: &mut String, key: &str, value: &str) {
    query.push(if query.contains('?') { '&' } else { '?' });
    // Texts can be written whatever they hold.
    query.push_str(&serde_urlencoded::to_string([(key, value)]).unwrap_or_default());
}

fn path(kind: Kind, selector: &str) -> String {
    let (group, plural) = place(kind);
    let mut path = format!("/{group}/{plural}");
    if !selector.is_empty() {
        put(&mut path, "fieldSelector", selector);
    }
    path
}

/// One object by its name.
pub(super) fn one(kind: Kind, namespace: &str, name: &str) -> String {
    let (group, plural) = place(kind);
    format!("/{group}/namespaces/{namespace}/{plural}/{name}")
}

/// The first page of a list, not older than a version, or `from` a page on.
///
/// Without a version the server may answer out of its memory (`resourceVersion=0`), which costs the database behind it nothing;
/// some servers then send all in one page.
pub(super) fn list(kind: Kind, selector: &str, floor: Option<&str>, from: Option<&str>) -> String {
    let mut query = path(kind, selector);
    put(&mut query, "limit", &PAGE.to_string());
    match (from, floor) {
        (Some(from), _) => put(&mut query, "continue", from),
        (None, Some(floor)) => {
            put(&mut query, "resourceVersion", floor);
            put(&mut query, "resourceVersionMatch", "NotOlderThan");
        }
        (None, None) => put(&mut query, "resourceVersion", "0"),
    }
    query
}

/// A watch from a version on, ended by the server after so many seconds.
pub(super) fn watch(kind: Kind, selector: &str, version: &str, seconds: u64) -> String {
    let mut query = path(kind, selector);
    put(&mut query, "watch", "true");
    put(&mut query, "allowWatchBookmarks", "true");
    put(&mut query, "timeoutSeconds", &seconds.to_string());
    put(&mut query, "resourceVersion", version);
    query
}

/// The same, with all objects first (a streaming list), not older than a version.
pub(super) fn stream(kind: Kind, selector: &str, floor: Option<&str>, seconds: u64) -> String {
    let mut query = watch(kind, selector, floor.unwrap_or("0"), seconds);
    put(&mut query, "resourceVersionMatch", "NotOlderThan");
    put(&mut query, "sendInitialEvents", "true");
    query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_escaped() {
        assert_eq!(
            list(Kind::Pod, "spec.nodeName!=node a", None, None),
            "/api/v1/pods?fieldSelector=spec.nodeName%21%3Dnode+a&limit=500&resourceVersion=0"
        );
    }

    #[test]
    fn a_page_on_names_no_version() {
        let page = list(Kind::Job, "", Some("7"), Some("abc="));
        assert_eq!(page, "/apis/batch/v1/jobs?limit=500&continue=abc%3D");
    }

    #[test]
    fn rbac_names_have_their_group() {
        assert_eq!(resource(Kind::Pod), "pods");
        assert_eq!(resource(Kind::EndpointSlice), "endpointslices.discovery.k8s.io");
    }
}
