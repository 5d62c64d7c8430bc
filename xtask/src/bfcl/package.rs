//! The questions of the package: the folder of `bfcl_eval` with its `data`.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::check::{Call, Mode, Verdict, check, only};
use crate::golden::Failure;

/// A question with its functions and answers.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// Its name in the package.
    pub(super) id: String,
    /// How many functions and calls it has.
    pub(super) mode: Mode,
    /// The messages of its only turn.
    pub(super) messages: Vec<Value>,
    /// Descriptions of its functions.
    pub(super) functions: Vec<Value>,
    /// Allowed values of each call's arguments.
    pub(super) possible: Vec<Value>,
}

impl Question {
    /// What the check says of an answer.
    pub(super) fn check(&self, calls: &[Call]) -> Verdict {
        check(self.mode, &self.functions, &self.possible, calls)
    }

    /// The expected calls: of each argument the first value that is allowed; it is left out if that may be and is named first.
    pub(super) fn gold(&self) -> Result<Vec<Call>, Failure> {
        let call = |possible: &Value| {
            let (name, allowed) = only(possible).ok()?;
            let function = self.functions.iter().find(|f| f["name"] == **name)?;
            let properties = &function["parameters"]["properties"];
            let first = |(key, allowed): (&String, &Value)| {
                Some((key.clone(), first(allowed, of_fields(&properties[key]))?))
            };
            Some(Call {
                name: name.clone(),
                arguments: allowed.as_object()?.iter().filter_map(first).collect(),
            })
        };
        let calls: Option<Vec<Call>> = self.possible.iter().map(call).collect();
        calls.ok_or_else(|| Failure(format!("{}: its answers are not read", self.id)))
    }
}

/// Whether the fields of an argument have lists of allowed values of their own.
fn of_fields(declared: &Value) -> bool {
    declared["type"] == "dict" || declared["items"]["type"] == "dict"
}

/// The first allowed value; none if that is to leave it out.
fn first(allowed: &Value, of_fields: bool) -> Option<Value> {
    let value = allowed.as_array()?.first().filter(|value| **value != "")?;
    let fields = |fields: &Map<String, Value>| -> Value {
        let first = |(key, allowed): (&String, &Value)| Some((key.clone(), first(allowed, false)?));
        fields.iter().filter_map(first).collect::<Map<_, _>>().into()
    };
    Some(match value {
        Value::Object(object) if of_fields => fields(object),
        Value::Array(list) if of_fields => {
            list.iter().map(|item| item.as_object().map_or_else(|| item.clone(), fields)).collect()
        }
        value => value.clone(),
    })
}

/// The questions of a category, in the package's order.
pub(super) fn questions(package: &Path, category: &str) -> Result<Vec<Question>, Failure> {
    let data = package.join("data");
    let name = format!("BFCL_v4_{category}.json");
    let answers = lines(&data.join("possible_answer").join(&name))?;
    let answers: HashMap<&str, &Value> =
        answers.iter().filter_map(|row| Some((row["id"].as_str()?, &row["ground_truth"]))).collect();
    let question = |row: Value| {
        let id = row["id"].as_str()?;
        let possible = answers.get(id)?.as_array()?.clone();
        // A question of one turn.
        let [turn] = row["question"].as_array()?.as_slice() else { return None };
        Some(Question {
            id: id.to_string(),
            mode: Mode::of(category),
            messages: turn.as_array()?.clone(),
            functions: row["function"].as_array()?.clone(),
            possible,
        })
    };
    let read = |row: Value| {
        let text = row["id"].to_string();
        question(row)
            .ok_or_else(|| Failure(format!("{name}: {text} is no question of one turn with its answers")))
    };
    lines(&data.join(&name))?.into_iter().map(read).collect()
}

/// The rows of a file of JSON Lines.
pub(super) fn lines(path: &Path) -> Result<Vec<Value>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure(format!("{}: {e}", path.display())))?;
    let row = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| Failure(format!("{}, line {}: {e}", path.display(), i + 1)))
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(row).collect()
}
