//! What the head of a data set's `README.md` says of its configs: the key `configs`, as `datasets` 5.2 reads it.

use serde_json::Value;

use super::splits::Patterns;

/// A config of the card.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct CardConfig {
    pub(super) name: String,
    /// Whether it is the one that is meant if none is named.
    pub(super) default: bool,
    /// Folder in which its files are looked for.
    pub(super) folder: Option<String>,
    /// Patterns of each split; found by the names of files if absent.
    pub(super) files: Option<Patterns>,
}

/// The YAML between two lines `---` at the beginning of the text.
pub(super) fn head(readme: &str) -> Option<&str> {
    let text = readme.trim_start_matches('\u{feff}').trim_start_matches(['\r', '\n']);
    let body = text.strip_prefix("---")?.trim_start_matches(' ');
    let body = body.strip_prefix("\r\n").or_else(|| body.strip_prefix('\n'))?;
    let mut at = 0;
    for line in body.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return Some(&body[..at]);
        }
        at += line.len();
    }
    None
}

/// The configs that a text of YAML declares; none if it says nothing of them.
///
/// # Errors
/// What is wrong with the declaration.
pub(super) fn configs(yaml: &str) -> Result<Vec<CardConfig>, String> {
    if yaml.trim().is_empty() {
        return Ok(Vec::new());
    }
    let all: Value = serde_saphyr::from_str(yaml).map_err(|e| {
        let problem = e.without_snippet().to_string();
        format!("not valid YAML: {}", problem.lines().next().unwrap_or_default())
    })?;
    let list = match &all["configs"] {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list,
        _ => return Err("`configs` is not a list".into()),
    };
    list.iter().map(config).collect()
}

fn config(value: &Value) -> Result<CardConfig, String> {
    let name = word(&value["config_name"]).ok_or("a config without `config_name`")?;
    let wrong = || {
        format!(
            "`data_files` of the config `{name}` is neither a path, a list of paths, nor a list of {{split, path}}"
        )
    };
    let files = match &value["data_files"] {
        Value::Null => None,
        given => Some(patterns(given).ok_or_else(wrong)?),
    };
    let folder = word(&value["data_dir"]).map(|folder| clean(&folder)).filter(|folder| !folder.is_empty());
    Ok(CardConfig { default: value["default"] == true, folder, files, name })
}

/// A path or a list of them is the split `train`.
fn patterns(value: &Value) -> Option<Patterns> {
    match value {
        Value::Array(items) if items.iter().any(Value::is_object) => items.iter().map(split).collect(),
        one => Some(vec![("train".to_string(), paths(one)?)]),
    }
}

fn split(value: &Value) -> Option<(String, Vec<String>)> {
    Some((word(&value["split"])?, paths(&value["path"])?))
}

fn paths(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(items) => items.iter().map(|item| item.as_str().map(clean)).collect(),
        one => Some(vec![clean(one.as_str()?)]),
    }
}

/// A text; a name such as `2023` or `true` need not stand in quotes.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(on) => Some(on.to_string()),
        _ => None,
    }
}

fn clean(path: &str) -> String {
    path.trim_start_matches("./").trim_end_matches('/').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_data_files() {
        let text = "---\r\nlicense: mit\nconfigs:\n- config_name: a\n  data_files: x.csv\n- config_name: 2023\n  default: true\n  \
            data_files: [./y/*, z.csv]\n- config_name: c\n  data_dir: ./d/\n- config_name: e\n  data_files:\n  - split: test\n    \
            path: [p/*, q]\n  - {split: dev, path: r}\n---\n# Title\n---\n";
        let found = configs(head(text).unwrap()).unwrap();
        let train =
            |paths: &[&str]| Some(vec![("train".to_string(), paths.iter().map(|p| p.to_string()).collect())]);
        assert_eq!(
            found[0],
            CardConfig { name: "a".into(), files: train(&["x.csv"]), ..CardConfig::default() }
        );
        assert_eq!((found[1].name.as_str(), found[1].default), ("2023", true));
        assert_eq!(found[1].files, train(&["y/*", "z.csv"]));
        assert_eq!((found[2].folder.as_deref(), &found[2].files), (Some("d"), &None));
        let split =
            |name: &str, paths: &[&str]| (name.to_string(), paths.iter().map(|p| p.to_string()).collect());
        assert_eq!(found[3].files, Some(vec![split("test", &["p/*", "q"]), split("dev", &["r"])]));
    }

    #[test]
    fn texts_without_configs_and_wrong_ones() {
        for text in ["", "# Title", "---\nlicense: mit\n", "text\n---\na: 1\n---\n"] {
            assert_eq!(head(text), None, "{text:?}");
        }
        for yaml in ["", "license: mit", "configs:"] {
            assert_eq!(configs(yaml), Ok(Vec::new()), "{yaml:?}");
        }
        for yaml in [
            "configs: x",
            "configs: [{data_files: x}]",
            "configs: [{config_name: a, data_files: 3}]",
            "a: [",
            "configs: [{config_name: a, data_files: [{split: x}]}]",
            "configs: [3]",
        ] {
            assert!(configs(yaml).is_err(), "{yaml:?}");
        }
    }
}
