//! Models of the Hugging Face hub, in the cache that other programs share.
//!
//! The cache has the hub's own layout, `models--OWNER--NAME/{refs,blobs,snapshots}`, so a model that any tool brought
//! is used as it is, and what is brought here is found by other tools. A snapshot is one commit: all files of a model
//! come from the same one. What is in the cache is used without asking the hub; delete the model's folder to renew it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::net::{NetSettings, OnProgress, Progress};
use crate::repository::{Kind, Place, Repository, safe_name};
use crate::{Error, Result};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Where the hub is and where its models and data sets are kept.
#[derive(Clone)]
pub struct HubSettings {
    /// Address of the hub or of a mirror of it.
    pub endpoint: String,
    /// The cache of all repositories (`~/.cache/huggingface/hub`).
    pub cache_dir: PathBuf,
    /// Access token for private and gated repositories.
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

    fn place(&self, settings: &HubSettings) -> Place {
        Place::new(Kind::Model, self.repository(), self.revision(), &settings.cache_dir)
    }
}

/// Whether a text can be an owner, a name or a simple revision.
pub(crate) fn word(text: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.len() <= 96 && text.chars().all(known) && !text.starts_with(['.', '-'])
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
    let place = id.place(settings);
    let snapshot = place.snapshot(&place.commit()?);
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
        return Err(id.place(settings).not_here(&id.to_string()).into());
    }
    let repository = Repository::new(id.place(settings), settings)?;
    match (bring(&repository, id, beside, accepts, on), found) {
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

/// The `config.json` of `id`, of the cache or downloaded into it; nothing else is.
pub fn fetch_config(id: &HubId, settings: &HubSettings, on: &mut OnProgress) -> Result<PathBuf> {
    if let Some(path) = cached(id, settings).map(|folder| folder.join(CONFIG)).filter(|path| path.is_file()) {
        return Ok(path);
    }
    if settings.offline {
        return Err(id.place(settings).not_here(&id.to_string()));
    }
    let repository = Repository::new(id.place(settings), settings)?;
    let (commit, files) = files(&repository)?;
    if id.file.is_some() || !files.iter().any(|f| f == CONFIG) {
        let hint = "a plan needs config.json, or the .gguf file on this machine";
        return Err(repository.error(format!("no {CONFIG} in it")).with_hint(hint));
    }
    repository.file(&commit, CONFIG, on)
}

/// The commit of a model, and the names of its files.
fn files(repository: &Repository) -> Result<(String, Vec<String>)> {
    let (commit, about) = repository.about()?;
    let siblings = about.get("siblings").and_then(Value::as_array);
    let names = siblings.into_iter().flatten().filter_map(|s| s.get("rfilename")?.as_str());
    Ok((commit, names.filter(|name| safe_name(name)).map(str::to_string).collect()))
}

/// Brings a model and lets its revision mean the commit of it.
fn bring<E>(
    repository: &Repository,
    id: &HubId,
    beside: &[&str],
    accepts: impl FnOnce(&Path) -> Result<(), E>,
    on: &mut OnProgress,
) -> Result<PathBuf, Stopped<E>> {
    let (commit, files) = files(repository)?;
    let mut take = |name: &str| repository.file(&commit, name, on);
    let has = |name: &str| files.iter().any(|f| f == name);
    if let Some(file) = &id.file {
        if !has(file) {
            let error = repository.error(format!("no file `{file}` in it"));
            return Err(error.with_hint(ggufs(id, &files)).into());
        }
        let path = take(file)?;
        repository.place.set_ref(&commit)?;
        return Ok(path);
    }
    if !has(CONFIG) || !(has(WEIGHTS) || has(INDEX)) {
        let missing = if has(CONFIG) { WEIGHTS } else { CONFIG };
        let error = repository.error(format!("no {missing} in it"));
        return Err(error.with_hint(ggufs(id, &files)).into());
    }
    accepts(&take(CONFIG)?).map_err(Stopped::Refused)?;
    for name in beside.iter().filter(|name| has(name)) {
        take(name)?;
    }
    if has(WEIGHTS) {
        take(WEIGHTS)?;
    } else {
        let path = take(INDEX)?;
        let text = fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let shards = shards(&text).ok_or_else(|| Error::file(&path, "not an index of safetensors files"))?;
        for shard in shards {
            take(&shard)?;
        }
    }
    repository.place.set_ref(&commit)?;
    Ok(repository.place.snapshot(&commit))
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
        assert_eq!(shards(br#"{"weight_map": {"a": "../../x"}}"#), None);
    }
}
