//! Limits on the addresses of the process, from far too few to enough: an error that says so, and never a checkpoint less.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use super::runs::{KEEP, KINDS, Kind, Results, STEPS, Site, clear, lost};
use super::table;
use crate::golden::Failure;
use crate::shared::ours::Ours;

/// Below this many MiB the system may have no room for the program and its libraries: it ends before `main`.
const START: usize = 40;

const WHOLE: &str = "whole";
const OUT: &str = "out";

/// The outcome of a run under a limit.
#[derive(PartialEq)]
enum Outcome {
    /// The system could not even start the program.
    CannotStart,
    Code(i32),
    Signal(i32),
}

/// A run under a limit.
struct Limited {
    mib: usize,
    outcome: Outcome,
    said: String,
    before: usize,
    after: usize,
}

/// The runs of a kind, from a state, under all limits.
pub(super) struct Part {
    name: String,
    runs: Vec<Limited>,
    problems: Vec<String>,
}

/// The limits in MiB: finer where more goes wrong. One that is enough says nothing about the next: with more room the
/// system's own allocator reserves more for each thread.
fn limits(quick: bool) -> Vec<usize> {
    if quick {
        return vec![24, 36, 40, 16384];
    }
    let ranges = [(24, 48, 2), (48, 128, 8), (128, 512, 16), (512, 1025, 64)];
    // Many cores are many threads, and each has a stack.
    let many = [4096, 16384];
    ranges.into_iter().flat_map(|(from, to, step)| (from..to).step_by(step)).chain(many).collect()
}

/// Full fine-tuning and LoRA, begun and resumed under each limit.
pub(super) fn check(ours: &Ours, work: &Path, quick: bool) -> Result<Vec<Part>, Failure> {
    let mut parts = Vec::new();
    for name in ["full adamw", "lora adamw"] {
        let kind = KINDS.iter().find(|k| k.name == name);
        let kind = kind.ok_or_else(|| Failure(format!("no kind {name}")))?;
        let site = Site::new(ours, work, &format!("limits-{}", &name[..4]), kind)?;
        site.finish(WHOLE, &["output.keep_checkpoints=5"])?;
        let reference = site.results(WHOLE)?;
        for resumed in [false, true] {
            parts.push(under_all(ours, &site, kind, &reference, resumed, &limits(quick))?);
        }
    }
    Ok(parts)
}

/// The parts as tables.
pub(super) fn shown(parts: &[Part]) -> String {
    parts.iter().map(|part| format!("{}:\n\n{}\n", part.name, part.table())).collect()
}

fn under_all(
    ours: &Ours,
    site: &Site,
    kind: &Kind,
    reference: &Results,
    resumed: bool,
    limits: &[usize],
) -> Result<Part, Failure> {
    let state = if resumed { "resumed" } else { "from the beginning" };
    let mut part = Part { name: format!("{}, {state}", kind.name), runs: Vec::new(), problems: Vec::new() };
    for &mib in limits {
        clear(&site.run(OUT))?;
        if resumed {
            unfinished(site)?;
        }
        let before = site.good(OUT)?;
        let run = limited(ours, site, mib, &site.arguments(OUT, &[]))?;
        let after = site.good(OUT)?;
        let outcome = outcome(ours, site, mib, &run)?;
        let stderr = String::from_utf8_lossy(&run.stderr);
        let mut problems: Vec<String> = lost(&before, &after).into_iter().collect();
        problems.extend(improper(&outcome, &stderr));
        if outcome == Outcome::CannotStart {
            problems.extend((before != after).then(|| "a program that did not start changed them".into()));
        } else if outcome == Outcome::Code(0) || !after.is_empty() {
            // What was reached under the limit is a good start, whatever way was taken there.
            site.finish(OUT, &[])?;
            problems.extend(site.results(OUT)?.differences(reference).map(String::from));
        }
        part.problems.extend(problems.into_iter().map(|p| format!("{mib} MiB: {p}")));
        let said = stderr.lines().find_map(|l| l.strip_prefix("error: ")).unwrap_or_default();
        let said = said.chars().take(100).collect();
        part.runs.push(Limited { mib, outcome, said, before: before.len(), after: after.len() });
    }
    let too_little = part.runs.iter().any(|r| r.outcome == Outcome::Code(1));
    let enough = part.runs.last().is_some_and(|r| r.outcome == Outcome::Code(0));
    if !too_little || !enough {
        part.problems.push("the limits do not go from too little to enough".into());
    }
    Ok(part)
}

/// Makes a run with two good checkpoints and two steps to go, from the whole one.
fn unfinished(site: &Site) -> Result<(), Failure> {
    copy(&site.run(WHOLE), &site.run(OUT))?;
    let good = site.good(OUT)?;
    let stays = (STEPS - 2 - KEEP + 1)..=(STEPS - 2);
    for step in good.iter().filter(|step| !stays.contains(step)) {
        fs::remove_dir_all(site.run(OUT).join(format!("checkpoints/step-{step}")))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (path, target) = {
            let e = entry?;
            (e.path(), to.join(e.file_name()))
        };
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

/// Runs the program with so many MiB of addresses.
fn limited(ours: &Ours, site: &Site, mib: usize, arguments: &[String]) -> Result<Output, Failure> {
    let mut command = Command::new("sh");
    let script = format!("ulimit -v {} || exit 99; exec \"$@\"", mib * 1024);
    command.args(["-c", &script, "sh"]).arg(ours.binary()).args(arguments);
    Ok(site.prepared(command).output()?)
}

fn outcome(ours: &Ours, site: &Site, mib: usize, run: &Output) -> Result<Outcome, Failure> {
    let outcome = match (run.status.code(), run.status.signal()) {
        (Some(code), _) => Outcome::Code(code),
        (None, signal) => Outcome::Signal(signal.unwrap_or_default()),
    };
    if matches!(outcome, Outcome::Code(0 | 1)) || mib >= START {
        return Ok(outcome);
    }
    let version = limited(ours, site, mib, &["--version".to_string()])?;
    Ok(if version.status.success() { outcome } else { Outcome::CannotStart })
}

/// What is wrong with the way a run ended under a limit.
fn improper(outcome: &Outcome, stderr: &str) -> Option<String> {
    let last = || stderr.lines().next_back().unwrap_or_default().to_string();
    let says = |word: &str| stderr.lines().any(|line| line.starts_with(word));
    match outcome {
        _ if stderr.contains("panicked") => Some(format!("it panicked: {}", last())),
        Outcome::CannotStart | Outcome::Code(0) => None,
        Outcome::Code(1) if says("error: ") && says("hint: ") => None,
        Outcome::Code(1) => Some(format!("an error without `error:` and `hint:`: {}", last())),
        Outcome::Code(code) => Some(format!("exit code {code}: {}", last())),
        Outcome::Signal(signal) => Some(format!("signal {signal}: {}", last())),
    }
}

impl Part {
    /// What went wrong, with the kind.
    pub(super) fn problems(self) -> Vec<String> {
        self.problems.into_iter().map(|p| format!("{}: {p}", self.name)).collect()
    }

    /// Limits with the same outcome are one line.
    fn table(&self) -> String {
        let key = |r: &Limited| {
            let code = match r.outcome {
                Outcome::CannotStart => "cannot start".to_string(),
                Outcome::Code(code) => code.to_string(),
                Outcome::Signal(signal) => format!("signal {signal}"),
            };
            [code, format!("{} -> {}", r.before, r.after), r.said.clone()]
        };
        let same = self.runs.chunk_by(|a, b| key(a) == key(b));
        let line = |group: &[Limited]| {
            let (first, last) = (group[0].mib, group[group.len() - 1].mib);
            let range = if first == last { first.to_string() } else { format!("{first}..{last}") };
            [range, group.len().to_string()].into_iter().chain(key(&group[0])).collect()
        };
        table(&["MiB", "limits", "exit code", "good checkpoints", "error"], same.map(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_error_with_its_hint_is_proper() {
        let fine = "data: 24 rows\nerror: no memory\nhint: a smaller model\n";
        assert_eq!(improper(&Outcome::Code(1), fine), None);
        assert_eq!(improper(&Outcome::Code(0), ""), None);
        for (outcome, stderr) in [
            (Outcome::Code(1), "error: no memory\n"),
            (Outcome::Code(101), fine),
            (Outcome::Signal(6), fine),
            (Outcome::Code(1), "thread panicked\nerror: x\nhint: y\n"),
        ] {
            assert!(improper(&outcome, stderr).is_some(), "{stderr}");
        }
    }
}
