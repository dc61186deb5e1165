//! Both sides' bytes, as the specifications have them.

use netmon::flow::app::App;

pub const CLIENT: usize = 0;
pub const SERVER: usize = 1;

/// A conversation: who sends what, in order.
#[derive(Clone)]
pub struct Stream {
    pub name: &'static str,
    pub app: App,
    pub udp: bool,
    pub turns: Vec<(usize, Vec<u8>)>,
    pub tls_version: Option<&'static str>,
}

fn stream(name: &'static str, app: App, turns: &[(usize, &[u8])]) -> Stream {
    let turns = turns.iter().map(|(from, bytes)| (*from, bytes.to_vec())).collect();
    Stream { name, app, udp: false, turns, tls_version: None }
}

fn datagrams(name: &'static str, app: App, turns: &[(usize, &[u8])]) -> Stream {
    Stream { udp: true, ..stream(name, app, turns) }
}

/// Bytes of hexadecimal digits; spaces are for the reader.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn long(bytes: &[u8], length: usize) -> Vec<u8> {
    let noise = (0..).map(|i: usize| (i.wrapping_mul(2_654_435_761) >> 7) as u8);
    bytes.iter().copied().chain(noise).take(length.max(bytes.len())).collect()
}

fn http() -> Vec<Stream> {
    let path = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(600));
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    vec![
        stream("get", App::Http, &[(CLIENT, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), (SERVER, answer)]),
        stream("unanswered", App::Http, &[(CLIENT, b"POST /x HTTP/1.1\r\nHost: a\r\n\r\n{}")]),
        stream("long path", App::Http, &[(CLIENT, path.as_bytes()), (SERVER, answer)]),
        stream(
            "proxy",
            App::Http,
            &[
                (CLIENT, b"CONNECT a.example:443 HTTP/1.1\r\n\r\n"),
                (SERVER, b"HTTP/1.0 200 Connection established\r\n\r\n"),
                (CLIENT, &client_hello()),
            ],
        ),
        stream(
            "options",
            App::Http,
            &[(CLIENT, b"OPTIONS * HTTP/1.1\r\n\r\n"), (SERVER, b"HTTP/1.1 204 No\r\n\r\n")],
        ),
        stream(
            "webdav",
            App::Http,
            &[(CLIENT, b"PROPFIND /a HTTP/1.1\r\n\r\n"), (SERVER, b"HTTP/1.1 207 Multi-Status\r\n\r\n")],
        ),
        stream(
            "websocket",
            App::Http,
            &[
                (CLIENT, b"GET /chat HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"),
                (SERVER, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"),
                (CLIENT, &hex("81 85 37 fa 21 3d 7f 9f 4d 51 58")),
            ],
        ),
    ]
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// RFC 9113 3.4, 6.5; HPACK's examples of RFC 7541 C.
fn http2() -> Vec<Stream> {
    let settings = hex("00 0006 04 00 00000000 0003 00000064");
    let acknowledged = hex("000000 04 01 00000000");
    let begin = [PREFACE, &settings].concat();
    let get = hex("00000e 01 05 00000001 82 86 84 41 8a a0e41d139d09b8f01e07");
    let typed = |content_type: &[u8]| {
        let block = [&hex("83 86 44 85 6272d141ff 5f"), content_type].concat();
        [&[0, 0, block.len() as u8, 1, 4, 0, 0, 0, 1], &block[..]].concat()
    };
    let huffman = typed(&hex("8b 1d75d0620d263d4c4d6564"));
    let plain = typed(b"\x10application/grpc");
    let json = typed(b"\x10application/json");
    let ok = hex("000001 01 05 00000001 88");
    let turns = |request: &[u8]| {
        vec![
            (CLIENT, begin.clone()),
            (SERVER, settings.clone()),
            (CLIENT, acknowledged.clone()),
            (CLIENT, request.to_vec()),
            (SERVER, ok.clone()),
        ]
    };
    let with = |name, app, request: &[u8]| Stream { turns: turns(request), ..stream(name, app, &[]) };
    vec![
        with("prior knowledge", App::Http2, &get),
        with("json over http2", App::Http2, &json),
        with("grpc, huffman", App::Grpc, &huffman),
        with("grpc, plain", App::Grpc, &plain),
        stream("grpc at once", App::Grpc, &[(CLIENT, &[&begin[..], &acknowledged, &huffman].concat()), (SERVER, &settings)]),
        stream(
            "h2c",
            App::Http2,
            &[
                (CLIENT, b"GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"),
                (SERVER, b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"),
                (CLIENT, PREFACE),
            ],
        ),
    ]
}

fn record(kind: u8, version: [u8; 2], body: &[u8]) -> Vec<u8> {
    [&[kind, version[0], version[1]], &(body.len() as u16).to_be_bytes()[..], body].concat()
}

fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 0], &(body.len() as u16).to_be_bytes()[..], body].concat()
}

/// A client's hello (RFC 8446 4.1.2) with server_name a.example and ALPN h2, http/1.1.
pub fn client_hello() -> Vec<u8> {
    let extensions = [
        hex("0000 000e 000c 00 0009"),
        b"a.example".to_vec(),
        hex("0010 000e 000c 02 6832 08 687474702f312e31"),
        hex("002b 0005 04 0304 0303"),
    ]
    .concat();
    let mut body = hex("0303");
    body.extend([0x5a; 32]);
    body.extend(hex("20"));
    body.extend([0xa5; 32]);
    body.extend(hex("0004 1301 c02f 01 00"));
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    record(22, [3, 1], &handshake(1, &body))
}

fn server_hello(legacy: u8, extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, legacy];
    body.extend([0x77; 32]);
    body.extend(hex("20"));
    body.extend([0xa5; 32]);
    body.extend(hex("c02f 00"));
    if !extensions.is_empty() {
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
    }
    record(22, [3, legacy], &handshake(2, &body))
}

fn tls() -> Vec<Stream> {
    let hello = client_hello();
    let key_share = [hex("0033 0024 001d 0020"), vec![9; 32]].concat();
    let supported = hex("002b 0002 0304");
    let with = |name, version, answer: Vec<u8>| Stream {
        tls_version: Some(version),
        ..stream(name, App::Tls, &[(CLIENT, &hello), (SERVER, &answer)])
    };
    vec![
        with("tls 1.3", "1.3", server_hello(3, &[&supported[..], &key_share].concat())),
        with("tls 1.3, version last", "1.3", server_hello(3, &[&key_share[..], &supported].concat())),
        with("tls 1.2", "1.2", server_hello(3, &hex("ff01 0001 00 000b 0002 0100 0023 0000"))),
        with(
            "tls 1.2, more follows",
            "1.2",
            [server_hello(3, &hex("ff01 0001 00")), record(22, [3, 3], &long(&hex("0b 0003e8"), 500))]
                .concat(),
        ),
        with("tls 1.0, no extensions", "1.0", server_hello(1, &[])),
        stream("refused", App::Tls, &[(CLIENT, &hello), (SERVER, &record(21, [3, 3], &[2, 40]))]),
        // What ends beyond the first segment: the version would be a guess.
        stream(
            "long answer",
            App::Tls,
            &[(CLIENT, &hello), (SERVER, &server_hello(3, &[&key_share[..], &key_share].concat())[..150])],
        ),
    ]
}

/// A name in labels, then type and class.
fn question(name: &str, kind: u16, class: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(class.to_be_bytes());
    bytes
}

fn dns_message(header: &str, question: &[u8], rest: &[u8]) -> Vec<u8> {
    [&hex(header), question, rest].concat()
}

fn prefixed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

fn dns() -> Vec<Stream> {
    let a = question("www.example.com", 1, 1);
    let answer = hex("c00c 0001 0001 0000003c 0004 5db8d822");
    let edns = hex("00 0029 04d0 00000000 0000");
    let query = dns_message("beef 0100 0001 0000 0000 0000", &a, &[]);
    let response = dns_message("beef 8180 0001 0001 0000 0000", &a, &answer);
    let reverse = question(&format!("{}ip6.arpa", "0.".repeat(32)), 12, 1);
    let name = format!("{0}.{0}.{0}.{1}", "x".repeat(63), "y".repeat(61));
    let longest = question(&name, 16, 1);
    let service = question("_ipp._tcp.local", 12, 0x8001);
    vec![
        datagrams("query and response", App::Dns, &[(CLIENT, &query), (SERVER, &response)]),
        datagrams("edns", App::Dns, &[(CLIENT, &dns_message("0001 0120 0001 0000 0000 0001", &a, &edns))]),
        datagrams(
            "no such name",
            App::Dns,
            &[(SERVER, &dns_message("beef 8183 0001 0000 0001 0000", &a, &long(&[0xc0, 0x10], 40)))],
        ),
        datagrams(
            "reverse name in IPv6",
            App::Dns,
            &[(CLIENT, &dns_message("beef 0100 0001 0000 0000 0000", &reverse, &[]))],
        ),
        datagrams(
            "longest name",
            App::Dns,
            &[(CLIENT, &dns_message("beef 0100 0001 0000 0000 0001", &longest, &edns))],
        ),
        datagrams(
            "root",
            App::Dns,
            &[(CLIENT, &dns_message("beef 0100 0001 0000 0000 0000", &hex("00 0002 0001"), &[]))],
        ),
        datagrams(
            "notify",
            App::Dns,
            &[(CLIENT, &dns_message("beef 2400 0001 0000 0000 0000", &question("example.com", 6, 1), &[]))],
        ),
        datagrams(
            "update",
            App::Dns,
            &[(
                CLIENT,
                &dns_message("beef 2800 0001 0000 0001 0000", &question("example.com", 6, 1), &long(&[], 30)),
            )],
        ),
        datagrams(
            "mdns query",
            App::Dns,
            &[(CLIENT, &dns_message("0000 0000 0002 0001 0000 0000", &service, &long(&[], 40)))],
        ),
        datagrams(
            "mdns answer",
            App::Dns,
            &[(
                CLIENT,
                &dns_message(
                    "0000 8400 0000 0003 0000 0002",
                    &question("_ipp._tcp.local", 12, 1),
                    &long(&[], 40),
                ),
            )],
        ),
        datagrams(
            "llmnr",
            App::Dns,
            &[(CLIENT, &dns_message("1234 0000 0001 0000 0000 0000", &question("printer", 28, 1), &[]))],
        ),
        stream("tcp", App::Dns, &[(CLIENT, &prefixed(&query)), (SERVER, &prefixed(&response))]),
        stream("tcp, two at once", App::Dns, &[(CLIENT, &[prefixed(&query), prefixed(&query)].concat())]),
    ]
}

/// RFC 9001 A.2 and A.3, with noise for what is encrypted.
fn quic() -> Vec<Stream> {
    let initial = long(&hex("c000000001 08 8394c8f03e515708 00 00 449e 7b9aec34"), 1200);
    let answer = long(&hex("cf00000001 00 08 f067a5502a4262b5 0040 75 c0d9"), 1200);
    let second = long(&hex("d76b3343cf 08 8394c8f03e515708 00 00 449e a0c95e82"), 1200);
    vec![
        datagrams("version 1", App::Quic, &[(CLIENT, &initial), (SERVER, &answer)]),
        datagrams("version 2", App::Quic, &[(CLIENT, &second)]),
        datagrams(
            "draft 29",
            App::Quic,
            &[(CLIENT, &long(&hex("c0ff00001d 08 8394c8f03e515708 00 00 449e"), 1250))],
        ),
    ]
}

/// A packet: three bytes of length, its number, and so on (MySQL, connection phase).
fn mysql_packet(number: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_le_bytes();
    [&length[..3], &[number], body].concat()
}

fn mysql() -> Vec<Stream> {
    let greeting = |version: &str| {
        let rest = hex("0b000000 6f4a2b5e3d7c2a31 00 fff7 08 0200 ff81 15 00000000000000000000");
        let salt = b"oW6cV2z%RkJf\0mysql_native_password\0";
        mysql_packet(0, &[&[10], version.as_bytes(), &[0], &rest, salt].concat())
    };
    let login = mysql_packet(
        1,
        &[&hex("85a6ff01 00000001 2d"), &[0; 23][..], b"root\0\0mysql_native_password\0"].concat(),
    );
    vec![
        stream("mysql 8", App::Mysql, &[(SERVER, &greeting("8.0.36-0ubuntu0.22.04.1")), (CLIENT, &login)]),
        stream(
            "mariadb",
            App::Mysql,
            &[(SERVER, &greeting("5.5.5-10.11.6-MariaDB-0+deb12u1")), (CLIENT, &login)],
        ),
        stream("greeting only", App::Mysql, &[(SERVER, &greeting("11.4.2-MariaDB"))]),
        stream(
            "not allowed",
            App::Mysql,
            &[(SERVER, &mysql_packet(0, b"\xff\x6a\x04Host '10.0.0.1' is not allowed to connect"))],
        ),
    ]
}

fn whole(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}

fn postgresql() -> Vec<Stream> {
    let startup = whole(&[&hex("00030000")[..], b"user\0postgres\0database\0shop\0\0"].concat());
    let hello = client_hello();
    vec![
        stream("startup", App::Postgresql, &[(CLIENT, &startup), (SERVER, &hex("52 00000008 00000000"))]),
        stream(
            "with TLS",
            App::Postgresql,
            &[(CLIENT, &hex("00000008 04d2162f")), (SERVER, b"S"), (CLIENT, &hello)],
        ),
        stream(
            "with GSS",
            App::Postgresql,
            &[(CLIENT, &hex("00000008 04d21630")), (SERVER, b"N"), (CLIENT, &startup)],
        ),
        stream("cancel", App::Postgresql, &[(CLIENT, &hex("00000010 04d2162e 00001234 deadbeef"))]),
    ]
}

fn redis() -> Vec<Stream> {
    vec![
        stream(
            "get",
            App::Redis,
            &[(CLIENT, b"*2\r\n$3\r\nGET\r\n$3\r\nfoo\r\n"), (SERVER, b"$3\r\nbar\r\n")],
        ),
        stream(
            "hello 3",
            App::Redis,
            &[
                (CLIENT, b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"),
                (SERVER, b"%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n"),
            ],
        ),
        stream(
            "error",
            App::Redis,
            &[(CLIENT, b"*12\r\n$4\r\nAUTH\r\n"), (SERVER, b"-NOAUTH Authentication required.\r\n")],
        ),
        stream("ping", App::Redis, &[(CLIENT, b"PING\r\n"), (SERVER, b"+PONG\r\n")]),
    ]
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes()[..], body].concat()
}

fn kafka() -> Vec<Stream> {
    // ApiVersions v3 with a client's name and software; Metadata v1 of a nameless one.
    let versions = framed(
        &[
            &hex("0012 0003 00000007 0007")[..],
            b"rdkafka",
            &hex("00 0b 6c696272646b61666b61 06 322e332e30 00"),
        ]
        .concat(),
    );
    let answer = framed(&[&hex("00000007 0000 02 0012 0000 0003 00")[..], &[0; 40]].concat());
    let metadata = framed(&hex("0003 0001 00000001 ffff ffffffff"));
    let described =
        framed(&[&hex("00000001 00000001 00000001 0009")[..], b"localhost\0\0\x23\x84\0\0"].concat());
    vec![
        stream("versions", App::Kafka, &[(CLIENT, &versions), (SERVER, &answer)]),
        stream("metadata", App::Kafka, &[(CLIENT, &metadata), (SERVER, &described)]),
    ]
}

fn mongodb() -> Vec<Stream> {
    let message = |answer: u32, operation: u32, body: &[u8]| {
        let mut bytes = (16 + body.len() as u32).to_le_bytes().to_vec();
        for word in [1, answer, operation] {
            bytes.extend(u32::to_le_bytes(word));
        }
        bytes.extend(body);
        bytes
    };
    let ping = hex("00000000 00 1e000000 10 70696e6700 01000000 02 24646200 06000000 61646d696e00 00");
    let hello = [
        &hex("00000000")[..],
        b"admin.$cmd\0",
        &hex("00000000 ffffffff 13000000 10 69734d617374657200 01000000 00"),
    ]
    .concat();
    let pong = hex("00000000 00 11000000 01 6f6b00 000000000000f03f 00");
    vec![
        stream(
            "message",
            App::Mongodb,
            &[(CLIENT, &message(0, 2013, &ping)), (SERVER, &message(1, 2013, &pong))],
        ),
        stream(
            "query",
            App::Mongodb,
            &[(CLIENT, &message(0, 2004, &hello)), (SERVER, &message(1, 1, &[0; 60]))],
        ),
        stream(
            "compressed",
            App::Mongodb,
            &[(CLIENT, &message(0, 2012, &hex("dd070000 30000000 02 789c0b")))],
        ),
    ]
}

fn brokers() -> Vec<Stream> {
    let info = b"INFO {\"server_id\":\"NDHT\",\"version\":\"2.10.7\"}\r\n";
    let start = hex("01 0000 0000001e 000a 000a 00 09 00000000");
    vec![
        stream("amqp 0-9-1", App::Amqp, &[(CLIENT, b"AMQP\x00\x00\x09\x01"), (SERVER, &start)]),
        stream(
            "amqp 1.0 with SASL",
            App::Amqp,
            &[(CLIENT, b"AMQP\x03\x01\x00\x00"), (SERVER, b"AMQP\x03\x01\x00\x00")],
        ),
        stream(
            "mqtt 3.1.1",
            App::Mqtt,
            &[(CLIENT, b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03abc"), (SERVER, &hex("20020000"))],
        ),
        stream(
            "mqtt 5",
            App::Mqtt,
            &[(CLIENT, b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03abc"), (SERVER, &hex("2003000000"))],
        ),
        stream(
            "mqtt 3.1",
            App::Mqtt,
            &[(CLIENT, b"\x10\x11\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x03abc"), (SERVER, &hex("20020000"))],
        ),
        stream(
            "mqtt, long",
            App::Mqtt,
            &[(CLIENT, &long(b"\x10\xc8\x01\x00\x04MQTT\x04\xc2\x00\x3c\x00\xba", 203))],
        ),
        stream("nats", App::Nats, &[(SERVER, info), (CLIENT, b"CONNECT {\"verbose\":false}\r\nPING\r\n")]),
        stream(
            "nats, other order",
            App::Nats,
            &[(SERVER, b"INFO {\"version\":\"0.1\"}\r\n"), (CLIENT, b"CONNECT {\"verbose\":false}\r\n")],
        ),
    ]
}

fn memcached() -> Vec<Stream> {
    let get = hex("80 00 0003 00 00 0000 00000003 00000000 0000000000000000 666f6f");
    let missing =
        [&hex("81 00 0000 00 00 0001 00000009 00000000 0000000000000000")[..], b"Not found"].concat();
    vec![
        stream(
            "hit",
            App::Memcached,
            &[(CLIENT, b"get foo\r\n"), (SERVER, b"VALUE foo 0 3\r\nbar\r\nEND\r\n")],
        ),
        stream("miss", App::Memcached, &[(CLIENT, b"gets foo bar\r\n"), (SERVER, b"END\r\n")]),
        stream("set", App::Memcached, &[(CLIENT, b"set foo 0 0 3\r\nbar\r\n"), (SERVER, b"STORED\r\n")]),
        stream("add", App::Memcached, &[(CLIENT, b"add foo 0 0 3\r\nbar\r\n"), (SERVER, b"NOT_STORED\r\n")]),
        stream("version", App::Memcached, &[(CLIENT, b"version\r\n"), (SERVER, b"VERSION 1.6.18\r\n")]),
        stream(
            "stats",
            App::Memcached,
            &[(CLIENT, b"stats\r\n"), (SERVER, b"STAT pid 7\r\nSTAT uptime 3\r\n")],
        ),
        stream("meta", App::Memcached, &[(CLIENT, b"mg foo v t\r\n"), (SERVER, b"VA 3 t-1\r\nbar\r\n")]),
        stream("binary", App::Memcached, &[(CLIENT, &get), (SERVER, &missing)]),
    ]
}

fn ssh() -> Vec<Stream> {
    vec![
        stream(
            "server first",
            App::Ssh,
            &[(SERVER, b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n"), (CLIENT, b"SSH-2.0-Go\r\n")],
        ),
        stream("client first", App::Ssh, &[(CLIENT, b"SSH-2.0-libssh_0.10\r\n")]),
        stream("both versions", App::Ssh, &[(SERVER, b"SSH-1.99-Cisco-1.25\n")]),
    ]
}

/// All that has to be recognised.
pub fn known() -> Vec<Stream> {
    [
        http(),
        http2(),
        tls(),
        dns(),
        quic(),
        mysql(),
        postgresql(),
        redis(),
        kafka(),
        mongodb(),
        brokers(),
        memcached(),
        ssh(),
    ]
    .concat()
}
