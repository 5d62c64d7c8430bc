//! The schema as editors need it, which know nothing of our extensions.

use serde_json::{Map, Value, json};

use super::schema::aliases;

/// The same schema in plain JSON Schema, with all that is read beyond the declaration: aliases of keys and words, and one
/// value in the place of a list.
pub(crate) fn for_editors(schema: &Value) -> Value {
    let Some(schema) = schema.as_object() else { return schema.clone() };
    let mut plain: Map<String, Value> = schema
        .iter()
        .filter(|(key, _)| !key.starts_with("x-"))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    if let Some(own) = schema.get("properties").and_then(Value::as_object) {
        plain.insert("properties".into(), all_names(own).into());
        plain.insert("additionalProperties".into(), false.into());
    }
    if let Some(words) = schema.get("oneOf").and_then(Value::as_array) {
        let all: Vec<Value> =
            words.iter().flat_map(|word| [for_editors(word)].into_iter().chain(same_word(word))).collect();
        plain.insert("oneOf".into(), all.into());
    }
    if schema.get("type") == Some(&"array".into()) && !schema.contains_key("maxItems") {
        let items = for_editors(&plain.remove("items").unwrap_or_default());
        plain.remove("type");
        plain.insert("anyOf".into(), json!([items, {"type": "array", "items": items}]));
    }
    plain.into()
}

/// The keys of a section under all of their names.
fn all_names(own: &Map<String, Value>) -> Map<String, Value> {
    let mut all = Map::new();
    for (name, key) in own {
        let plain = for_editors(key);
        for alias in aliases(key) {
            let mut same = plain.clone();
            same["description"] = format!("The same as `{name}`.").into();
            all.insert(alias.to_string(), same);
        }
        all.insert(name.clone(), plain);
    }
    all
}

/// The other words for a word.
fn same_word(word: &Value) -> Vec<Value> {
    let own = word["const"].as_str().unwrap_or_default();
    let same = |alias| json!({"const": alias, "description": format!("The same as `{own}`.")});
    aliases(word).map(same).collect()
}
