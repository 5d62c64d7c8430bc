//! What the declaration of an option says, read from its JSON Schema.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

/// The JSON Schema of a type, without references.
pub fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// All keys of a section in the order of their declaration, those of sections in it by their dotted paths.
pub fn keys<T: JsonSchema>() -> Vec<Key> {
    let mut keys = Vec::new();
    collect(&schema_of::<T>(), "", &mut keys);
    keys
}

fn collect(schema: &Value, path: &str, keys: &mut Vec<Key>) {
    for (name, schema) in properties(schema) {
        let path = join(path, name);
        match is_section(schema) {
            true => collect(schema, &path, keys),
            false => keys.push(Key { path, schema: schema.clone() }),
        }
    }
}

/// The words of a choice.
pub fn words<T: JsonSchema>() -> Vec<Word> {
    words_in(&schema_of::<T>())
}

/// A word of a choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The word that is written.
    pub word: String,
    /// Other words that are read.
    pub aliases: Vec<String>,
    /// What it means.
    pub meaning: String,
}

/// A key and what its declaration says of it.
#[derive(Clone, Debug)]
pub struct Key {
    /// Dotted path, such as `train.lr`.
    pub path: String,
    schema: Value,
}

impl Key {
    /// The last part of the path.
    pub fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or(&self.path)
    }

    /// What it means.
    pub fn meaning(&self) -> String {
        text(&self.schema, "description")
    }

    /// What a number counts.
    pub fn unit(&self) -> Option<&str> {
        self.schema.get("x-unit").and_then(Value::as_str)
    }

    /// Other names that are read.
    pub fn aliases(&self) -> Vec<&str> {
        aliases(&self.schema).collect()
    }

    /// Its name in PEFT's `adapter_config.json`, if it has a key there.
    pub(crate) fn peft_name(&self) -> Option<&str> {
        self.schema.get("x-peft").map_or(Some(self.name()), Value::as_str)
    }

    /// Whether PEFT 0.6 does not know it.
    pub(crate) fn is_late_in_peft(&self) -> bool {
        self.schema.get("x-peft-late") == Some(&Value::Bool(true))
    }

    /// The words that it takes, if it is a choice.
    pub fn words(&self) -> Vec<Word> {
        words_in(&self.schema)
    }

    /// Whether its value decides the numbers of a run.
    pub fn decides_numbers(&self) -> bool {
        self.schema.get("x-numbers") != Some(&Value::Bool(false))
    }

    /// Whether it is a path, and then of which kind.
    pub(crate) fn path_kind(&self) -> Option<&str> {
        self.schema.get("x-path").and_then(Value::as_str)
    }

    /// A value to show where there is no default.
    pub fn example(&self) -> Option<&Value> {
        self.schema.pointer("/examples/0")
    }

    /// What it takes, in words.
    pub fn expected(&self) -> String {
        expected(&self.schema)
    }
}

/// Joins a path and a name.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_string() } else { format!("{path}.{name}") }
}

/// The properties of a section.
pub(super) fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flatten()
}

/// Whether a schema is that of a section.
pub(super) fn is_section(schema: &Value) -> bool {
    schema.get("properties").is_some()
}

/// Other names of a key or word.
pub(super) fn aliases(schema: &Value) -> impl Iterator<Item = &str> {
    let listed = schema.get("x-aliases").and_then(Value::as_array).into_iter().flatten();
    schema.get("x-peft").into_iter().chain(listed).filter_map(Value::as_str)
}

/// The words of a choice; none for anything else.
pub(super) fn words_in(schema: &Value) -> Vec<Word> {
    let word = |one: &Value| {
        Some(Word {
            word: one.get("const")?.as_str()?.to_string(),
            aliases: aliases(one).map(str::to_string).collect(),
            meaning: text(one, "description"),
        })
    };
    let all = schema.get("oneOf").and_then(Value::as_array);
    all.into_iter().flatten().filter_map(word).collect()
}

/// A text of a schema as one line.
fn text(schema: &Value, key: &str) -> String {
    let text = schema.get(key).and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a key takes, in words.
pub(super) fn expected(schema: &Value) -> String {
    if let Some(words) = schema.get("x-expected").and_then(Value::as_str) {
        return words.to_string();
    }
    if let Some(inner) = schema.pointer("/anyOf/0") {
        return expected(inner);
    }
    let words: Vec<String> = words_in(schema).into_iter().map(|w| w.word).collect();
    if !words.is_empty() {
        return format!("one of {}", words.join(", "));
    }
    if let Some(among) = schema.get("enum").and_then(Value::as_array) {
        return format!("one of {}", among.iter().map(Value::to_string).collect::<Vec<_>>().join(", "));
    }
    let kind = match kinds(schema)[..] {
        ["integer"] => "a whole number",
        ["number"] => "a number",
        ["boolean"] => "true or false",
        ["string"] => "text",
        ["array"] => return format!("{}, or a list of such", expected(&schema["items"])),
        ["object"] => {
            return format!("a mapping from patterns to {}", expected(&schema["additionalProperties"]));
        }
        _ => "something else",
    };
    match range(schema) {
        Some(range) if range.starts_with("at least") => format!("{kind} of {range}"),
        Some(range) => format!("{kind} {range}"),
        None => kind.to_string(),
    }
}

/// The range of a number, in words.
pub(super) fn range(schema: &Value) -> Option<String> {
    let limit = |key: &str| schema.get(key).and_then(Value::as_f64);
    let (least, above) = (limit("minimum"), limit("exclusiveMinimum"));
    let (most, below) = (limit("maximum"), limit("exclusiveMaximum"));
    let end = most.map(|n| format!("to {n}")).or(below.map(|n| format!("up to, but not, {n}")));
    match (least, above, end) {
        (Some(least), _, Some(end)) => Some(format!("from {least} {end}")),
        // Every whole number here is at least 0.
        (Some(0.0), _, None) if kinds(schema) == ["integer"] => None,
        (Some(least), _, None) => Some(format!("at least {least}")),
        (None, Some(above), None) => Some(format!("above {above}")),
        (None, Some(above), Some(end)) => Some(format!("above {above} {end}")),
        (None, None, end) => end,
    }
}

/// The JSON types of a schema but null.
pub(super) fn kinds(schema: &Value) -> Vec<&str> {
    let all = match schema.get("type") {
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(one)) => vec![one.as_str()],
        _ => Vec::new(),
    };
    all.into_iter().filter(|kind| *kind != "null").collect()
}
