//! HTTP/1.1 servers on 127.0.0.1 for tests of downloads, among them a small hub with a storage host of its own.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|h| h.0 == name).map(|h| h.1.as_str())
    }
}

/// An answer; `cut` closes the connection after so many bytes of the body.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub cut: Option<usize>,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Answer { status, body: body.into(), ..Answer::default() }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_string(), value.to_string()));
        self
    }

    /// The content, or the part that the request's range asks for.
    pub fn ranged(asked: &Asked, content: &[u8]) -> Self {
        let start =
            asked.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let len = content.len();
        match start {
            None => Answer::new(200, content),
            Some(start) if start < len => Answer::new(206, &content[start..])
                .with("content-range", format!("bytes {start}-{}/{len}", len - 1)),
            Some(_) => Answer::new(416, "").with("content-range", format!("bytes */{len}")),
        }
    }
}

/// A server that runs until the test program ends.
pub struct Server {
    pub url: String,
    log: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (answer, entries) = (Arc::new(answer), Arc::clone(&log));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, entries) = (Arc::clone(&answer), Arc::clone(&entries));
                std::thread::spawn(move || serve(stream, &*answer, &entries));
            }
        });
        Server { url, log }
    }

    /// What was asked for so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.log.lock().unwrap().clone()
    }

    /// `METHOD path` of every request.
    pub fn lines(&self) -> Vec<String> {
        self.asked().iter().map(|a| format!("{} {}", a.method, a.path)).collect()
    }
}

/// An address where nobody listens: a low port, so that no other test is given it meanwhile.
pub fn nowhere() -> String {
    static PORT: AtomicU16 = AtomicU16::new(2);
    format!("http://127.0.0.1:{}", PORT.fetch_add(1, Ordering::Relaxed) % 5 + 2)
}

/// A proxy that connects anywhere for one login (`user:password` in base64): its host and port, and what it was asked.
pub fn proxy(login: &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let log = Arc::new(Mutex::new(Vec::new()));
    let entries = Arc::clone(&log);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            let Some(asked) = request(&mut lines) else { continue };
            entries.lock().unwrap().push(format!("{} {}", asked.method, asked.path));
            if asked.header("proxy-authorization") != Some(&format!("Basic {login}")) {
                let _ = stream.write_all(b"HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n");
                continue;
            }
            let Ok(mut there) = TcpStream::connect(&asked.path) else { continue };
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let (mut from, mut to) = (there.try_clone().unwrap(), stream.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            std::thread::spawn(move || std::io::copy(&mut lines, &mut there));
        }
    });
    (address, log)
}

fn serve(stream: TcpStream, answer: &dyn Fn(&Asked) -> Answer, log: &Mutex<Vec<Asked>>) {
    let Ok(mut out) = stream.try_clone() else { return };
    let mut lines = BufReader::new(stream);
    while let Some(asked) = request(&mut lines) {
        let answer = answer(&asked);
        let head_only = asked.method == "HEAD";
        log.lock().unwrap().push(asked);
        let mut head = format!("HTTP/1.1 {} X\r\n", answer.status);
        let own_length = answer.headers.iter().any(|h| h.0 == "content-length" || h.0 == "transfer-encoding");
        if !own_length {
            head.push_str(&format!("content-length: {}\r\n", answer.body.len()));
        }
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let body = if head_only { &[][..] } else { &answer.body[..answer.cut.unwrap_or(answer.body.len())] };
        if out.write_all(head.as_bytes()).and_then(|()| out.write_all(body)).is_err()
            || (answer.cut.is_some() && !head_only)
        {
            return;
        }
    }
}

fn request(lines: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    lines.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_string(), words.next()?.to_string());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_string()));
    }
    Some(Asked { method, path, headers })
}

pub fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|b| format!("{b:02x}")).collect()
}

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What a hub does differently from a good one.
#[derive(Clone, Default)]
pub struct HubTricks {
    /// Only requests with this token are answered.
    pub token: Option<String>,
    /// Status and `x-error-code` of the API.
    pub refuse: Option<(u16, &'static str)>,
    /// The storage host cuts its first answers after so many bytes.
    pub cut: Option<(usize, usize)>,
    /// The hub is its own storage host, as some mirrors are.
    pub same_host: bool,
    /// The storage host ignores ranges.
    pub no_ranges: bool,
    /// The storage host sends this instead of the content.
    pub instead: Option<Vec<u8>>,
}

/// A hub with one model and the storage host that it redirects to.
pub struct Hub {
    pub server: Server,
    pub storage: Server,
}

impl Hub {
    /// Serves `files` as the model `id`; safetensors and GGUF files lie on the storage host.
    pub fn start(id: &str, files: BTreeMap<String, Vec<u8>>, tricks: HubTricks) -> Self {
        let files = Arc::new(files);
        let (content, cuts) = (Arc::clone(&files), Mutex::new(0));
        let how = tricks.clone();
        let storage = Server::start(move |asked| {
            let name = asked.path.split('?').next().unwrap_or_default().trim_start_matches("/store/");
            let Some(content) = content.get(name) else { return Answer::new(404, "") };
            let content = how.instead.as_ref().unwrap_or(content);
            let mut answer = if how.no_ranges {
                Answer::new(200, content.clone())
            } else {
                Answer::ranged(asked, content)
            };
            let mut done = cuts.lock().unwrap();
            if let Some((times, after)) = how.cut
                && *done < times
            {
                *done += 1;
                answer.cut = Some(after.min(answer.body.len()));
            }
            answer
        });
        let id = id.to_string();
        let store = if tricks.same_host { String::new() } else { storage.url.clone() };
        let server = Server::start(move |asked| {
            if let Some(token) = &tricks.token
                && asked.header("authorization") != Some(&format!("Bearer {token}"))
            {
                return Answer::new(401, "{}");
            }
            if let Some((status, code)) = tricks.refuse {
                return Answer::new(status, "{}").with("x-error-code", code);
            }
            if asked.path == format!("/api/models/{id}/revision/main") {
                let siblings: Vec<_> = files.keys().map(|f| serde_json::json!({"rfilename": f})).collect();
                let json = serde_json::json!({"id": id, "sha": COMMIT, "siblings": siblings});
                return Answer::new(200, json.to_string()).with("content-type", "application/json");
            }
            let path = asked.path.split('?').next().unwrap_or_default();
            let stored = path.strip_prefix("/store/").filter(|_| tricks.same_host);
            let name = path.strip_prefix(&format!("/{id}/resolve/{COMMIT}/")).or(stored);
            let Some((name, content)) = name.and_then(|n| files.get_key_value(n)) else {
                return Answer::new(404, "{}").with("x-error-code", "RepoNotFound");
            };
            let hash = sha256(content);
            if tricks.same_host && asked.path.starts_with("/store/") {
                return Answer::ranged(asked, content);
            }
            if name.ends_with(".safetensors") || name.ends_with(".gguf") {
                return Answer::new(302, "Found")
                    .with("location", format!("{store}/store/{name}?Signature=s3cret"))
                    .with("x-repo-commit", COMMIT)
                    .with("x-linked-etag", format!("\"{hash}\""))
                    .with("x-linked-size", content.len());
            }
            Answer::ranged(asked, content)
                .with("x-repo-commit", COMMIT)
                .with("etag", format!("\"{}\"", &hash[..40]))
        });
        Hub { server, storage }
    }
}
