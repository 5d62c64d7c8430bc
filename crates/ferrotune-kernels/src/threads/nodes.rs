//! Memory nodes: a processor reads the memory of its own node fastest, and memory is taken from the node of the thread that
//! writes to it first.
//!
//! So loops are shared out by place: each node has a range of the tasks, as long as its share of the processors, and a
//! thread begins with the range of the node that it is on. As rows and panels come in the same order in every loop, those
//! who write a row first also read it later. Who has done the tasks of its own node helps the others.
//!
//! Threads are not bound to processors: the system moves a busy one to another node rarely, and it may have reasons to.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Nodes that are told apart; tasks of more are shared.
const MOST: usize = 16;

/// The nodes whose processors this process may use.
#[derive(Debug, Clone)]
pub(super) struct Nodes {
    /// The node of a processor; those of other nodes count as the first.
    of_cpu: Vec<u8>,
    /// Where the share of each node in all processors begins, and their number.
    starts: Vec<usize>,
}

impl Nodes {
    /// The memory nodes of this machine; where the system does not tell, there is one.
    pub(super) fn detect() -> Self {
        #[cfg(target_os = "linux")]
        if let Ok(allowed) = rustix::thread::sched_getaffinity(None) {
            return Self::read(Path::new("/sys/devices/system/node"), |cpu| {
                cpu < rustix::thread::CpuSet::MAX_CPU && allowed.is_set(cpu)
            });
        }
        Self::one()
    }

    /// All processors together.
    pub(super) fn one() -> Self {
        Self::of(&[])
    }

    /// From Linux' description: a folder `nodeN` for each, with a file `cpulist`.
    fn read(folder: &Path, allowed: impl Fn(usize) -> bool) -> Self {
        let nodes = std::fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| {
            let number: usize = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
            let list = std::fs::read_to_string(entry.path().join("cpulist")).ok()?;
            let mut cpus = cpus_of(&list)?;
            cpus.retain(|cpu| allowed(*cpu));
            (!cpus.is_empty()).then_some((number, cpus))
        });
        let mut nodes: Vec<_> = nodes.collect();
        nodes.sort_unstable();
        Self::of(&nodes.into_iter().map(|(_, cpus)| cpus).collect::<Vec<_>>())
    }

    /// Nodes with these processors; without any, one.
    fn of(nodes: &[Vec<usize>]) -> Self {
        let unknown = [vec![0]];
        let nodes = if nodes.is_empty() { &unknown } else { nodes };
        let last = nodes.iter().flatten().max().map_or(0, |cpu| cpu + 1);
        let mut of_cpu = vec![0; last];
        let mut cpus = vec![0; nodes.len().min(MOST)];
        for (node, list) in nodes.iter().enumerate() {
            let node = node.min(MOST - 1);
            cpus[node] += list.len();
            list.iter().for_each(|cpu| of_cpu[*cpu] = node as u8);
        }
        let mut starts = vec![0];
        cpus.iter().for_each(|n| starts.push(starts[starts.len() - 1] + n));
        Nodes { of_cpu, starts }
    }

    fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// Where the share of a node in `n` things begins.
    fn start(&self, node: usize, n: usize) -> usize {
        n * self.starts[node] / self.starts[self.count()]
    }

    /// Sorts tasks that are put together from several matrices by the nodes that they belong to; `place` gives which row
    /// or panel of how many a task is of. Tasks of a node stay in their own order.
    pub(super) fn sort<T: Ord + Copy>(&self, tasks: &mut [T], place: impl Fn(T) -> (usize, usize)) {
        if self.count() > 1 {
            tasks.sort_unstable_by_key(|task| {
                let (i, n) = place(*task);
                (self.home(i, n), *task)
            });
        }
    }

    /// The node that row `i` of `n` belongs to.
    fn home(&self, i: usize, n: usize) -> usize {
        (1..self.count()).take_while(|node| self.start(*node, n) <= i).last().unwrap_or(0)
    }

    /// The node that this thread is on.
    fn here(&self) -> usize {
        if self.count() == 1 {
            return 0;
        }
        #[cfg(target_os = "linux")]
        let cpu = rustix::thread::sched_getcpu();
        #[cfg(not(target_os = "linux"))]
        let cpu = 0;
        self.of_cpu.get(cpu).map_or(0, |node| usize::from(*node))
    }
}

/// Processors of a list such as `0-3,8,10-11`.
fn cpus_of(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// The next task of a node, on a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Next(AtomicUsize);

/// The tasks of one loop.
pub(super) struct Queues<'a> {
    nodes: &'a Nodes,
    tasks: usize,
    next: [Next; MOST],
}

impl<'a> Queues<'a> {
    pub(super) fn new(nodes: &'a Nodes, tasks: usize) -> Self {
        let next: [Next; MOST] = Default::default();
        for (node, next) in next.iter().enumerate().take(nodes.count()) {
            next.0.store(nodes.start(node, tasks), Ordering::Relaxed);
        }
        Queues { nodes, tasks, next }
    }

    /// Tasks that nobody else has taken, those of this thread's node first.
    pub(super) fn take(&self) -> impl Iterator<Item = usize> + '_ {
        self.take_from(self.nodes.here())
    }

    fn take_from(&self, home: usize) -> impl Iterator<Item = usize> + '_ {
        let count = self.nodes.count();
        (0..count).map(move |away| (home + away) % count).flat_map(move |node| {
            let end = self.nodes.start(node + 1, self.tasks);
            std::iter::from_fn(move || {
                let task = self.next[node].0.fetch_add(1, Ordering::Relaxed);
                (task < end).then_some(task)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Nodes {
        Nodes::of(&[vec![0, 1, 2, 3, 4, 5], vec![6, 7]])
    }

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(cpus_of("0-3,8,10-11\n"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(cpus_of("\n"), Some(vec![]));
        assert_eq!(cpus_of("0-x"), None);
    }

    #[test]
    fn a_machine_is_read_as_linux_describes_it() {
        let folder = std::env::temp_dir().join(format!("ferrotune-nodes-{}", std::process::id()));
        // One without processors, as memory of other kinds is, one that may not be used, and files of other names.
        for (name, list) in
            [("node0", "0-1,4-5"), ("node1", ""), ("node2", "2-3,6-7"), ("node10", "8-9"), ("power", "0")]
        {
            std::fs::create_dir_all(folder.join(name)).unwrap();
            std::fs::write(folder.join(name).join("cpulist"), format!("{list}\n")).unwrap();
        }
        std::fs::write(folder.join("online"), "0-2\n").unwrap();
        let nodes = Nodes::read(&folder, |cpu| cpu < 7);
        assert_eq!(nodes.of_cpu, [0, 0, 1, 1, 0, 0, 1]);
        assert_eq!(nodes.starts, [0, 4, 7]);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(Nodes::read(&folder, |_| true).count(), 1, "no description");
        let own = Nodes::detect();
        assert!(own.here() < own.count());
    }

    #[test]
    fn every_task_is_taken_once_and_those_of_the_own_node_first() {
        let many: Vec<_> = (0..40).map(|cpu| vec![cpu]).collect();
        for nodes in [Nodes::of(&[]), two(), Nodes::of(&many)] {
            for tasks in [0, 1, 7, 1000] {
                let queues = Queues::new(&nodes, tasks);
                let last = nodes.count() - 1;
                let mut first = queues.take_from(last);
                let mut taken: Vec<usize> = first.by_ref().take(1).collect();
                if tasks == 1000 {
                    assert_eq!(taken, [nodes.start(last, tasks)]);
                    assert_eq!(nodes.home(taken[0], tasks), last);
                }
                taken.extend(queues.take_from(0));
                taken.extend(first);
                taken.sort_unstable();
                assert_eq!(taken, (0..tasks).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_node_has_its_share_of_the_processors() {
        let nodes = two();
        assert_eq!([0, 1, 2].map(|node| nodes.start(node, 100)), [0, 75, 100]);
        assert_eq!([0, 74, 75, 99].map(|i| nodes.home(i, 100)), [0, 0, 1, 1]);
        // Eight rows of one matrix and four of another.
        let mut tasks: Vec<_> = (0..8).map(|i| (i, 8)).chain((0..4).map(|i| (i, 4))).collect();
        nodes.sort(&mut tasks, |task| task);
        let homes: Vec<_> = tasks.iter().map(|(i, n)| nodes.home(*i, *n)).collect();
        assert_eq!(homes, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]);
        assert_eq!(nodes.start(1, tasks.len()), 9, "each node's range is its own rows");
        assert_eq!(Nodes::of(&[]).home(99, 100), 0);
    }
}
