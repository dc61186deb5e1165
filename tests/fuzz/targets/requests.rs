//! Whatever a client sends, the server answers in HTTP or hangs up, and what it asks for becomes a filter of flows or is refused by
//! name; without a panic, and it never waits for more once its client has gone.
#![no_main]

use std::convert::Infallible;
use std::future::pending;
use std::io::Result;
use std::sync::Mutex;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use libfuzzer_sys::fuzz_target;
use netmon::api::Filter;
use netmon::http::{Listener, Server, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

/// One client.
struct One(Mutex<Option<DuplexStream>>);

impl Listener for One {
    type Stream = DuplexStream;

    async fn next(&self) -> Result<DuplexStream> {
        match self.0.lock().ok().and_then(|mut stream| stream.take()) {
            Some(stream) => Ok(stream),
            None => pending().await,
        }
    }
}

/// As the control API takes a query.
fn filter(query: &str) -> String {
    let Ok(pairs) = serde_urlencoded::from_str::<Vec<(String, String)>>(query) else {
        return "no query".into();
    };
    let mut filter = Filter::default();
    for (name, value) in pairs {
        if let Err(refused) = filter.set(&name, &value, jiff::Timestamp::UNIX_EPOCH) {
            assert_eq!((&refused.name, &refused.value), (&name, &value));
            return refused.to_string();
        }
    }
    String::new()
}

async fn answer(request: Request<Incoming>) -> std::result::Result<Response<Full<Bytes>>, Infallible> {
    let refused = request.uri().query().map(filter).unwrap_or_default();
    Ok(Response::new(Full::from(refused)))
}

fuzz_target!(|bytes: &[u8]| {
    // As it is, or as the query of a request that is right.
    let said = match bytes.split_first() {
        Some((b'?', query)) => [b"GET /v1/flows?", query, b" HTTP/1.1\r\nhost: x\r\n\r\n"].concat(),
        _ => bytes.to_vec(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let heard = runtime.expect("a runtime").block_on(async {
        let (mut client, stream) = duplex(1 << 12);
        let talk = async {
            let mut heard = Vec::new();
            let (mut from, mut to) = tokio::io::split(&mut client);
            let say = async {
                // It may have been hung up on.
                let _ = to.write_all(&said).await;
                let _ = to.shutdown().await;
            };
            let (_, _) = tokio::join!(say, from.read_to_end(&mut heard));
            heard
        };
        let (over, until) = tokio::sync::oneshot::channel::<()>();
        let served = serve(Server::Control, One(Mutex::new(Some(stream))), service_fn(answer), async {
            let _ = until.await;
        });
        let talked = async {
            let heard = tokio::time::timeout(Duration::from_secs(5), talk).await;
            let _ = over.send(());
            heard
        };
        tokio::join!(served, talked).1
    });
    let heard = heard.expect("it hangs up when its client has said all");
    assert!(heard.is_empty() || heard.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&heard));
});
