//! The folder of a run: what training writes while it goes on, and the checkpoints that it can resume from.
//!
//! A checkpoint appears whole or not at all: it is written under a hidden name and renamed at the end.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::atomic::{write_atomic, write_folder};
use crate::{Error, Result};

/// Name of the metrics file.
pub const METRICS: &str = "metrics.jsonl";

/// A run's folder.
#[derive(Debug, Clone)]
pub struct RunFolder {
    dir: PathBuf,
}

impl RunFolder {
    /// The folder at `dir`, which is not made yet; one that holds a run already is refused unless it is to be resumed.
    pub fn at(dir: &Path, resume: bool) -> Result<Self> {
        let holds_a_run =
            dir.join("run.yaml").exists() || dir.join(METRICS).exists() || dir.join("checkpoints").exists();
        if holds_a_run && !resume {
            return Err(Error::file(dir, "the folder holds a run already")
                .with_hint("go on with it by --resume, or set output.dir to another folder"));
        }
        Ok(RunFolder { dir: dir.to_path_buf() })
    }

    /// Makes the folder if it is not there. A run that is refused leaves nothing, so this comes after all checks.
    pub fn make(&self) -> Result<()> {
        let checkpoints = self.dir.join("checkpoints");
        fs::create_dir_all(&checkpoints).map_err(|e| Error::io(&checkpoints, e))
    }

    /// [`RunFolder::at`] and [`RunFolder::make`].
    pub fn create(dir: &Path, resume: bool) -> Result<Self> {
        let folder = Self::at(dir, resume)?;
        folder.make()?;
        Ok(folder)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Writes a file of the folder whole.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        write_atomic(&self.dir.join(name), content)
    }

    /// Appends a line to the metrics.
    pub fn append_metrics(&self, record: &impl Serialize) -> Result<()> {
        let path = self.dir.join(METRICS);
        let mut line = serde_json::to_string(record).map_err(|e| Error::file(&path, e.to_string()))?;
        line.push('\n');
        let mut file =
            OpenOptions::new().create(true).append(true).open(&path).map_err(|e| Error::io(&path, e))?;
        file.write_all(line.as_bytes()).map_err(|e| Error::io(&path, e))
    }

    /// Drops all that was written after `step`, which a resumed run will write again: lines of metrics, checkpoints,
    /// and what a killed run left half-written. `None` drops everything.
    pub fn rewind(&self, step: Option<usize>) -> Result<()> {
        let stays = |s: usize| step.is_some_and(|step| s <= step);
        for (s, path) in self.checkpoints() {
            if !stays(s) {
                fs::remove_dir_all(&path).map_err(|e| Error::io(&path, e))?;
            }
        }
        for hidden in self.entries().filter(|p| p.extension().is_some_and(|e| e == "tmp")) {
            fs::remove_dir_all(&hidden).map_err(|e| Error::io(&hidden, e))?;
        }
        let path = self.dir.join(METRICS);
        if !path.exists() {
            return Ok(());
        }
        let mut kept = String::new();
        for (line, record) in self.metrics() {
            if record["step"].as_u64().is_some_and(|s| stays(s as usize)) {
                kept.push_str(&line);
                kept.push('\n');
            }
        }
        write_atomic(&path, kept.as_bytes())
    }

    /// The last number of the metrics under this key.
    pub fn last_metric(&self, key: &str) -> Option<f64> {
        self.metrics().iter().rev().find_map(|(_, record)| record[key].as_f64())
    }

    /// The whole lines of the metrics; one that was cut off by a crash is no record.
    fn metrics(&self) -> Vec<(String, Value)> {
        let text = fs::read_to_string(self.dir.join(METRICS)).unwrap_or_default();
        text.lines().filter_map(|line| Some((line.to_string(), serde_json::from_str(line).ok()?))).collect()
    }

    fn checkpoints(&self) -> Vec<(usize, PathBuf)> {
        let step = |p: &Path| p.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok();
        let mut found: Vec<(usize, PathBuf)> = self.entries().filter_map(|p| Some((step(&p)?, p))).collect();
        found.sort();
        found
    }

    /// Everything in the folder of checkpoints.
    fn entries(&self) -> impl Iterator<Item = PathBuf> {
        let folder = fs::read_dir(self.dir.join("checkpoints"));
        folder.into_iter().flatten().flatten().map(|e| e.path())
    }

    /// The newest checkpoint that `whole` accepts.
    pub fn newest_checkpoint(&self, whole: impl Fn(&Path) -> bool) -> Option<(usize, PathBuf)> {
        self.checkpoints().into_iter().rev().find(|(_, path)| whole(path))
    }

    /// Lets `write` fill a checkpoint's folder, makes it visible, and deletes all but the `keep` newest.
    pub fn checkpoint(
        &self,
        step: usize,
        keep: usize,
        write: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let path = self.dir.join("checkpoints").join(format!("step-{step}"));
        write_folder(&path, write)?;
        let found = self.checkpoints();
        for (_, old) in &found[..found.len().saturating_sub(keep.max(1))] {
            fs::remove_dir_all(old).map_err(|e| Error::io(old, e))?;
        }
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_failed_checkpoint_leaves_the_last_one() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunFolder::create(&dir.path().join("run"), false).unwrap();
        let fill = |p: &Path| write_atomic(&p.join("a"), b"x");
        for step in [2, 10, 9] {
            run.checkpoint(step, 2, fill).unwrap();
        }
        let newest = |whole: fn(&Path) -> bool| run.newest_checkpoint(whole).map(|c| c.0);
        assert_eq!(newest(|_| true), Some(10));
        assert_eq!(newest(|p| !p.ends_with("step-10")), Some(9), "a broken one is passed over");
        assert_eq!(run.checkpoints().len(), 2, "only the newest are kept");
        assert!(run.checkpoint(11, 2, |p| Err(Error::file(p, "planted"))).is_err());
        assert_eq!(newest(|_| true), Some(10));
        assert_eq!(
            fs::read_dir(run.path().join("checkpoints")).unwrap().count(),
            2,
            "no half folder is left"
        );
        run.rewind(Some(9)).unwrap();
        assert_eq!(newest(|_| true), Some(9), "what comes later will be written again");
    }

    #[test]
    fn a_used_folder_is_refused_and_metrics_are_rewound() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunFolder::create(dir.path(), false).unwrap();
        for step in 1..=5 {
            run.append_metrics(&json!({"step": step})).unwrap();
        }
        assert!(RunFolder::create(dir.path(), false).unwrap_err().to_string().contains("holds a run"));
        let resumed = RunFolder::create(dir.path(), true).unwrap();
        let lines = || fs::read_to_string(dir.path().join(METRICS)).unwrap().lines().count();
        resumed.rewind(Some(3)).unwrap();
        assert_eq!(lines(), 3);
        assert_eq!(resumed.last_metric("step"), Some(3.0));
        resumed.rewind(None).unwrap();
        assert_eq!(lines(), 0, "a run without a checkpoint starts over");
    }
}
