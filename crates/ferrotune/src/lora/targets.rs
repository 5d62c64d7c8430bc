//! Which linears get a branch, by PEFT's rules of matching names.

use serde::{Serialize, Serializer};

use crate::{Error, Result};

/// A choice of linears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Every linear but the output head.
    AllLinear,
    /// Linears whose path is one of these or ends with `.` and one of these.
    Names(Vec<String>),
    /// Linears whose whole path matches this regular expression.
    Regex(String),
}

const HEAD: &str = "lm_head";

impl Targets {
    /// Refuses a pattern that is no regular expression.
    pub fn check(&self) -> Result<()> {
        match self {
            Targets::Regex(pattern) => compile(pattern).map(|_| ()),
            Targets::AllLinear | Targets::Names(_) => Ok(()),
        }
    }

    /// For each of the model's linears (by path) whether it is chosen; refuses a choice that matches nothing, or a
    /// name in a list that does.
    pub fn select(&self, linears: &[&str]) -> Result<Vec<bool>> {
        let chosen: Vec<bool> = match self {
            Targets::AllLinear => linears.iter().map(|n| *n != HEAD).collect(),
            Targets::Names(names) => {
                if let Some(missing) = names.iter().find(|t| !linears.iter().any(|n| matches(n, t))) {
                    return Err(unmatched(format!("`{missing}` matches no linear"), missing, linears));
                }
                linears.iter().map(|n| names.iter().any(|t| matches(n, t))).collect()
            }
            Targets::Regex(pattern) => {
                let regex = compile(pattern)?;
                linears
                    .iter()
                    .map(|n| regex.is_match(n))
                    .collect::<std::result::Result<_, _>>()
                    .map_err(|e| Error::config("method.targets", format!("`{pattern}`: {e}")))?
            }
        };
        if chosen.contains(&true) {
            return Ok(chosen);
        }
        let what = match self {
            Targets::AllLinear => "all-linear".to_string(),
            Targets::Names(names) => names.join(", "),
            Targets::Regex(pattern) => pattern.clone(),
        };
        Err(unmatched(format!("`{what}` matches no linear"), &what, linears))
    }
}

impl Serialize for Targets {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Targets::AllLinear => serializer.serialize_str("all-linear"),
            Targets::Names(names) => names.serialize(serializer),
            Targets::Regex(pattern) => serializer.serialize_str(pattern),
        }
    }
}

/// A pattern of whole paths.
fn compile(pattern: &str) -> Result<fancy_regex::Regex> {
    fancy_regex::Regex::new(&format!(r"\A(?:{pattern})\z")).map_err(|e| {
        Error::config("method.targets", format!("\"{pattern}\" is not a regular expression: {e}"))
            .with_hint("a list such as [q_proj, v_proj] names linears; a string is a pattern of whole paths")
    })
}

fn matches(path: &str, target: &str) -> bool {
    path == target || path.strip_suffix(target).is_some_and(|rest| rest.ends_with('.'))
}

fn unmatched(problem: String, target: &str, linears: &[&str]) -> Error {
    let mut last: Vec<&str> = linears.iter().map(|n| n.rsplit('.').next().unwrap_or(n)).collect();
    last.sort_unstable();
    last.dedup();
    let nearest = last
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(a, target).total_cmp(&strsim::jaro_winkler(b, target)));
    let nearest = nearest.map_or(String::new(), |n| format!(", nearest `{n}`"));
    Error::config("method.targets", problem).with_hint(format!(
        "the model's linears are {}{nearest}; a list takes names, a string a regular expression of the whole path, \
         such as `.*\\.self_attn\\.[qv]_proj`",
        last.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINEARS: [&str; 4] = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.up_proj",
        "model.layers.1.self_attn.q_proj",
        "lm_head",
    ];

    #[test]
    fn lists_match_whole_names_and_strings_whole_paths() {
        let names = |list: &[&str]| Targets::Names(list.iter().map(|s| s.to_string()).collect());
        assert_eq!(Targets::AllLinear.select(&LINEARS).unwrap(), [true, true, true, false]);
        assert_eq!(names(&["q_proj"]).select(&LINEARS).unwrap(), [true, false, true, false]);
        assert_eq!(names(&["mlp.up_proj", "lm_head"]).select(&LINEARS).unwrap(), [false, true, false, true]);
        let regex = Targets::Regex(r".*\.1\..*q_proj".into());
        assert_eq!(regex.select(&LINEARS).unwrap(), [false, false, true, false]);
        assert!(Targets::Regex("q_proj".into()).select(&LINEARS).is_err(), "a full match is asked for");
        assert!(names(&["proj"]).select(&LINEARS).is_err(), "not a part of a name");
    }

    #[test]
    fn one_unmatched_name_of_a_list_is_refused_with_the_nearest() {
        let error = Targets::Names(vec!["q_proj".into(), "up_porj".into()]).select(&LINEARS).unwrap_err();
        assert!(error.to_string().contains("up_porj"), "{error}");
        assert!(error.hint().unwrap().contains("nearest `up_proj`"), "{:?}", error.hint());
    }
}
