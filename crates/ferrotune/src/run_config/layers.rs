//! The texts that make up a configuration: a run file, and overrides over it.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;
use std::path::Path;

use super::RunConfig;
use crate::error::{Error, Result};
use crate::options::{described, fit, merge, read, schema_of};

/// The notation of a run file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notation {
    /// YAML 1.2 with anchors and merge keys.
    Yaml,
    /// TOML 1.
    Toml,
    /// JSON.
    Json,
}

impl Notation {
    /// Chosen by the extension; YAML for an unknown one.
    pub fn from_path(path: &Path) -> Notation {
        match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("toml") => Notation::Toml,
            Some("json") => Notation::Json,
            _ => Notation::Yaml,
        }
    }

    fn parse(self, text: &str) -> std::result::Result<Value, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        match self {
            Notation::Yaml if text.trim().is_empty() => Ok(Value::Null),
            Notation::Yaml => serde_saphyr::from_str(text).map_err(|e| yaml_problem(&e)),
            Notation::Toml => toml::from_str(text).map_err(|e| e.to_string()),
            Notation::Json => {
                let value = crate::json::from_text(text).map_err(|e| e.to_string())?;
                // That parser lets the last of two equal keys win; as YAML the text is the same, and they are an error.
                match serde_saphyr::from_str::<Value>(text) {
                    Err(e) if duplicate(&e).is_some() => Err(yaml_problem(&e)),
                    _ => Ok(value),
                }
            }
        }
    }
}

impl std::fmt::Display for Notation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Notation::Yaml => "YAML",
            Notation::Toml => "TOML",
            Notation::Json => "JSON",
        })
    }
}

/// The key that a mapping has twice, if that is what is wrong.
fn duplicate(error: &serde_saphyr::Error) -> Option<&str> {
    match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key, .. } => Some(key.as_deref().unwrap_or_default()),
        _ => None,
    }
}

/// What is wrong with a text of YAML, in one line with the place.
fn yaml_problem(error: &serde_saphyr::Error) -> String {
    let place = error.location().map_or_else(String::new, |at| format!("line {}: ", at.line()));
    if let Some(key) = duplicate(error) {
        return format!("{place}the key `{key}` is there twice in one mapping");
    }
    let text = error.without_snippet().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let line = text.lines().next().unwrap_or_default();
    match line.contains("unknown anchor") {
        true => format!("{line} (a value that begins with `*`, as a pattern of files may, stands in quotes)"),
        false => line.to_string(),
    }
}

/// A configuration in the making: a tree of values, over which layers are put one after the other. The last one that has
/// a key wins, whatever name it uses for it.
pub(super) struct Layers {
    schema: Value,
    tree: Value,
    /// What the layers say, without what was there before them.
    stated: Value,
}

impl Layers {
    /// Starts with a whole configuration.
    pub(super) fn over(config: &RunConfig) -> Self {
        Layers { schema: schema_of::<RunConfig>(), tree: config.tree(), stated: Map::new().into() }
    }

    /// Adds the text of a file; `name` is for messages.
    pub(super) fn push_text(&mut self, text: &str, notation: Notation, name: &str) -> Result<()> {
        let refuse = |problem: String| {
            Err(Error::file(name, problem)
                .with_hint("a run file has the sections model, method, data, train and output"))
        };
        match notation.parse(text) {
            Err(problem) => refuse(format!("not valid {notation}: {problem}")),
            Ok(Value::Null) => refuse("the file is empty".to_string()),
            Ok(Value::Object(mut map)) => {
                // Room for anchors that several sections share.
                map.retain(|key, _| !key.starts_with("x-"));
                self.push(map.into()).map_err(|error| in_file(error, text, notation, name))
            }
            Ok(other) => refuse(format!("found {}, expected sections of keys", described(&other))),
        }
    }

    /// Adds one `section.key=value`; the value is YAML.
    pub(super) fn push_override(&mut self, text: &str) -> Result<()> {
        let refuse = |key: &str, problem: String| {
            Error::config(key, problem)
                .with_hint("an override looks like train.lr=1e-4 or method.targets=[q_proj, v_proj]")
        };
        let (key, value) =
            text.split_once('=').ok_or_else(|| refuse(text, "an override needs `=`".to_string()))?;
        let (key, value) = (key.trim(), value.trim());
        let parts: Vec<&str> = key.split('.').collect();
        if parts.len() < 2 || parts.iter().any(|part| part.is_empty()) {
            return Err(refuse(key, "an override names a section and a key".to_string()));
        }
        // An override has no anchors, so a pattern of files need not stand in quotes.
        let value = match value.starts_with('*') {
            true => Value::from(value),
            false => Notation::Yaml.parse(value).map_err(|e| refuse(key, e))?,
        };
        let nest = |value, part: &&str| Map::from_iter([((*part).to_string(), value)]).into();
        self.push(parts.iter().rev().fold(value, nest))
    }

    fn push(&mut self, layer: Value) -> Result<()> {
        let layer = fit(&self.schema, layer, "")?;
        merge(&self.schema, &mut self.stated, layer.clone());
        merge(&self.schema, &mut self.tree, layer);
        Ok(())
    }

    /// The configuration, in which null means "as if absent".
    pub(super) fn finish(self) -> Result<RunConfig> {
        let stated = self.stated["method"].as_object().into_iter().flatten();
        let stated = stated.filter(|(_, value)| !value.is_null()).map(|(key, _)| key.clone()).collect();
        Ok(RunConfig { stated, ..read(self.tree)? })
    }
}

/// An error about a key with the file that it stands in, and the line.
fn in_file(error: Error, text: &str, notation: Notation, name: &str) -> Error {
    let Error::Config { key, problem, hint } = error else { return error };
    let line = if notation == Notation::Toml { None } else { line_of(text, &key) };
    let place = line.map_or_else(String::new, |line| format!(", line {line}"));
    Error::Config { key, problem: format!("{problem} (in {name}{place})"), hint }
}

/// The line on which the value of a dotted key begins in YAML or JSON.
fn line_of(text: &str, key: &str) -> Option<u64> {
    let mut node: Spanned<Node> = serde_saphyr::from_str(text).ok()?;
    let mut rest = key;
    while !rest.is_empty() {
        // The patterns of a mapping may have dots themselves.
        let under = |name: &str| rest.strip_prefix(name).is_some_and(|r| r.is_empty() || r.starts_with('.'));
        let at = node.value.0.iter().position(|(name, _)| under(name))?;
        let (name, child) = node.value.0.swap_remove(at);
        rest = rest[name.len()..].trim_start_matches('.');
        node = child;
    }
    Some(node.referenced.line()).filter(|line| *line > 0)
}

/// The keys of a mapping with the places of their values; nothing of anything else.
struct Node(Vec<(String, Spanned<Node>)>);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(Nodes)
    }
}

struct Nodes;

impl<'de> Visitor<'de> for Nodes {
    type Value = Node;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Node, A::Error> {
        let mut keys = Vec::new();
        while let Some(pair) = map.next_entry()? {
            keys.push(pair);
        }
        Ok(Node(keys))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Node, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Node(Vec::new()))
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<Node, E> {
        Ok(Node(Vec::new()))
    }

    fn visit_i64<E>(self, _: i64) -> std::result::Result<Node, E> {
        Ok(Node(Vec::new()))
    }

    fn visit_u64<E>(self, _: u64) -> std::result::Result<Node, E> {
        Ok(Node(Vec::new()))
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<Node, E> {
        Ok(Node(Vec::new()))
    }

    fn visit_str<E>(self, _: &str) -> std::result::Result<Node, E> {
        Ok(Node(Vec::new()))
    }

    fn visit_unit<E>(self) -> std::result::Result<Node, E> {
        Ok(Node(Vec::new()))
    }
}
