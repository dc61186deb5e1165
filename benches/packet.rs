//! What a packet costs in the kernel: BPF_PROG_TEST_RUN on crafted frames, as a ratio to an empty program in the
//! same run. Needs root. `cargo bench --bench packet [-- PART OF A NAME]`; benches/README.md says how to read it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use netmon::flow::app::App;
use netmon::kernel::object::{Features, MessageFeatures, Object, Options, TestProgram};
use netmon::kernel::table::Table;

const REPEAT: u32 = 1_000_000;
const ROUNDS: usize = 5;

fn frame(protocol: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let transport: &[u8] = match protocol {
        6 => &[0x9c, 0x40, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 4, 0, 0, 0, 0, 0],
        _ => &[0x9c, 0x40, 0, 53, 0, 8, 0, 0],
    };
    let total = 20 + transport.len() as u8;
    frame.extend([0x45, 0, 0, total, 0, 1, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend(transport);
    frame.resize(frame.len().max(60), 0);
    frame
}

fn median(mut values: Vec<u32>) -> (u32, u32, u32) {
    values.sort_unstable();
    (values[0], values[values.len() / 2], values[values.len() - 1])
}

/// Median, with least and most, of `ROUNDS` runs of both programs in turn.
fn compare(
    object: &Object,
    yardstick: TestProgram,
    program: TestProgram,
    frame: &[u8],
) -> [(u32, u32, u32); 2] {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        times[0].push(object.run_on_frame(yardstick, frame, REPEAT).expect("run the yardstick").1);
        times[1].push(object.run_on_frame(program, frame, REPEAT).expect("run the program").1);
    }
    times.map(median)
}

fn line(name: &str, [empty, ours]: [(u32, u32, u32); 2]) {
    println!(
        "{name:<44} {:>4} ({}-{}) ns  empty {:>3} ({}-{}) ns  ratio {:>5.2}  net {:>4} ns",
        ours.1,
        ours.0,
        ours.2,
        empty.1,
        empty.0,
        empty.2,
        f64::from(ours.1) / f64::from(empty.1.max(1)),
        ours.1.saturating_sub(empty.1),
    );
}

/// Counting only, and with everything that the programs can look at.
fn levels() -> [(&'static str, Features); 3] {
    let all = |precise| Features {
        timing: true,
        bounds_us: vec![100, 500, 1000, 5000],
        precise,
        protocols: App::KNOWN.to_vec(),
        messages: MessageFeatures { dns: true, http_servers: Some(200), ..MessageFeatures::default() },
        who: true,
        nat: true,
        ..Features::default()
    };
    [("base", Features::default()), ("all features", all(false)), ("all, high precision", all(true))]
}

fn load(flows: u64, features: &Features) -> (Object, Table) {
    let layout = features.layout();
    let features = features.clone();
    let options = Options {
        transport: None,
        event_buffer_events: 1 << 22,
        features,
        bench: true,
        drops: false,
        btf: None,
    };
    let object = Object::load(&options).expect("load (root is needed)");
    let table = Table::create((flows * 10 / 6).max(16_384), layout).expect("create a table");
    object.install(0, &table).expect("install the table");
    object.set_control(|control| control.buckets[0] = table.buckets());
    // Test runs come from the loopback device, interface 1.
    object.add_interface(1, 14).expect("add the interface");
    (object, table)
}

fn main() {
    let uname = rustix::system::uname();
    println!("kernel {} {}", uname.release().to_string_lossy(), uname.machine().to_string_lossy());
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("\t: unknown");
    println!("cpu{}", model.trim_start_matches(['\t', ' ']));

    // Cargo passes flags of the test harness, too.
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let wanted = |name: &str| name.contains(&wanted);

    let mut arp = frame(17);
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let cases =
        [("TCP, one known flow", frame(6)), ("UDP, one known flow", frame(17)), ("not IP (ARP)", arp)];
    for (level, features) in levels() {
        let (object, _table) = load(1, &features);
        for (name, frame) in &cases {
            let name = format!("{name}, {level}");
            if wanted(&name) {
                line(&name, compare(&object, TestProgram::Empty, TestProgram::Ingress, frame));
            }
        }
    }
    for (level, features) in levels() {
        many(&wanted, level, &features);
    }
}

fn many(wanted: &dyn Fn(&str) -> bool, level: &str, features: &Features) {
    for flows in [10_000u32, 100_000, 1_000_000] {
        let name = format!("UDP, {flows} known flows, {level}");
        if !wanted(&name) {
            continue;
        }
        let (object, _table) = load(u64::from(flows), features);
        object.set_control(|control| control.bench_flows = flows);
        object.run_on_frame(TestProgram::BenchFlows, &frame(17), flows * 12).expect("fill the table");
        line(&name, compare(&object, TestProgram::BenchEmpty, TestProgram::BenchFlows, &frame(17)));
    }
    for flows in [10_000u32, 1_000_000] {
        let name = format!("UDP, {flows} new flows, {level}");
        if !wanted(&name) {
            continue;
        }
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            let (object, _table) = load(u64::from(flows), features);
            times[0].push(object.run_on_frame(TestProgram::BenchEmpty, &frame(17), flows).unwrap().1);
            times[1].push(object.run_on_frame(TestProgram::BenchFlows, &frame(17), flows).unwrap().1);
        }
        line(&name, times.map(median));
    }
}
