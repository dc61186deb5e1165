//! Application protocols of real servers and clients, on ports that nobody would guess. Needs root and the packages that tests/run
//! installs.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::{Duration, Instant};

use common::agent::Agent;
use common::net::{Background, Net};

const NGINX: &str = "
daemon off; master_process off; pid FOLDER/nginx.pid; error_log FOLDER/nginx.log;
events {}
http {
    access_log off; client_body_temp_path FOLDER/b; proxy_temp_path FOLDER/p; fastcgi_temp_path FOLDER/f;
    uwsgi_temp_path FOLDER/u; scgi_temp_path FOLDER/s;
    ssl_certificate FOLDER/cert.pem; ssl_certificate_key FOLDER/key.pem;
    server { listen 7001; location / { return 200 hello; } }
    server { listen 7002 http2; default_type application/grpc; location / { return 200 hello; } }
    server { listen 7005 http2; location / { return 200 hello; } }
    server { listen 7003 ssl http2; ssl_protocols TLSv1.3; location / { return 200 hello; } }
    server { listen 7004 ssl; ssl_protocols TLSv1.2; location / { return 200 hello; } }
}";

/// What has to be there first, and how each server is started in FOLDER.
const PREPARE: &str = "
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=a.test -keyout FOLDER/key.pem -out FOLDER/cert.pem
ssh-keygen -q -t ed25519 -N '' -f FOLDER/host
mkdir -p /run/sshd FOLDER/pg FOLDER/maria FOLDER/redis
chown postgres FOLDER/pg
setpriv --reuid=postgres --regid=postgres --clear-groups $(ls -d /usr/lib/postgresql/*/bin | tail -1)/initdb -D FOLDER/pg/data -U postgres -A trust --no-sync
echo 'host all all all trust' >>FOLDER/pg/data/pg_hba.conf
mariadb-install-db --no-defaults --user=root --datadir=FOLDER/maria --auth-root-authentication-method=normal
printf 'listener 7011\\nallow_anonymous true\\nuser root\\n' >FOLDER/mosquitto.conf";

const SERVERS: &[(u16, &str)] = &[
    (7001, "nginx -c FOLDER/nginx.conf -e FOLDER/nginx.log"),
    (7006, "redis-server --port 7006 --bind 0.0.0.0 --protected-mode no --save '' --dir FOLDER/redis"),
    (
        7007,
        "mariadbd --no-defaults --user=root --datadir=FOLDER/maria --port=7007 --socket=FOLDER/maria.sock --skip-grant-tables",
    ),
    (
        7008,
        "setpriv --reuid=postgres --regid=postgres --clear-groups $(ls -d /usr/lib/postgresql/*/bin | tail -1)/postgres \
         -D FOLDER/pg/data -p 7008 -h 0.0.0.0 -k FOLDER/pg",
    ),
    (7009, "/usr/sbin/sshd -D -f /dev/null -p 7009 -h FOLDER/host"),
    (7010, "memcached -u root -l 0.0.0.0 -p 7010 -U 0"),
    (7011, "mosquitto -c FOLDER/mosquitto.conf"),
    (7012, "nats-server -a 0.0.0.0 -p 7012"),
    (
        7013,
        "dnsmasq -k --conf-file=/dev/null --port=7013 --no-resolv --no-hosts --address=/a.test/10.9.9.9 --user=root --pid-file",
    ),
    // Says something that no protocol does, where MySQL would be.
    (
        3306,
        "python3 -c \"import socket\nl=socket.create_server(('0.0.0.0',3306))\nwhile 1: c,_=l.accept(); c.recv(9); c.sendall(b'aye aye'); c.close()\"",
    ),
];

/// What clients do, one command each, and what the flow to that port has to be.
const CLIENTS: &[(u16, &str, &str, &str)] = &[
    (7001, "tcp", "http", "curl -sf http://10.7.0.2:7001/"),
    (
        7002,
        "tcp",
        "grpc",
        "curl -sf --http2-prior-knowledge -H 'content-type: application/grpc' http://10.7.0.2:7002/a.B/C",
    ),
    (7005, "tcp", "http2", "curl -sf --http2-prior-knowledge http://10.7.0.2:7005/"),
    (7003, "tcp", "tls", "curl -skf https://10.7.0.2:7003/"),
    (7004, "tcp", "tls", "curl -skf https://10.7.0.2:7004/"),
    (7006, "tcp", "redis", "redis-cli -h 10.7.0.2 -p 7006 set a b"),
    (7007, "tcp", "mysql", "mariadb --no-defaults --skip-ssl -h 10.7.0.2 -P 7007 -u root -e 'select 1'"),
    (7008, "tcp", "postgresql", "psql -h 10.7.0.2 -p 7008 -U postgres -c 'select 1'"),
    (
        7009,
        "tcp",
        "ssh",
        "ssh -n -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -p 7009 10.7.0.2 true || true",
    ),
    (
        7010,
        "tcp",
        "memcached",
        "python3 -c \"import socket\ns=socket.create_connection(('10.7.0.2',7010),3)\ns.sendall(b'set a 0 0 1\\r\\nb\\r\\n')\nassert s.recv(99)==b'STORED\\r\\n'\"",
    ),
    (7011, "tcp", "mqtt", "mosquitto_pub -h 10.7.0.2 -p 7011 -t a -m b"),
    (
        7012,
        "tcp",
        "nats",
        "python3 -c \"import socket\ns=socket.create_connection(('10.7.0.2',7012),3)\ns.recv(9999)\ns.sendall(b'CONNECT {}\\r\\nPING\\r\\n')\nassert b'PONG' in s.recv(99)\"",
    ),
    (7013, "udp", "dns", "dig +short -p 7013 @10.7.0.2 a.test | grep -q 10.9.9.9"),
    (7013, "tcp", "dns", "dig +tcp +short -p 7013 @10.7.0.2 a.test | grep -q 10.9.9.9"),
    (
        3306,
        "tcp",
        "unknown",
        "python3 -c \"import socket\ns=socket.create_connection(('10.7.0.2',3306),3)\ns.sendall(b'ahoy')\ns.recv(9)\"",
    ),
];

fn start(net: &Net, folder: &str) -> Vec<Background> {
    std::fs::write(format!("{folder}/nginx.conf"), NGINX.replace("FOLDER", folder)).unwrap();
    for line in PREPARE.lines().filter(|line| !line.is_empty()) {
        common::net::run(&format!("({}) 2>&1", line.replace("FOLDER", folder)));
    }
    let servers = SERVERS.iter().map(|(_, line)| net.spawn("s", &line.replace("FOLDER", folder))).collect();
    for (port, _) in SERVERS {
        net.wait_bound("s", "tcp", *port);
    }
    servers
}

#[test]
fn real_servers_are_recognised_on_any_port() {
    // c 10.7.0.1 ──veth── 10.7.0.2 s
    let net = Net::new(&["c", "s"]);
    net.veth(("c", "vc", "10.7.0.1/24"), ("s", "vs", "10.7.0.2/24"));
    let folder = tempfile::Builder::new().prefix("netmon-servers").tempdir().unwrap();
    common::net::run(&format!("chmod 755 {}", folder.path().display()));
    let servers = start(&net, folder.path().to_str().unwrap());
    let agent = Agent::start(&net, "c", "flow: { active_interval: 200ms }");
    let script = folder.path().join("client");
    for (_, _, _, client) in CLIENTS {
        std::fs::write(&script, client).unwrap();
        net.exec("c", &format!("timeout 20 sh {} >/dev/null", script.display()));
    }
    let mut wrong = Vec::new();
    for (port, protocol, app, _) in CLIENTS {
        let text = port.to_string();
        let filters = ["--ended", "--port", &text, "--protocol", protocol, "--app", app];
        let deadline = Instant::now() + Duration::from_secs(5);
        // A flow that is just leaving the table for the history is in neither for a moment.
        while agent.flows(&filters).is_empty() {
            if Instant::now() > deadline {
                wrong.push((port, app, agent.flows(&["--ended", "--port", &text])));
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    agent.wait("the flows to be counted by protocol", 20, |agent| {
        let metrics = agent.metrics();
        CLIENTS.iter().filter(|(_, protocol, ..)| *protocol == "tcp").all(|(_, _, app, _)| {
            metrics.sum("netmon_app_flows_total", &[&format!("app_protocol=\"{app}\"")]) >= 1.0
        })
    });
    for (port, version) in [("7003", "1.3"), ("7004", "1.2")] {
        let flow = &agent.flows(&["--ended", "--port", port])[0];
        assert_eq!(flow["tls"]["version"], version, "{flow:#}");
    }
    let flow = &agent.flows(&["--ended", "--port", "3306"])[0];
    assert_eq!(
        (&flow["app_protocol"], &flow["app_guess"]),
        (&serde_json::Value::Null, &"mysql".into()),
        "{flow:#}"
    );
    assert!(
        agent.metrics().sum("netmon_latency_seconds_count", &["app_protocol=\"redis\"", "kind=\"rtt\""])
            >= 1.0
    );
    assert_eq!(
        agent.metrics().sum("netmon_app_flows_total", &["app_protocol=\"mysql\""]),
        1.0,
        "a guess counts nowhere"
    );
    agent.assert_law();
    agent.stop();
    drop(servers);
}
