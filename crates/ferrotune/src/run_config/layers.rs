//! Reading a run file and its overrides key by key: aliases, types, and a good answer to everything unknown.
//!
//! A run file and each `--set` are layers of one tree; the last layer that has a key wins, whatever name it uses for it.
//! A section asks for the keys it knows. What nobody asked for is unknown, and the names that were asked for are the
//! candidates for "did you mean".

use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

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
    pub fn of(path: &Path) -> Notation {
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
    text.lines().next().unwrap_or_default().to_string()
}

/// The layers of a whole configuration, weakest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Layers {
    layers: Vec<Map<String, Value>>,
    /// Where the first layer comes from, for messages.
    file: Option<String>,
}

impl Layers {
    /// Adds the text of a file; `name` is for messages.
    pub(super) fn push_text(&mut self, text: &str, notation: Notation, name: &str) -> Result<()> {
        let refuse = |problem: String| {
            Err(Error::File {
                path: name.into(),
                problem,
                hint: Some("a run file has the sections model, method, data, train and output".to_string()),
            })
        };
        match notation.parse(text) {
            Err(problem) => refuse(format!("not valid {notation}: {problem}")),
            Ok(Value::Null) => refuse("the file is empty".to_string()),
            Ok(Value::Object(mut map)) => {
                // Room for anchors that several sections share.
                map.retain(|key, _| !key.starts_with("x-"));
                self.layers.push(map);
                self.file = Some(name.to_string());
                Ok(())
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
        let mut value = if value.is_empty() {
            Value::Null
        } else {
            Notation::Yaml.parse(value).map_err(|e| refuse(key, e))?
        };
        for part in parts[1..].iter().rev() {
            value = Value::Object(Map::from_iter([((*part).to_string(), value)]));
        }
        self.layers.push(Map::from_iter([(parts[0].to_string(), value)]));
        Ok(())
    }

    /// The whole tree as a section without a name.
    pub(super) fn root(self) -> Section {
        Section {
            path: String::new(),
            file: self.file,
            layers: self.layers,
            asked: Vec::new(),
            stated: Vec::new(),
        }
    }
}

/// One mapping of the tree in all its layers. Keys leave it as they are asked for.
#[derive(Debug)]
pub(super) struct Section {
    path: String,
    file: Option<String>,
    layers: Vec<Map<String, Value>>,
    asked: Vec<&'static str>,
    /// Keys that were found, by their own names.
    stated: Vec<&'static str>,
}

/// A value that was found, with the name under which the user wrote it.
struct Found {
    key: String,
    value: Value,
}

impl Section {
    /// The dotted name of a key of this section.
    pub(super) fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }

    fn take(&mut self, names: &[&'static str]) -> Result<Option<Found>> {
        self.asked.extend(names);
        let mut found: Option<Found> = None;
        for at in 0..self.layers.len() {
            let mut here: Option<Found> = None;
            for name in names {
                let Some(value) = self.layers[at].remove(*name) else { continue };
                let key = self.key(name);
                if let Some(first) = &here {
                    return Err(Error::config(key, format!("the same setting as `{}`", first.key))
                        .with_hint("keep one of the two"));
                }
                here = Some(Found { key, value });
            }
            found = here.or(found);
        }
        // Null means "as if the key were absent".
        let found = found.filter(|f| !f.value.is_null());
        self.stated.extend(found.as_ref().and(names.first()));
        Ok(found)
    }

    /// The keys that were found so far, by their own names whatever alias was written.
    pub(super) fn stated(&self) -> Vec<&'static str> {
        self.stated.clone()
    }

    /// A nested section; empty if it is absent.
    pub(super) fn child(&mut self, name: &'static str) -> Result<Section> {
        self.asked.push(name);
        let path = self.key(name);
        let mut layers = Vec::new();
        for layer in &mut self.layers {
            match layer.remove(name) {
                None | Some(Value::Null) => layers.push(Map::new()),
                Some(Value::Object(map)) => layers.push(map),
                Some(other) => {
                    return Err(Error::config(
                        path,
                        format!("found {}, expected keys and values", described(&other)),
                    ));
                }
            }
        }
        Ok(Section { path, file: self.file.clone(), layers, asked: Vec::new(), stated: Vec::new() })
    }

    /// Reads a key with a converter that says what it expects when it cannot use the value. The first name is the
    /// key's own, the others are aliases.
    pub(super) fn read<T>(
        &mut self,
        names: &[&'static str],
        expected: &str,
        convert: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(Found { key, value }) = self.take(names)? else { return Ok(None) };
        match convert(&value) {
            Some(done) => Ok(Some(done)),
            None => Err(Error::config(key, format!("found {}, expected {expected}", described(&value)))),
        }
    }

    /// A whole number.
    pub(super) fn count(&mut self, names: &[&'static str]) -> Result<Option<usize>> {
        self.read(names, "a whole number", |v| whole(v).and_then(|n| usize::try_from(n).ok()))
    }

    /// A 64-bit seed.
    pub(super) fn seed(&mut self, names: &[&'static str]) -> Result<Option<u64>> {
        self.read(names, "a whole number", whole)
    }

    /// A number.
    pub(super) fn number(&mut self, names: &[&'static str]) -> Result<Option<f64>> {
        self.read(names, "a number", number)
    }

    /// True or false, in YAML's old spellings too.
    pub(super) fn flag(&mut self, names: &[&'static str]) -> Result<Option<bool>> {
        self.read(names, "true or false", |v| match v {
            Value::Bool(b) => Some(*b),
            Value::String(s) => match s.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" => Some(true),
                "false" | "no" | "off" => Some(false),
                _ => None,
            },
            _ => None,
        })
    }

    /// Text; a number is taken as it is written, so that a revision of digits needs no quotes.
    pub(super) fn text(&mut self, names: &[&'static str]) -> Result<Option<String>> {
        self.read(names, "text", |v| match v {
            Value::String(s) => Some(s.clone()),
            Value::Number(n) => Some(n.to_string()),
            _ => None,
        })
    }

    /// One of a few words.
    pub(super) fn choice<T: Choice>(&mut self, names: &[&'static str]) -> Result<Option<T>> {
        let Some(Found { key, value }) = self.take(names)? else { return Ok(None) };
        let word = match &value {
            Value::String(s) => s.to_ascii_lowercase(),
            Value::Bool(b) => b.to_string(),
            _ => String::new(),
        };
        if let Some((_, choice)) = T::WORDS.iter().find(|(name, _)| *name == word) {
            return Ok(Some(*choice));
        }
        let words: Vec<&str> = T::WORDS.iter().map(|(name, _)| *name).collect();
        let error =
            Error::config(key, format!("found {}, expected one of {}", described(&value), words.join(", ")));
        Err(match nearest(&word, words.iter().copied()) {
            Some(near) => error.with_hint(format!("did you mean `{near}`?")),
            None => error.with_hint(format!("one of {}", words.join(", "))),
        })
    }

    /// Refuses what nobody asked for.
    pub(super) fn finish(self) -> Result<()> {
        let Some(unknown) = self.layers.iter().flat_map(Map::keys).next() else { return Ok(()) };
        let place =
            self.file.as_ref().map_or_else(String::new, |file| format!(" (in {file} or an override)"));
        let hint = match nearest(unknown, self.asked.iter().copied()) {
            Some(near) => format!("did you mean `{}`?", self.key(near)),
            None => format!("known here: {}", self.asked.join(", ")),
        };
        Err(Error::config(self.key(unknown), format!("unknown key{place}")).with_hint(hint))
    }
}

/// An enum that a run file names by a word. The first word of a variant is the one that is written.
pub(super) trait Choice: Copy + 'static {
    /// All words, aliases included.
    const WORDS: &'static [(&'static str, Self)];
}

/// The known name that a mistyped one most likely meant.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let name = plain(name);
    known
        .map(|k| (strsim::damerau_levenshtein(&name, &plain(k)), k))
        .filter(|(distance, k)| *distance <= 1 + k.len().min(name.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// A value in the words of an error message.
pub(super) fn described(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => format!("\"{s}\""),
        Value::Array(_) => "a list".to_string(),
        Value::Object(_) => "a mapping".to_string(),
    }
}

/// A number, also one that YAML leaves as text (`1e-4` in YAML 1.1).
pub(super) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    }
    .filter(|n: &f64| n.is_finite())
}

/// A whole number, also as `1e3` or `1_000`.
pub(super) fn whole(value: &Value) -> Option<u64> {
    if let Some(n) = value.as_u64() {
        return Some(n);
    }
    // `1e3` and `1_000` are whole too.
    let n = match value {
        Value::String(s) => s.replace('_', "").parse().ok()?,
        other => number(other)?,
    };
    (n >= 0.0 && n.fract() == 0.0 && n <= 9_007_199_254_740_992.0).then_some(n as u64)
}
