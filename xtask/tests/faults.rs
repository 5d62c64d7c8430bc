//! Runs that are killed, or given too little memory, lose no good checkpoint and end with the same bits.
#![cfg(unix)]

use std::path::Path;

#[test]
fn disturbed_runs_lose_nothing() {
    let work = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults");
    assert!(xtask::faults::run(&xtask::faults::Options { kills: 8, quick: true, work }));
}
