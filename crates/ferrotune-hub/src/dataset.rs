//! Data sets of the Hugging Face hub: the files of a commit, brought one by one into the cache that other programs share.
//!
//! Which files belong to a split is not decided here. The list of a commit's files is kept as `huggingface_hub` keeps it,
//! so a data set of which all that is needed lies in the cache is used without asking the hub; delete its folder to
//! renew it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::hub::{HubSettings, word};
use crate::net::{OnProgress, Progress};
use crate::repository::{Kind, Place, Repository, safe_name};
use crate::{Error, Result};

/// The branch that the hub keeps of a data set with all rows as Parquet: `CONFIG/SPLIT/0000.parquet`.
pub const CONVERTED: &str = "refs/convert/parquet";

/// `owner/name`, or the `name` of one of the hub's first data sets, at a revision.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DatasetId {
    repository: String,
    revision: String,
}

impl DatasetId {
    /// An id of one or two words; a revision is a branch, tag or commit, `main` if absent. `None` if they cannot be such.
    pub fn new(repository: &str, revision: Option<&str>) -> Option<DatasetId> {
        let (owner, name) = repository.split_once('/').unwrap_or((repository, repository));
        let revision = revision.unwrap_or("main");
        let fits = word(owner) && word(name) && safe_name(revision) && revision.split('/').all(word);
        fits.then(|| DatasetId { repository: repository.to_string(), revision: revision.to_string() })
    }

    /// `owner/name` or `name`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }
}

/// A commit of a data set: the names of its files, of which some are here.
pub struct Snapshot<'a> {
    settings: &'a HubSettings,
    place: Place,
    commit: String,
    files: Vec<String>,
    listed: bool,
    repository: Option<Repository>,
}

impl<'a> Snapshot<'a> {
    /// Finds the commit and its files: in the cache if it has both, else at the hub.
    ///
    /// # Errors
    /// The hub is not reached, does not give the data set, or may not be asked, and the cache has no commit of it.
    pub fn open(id: &DatasetId, settings: &'a HubSettings, on: &mut OnProgress) -> Result<Self> {
        let place = Place::new(Kind::Dataset, id.repository.clone(), &id.revision, &settings.cache_dir);
        let kept = place.commit().filter(|commit| place.snapshot(commit).is_dir());
        let mut snapshot = Snapshot {
            settings,
            commit: kept.clone().unwrap_or_default(),
            files: Vec::new(),
            listed: true,
            repository: None,
            place,
        };
        if let Some(files) = kept.as_ref().and_then(|commit| snapshot.place.kept_list(commit)) {
            snapshot.files = files;
            return Ok(snapshot);
        }
        let asked = if settings.offline { Err(snapshot.not_here()) } else { snapshot.ask() };
        match (asked, kept) {
            (Err(Error::Network { url, problem, .. }), Some(commit)) => {
                if !settings.offline {
                    on(Progress::Message(&format!("{url}: {problem}; using what is in the cache")));
                }
                (snapshot.files, snapshot.listed) = (below(&snapshot.place.snapshot(&commit))?, false);
            }
            (asked, _) => asked?,
        }
        Ok(snapshot)
    }

    fn ask(&mut self) -> Result<()> {
        let repository = Repository::new(self.place.clone(), self.settings)?;
        let (commit, _) = repository.about()?;
        self.files = match self.place.kept_list(&commit) {
            Some(files) => files,
            None => repository.list(&commit)?,
        };
        (self.commit, self.repository) = (commit, Some(repository));
        Ok(())
    }

    /// The commit.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// The names of its files, sorted: paths with `/`, as the hub has them.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// Whether these are all files of the commit. Otherwise they are those that another program left in the cache, and the
    /// hub could not be asked.
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// One of the files on this machine: of the cache, else downloaded into it.
    pub fn bring(&mut self, name: &str, on: &mut OnProgress) -> Result<PathBuf> {
        let here = self.place.snapshot(&self.commit).join(name);
        if safe_name(name) && here.is_file() {
            return Ok(here);
        }
        if self.settings.offline && safe_name(name) {
            return Err(self.not_here());
        }
        let repository = match self.repository.take() {
            Some(repository) => repository,
            None => Repository::new(self.place.clone(), self.settings)?,
        };
        self.repository.insert(repository).file(&self.commit, name, on)
    }

    /// Lets the revision mean this commit from now on. For when all that is needed of it is here.
    pub fn keep(&self) -> Result<()> {
        self.place.set_ref(&self.commit)
    }

    /// An error about the data set.
    pub fn error(&self, problem: impl Into<String>) -> Error {
        let problem = problem.into();
        Error::Network { url: format!("data set {}", self.place.name), problem, hint: None }
    }

    fn not_here(&self) -> Error {
        self.place.not_here(&format!("data set {}", self.place.name))
    }
}

/// The names of all files below a folder, sorted.
fn below(folder: &Path) -> Result<Vec<String>> {
    let (mut names, mut open) = (Vec::new(), vec![(folder.to_path_buf(), String::new())]);
    while let Some((path, prefix)) = open.pop() {
        for entry in fs::read_dir(&path).map_err(|e| Error::io(&path, e))?.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let (path, name) = (entry.path(), format!("{prefix}{name}"));
            // Files are links; folders are folders.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push((path, format!("{name}/"))),
                _ if path.is_file() => names.push(name),
                _ => {}
            }
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for revision in ["main", "v1.0", "refs/convert/parquet", "refs/pr/3"] {
            let id = DatasetId::new("a/b", Some(revision)).unwrap();
            assert_eq!((id.repository(), id.revision()), ("a/b", revision));
        }
        assert_eq!(DatasetId::new("a/b", None).unwrap().revision(), "main");
        assert_eq!(
            DatasetId::new("squad", None).unwrap().repository(),
            "squad",
            "the oldest sets have no owner"
        );
        for (name, revision) in [
            ("", None),
            ("..", None),
            ("a/b/c", None),
            ("../b", None),
            ("a/b", Some("../x")),
            ("a/b", Some("x//y")),
            ("a/b", Some("")),
        ] {
            assert_eq!(DatasetId::new(name, revision), None, "{name} {revision:?}");
        }
    }
}
