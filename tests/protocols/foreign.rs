//! Protocols that are not among those that are recognised, and what looks like one that is.

use netmon::flow::app::App;

use super::streams::{CLIENT, SERVER, Stream, hex};

fn tcp(name: &'static str, turns: &[(usize, &[u8])]) -> Stream {
    let turns = turns.iter().map(|(from, bytes)| (*from, bytes.to_vec())).collect();
    Stream { name, app: App::Unknown, udp: false, turns, tls_version: None }
}

fn udp(name: &'static str, bytes: &[u8]) -> Stream {
    Stream { udp: true, ..tcp(name, &[(CLIENT, bytes)]) }
}

fn lines() -> Vec<Stream> {
    vec![
        tcp(
            "smtp",
            &[
                (SERVER, b"220 mx ESMTP\r\n"),
                (CLIENT, b"EHLO a\r\n"),
                (SERVER, b"250-mx\r\n250 STARTTLS\r\n"),
            ],
        ),
        tcp("ftp", &[(SERVER, b"220 ftp\r\n"), (CLIENT, b"USER a\r\n"), (SERVER, b"331 password\r\n")]),
        tcp(
            "irc",
            &[
                (CLIENT, b"NICK a\r\nUSER a 0 * :a\r\n"),
                (SERVER, b":irc 001 a :Welcome\r\n"),
                (SERVER, b"PING :irc\r\n"),
                (CLIENT, b"PONG :irc\r\n"),
            ],
        ),
        tcp(
            "pop3",
            &[
                (SERVER, b"+OK ready\r\n"),
                (CLIENT, b"USER a\r\n"),
                (SERVER, b"+OK\r\n"),
                (CLIENT, b"STAT\r\n"),
                (SERVER, b"+OK 2 320\r\n"),
            ],
        ),
        tcp(
            "imap",
            &[(SERVER, b"* OK IMAP4rev1\r\n"), (CLIENT, b"a1 LOGIN a b\r\n"), (SERVER, b"a1 OK\r\n")],
        ),
        tcp("nntp", &[(SERVER, b"200 news\r\n"), (CLIENT, b"GROUP a\r\n")]),
        tcp(
            "beanstalkd",
            &[
                (CLIENT, b"put 0 0 60 2\r\nhi\r\n"),
                (SERVER, b"INSERTED 1\r\n"),
                (CLIENT, b"delete 1\r\n"),
                (SERVER, b"DELETED\r\n"),
                (CLIENT, b"touch 1\r\n"),
                (SERVER, b"NOT_FOUND\r\n"),
            ],
        ),
        tcp("beanstalkd stats", &[(CLIENT, b"stats\r\n"), (SERVER, b"OK 900\r\n---\n")]),
        tcp(
            "stomp",
            &[
                (CLIENT, b"CONNECT\naccept-version:1.2\nhost:a\n\n\0"),
                (SERVER, b"CONNECTED\nversion:1.2\n\n\0"),
            ],
        ),
        tcp(
            "rtsp",
            &[
                (CLIENT, b"OPTIONS rtsp://a/b RTSP/1.0\r\nCSeq: 1\r\n\r\n"),
                (SERVER, b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n"),
            ],
        ),
        tcp(
            "sip",
            &[
                (CLIENT, b"OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP a\r\n\r\n"),
                (SERVER, b"SIP/2.0 200 OK\r\n\r\n"),
            ],
        ),
        tcp("icecast", &[(CLIENT, b"SOURCE /a ICE/1.0\r\n"), (SERVER, b"ICY 200 OK\r\n")]),
        tcp("gopher", &[(CLIENT, b"/a\r\n"), (SERVER, b"iHello\tfake\t(NULL)\t0\r\n.\r\n")]),
        tcp("http 0.9", &[(CLIENT, b"GET /a\r\n"), (SERVER, b"<html></html>")]),
        tcp("chat with get", &[(CLIENT, b"get lost\r\n"), (SERVER, b"END of it\r\n")]),
        tcp("chat with set", &[(CLIENT, b"set the table for 5\r\n"), (SERVER, b"STORED in the kitchen\r\n")]),
        tcp("chat with errors", &[(CLIENT, b"get foo\r\n"), (SERVER, b"ERROR\r\n")]),
        tcp("json lines", &[(CLIENT, b"{\"method\":\"get\"}\n"), (SERVER, b"{\"result\":1}\n")]),
        tcp("bullets", &[(CLIENT, b"*3 things\r\n$5 each\r\n"), (SERVER, b"+1\r\n")]),
        tcp("resp without its answer", &[(CLIENT, b"*1\r\n$4\r\nPING\r\n"), (SERVER, b"220 what?\r\n")]),
        tcp("ping", &[(CLIENT, b"PING\r\n"), (SERVER, b"PONG\r\n")]),
        tcp(
            "log",
            &[
                (SERVER, b"INFO {\"msg\":\"started\"}\n"),
                (CLIENT, b"next\n"),
                (SERVER, b"INFO {\"msg\":\"b\"}\n"),
            ],
        ),
        tcp("ident", &[(CLIENT, b"6193, 23\r\n"), (SERVER, b"6193, 23 : USERID : UNIX : a\r\n")]),
        tcp("rfb", &[(SERVER, b"RFB 003.008\n"), (CLIENT, b"RFB 003.008\n")]),
        tcp("rsync", &[(SERVER, b"@RSYNCD: 31.0\n"), (CLIENT, b"@RSYNCD: 31.0\n")]),
        tcp("git", &[(CLIENT, b"0032git-upload-pack /a.git\0host=a\0")]),
        tcp("svn", &[(SERVER, b"( success ( 2 2 ( ) ( edit-pipeline ) ) ) ")]),
        tcp(
            "xmpp",
            &[(CLIENT, b"<?xml version='1.0'?><stream:stream to='a'>"), (SERVER, b"<?xml version='1.0'?>")],
        ),
        tcp("graphite", &[(CLIENT, b"a.b.c 4 1700000000\n")]),
        tcp("managesieve", &[(SERVER, b"\"IMPLEMENTATION\" \"a\"\r\nOK\r\n")]),
    ]
}

fn numbers() -> Vec<Stream> {
    let zookeeper = hex(
        "0000002d 00000000 0000000000000000 00007530 0000000000000000 00000010 00000000000000000000000000000000 00",
    );
    let session =
        hex("00000025 00000000 00007530 0100000000000001 00000010 11111111111111111111111111111111 00");
    vec![
        tcp("zookeeper", &[(CLIENT, &zookeeper), (SERVER, &session)]),
        tcp(
            "thrift",
            &[(CLIENT, &hex("0000001c 80010001 00000004 70696e67 00000001 00 000000000000000000000000"))],
        ),
        tcp(
            "cassandra",
            &[(CLIENT, &hex("04 00 0000 05 00000000")), (SERVER, &hex("84 00 0000 06 00000010 0002 000b"))],
        ),
        tcp(
            "tds",
            &[(CLIENT, &hex("12 01 002f 0000 01 00 00001a000601002000010200210001030022000404002600 01ff"))],
        ),
        tcp(
            "tns",
            &[(CLIENT, &hex("00c6 0000 01 00 0000 013a 012c 0000 2000 7fff c60e 0000 0100 008c 003a"))],
        ),
        tcp(
            "smb",
            &[(
                CLIENT,
                &hex("00000054 ff534d42 72 00000000 18 01c8 0000 0000000000000000 0000 0000fffe 00000000 00"),
            )],
        ),
        tcp(
            "smb2",
            &[(
                CLIENT,
                &hex("0000006c fe534d42 4000 0100 00000000 0000 1f00 00000000 00000000 0000000000000000"),
            )],
        ),
        tcp(
            "ldap",
            &[
                (CLIENT, &hex("300c 020101 6007 020103 0400 8000")),
                (SERVER, &hex("300c 020101 6107 0a0100 0400 0400")),
            ],
        ),
        tcp(
            "rdp",
            &[
                (CLIENT, &hex("0300 0013 0e e0 0000 0000 00 01 00 0800 03000000")),
                (SERVER, &hex("0300 0013 0e d0 0000 1234 00 02 1f 0800 02000000")),
            ],
        ),
        tcp(
            "socks5",
            &[
                (CLIENT, &hex("05 01 00")),
                (SERVER, &hex("05 00")),
                (CLIENT, &hex("05 01 00 01 0a000001 0050")),
            ],
        ),
        tcp(
            "bittorrent",
            &[(CLIENT, b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0aaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbb")],
        ),
        tcp("x11", &[(CLIENT, &hex("6c00 0b00 0000 1200 1000 0000"))]),
        tcp("bgp", &[(CLIENT, &hex("ffffffffffffffffffffffffffffffff 001d 01 04 fde8 00b4 0a000001 00"))]),
        tcp("diameter", &[(CLIENT, &hex("01 000014 80 000101 00000000 00000001 00000001"))]),
        tcp("openwire", &[(CLIENT, &hex("000000f0 01 0041637469766 54d51 0000000c 01 000000dc"))]),
        tcp("hadoop", &[(CLIENT, b"hrpc\x09\x00\x00")]),
        tcp(
            "iscsi",
            &[(CLIENT, &[&hex("43 87 0000 00 000100 00023d000000 0000 00000000")[..], &[0; 32]].concat())],
        ),
        tcp(
            "nfs",
            &[(
                CLIENT,
                &hex(
                    "80000028 12345678 00000000 00000002 000186a3 00000003 00000000 00000000 00000000 00000000 00000000",
                ),
            )],
        ),
        tcp("zeros", &[(CLIENT, &[0; 100]), (SERVER, &[0; 100])]),
        tcp("ones", &[(CLIENT, &[0xff; 100]), (SERVER, &[0xff; 100])]),
        tcp(
            "length and noise",
            &[
                (CLIENT, &hex("0000000c 0101 0202 03030303 0404")),
                (SERVER, &hex("00000008 03030303 00000000")),
            ],
        ),
    ]
}

fn datagrams() -> Vec<Stream> {
    let netbios = [&hex("8000 0110 0001 0000 0000 0000 20")[..], b"CKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"];
    let status = [&netbios.concat()[..], &hex("00 0021 0001")].concat();
    let query = [&netbios.concat()[..], &hex("00 0020 0001")].concat();
    vec![
        udp("netbios name", &query),
        udp("netbios status", &status),
        udp("stun", &hex("0001 0008 2112a442 0102030405060708090a0b0c 0006 0004 61626364")),
        udp("ntp", &[&hex("e3 00 06 ec 00000000 00000000")[..], &[0; 36]].concat()),
        udp("snmp", &hex("302602010104067075626c6963a019020400000001020100020100300b300906052b060102010500")),
        udp("syslog", b"<34>Oct 11 22:14:15 a su: failed"),
        udp("tftp", b"\x00\x01a.txt\0octet\0"),
        udp("dhcp", &[&hex("01010600 12345678 0000 8000")[..], &[0; 228]].concat()),
        udp("ssdp", b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n\r\n"),
        udp("coap", &hex("40 01 1234 b474657374")),
        udp("dtls", &hex("16 fefd 0000 000000000000 0030 01 000024 0000 000000 000024 fefd")),
        udp("wireguard", &[&hex("01000000 12345678")[..], &[7; 140]].concat()),
        udp("rtp", &[&hex("80 60 1234 00000001 deadbeef")[..], &[5; 160]].concat()),
        udp("statsd", b"a.b:1|c"),
        udp("vxlan", &[&hex("08000000 00002a00")[..], &[0; 64]].concat()),
        udp("gtp", &hex("32 01 0004 00000000 00010000")),
        udp("radius", &[&hex("01 07 0026")[..], &[9; 34]].concat()),
        udp("openvpn", &hex("38 0102030405060708 00 00000000")),
        udp(
            "long header of no version",
            &[&hex("c0 00000000 08 0102030405060708 00")[..], &[0; 1200]].concat(),
        ),
        udp("short initial", &[&hex("c0 00000001 08 0102030405060708 00")[..], &[0; 300]].concat()),
        udp("zeros", &[0; 64]),
        udp("http", b"GET / HTTP/1.1\r\n\r\n"),
        udp("dns of class 7", &hex("beef 0100 0001 0000 0000 0000 03777777 00 0001 0007")),
        udp("dns with an endless name", &[&hex("beef 0100 0001 0000 0000 0000")[..], &[1; 280]].concat()),
    ]
}

/// All of them.
pub fn streams() -> Vec<Stream> {
    [lines(), numbers(), datagrams()].concat()
}
