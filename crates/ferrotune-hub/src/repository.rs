//! A repository of the hub and its folder in the cache: commits, files, and refusals in words.
//!
//! The cache has the layout of Python's `huggingface_hub`: `refs/REVISION` holds a commit, `snapshots/COMMIT/` links to
//! `blobs/`, and `trees/COMMIT.json` (its version 2) lists the files that a commit has, whether they are here or not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::download::{Wanted, download, partial_of, status_error};
use crate::files::{temporary_name, with_temporary, write_atomic};
use crate::hash::hex;
use crate::hub::HubSettings;
use crate::net::{Client, OnProgress, Reply, Request, join, network, public, same_origin, split_credentials};
use crate::{Error, Result};

/// Most bytes of an answer of the hub's API.
const API_LIMIT: u64 = 64 << 20;

/// Most pages of a list of files; the hub's have up to a thousand files each.
const MOST_PAGES: usize = 10_000;

/// Version of the files in `trees/`.
const TREE_VERSION: u64 = 1;

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Model,
    Dataset,
}

impl Kind {
    /// Its word in the hub's API and in the names of the cache's folders.
    fn plural(self) -> &'static str {
        match self {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        }
    }

    /// What stands before a name in addresses of pages and files.
    fn prefix(self) -> &'static str {
        match self {
            Kind::Model => "",
            Kind::Dataset => "datasets/",
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Kind::Model => "model",
            Kind::Dataset => "data set",
        }
    }
}

/// A repository at a revision, and its folder.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    /// `owner/name`.
    pub(crate) name: String,
    /// Branch, tag or commit.
    pub(crate) revision: String,
    /// The folder of the cache.
    pub(crate) folder: PathBuf,
}

impl Place {
    pub(crate) fn new(kind: Kind, name: String, revision: &str, cache: &Path) -> Self {
        let folder = cache.join(format!("{}--{}", kind.plural(), name.replace('/', "--")));
        Place { kind, name, revision: revision.to_string(), folder }
    }

    /// The commit that the cache has for the revision; the revision itself if it has none.
    pub(crate) fn commit(&self) -> Option<String> {
        let commit = fs::read_to_string(self.folder.join("refs").join(&self.revision))
            .map_or_else(|_| self.revision.clone(), |text| text.trim().to_string());
        safe_name(&commit).then_some(commit)
    }

    /// The folder of a commit's files.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Lets the revision mean a commit.
    pub(crate) fn set_ref(&self, commit: &str) -> Result<()> {
        if self.revision == commit {
            return Ok(());
        }
        let path = self.folder.join("refs").join(&self.revision);
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        write_atomic(&path, commit.as_bytes())
    }

    fn tree(&self, commit: &str) -> PathBuf {
        self.folder.join("trees").join(format!("{commit}.json"))
    }

    /// The names of all files of a commit, if the cache has the list; sorted.
    pub(crate) fn kept_list(&self, commit: &str) -> Option<Vec<String>> {
        let json: Value = serde_json::from_slice(&fs::read(self.tree(commit)).ok()?).ok()?;
        let list = json["files"].as_object().filter(|_| json["format_version"] == TREE_VERSION)?;
        let mut names: Vec<String> = list.keys().cloned().collect();
        names.sort_unstable();
        Some(names)
    }

    /// The error for what only the network could bring.
    pub(crate) fn not_here(&self, name: &str) -> Error {
        let problem =
            format!("not (completely) in the cache {}, and the network is not used", self.folder.display());
        network(name, problem)
            .with_hint("run once without --offline (and HF_HUB_OFFLINE), or give what is on this machine")
    }
}

/// A repository on the hub.
pub(crate) struct Repository {
    pub(crate) place: Place,
    endpoint: String,
    authorization: Option<String>,
    client: Client,
}

impl Repository {
    pub(crate) fn new(place: Place, settings: &HubSettings) -> Result<Self> {
        let (endpoint, login) = split_credentials(&settings.endpoint);
        Ok(Repository {
            place,
            endpoint: endpoint.trim_end_matches('/').to_string(),
            authorization: login.or_else(|| settings.token.as_ref().map(|token| format!("Bearer {token}"))),
            client: Client::new(&settings.net)?,
        })
    }

    /// The commit that the revision means, and what else the hub says of it.
    pub(crate) fn about(&self) -> Result<(String, Value)> {
        let revision = encoded(&self.place.revision).replace('/', "%2F");
        let url = format!("{}/revision/{revision}", self.api());
        let (json, _) = self.ask(&url)?;
        let commit = json.get("sha").and_then(Value::as_str).filter(|sha| safe_name(sha));
        let commit = commit.ok_or_else(|| strange(&url))?.to_string();
        Ok((commit, json))
    }

    /// The names of all files of a commit, sorted, as the hub lists them. The list is kept in the cache.
    pub(crate) fn list(&self, commit: &str) -> Result<Vec<String>> {
        let mut files = BTreeMap::new();
        let mut next = Some(format!("{}/tree/{commit}?recursive=true&expand=false", self.api()));
        for _ in 0..MOST_PAGES {
            let Some(url) = next.take() else { break };
            let (json, link) = self.ask(&url)?;
            for entry in json.as_array().ok_or_else(|| strange(&url))? {
                if let (Some("file"), Some(path)) = (entry["type"].as_str(), entry["path"].as_str()) {
                    files.insert(path.to_string(), tree_entry(entry));
                }
            }
            next = link.map(|link| join(&url, &link));
            if let Some(other) = next.as_deref().filter(|next| !same_origin(&url, next)) {
                return Err(network(&url, format!("the list goes on at another host, {}", public(other))));
            }
        }
        let path = self.place.tree(commit);
        let folder = path.parent().unwrap_or(&self.place.folder);
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let list = json!({"format_version": TREE_VERSION, "files": files});
        write_atomic(&path, list.to_string().as_bytes())?;
        Ok(files.into_keys().collect())
    }

    /// An answer of the hub's API, and the address of the next page.
    fn ask(&self, url: &str) -> Result<(Value, Option<String>)> {
        let reply = self.client.get(&self.request(url))?;
        self.refusal(&reply)?;
        let next = reply.header("link").and_then(next_page).map(str::to_string);
        let text = reply.read(API_LIMIT)?;
        let json = serde_json::from_slice(&text).map_err(|_| strange(url))?;
        Ok((json, next))
    }

    fn api(&self) -> String {
        format!("{}/api/{}/{}", self.endpoint, self.place.kind.plural(), self.place.name)
    }

    /// Its page on the hub.
    fn page(&self) -> String {
        format!("{}/{}{}", self.endpoint, self.place.kind.prefix(), self.place.name)
    }

    /// Brings one file of a commit into its snapshot.
    pub(crate) fn file(&self, commit: &str, name: &str, on: &mut OnProgress) -> Result<PathBuf> {
        if !safe_name(name) {
            return Err(self
                .error(format!("a file is called `{name}`"))
                .with_hint("the cache keeps no file of such a name; is this address a hub?"));
        }
        let root = &self.place.folder;
        let pointer = self.place.snapshot(commit).join(name);
        if pointer.is_file() {
            return Ok(pointer);
        }
        let url = format!("{}/resolve/{commit}/{}", self.page(), encoded(name));
        let head = self.client.patiently(|client| client.head(&self.request(&url)))?;
        self.refusal(&head)?;
        let first = |names: [&str; 2]| names.into_iter().find_map(|n| head.header(n)).map(str::to_string);
        let tag = first(["x-linked-etag", "etag"]);
        let tag = tag.map(|t| t.trim_start_matches("W/").trim_matches('"').to_string()).filter(|t| plain(t));
        // A redirect's own length is that of its page.
        let own = if (300..400).contains(&head.status) { "x-linked-size" } else { "content-length" };
        let size = first(["x-linked-size", own]).and_then(|v| v.parse().ok());
        let sha256 = tag.as_deref().filter(|t| t.len() == 64 && t.bytes().all(|b| b.is_ascii_hexdigit()));
        let blob = tag.clone().unwrap_or_else(|| hex(&Sha256::digest(format!("{commit}/{name}"))));
        let blob = root.join("blobs").join(blob);
        let whole = fs::metadata(&blob).is_ok_and(|m| m.is_file() && size.is_none_or(|s| s == m.len()));
        if !whole {
            // Of another length than the hub says: not what it should be.
            if fs::symlink_metadata(&blob).is_ok() {
                fs::remove_file(&blob).map_err(|e| Error::io(&blob, e))?;
            }
            let wanted = Wanted {
                url: &url,
                authorization: self.authorization.as_deref(),
                name,
                size,
                sha256,
                resumable: tag.is_some(),
            };
            download(&self.client, &wanted, &blob, &partial_of(&blob), on)?;
        }
        link(&blob, &pointer, root)?;
        Ok(pointer)
    }

    fn request<'b>(&'b self, url: &'b str) -> Request<'b> {
        Request { url, authorization: self.authorization.as_deref(), headers: &[] }
    }

    pub(crate) fn error(&self, problem: impl Into<String>) -> Error {
        network(&self.page(), problem)
    }

    /// Statuses in the words of the hub's own error codes.
    fn refusal(&self, reply: &Reply) -> Result<()> {
        if reply.status < 400 {
            return Ok(());
        }
        let (page, noun) = (public(&self.page()), self.place.kind.noun());
        let token = if self.authorization.is_some() { "the token that is set" } else { "no token" };
        let error = match (reply.header("x-error-code").unwrap_or_default(), reply.status) {
            ("GatedRepo", _) => self
                .error(format!("the {noun} is gated, and {token} does not open it"))
                .with_hint(format!("accept its terms at {page}, then set HF_TOKEN to your access token")),
            ("RevisionNotFound", _) => self
                .error(format!("no revision `{}`", self.place.revision))
                .with_hint("a revision is a branch, tag or commit"),
            ("EntryNotFound", _) => status_error(&reply.url, reply.status),
            ("RepoNotFound", _) | (_, 401 | 404) => self
                .error(format!("no such {noun}, or a private one ({}, asked with {token})", reply.status))
                .with_hint(format!("check the spelling of owner/name; for a private {noun} set HF_TOKEN")),
            (_, 403) => self
                .error(format!("the hub refuses (403, asked with {token})"))
                .with_hint(format!("set HF_TOKEN to an access token that may read the {noun}")),
            _ => status_error(&reply.url, reply.status),
        };
        Err(error)
    }
}

/// What `trees/` keeps of a file: size and hashes under huggingface_hub's names.
fn tree_entry(entry: &Value) -> Value {
    let mut kept = json!({"size": entry["size"], "blob_id": entry["oid"]});
    if let (Some(hash), size) = (entry["lfs"]["oid"].as_str(), &entry["lfs"]["size"]) {
        kept["lfs_sha256"] = hash.into();
        kept["lfs_size"] = size.clone();
    }
    if let Some(hash) = entry["xetHash"].as_str() {
        kept["xet_hash"] = hash.into();
    }
    kept
}

/// The address with `rel="next"` in a `Link` header.
fn next_page(header: &str) -> Option<&str> {
    let next = |link: &&str| link.split(';').skip(1).any(|p| matches!(p.trim(), "rel=\"next\"" | "rel=next"));
    let link = header.split(", ").find(next)?.split(';').next()?;
    link.trim().strip_prefix('<')?.strip_suffix('>')
}

fn strange(url: &str) -> Error {
    network(url, "not an answer of a hub").with_hint("see HF_ENDPOINT")
}

/// Makes `pointer` lead to `blob`; whatever was there is replaced in one step.
fn link(blob: &Path, pointer: &Path, root: &Path) -> Result<()> {
    let folder = pointer.parent().unwrap_or(root);
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let temporary = temporary_name(pointer)?;
    if symlink(blob, &temporary, folder, root) || fs::hard_link(blob, &temporary).is_ok() {
        let renamed = fs::rename(&temporary, pointer);
        // Still there if both were already the same file.
        let _ = fs::remove_file(&temporary);
        return renamed.map_err(|e| Error::io(pointer, e));
    }
    with_temporary(pointer, |t| fs::copy(blob, t).map(drop).map_err(|e| Error::io(t, e)))
}

/// A relative link, so that the cache can be moved; `false` where the system or the file system has none.
#[cfg(unix)]
fn symlink(blob: &Path, link: &Path, folder: &Path, root: &Path) -> bool {
    let depth = folder.strip_prefix(root).map_or(0, |p| p.components().count());
    let mut target = PathBuf::from_iter(std::iter::repeat_n("..", depth));
    target.push("blobs");
    target.extend(blob.file_name());
    std::os::unix::fs::symlink(target, link).is_ok()
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path, _: &Path, _: &Path) -> bool {
    false
}

/// Whether a name from outside stays below its folder.
pub(crate) fn safe_name(name: &str) -> bool {
    let part = |p: &str| !p.is_empty() && p != "." && p != "..";
    !name.contains(['\\', ':', '\0']) && name.split('/').all(part)
}

/// Whether a tag from outside can be a file name.
fn plain(tag: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=128).contains(&tag.len()) && tag.bytes().all(known)
}

/// A file name as a part of an address.
fn encoded(name: &str) -> String {
    const ESCAPED: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'/').remove(b'~');
    utf8_percent_encode(name, ESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_outside_stay_inside() {
        for bad in ["../x", "/x", "a//b", "a/../b", "C:x", "a\\b", "", "."] {
            assert!(!safe_name(bad), "{bad}");
        }
        assert!(safe_name("a/b-00001-of-00002.safetensors"));
        assert_eq!(encoded("a b/c#.gguf"), "a%20b/c%23.gguf");
    }

    #[test]
    fn pages_lead_on() {
        let header = "<https://hub/a?x=1&page=0>; rel=\"prev\", <https://hub/a?cursor=b,c>; rel=\"next\"";
        assert_eq!(next_page(header), Some("https://hub/a?cursor=b,c"));
        assert_eq!(next_page("<https://hub/a>; rel=\"last\""), None);
        assert_eq!(next_page("nonsense"), None);
    }
}
