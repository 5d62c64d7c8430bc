//! What rows say themselves about what of them is trained: flags on messages, and masks.

use super::fields::{Problem, kind, problem};
use serde_json::{Map, Value};

/// Fields of a message that say whether it is trained.
const FLAGS: &[&str] = &["weight", "train", "training", "trainable", "loss"];

/// Fields of a message, or of a row, that say how much, or which letters; that cannot be done.
const AMOUNTS: &[&str] =
    &["train_detail", "training_detail", "loss_scale", "loss_weight", "loss_weights", "sample_weight"];

/// Whether a value says yes or no.
fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(on) => Some(*on),
        Value::Number(n) => match n.as_f64() {
            Some(0.0) => Some(false),
            Some(1.0) => Some(true),
            _ => None,
        },
        _ => None,
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Number(n) => n.to_string(),
        Value::String(text) => format!("\"{}\"", text.chars().take(30).collect::<String>()),
        other => kind(other).to_string(),
    }
}

const ONLY_FLAGS: &str = "a message is trained (1, true) or not (0, false); there is nothing between";

/// Takes the flags off a message: whether it says that it is trained, if it says anything.
pub(super) fn of_message(fields: &mut Map<String, Value>) -> Result<Option<bool>, Problem> {
    refuse_amounts(fields)?;
    let mut said: Option<bool> = None;
    for name in FLAGS {
        let Some(value) = fields.shift_remove(*name) else { continue };
        let Some(on) = flag(&value) else {
            return Err((
                format!("`{name}` is {}, expected 0 or 1", shown(&value)),
                Some(ONLY_FLAGS.to_string()),
            ));
        };
        // Every message has a weight of 1 in some data sets; that asks for nothing.
        if !on || *name != "weight" {
            said = Some(said.unwrap_or(true) && on);
        }
    }
    Ok(said)
}

fn refuse_amounts(fields: &Map<String, Value>) -> Result<(), Problem> {
    for name in AMOUNTS {
        match fields.get(*name) {
            None | Some(Value::Null) => {}
            Some(value) if flag(value) == Some(true) => {}
            Some(value) => {
                return Err((
                    format!("`{name}` is {}, and would be without effect", shown(value)),
                    Some(format!("{ONLY_FLAGS}; take the field out, or use `weight` on messages")),
                ));
            }
        }
    }
    Ok(())
}

/// Refuses fields of a row that ask for something about its training that is not done.
pub(super) fn check_row(fields: &Map<String, Value>, is_chat: bool, is_tokens: bool) -> Result<(), Problem> {
    refuse_amounts(fields)?;
    match fields.get("weight") {
        Some(value @ Value::Number(_)) if flag(value) != Some(true) => {
            return Err((
                format!("`weight` of the row is {}, and would be without effect", shown(value)),
                Some("all rows count alike; take the field, or the row, out of the file".to_string()),
            ));
        }
        _ => {}
    }
    let given = |name: &str| fields.get(name).is_some_and(|value| !value.is_null());
    if given("loss_mask") && !is_chat && !is_tokens {
        return problem("`loss_mask` is for rows of messages or of token ids, and would be without effect");
    }
    // Rows of judged answers: those that were judged bad are there not to be learnt.
    if fields.contains_key("completion") && fields.get("label") == Some(&Value::Bool(false)) {
        return Err((
            "`label` is false: the answer is marked as a bad one".to_string(),
            Some("take such rows out of the file; every row is trained as a good one".to_string()),
        ));
    }
    Ok(())
}

/// The row's `loss_mask`: a flag for each of so many messages or tokens.
pub(super) fn mask(
    fields: &Map<String, Value>,
    name: &str,
    count: usize,
    of: &str,
) -> Result<Option<Vec<bool>>, Problem> {
    let Some(value) = fields.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
    let list = super::text::list(value, name)?;
    if list.len() != count {
        return problem(format!("`{name}` has {} values for {count} {of}", list.len()));
    }
    let each = |(i, value): (usize, &Value)| {
        flag(value).ok_or_else(|| {
            let hint = format!("each value of `{name}` is 0 or 1");
            (format!("{name}[{i}] is {}, expected 0 or 1", shown(value)), Some(hint))
        })
    };
    list.iter().enumerate().map(each).collect::<Result<_, _>>().map(Some)
}
