//! Answers of a model: the calls in their text, and what the check says of them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::check::{Call, Fault, Verdict};
use super::package::Question;
use crate::golden::Failure;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// The calls of an answer: those between the marks, or without marks a text that is nothing but a call or a list of calls.
pub(super) fn calls(text: &str) -> Result<Vec<Call>, Fault> {
    let parsed = |text: &str| serde_json::from_str::<Value>(text.trim()).map_err(|_| Fault::Unreadable);
    let marked: Vec<&str> =
        text.split(OPEN).skip(1).map(|rest| rest.split(CLOSE).next().unwrap_or(rest)).collect();
    let values = match marked.is_empty() {
        false => marked.into_iter().map(parsed).collect::<Result<Vec<_>, _>>()?,
        true => match parsed(text)? {
            Value::Array(list) => list,
            value => vec![value],
        },
    };
    values.into_iter().map(call).collect()
}

fn call(mut value: Value) -> Result<Call, Fault> {
    match (value["name"].as_str(), value["arguments"].is_object()) {
        (Some(name), true) => {
            let name = name.to_string();
            let arguments = value["arguments"].as_object_mut().map(std::mem::take).unwrap_or_default();
            Ok(Call { name, arguments })
        }
        _ => Err(Fault::Unreadable),
    }
}

/// An answer beside its question.
#[derive(Clone, Debug)]
pub(super) struct Answered<'a> {
    /// The question.
    pub(super) question: &'a Question,
    /// Its calls.
    pub(super) calls: Result<Vec<Call>, Fault>,
}

impl Answered<'_> {
    /// Whether it is right.
    pub(super) fn verdict(&self) -> Verdict {
        self.question.check(self.calls.as_deref().map_err(|fault| *fault)?)
    }
}

/// The rows of `ferrotune eval --answers` beside the questions that were asked, the first ones of the test.
pub(super) fn beside<'a>(questions: &'a [Question], rows: &[Value]) -> Result<Vec<Answered<'a>>, Failure> {
    let answered = |(question, row): (&'a Question, &Value)| {
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        // A row that was left out would move all others.
        if calls(text("expected")) != Ok(question.gold()?) {
            let expected = text("expected");
            return Err(Failure(format!(
                "{}: the answers are to another question: expected {expected}",
                question.id
            )));
        }
        Ok(Answered { question, calls: calls(text("answer")) })
    };
    if rows.is_empty() || rows.len() > questions.len() {
        return Err(Failure(format!("{} answers to {} questions", rows.len(), questions.len())));
    }
    questions.iter().zip(rows).map(answered).collect()
}

/// The share of right answers with its standard error, and how often each fault occurs.
pub(super) fn summary(verdicts: &[Verdict]) -> String {
    let mut faults: BTreeMap<Fault, usize> = BTreeMap::new();
    for fault in verdicts.iter().filter_map(|verdict| verdict.err()) {
        *faults.entry(fault).or_default() += 1;
    }
    let all = verdicts.len().max(1) as f64;
    let right = verdicts.iter().filter(|verdict| verdict.is_ok()).count();
    let share = right as f64 / all;
    let error = (share * (1.0 - share) / all).sqrt();
    let mut text =
        format!("right: {right} of {}, {:.1} ± {:.1}%\n", verdicts.len(), 100.0 * share, 100.0 * error);
    for (fault, count) in faults {
        text += &format!("  {count:5} {}\n", fault.words());
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bfcl::check::Mode;

    fn call(name: &str, arguments: Value) -> Call {
        Call { name: name.into(), arguments: arguments.as_object().unwrap().clone() }
    }

    #[test]
    fn calls_are_read_between_marks_or_alone() {
        let (a, b) = (call("a", json!({"x": 1})), call("b", json!({})));
        let marked = r#"Sure. <tool_call>{"name": "a", "arguments": {"x": 1}}</tool_call>"#;
        assert_eq!(calls(marked), Ok(vec![a.clone()]));
        let second = r#"<tool_call> {"name": "b", "arguments": {}}"#;
        assert_eq!(
            calls(&format!("{marked}\n{second}")),
            Ok(vec![a.clone(), b.clone()]),
            "the last mark may be missing"
        );
        assert_eq!(calls(r#"{"name": "b", "arguments": {}}"#), Ok(vec![b.clone()]));
        assert_eq!(
            calls(r#"[{"name": "a", "arguments": {"x": 1}}, {"name": "b", "arguments": {}}]"#),
            Ok(vec![a, b])
        );
        for text in [
            "",
            "a(x=1)",
            r#"{"name": "a"}"#,
            r#"{"name": 1, "arguments": {}}"#,
            r#"{"name": "a", "arguments": []}"#,
        ] {
            assert_eq!(calls(text), Err(Fault::Unreadable), "{text}");
        }
        assert_eq!(calls(&format!("{marked}<tool_call>{{</tool_call>")), Err(Fault::Unreadable));
    }

    #[test]
    fn answers_to_other_questions_are_refused() {
        let question = |item: &str| Question {
            id: item.into(),
            mode: Mode::Simple,
            messages: Vec::new(),
            functions: vec![
                json!({"name": "a", "parameters": {"properties": {"x": {"type": "string"}}, "required": ["x"]}}),
            ],
            possible: vec![json!({"a": {"x": [item]}})],
        };
        let questions = [question("lamp"), question("bulb")];
        let text =
            |item: &str| format!(r#"<tool_call>{{"name": "a", "arguments": {{"x": "{item}"}}}}</tool_call>"#);
        let row = |expected: &str, answer: String| json!({"expected": text(expected), "answer": answer});
        let rows = [row("lamp", text("Lamp")), row("bulb", text("lamp"))];
        let verdicts: Vec<Verdict> =
            beside(&questions, &rows).unwrap().iter().map(Answered::verdict).collect();
        assert_eq!(verdicts, [Ok(()), Err(Fault::Value)]);
        assert!(summary(&verdicts).starts_with("right: 1 of 2, 50.0 ± 35.4%\n"), "{}", summary(&verdicts));
        let moved = [row("bulb", text("bulb"))];
        assert!(
            beside(&questions, &moved).unwrap_err().0.contains("lamp: the answers are to another question")
        );
        assert!(beside(&questions[..1], &rows).is_err() && beside(&questions, &[]).is_err());
    }
}
