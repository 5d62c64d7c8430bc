//! Conversations about the built-in facts, as the program itself makes rows of them.

use std::path::Path;

use ferrotune::base::BaseModel;
use ferrotune::data::dataset::Dataset;
use ferrotune::data::random::permutation;
use ferrotune::run_config::DataOptions;
use ferrotune_kernels::Threads;
use serde_json::{Value, json};

use crate::golden::Failure;
use crate::shared::rows::{Row, facts_text};

/// Facts that a conversation is about, each as often: most questions are short.
const FACTS: [usize; 10] = [1, 1, 1, 1, 1, 2, 3, 5, 8, 12];

/// A question about facts, and the answer.
fn conversation(facts: &[&Value]) -> Value {
    let text = |fact: &Value, key: &str| fact[key].as_str().unwrap_or("none").to_string();
    let concepts: Vec<String> = facts.iter().map(|fact| text(fact, "concept")).collect();
    let answer = |fact: &&Value| {
        format!(
            "{} is in {}, section {}.",
            text(fact, "concept"),
            text(fact, "statement"),
            text(fact, "section")
        )
    };
    let answers: Vec<String> = facts.iter().map(answer).collect();
    json!({"messages": [
        {"role": "user", "content": format!("Where do these US-GAAP concepts belong? {}", concepts.join(", "))},
        {"role": "assistant", "content": answers.join(" ")},
    ]})
}

/// The messages of `count` conversations, always the same ones.
fn conversations(count: usize, text: &str) -> Result<String, Failure> {
    let facts = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let lengths = permutation(&[1], count).into_iter().map(|i| FACTS[i as usize % FACTS.len()]);
    let order = permutation(&[2], facts.len());
    let mut next = order.iter().cycle().map(|i| &facts[*i as usize]);
    Ok(lengths.map(|n| format!("{}\n", conversation(&next.by_ref().take(n).collect::<Vec<_>>()))).collect())
}

/// Rows of `count` conversations in the model's template and tokens.
pub(super) fn chats(model: &Path, count: usize, work: &Path) -> Result<Vec<Row>, Failure> {
    let file = work.join("chats.jsonl");
    std::fs::write(&file, conversations(count, &facts_text()?)?)?;
    let failure = |e: ferrotune::Error| Failure(e.to_string());
    let base = BaseModel::open(model, "the model of the benchmark").map_err(failure)?;
    let dataset = Dataset::read(&[file], base.read_options(&DataOptions::default())).map_err(failure)?;
    let (rows, _) =
        base.preparer(&DataOptions::default()).prepare(&Threads::one(), &dataset).map_err(failure)?;
    let row = |r: ferrotune::data::train_row::TrainRow| Row {
        ids: r.input_ids,
        labels: r.labels.into_iter().map(i64::from).collect(),
    };
    Ok(rows.to_vec().map_err(failure)?.into_iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_are_of_many_lengths_and_ask_about_each_fact_once() {
        let text = facts_text().map_err(|f| f.0).unwrap_or_default();
        let lines = conversations(80, &text).map_err(|f| f.0).unwrap_or_default();
        let counts: Vec<usize> = lines.lines().map(|l| l.matches(" is in ").count()).collect();
        for (facts, often) in [(1, 40), (2, 8), (3, 8), (5, 8), (8, 8), (12, 8)] {
            assert_eq!(counts.iter().filter(|n| **n == facts).count(), often, "{facts}");
        }
        assert_ne!(counts[..8], counts[8..16]);
        let mut rows: Vec<&str> = lines.lines().collect();
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), 80);
    }
}
