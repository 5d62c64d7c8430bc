//! `preview`: rows as the model will see them, supervised tokens coloured.

use std::process::ExitCode;

use ferrotune::Result;
use ferrotune::data::tokenize::preview;
use ferrotune::data::train_row::{IGNORE, TrainRow};
use ferrotune::train::notices;
use serde_json::json;

use super::{data_sets, device, open_base, run_file};
use crate::args::{Args, PreviewArgs};
use crate::report::Report;
use crate::words::Color;

pub fn run(args: &Args, a: &PreviewArgs, report: &Report) -> Result<ExitCode> {
    let config = run_file::load(&a.run, &a.set, report)?;
    let threads = device(args, config.train.threads)?.threads();
    let base = open_base(args, &config.model.base, report)?;
    let located = data_sets::locate(args, &config, report)?;
    let prepared = base.prepare(&threads, &located.config)?;
    for event in notices::of_rows(&prepared) {
        report.event(&event);
    }
    let colour = match a.color {
        Color::Auto => report.is_terminal(),
        Color::Always => true,
        Color::Never => false,
    };
    let mut shown = Vec::new();
    for i in 0..prepared.train.len().min(a.rows) {
        let row = prepared.train.row(i)?;
        let pieces = preview(&row, &base.tokenizer)?;
        if report.json() {
            shown.push(json!({
                "tokens": row.len(), "label_tokens": row.label_tokens(),
                "pieces": pieces.iter().map(|(t, s)| json!({"text": t, "supervised": s})).collect::<Vec<_>>(),
            }));
            continue;
        }
        report.say(format!("row {}: {} tokens, {} supervised", i + 1, row.len(), row.label_tokens()));
        let stretches = pieces.chunk_by(|(_, a), (_, b)| a == b);
        let text: String = stretches
            .map(|same| {
                paint(&same.iter().map(|(text, _)| text.as_str()).collect::<String>(), same[0].1, colour)
            })
            .collect();
        report.output(&text);
        if a.tokens {
            report.output(&table(&row, &base.tokenizer));
        }
    }
    report.done(&json!({"rows": shown, "report": prepared.train_report}));
    Ok(ExitCode::SUCCESS)
}

/// Supervised text in green; without colour in double brackets.
fn paint(text: &str, supervised: bool, colour: bool) -> String {
    match (supervised, colour) {
        (true, true) => format!("\u{1b}[32m{text}\u{1b}[0m"),
        (true, false) => format!("⟦{text}⟧"),
        (false, true) => format!("\u{1b}[2m{text}\u{1b}[0m"),
        (false, false) => text.to_string(),
    }
}

fn table(row: &TrainRow, tokenizer: &ferrotune::data::tokenizer::Tokenizer) -> String {
    let line = |(id, label): (&u32, &i32)| {
        let token = tokenizer.token(*id).unwrap_or_default();
        let label = if *label == IGNORE { "-".to_string() } else { label.to_string() };
        format!("{id:>8} {label:>8} {token}")
    };
    row.input_ids.iter().zip(&row.labels).map(line).collect::<Vec<_>>().join("\n")
}
