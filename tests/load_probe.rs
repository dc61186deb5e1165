use std::ops::ControlFlow;
use std::time::Duration;
#[test]
fn live() {
    let options = netmon::kernel::object::Options { transport: None, event_buffer_events: 100000 };
    let object = netmon::kernel::object::Object::load(&options).unwrap();
    let settings = netmon::collector::Settings { max_flows: 1000000, flow_timeout: Duration::from_secs(300), connect_timeout: Duration::from_secs(2), active_interval: Duration::from_secs(1), batch_size: 1000, sampling_rate: 1.0,
       method: match std::env::var("METHOD").as_deref() { Ok("clsact") => Some(netmon::kernel::attach::Method::Clsact), _ => None } };
    let (tx, mut rx) = tokio::sync::mpsc::channel(64);
    let c = netmon::collector::Collector::start(object, &settings, tx).unwrap();
    let h = c.handle();
    let idx: u32 = std::fs::read_to_string("/sys/class/net/v0/ifindex").unwrap().trim().parse().unwrap();
    h.attach(netmon::interfaces::Interface { index: idx, name: "v0".into(), kind: Some("veth".into()), link_layer: netmon::interfaces::LinkLayer::Ethernet, up: true, loopback: false, local_peer: true });
    let t = std::thread::spawn(move || { let mut n = [0u64; 3]; let mut p = 0; let mut b = 0; while let Some(x) = rx.blocking_recv() { for u in &x.updates { n[u.change as usize] += 1; p += u.delta.packets(); b += u.delta.bytes(); if n.iter().sum::<u64>() < 60 { println!("{:?} {:?}->{:?} {:?} {:?} {:?} {:?}", u.change, u.flow.key.src, u.flow.key.dst, u.flow.key.protocol, u.delta, u.flow.status, u.flow.reason); } } } println!("updates {n:?} packets {p} bytes {b}"); });
    std::thread::sleep(Duration::from_secs(std::env::var("SECS").unwrap_or("8".into()).parse().unwrap()));
    let mut n = 0;
    h.view().visit(&mut |f| { n += 1; if n < 10 { println!("VIEW {f:?}"); } ControlFlow::Continue(()) });
    println!("flows in view {n}");
    println!("{:#?}", h.report());
    println!("{}", std::process::Command::new("tc").args(["filter","show","dev","v0","ingress"]).output().map(|o| String::from_utf8_lossy(&o.stdout).to_string()).unwrap());
    c.stop();
    println!("{}", std::process::Command::new("tc").args(["qdisc","show","dev","v0"]).output().map(|o| String::from_utf8_lossy(&o.stdout).to_string()).unwrap());
    t.join().unwrap();
}
