use super::*;

const SSH: u16 = 22;
const MYSQL: u16 = 3306;

/// A conversation in which so many bytes went to the server and back, headers included.
fn talk(src: SocketAddr, port: u16, sent: u64, received: u64, at: f64) -> FlowUpdate {
    sized(well(src, end(2, port), at), (10, sent), (9, received))
}

/// As `sshd` refuses a password or two.
fn guess(n: u32) -> FlowUpdate {
    let mut update =
        talk(end(1, 40_000 + n as u16), SSH, 2800 + u64::from(n % 7) * 20, 2600, f64::from(n) / 2.0);
    update.flow.start_ns -= 900_000_000;
    update
}

#[test]
fn many_short_logins_of_one_size_are_a_burst() {
    let subject = Subject {
        protocol: Some(Protocol::TCP),
        src: Some(end(1, 0).ip()),
        dst: Some(end(2, 0).ip()),
        port: Some(SSH),
    };
    assert_eq!(raised((0..40).map(guess)), []);
    assert_eq!(raised((0..100).map(guess)), [(Kind::LoginBurst, subject)]);
    let database = |n: u32| talk(([203, 0, 113, 5], n as u16).into(), MYSQL, 900, 800, f64::from(n) / 10.0);
    assert_eq!(raised((0..100).map(database))[0].0, Kind::LoginBurst);
}

#[test]
fn health_checks_of_login_services_are_none() {
    // Connects, hears the banner perhaps, hangs up; many times a second.
    for port in [SSH, MYSQL, 3389] {
        let check = |n: u32| {
            let talk = talk(([203, 0, 113, 5], n as u16).into(), port, 0, 0, f64::from(n) / 10.0);
            sized(talk, (4, 74 + 3 * 66), (3, 74 + 66 + 66 + 41))
        };
        assert_eq!(raised((0..500).map(check)), [], "{port}");
    }
    // Logs in every two seconds.
    let login = (0..500).map(|n| talk(end(1, n as u16), SSH, 2800, 2600, f64::from(n) * 2.0));
    assert_eq!(raised(login), []);
}

#[test]
fn clients_that_connect_for_each_request_are_none() {
    let page = |n: u32| 700 + u64::from(n.wrapping_mul(2_654_435_761) >> 20);
    let near = (0..3000).map(|n| talk(end(1, n as u16), MYSQL, 900, 800, f64::from(n) / 50.0));
    assert_eq!(raised(near), [], "from one's own network, always the same tiny query");
    let far = (0..3000)
        .map(|n| talk(([203, 0, 113, 5], n as u16).into(), MYSQL, 900, page(n), f64::from(n) / 50.0));
    assert_eq!(raised(far), [], "from elsewhere, with answers of any size");
    let commands =
        (0..600).map(|n| talk(end(1, n as u16), SSH, 3500, 3000 + 20 * page(n) % 16_000, f64::from(n) / 5.0));
    assert_eq!(raised(commands), [], "a tool that runs commands by SSH");
    let files = (0..600).map(|n| match n % 2 {
        0 => talk(end(1, n as u16), SSH, 3500, 3000, f64::from(n) / 5.0),
        _ => talk(end(1, n as u16), SSH, 3500, 90_000, f64::from(n) / 5.0),
    });
    assert_eq!(raised(files), [], "a tool that fetches by SSH, now and then nothing");
    let sites = (0..3000).map(|n| talk(end(1, n as u16), 443, 2800, 2600, f64::from(n) / 50.0));
    assert_eq!(raised(sites), [], "a crawler");
}
