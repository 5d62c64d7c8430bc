//! Rows that are no lists of messages: text, prompt and completion, instructions, token ids.

use super::chats::assembled;
use super::example::Example;
use super::fields::{Fields, Problem, field, kind, optional, problem, text};
use super::messages::Message;
use super::{flags, text as columns};
use crate::data::chat_template::ChatTemplate;
use serde_json::{Value, json};

pub(super) fn text_row(fields: &Fields) -> Result<Example, Problem> {
    let text = text(fields, "text")?;
    if text.is_empty() { problem("`text` is empty") } else { Ok(Example::Text(text.to_string())) }
}

/// Whether `prompt` and `completion` are lists of messages, perhaps as the text of JSON.
pub(super) fn is_chat(fields: &Fields) -> Result<bool, Problem> {
    let (prompt, completion) = (field(fields, "prompt")?, field(fields, "completion")?);
    let prompt_is = match prompt {
        Value::Array(_) => true,
        Value::String(text) => columns::messages_in(text, "prompt")?.is_some(),
        _ => false,
    };
    // An answer may be JSON by itself; it is a list of messages only beside another one.
    let completion_is = match completion {
        Value::Array(_) => true,
        Value::String(text) if prompt_is => columns::messages_in(text, "completion")?.is_some(),
        _ => false,
    };
    if prompt_is == completion_is {
        return Ok(prompt_is);
    }
    let other = if prompt_is { completion } else { prompt };
    problem(format!(
        "`prompt` and `completion` must both be text or both be lists of messages; one is {}",
        kind(other)
    ))
}

pub(super) fn completion(fields: &Fields) -> Result<Example, Problem> {
    let (prompt, completion) = (text(fields, "prompt")?, text(fields, "completion")?);
    no_room(fields, &["system", "tools", "functions", "history"], "`prompt` and `completion` as text")?;
    if prompt.is_empty() && completion.is_empty() {
        return problem("`prompt` and `completion` are both empty");
    }
    empty_answer(completion, "completion")?;
    Ok(Example::Completion { prompt: prompt.to_string(), completion: completion.to_string() })
}

fn empty_answer(text: &str, name: &str) -> Result<(), Problem> {
    match text.is_empty() {
        false => Ok(()),
        true => Err((
            format!("the answer is empty: `{name}` has no text"),
            Some("an empty answer would train the model to say nothing; take it out of the file".to_string()),
        )),
    }
}

/// Refuses what a row of plain text cannot say.
fn no_room(fields: &Fields, names: &[&str], shape: &str) -> Result<(), Problem> {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    match names.iter().find(|name| fields.get(**name).is_some_and(|value| !is_empty(value))) {
        None => Ok(()),
        Some(name) => Err((
            format!("`{name}` has no place in a row of {shape}"),
            Some(format!("write it into the text, or make the row a list of messages, or take `{name}` out")),
        )),
    }
}

/// Question and answer of each earlier turn.
fn history(fields: &Fields) -> Result<Vec<(String, String)>, Problem> {
    let value = match fields.get("history") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(Vec::new()),
        Some(value) => value,
    };
    let turn = |(i, turn): (usize, &Value)| match turn.as_array().map(Vec::as_slice) {
        Some([Value::String(question), Value::String(answer)]) => {
            empty_answer(answer, &format!("history[{i}][1]"))?;
            Ok((question.clone(), answer.clone()))
        }
        _ => problem(format!("history[{i}] is not a pair of texts, question and answer")),
    };
    columns::list(value, "history")?.iter().enumerate().map(turn).collect()
}

pub(super) fn instruction(fields: &Fields, template: Option<&ChatTemplate>) -> Result<Example, Problem> {
    let instruction = text(fields, "instruction")?;
    let input = optional(fields, "input")?;
    let output = text(fields, "output")?;
    if instruction.is_empty() && input.is_empty() {
        return problem("`instruction` is empty");
    }
    empty_answer(output, "output")?;
    let history = history(fields)?;
    if template.is_none() {
        no_room(fields, &["tools", "functions"], "instructions for a model without a chat template")?;
        let prompt = plain_prompt(optional(fields, "system")?, &history, instruction, input);
        return Ok(Example::Completion { prompt, completion: output.to_string() });
    }
    let message = |role: &str, content: &str| Message {
        value: json!({"role": role, "content": content}),
        trained: None,
    };
    let mut messages: Vec<Message> = Vec::new();
    for (question, answer) in &history {
        messages.push(message("user", question));
        messages.push(message("assistant", answer));
    }
    messages.push(message("user", &question(instruction, input)));
    messages.push(message("assistant", output));
    assembled(fields, messages, 0, template)
}

fn question(instruction: &str, input: &str) -> String {
    match (instruction.is_empty(), input.is_empty()) {
        (false, false) => format!("{instruction}\n\n{input}"),
        (false, true) => instruction.to_string(),
        (true, _) => input.to_string(),
    }
}

/// The form of Alpaca, with the system text before and earlier turns as context.
fn plain_prompt(system: &str, history: &[(String, String)], instruction: &str, input: &str) -> String {
    let mut prompt = String::new();
    if !system.trim().is_empty() {
        prompt += &format!("{system}\n\n");
    }
    for (question, answer) in history {
        prompt += &format!("### Instruction:\n{question}\n\n### Response:\n{answer}\n\n");
    }
    prompt += &match input.is_empty() {
        true => format!("### Instruction:\n{instruction}\n\n### Response:\n"),
        false if instruction.is_empty() => format!("### Instruction:\n{input}\n\n### Response:\n"),
        false => format!("### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"),
    };
    prompt
}

pub(super) fn tokens(fields: &Fields) -> Result<Example, Problem> {
    let numbers = |name: &str| -> Result<Vec<i64>, Problem> {
        let Value::Array(list) = field(fields, name)? else {
            return problem(format!("`{name}` is {}, expected a list of numbers", kind(&fields[name])));
        };
        let bad = |i: usize| (format!("{name}[{i}] is not a whole number"), None);
        list.iter().enumerate().map(|(i, v)| v.as_i64().ok_or_else(|| bad(i))).collect()
    };
    let ids = numbers("input_ids")?;
    if ids.is_empty() {
        return problem("`input_ids` is empty");
    }
    let id = |(i, &id): (usize, &i64)| {
        u32::try_from(id).map_err(|_| (format!("input_ids[{i}] is {id}, not a token id"), None))
    };
    let input_ids: Vec<u32> = ids.iter().enumerate().map(id).collect::<Result<_, _>>()?;
    let has_labels = fields.get("labels").is_some_and(|value| !value.is_null());
    let labels = if has_labels { numbers("labels")? } else { ids };
    if labels.len() != input_ids.len() {
        return problem(format!(
            "{} labels for {} tokens; they must be equally many",
            labels.len(),
            input_ids.len()
        ));
    }
    let label = |(i, &label): (usize, &i64)| match i32::try_from(label) {
        Ok(label) if label >= 0 || label == -100 => Ok(label),
        _ => problem(format!("labels[{i}] is {label}, expected a token id or -100")),
    };
    let mut labels: Vec<i32> = labels.iter().enumerate().map(label).collect::<Result<_, _>>()?;
    for name in ["loss_mask", "completion_mask", "assistant_masks"] {
        let mask = flags::mask(fields, name, labels.len(), "tokens")?;
        for (label, on) in labels.iter_mut().zip(mask.unwrap_or_default()) {
            *label = if on { *label } else { crate::data::train_row::IGNORE };
        }
    }
    let attention = flags::mask(fields, "attention_mask", labels.len(), "tokens")?;
    if let Some(i) = attention.and_then(|mask| mask.iter().position(|on| !on)) {
        return Err((
            format!("attention_mask[{i}] is 0: the row is padded"),
            Some("rows of token ids are taken without padding".to_string()),
        ));
    }
    Ok(Example::Tokens { input_ids, labels })
}
