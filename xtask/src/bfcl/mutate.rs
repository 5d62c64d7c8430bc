//! Calls that differ a little from the expected ones, so that every branch of the check is met.

use serde_json::{Value, json};

use super::check::{Call, only};
use super::package::Question;
use crate::golden::Failure;

/// The expected calls, and each way in which they are changed.
pub(super) fn mutated(question: &Question) -> Result<Vec<Vec<Call>>, Failure> {
    let gold = question.gold()?;
    let mut all = vec![gold.clone(), Vec::new(), [gold.clone(), gold[..1].to_vec()].concat()];
    all.push(gold.iter().rev().cloned().collect());
    for (at, call) in gold.iter().enumerate() {
        let mut push = |changed: Call| {
            let mut calls = gold.clone();
            calls[at] = changed;
            all.push(calls);
        };
        push(Call { name: format!("{}s", call.name), ..call.clone() });
        let with = |name: &str, value: Value| {
            let mut changed = call.clone();
            changed.arguments.insert(name.to_string(), value);
            changed
        };
        push(with("further", json!(1)));
        let properties = question.functions.iter().filter_map(|f| f["parameters"]["properties"].as_object());
        for name in properties.flat_map(|properties| properties.keys()) {
            for value in [json!(""), json!(0), json!(null)] {
                push(with(name, value));
            }
        }
        for (name, value) in &call.arguments {
            let mut without = call.clone();
            without.arguments.shift_remove(name);
            push(without);
            for value in changed(value) {
                push(with(name, value));
            }
        }
        let possible = only(&question.possible[at]).ok().and_then(|(_, allowed)| allowed.as_object());
        for (name, allowed) in possible.into_iter().flatten() {
            for value in allowed.as_array().into_iter().flatten() {
                push(with(name, value.clone()));
            }
        }
    }
    Ok(all)
}

/// A value as other types have it, and others of its type.
fn changed(value: &Value) -> Vec<Value> {
    let mut all = vec![json!(value.to_string()), json!([value]), json!({ "value": value }), json!(true)];
    match value {
        Value::String(text) => {
            let marked: String = text.chars().flat_map(|c| [c, '-']).collect();
            all.extend(
                [text.to_uppercase(), marked, format!("{text}'"), format!("{text} more")].map(Value::from),
            );
            all.extend(text.parse::<f64>().ok().map(Value::from));
        }
        Value::Number(number) => {
            let float = number.as_f64().unwrap_or(0.0);
            all.extend([json!(float), json!(float as i64), json!(float + 1.0), json!(float as i64 + 1)]);
        }
        Value::Bool(flag) => all.extend([json!(!flag), json!(i64::from(*flag))]),
        Value::Array(list) => {
            all.extend([json!([]), list.iter().rev().cloned().collect(), json!([&list[..], list].concat())]);
            for (i, item) in list.iter().enumerate().take(3) {
                for item in changed(item) {
                    let mut list = list.clone();
                    list[i] = item;
                    all.push(list.into());
                }
            }
        }
        Value::Object(object) => {
            all.push(json!({}));
            let mut more = object.clone();
            more.insert("further".into(), json!(1));
            all.push(more.into());
            for (key, inner) in object {
                let mut less = object.clone();
                less.shift_remove(key);
                all.push(less.into());
                for inner in changed(inner) {
                    let mut object = object.clone();
                    object.insert(key.clone(), inner);
                    all.push(object.into());
                }
            }
        }
        Value::Null => {}
    }
    all
}
