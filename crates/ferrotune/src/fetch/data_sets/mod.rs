//! Data sets of the hub in the place of files of rows.
//!
//! What a run file calls `owner/name`, with a config, a split and a revision, becomes files in the hub's cache before any
//! row is read. Which files those are is decided as `datasets` 5.2 decides it: by the `configs` of the README, else by the
//! names of files and folders. Where a repository has nothing that is read here, as with a loading script, the hub's own
//! Parquet branch is taken.

mod card;
mod choose;
mod name;
mod splits;

use std::path::Path;

use ferrotune_hub::dataset::{CONVERTED, DatasetId, Snapshot};
use ferrotune_hub::hub::HubSettings;
use serde::Serialize;

use super::net::OnProgress;
use crate::run_config::{EvalSource, RunConfig, matches};
use crate::{Error, Result};
use card::CardConfig;
use choose::{Choice, Problem};
use name::Name;

/// A data set of the hub that rows come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DataSet {
    /// `owner/name`.
    pub data_set: String,
    /// The branch, tag or commit that was asked for, or the branch of converted files.
    pub revision: String,
    /// The commit that it meant.
    pub commit: String,
    /// The config; none where files were named.
    pub config: Option<String>,
    /// The split; none where files were named.
    pub split: Option<String>,
    /// Names of the files that were taken.
    pub files: Vec<String>,
    /// These files on this machine.
    #[serde(skip)]
    pub paths: Vec<String>,
}

/// A configuration whose rows are on this machine.
pub struct Located {
    /// The same configuration with paths of this machine in the place of names of data sets. For reading rows, and for
    /// nothing else: what is recorded of a run is what the user wrote.
    pub config: RunConfig,
    /// The data sets.
    pub data_sets: Vec<DataSet>,
}

/// Brings the data sets that the section `data` names. `settings` is only asked for if it names one.
///
/// # Errors
/// A data set, config, split or file that is not there; a download that does not work.
pub fn locate(
    config: &RunConfig,
    settings: &dyn Fn() -> HubSettings,
    on: &mut OnProgress,
) -> Result<Located> {
    let mut located = Located { config: config.clone(), data_sets: Vec::new() };
    let data = &mut located.config.data;
    let mut take = |key: &str, paths: &mut Vec<String>| -> Result<()> {
        let (found, sets) = locate_paths(key, paths, settings, on)?;
        *paths = found;
        located.data_sets.extend(sets);
        Ok(())
    };
    take("data.train", &mut data.train)?;
    if let EvalSource::Files(files) = &mut data.eval {
        take("data.eval", files)?;
    }
    for source in &mut data.sources {
        let wrong = |problem: String| Error::config("data.sources", problem);
        let name = named("data.sources", &source.path)?;
        match name {
            Some(name) => {
                let name = name.with(source).map_err(wrong)?;
                let set = fetch("data.sources", &name, &settings(), on)?;
                source.files.clone_from(&set.paths);
                located.data_sets.push(set);
            }
            None if source.of_the_hub() => return Err(not_of_the_hub("data.sources", &source.path)),
            None => {}
        }
    }
    Ok(located)
}

/// The same for a list of paths; `key` is the key or option that has them.
pub fn locate_paths(
    key: &str,
    paths: &[String],
    settings: &dyn Fn() -> HubSettings,
    on: &mut OnProgress,
) -> Result<(Vec<String>, Vec<DataSet>)> {
    let (mut here, mut sets) = (Vec::new(), Vec::new());
    for path in paths {
        match named(key, path)? {
            Some(name) => {
                let set = fetch(key, &name, &settings(), on)?;
                here.extend(set.paths.iter().cloned());
                sets.push(set);
            }
            None => here.push(path.clone()),
        }
    }
    Ok((here, sets))
}

/// The data set that a text names, unless it is a path that is there.
fn named(key: &str, text: &str) -> Result<Option<Name>> {
    let name = Name::parse(text).map_err(|problem| Error::config(key, format!("`{text}`: {problem}")))?;
    let Some(name) = name else { return Ok(None) };
    if name.at_hub {
        return Ok(Some(name));
    }
    let there = |path: &str| {
        Path::new(path).exists() || matches(Path::new(path)).is_ok_and(|mut m| m.next().is_some())
    };
    if there(text) {
        return Ok(None);
    }
    match name.split.is_some() && there(&name.repository) {
        true => Err(not_of_the_hub(key, &name.repository)),
        false => Ok(Some(name)),
    }
}

fn not_of_the_hub(key: &str, path: &str) -> Error {
    Error::config(key, format!("config, split and revision are for data sets of the hub; `{path}` is a path"))
        .with_hint("a data set is owner/name, name or hf://datasets/owner/name")
}

/// Brings what a name stands for.
fn fetch(key: &str, name: &Name, settings: &HubSettings, on: &mut OnProgress) -> Result<DataSet> {
    let id =
        name.id().ok_or_else(|| Error::config(key, format!("`{name}` is no data set with a revision")))?;
    let mut snapshot = Snapshot::open(&id, settings, on).map_err(|e| not_brought(e.into(), name))?;
    // What a path of the repository says, no card changes.
    let card = if name.inside.is_none() { card(&mut snapshot, on) } else { Ok(Vec::new()) };
    let choice = choose::choose(snapshot.files(), &card.map_err(|e| not_brought(e, name))?, name);
    match choice {
        Err(Problem::Unreadable(problem)) if name.revision.is_none() && name.inside.is_none() => {
            let at_branch = Name { revision: Some(CONVERTED.into()), ..name.clone() };
            let branch = at_branch.id().map_or_else(
                || Err(snapshot.error("no such branch")),
                |id| Snapshot::open(&id, settings, on),
            );
            let branch = branch.map_err(|error| {
                refused(
                    key,
                    name,
                    Problem::Unreadable(format!("{problem}; of its branch {CONVERTED}: {error}")),
                )
            })?;
            snapshot.keep()?;
            let choice =
                choose::converted(branch.files(), name).map_err(|problem| refused(key, name, problem))?;
            bring(key, name, CONVERTED, branch, choice, on)
        }
        choice => {
            let choice = choice.map_err(|problem| refused(key, name, problem))?;
            bring(key, name, id.revision(), snapshot, choice, on)
        }
    }
}

/// Brings the files of a choice, and lets the revision mean their commit when all are here.
fn bring(
    key: &str,
    name: &Name,
    revision: &str,
    mut snapshot: Snapshot<'_>,
    choice: Choice,
    on: &mut OnProgress,
) -> Result<DataSet> {
    if !snapshot.is_listed()
        && let Some(missing) = splits::missing_shard(&choice.files)
    {
        let problem = format!("`{missing}` is not in the cache, and the hub was not asked");
        return Err(Error::config(key, format!("`{name}`: {problem}")).with_hint("run once with the network"));
    }
    let paths =
        choice.files.iter().map(|file| snapshot.bring(file, on).map(|path| path.display().to_string()));
    let paths = paths.collect::<ferrotune_hub::Result<Vec<_>>>().map_err(|e| not_brought(e.into(), name))?;
    snapshot.keep()?;
    Ok(DataSet {
        data_set: name.repository.clone(),
        revision: revision.to_string(),
        commit: snapshot.commit().to_string(),
        config: choice.config,
        split: choice.split,
        files: choice.files,
        paths,
    })
}

/// The configs that the README declares, and over it `.huggingface.yaml`.
fn card(snapshot: &mut Snapshot<'_>, on: &mut OnProgress) -> Result<Vec<CardConfig>> {
    for file in [".huggingface.yaml", "README.md"] {
        if !snapshot.files().iter().any(|f| f == file) {
            continue;
        }
        let path = snapshot.bring(file, on)?;
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let text = String::from_utf8_lossy(&bytes);
        let yaml = if file == "README.md" { card::head(&text).unwrap_or_default() } else { &text };
        let found = card::configs(yaml).map_err(|problem| Error::file(&path, problem))?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

/// A download that did not work; the name may have been meant as a path.
fn not_brought(error: Error, name: &Name) -> Error {
    match error {
        Error::Network { url, problem, hint } if !name.at_hub => {
            let hint = hint.map_or_else(String::new, |hint| format!("{hint}; "));
            let hint = format!("{hint}there is no file or folder `{name}` either");
            Error::Network { url, problem, hint: Some(hint) }
        }
        error => error,
    }
}

/// A choice that cannot be made.
fn refused(key: &str, name: &Name, problem: Problem) -> Error {
    let (problem, hint) = match problem {
        Problem::Unreadable(problem) => (
            problem,
            "rows are read from JSON Lines, JSON, CSV, TSV, text and Parquet; a file of the repository can be named as \
             hf://datasets/owner/name/file"
                .to_string(),
        ),
        Problem::Refused(problem, hint) => (problem, hint),
    };
    Error::config(key, format!("data set {}: {problem}", name.repository)).with_hint(hint)
}

#[cfg(test)]
mod tests;
