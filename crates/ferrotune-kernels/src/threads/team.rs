//! Threads that run one function together. A training step has thousands of such calls, many shorter than the time that
//! the system takes to wake a thread: so the caller works too, and the others look out for work a while before they sleep.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};

/// Turns of looking out for work before a thread sleeps: some hundred microseconds.
const LOOKS: usize = 20_000;

/// A function that all threads call.
type Body<'a> = &'a (dyn Fn() + Sync);

/// The threads. Dropping it ends them.
pub(super) struct Team {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
    /// Held while a function runs.
    busy: Mutex<()>,
}

struct Shared {
    /// Grows by one with every function, and when the team ends.
    turn: AtomicU64,
    ending: AtomicBool,
    body: Mutex<Option<Body<'static>>>,
    /// Helpers that have not finished the function.
    working: AtomicUsize,
    sleeping: Vec<AtomicBool>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Team({})", self.handles.len() + 1)
    }
}

impl Team {
    /// `threads` threads, the caller of [`Team::run`] being one of them.
    pub(super) fn new(threads: usize) -> std::io::Result<Self> {
        let helpers = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            turn: AtomicU64::new(0),
            ending: AtomicBool::new(false),
            body: Mutex::new(None),
            working: AtomicUsize::new(0),
            sleeping: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
            panic: Mutex::new(None),
        });
        let mut team = Team { shared, handles: Vec::with_capacity(helpers), busy: Mutex::new(()) };
        for i in 0..helpers {
            let shared = Arc::clone(&team.shared);
            let name = format!("ferrotune-{}", i + 1);
            team.handles.push(thread::Builder::new().name(name).spawn(move || shared.help(i))?);
        }
        Ok(team)
    }

    /// Calls `body` on every thread and returns when all have returned.
    ///
    /// When a function is running already (this is called by another thread, or by `body` itself), the caller alone calls
    /// it: `body` takes its share of tasks from a common counter, so nothing is left undone.
    pub(super) fn run(&self, body: Body<'_>) {
        let busy = match self.busy.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(p)) => Some(p.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        if busy.is_none() || self.handles.is_empty() {
            return body();
        }
        let s = &*self.shared;
        // SAFETY: only the lifetime is changed. Helpers use the function until `working` is 0, and this function returns
        // (or unwinds) only after that.
        let forever = unsafe { std::mem::transmute::<Body<'_>, Body<'static>>(body) };
        *s.body.lock().unwrap_or_else(PoisonError::into_inner) = Some(forever);
        s.working.store(self.handles.len(), Ordering::Relaxed);
        s.turn.fetch_add(1, Ordering::SeqCst);
        self.wake();
        let own = catch_unwind(AssertUnwindSafe(body));
        let mut looks = 0;
        while s.working.load(Ordering::Acquire) > 0 {
            looks += 1;
            // A helper whose processor is taken by another program needs this one.
            if looks > LOOKS { thread::yield_now() } else { std::hint::spin_loop() }
        }
        let theirs = s.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(busy);
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }

    fn wake(&self) {
        for (sleeping, handle) in self.shared.sleeping.iter().zip(&self.handles) {
            if sleeping.swap(false, Ordering::SeqCst) {
                handle.thread().unpark();
            }
        }
    }
}

impl Shared {
    fn help(&self, i: usize) {
        let mut seen = 0;
        loop {
            self.wait(i, seen);
            seen += 1;
            if self.ending.load(Ordering::Acquire) {
                return;
            }
            let body = *self.body.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(body) = body
                && let Err(panic) = catch_unwind(AssertUnwindSafe(body))
            {
                *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
            self.working.fetch_sub(1, Ordering::Release);
        }
    }

    /// Until there is a turn after `seen`.
    fn wait(&self, i: usize, seen: u64) {
        for _ in 0..LOOKS {
            if self.turn.load(Ordering::Acquire) > seen {
                return;
            }
            std::hint::spin_loop();
        }
        loop {
            // The flag first, then a last look: the caller does it the other way round, so one of them sees the other.
            self.sleeping[i].store(true, Ordering::SeqCst);
            if self.turn.load(Ordering::SeqCst) > seen {
                self.sleeping[i].store(false, Ordering::SeqCst);
                return;
            }
            thread::park();
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        self.shared.turn.fetch_add(1, Ordering::SeqCst);
        self.wake();
        for handle in self.handles.drain(..) {
            // A helper's panic was given to the caller of `run`.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_thread_calls_it_each_time_also_after_sleeping() {
        let team = Team::new(4).unwrap();
        for i in 0..2000 {
            let calls = AtomicUsize::new(0);
            team.run(&|| {
                calls.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(calls.into_inner(), 4);
            if i % 500 == 0 {
                thread::sleep(Duration::from_millis(20));
            }
        }
    }

    #[test]
    fn calls_within_a_call_and_from_other_threads_are_made_alone() {
        let team = Team::new(3).unwrap();
        let calls = AtomicUsize::new(0);
        team.run(&|| {
            team.run(&|| {
                calls.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(calls.load(Ordering::Relaxed), 3);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let own = AtomicUsize::new(0);
                        team.run(&|| {
                            own.fetch_add(1, Ordering::Relaxed);
                        });
                        assert!([1, 3].contains(&own.into_inner()));
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let team = Team::new(2).unwrap();
        let caller = thread::current().id();
        for on_caller in [true, false] {
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.run(&|| assert!((thread::current().id() == caller) != on_caller, "planned"));
            }));
            assert!(result.is_err());
        }
        let calls = AtomicUsize::new(0);
        team.run(&|| {
            calls.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(calls.into_inner(), 2);
    }
}
