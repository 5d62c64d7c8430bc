//! How a run file names a data set of the hub.
//!
//! `owner/name`, or for the hub's first data sets `name` alone (`squad`), and behind it `@REVISION`, then `:SPLIT` or `:CONFIG:SPLIT`: `openai/gsm8k:main:test`. With
//! `hf://datasets/` before it, as in `HfFileSystem`, pandas and DuckDB, a path of the repository may follow
//! (`hf://datasets/owner/name/data/rows.parquet`, a folder, a pattern), and no path of this machine is meant.

use std::fmt;

use super::splits::looks_like_rows;
use crate::run_config::SourceOptions;

/// A data set, or a part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Name {
    /// `owner/name` or `name`.
    pub(super) repository: String,
    /// Branch, tag or commit.
    pub(super) revision: Option<String>,
    /// A file, folder or pattern of the repository.
    pub(super) inside: Option<String>,
    /// One of its configs.
    pub(super) config: Option<String>,
    /// One of its splits.
    pub(super) split: Option<String>,
    /// Whether it is said to be at the hub.
    pub(super) at_hub: bool,
}

const PREFIX: &str = "hf://";

/// Branches whose names have slashes, as `HfFileSystem` knows them.
const SPECIAL: [&str; 2] = ["refs/convert/", "refs/pr/"];

impl Name {
    /// Reads a name; none if the text can only be a path of this machine.
    ///
    /// # Errors
    /// What is wrong with a text that begins with `hf://`.
    pub(super) fn parse(text: &str) -> Result<Option<Name>, String> {
        let Some(rest) = text.strip_prefix(PREFIX) else {
            // One word with a point is the name of a file, though it may be mistyped.
            let is_file = |name: &Name| match name.repository.contains('/') {
                true => looks_like_rows(&name.repository),
                false => name.repository.contains('.'),
            };
            return Ok(read(text).filter(|name| name.inside.is_none() && !is_file(name)));
        };
        let Some(rest) = rest.strip_prefix("datasets/") else {
            return Err("rows are in data sets: hf://datasets/owner/name".into());
        };
        let name = read(rest).ok_or(
            "expected hf://datasets/owner/name, hf://datasets/owner/name/file.jsonl, hf://datasets/name",
        )?;
        Ok(Some(Name { at_hub: true, ..name }))
    }

    /// The same with what a source says beside its path.
    ///
    /// # Errors
    /// The key that the path says in another way.
    pub(super) fn with(mut self, source: &SourceOptions) -> Result<Name, String> {
        let keys = [
            ("config", &mut self.config, &source.config),
            ("split", &mut self.split, &source.split),
            ("revision", &mut self.revision, &source.revision),
        ];
        for (key, own, stated) in keys {
            match (own.as_ref(), stated) {
                (Some(own), Some(stated)) if own != stated => {
                    return Err(format!("`{}` has the {key} {own}, the key `{key}` {stated}", source.path));
                }
                (None, Some(_)) => own.clone_from(stated),
                _ => {}
            }
        }
        Ok(self)
    }
}

/// `owner/name[@revision][/inside]` or `owner/name[@revision][:config][:split]`; the owner may be missing.
fn read(text: &str) -> Option<Name> {
    let ends = ['@', '/', ':'];
    let mut end = text.find(ends).unwrap_or(text.len());
    if text[end..].starts_with('/') {
        end = text[end + 1..].find(ends).map_or(text.len(), |at| end + 1 + at);
    }
    let (repository, mut rest) = text.split_at(end);
    let mut found = Name { repository: repository.to_string(), ..Name::default() };
    if let Some(behind) = rest.strip_prefix('@') {
        let special = SPECIAL.iter().find(|special| behind.starts_with(**special)).map_or(0, |s| s.len());
        let end = behind[special..].find(['/', ':']).map_or(behind.len(), |at| special + at);
        let revision = if &behind[..end] == "~parquet" { super::CONVERTED } else { &behind[..end] };
        found.revision = Some(revision.to_string());
        rest = &behind[end..];
    }
    match (rest.strip_prefix('/'), rest.strip_prefix(':')) {
        (Some(inside), _) => {
            found.inside = Some(inside.trim_end_matches('/').to_string()).filter(|inside| !inside.is_empty());
        }
        (_, Some(words)) => {
            // A slice of a split is not read, but is to be named as such.
            let (words, slice) = words.split_at(words.find('[').unwrap_or(words.len()));
            let (config, split) = words.split_once(':').map_or((None, words), |(c, s)| (Some(c), s));
            let fits = |word: &str| !word.is_empty() && !word.contains([':', '/']);
            if !(fits(split) && config.is_none_or(fits)) {
                return None;
            }
            (found.config, found.split) = (config.map(str::to_string), Some(format!("{split}{slice}")));
        }
        _ => {}
    }
    found.id().map(|_| found)
}

impl Name {
    /// The id of the repository; none if the words cannot be one.
    pub(super) fn id(&self) -> Option<super::DatasetId> {
        super::DatasetId::new(&self.repository, self.revision.as_deref())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        let parts = [("@", &self.revision), ("/", &self.inside), (":", &self.config), (":", &self.split)];
        parts.iter().try_for_each(|(sign, part)| part.iter().try_for_each(|part| write!(f, "{sign}{part}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths() {
        for (text, revision, inside, config, split) in [
            ("a/b", None, None, None, None),
            ("a/b@v1.0", Some("v1.0"), None, None, None),
            ("a/b:test", None, None, None, Some("test")),
            ("a/b@x:main:test", Some("x"), None, Some("main"), Some("test")),
            ("a/b@refs/pr/3:test", Some("refs/pr/3"), None, None, Some("test")),
            ("hf://datasets/a/b", None, None, None, None),
            ("hf://datasets/a/b:c d:test", None, None, Some("c d"), Some("test")),
            ("hf://datasets/a/b/x/y:z.jsonl", None, Some("x/y:z.jsonl"), None, None),
            ("hf://datasets/a/b@x/data/*.csv", Some("x"), Some("data/*.csv"), None, None),
            ("hf://datasets/a/b@~parquet/c/train", Some("refs/convert/parquet"), Some("c/train"), None, None),
            (
                "hf://datasets/a/b@refs/convert/parquet/c/",
                Some("refs/convert/parquet"),
                Some("c"),
                None,
                None,
            ),
        ] {
            let name = Name::parse(text).unwrap().unwrap_or_else(|| panic!("{text}"));
            let text_of = |part: Option<&str>| part.map(str::to_string);
            let expected = Name {
                repository: "a/b".into(),
                revision: text_of(revision),
                inside: text_of(inside),
                config: text_of(config),
                split: text_of(split),
                at_hub: text.starts_with("hf:"),
            };
            assert_eq!(name, expected, "{text}");
            let plain = text.trim_start_matches("hf://datasets/");
            if !text.contains('~') && !text.ends_with('/') {
                assert_eq!(name.to_string(), plain);
            }
        }
        for (text, repository, split) in [
            ("squad", "squad", None),
            ("ag_news:test", "ag_news", Some("test")),
            ("hf://datasets/squad@x:train", "squad", Some("train")),
        ] {
            let name = Name::parse(text).unwrap().unwrap_or_else(|| panic!("{text}"));
            assert_eq!((name.repository.as_str(), name.split.as_deref()), (repository, split), "{text}");
        }
        for path in [
            "rows.jsonl",
            "rows.jsnl",
            ".",
            "..",
            "-",
            "~",
            "a*",
            "a b",
            "squad@x/y",
            "data/rows.jsonl",
            "data/rows.csv.gz",
            "./a/b",
            "../a/b",
            "/a/b",
            "a/b/c",
            "a/*",
            "a/b:",
            "a/b::x",
            "a/b:c:d:e",
            "C:/a",
            "~/a",
            "a b/c",
            "a/b@",
            "a\\b/c",
            "",
        ] {
            assert_eq!(Name::parse(path), Ok(None), "{path}");
        }
        for wrong in ["hf://a/b", "hf://", "hf://datasets/", "hf://datasets/a/b@../x/y"] {
            assert!(Name::parse(wrong).is_err(), "{wrong}");
        }
    }
}
