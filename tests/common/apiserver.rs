//! A Kubernetes API server as one was recorded (tests/kubernetes/api): lists with pages, watches, streaming lists, bookmarks,
//! selectors and refusals, on a port of 127.0.0.1 in the namespace of the thread that starts it. Tests say when it fails, and how.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long a thread waits before it looks whether it should end.
const LOOK: Duration = Duration::from_millis(5);

/// A file of the record.
pub fn recorded(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes/api");
    std::fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub accept: String,
    pub token: String,
    pub body: String,
}

impl Request {
    /// `list`, `watch`, `get`, `create` or `patch`.
    pub fn verb(&self) -> &'static str {
        match self.method.as_str() {
            "POST" => "create",
            "PATCH" => "patch",
            _ if self.query.contains_key("watch") => "watch",
            _ if self.name().is_some() => "get",
            _ => "list",
        }
    }

    /// Whether it is a watch that begins with all objects.
    pub fn streams(&self) -> bool {
        self.query.contains_key("sendInitialEvents")
    }

    pub fn selector(&self) -> &str {
        self.query.get("fieldSelector").map_or("", String::as_str)
    }

    fn parts(&self) -> Vec<&str> {
        let parts: Vec<&str> = self.path.trim_matches('/').split('/').collect();
        parts[if parts[0] == "api" { 2 } else { 3 }..].to_vec()
    }

    /// The plural of its kind.
    pub fn kind(&self) -> &str {
        match self.parts()[..] {
            ["namespaces", _, kind, ..] | [kind, ..] => kind,
            [] => "",
        }
    }

    fn name(&self) -> Option<(String, String)> {
        match self.parts()[..] {
            ["namespaces", namespace, _, name] => Some((namespace.into(), name.into())),
            _ => None,
        }
    }
}

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status, these further header lines, this body.
    Answer(u16, String, String),
    /// Nothing is said, the connection stays.
    Silent,
    /// A watch ends, or a list is cut off by a reset, after so many of its objects.
    CutAfter(usize),
    /// Nothing more is said after so many objects, the connection stays.
    SilentAfter(usize),
    /// A pause before each object.
    Slow(Duration),
    /// These lines instead of a watch's; then it goes on as from its version.
    Lines(String),
}

struct Rule {
    matches: Box<dyn Fn(&Request) -> bool + Send>,
    times: usize,
    fault: Fault,
}

struct Event {
    version: u64,
    kind: String,
    before: Option<Value>,
    /// `None`: a bookmark; the object has gone if `gone`.
    now: Option<Value>,
    gone: bool,
}

type Key = (String, String);

#[derive(Default)]
struct State {
    version: u64,
    oldest: u64,
    objects: BTreeMap<String, BTreeMap<Key, Value>>,
    history: Vec<Event>,
    rules: Vec<Rule>,
    requests: Vec<Request>,
    forbidden: BTreeSet<(String, String)>,
    token: Option<String>,
    no_streams: bool,
    listening: bool,
    /// Connections of an earlier one are reset.
    epoch: u64,
    /// Connections of an earlier one are half open.
    frozen: u64,
    open: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let done = change(&mut self.lock());
        self.changed.notify_all();
        done
    }
}

/// The server; ends when it is dropped.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl ApiServer {
    /// Starts it, with what the record's cluster held at its begin.
    pub fn start() -> Self {
        let server = Self::absent();
        server.restart();
        server
    }

    /// The same, not yet listening: connections are refused.
    pub fn absent() -> Self {
        let shared = Arc::new(Shared::default());
        {
            let mut state = shared.lock();
            (state.version, state.oldest) = (248, 100);
            for kind in ["pods", "services", "nodes", "endpointslices"] {
                let list: Value =
                    serde_json::from_str(&recorded(&format!("list-{kind}-before.json"))).unwrap();
                for item in list["items"].as_array().unwrap() {
                    state.objects.entry(kind.into()).or_default().insert(key(item), item.clone());
                }
            }
        }
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             contexts: [{{ name: c, context: {{ cluster: c, user: u }} }}]\n\
             clusters: [{{ name: c, cluster: {{ server: 'http://{address}' }} }}]\n\
             users: [{{ name: u, user: {{ tokenFile: '{}' }} }}]\n",
            folder.path().join("token").display()
        );
        std::fs::write(folder.path().join("kubeconfig"), config).unwrap();
        let server = Self { shared, address, folder };
        server.write_token("first");
        server
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// What clients will read as their token.
    pub fn write_token(&self, token: &str) {
        std::fs::write(self.folder.path().join("token"), token).unwrap();
    }

    /// Accepts only this token from now on.
    pub fn expect_token(&self, token: &str) {
        self.shared.change(|state| state.token = Some(token.into()));
    }

    /// Resets all connections and refuses new ones.
    pub fn stop(&self) {
        self.shared.change(|state| {
            state.listening = false;
            state.epoch += 1;
        });
        self.until("no connection is left", |state| state.open == 0);
    }

    /// Listens again, on the same port.
    pub fn restart(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let listener = loop {
            match TcpListener::bind(self.address) {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < deadline, "{}: {error}", self.address),
            }
            std::thread::sleep(LOOK);
        };
        listener.set_nonblocking(true).unwrap();
        self.shared.change(|state| state.listening = true);
        let shared = Arc::clone(&self.shared);
        std::thread::spawn(move || {
            while shared.lock().listening {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let shared = Arc::clone(&shared);
                        std::thread::spawn(move || Connection::serve(&shared, stream));
                    }
                    Err(_) => std::thread::sleep(LOOK),
                }
            }
        });
    }

    /// Resets all connections.
    pub fn reset(&self) {
        self.shared.change(|state| state.epoch += 1);
    }

    /// On all connections that are open nothing more is said, ever, as if the server's host had lost its power.
    pub fn freeze(&self) {
        self.shared.change(|state| state.frozen += 1);
    }

    /// Versions before now are forgotten: watches from them get 410.
    pub fn compact(&self) {
        self.shared.change(|state| {
            // Bookmarks and events in between make some distance.
            state.version += 10;
            state.oldest = state.version;
        });
    }

    /// Sets the version back, as a restored backup does.
    pub fn set_back(&self) {
        self.shared.change(|state| {
            state.version = 110;
            state.history.clear();
        });
    }

    /// No streaming lists: they are refused as older servers do.
    pub fn without_streaming_lists(&self) {
        self.shared.change(|state| state.no_streams = true);
    }

    /// Refuses a verb on a kind until it is allowed again.
    pub fn forbid(&self, verb: &str, kind: &str) {
        self.shared.change(|state| state.forbidden.insert((verb.into(), kind.into())));
    }

    pub fn allow(&self, verb: &str, kind: &str) {
        self.shared.change(|state| state.forbidden.remove(&(verb.into(), kind.into())));
    }

    /// The next requests that match go wrong.
    pub fn fault(&self, times: usize, fault: Fault, matches: impl Fn(&Request) -> bool + Send + 'static) {
        self.shared.change(|state| state.rules.push(Rule { matches: Box::new(matches), times, fault }));
    }

    /// Whether every fault has happened.
    pub fn faults_are_over(&self) -> bool {
        self.shared.lock().rules.is_empty()
    }

    /// Requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// An object comes or changes.
    pub fn put(&self, kind: &str, object: Value) {
        self.shared.change(|state| state.put(kind, object));
    }

    /// An object goes; its last state may be told.
    pub fn remove(&self, kind: &str, object: &Value) {
        self.shared.change(|state| state.remove(kind, object.clone()));
    }

    pub fn bookmark(&self, kind: &str) {
        self.shared.change(|state| state.bookmark(kind));
    }

    /// What happened in the record, in its order.
    pub fn play(&self) {
        story().into_iter().for_each(|event| self.play_one(event));
    }

    /// One event of it.
    pub fn play_one(&self, (kind, event): (String, Value)) {
        let object = event["object"].clone();
        match event["type"].as_str().unwrap() {
            "DELETED" => self.remove(&kind, &object),
            "BOOKMARK" => self.bookmark(&kind),
            _ => self.put(&kind, object),
        }
    }

    fn until(&self, what: &str, condition: impl Fn(&State) -> bool) {
        let mut state = self.shared.lock();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition(&state) {
            assert!(Instant::now() < deadline, "not in time: {what}");
            state = self.shared.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.change(|state| {
            state.listening = false;
            state.epoch += 1;
        });
    }
}

/// The events of all recorded watches, in the order of their versions.
pub fn story() -> Vec<(String, Value)> {
    let mut events = Vec::new();
    for kind in ["pods", "services", "nodes", "endpointslices"] {
        for line in recorded(&format!("watch-{kind}.ndjson")).lines() {
            events.push((kind.to_owned(), serde_json::from_str::<Value>(line).unwrap()));
        }
    }
    events.sort_by_key(|(_, event)| version(&event["object"]));
    events
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn key(object: &Value) -> Key {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or("").to_owned();
    (text("namespace"), text("name"))
}

impl State {
    /// The version of a change: the recorded one, or the next.
    fn step(&mut self, object: &Value) -> u64 {
        self.version = version(object).max(self.version + 1);
        self.version
    }

    fn put(&mut self, kind: &str, mut object: Value) {
        let version = self.step(&object);
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let before = self.objects.entry(kind.into()).or_default().insert(key(&object), object.clone());
        self.history.push(Event { version, kind: kind.into(), before, now: Some(object), gone: false });
    }

    fn remove(&mut self, kind: &str, mut object: Value) {
        let version = self.step(&object);
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let before = self.objects.entry(kind.into()).or_default().remove(&key(&object));
        self.history.push(Event { version, kind: kind.into(), before, now: Some(object), gone: true });
    }

    fn bookmark(&mut self, kind: &str) {
        self.version += 1;
        let version = self.version;
        self.history.push(Event { version, kind: kind.into(), before: None, now: None, gone: false });
    }

    fn matching(&self, request: &Request) -> Vec<Value> {
        let all = self.objects.get(request.kind()).into_iter().flat_map(BTreeMap::values);
        all.filter(|object| selected(object, request.selector())).cloned().collect()
    }
}

/// `a.b=c,d.e!=f`
fn selected(object: &Value, selector: &str) -> bool {
    selector.split(',').filter(|term| !term.is_empty()).all(|term| {
        let (path, value, equal) = match term.split_once("!=") {
            Some((path, value)) => (path, value, false),
            None => term.split_once('=').map(|(path, value)| (path, value, true)).unwrap(),
        };
        let found = object.pointer(&format!("/{}", path.replace('.', "/"))).and_then(Value::as_str);
        (found.unwrap_or("") == value) == equal
    })
}

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({ "type": kind, "object": object }))
}

fn bookmark(version: u64, ends_list: bool) -> String {
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    if ends_list {
        metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
    }
    line("BOOKMARK", &json!({ "metadata": metadata, "spec": {}, "status": {} }))
}

/// A refusal as the record's server words it.
pub fn status(code: u16, reason: &str, message: &str) -> String {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code })
    .to_string()
}

/// The connection is over, in whatever way.
struct Over;

impl From<std::io::Error> for Over {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

struct Connection<'a> {
    shared: &'a Shared,
    stream: TcpStream,
    epoch: u64,
    frozen: u64,
    unread: Vec<u8>,
}

impl Connection<'_> {
    fn serve(shared: &Shared, stream: TcpStream) {
        let (epoch, frozen) = shared.change(|state| {
            state.open += 1;
            (state.epoch, state.frozen)
        });
        stream.set_nonblocking(false).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LOOK)).unwrap();
        let mut connection = Connection { shared, stream, epoch, frozen, unread: Vec::new() };
        while connection.turn().is_ok() {}
        drop(connection);
        shared.change(|state| state.open -= 1);
    }

    /// Ends by a reset.
    fn cut(&self) -> Over {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).unwrap();
        Over
    }

    /// Whether it should go on; a reset if not.
    fn look(&self) -> Result<(), Over> {
        if self.shared.lock().epoch == self.epoch { Ok(()) } else { Err(self.cut()) }
    }

    /// Says nothing more until the server ends.
    fn silent(&self) -> Over {
        while self.look().is_ok() {
            std::thread::sleep(LOOK);
        }
        Over
    }

    fn more(&mut self) -> Result<(), Over> {
        let mut buffer = [0; 4096];
        loop {
            self.look()?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Over),
                Ok(n) => {
                    self.unread.extend_from_slice(&buffer[..n]);
                    return Ok(());
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return Err(Over),
            }
        }
    }

    fn request(&mut self) -> Result<Request, Over> {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            self.more()?;
        };
        let head = String::from_utf8(self.unread.drain(..end + 4).collect()).unwrap();
        let mut lines = head.lines();
        let mut first = lines.next().unwrap().split(' ');
        let (method, target) = (first.next().unwrap().to_owned(), first.next().unwrap());
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
        let length: usize = header("content-length").parse().unwrap_or(0);
        while self.unread.len() < length {
            self.more()?;
        }
        let body = String::from_utf8(self.unread.drain(..length).collect()).unwrap();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Ok(Request {
            method,
            path: path.into(),
            query: pairs.map(|(name, value)| (name.into(), unescape(value))).collect(),
            accept: header("accept"),
            token: header("authorization").trim_start_matches("Bearer ").into(),
            body,
        })
    }

    fn turn(&mut self) -> Result<(), Over> {
        let request = self.request()?;
        if self.shared.lock().frozen != self.frozen {
            return Err(self.silent());
        }
        let (fault, forbidden, known) = self.shared.change(|state| {
            state.requests.push(request.clone());
            let at = state.rules.iter().position(|rule| (rule.matches)(&request));
            let fault = at.map(|at| {
                let rule = &mut state.rules[at];
                rule.times -= 1;
                let fault = rule.fault.clone();
                if rule.times == 0 {
                    state.rules.remove(at);
                }
                fault
            });
            let forbidden = state.forbidden.contains(&(request.verb().into(), request.kind().into()));
            (fault, forbidden, state.token.as_ref().is_none_or(|token| *token == request.token))
        });
        match fault {
            Some(Fault::Answer(code, headers, body)) => return self.answer(code, &headers, &body),
            Some(Fault::Silent) => return Err(self.silent()),
            _ => {}
        }
        if !known {
            return self.answer(401, "", &recorded("list-401.json"));
        }
        if forbidden {
            let body = recorded("list-403.json")
                .replace("cannot list", &format!("cannot {}", request.verb()))
                .replace("secrets", request.kind());
            return self.answer(403, "", &body);
        }
        match request.verb() {
            "watch" => self.watch(&request, fault),
            "list" => self.list(&request, fault),
            "get" => {
                let found = request.name().and_then(|name| {
                    self.shared.lock().objects.get(request.kind()).and_then(|all| all.get(&name).cloned())
                });
                match found {
                    Some(object) => self.answer(200, "", &object.to_string()),
                    None => self.answer(404, "", &status(404, "NotFound", "not found")),
                }
            }
            _ => self.answer(201, "", "{}"),
        }
    }

    fn answer(&mut self, code: u16, headers: &str, body: &str) -> Result<(), Over> {
        let head = format!(
            "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        Ok(self.stream.write_all(format!("{head}{body}").as_bytes())?)
    }

    fn chunk(&mut self, text: &str) -> Result<(), Over> {
        self.look()?;
        Ok(self.stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())?)
    }

    /// Before the object of this number: what the fault does there.
    fn at(&mut self, number: usize, fault: &Option<Fault>) -> Result<(), Over> {
        match fault {
            Some(Fault::CutAfter(n)) if *n == number => Err(self.cut()),
            Some(Fault::SilentAfter(n)) if *n == number => Err(self.silent()),
            Some(Fault::Slow(pause)) => {
                std::thread::sleep(*pause);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn start_chunks(&mut self) -> Result<(), Over> {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        Ok(self.stream.write_all(head.as_bytes())?)
    }

    fn list(&mut self, request: &Request, fault: Option<Fault>) -> Result<(), Over> {
        let (items, version, oldest) = {
            let state = self.shared.lock();
            (state.matching(request), state.version, state.oldest)
        };
        let (from, version) = match request.query.get("continue").and_then(|token| token.split_once('.')) {
            Some((from, of)) => (from.parse::<usize>().unwrap(), of.parse::<u64>().unwrap()),
            None => (0, version),
        };
        if from > 0 && version < oldest {
            return self.answer(
                410,
                "",
                &status(410, "Expired", "The provided continue parameter is too old"),
            );
        }
        let limit = request.query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let to = from.saturating_add(limit).min(items.len());
        self.start_chunks()?;
        let mut metadata = json!({ "resourceVersion": version.to_string() });
        if to < items.len() {
            metadata["continue"] = format!("{to}.{version}").into();
        }
        self.chunk(&format!("{{\"kind\":\"List\",\"metadata\":{metadata},\"items\":["))?;
        for (number, item) in items[from..to].iter().enumerate() {
            self.at(number, &fault)?;
            let comma = if number == 0 { "" } else { "," };
            self.chunk(&format!("{comma}{item}"))?;
        }
        self.chunk("]}\n")?;
        Ok(self.stream.write_all(b"0\r\n\r\n")?)
    }

    fn watch(&mut self, request: &Request, fault: Option<Fault>) -> Result<(), Over> {
        let kind = request.kind().to_owned();
        let (version, oldest, no_streams) = {
            let state = self.shared.lock();
            (state.version, state.oldest, state.no_streams)
        };
        let asked: u64 = request.query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
        if request.streams() && no_streams {
            let body = status(
                422,
                "Invalid",
                "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: \
                sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
            );
            return self.answer(422, "", &body);
        }
        if asked > version {
            let mut body: Value =
                serde_json::from_str(&status(504, "Timeout", "Timeout: Too large resource version")).unwrap();
            body["details"] =
                json!({ "causes": [{ "reason": "ResourceVersionTooLarge" }], "retryAfterSeconds": 1 });
            return self.answer(504, "", &body.to_string());
        }
        self.start_chunks()?;
        if let Some(Fault::Lines(lines)) = &fault {
            self.chunk(lines)?;
        }
        let mut number = 0;
        let mut told = asked;
        if request.streams() {
            let (items, version) = {
                let state = self.shared.lock();
                (state.matching(request), state.version)
            };
            for item in items {
                self.at(number, &fault)?;
                self.chunk(&line("ADDED", &item))?;
                number += 1;
            }
            self.at(number, &fault)?;
            self.chunk(&bookmark(version, true))?;
            told = version;
        } else if asked < oldest {
            self.chunk(&recorded("watch-410-gone.ndjson"))?;
            return Ok(self.stream.write_all(b"0\r\n\r\n")?);
        }
        let seconds = request.query.get("timeoutSeconds").and_then(|v| v.parse().ok()).unwrap_or(60);
        let ends = Instant::now() + Duration::from_secs(seconds);
        loop {
            let mut lines = Vec::new();
            {
                let mut state = self.shared.lock();
                loop {
                    if state.epoch != self.epoch {
                        drop(state);
                        return Err(self.cut());
                    }
                    if state.frozen != self.frozen {
                        drop(state);
                        return Err(self.silent());
                    }
                    for event in
                        state.history.iter().filter(|event| event.version > told && event.kind == kind)
                    {
                        lines.extend(told_as(event, request.selector()));
                    }
                    told = told.max(state.history.last().map_or(0, |event| event.version));
                    if !lines.is_empty() || Instant::now() >= ends {
                        break;
                    }
                    state = self
                        .shared
                        .changed
                        .wait_timeout(state, LOOK)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                    // A client that has gone is no longer served.
                    if gone(&self.stream) {
                        return Err(Over);
                    }
                }
            }
            if lines.is_empty() {
                return Ok(self.stream.write_all(b"0\r\n\r\n")?);
            }
            for line in lines {
                self.at(number, &fault)?;
                self.chunk(&line)?;
                number += 1;
            }
        }
    }
}

fn gone(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let gone = matches!(stream.peek(&mut [0]), Ok(0));
    stream.set_nonblocking(false).unwrap();
    gone
}

/// How a watch with a selector tells an event.
fn told_as(event: &Event, selector: &str) -> Option<String> {
    let Some(now) = &event.now else { return Some(bookmark(event.version, false)) };
    let before = event.before.as_ref().is_some_and(|before| selected(before, selector));
    let is = !event.gone && selected(now, selector);
    let kind = match (before, is) {
        (false, true) => "ADDED",
        (true, true) => "MODIFIED",
        (true, false) => "DELETED",
        (false, false) => return None,
    };
    Some(line(kind, now))
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'%', [a, b, tail @ ..]) => {
                let digits = [*a, *b];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// A running pod.
pub fn pod(name: &str, node: &str, ip: &str) -> Value {
    let mut uid = String::new();
    // Any 32 digits that are this name's own.
    for byte in name.bytes().chain(std::iter::repeat(0)).take(16) {
        let _ = write!(uid, "{byte:02x}");
    }
    json!({ "metadata": { "name": name, "namespace": "shop", "uid": uid }, "spec": { "nodeName": node },
            "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }], "startTime": "2026-11-23T08:00:00Z" } })
}
