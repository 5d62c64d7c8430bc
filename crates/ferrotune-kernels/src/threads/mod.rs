//! The threads that a program computes with: made once, passed by hand, and never more than were asked for.
//!
//! A loop hands out its tasks one by one. Which thread takes which task is not fixed, so tasks write to disjoint places and do
//! not depend on each other: that is what makes results independent of the number of threads.

#[allow(clippy::disallowed_methods, reason = "reads the machine's memory nodes from /sys")]
mod nodes;
mod shared;
mod team;

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use nodes::{Nodes, Queues};
use team::Team;

pub use shared::SharedMut;

/// A number of threads, the caller of its methods being one of them. Clones share them.
#[derive(Debug, Clone)]
pub struct Threads {
    count: usize,
    /// None where the caller is alone.
    team: Option<Arc<Team>>,
    nodes: Arc<Nodes>,
}

impl Threads {
    /// `count` threads, at least one; an error if the system starts no more.
    pub fn new(count: usize) -> Result<Self> {
        let started = (count > 1).then(|| Team::new(count)).transpose();
        let team = started.map_err(|e| Error::Threads { wanted: count, problem: e.to_string() })?;
        Ok(Threads { count: count.max(1), team: team.map(Arc::new), nodes: Arc::new(Nodes::detect()) })
    }

    /// The caller alone.
    pub fn one() -> Self {
        Threads { count: 1, team: None, nodes: Arc::new(Nodes::one()) }
    }

    /// Number of threads.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Runs `body(state, task)` for every task on all threads; each thread makes its `state` once.
    ///
    /// Within a loop, and beside one of another caller, a loop runs on the thread that asks for it alone.
    pub fn run_with<S>(
        &self,
        tasks: usize,
        init: impl Fn() -> S + Sync,
        body: impl Fn(&mut S, usize) + Sync,
    ) {
        if tasks == 0 {
            return;
        }
        let Some(team) = self.team.as_ref().filter(|_| tasks > 1) else {
            let mut state = init();
            return (0..tasks).for_each(|task| body(&mut state, task));
        };
        let queues = Queues::new(&self.nodes, tasks);
        team.run(&|| {
            let mut mine = queues.take();
            let Some(first) = mine.next() else { return };
            let mut state = init();
            body(&mut state, first);
            mine.for_each(|task| body(&mut state, task));
        });
    }

    /// Runs `body(task)` for every task on all threads.
    pub fn run(&self, tasks: usize, body: impl Fn(usize) + Sync) {
        self.run_with(tasks, || (), |(), task| body(task));
    }

    /// Splits `n` items into a few ranges per thread, each at least `grain` long, and runs `body` on each.
    pub fn run_ranges(&self, n: usize, grain: usize, body: impl Fn(Range<usize>) + Sync) {
        let parts = (n / grain.max(1)).clamp(1, self.count * 4);
        self.run(parts, |i| body(n * i / parts..n * (i + 1) / parts));
    }

    /// `f` of every item, in their order.
    pub fn map<I: Sync, T: Send>(&self, items: &[I], f: impl Fn(&I) -> T + Sync) -> Vec<T> {
        let mut results: Vec<Option<T>> = items.iter().map(|_| None).collect();
        let places = SharedMut::new(&mut results);
        // SAFETY: every task has its own place.
        self.run(items.len(), |i| unsafe { places.slice(i..i + 1)[0] = Some(f(&items[i])) });
        results.into_iter().flatten().collect()
    }

    /// Sorts tasks that are put together from several matrices by the memory nodes that they belong to, as loops share out
    /// their tasks by place; `place` gives which row or panel of how many a task is of.
    pub(crate) fn sort<T: Ord + Copy>(&self, tasks: &mut [T], place: impl Fn(T) -> (usize, usize)) {
        self.nodes.sort(tasks, place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_on_any_number_of_threads() {
        for count in [1, 2, 5] {
            let threads = Threads::new(count).unwrap();
            let mut hits = vec![0u32; 1000];
            let shared = SharedMut::new(&mut hits);
            // SAFETY: every task has its own element.
            threads.run(1000, |i| unsafe { shared.slice(i..i + 1)[0] += 1 });
            assert!(hits.iter().all(|&h| h == 1));
        }
    }

    #[test]
    fn results_are_in_the_order_of_their_items_and_also_within_a_loop() {
        let items: Vec<usize> = (0..100).collect();
        for threads in [Threads::one(), Threads::new(3).unwrap()] {
            let found = threads.map(&items, |i| threads.map(&items[..*i], |j| i * j).len());
            assert_eq!(found, items);
            assert!(threads.map(&[0; 0], |i| *i).is_empty());
        }
    }
}
