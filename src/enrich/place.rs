//! What a cgroup's path says of who runs there: systemd unit, container, pod. Pure.
//!
//! Known: systemd's slices, services and scopes; Docker, containerd, CRI-O and Podman with either cgroup driver; Kubernetes pods;
//! LXC and LXD; systemd-nspawn and libvirt machines; ECS tasks. What is below a container is its own affair: units in there are
//! not told as this host's.

/// What a path says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// systemd unit as `systemctl` names it, the innermost one outside of containers.
    pub unit: Option<String>,
    /// Container id (64 hexadecimal digits where the runtime has such) or machine name, the innermost.
    pub container: Option<String>,
    /// Kubernetes pod UID.
    pub pod_uid: Option<String>,
}

impl Place {
    /// The pod's UID as a number.
    pub fn pod(&self) -> Option<u128> {
        let digits = self.pod_uid.as_ref()?.bytes().filter(|byte| *byte != b'-');
        digits
            .map(|byte| char::from(byte).to_digit(16))
            .try_fold(0, |number: u128, digit| Some(number << 4 | u128::from(digit?)))
    }

    /// Nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Reads a path from the root of the tree, like `/system.slice/nginx.service`.
pub fn read(path: &str) -> Place {
    let mut place = Place::default();
    let mut parent = "";
    for component in path.split('/').filter(|component| !component.is_empty()) {
        // systemd puts `_` before names that could be files of the kernel.
        let name = component.strip_prefix('_').unwrap_or(component);
        if let Some(uid) = pod_uid(name) {
            place.pod_uid = Some(uid);
        }
        if let Some(container) = container(name, parent) {
            place.container = Some(container);
        } else if place.container.is_none() && is_unit(name) {
            place.unit = Some(name.to_owned());
        }
        parent = name;
    }
    place
}

fn is_unit(name: &str) -> bool {
    let known = [".service", ".scope", ".socket", ".mount", ".swap"];
    // The monitor of a container is neither the container nor a unit of its own.
    known.iter().any(|suffix| name.len() > suffix.len() && name.ends_with(suffix))
        && !name.contains("-conmon-")
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A container's id, or an ECS one: 32 digits, a dash, a number.
fn is_id(text: &str) -> bool {
    is_hex(text, 64)
        || text.split_once('-').is_some_and(|(task, number)| {
            is_hex(task, 32) && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        })
}

fn container(name: &str, parent: &str) -> Option<String> {
    // runc by the cgroupfs driver, told to use systemd's: `kubepods-pod<uid>.slice:cri-containerd:<id>`.
    let last = name.rsplit(':').next().unwrap_or(name);
    if is_id(last) {
        return Some(last.to_owned());
    }
    if let Some(scope) = name.strip_suffix(".scope") {
        if let Some(machine) = scope.strip_prefix("machine-") {
            return Some(unescape(machine));
        }
        let (runtime, id) = scope.rsplit_once('-').unwrap_or(("", scope));
        return (is_hex(id, 64) && !runtime.ends_with("conmon")).then(|| id.to_owned());
    }
    if let Some(machine) = name.strip_prefix("systemd-nspawn@").and_then(|rest| rest.strip_suffix(".service"))
    {
        return Some(unescape(machine));
    }
    if let Some(container) = name.strip_prefix("lxc.payload.") {
        return Some(container.to_owned());
    }
    (parent == "lxc").then(|| name.to_owned())
}

/// `pod<uid>`, or `kubepods[-class]-pod<uid>.slice` with `_` for `-`; static pods have a UID without dashes.
fn pod_uid(name: &str) -> Option<String> {
    let name = name.split(':').next().unwrap_or(name);
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.split_once("kubepods-")?.1.rsplit_once("pod")?.1.replace('_', "-"),
        None => name.strip_prefix("pod")?.to_owned(),
    };
    let bare = uid.replace('-', "");
    is_hex(&bare, 32).then_some(uid)
}

/// `\x2d` is `-`: systemd's escape of a byte.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.strip_prefix(b"x").and_then(|hex| hex.get(..2)).and_then(|hex| {
            let digits = std::str::from_utf8(hex).ok()?;
            u8::from_str_radix(digits, 16).ok()
        });
        match escaped {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "3f2a1b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708";
    const UID: &str = "0d1c2b3a-4f5e-6d7c-8b9a-a0b1c2d3e4f5";

    #[test]
    fn paths_of_the_world_are_understood() {
        let uid_ = UID.replace('-', "_");
        // Path, unit, container, pod.
        let known: Vec<(String, &str, &str, &str)> = vec![
            ("/".into(), "", "", ""),
            ("/init.scope".into(), "init.scope", "", ""),
            ("/system.slice/nginx.service".into(), "nginx.service", "", ""),
            ("/system.slice/system-getty.slice/getty@tty1.service".into(), "getty@tty1.service", "", ""),
            ("/system.slice/system-postgresql.slice/postgresql@15-main.service".into(), "postgresql@15-main.service", "", ""),
            (r"/system.slice/dev-disk-by\x2duuid.mount".into(), r"dev-disk-by\x2duuid.mount", "", ""),
            ("/system.slice/_cpu.service".into(), "cpu.service", "", ""),
            ("/system.slice/foo.service/supervise".into(), "foo.service", "", ""),
            ("/user.slice/user-1000.slice/session-3.scope".into(), "session-3.scope", "", ""),
            ("/user.slice/user-1000.slice/user@1000.service/init.scope".into(), "init.scope", "", ""),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-firefox-4711.scope".into(), "app-gnome-firefox-4711.scope", "", ""),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/syncthing.service".into(), "syncthing.service", "", ""),
            (format!("/system.slice/docker-{ID}.scope"), "", ID, ""),
            (format!("/docker/{ID}"), "", ID, ""),
            (format!("/system.slice/docker.service/docker/{ID}"), "docker.service", ID, ""),
            (format!("/docker/{ID}/system.slice/nginx.service"), "", ID, ""),
            (format!("/system.slice/containerd.service/default/{ID}"), "containerd.service", ID, ""),
            (format!("/system.slice/nerdctl-{ID}.scope"), "", ID, ""),
            (format!("/machine.slice/libpod-{ID}.scope/container"), "", ID, ""),
            (format!("/machine.slice/libpod-conmon-{ID}.scope"), "", "", ""),
            (format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container"), "user@1000.service", ID, ""),
            (format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid_}.slice/cri-containerd-{ID}.scope"), "", ID, UID),
            (format!("/kubepods.slice/kubepods-pod{uid_}.slice/crio-{ID}.scope"), "", ID, UID),
            (format!("/kubepods.slice/kubepods-pod{uid_}.slice/crio-conmon-{ID}.scope"), "", "", UID),
            (format!("/kubepods/besteffort/pod{UID}/{ID}"), "", ID, UID),
            (format!("/kubepods/pod{}/{ID}", UID.replace('-', "")), "", ID, &UID.replace('-', "")),
            (format!("/system.slice/containerd.service/kubepods-burstable-pod{uid_}.slice:cri-containerd:{ID}"), "containerd.service", ID, UID),
            (format!("/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{uid_}.slice/cri-containerd-{ID}.scope"), "", ID, UID),
            (format!("/docker/{}/kubelet/kubepods/pod{UID}/{ID}", ID.replace('3', "a")), "", ID, UID),
            ("/lxc/web".into(), "", "web", ""),
            ("/lxc/101/ns".into(), "", "101", ""),
            ("/lxc.payload.web/system.slice/nginx.service".into(), "", "web", ""),
            ("/lxc.monitor.web".into(), "", "", ""),
            (r"/machine.slice/machine-debian\x2dtest.scope/payload".into(), "", "debian-test", ""),
            (r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt".into(), "", "qemu-1-vm", ""),
            (r"/machine.slice/systemd-nspawn@web\x2d1.service/payload".into(), "", "web-1", ""),
            ("/ecs/0123456789abcdef0123456789abcdef/0123456789abcdef0123456789abcdef-1234567890".into(), "", "0123456789abcdef0123456789abcdef-1234567890", ""),
            ("/podracer/pods".into(), "", "", ""),
        ]
        .into_iter()
        .map(|(path, unit, container, pod)| (path, unit, container, Box::leak(pod.to_owned().into_boxed_str()) as &str))
        .collect();
        for (path, unit, container, pod) in known {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let expected = Place { unit: some(unit), container: some(container), pod_uid: some(pod) };
            assert_eq!(read(&path), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic(path in r"[/a-f0-9.\\x:_-]{0,80}", any in ".{0,80}") {
            let _ = (read(&path), read(&any), unescape(&any));
        }
    }
}
