//! Names of columns: those that the run file maps (`data.columns`), and common ones that are recognized.

use serde_json::Value;

use super::fields::{Fields, Problem, found};
use crate::run_config::MEANINGS;

/// What a row may have beside its shape, whatever it is.
const BESIDE: &[&str] = &["system", "history", "tools"];

/// Whether a name decides the shape of a row. Those that the run file does not map are no part of a row whose columns it
/// maps.
fn is_shaping(name: &str) -> bool {
    MEANINGS.contains(&name) && !BESIDE.contains(&name)
}

const CHATS: &[&str] = &["conversation", "chat", "dialogue", "dialog", "turns"];
const QUESTIONS: &[&str] = &["instruction", "question", "query", "prompt", "problem", "user"];
const ANSWERS: &[&str] = &["output", "answer", "response", "completion", "reply", "solution", "assistant"];
const TEXTS: &[&str] = &["content", "document", "article", "body"];

/// A column under its meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    meaning: &'static str,
    column: String,
}

impl Taken {
    /// The columns in the words of a message, such as "`question` as `instruction`"; none if all have their own names.
    pub(super) fn words(taken: &[Taken]) -> Option<String> {
        let renamed = taken.iter().filter(|taken| taken.column != taken.meaning);
        let words: Vec<String> =
            renamed.map(|taken| format!("`{}` as `{}`", taken.column, taken.meaning)).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}

/// The fields with the columns under the names that the run file gives them (`(meaning, column)`).
pub(super) fn mapped(mut fields: Fields, columns: &[(String, String)]) -> Result<Fields, Problem> {
    if columns.is_empty() {
        return Ok(fields);
    }
    let mut mapped = Vec::new();
    for (meaning, column) in columns {
        match fields.get(column) {
            Some(value) => mapped.push((meaning.clone(), value.clone())),
            // Rows may lack what is optional.
            None if !is_shaping(meaning) || meaning == "input" => {}
            None => {
                let problem =
                    format!("no `{column}`, which data.columns takes as `{meaning}`: {}", found(&fields));
                return Err((problem, Some("name the columns as the file has them".into())));
            }
        }
    }
    fields.retain(|name, _| !is_shaping(name));
    fields.extend(mapped);
    Ok(fields)
}

/// What common names stand for in a row that has no known shape by its own names: names in other cases, chats,
/// questions and answers, texts. Nothing if it is none of these.
pub(super) fn recognized(fields: &Fields) -> Result<Vec<Taken>, Problem> {
    let given: Vec<(String, &str)> = fields
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, _)| (name.trim().to_ascii_lowercase(), name.as_str()))
        .collect();
    let column = |name: &str| given.iter().find(|(lower, _)| lower == name).map(|(_, column)| *column);
    let taken = |meaning, column: &str| Taken { meaning, column: column.to_string() };
    let all = |names: &[&str]| -> Vec<&str> { names.iter().filter_map(|name| column(name)).collect() };

    if column("chosen").is_some() && column("rejected").is_some() {
        return Err((
            "a pair of preferences (`chosen`, `rejected`) is not trained by `train.objective: next_token`"
                .into(),
            Some(
                "data.columns can take the chosen answer alone: {prompt: prompt, completion: chosen}".into(),
            ),
        ));
    }
    for meaning in ["messages", "conversations"] {
        if let Some(column) = column(meaning) {
            return Ok(vec![taken(meaning, column)]);
        }
    }
    let is_list = |column: &&str| match &fields[*column] {
        Value::Array(items) => items.iter().any(Value::is_object),
        Value::String(text) => text.trim_start().starts_with("[{"),
        _ => false,
    };
    if let [chat] = all(CHATS).into_iter().filter(is_list).collect::<Vec<_>>().as_slice() {
        return Ok(vec![taken("messages", chat)]);
    }
    // `input` is the question where there is no other, and its context where there is.
    let mut questions = all(QUESTIONS);
    let mut context = column("context").or_else(|| column("input").filter(|_| !questions.is_empty()));
    if questions.is_empty() {
        questions.extend(column("input"));
    }
    if column("instruction").is_some() && column("context").is_none() {
        context = column("input");
    }
    let answers = all(ANSWERS);
    match (questions.as_slice(), answers.as_slice()) {
        ([question], [answer]) => {
            let mut columns = vec![taken("instruction", question), taken("output", answer)];
            columns.extend(context.map(|context| taken("input", context)));
            let others =
                ["system", "history"].into_iter().filter_map(|name| Some(taken(name, column(name)?)));
            columns.extend(others);
            return Ok(columns);
        }
        ([], _) | (_, []) => {}
        _ => {
            let names = |names: &[&str]| {
                names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ")
            };
            return Err((
                format!("the question may be {}, and the answer {}", names(&questions), names(&answers)),
                Some("say which with data.columns, such as {instruction: question, output: answer}".into()),
            ));
        }
    }
    for meaning in ["input_ids", "text"] {
        if let Some(column) = column(meaning) {
            return Ok(vec![taken(meaning, column)]);
        }
    }
    // What has a role is a message, not a text.
    match all(TEXTS).as_slice() {
        [text] if column("role").is_none() => Ok(vec![taken("text", text)]),
        _ => Ok(Vec::new()),
    }
}

/// The fields under their meanings.
pub(super) fn renamed(mut fields: Fields, taken: &[Taken]) -> Fields {
    let found: Vec<(&str, Value)> =
        taken.iter().filter_map(|taken| Some((taken.meaning, fields.shift_remove(&taken.column)?))).collect();
    for (meaning, value) in found {
        fields.insert(meaning.to_string(), value);
    }
    fields
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn words(row: Value) -> String {
        let fields = row.as_object().expect("an object").clone();
        match recognized(&fields) {
            Ok(taken) => Taken::words(&taken).unwrap_or_default(),
            Err((problem, _)) => problem,
        }
    }

    #[test]
    fn common_names_are_recognized() {
        for (row, expected) in [
            (
                json!({"question": "a", "answer": "b", "id": 1}),
                "`question` as `instruction`, `answer` as `output`",
            ),
            (json!({"Question": "a", "Answer": "b"}), "`Question` as `instruction`, `Answer` as `output`"),
            (json!({"input": "a", "output": "b"}), "`input` as `instruction`"),
            (
                json!({"instruction": "a", "context": "c", "response": "b"}),
                "`response` as `output`, `context` as `input`",
            ),
            (json!({"instruction": "a", "input": "c", "response": "b"}), "`response` as `output`"),
            (
                json!({"question": "a", "input": "c", "answer": "b"}),
                "`question` as `instruction`, `answer` as `output`",
            ),
            (json!({"prompt": "a", "response": "b"}), "`prompt` as `instruction`, `response` as `output`"),
            (json!({"Text": "a"}), "`Text` as `text`"),
            (json!({"content": "a", "path": "p"}), "`content` as `text`"),
            (json!({"conversation": [{"role": "user"}]}), "`conversation` as `messages`"),
            (json!({"conversation": "a text"}), ""),
            (json!({"role": "user", "content": "a"}), ""),
            (json!({"question": "a"}), ""),
            (
                json!({"question": "a", "answer": null, "solution": "b"}),
                "`question` as `instruction`, `solution` as `output`",
            ),
        ] {
            assert_eq!(words(row.clone()), expected, "{row}");
        }
        let two = words(json!({"question": "a", "answer": "b", "response": "c"}));
        assert!(two.contains("`answer` or `response`"), "{two}");
        assert!(words(json!({"prompt": "a", "chosen": "b", "rejected": "c"})).contains("preferences"));
    }

    #[test]
    fn mapped_columns_alone_decide_the_shape() {
        let fields = json!({"messages": [], "q": "a", "output": "old", "a": "b", "system": "s"});
        let columns = [("instruction".to_string(), "q".to_string()), ("output".to_string(), "a".to_string())];
        let found = Value::Object(mapped(fields.as_object().unwrap().clone(), &columns).unwrap());
        assert_eq!(found, json!({"q": "a", "a": "b", "system": "s", "instruction": "a", "output": "b"}));
    }
}
