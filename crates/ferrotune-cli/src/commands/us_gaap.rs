//! Facts about US-GAAP concepts, which the tour and the recipe for finance teach. See `data/README.md` for where they
//! come from.

use ferrotune::{Error, Result};
use serde_json::{Value, json};

const FACTS: &str = include_str!("../../data/us-gaap-concepts.jsonl");

/// A concept and what is right about it: `BalanceSheet / Current Assets`.
pub struct Fact {
    pub concept: String,
    pub answer: String,
}

/// The facts to learn, and those to ask about.
pub fn facts() -> Result<(Vec<Fact>, Vec<Fact>)> {
    let (mut train, mut validation) = (Vec::new(), Vec::new());
    for (i, line) in FACTS.lines().enumerate() {
        let row: Value = serde_json::from_str(line)
            .map_err(|e| Error::data("us-gaap-concepts.jsonl", i + 1, e.to_string()))?;
        let text = |key: &str| row[key].as_str().map(str::to_string);
        let statement = text("statement").unwrap_or_default();
        let section = text("section").unwrap_or_else(|| "no section".into());
        let fact =
            Fact { concept: text("concept").unwrap_or_default(), answer: format!("{statement} / {section}") };
        if row["split"] == "train" { train.push(fact) } else { validation.push(fact) }
    }
    Ok((train, validation))
}

/// Facts as rows of messages.
pub fn lines<'a>(facts: impl IntoIterator<Item = &'a Fact>) -> String {
    facts.into_iter().map(|f| chat_row(&format!("US-GAAP concept: {}", f.concept), &f.answer)).collect()
}

/// A question and its answer as a line of JSON Lines.
pub fn chat_row(question: &str, answer: &str) -> String {
    let messages = json!([
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]);
    format!("{}\n", json!({"messages": messages}))
}
