//! What the system says of memory: what this process holds, and what it may hold.

use std::path::{Path, PathBuf};

/// Resident memory of this process: now, and at its peak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resident {
    /// Bytes now.
    pub now: u64,
    /// Largest so far.
    pub peak: u64,
}

/// Reads the resident memory; zeros where the system does not tell.
pub fn resident() -> Resident {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| kib(&status, name).unwrap_or(0);
    Resident { now: field("VmRSS:"), peak: field("VmHWM:") }
}

/// Memory that this process could have in all, with what it holds already: of the machine, or of the control group that it is
/// in (a container, a batch job) if that has less. `None` where the system does not tell.
pub fn available() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|info| kib(&info, "MemAvailable:"));
    let groups = groups();
    let group = groups.iter().filter_map(Group::free).min();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let own = kib(&status, "RssAnon:").unwrap_or(0);
    let free = machine.into_iter().chain(group).min()?;
    groups.iter().filter_map(Group::limit).chain([free + own]).min()
}

/// The hard limit on the memory of this process and of those that share it, if there is one.
pub fn limit() -> Option<u64> {
    groups().iter().filter_map(Group::limit).min()
}

/// A line such as `VmRSS:   1024 kB`, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// A Linux control group that counts memory.
#[derive(Debug, PartialEq)]
struct Group {
    folder: PathBuf,
    names: &'static Names,
}

/// The file with the limit, and the fields of `memory.stat` that count what is in no file.
#[derive(Debug, PartialEq)]
struct Names {
    limit: &'static str,
    held: [&'static str; 2],
}

/// The first version of control groups, one tree for memory alone.
const V1: Names = Names { limit: "memory.limit_in_bytes", held: ["total_rss ", "total_shmem "] };

/// The second, one tree for all.
const V2: Names = Names { limit: "memory.max", held: ["anon ", "shmem "] };

/// Above this a limit is none: the first version says so by the largest multiple of a page.
const NONE: u64 = 1 << 60;

impl Group {
    fn limit(&self) -> Option<u64> {
        self.number(self.names.limit).filter(|bytes| *bytes < NONE)
    }

    /// What the group may still take; pages of files make room. (The system counts these late, so the group's use less them
    /// would be too much where a file was just read.)
    fn free(&self) -> Option<u64> {
        let stat = std::fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let field = |name: &str| stat.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<u64>().ok());
        let held: u64 = self.names.held.iter().filter_map(|name| field(name)).sum();
        Some(self.limit()?.saturating_sub(held))
    }

    fn number(&self, file: &str) -> Option<u64> {
        std::fs::read_to_string(self.folder.join(file)).ok()?.trim().parse().ok()
    }
}

fn groups() -> Vec<Group> {
    let of = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    groups_in(Path::new("/sys/fs/cgroup"), &of)
}

/// The groups that `/proc/self/cgroup` names, and those that they are in, under the folder where they are mounted. Inside a
/// container the names may be those of the machine outside, while the mount begins at the container's own group.
fn groups_in(mount: &Path, of: &str) -> Vec<Group> {
    let mut all = Vec::new();
    for line in of.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(kinds), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, names) = match kinds {
            "" => (mount.to_path_buf(), &V2),
            kinds if kinds.split(',').any(|kind| kind == "memory") => (mount.join("memory"), &V1),
            _ => continue,
        };
        for part in Path::new(path.trim_start_matches('/')).ancestors() {
            let folder = root.join(part);
            if folder.join(names.limit).is_file() {
                all.push(Group { folder, names });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a group with a limit that holds so much.
    fn group(folder: &Path, names: &Names, limit: &str, held: [u64; 2]) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join(names.limit), format!("{limit}\n")).unwrap();
        let stat = format!("cache 5\n{}{}\n{}{}\n", names.held[0], held[0], names.held[1], held[1]);
        std::fs::write(folder.join("memory.stat"), stat).unwrap();
    }

    #[test]
    fn the_tightest_group_counts() {
        let mount = tempfile::tempdir().unwrap();
        let root = mount.path();
        group(&root.join("memory"), &V1, "9223372036854771712", [900, 0]);
        group(&root.join("memory/job"), &V1, "5000", [1900, 100]);
        group(&root.join("memory/job/task"), &V1, "8000", [1000, 0]);
        let groups = groups_in(root, "5:memory:/job/task\n2:cpu:/job\n0::/\n");
        assert_eq!(groups.iter().filter_map(Group::limit).min(), Some(5000));
        assert_eq!(groups.iter().filter_map(Group::free).min(), Some(3000));
        assert_eq!(groups.len(), 3, "the tree of the second version has no files here");
    }

    #[test]
    fn both_versions_are_read() {
        let mount = tempfile::tempdir().unwrap();
        let root = mount.path();
        group(&root.join("a"), &V2, "max", [10, 0]);
        assert_eq!(groups_in(root, "0::/a\n").iter().filter_map(Group::free).min(), None);
        group(&root.join("a/b"), &V2, "4096", [800, 50]);
        let groups = groups_in(root, "0::/a/b\n");
        assert_eq!(groups.iter().filter_map(Group::free).min(), Some(3246));
        // Names of the machine outside, of which only the root is there.
        group(root, &V2, "2048", [8, 0]);
        assert_eq!(groups_in(root, "0::/docker/x\n").iter().filter_map(Group::limit).min(), Some(2048));
        assert_eq!(groups_in(root, "nonsense\n"), []);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_is_resident() {
        let now = resident();
        assert!(now.now > 0 && now.peak >= now.now);
        assert!(available().is_some_and(|bytes| bytes > 0));
    }
}
