//! A hub with one data set, whose revisions may change, and the storage host that it redirects to.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::server::{Answer, Asked, Server, sha256};

/// Names and content.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Files by their names.
pub fn files<const N: usize>(list: [(&str, &[u8]); N]) -> Files {
    list.into_iter().map(|(name, content)| (name.to_string(), content.to_vec())).collect()
}

/// Entries of a page of the list of files.
const PAGE: usize = 2;

/// What the hub does differently from a good one.
#[derive(Clone, Default)]
pub struct Tricks {
    /// Only requests with this token are answered.
    pub token: Option<String>,
    /// Status and `x-error-code` of the API.
    pub refuse: Option<(u16, &'static str)>,
    /// The same for files alone, as of a gated data set.
    pub gated: bool,
    /// The storage host cuts so many answers after so many bytes.
    pub cut: Option<(usize, usize)>,
    /// Where the list of files goes on after its first page.
    pub next: Option<String>,
}

/// A commit and its files.
type Commits = BTreeMap<String, (String, Files)>;

/// The hub.
pub struct DataHub {
    pub server: Server,
    pub storage: Server,
    commits: Arc<Mutex<Commits>>,
}

impl DataHub {
    /// Serves the data set `id` with these files on `main`. Parquet and gzip files lie on the storage host.
    pub fn start(id: &str, main: Files, tricks: Tricks) -> Self {
        let commits = Arc::new(Mutex::new(Commits::new()));
        let (stored, cuts) = (Arc::clone(&commits), Mutex::new(0));
        let cut = tricks.cut;
        let storage = Server::start(move |asked| {
            let hash = asked.path.split('?').next().unwrap_or_default().trim_start_matches("/store/");
            let commits = stored.lock().unwrap();
            let mut all = commits.values().flat_map(|(_, files)| files.values());
            let Some(content) = all.find(|content| sha256(content) == hash) else {
                return Answer::new(404, "");
            };
            let mut answer = Answer::ranged(asked, content);
            let mut done = cuts.lock().unwrap();
            if let Some((times, after)) = cut
                && *done < times
            {
                *done += 1;
                answer.cut = Some(after.min(answer.body.len()));
            }
            answer
        });
        let (id, store, known) = (id.to_string(), storage.url.clone(), Arc::clone(&commits));
        let server = Server::start(move |asked| answer(asked, &id, &known.lock().unwrap(), &store, &tricks));
        let hub = DataHub { server, storage, commits };
        hub.set("main", main);
        hub
    }

    /// Lets a revision be a new commit with these files; its hash.
    pub fn set(&self, revision: &str, files: Files) -> String {
        let content: Vec<u8> =
            files.iter().flat_map(|(name, bytes)| [name.as_bytes(), bytes].concat()).collect();
        let commit = sha256(&content)[..40].to_string();
        self.commits.lock().unwrap().insert(revision.to_string(), (commit.clone(), files));
        commit
    }

    /// How often the content of a file was asked for.
    pub fn contents(&self) -> usize {
        let is_content = |asked: &&Asked| asked.method == "GET" && asked.path.contains("/resolve/");
        self.server.asked().iter().filter(is_content).count()
    }
}

fn answer(asked: &Asked, id: &str, commits: &Commits, store: &str, tricks: &Tricks) -> Answer {
    let refused = |status: u16, code: &str| Answer::new(status, "{}").with("x-error-code", code);
    if let Some(token) = &tricks.token
        && asked.header("authorization") != Some(&format!("Bearer {token}"))
    {
        return Answer::new(401, "{}");
    }
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    let path = path.replace("%2F", "/").replace("%20", " ");
    let of = |revision: &str| {
        let named = commits.get(revision);
        named.or_else(|| commits.values().find(|(commit, _)| commit == revision))
    };
    if let Some(rest) = path.strip_prefix(&format!("/api/datasets/{id}/")) {
        if let Some((status, code)) = tricks.refuse {
            return refused(status, code);
        }
        let found = rest.split_once('/').map(|(verb, revision)| (verb, of(revision)));
        return match found {
            Some(("revision", Some((commit, files)))) => {
                let siblings: Vec<Value> = files.keys().map(|name| json!({"rfilename": name})).collect();
                Answer::new(200, json!({"id": id, "sha": commit, "siblings": siblings}).to_string())
            }
            Some(("tree", Some((commit, files)))) => list(id, commit, files, query, tricks),
            _ => refused(404, "RevisionNotFound"),
        };
    }
    let Some((commit, name)) =
        path.strip_prefix(&format!("/datasets/{id}/resolve/")).and_then(|rest| rest.split_once('/'))
    else {
        return refused(404, "RepoNotFound");
    };
    if tricks.gated {
        return refused(403, "GatedRepo");
    }
    let Some(content) = of(commit).and_then(|(_, files)| files.get(name)) else {
        return refused(404, "EntryNotFound");
    };
    let hash = sha256(content);
    if name.ends_with(".parquet") || name.ends_with(".gz") {
        return Answer::new(302, "Found")
            .with("location", format!("{store}/store/{hash}?Signature=s3cret"))
            .with("x-repo-commit", commit)
            .with("x-linked-etag", format!("\"{hash}\""))
            .with("x-linked-size", content.len());
    }
    Answer::ranged(asked, content).with("x-repo-commit", commit).with("etag", format!("\"{}\"", &hash[..40]))
}

/// A page of the list of files, with the address of the next one.
fn list(id: &str, commit: &str, files: &Files, query: &str, tricks: &Tricks) -> Answer {
    let from: usize = query.split('&').find_map(|p| p.strip_prefix("cursor=")?.parse().ok()).unwrap_or(0);
    let entry = |(name, content): (&String, &Vec<u8>)| {
        let hash = sha256(content);
        let mut entry = json!({"type": "file", "path": name, "size": content.len(), "oid": &hash[..40]});
        if name.ends_with(".parquet") {
            entry["lfs"] = json!({"oid": hash, "size": content.len(), "pointerSize": 130});
        }
        entry
    };
    let mut page = vec![json!({"type": "directory", "path": "folder", "size": 0, "oid": &commit[..40]})];
    page.extend(files.iter().skip(from).take(PAGE).map(entry));
    let answer = Answer::new(200, Value::Array(page).to_string());
    if from + PAGE >= files.len() {
        return answer;
    }
    let next = format!("/api/datasets/{id}/tree/{commit}?recursive=true&expand=false&cursor={}", from + PAGE);
    answer.with("link", format!("<{}>; rel=\"next\"", tricks.next.clone().unwrap_or(next)))
}
