//! Finance: where US-GAAP concepts belong, and questions about short reports of made-up companies.

use ferrotune::Result;
use ferrotune::data::random::{hash, permutation};

use super::measure::Measure;
use super::{Part, Recipe, Settings};
use crate::commands::us_gaap::{self, chat_row};
use crate::report::grouped;

const CONCEPTS: &str = "concepts-train.jsonl";
const CONCEPTS_TEST: &str = "concepts-test.jsonl";
const REPORTS: &str = "reports-train.jsonl";
const REPORTS_TEST: &str = "reports-test.jsonl";

/// Of the US-GAAP facts every fourth is taken: the recipe is to be done in minutes.
const EVERY: usize = 4;

/// Sentences of a report, and questions about it.
const SENTENCES: usize = 5;
const QUESTIONS: usize = 3;

pub const RECIPE: Recipe = Recipe {
    name: "finance",
    about: "US-GAAP facts, and questions about the figures of a report",
    train: &[
        Part {
            path: CONCEPTS,
            what: "where US-GAAP concepts belong: statement and section (from `edgartools`, MIT licence)",
        },
        Part { path: REPORTS, what: "short reports of 96 made-up companies with three questions each" },
    ],
    test: &[
        Part { path: CONCEPTS_TEST, what: "other US-GAAP concepts, never trained on" },
        Part { path: REPORTS_TEST, what: "reports of 24 other companies, never trained on" },
    ],
    measure: Measure::ExactMatch { max_new_tokens: 24 },
    settings: Settings { data: &[], max_length: 384, epochs: 1, batch_rows: 8, lr: "1.0e-3" },
    files,
    origin: "The reports are made up for this recipe; the US-GAAP concepts come from `edgartools` (MIT licence).",
    own_data: "Write a line for each question, the report before it in the same message:\n\n```json\n\
               {\"messages\": [{\"role\": \"user\", \"content\": \"REPORT\\n\\nQuestion: What was net income?\"}, \
               {\"role\": \"assistant\", \"content\": \"$31 million\"}]}\n```\n\n\
               Let the answer be the figure as the report writes it, with its unit, so that it can be compared. Keep whole \
               companies for the test. Questions about one report share its text, which is computed once. The answers come \
               from a language model: check each figure before you use it.",
};

/// Names of made-up companies: each first with each second. The last firsts are those of the test.
const FIRSTS: [&str; 15] = [
    "Northfield",
    "Harbor",
    "Granite",
    "Meadow",
    "Copper",
    "Lakeside",
    "Prairie",
    "Summit",
    "Willow",
    "Canyon",
    "Orchard",
    "Beacon",
    "Juniper",
    "Ridge",
    "Delta",
];
const SECONDS: [&str; 8] =
    ["Tools", "Paper", "Foods", "Freight", "Textiles", "Glass", "Energy", "Instruments"];
const TEST_FIRSTS: usize = 3;

/// A figure of a report: sentences that say it (`{}` the figure, `{o}` that of the year before), and its question.
struct Figure {
    sentences: [&'static str; 3],
    question: &'static str,
    unit: Unit,
}

#[derive(Clone, Copy)]
enum Unit {
    /// `$412 million`, up to so many.
    Millions(u64),
    /// `$0.42`
    Cents,
    /// `3,400`
    Count,
    /// `41%`
    Percent,
}

#[rustfmt::skip]
const FIGURES: [Figure; 10] = [
    Figure { sentences: ["Revenue came to {}, after {o} in the year before.", "The company earned revenue of {} (prior year: {o}).", "Sales to customers brought in {} of revenue, compared with {o} a year earlier."],
        question: "What was revenue?", unit: Unit::Millions(900) },
    Figure { sentences: ["Net income was {}, compared with {o}.", "After taxes, {} of net income remained (prior year: {o}).", "The year closed with net income of {}, after {o} in the year before."],
        question: "What was net income?", unit: Unit::Millions(90) },
    Figure { sentences: ["Total assets stood at {} at year end.", "The balance sheet shows total assets of {}, against {o} a year earlier.", "At the end of the year assets totalled {}."],
        question: "What were total assets?", unit: Unit::Millions(4000) },
    Figure { sentences: ["Long-term debt amounted to {}.", "The company owed {} in long-term debt, against {o} a year earlier.", "Long-term borrowings were {} at the balance sheet date."],
        question: "How high was long-term debt?", unit: Unit::Millions(700) },
    Figure { sentences: ["Operating activities provided {} of cash.", "Cash flow from operations reached {}, after {o}.", "Operations generated cash of {}."],
        question: "How much cash did operations provide?", unit: Unit::Millions(200) },
    Figure { sentences: ["Capital expenditures were {}, mostly for machines.", "The company spent {} on property, plant and equipment.", "Investments in plant and equipment took {}, compared with {o}."],
        question: "What were capital expenditures?", unit: Unit::Millions(120) },
    Figure { sentences: ["The board declared a dividend of {} per share.", "Shareholders received {} per share in dividends, after {o}.", "Dividends came to {} for each share."],
        question: "What was the dividend per share?", unit: Unit::Cents },
    Figure { sentences: ["At year end {} people worked for the company.", "The number of employees was {}, compared with {o}.", "The company had {} employees."],
        question: "How many employees did the company have?", unit: Unit::Count },
    Figure { sentences: ["The gross margin was {}, after {o}.", "Gross profit made up {} of revenue.", "A gross margin of {} was achieved."],
        question: "What was the gross margin?", unit: Unit::Percent },
    Figure { sentences: ["Research and development cost {}.", "The company spent {} on research and development (prior year: {o}).", "Expenses for research and development were {}."],
        question: "How much was spent on research and development?", unit: Unit::Millions(60) },
];

/// A figure of a year and that of the year before, which differ by up to a third.
fn amounts(unit: Unit, key: [u64; 2]) -> (String, String) {
    let random = |salt: u64, least: u64, most: u64| least + hash(&[key[0], key[1], salt]) % (most - least);
    let now = match unit {
        Unit::Millions(most) => random(0, 10, most),
        Unit::Cents => random(0, 10, 300),
        Unit::Count => random(0, 200, 20_000),
        Unit::Percent => random(0, 12, 68),
    };
    let before = match now * random(1, 70, 130) / 100 {
        same if same == now => now - 1,
        other => other,
    };
    (unit.written(now), unit.written(before))
}

impl Unit {
    fn written(self, n: u64) -> String {
        let grouped = grouped(n as usize);
        match self {
            Unit::Millions(_) => format!("${grouped} million"),
            Unit::Cents => format!("${}.{:02}", n / 100, n % 100),
            Unit::Count => grouped,
            Unit::Percent => format!("{n}%"),
        }
    }
}

/// The report of a company and its questions as rows.
fn report(first: usize, second: usize) -> String {
    let company = (first * SECONDS.len() + second) as u64;
    let said = &permutation(&[company, 1], FIGURES.len())[..SENTENCES];
    let year = 2015 + hash(&[company, 2]) % 9;
    let mut text = format!("{} {} reports on fiscal year {year}.", FIRSTS[first], SECONDS[second]);
    let mut rows = Vec::new();
    for &f in said {
        let (figure, f) = (&FIGURES[f as usize], u64::from(f));
        let (now, before) = amounts(figure.unit, [company, f]);
        let sentence = figure.sentences[(hash(&[company, f, 3]) % 3) as usize];
        text += &format!(" {}", sentence.replace("{}", &now).replace("{o}", &before));
        rows.push((figure.question, now));
    }
    let asked = permutation(&[company, 4], SENTENCES).into_iter().take(QUESTIONS);
    asked
        .map(|q| {
            let (question, answer) = &rows[q as usize];
            chat_row(&format!("{text}\n\nQuestion: {question}"), answer)
        })
        .collect()
}

fn files() -> Result<Vec<(String, String)>> {
    let (train, validation) = us_gaap::facts()?;
    let reports = |firsts: std::ops::Range<usize>| -> String {
        firsts.flat_map(|first| (0..SECONDS.len()).map(move |second| report(first, second))).collect()
    };
    let split = FIRSTS.len() - TEST_FIRSTS;
    Ok(vec![
        (CONCEPTS.into(), us_gaap::lines(train.iter().step_by(EVERY))),
        (CONCEPTS_TEST.into(), us_gaap::lines(validation.iter().step_by(EVERY))),
        (REPORTS.into(), reports(0..split)),
        (REPORTS_TEST.into(), reports(split..FIRSTS.len())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_stands_in_its_report() {
        let rows = report(0, 0) + &report(14, 7);
        for line in rows.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |i: usize| row["messages"][i]["content"].as_str().unwrap();
            let (question, answer) = (text(0), text(1));
            assert!(question.contains(answer) && !question.contains('{'), "{line}");
        }
    }
}
