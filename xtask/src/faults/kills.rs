//! Runs that are killed at any moment and started again, until they have ended by themselves.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use ferrotune_kernels::rng::Stream;
use serde_json::Value;

use super::runs::{Ended, KINDS, Kill, Kind, Results, STEPS, Site, lost};
use super::table;
use crate::golden::Failure;
use crate::shared::ours::Ours;

/// Folder of the run that is never disturbed, and of the one that is.
const WHOLE: &str = "whole";
const OUT: &str = "out";

/// What a run was doing when it was killed.
#[derive(Clone, Copy)]
enum Phase {
    Loading,
    Step,
    Checkpoint,
    Results,
}

/// What happened to the runs of a kind.
pub(super) struct Row {
    kind: &'static str,
    kills: usize,
    /// Kills that found the process alive, by what it was doing.
    hits: [usize; 4],
    /// Runs from an empty folder to the end.
    runs: usize,
    /// First and last step that a run went on from.
    resumed: Option<(usize, usize)>,
    /// The fewest good checkpoints after a kill, once there was one.
    least: Option<usize>,
    /// Whether all that ended computed the same.
    same: bool,
    problems: Vec<String>,
}

impl Row {
    /// What went wrong, with the kind.
    pub(super) fn problems(self) -> Vec<String> {
        self.problems.into_iter().map(|p| format!("{}: {p}", self.kind)).collect()
    }
}

/// Kills every kind of run its share of `kills` times.
pub(super) fn check(ours: &Ours, work: &Path, kills: usize) -> Result<Vec<Row>, Failure> {
    let share = |i: usize| kills * (i + 1) / KINDS.len() - kills * i / KINDS.len();
    let one = |(i, kind): (usize, &'static Kind)| {
        let site = Site::new(ours, work, &format!("kills-{i}"), kind)?;
        Hunt::begin(&site, i, share(i))?.run()
    };
    KINDS.iter().enumerate().map(one).collect()
}

/// The rows as a table.
pub(super) fn shown(rows: &[Row]) -> String {
    let head = [
        "kind",
        "kills",
        "that hit",
        "loading",
        "in a step",
        "in a checkpoint",
        "in results",
        "runs",
        "resumed after step",
        "least good",
        "same bits",
        "faults",
    ];
    let line = |r: &Row| {
        let resumed = r.resumed.map_or("-".into(), |(min, max)| format!("{min}..{max}"));
        let least = r.least.map_or("-".into(), |n| n.to_string());
        let mut cells =
            vec![r.kind.to_string(), r.kills.to_string(), r.hits.iter().sum::<usize>().to_string()];
        cells.extend(r.hits.iter().map(usize::to_string));
        cells.extend([r.runs.to_string(), resumed, least, if r.same { "yes" } else { "NO" }.into()]);
        cells.push(r.problems.len().to_string());
        cells
    };
    table(&head, rows.iter().map(line))
}

/// Kills that came when the run had ended already show nothing: most must not.
pub(super) fn missed(rows: &[Row]) -> Option<String> {
    let kills: usize = rows.iter().map(|r| r.kills).sum();
    let hits: usize = rows.iter().flat_map(|r| r.hits).sum();
    (2 * hits < kills).then(|| format!("only {hits} of {kills} kills hit a run that was still going on"))
}

struct Hunt<'a> {
    site: &'a Site<'a>,
    reference: Results,
    /// Seconds of the whole run, and of one that has nothing left to do but its results.
    whole: f64,
    least: f64,
    random: Stream,
    row: Row,
    /// Which of the kinds this is, and how often it is killed.
    number: usize,
    share: usize,
}

impl<'a> Hunt<'a> {
    fn begin(site: &'a Site<'a>, number: usize, share: usize) -> Result<Self, Failure> {
        let whole = site.finish(WHOLE, &[])?.seconds;
        let reference = site.results(WHOLE)?;
        let least = site.finish(WHOLE, &[])?.seconds;
        let row = Row {
            kind: site.kind.name,
            kills: 0,
            hits: [0; 4],
            runs: 0,
            resumed: None,
            least: None,
            same: true,
            problems: Vec::new(),
        };
        let mut hunt = Hunt {
            site,
            reference,
            whole,
            least,
            random: Stream::new(7, "kills", number as u64),
            row,
            number,
            share,
        };
        hunt.compare(WHOLE);
        Ok(hunt)
    }

    /// Runs from an empty folder to the end, until the kills are used up.
    fn run(mut self) -> Result<Row, Failure> {
        while self.row.runs == 0 || self.row.kills < self.share {
            self.site.forget(OUT)?;
            while self.once()? {}
            self.row.runs += 1;
            self.compare(OUT);
            if !self.row.problems.is_empty() {
                break;
            }
        }
        Ok(self.row)
    }

    /// Starts the run once; whether it was killed.
    fn once(&mut self) -> Result<bool, Failure> {
        let before = self.site.good(OUT)?;
        let kill = (self.row.kills < self.share).then(|| self.kill(before.last()));
        self.row.kills += usize::from(kill.is_some());
        let ended = self.site.start(OUT, &[], kill)?;
        let after = self.site.good(OUT)?;
        self.row.problems.extend(lost(&known(&before, &ended.events), &after));
        self.row.problems.extend(ended.problem());
        self.resumed(&before, &ended);
        if ended.status.is_some() {
            return Ok(false);
        }
        self.row.hits[phase(&ended.events, self.site.kind.every) as usize] += 1;
        if !after.is_empty() {
            let least = self.row.least.unwrap_or(usize::MAX);
            self.row.least = Some(least.min(after.len()));
        } else if self.row.least.is_some() && !before.is_empty() {
            self.row.least = Some(0);
        }
        Ok(true)
    }

    /// A moment of the time that a run with this newest checkpoint takes. Every third run is killed while it writes the
    /// next checkpoint after that moment, the first of a kind in a later step than the first.
    fn kill(&self, newest: Option<&usize>) -> Kill {
        let left = 1.0 - newest.map_or(0.0, |step| *step as f64 / STEPS as f64);
        let expected = self.least + (self.whole - self.least).max(0.0) * left;
        let part = f64::from(self.random.uniform(self.row.kills as u64));
        let in_checkpoint = (self.number + self.row.kills).is_multiple_of(3);
        let part = if in_checkpoint && newest.is_none() { 0.3 + 0.5 * part } else { part };
        Kill { delay: Duration::from_secs_f64(expected * part), in_checkpoint }
    }

    /// A run goes on from its newest good checkpoint and from nothing else.
    fn resumed(&mut self, before: &[usize], ended: &Ended) {
        let newest = before.last().copied();
        let step = |event: &Value| event["step"].as_u64().map(|s| s as usize);
        let first = |name: &str| ended.events.iter().find(|e| e["event"] == name).and_then(step);
        if let Some(from) = first("resumed") {
            let (min, max) = self.row.resumed.unwrap_or((from, from));
            self.row.resumed = Some((min.min(from), max.max(from)));
            if newest != Some(from) {
                self.row.problems.push(format!("went on after step {from} with good checkpoints {before:?}"));
            }
        }
        if let Some(begun) = first("step").filter(|begun| *begun != newest.unwrap_or(0) + 1) {
            self.row.problems.push(format!("began with step {begun} with good checkpoints {before:?}"));
        }
    }

    /// Compares what a run that has ended computed.
    fn compare(&mut self, out: &str) {
        let problem = match self.site.results(out) {
            Ok(found) => found.differences(&self.reference).map(String::from),
            Err(failure) => Some(format!("no results: {}", failure.0)),
        };
        self.row.same &= problem.is_none();
        self.row.problems.extend(problem);
    }
}

/// Steps of the checkpoints that were good before a run and of those that it said were whole.
fn known(before: &[usize], events: &[Value]) -> Vec<usize> {
    let step = |e: &Value| e["path"].as_str()?.rsplit_once("step-")?.1.parse().ok();
    let announced = events.iter().filter(|e| e["event"] == "checkpoint").filter_map(step);
    before.iter().copied().chain(announced).collect::<BTreeSet<usize>>().into_iter().collect()
}

/// What follows the last thing that the program said.
fn phase(events: &[Value], every: usize) -> Phase {
    let Some(last) = events.last().filter(|_| events.iter().any(|e| e["event"] == "start")) else {
        return Phase::Loading;
    };
    let step = last["step"].as_u64().unwrap_or_default() as usize;
    let is_last = |path: &Value| path.as_str().is_some_and(|p| p.ends_with(&format!("step-{STEPS}")));
    match last["event"].as_str() {
        Some("step") if step.is_multiple_of(every) || step == STEPS => Phase::Checkpoint,
        Some("checkpoint" | "resumed") if is_last(&last["path"]) => Phase::Results,
        Some("message") => Phase::Results,
        _ => Phase::Step,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_run_announces_is_known() {
        let events = [
            json!({"event": "resumed", "path": "out/checkpoints/step-2", "step": 2}),
            json!({"event": "checkpoint", "path": "out/checkpoints/step-4"}),
        ];
        assert_eq!(known(&[2, 1], &events), [1, 2, 4]);
    }

    #[test]
    fn the_last_event_says_what_comes_next() {
        let of = |last: Value| phase(&[json!({"event": "start"}), last], 2) as usize;
        assert_eq!(phase(&[json!({"event": "prepared"})], 2) as usize, Phase::Loading as usize);
        assert_eq!(of(json!({"event": "step", "step": 3})), Phase::Step as usize);
        assert_eq!(of(json!({"event": "step", "step": 4})), Phase::Checkpoint as usize);
        assert_eq!(
            of(json!({"event": "checkpoint", "path": "out/checkpoints/step-4"})),
            Phase::Step as usize
        );
        let end = format!("out/checkpoints/step-{STEPS}");
        assert_eq!(of(json!({"event": "checkpoint", "path": end})), Phase::Results as usize);
    }
}
