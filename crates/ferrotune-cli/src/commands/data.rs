//! `data`: what a data set is like, before anything is trained on it.

use std::fs;
use std::process::ExitCode;

use ferrotune::base::BaseModel;
use ferrotune::data::report::{DataReport, Level, PartReport};
use ferrotune::data::tokenize::preview;
use ferrotune::data::{PreparedData, token_rows::TokenRows};
use ferrotune::plan::advise::{Load, estimate};
use ferrotune::run_config::RunConfig;
use ferrotune::units::human;
use ferrotune::{Error, Result};
use ferrotune_kernels::Device;
use serde::Serialize;
use serde_json::{Value, json};

use super::train::duration;
use super::{data_sets, device, open_base, run_file};
use crate::args::{Args, DataArgs};
use crate::pages;
use crate::report::{Report, grouped};

/// Rows that the page shows as the model sees them.
const SAMPLES: usize = 3;

/// Tokens of them at most.
const SAMPLE_TOKENS: usize = 400;

pub fn run(args: &Args, a: &DataArgs, report: &Report) -> Result<ExitCode> {
    let config = run_file::load(&a.run, &a.set, report)?;
    let dev = device(args, config.train.threads)?;
    let base = open_base(args, &config.model.base, report)?;
    let located = data_sets::locate(args, &config, report)?;
    let (prepared, data) = base.data_report(&dev.threads(), &located.config)?;
    let files = prepared.files.clone();
    let samples = if a.html.is_some() { samples(&base, &prepared.train)? } else { Vec::new() };
    let run = forecast(&config, &base, &dev, prepared)?;
    let findings = data.findings();
    if let Some(path) = &a.html {
        let page = pages::render(
            pages::DATA,
            json!({
                "title": format!("Data of {}", a.run.display()), "version": env!("CARGO_PKG_VERSION"),
                "model": config.model.base, "shapes": shapes(&data), "data": data, "findings": findings,
                "run": run, "files": files, "samples": samples, "languages": languages(&data),
            }),
        )?;
        fs::write(path, page).map_err(|e| Error::io(path, e))?;
        report.say(format!("the page is in {}", path.display()));
    }
    if !report.json() {
        report.output(&text(&data, &run));
        for finding in &findings {
            let word = if finding.level == Level::Warning { "warning" } else { "note" };
            report.output(&format!("{word}: {}", finding.text));
            if !finding.places.is_empty() {
                report.output(&format!("  {}", finding.places.join(", ")));
            }
        }
        if findings.is_empty() {
            report.output("nothing was found that should be looked at");
        }
    }
    report.done(&json!({"data": data, "findings": findings, "run": run, "files": files}));
    Ok(ExitCode::SUCCESS)
}

/// What the run would take.
#[derive(Debug, Serialize)]
struct Forecast {
    steps: usize,
    tokens: usize,
    /// Seconds of training on this machine, where its speed is known.
    seconds: Option<f64>,
    /// The same in words.
    time: Option<String>,
    peak_bytes: Option<u64>,
    fits: bool,
}

fn forecast(config: &RunConfig, base: &BaseModel, dev: &Device, prepared: PreparedData) -> Result<Forecast> {
    let load = Load::from_rows(config, &base.checkpoint, prepared)?;
    let (steps, tokens) = load.run().unwrap_or_default();
    let ways = estimate(config, &base.checkpoint, dev, load)?;
    let mut own = ways.iter().filter(|way| way.method == config.method.kind);
    let way = own.clone().find(|way| way.fits).or_else(|| own.next());
    let seconds = way.map(|way| tokens as f64 / way.tokens_per_second).filter(|seconds| seconds.is_finite());
    Ok(Forecast {
        steps,
        tokens,
        seconds,
        time: seconds.map(duration),
        peak_bytes: way.map(|way| way.peak_bytes),
        fits: way.is_some_and(|way| way.fits),
    })
}

/// The first rows as pieces of text that are trained or not.
fn samples(base: &BaseModel, rows: &TokenRows) -> Result<Vec<Vec<Value>>> {
    let sample = |row| {
        let mut row = rows.row(row)?;
        row.input_ids.truncate(SAMPLE_TOKENS);
        row.labels.truncate(SAMPLE_TOKENS);
        let mut pieces: Vec<(String, bool)> = Vec::new();
        for (text, supervised) in preview(&row, &base.tokenizer)? {
            match pieces.last_mut().filter(|(_, on)| *on == supervised) {
                Some((before, _)) => before.push_str(&text),
                None => pieces.push((text, supervised)),
            }
        }
        let piece = |(text, supervised): (String, bool)| json!({"text": text, "supervised": supervised});
        Ok(pieces.into_iter().map(piece).collect())
    };
    (0..rows.len().min(SAMPLES)).map(sample).collect()
}

/// The shapes of the rows in words.
fn shapes(data: &DataReport) -> String {
    let shapes = data.train.report.shapes.iter();
    shapes.map(|(shape, rows)| format!("{} rows of {shape}", grouped(*rows))).collect::<Vec<_>>().join(", ")
}

/// A language of the rows.
#[derive(Debug, Serialize)]
struct Language<'a> {
    name: &'a str,
    rows: usize,
    percent: f64,
}

/// The languages, the most frequent first.
fn languages(data: &DataReport) -> Vec<Language<'_>> {
    let told: usize = data.languages.values().sum();
    let all = data.languages.iter();
    let percent = |rows: usize| 100.0 * rows as f64 / told.max(1) as f64;
    let mut languages: Vec<Language<'_>> =
        all.map(|(name, &rows)| Language { name, rows, percent: percent(rows) }).collect();
    languages.sort_by_key(|language| (std::cmp::Reverse(language.rows), language.name));
    languages
}

fn text(data: &DataReport, run: &Forecast) -> String {
    let mut lines = vec![format!("read      {}", shapes(data))];
    lines.extend(part("train", &data.train));
    if let Some(eval) = &data.eval {
        lines.extend(part("held out", eval));
    }
    let languages = languages(data);
    if languages.len() > 1 {
        let named = |language: &Language<'_>| format!("{} {}", language.name, grouped(language.rows));
        lines.push(format!(
            "languages {}",
            languages.iter().take(8).map(named).collect::<Vec<_>>().join(", ")
        ));
    }
    let time = run.time.as_ref().map_or(String::new(), |time| format!(", about {time} on this machine"));
    let memory = run.peak_bytes.map_or(String::new(), |bytes| {
        format!(", {}{}", human(bytes), if run.fits { "" } else { " of memory, which is not there" })
    });
    lines.push(format!(
        "run       {} steps, {} tokens{time}{memory}",
        grouped(run.steps),
        grouped(run.tokens)
    ));
    lines.join("\n")
}

fn part(name: &str, part: &PartReport) -> Vec<String> {
    let (report, lengths) = (&part.report, &part.lengths);
    let share = 100.0 * report.label_tokens as f64 / report.tokens.max(1) as f64;
    let mut lines = vec![
        format!(
            "{name:<9} {} rows, {} tokens, {share:.1}% of them trained",
            grouped(report.kept),
            grouped(report.tokens)
        ),
        format!(
            "  lengths {} median {}, 90% up to {}, 99% up to {}, longest {}",
            bars(lengths.histogram.iter().map(|bar| bar.rows)),
            grouped(lengths.median),
            grouped(lengths.p90),
            grouped(lengths.p99),
            grouped(lengths.longest)
        ),
    ];
    let ending = |ending: &ferrotune::data::report::Ending| {
        let stops = if ending.stops { " (stops)" } else { "" };
        format!("{:?} {}{stops}", ending.text, grouped(ending.rows))
    };
    let endings: Vec<String> = part.endings.iter().take(4).map(ending).collect();
    lines.push(format!("  endings {}", endings.join(", ")));
    lines
}

/// A histogram in a line.
fn bars(rows: impl Iterator<Item = usize> + Clone) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = rows.clone().max().unwrap_or(0).max(1);
    rows.map(|rows| if rows == 0 { ' ' } else { BARS[(rows * 8).div_ceil(most).min(8) - 1] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_in_a_line() {
        assert_eq!(bars([0, 1, 400, 800].into_iter()), " ▁▄█");
        assert_eq!(bars(std::iter::empty()), "");
    }
}
