//! Which config, split and files a name stands for.

use super::card::CardConfig;
use super::name::Name;
use super::splits::{Splits, by_names, is_pattern, matched};

/// What was chosen.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Choice {
    pub(super) config: Option<String>,
    pub(super) split: Option<String>,
    pub(super) files: Vec<String>,
}

/// Why nothing can be.
#[derive(Debug, PartialEq)]
pub(super) enum Problem {
    /// There are no files that are read here.
    Unreadable(String),
    /// What was found, and what could be asked for.
    Refused(String, String),
}

/// The config that stands for the whole where none is declared.
const DEFAULT: &str = "default";

/// The files of a name, by the configs of the card.
pub(super) fn choose(files: &[String], card: &[CardConfig], name: &Name) -> Result<Choice, Problem> {
    if let Some(inside) = name.inside.as_deref() {
        return of_path(files, inside, name);
    }
    if card.is_empty() {
        if let Some(config) = name.config.as_ref().filter(|config| *config != DEFAULT) {
            return Err(Problem::Unreadable(format!("no config `{config}`, as its README declares none")));
        }
        return pick(by_names(files, ""), Some(DEFAULT), name);
    }
    let config = configured(card, name)?;
    let folder = config.folder.as_deref();
    let Some(patterns) = &config.files else {
        return pick(by_names(files, folder.unwrap_or_default()), Some(&config.name), name);
    };
    let asked = name.split.as_deref().unwrap_or("train");
    let Some((split, patterns)) = patterns.iter().find(|(split, _)| split == asked) else {
        return Err(no_split(asked, patterns.iter().map(|(split, _)| split.as_str()), name));
    };
    let found = matched(files, folder, patterns).map_err(|problem| {
        Problem::Unreadable(format!("config `{}`, split `{split}`: {problem}", config.name))
    })?;
    match found.is_empty() {
        true => Err(Problem::Unreadable(format!(
            "config `{}`, split `{split}`: no file of rows matches {}",
            config.name,
            patterns.join(", ")
        ))),
        false => Ok(Choice { config: Some(config.name.clone()), split: Some(split.clone()), files: found }),
    }
}

/// The file, the folder or what matches the pattern at a path of the repository.
fn of_path(files: &[String], path: &str, name: &Name) -> Result<Choice, Problem> {
    let (is_file, is_pattern) = (files.iter().any(|file| file == path), is_pattern(path));
    let key = if name.config.is_some() { "config" } else { "split" };
    if name.config.is_some() || (name.split.is_some() && (is_file || is_pattern)) {
        let hint = "name the data set without a path, or a path alone; a folder may have a split";
        return Err(Problem::Refused(format!("`{path}` has no {key}"), hint.into()));
    }
    if is_file {
        return Ok(Choice { files: vec![path.to_string()], ..Choice::default() });
    }
    if !is_pattern {
        let splits = by_names(files, path);
        return match splits.is_empty() {
            true => Err(nothing(format!("no file `{path}`, and no folder of rows"), files)),
            false => pick(splits, None, name),
        };
    }
    let found = matched(files, None, &[path.to_string()])
        .map_err(|problem| Problem::Refused(problem, "*, ?, [a-z] and ** are read".into()))?;
    match found.is_empty() {
        true => Err(nothing(format!("no file of rows matches `{path}`"), files)),
        false => Ok(Choice { files: found, ..Choice::default() }),
    }
}

/// The files of a name in the branch of converted files, `CONFIG/SPLIT/0000.parquet`.
pub(super) fn converted(files: &[String], name: &Name) -> Result<Choice, Problem> {
    let mut configs: Vec<(&str, Splits)> = Vec::new();
    for file in files.iter().filter(|file| file.ends_with(".parquet")) {
        let [config, split, _] = file.split('/').collect::<Vec<_>>()[..] else { continue };
        let at = configs.iter().position(|(other, _)| *other == config).unwrap_or_else(|| {
            configs.push((config, Splits::new()));
            configs.len() - 1
        });
        let splits = &mut configs[at].1;
        match splits.iter_mut().find(|(other, _)| other == split) {
            Some((_, files)) => files.push(file.clone()),
            None => splits.push((split.to_string(), vec![file.clone()])),
        }
    }
    let cards: Vec<CardConfig> = configs
        .iter()
        .map(|(name, _)| CardConfig { name: name.to_string(), ..CardConfig::default() })
        .collect();
    let config = configured(&cards, name)?.name.clone();
    let (_, splits) = configs.into_iter().find(|(own, _)| *own == config).unwrap_or_default();
    pick(splits, Some(&config), name)
}

/// The config that is asked for, or the default one.
fn configured<'a>(configs: &'a [CardConfig], name: &Name) -> Result<&'a CardConfig, Problem> {
    let all = || configs.iter().map(|config| config.name.as_str()).collect::<Vec<_>>().join(", ");
    let example = || {
        let (split, first) = (name.split.as_deref().unwrap_or("train"), configs.first());
        format!("one of them is chosen as {}:{}:{split}", name.repository, first.map_or("", |c| &c.name))
    };
    if let Some(asked) = &name.config {
        let found = configs.iter().find(|config| config.name == *asked);
        return found.ok_or_else(|| {
            Problem::Refused(format!("no config `{asked}`"), format!("its configs: {}", all()))
        });
    }
    let mut usual = configs.iter().filter(|c| configs.len() == 1 || c.name == DEFAULT || c.default);
    match (usual.next(), usual.next()) {
        (Some(one), None) => Ok(one),
        (None, _) if configs.is_empty() => Err(Problem::Unreadable("no file of rows is in it".into())),
        (None, _) => Err(Problem::Refused(format!("it has several configs: {}", all()), example())),
        _ => Err(Problem::Refused(format!("it has several default configs among {}", all()), example())),
    }
}

/// The split that is asked for, or `train`.
fn pick(splits: Splits, config: Option<&str>, name: &Name) -> Result<Choice, Problem> {
    if splits.is_empty() {
        return Err(Problem::Unreadable("no file of rows is in it".into()));
    }
    let asked = name.split.as_deref().unwrap_or("train");
    match splits.iter().position(|(split, _)| split == asked) {
        Some(at) => Ok(Choice {
            config: config.map(str::to_string),
            split: Some(asked.to_string()),
            files: splits[at].1.clone(),
        }),
        None => Err(no_split(asked, splits.iter().map(|(split, _)| split.as_str()), name)),
    }
}

fn no_split<'a>(asked: &str, splits: impl Iterator<Item = &'a str>, name: &Name) -> Problem {
    let all = splits.collect::<Vec<_>>().join(", ");
    let mut hint = format!("its splits: {all}");
    if asked.contains(['[', '+']) {
        hint += "; one split is named, without slices or sums: `rows` of a source takes the first rows, and a list has several";
    } else if name.split.is_some() && name.config.is_none() {
        hint += &format!("; a config stands before the split, as in {}:CONFIG:train", name.repository);
    }
    Problem::Refused(format!("no split `{asked}`"), hint)
}

fn nothing(problem: String, files: &[String]) -> Problem {
    let some: Vec<&str> = files.iter().take(5).map(String::as_str).collect();
    let more = if files.len() > some.len() { ", ..." } else { "" };
    Problem::Unreadable(format!("{problem} (it has {}{more})", some.join(", ")))
}
