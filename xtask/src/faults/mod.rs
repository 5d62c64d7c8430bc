//! `cargo xtask faults`: runs that are killed at any moment, or given too little memory, lose no good checkpoint, and end
//! with the bits of runs that nobody disturbed.
//!
//! The checkpoints are judged by the library's own check of their hashes, before and after every fault.

mod kills;
#[cfg(target_os = "linux")]
mod limits;
mod runs;

use std::path::{Path, PathBuf};

use crate::golden::Failure;
use crate::shared::ours::Ours;

/// What the user chose.
pub struct Options {
    /// Times that a run is killed, all kinds together.
    pub kills: usize,
    /// Eight kills and few limits.
    pub quick: bool,
    /// Folder for the runs.
    pub work: PathBuf,
}

/// Checks both kinds of fault and prints a table for each; whether nothing was lost.
#[allow(clippy::print_stdout)]
pub fn run(options: &Options) -> bool {
    let problems = check(options).unwrap_or_else(|failure| vec![failure.0]);
    for problem in &problems {
        println!("FAIL {problem}");
    }
    println!("{}", if problems.is_empty() { "nothing was lost" } else { "something was lost" });
    problems.is_empty()
}

#[allow(clippy::print_stdout)]
fn check(options: &Options) -> Result<Vec<String>, Failure> {
    std::fs::create_dir_all(&options.work)?;
    let work = options.work.canonicalize()?;
    let ours = Ours::build()?;
    println!("ferrotune {}\n", ours.describe());
    let rows = kills::check(&ours, &work, if options.quick { 8 } else { options.kills })?;
    println!("## Killed and started again\n\n{}", kills::shown(&rows));
    let missed = kills::missed(&rows);
    let mut problems: Vec<String> = rows.into_iter().flat_map(kills::Row::problems).chain(missed).collect();
    problems.extend(under_limits(&ours, &work, options.quick)?);
    Ok(problems)
}

#[cfg(target_os = "linux")]
#[allow(clippy::print_stdout)]
fn under_limits(ours: &Ours, work: &Path, quick: bool) -> Result<Vec<String>, Failure> {
    let parts = limits::check(ours, work, quick)?;
    println!("## Limits on memory\n\n{}", limits::shown(&parts));
    Ok(parts.into_iter().flat_map(limits::Part::problems).collect())
}

/// Other systems do not hold a process to `ulimit -v`.
#[cfg(not(target_os = "linux"))]
fn under_limits(_: &Ours, _: &Path, _: bool) -> Result<Vec<String>, Failure> {
    Ok(Vec::new())
}

/// A table in Markdown.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | ").replace('\n', " "));
    let head: Vec<String> = head.iter().map(|cell| cell.to_string()).collect();
    let rule = format!("|{}\n", "---|".repeat(head.len()));
    line(&head) + &rule + &rows.map(|row| line(&row)).collect::<String>()
}
