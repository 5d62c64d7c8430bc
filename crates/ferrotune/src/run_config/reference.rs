//! What can be said of the run file's keys: a commented run file, a page of reference, a schema for editors, an
//! explanation of one key. All of it comes from the declarations of the keys.

use serde_json::Value;

use super::RunConfig;
use crate::options::{Key, Word, for_editors, keys, nearest, schema_of};
use crate::{Error, Result};

/// Columns of a line of comment.
const WIDTH: usize = 100;

/// All keys with their defaults and meanings as a run file, which can be read as it is.
pub fn commented() -> String {
    let mut text = String::from(
        "# Every key of a run file with its default. A run file needs model.base and data.train only;\n\
         # null stands for what the key's comment says.\n\
         # yaml-language-server: $schema=run.schema.json\n",
    );
    let defaults = RunConfig::default().tree();
    for section in sections() {
        text += &format!("\n# {}\n{}:\n", section.meaning, section.name);
        let mut nested = "";
        for key in &section.keys {
            let (inner, indent) = match key.path.split('.').collect::<Vec<_>>()[..] {
                [_, inner, _] => (inner, "    "),
                _ => ("", "  "),
            };
            if inner != nested && !inner.is_empty() {
                text += &format!("  {inner}:\n");
            }
            nested = inner;
            text += &comment(key, &format!("{indent}# "));
            let value = key.example().map_or_else(|| default(key, &defaults), scalar);
            text += &format!("{indent}{}: {value}\n", key.name());
        }
    }
    text
}

/// The reference page: a table for each section, a list for each choice.
pub fn page() -> String {
    let mut text = String::from(
        "# The run file\n\n\
         What a run does stands in a file in YAML, TOML or JSON, and is overridden by `--set section.key=value`. Numbers may\n\
         be written as `2e-4` or `1_000`, lists of one as the one. An unknown key is an error. `null` is as good as leaving\n\
         the key out. A run writes all of its settings into `run.yaml` of its folder; that file is a run file too.\n\n\
         This page is written by `ferrotune config --reference`; `ferrotune config KEY` says the same of one key,\n\
         `ferrotune config` prints a run file with every key, `ferrotune config RUN.yaml` the settings of a run file in full.\n\n\
         Editors with the YAML language server complete and check keys by `docs/run.schema.json` (`ferrotune config\n\
         --schema`), if the run file begins with\n\n\
         ```yaml\n\
         # yaml-language-server: $schema=run.schema.json\n\
         ```\n\n\
         where the path is that of the schema from the run file. Settings that are marked with * change no number of a\n\
         result, so a run may be resumed with another value.\n",
    );
    let defaults = RunConfig::default().tree();
    for section in sections() {
        text += &format!("\n## `{}`\n\n{}\n\n", section.name, section.meaning);
        text += "| key | default | takes | meaning |\n|---|---|---|---|\n";
        for key in &section.keys {
            let name = key.path.split_once('.').map_or(key.path.as_str(), |(_, name)| name);
            let star = if key.decides_numbers() { "" } else { "\\*" };
            let default = match default(key, &defaults).as_str() {
                "null" | "''" | "\"\"" | "[]" | "{}" => "-".to_string(),
                value => format!("`{value}`"),
            };
            text += &format!(
                "| `{name}`{star} | {default} | {} | {} |\n",
                cell(&takes(key)),
                cell(&meaning(key))
            );
        }
        for key in section.keys.iter().filter(|key| !key.words().is_empty()) {
            text += &format!("\n`{}`:\n\n", key.path);
            for word in key.words() {
                text += &format!("- `{}`: {}{}\n", word.word, word.meaning, also(&word));
            }
        }
    }
    text
}

/// The JSON Schema of a run file, for editors.
pub fn schema() -> String {
    let mut schema = for_editors(&schema_of::<RunConfig>());
    schema["title"] = "A run file of ferrotune".into();
    // Room for anchors that several sections share.
    schema["patternProperties"] = serde_json::json!({"^x-": {}});
    schema["required"] = serde_json::json!(["model"]);
    format!("{schema:#}\n")
}

/// What a key or a section means. It may be named without its section, or by an alias, if that is clear.
pub fn explain(name: &str) -> Result<String> {
    let all = keys::<RunConfig>();
    let under =
        |key: &&Key| key.path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let mut found: Vec<&Key> = all.iter().filter(under).collect();
    if found.is_empty() {
        let named = |key: &&Key| {
            let (place, last) = name.rsplit_once('.').unwrap_or(("", name));
            let own = key.name() == last || key.aliases().contains(&last);
            own && (place.is_empty()
                || key.path.rsplit_once('.').is_some_and(|(section, _)| section == place))
        };
        found = all.iter().filter(named).collect();
    }
    if found.is_empty() {
        let near = nearest(name, all.iter().map(|key| key.path.as_str()));
        let near = near.or_else(|| {
            let last = name.rsplit('.').next().unwrap_or(name);
            let near =
                nearest(last, all.iter().flat_map(|key| [key.name()].into_iter().chain(key.aliases())))?;
            all.iter()
                .find(|key| key.name() == near || key.aliases().contains(&near))
                .map(|key| key.path.as_str())
        });
        let hint = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`ferrotune config` lists all keys; a run file is named with its ending".to_string(),
        };
        return Err(Error::config(name, "neither a key of the run file nor a file").with_hint(hint));
    }
    Ok(found.into_iter().map(about).collect::<Vec<_>>().join("\n"))
}

/// All that is known of a key.
fn about(key: &Key) -> String {
    let defaults = RunConfig::default().tree();
    let mut text = format!("{}\n{}", key.path, wrapped(&key.meaning(), "  "));
    let mut line = |name: &str, value: String| text += &format!("  {name:<9}{value}\n");
    line("takes", takes(key));
    line("default", default(key, &defaults));
    if !key.aliases().is_empty() {
        line("aliases", key.aliases().join(", "));
    }
    if !key.decides_numbers() {
        line("resume", "its value changes no number of a result".to_string());
    }
    for word in key.words() {
        text += &wrapped(&format!("{}: {}{}", word.word, word.meaning, also(&word)), "    ");
    }
    text
}

/// A section with its keys.
struct Section {
    name: String,
    meaning: String,
    keys: Vec<Key>,
}

fn sections() -> Vec<Section> {
    let schema = schema_of::<RunConfig>();
    let all = keys::<RunConfig>();
    let section = |(name, schema): (&String, &Value)| Section {
        name: name.clone(),
        meaning: schema["description"].as_str().unwrap_or_default().to_string(),
        keys: all.iter().filter(|key| key.path.split('.').next() == Some(name)).cloned().collect(),
    };
    schema["properties"].as_object().into_iter().flatten().map(section).collect()
}

/// Meaning, words and unit of a key in lines that begin with `start`.
fn comment(key: &Key, start: &str) -> String {
    let words = key.words();
    let takes = takes(key);
    let plain = ["text", "true or false"].contains(&takes.as_str());
    let text =
        if words.is_empty() && !plain { format!("{} Takes {takes}.", key.meaning()) } else { key.meaning() };
    let mut lines = wrapped(&text, start);
    for word in words {
        lines += &wrapped(&format!("{}: {}", word.word, word.meaning), &format!("{start}  "));
    }
    lines
}

fn meaning(key: &Key) -> String {
    let aliases: Vec<String> = key.aliases().iter().map(|alias| format!("`{alias}`")).collect();
    match aliases.is_empty() {
        true => key.meaning(),
        false => format!("{} Also {}.", key.meaning(), aliases.join(", ")),
    }
}

/// What a key takes, with its unit.
fn takes(key: &Key) -> String {
    match key.unit() {
        Some(unit) if !key.expected().contains(unit) => format!("{} ({unit})", key.expected()),
        _ => key.expected(),
    }
}

fn also(word: &Word) -> String {
    if word.aliases.is_empty() { String::new() } else { format!(" Also `{}`.", word.aliases.join("`, `")) }
}

/// The value at a dotted path.
fn at<'a>(tree: &'a Value, path: &str) -> &'a Value {
    tree.pointer(&format!("/{}", path.replace('.', "/"))).unwrap_or(&Value::Null)
}

/// The default of a key in YAML.
fn default(key: &Key, defaults: &Value) -> String {
    const GIB: u64 = 1 << 30;
    match (at(defaults, &key.path), key.unit()) {
        (Value::Number(n), Some("bytes")) if n.as_u64().is_some_and(|n| n > 0 && n % GIB == 0) => {
            format!("{}GiB", n.as_u64().unwrap_or_default() / GIB)
        }
        (value, _) => scalar(value),
    }
}

/// A value in YAML on one line.
fn scalar(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => value.to_string(),
        value => serde_saphyr::to_string(value).unwrap_or_default().trim_end().to_string(),
    }
}

/// A text as a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// A text in lines that begin with `start`.
fn wrapped(text: &str, start: &str) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && start.len() + line.chars().count() + word.chars().count() >= WIDTH {
            lines += &format!("{start}{line}\n");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    lines + &format!("{start}{line}\n")
}
