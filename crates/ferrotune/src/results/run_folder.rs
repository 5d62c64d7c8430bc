//! The folder of a run: what training writes while it goes on, and the checkpoints that it can resume from.
//!
//! A folder belongs to one run: others are refused before anything in them is touched, and one process at a time works
//! in it. A checkpoint appears whole or not at all: it is written under a hidden name and renamed at the end. The last
//! good one stays until a newer one is whole.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use ferrotune_kernels::Threads;
use serde::Serialize;
use serde_json::Value;

use super::manifest::{self, Digests, Verdict};
use super::train_state::{self, TrainState};
use crate::formats::atomic::{sync_folder, write_atomic, write_folder};
use crate::{Error, Result};

/// Name of the metrics file.
pub(crate) const METRICS: &str = "metrics.jsonl";

/// The file that marks the folder of a run, locked while a process works in it.
const LOCK: &str = ".ferrotune-run";

/// Folder of the checkpoints.
const CHECKPOINTS: &str = "checkpoints";

/// What a restarted run begins without.
const STATE_OF_A_RUN: [&str; 4] = [CHECKPOINTS, METRICS, "run.yaml", "receipt.json"];

/// How a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// In a folder that is empty or not there.
    New,
    /// From the newest checkpoint of the folder, or at step 0 if there is none.
    Resume,
    /// At step 0; what a run in this folder had reached is kept aside, in `previous-1` and so on.
    Restart,
}

/// A run's folder.
#[derive(Debug)]
pub struct RunFolder {
    dir: PathBuf,
    begin: Begin,
    /// Held as long as this process works in the folder.
    lock: Option<File>,
}

/// A checkpoint to go on from; its files were compared with their hashes.
#[derive(Debug)]
pub struct ResumePoint {
    /// Its folder.
    pub path: PathBuf,
    /// Where the run stood.
    pub state: TrainState,
    /// Newer checkpoints that are damaged, and how.
    pub damaged: Vec<(PathBuf, String)>,
}

impl RunFolder {
    /// The folder at `dir`, which is not made yet. A folder that holds a run already is refused unless the run is to be
    /// resumed or restarted; one that holds anything else always is.
    pub fn at(dir: &Path, begin: Begin) -> Result<Self> {
        let mut folder = RunFolder { dir: dir.to_path_buf(), begin, lock: None };
        let found = entries_of(dir)?;
        if found.is_empty() {
            return Ok(folder);
        }
        if !folder.holds_a_run() {
            let shown = found.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
            let more = if found.len() > 3 { ", ..." } else { "" };
            let problem = format!("the folder holds files that are not a run's: {shown}{more}");
            return Err(Error::file(dir, problem)
                .with_hint("set output.dir to a new folder: results are written beside nothing else"));
        }
        // Whoever works there is named first.
        folder.lock()?;
        if begin == Begin::New {
            return Err(Error::file(dir, "the folder holds a run already").with_hint(
                "go on with it by --resume, begin anew in it by --restart, or set output.dir to another folder",
            ));
        }
        Ok(folder)
    }

    fn holds_a_run(&self) -> bool {
        let has = |name: &str| self.dir.join(name).exists();
        has(LOCK) || (has(CHECKPOINTS) && has(METRICS))
    }

    /// Makes the folder if it is not there. A run that is refused leaves nothing, so this comes after all checks.
    pub fn make(&mut self) -> Result<()> {
        fs::create_dir_all(&self.dir).map_err(|e| Error::io(&self.dir, e))?;
        self.lock()?;
        if self.begin == Begin::Restart {
            self.put_aside()?;
        }
        let checkpoints = self.dir.join(CHECKPOINTS);
        fs::create_dir_all(&checkpoints).map_err(|e| Error::io(&checkpoints, e))
    }

    /// [`RunFolder::at`] and [`RunFolder::make`].
    pub fn create(dir: &Path, begin: Begin) -> Result<Self> {
        let mut folder = Self::at(dir, begin)?;
        folder.make()?;
        Ok(folder)
    }

    /// Lets no other process work in the folder as long as this value lives.
    fn lock(&mut self) -> Result<()> {
        if self.lock.is_some() {
            return Ok(());
        }
        let path = self.dir.join(LOCK);
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| Error::io(&path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let who = fs::read_to_string(&path).unwrap_or_default();
                let who = who.trim();
                let who = if who.is_empty() { "another process".into() } else { format!("process {who}") };
                return Err(Error::file(&self.dir, format!("{who} is training in this folder"))
                    .with_hint("wait until it has ended, or set output.dir to another folder"));
            }
            // Some network file systems have no locks.
            Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(e)) => return Err(Error::io(&path, e)),
        }
        // For the message above; the lock itself ends with the process, however it ends.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        self.lock = Some(file);
        Ok(())
    }

    /// Moves what a run had reached into a folder of its own.
    fn put_aside(&self) -> Result<()> {
        let there: Vec<&str> =
            STATE_OF_A_RUN.into_iter().filter(|name| self.dir.join(name).exists()).collect();
        let names = (1..).map(|n| self.dir.join(format!("previous-{n}")));
        let Some(aside) = names.into_iter().find(|path| !path.exists()).filter(|_| !there.is_empty()) else {
            return Ok(());
        };
        fs::create_dir(&aside).map_err(|e| Error::io(&aside, e))?;
        for name in there {
            let from = self.dir.join(name);
            fs::rename(&from, aside.join(name)).map_err(|e| Error::io(&from, e))?;
        }
        sync_folder(&self.dir.join(LOCK));
        Ok(())
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Refuses a base that lies in this folder: results would replace the files that they are made from.
    pub fn refuse_base(&self, base: &Path) -> Result<()> {
        let (Ok(dir), Ok(base)) = (self.dir.canonicalize(), base.canonicalize()) else { return Ok(()) };
        if base == dir || base.parent() == Some(&dir) {
            return Err(Error::file(
                &self.dir,
                "the base model lies in this folder, where results are written",
            )
            .with_hint("set output.dir to another folder"));
        }
        Ok(())
    }

    /// Writes a file of the folder whole.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        write_atomic(&self.dir.join(name), content)
    }

    /// Appends a line to the metrics.
    pub(crate) fn append_metrics(&self, record: &impl Serialize) -> Result<()> {
        let path = self.dir.join(METRICS);
        let mut line = serde_json::to_string(record).map_err(|e| Error::file(&path, e.to_string()))?;
        line.push('\n');
        let mut file =
            OpenOptions::new().create(true).append(true).open(&path).map_err(|e| Error::io(&path, e))?;
        file.write_all(line.as_bytes()).map_err(|e| Error::io(&path, e))
    }

    /// Brings the metrics to the disk: a checkpoint must not outlive the lines of its steps.
    fn sync_metrics(&self) -> Result<()> {
        let path = self.dir.join(METRICS);
        match OpenOptions::new().append(true).open(&path) {
            Ok(file) => file.sync_all().map_err(|e| Error::io(&path, e))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io(&path, e)),
        }
        sync_folder(&path);
        Ok(())
    }

    /// Drops lines of metrics after `step`, which a resumed run will write again, and what a killed run left
    /// half-written; `None` drops all lines. Checkpoints stay.
    pub(crate) fn rewind(&self, step: Option<usize>) -> Result<()> {
        let stays = |s: usize| step.is_some_and(|step| s <= step);
        for hidden in self.checkpoint_entries()?.into_iter().filter(|p| p.extension() == Some("tmp".as_ref()))
        {
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

    /// The first and the last number of the metrics under this key.
    pub(crate) fn metric_ends(&self, key: &str) -> Option<(f64, f64)> {
        let lines = self.metrics();
        let mut values = lines.iter().filter_map(|(_, record)| record[key].as_f64());
        let first = values.next()?;
        Some((first, values.next_back().unwrap_or(first)))
    }

    /// Steps up to `step` of which the metrics have no line.
    pub(crate) fn steps_without_metrics(&self, step: usize) -> usize {
        let there: std::collections::BTreeSet<u64> = self
            .metrics()
            .iter()
            .filter(|(_, record)| record.get("loss").is_some())
            .filter_map(|(_, record)| record["step"].as_u64())
            .collect();
        (1..=step as u64).filter(|step| !there.contains(step)).count()
    }

    /// The whole lines of the metrics; one that was cut off by a crash is no record.
    fn metrics(&self) -> Vec<(String, Value)> {
        let text = fs::read_to_string(self.dir.join(METRICS)).unwrap_or_default();
        text.lines().filter_map(|line| Some((line.to_string(), serde_json::from_str(line).ok()?))).collect()
    }

    fn checkpoints(&self) -> Result<Vec<(usize, PathBuf)>> {
        let step = |p: &Path| p.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok();
        let mut found: Vec<(usize, PathBuf)> =
            self.checkpoint_entries()?.into_iter().filter_map(|p| Some((step(&p)?, p))).collect();
        found.sort();
        Ok(found)
    }

    /// Everything in the folder of checkpoints.
    fn checkpoint_entries(&self) -> Result<Vec<PathBuf>> {
        let folder = self.dir.join(CHECKPOINTS);
        match fs::read_dir(&folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => entries
                .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
                .map_err(|e| Error::io(&folder, e)),
        }
    }

    /// The newest checkpoint whose files are as they were written; `None` if the run has none yet.
    ///
    /// It is an error if checkpoints are there and none is whole, and if one cannot be read, or not by this version.
    pub fn resume_point(&self, threads: &Threads) -> Result<Option<ResumePoint>> {
        let mut damaged = Vec::new();
        for (step, path) in self.checkpoints()?.into_iter().rev() {
            let problem = match manifest::verify(threads, &path)? {
                Verdict::Damaged(problem) => problem,
                Verdict::Whole => {
                    let state = train_state::read_state(&path)?;
                    if state.step == step {
                        return Ok(Some(ResumePoint { path, state, damaged }));
                    }
                    format!("it is the checkpoint of step {}", state.step)
                }
            };
            damaged.push((path, problem));
        }
        let Some((path, problem)) = damaged.first() else { return Ok(None) };
        let problem = format!("no checkpoint of this run is whole; the newest: {problem}");
        Err(Error::file(path, problem).with_hint(
            "restore a checkpoint from a copy, or begin anew with --restart, which keeps these aside",
        ))
    }

    /// Takes damaged checkpoints out of the way of those that will be written again. They are removed when the next one
    /// is whole.
    pub(crate) fn set_aside(&self, damaged: &[(PathBuf, String)]) -> Result<()> {
        for (path, _) in damaged {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let aside = path.with_file_name(format!("{DAMAGED}{name}"));
            if aside.exists() {
                fs::remove_dir_all(&aside).map_err(|e| Error::io(&aside, e))?;
            }
            fs::rename(path, &aside).map_err(|e| Error::io(path, e))?;
        }
        Ok(())
    }

    /// Lets `write` fill a checkpoint's folder, makes it visible once it is whole on the disk, and then deletes all but the
    /// `keep` newest. `write` gives the digests of the files that it hashed already.
    pub fn checkpoint(
        &self,
        step: usize,
        keep: usize,
        write: impl FnOnce(&Path) -> Result<Digests>,
    ) -> Result<PathBuf> {
        self.sync_metrics()?;
        let path = self.dir.join(CHECKPOINTS).join(format!("step-{step}"));
        write_folder(&path, |folder| {
            let digests = write(folder)?;
            manifest::seal(folder, digests)
        })?;
        let found = self.checkpoints()?;
        let old = found[..found.len().saturating_sub(keep.max(1))].iter().map(|(_, path)| path.clone());
        let is_damaged =
            |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(DAMAGED));
        for old in old.chain(self.checkpoint_entries()?.into_iter().filter(is_damaged)) {
            fs::remove_dir_all(&old).map_err(|e| Error::io(&old, e))?;
        }
        Ok(path)
    }
}

/// Begins the names of damaged checkpoints that wait for a whole one.
const DAMAGED: &str = "damaged-";

/// Names in a folder, sorted, without hidden ones; the lock of a run counts.
fn entries_of(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| Error::io(dir, e))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|e| Error::io(dir, e))?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') || name == LOCK {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn state(step: usize) -> TrainState {
        TrainState {
            format: 2,
            step,
            loader: Default::default(),
            clock: 0,
            data: String::new(),
            base: String::new(),
            isa: String::new(),
            settings: Default::default(),
            changes: Vec::new(),
        }
    }

    fn fill(run: &RunFolder, step: usize, keep: usize) -> Result<PathBuf> {
        run.checkpoint(step, keep, |folder| {
            write_atomic(&folder.join("state.json"), &serde_json::to_vec(&state(step)).unwrap())?;
            write_atomic(&folder.join("weights"), b"weights")?;
            Ok(Digests::new())
        })
    }

    fn newest(run: &RunFolder) -> Option<usize> {
        run.resume_point(&Threads::one()).unwrap().map(|point| point.state.step)
    }

    fn names(run: &RunFolder) -> Vec<String> {
        entries_of(&run.path().join(CHECKPOINTS)).unwrap()
    }

    #[test]
    fn a_failed_checkpoint_leaves_the_last_one() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunFolder::create(&dir.path().join("run"), Begin::New).unwrap();
        assert_eq!(newest(&run), None);
        [2, 10, 9].iter().for_each(|step| drop(fill(&run, *step, 2).unwrap()));
        assert_eq!(newest(&run), Some(10));
        assert_eq!(names(&run), ["step-10", "step-9"], "only the newest are kept");
        assert!(run.checkpoint(11, 2, |p| Err(Error::file(p, "planted"))).is_err());
        assert_eq!(newest(&run), Some(10));
        assert_eq!(fs::read_dir(run.path().join(CHECKPOINTS)).unwrap().count(), 2, "no half folder is left");
    }

    #[test]
    fn damaged_checkpoints_are_passed_over_and_stay_until_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunFolder::create(dir.path(), Begin::New).unwrap();
        [4, 8].iter().for_each(|step| drop(fill(&run, *step, 2).unwrap()));
        fs::write(run.path().join("checkpoints/step-8/weights"), b"weighty").unwrap();
        let point = run.resume_point(&Threads::one()).unwrap().unwrap();
        assert_eq!(point.state.step, 4);
        assert!(point.damaged[0].1.contains("weights has another content"), "{:?}", point.damaged);
        run.set_aside(&point.damaged).unwrap();
        assert_eq!(names(&run), ["damaged-step-8", "step-4"]);
        fill(&run, 8, 2).unwrap();
        assert_eq!(names(&run), ["step-4", "step-8"]);
    }

    #[test]
    fn a_run_without_a_whole_checkpoint_is_not_begun_anew_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunFolder::create(dir.path(), Begin::New).unwrap();
        fill(&run, 4, 2).unwrap();
        fs::remove_file(run.path().join("checkpoints/step-4/weights")).unwrap();
        let error = run.resume_point(&Threads::one()).unwrap_err();
        assert!(error.to_string().contains("weights is missing"), "{error}");
        drop(run);
        let run = RunFolder::create(dir.path(), Begin::Restart).unwrap();
        assert_eq!(newest(&run), None);
        assert!(run.path().join("previous-1/checkpoints/step-4/state.json").exists());
    }

    #[test]
    fn a_folder_belongs_to_one_run_and_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let run = RunFolder::create(&path, Begin::New).unwrap();
        for begin in [Begin::New, Begin::Resume, Begin::Restart] {
            let error = RunFolder::at(&path, begin).unwrap_err().to_string();
            assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        }
        drop(run);
        assert!(RunFolder::at(&path, Begin::New).unwrap_err().to_string().contains("holds a run"));
        assert!(RunFolder::at(&path, Begin::Resume).is_ok());

        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join(".gitkeep"), "").unwrap();
        assert!(RunFolder::at(&other, Begin::New).is_ok(), "hidden files are nobody's results");
        fs::write(other.join("README.md"), "mine").unwrap();
        fs::write(other.join("run.yaml"), "model: {}").unwrap();
        for begin in [Begin::New, Begin::Resume, Begin::Restart] {
            let error = RunFolder::at(&other, begin).unwrap_err().to_string();
            assert!(error.contains("README.md, run.yaml"), "{error}");
        }
    }

    #[test]
    fn metrics_are_rewound_and_missing_lines_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunFolder::create(dir.path(), Begin::New).unwrap();
        for step in 1..=5 {
            run.append_metrics(&json!({"step": step, "loss": 6 - step})).unwrap();
        }
        let lines = || fs::read_to_string(dir.path().join(METRICS)).unwrap().lines().count();
        run.rewind(Some(3)).unwrap();
        assert_eq!(lines(), 3);
        assert_eq!(run.metric_ends("loss"), Some((5.0, 3.0)));
        assert_eq!((run.steps_without_metrics(3), run.steps_without_metrics(5)), (0, 2));
        run.rewind(None).unwrap();
        assert_eq!(lines(), 0, "a run without a checkpoint starts over");
    }
}
