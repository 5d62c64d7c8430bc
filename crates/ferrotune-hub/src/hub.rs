//! Models of the Hugging Face hub, in the cache that other programs share.
//!
//! The cache has the hub's own layout, `models--OWNER--NAME/{refs,blobs,snapshots}`, so a model that any tool brought
//! is used as it is, and what is brought here is found by other tools. A snapshot is one commit: all files of a model
//! come from the same one. What is in the cache is used without asking the hub; delete the model's folder to renew it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::download::{Wanted, download, partial_of, status_error};
use crate::files::{temporary_name, with_temporary, write_atomic};
use crate::hash::hex;
use crate::net::{
    Client, NetSettings, OnProgress, Progress, Reply, Request, network, public, split_credentials,
};
use crate::{Error, Result};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Most bytes of an answer of the hub's API.
const API_LIMIT: u64 = 64 << 20;

/// Where the hub is and where its models are kept.
#[derive(Clone)]
pub struct HubSettings {
    /// Address of the hub or of a mirror of it.
    pub endpoint: String,
    /// The cache of all models (`~/.cache/huggingface/hub`).
    pub cache_dir: PathBuf,
    /// Access token for private and gated models.
    pub token: Option<String>,
    /// Use the cache only.
    pub offline: bool,
    /// How hosts are reached.
    pub net: NetSettings,
}

/// `owner/name`, with a revision as `owner/name@revision`, with a GGUF file as `owner/name/file.gguf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    owner: String,
    name: String,
    revision: Option<String>,
    file: Option<String>,
}

impl HubId {
    /// Reads an id; `None` if the text cannot be one.
    pub fn parse(text: &str) -> Option<HubId> {
        let (owner, rest) = text.split_once('/')?;
        let (name, file) = rest.split_once('/').map_or((rest, None), |(name, file)| (name, Some(file)));
        let (name, revision) = name.split_once('@').map_or((name, None), |(n, r)| (n, Some(r)));
        let word = |s: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !s.is_empty() && s.len() <= 96 && s.chars().all(known) && !s.starts_with(['.', '-'])
        };
        let fits = word(owner)
            && word(name)
            && revision.is_none_or(word)
            && file.is_none_or(|f| safe_name(f) && f.to_ascii_lowercase().ends_with(".gguf"));
        let text = |part: &str| part.to_string();
        fits.then(|| HubId {
            owner: text(owner),
            name: text(name),
            revision: revision.map(text),
            file: file.map(text),
        })
    }

    /// `owner/name`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    fn folder(&self, cache: &Path) -> PathBuf {
        cache.join(format!("models--{}--{}", self.owner, self.name))
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        self.file.as_ref().map_or(Ok(()), |file| write!(f, "/{file}"))
    }
}

/// How much of a model is in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum State {
    /// Weights and configuration; a file that describes the tokenizer or the chats may be missing.
    Usable,
    /// Everything that a model of this kind needs.
    Complete,
}

/// The snapshot folder or GGUF file of `id` in the cache, if all of it is there; asks nobody.
pub fn cached(id: &HubId, settings: &HubSettings) -> Option<PathBuf> {
    look(id, settings).filter(|(state, _)| settings.offline || *state == State::Complete).map(|f| f.1)
}

fn look(id: &HubId, settings: &HubSettings) -> Option<(State, PathBuf)> {
    let folder = id.folder(&settings.cache_dir);
    let commit = fs::read_to_string(folder.join("refs").join(id.revision()))
        .map_or_else(|_| id.revision().to_string(), |text| text.trim().to_string());
    if !safe_name(&commit) {
        return None;
    }
    let snapshot = folder.join("snapshots").join(commit);
    if let Some(file) = &id.file {
        let path = snapshot.join(file);
        return path.is_file().then_some((State::Complete, path));
    }
    let has = |name: &str| snapshot.join(name).is_file();
    let weights = has(WEIGHTS)
        || fs::read(snapshot.join(INDEX))
            .ok()
            .and_then(|text| shards(&text))
            .is_some_and(|shards| shards.iter().all(|shard| has(shard)));
    if !(has(CONFIG) && weights) {
        return None;
    }
    let complete = has("tokenizer.json") && has("tokenizer_config.json");
    Some((if complete { State::Complete } else { State::Usable }, snapshot))
}

/// The snapshot folder or GGUF file of `id`: of the cache if it is there, else downloaded into it.
///
/// Of a folder come its `config.json`, its safetensors weights, and those of the files `beside` that the model has. `accepts`
/// reads the `config.json` before gigabytes are brought; its error ends the download.
pub fn fetch<E: From<Error>>(
    id: &HubId,
    settings: &HubSettings,
    beside: &[&str],
    accepts: impl FnOnce(&Path) -> Result<(), E>,
    on: &mut OnProgress,
) -> Result<PathBuf, E> {
    let found = look(id, settings);
    if let Some((state, path)) = &found
        && (settings.offline || *state == State::Complete)
    {
        return Ok(path.clone());
    }
    if settings.offline {
        return Err(not_here(id, settings).into());
    }
    let repository = Repository::new(id, settings)?;
    match (repository.fetch(beside, accepts, on), found) {
        (Err(Stopped::Here(Error::Network { url, problem, .. })), Some((_, path))) => {
            on(Progress::Message(&format!("{url}: {problem}; using what is in the cache")));
            Ok(path)
        }
        (Err(Stopped::Here(error)), _) => Err(error.into()),
        (Err(Stopped::Refused(error)), _) => Err(error),
        (Ok(path), _) => Ok(path),
    }
}

/// Why a download ended.
enum Stopped<E> {
    /// An error of this crate.
    Here(Error),
    /// The caller does not accept the model.
    Refused(E),
}

impl<E> From<Error> for Stopped<E> {
    fn from(error: Error) -> Self {
        Stopped::Here(error)
    }
}

/// The error for a model that only the network could bring.
fn not_here(id: &HubId, settings: &HubSettings) -> Error {
    let place = id.folder(&settings.cache_dir);
    let problem = format!("not (completely) in the cache {}, and the network is not used", place.display());
    network(&id.to_string(), problem)
        .with_hint("run once without --offline (and HF_HUB_OFFLINE), or give a local folder")
}

/// The `config.json` of `id`, of the cache or downloaded into it; nothing else is.
pub fn fetch_config(id: &HubId, settings: &HubSettings, on: &mut OnProgress) -> Result<PathBuf> {
    if let Some(path) = cached(id, settings).map(|folder| folder.join(CONFIG)).filter(|path| path.is_file()) {
        return Ok(path);
    }
    if settings.offline {
        return Err(not_here(id, settings));
    }
    let repository = Repository::new(id, settings)?;
    let (commit, files) = repository.files()?;
    if id.file.is_some() || !files.iter().any(|f| f == CONFIG) {
        let hint = "a plan needs config.json, or the .gguf file on this machine";
        return Err(repository.error(format!("no {CONFIG} in it")).with_hint(hint));
    }
    let path = repository.folder.join("snapshots").join(&commit).join(CONFIG);
    repository.file(&commit, CONFIG, &path, on)?;
    Ok(path)
}

/// A model on the hub.
struct Repository<'a> {
    id: &'a HubId,
    endpoint: String,
    authorization: Option<String>,
    client: Client,
    folder: PathBuf,
}

impl<'a> Repository<'a> {
    fn new(id: &'a HubId, settings: &'a HubSettings) -> Result<Self> {
        let (endpoint, login) = split_credentials(&settings.endpoint);
        Ok(Repository {
            id,
            endpoint: endpoint.trim_end_matches('/').to_string(),
            authorization: login.or_else(|| settings.token.as_ref().map(|token| format!("Bearer {token}"))),
            client: Client::new(&settings.net)?,
            folder: id.folder(&settings.cache_dir),
        })
    }

    fn fetch<E>(
        &self,
        beside: &[&str],
        accepts: impl FnOnce(&Path) -> Result<(), E>,
        on: &mut OnProgress,
    ) -> Result<PathBuf, Stopped<E>> {
        let (commit, files) = self.files()?;
        let snapshot = self.folder.join("snapshots").join(&commit);
        let mut take = |name: &str| self.file(&commit, name, &snapshot.join(name), on);
        if let Some(file) = &self.id.file {
            if !files.iter().any(|f| f == file) {
                let error = self.error(format!("no file `{file}` in it"));
                return Err(error.with_hint(ggufs(self.id, &files)).into());
            }
            take(file)?;
            self.set_ref(&commit)?;
            return Ok(snapshot.join(file));
        }
        let has = |name: &str| files.iter().any(|f| f == name);
        if !has(CONFIG) || !(has(WEIGHTS) || has(INDEX)) {
            let missing = if has(CONFIG) { WEIGHTS } else { CONFIG };
            let error = self.error(format!("no {missing} in it"));
            return Err(error.with_hint(ggufs(self.id, &files)).into());
        }
        take(CONFIG)?;
        accepts(&snapshot.join(CONFIG)).map_err(Stopped::Refused)?;
        for name in beside.iter().filter(|name| has(name)) {
            take(name)?;
        }
        if has(WEIGHTS) {
            take(WEIGHTS)?;
        } else {
            take(INDEX)?;
            let path = snapshot.join(INDEX);
            let text = fs::read(&path).map_err(|e| Error::io(&path, e))?;
            let shards =
                shards(&text).ok_or_else(|| Error::file(&path, "not an index of safetensors files"))?;
            for shard in shards {
                take(&shard)?;
            }
        }
        self.set_ref(&commit)?;
        Ok(snapshot)
    }

    /// The commit that the revision means, and the names of its files.
    fn files(&self) -> Result<(String, Vec<String>)> {
        let url =
            format!("{}/api/models/{}/revision/{}", self.endpoint, self.id.repository(), self.id.revision());
        let reply = self.client.get(&self.request(&url))?;
        self.refusal(&reply)?;
        let text = reply.read(API_LIMIT)?;
        let strange = || network(&url, "not an answer of a hub").with_hint("see HF_ENDPOINT");
        let json: Value = serde_json::from_slice(&text).map_err(|_| strange())?;
        let commit =
            json.get("sha").and_then(Value::as_str).filter(|sha| safe_name(sha)).ok_or_else(strange)?;
        let siblings = json.get("siblings").and_then(Value::as_array).ok_or_else(strange)?;
        let names = siblings.iter().filter_map(|s| s.get("rfilename")?.as_str());
        Ok((commit.to_string(), names.filter(|name| safe_name(name)).map(str::to_string).collect()))
    }

    /// Brings one file of a commit to `pointer` in its snapshot.
    fn file(&self, commit: &str, name: &str, pointer: &Path, on: &mut OnProgress) -> Result<()> {
        if pointer.is_file() {
            return Ok(());
        }
        let url = format!("{}/{}/resolve/{commit}/{}", self.endpoint, self.id.repository(), encoded(name));
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
        let blob = self.folder.join("blobs").join(blob);
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
        link(&blob, pointer, &self.folder)
    }

    fn request<'b>(&'b self, url: &'b str) -> Request<'b> {
        Request { url, authorization: self.authorization.as_deref(), headers: &[] }
    }

    fn set_ref(&self, commit: &str) -> Result<()> {
        if self.id.revision() == commit {
            return Ok(());
        }
        let refs = self.folder.join("refs");
        fs::create_dir_all(&refs).map_err(|e| Error::io(&refs, e))?;
        write_atomic(&refs.join(self.id.revision()), commit.as_bytes())
    }

    fn error(&self, problem: impl Into<String>) -> Error {
        network(&format!("{}/{}", self.endpoint, self.id.repository()), problem)
    }

    /// Statuses in the words of the hub's own error codes.
    fn refusal(&self, reply: &Reply) -> Result<()> {
        if reply.status < 400 {
            return Ok(());
        }
        let page = public(&format!("{}/{}", self.endpoint, self.id.repository()));
        let token = if self.authorization.is_some() { "the token that is set" } else { "no token" };
        let error = match (reply.header("x-error-code").unwrap_or_default(), reply.status) {
            ("GatedRepo", _) => self
                .error(format!("the model is gated, and {token} does not open it"))
                .with_hint(format!("accept its terms at {page}, then set HF_TOKEN to your access token")),
            ("RevisionNotFound", _) => self
                .error(format!("no revision `{}`", self.id.revision()))
                .with_hint("a revision is a branch, tag or commit"),
            ("EntryNotFound", _) => status_error(&reply.url, reply.status),
            ("RepoNotFound", _) | (_, 401 | 404) => self
                .error(format!("no such model, or a private one ({}, asked with {token})", reply.status))
                .with_hint("check the spelling of owner/name; for a private model set HF_TOKEN"),
            (_, 403) => self
                .error(format!("the hub refuses (403, asked with {token})"))
                .with_hint("set HF_TOKEN to an access token that may read the model"),
            _ => status_error(&reply.url, reply.status),
        };
        Err(error)
    }
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

/// The shard files that an index names, sorted; `None` if it is not an index or names a file outside its folder.
fn shards(text: &[u8]) -> Option<Vec<String>> {
    // Some editors put a byte order mark before UTF-8.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let json: Value = serde_json::from_slice(text).ok()?;
    let map = json.get("weight_map")?.as_object()?;
    let mut names = map.values().map(|v| v.as_str().map(str::to_string)).collect::<Option<Vec<_>>>()?;
    names.sort_unstable();
    names.dedup();
    names.iter().all(|name| safe_name(name)).then_some(names)
}

/// Whether a name from outside stays below its folder.
fn safe_name(name: &str) -> bool {
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

/// What could be taken instead.
fn ggufs(id: &HubId, files: &[String]) -> String {
    let repository = id.repository();
    let found: Vec<String> = files
        .iter()
        .filter(|f| f.to_ascii_lowercase().ends_with(".gguf"))
        .map(|f| format!("{repository}/{f}"))
        .collect();
    match found.len() {
        0 => "config.json with safetensors weights, or a .gguf file, is needed".to_string(),
        n if n > 12 => format!("it has {n} GGUF files; one of them: {}", found[0]),
        _ => format!("it has GGUF files: {}", found.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for good in
            ["a/b", "HuggingFaceTB/SmolLM2-135M-Instruct", "a/b@v1.0", "a/b/c.gguf", "a/b@main/d/c.Q4_1.GGUF"]
        {
            assert_eq!(HubId::parse(good).map(|id| id.to_string()).as_deref(), Some(good));
        }
        for bad in [
            "gpt2",
            "./a",
            "../a",
            "/a/b",
            "a/",
            "a/b/c",
            "a/b/../c.gguf",
            "a b/c",
            "a/b@",
            "~/x",
            "a/b@../x",
            "a\\b/c",
        ] {
            assert_eq!(HubId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_from_outside_stay_inside() {
        for bad in ["../x", "/x", "a//b", "a/../b", "C:x", "a\\b", "", "."] {
            assert!(!safe_name(bad), "{bad}");
        }
        assert!(safe_name("a/b-00001-of-00002.safetensors"));
        assert_eq!(shards(br#"{"weight_map": {"a": "../../x"}}"#), None);
        assert_eq!(encoded("a b/c#.gguf"), "a%20b/c%23.gguf");
    }
}
