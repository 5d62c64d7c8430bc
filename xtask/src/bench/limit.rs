//! A hard limit of the system on the memory of a process and on the pages of files that it reads: a Linux control group.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::golden::Failure;

/// Where the first version of control groups keeps those of memory, and where the second keeps all.
const ROOTS: [(&str, &str, &str); 2] = [
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
    ("/sys/fs/cgroup", "memory.max", "memory.peak"),
];

/// A group that is removed when it is dropped; its processes must have ended.
pub(super) struct Limit {
    folder: PathBuf,
    peak: &'static str,
}

impl Limit {
    /// A group of at most `bytes`, in whole pages.
    pub(super) fn new(bytes: u64) -> Result<Self, Failure> {
        let bytes = bytes.next_multiple_of(64 << 10);
        let name = format!("ferrotune-bench-{}-{}", std::process::id(), bytes >> 20);
        for (root, limit, peak) in ROOTS {
            let folder = Path::new(root).join(&name);
            if std::fs::create_dir(&folder).is_err() {
                continue;
            }
            let group = Limit { folder, peak };
            if std::fs::write(group.folder.join(limit), bytes.to_string()).is_ok() {
                return Ok(group);
            }
        }
        Err(Failure(
            "no control group can be made here: a limit of the system needs the right to make one".into(),
        ))
    }

    /// The command inside the group from its first instruction on.
    pub(super) fn run(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        let procs = self.folder.join("cgroup.procs");
        inside.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(procs);
        inside.arg(command.get_program()).args(command.get_args());
        inside
    }

    /// The most that the group held, pages of files included.
    pub(super) fn peak(&self) -> Option<f64> {
        std::fs::read_to_string(self.folder.join(self.peak)).ok()?.trim().parse().ok()
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        // A group is empty some moments after its last process has ended.
        for _ in 0..50 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}
