//! Somebody else's programs on the hooks that we share.

use super::net::{Net, run};

/// Puts a clsact filter of this priority on a hook: `pass`, or `drop`.
pub fn add_filter(net: &Net, (namespace, interface): (&str, &str), hook: &str, priority: u32, section: &str) {
    let object = std::env::temp_dir().join(format!("{}-{hook}-{section}.o", net.name("foreign")));
    let object = object.display();
    run(&format!(
        "clang -O2 -target bpf -idirafter /usr/include/$(uname -m)-linux-gnu -c tests/coexistence/foreign.bpf.c -o {object}"
    ));
    net.exec(namespace, &format!("tc qdisc add dev {interface} clsact 2>/dev/null || true"));
    net.exec(
        namespace,
        &format!(
            "tc filter add dev {interface} {hook} prio {priority} handle 1 bpf da obj {object} sec {section}"
        ),
    );
    run(&format!("rm {object}"));
}
