//! What the built BPF object asks of a kernel: only helpers, instructions, control flow and stack that the oldest kernel of each
//! program has. Read from the object's bytes: the kernel that this runs on takes what older ones refuse.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "object/elf.rs"]
mod elf;
#[path = "object/stack.rs"]
mod stack;

use elf::{Call, Function, Instruction, Object};
use libbpf_sys as bpf;

type Version = (u32, u32);

/// The oldest kernel that is promised.
const FLOOR: Version = netmon::check::tested::OLDEST;

/// Programs that need a newer one. Where they can't be had, all the others load without them.
const YOUNGER: &[(&str, Version)] = &[("nm_drop", (5, 17)), ("nm_sock_older", (5, 11))];

/// Which kernel gave each helper to the programs that call it here (kernel-versions.md of BCC; the kernel's history).
const HELPERS: &[(u32, &str, Version)] = &[
    (bpf::BPF_FUNC_map_lookup_elem, "bpf_map_lookup_elem", (3, 19)),
    (bpf::BPF_FUNC_map_update_elem, "bpf_map_update_elem", (3, 19)),
    (bpf::BPF_FUNC_map_delete_elem, "bpf_map_delete_elem", (3, 19)),
    (bpf::BPF_FUNC_ktime_get_ns, "bpf_ktime_get_ns", (4, 1)),
    (bpf::BPF_FUNC_get_prandom_u32, "bpf_get_prandom_u32", (4, 1)),
    (bpf::BPF_FUNC_perf_event_output, "bpf_perf_event_output", (4, 4)),
    (bpf::BPF_FUNC_skb_load_bytes, "bpf_skb_load_bytes", (4, 5)),
    (bpf::BPF_FUNC_get_current_task, "bpf_get_current_task", (4, 8)),
    (bpf::BPF_FUNC_skb_cgroup_id, "bpf_skb_cgroup_id", (4, 18)),
    (bpf::BPF_FUNC_map_push_elem, "bpf_map_push_elem", (4, 20)),
    (bpf::BPF_FUNC_sk_lookup_udp, "bpf_sk_lookup_udp", (4, 20)),
    (bpf::BPF_FUNC_sk_release, "bpf_sk_release", (4, 20)),
    (bpf::BPF_FUNC_spin_lock, "bpf_spin_lock", (5, 1)),
    (bpf::BPF_FUNC_spin_unlock, "bpf_spin_unlock", (5, 1)),
    (bpf::BPF_FUNC_sk_fullsock, "bpf_sk_fullsock", (5, 1)),
    (bpf::BPF_FUNC_tcp_sock, "bpf_tcp_sock", (5, 1)),
    (bpf::BPF_FUNC_get_listener_sock, "bpf_get_listener_sock", (5, 1)),
    // To cgroup/sock_create since 5.10, to iterators since 5.11.
    (bpf::BPF_FUNC_sk_storage_get, "bpf_sk_storage_get", (5, 10)),
    // To programs other than tracing since 5.8.
    (bpf::BPF_FUNC_probe_read_kernel, "bpf_probe_read_kernel", (5, 8)),
    (bpf::BPF_FUNC_probe_read_kernel_str, "bpf_probe_read_kernel_str", (5, 8)),
    (bpf::BPF_FUNC_ringbuf_reserve, "bpf_ringbuf_reserve", (5, 8)),
    (bpf::BPF_FUNC_ringbuf_submit, "bpf_ringbuf_submit", (5, 8)),
    (bpf::BPF_FUNC_ringbuf_query, "bpf_ringbuf_query", (5, 8)),
    (bpf::BPF_FUNC_ktime_get_coarse_ns, "bpf_ktime_get_coarse_ns", (5, 11)),
    (bpf::BPF_FUNC_sock_from_file, "bpf_sock_from_file", (5, 11)),
];

/// Called only where the running kernel's BTF knows it (`bpf_core_enum_value_exists`).
const ASKED_FOR: &[&str] = &["bpf_ktime_get_coarse_ns"];

fn object() -> Object {
    Object::read(include_bytes!(concat!(env!("OUT_DIR"), "/netmon.bpf.o")))
}

/// That for kernels without BTF.
fn plain_object() -> Object {
    Object::read(include_bytes!(concat!(env!("OUT_DIR"), "/netmon-plain.bpf.o")))
}

fn oldest_kernel(program: &str) -> Version {
    YOUNGER.iter().find(|(name, _)| *name == program).map_or(FLOOR, |(_, version)| *version)
}

/// The kernel that brought this instruction; `None`: the floor and all that is older than it.
fn younger(instruction: &Instruction) -> Option<Version> {
    let Instruction { code, offset, immediate, .. } = *instruction;
    let (class, operation, mode) = (code & 7, code & 0xf0, code & 0xe0);
    match class {
        // Signed division, sign extension; byte swaps without a direction.
        4 | 7 if matches!(operation, 0x30 | 0x90 | 0xb0) && offset != 0 => Some((6, 6)),
        7 if operation == 0xd0 => Some((6, 6)),
        // Jumps of 32 bits, and those that may be taken.
        6 if operation == 0 => Some((6, 6)),
        5 if operation == 0xe0 => Some((6, 8)),
        // Loads with sign extension; atomics that return something, or aren't additions.
        1 if mode == 0x80 => Some((6, 6)),
        3 if mode == 0xc0 && immediate != 0 => Some((5, 12)),
        0 if instruction.takes_function => Some((5, 13)),
        _ => None,
    }
}

/// Where control goes from here, and whether by a jump, in the order in which the kernel's check_cfg() goes.
fn successors(code: &[Instruction], at: usize) -> Vec<(usize, bool)> {
    let Instruction { code, offset, .. } = code[at];
    let to = (at as i64 + i64::from(offset) + 1) as usize;
    match (code & 7, code & 0xf0) {
        (5, 0x90) => vec![],
        (5, 0x80) => vec![(at + 1, false)],
        (5, 0) => vec![(to, true)],
        (5 | 6, _) => vec![(at + 1, true), (to, true)],
        _ if code == 0x18 => vec![(at + 2, false)],
        _ => vec![(at + 1, false)],
    }
}

/// Edges back that are no jumps. Older kernels (6.1 is one) refuse them, whatever the loop does: `back-edge from insn ... to ...`.
fn falls_back(code: &[Instruction]) -> Vec<(usize, usize)> {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        No,
        Now,
        Done,
    }
    let mut seen = vec![Seen::No; code.len()];
    let mut found = Vec::new();
    let mut stack = vec![(0, 0)];
    seen[0] = Seen::Now;
    while let Some((at, edge)) = stack.pop() {
        let Some((to, jump)) = successors(code, at).get(edge).copied() else {
            seen[at] = Seen::Done;
            continue;
        };
        stack.push((at, edge + 1));
        match seen[to] {
            Seen::No => {
                seen[to] = Seen::Now;
                stack.push((to, 0));
            }
            Seen::Now if !jump => found.push((at, to)),
            _ => {}
        }
    }
    found
}

/// What is wrong with each instruction of each function that a program reaches.
fn complaints(of: impl Fn(&Object, &Function, &Function, usize) -> Option<String>) -> Vec<String> {
    let object = object();
    let mut complaints = Vec::new();
    for (program, reached) in object.programs() {
        for function in reached.iter().map(|index| &object.functions[*index]) {
            for at in 0..function.instructions.len() {
                let place = format!("{}: {}+{at}", program.name, function.name);
                complaints.extend(of(&object, program, function, at).map(|why| format!("{place} {why}")));
            }
        }
    }
    complaints
}

#[test]
fn every_program_of_the_agent_is_looked_at() {
    let object = object();
    let mut names: Vec<&str> = object.programs().iter().map(|(program, _)| program.name.as_str()).collect();
    names.sort_unstable();
    let bench = ["nm_bench_empty", "nm_bench_flows", "nm_empty"];
    names.retain(|name| !bench.contains(name));
    let expected =
        ["nm_drop", "nm_egress", "nm_ingress", "nm_move", "nm_pair_told", "nm_sock_create", "nm_sock_older"];
    assert_eq!(names, expected);
    let reached = |name: &str| {
        let programs = object.programs();
        programs.iter().find(|(program, _)| program.name == name).map_or(0, |(_, reached)| reached.len())
    };
    assert!(reached("nm_ingress") > 20, "functions of nm_ingress: {}", reached("nm_ingress"));
}

#[test]
fn no_program_calls_what_its_oldest_kernel_lacks() {
    let wrong = complaints(|object, program, function, at| match function.instructions[at].call? {
        Call::Function(_) => None,
        Call::Kernel(symbol) => {
            let symbol = &object.symbols[symbol];
            (!symbol.weak).then(|| format!("calls {}, which must be weak and asked for", symbol.name))
        }
        Call::Helper(number) => {
            let Some((_, name, since)) = HELPERS.iter().find(|(known, ..)| *known == number) else {
                return Some(format!("calls helper {number}: list it with the kernel that brought it"));
            };
            let oldest = oldest_kernel(&program.name);
            (*since > oldest && !ASKED_FOR.contains(name))
                .then(|| format!("calls {name} of {since:?}, and must run on {oldest:?}"))
        }
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// libbpf would look for it in the kernel's BTF, called or not.
#[test]
fn what_is_loaded_without_btf_names_no_function_of_the_kernels() {
    let asked_of_btf = |object: &Object| {
        let calls = object.functions.iter().flat_map(|function| &function.instructions);
        let called = calls.filter(|instruction| matches!(instruction.call, Some(Call::Kernel(_)))).count();
        (called, object.symbols.iter().any(|symbol| symbol.name == "bpf_skb_ct_lookup"))
    };
    assert_eq!(asked_of_btf(&plain_object()), (0, false));
    assert!(asked_of_btf(&object()).0 > 0 && asked_of_btf(&object()).1);
    let names = |object: &Object| -> Vec<String> {
        object.programs().iter().map(|(program, _)| program.name.clone()).collect()
    };
    assert_eq!(names(&plain_object()), names(&object()));
}

#[test]
fn no_program_has_an_instruction_that_its_oldest_kernel_lacks() {
    let wrong = complaints(|_, program, function, at| {
        let (since, oldest) = (younger(&function.instructions[at])?, oldest_kernel(&program.name));
        (since > oldest).then(|| format!("is an instruction of {since:?}, and must run on {oldest:?}"))
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_loop_is_entered_again_but_by_a_jump() {
    let wrong = complaints(|_, _, function, at| {
        // Once a function.
        let back = if at == 0 { falls_back(&function.instructions) } else { Vec::new() };
        (!back.is_empty()).then(|| format!("falls through into the head of a loop: {back:?}"))
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_chain_of_calls_takes_more_stack_than_the_oldest_kernel_gives() {
    let mut wrong = Vec::new();
    for (which, object) in [("with BTF", object()), ("without", plain_object())] {
        let chains = object.programs().into_iter().flat_map(|(program, _)| stack::deepest(&object, program));
        wrong.extend(chains.filter(|chain| !chain.fits()).map(|chain| format!("{which}: {chain}")));
    }
    let (bytes, frames) = (stack::LIMIT_BYTES, stack::LIMIT_FRAMES);
    assert!(wrong.is_empty(), "Linux 5.10 allows {bytes} bytes in {frames} frames:\n{}", wrong.join("\n"));
}

#[test]
fn stack_is_added_up_as_old_kernels_do() {
    let on = |destination, source, instruction| Instruction { destination, source, ..instruction };
    let copy = on(2, 10, plain(0xbf, 0, 0));
    let add = |immediate| on(2, 0, plain(0x07, 0, immediate));
    let ja = plain(0x05, 0, 0);
    for (code, bytes) in [
        (vec![plain(0x95, 0, 0)], 0),
        // Stored, loaded, added to atomically.
        (vec![on(10, 1, plain(0x7b, -24, 0))], 24),
        (vec![on(1, 10, plain(0x79, -40, 0))], 40),
        (vec![on(10, 1, plain(0xdb, -48, 0))], 48),
        // An address for a helper; one that is then stored through; one that is no longer in its register.
        (vec![copy, add(-72)], 72),
        (vec![copy, add(-72), on(2, 0, plain(0x7a, -8, 0))], 80),
        (vec![copy, on(2, 1, plain(0x79, 0, 0)), add(-72)], 0),
        (vec![copy, ja, add(-72)], 0),
        // An address of something else.
        (vec![on(2, 6, plain(0xbf, 0, 0)), add(-600)], 0),
    ] {
        assert_eq!(stack::own_bytes(&code), bytes, "{code:?}");
    }
    let chain = |bytes: &[usize]| stack::Chain(bytes.iter().map(|bytes| ("f".into(), *bytes)).collect());
    assert_eq!(chain(&[192, 104, 72, 56, 24]).bytes(), 512);
    assert!(chain(&[192, 104, 72, 56, 24]).fits() && !chain(&[193, 104, 72, 56, 24]).fits());
    assert_eq!(chain(&[0]).bytes(), 32);
    assert!(chain(&[0; 8]).fits() && !chain(&[0; 9]).fits());
    assert_eq!(chain(&[33, 4]).to_string(), "96 bytes in 2 frames: f 33 > f 4");
}

fn plain(code: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, destination: 0, source: 0, offset, immediate, call: None, takes_function: false }
}

#[test]
fn what_old_kernels_refuse_is_found() {
    let (add, exit) = (plain(0x07, 0, 1), plain(0x95, 0, 0));
    // A loop that ends with a jump back, and one that was laid out with its latch before its head.
    let jumps = [add, add, plain(0xa5, -2, 9), exit];
    let falls = [plain(0x05, 1, 0), add, plain(0xa5, -2, 9), exit];
    assert_eq!(falls_back(&jumps), []);
    assert_eq!(falls_back(&falls), [(1, 2)]);
    for (new, since) in [
        (plain(0xdb, 0, 1), (5, 12)),    // atomic add that returns
        (plain(0xdb, 0, 0xf1), (5, 12)), // compare and exchange
        (plain(0x3f, 1, 0), (6, 6)),     // signed division
        (plain(0xbf, 8, 0), (6, 6)),     // sign extension
        (plain(0x81, 0, 0), (6, 6)),     // the same, loading
        (plain(0xd7, 0, 16), (6, 6)),    // byte swap
        (plain(0x06, 0, 1), (6, 6)),     // long jump
        (plain(0xe5, 1, 0), (6, 8)),     // may_goto
    ] {
        assert_eq!(younger(&new), Some(since), "{new:?}");
    }
    for old in [add, exit, plain(0xdb, 0, 0), plain(0xd4, 0, 16), plain(0xdc, 0, 16), plain(0x3f, 0, 0)] {
        assert_eq!(younger(&old), None, "{old:?}");
    }
}
