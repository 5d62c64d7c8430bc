//! Which modules get a branch, by PEFT's rules of matching names.

use fancy_regex::Regex;

use crate::formats::adapter::LoraConfig;
pub use crate::formats::adapter::Targets;
use crate::{Error, Result};

/// Name of the head.
const HEAD: &str = "lm_head";
/// Last part of the embedding's path.
const EMBEDDING: &str = ".embed_tokens";

impl Targets {
    /// Refuses a pattern that is no regular expression; `key` is for messages.
    pub fn check(&self, key: &str) -> Result<()> {
        match self {
            Targets::Regex(pattern) => compile(key, pattern, &whole(pattern)).map(|_| ()),
            Targets::AllLinear | Targets::Names(_) => Ok(()),
        }
    }

    /// For each module (by path) whether it is chosen; refuses a choice that matches nothing, or a name in a list that
    /// does.
    pub fn select(&self, modules: &[&str]) -> Result<Vec<bool>> {
        const KEY: &str = "targets";
        if let Targets::Names(names) = self
            && let Some(missing) = names.iter().find(|t| !modules.iter().any(|n| matches(n, t)))
        {
            return Err(unmatched(KEY, missing, modules));
        }
        let chosen = self.matching(KEY, modules)?;
        if chosen.contains(&true) {
            return Ok(chosen);
        }
        Err(unmatched(KEY, &self.to_string(), modules))
    }

    /// The same choice in a model that has further modules: nothing in those is chosen.
    pub(super) fn but_in(&self, outside: &[&str]) -> Targets {
        let escaped = |names: &mut dyn Iterator<Item = &str>| {
            names.map(|name| fancy_regex::escape(name).into_owned()).collect::<Vec<_>>().join("|")
        };
        let not = format!("(?!(?:{})\\.)", escaped(&mut outside.iter().copied()));
        match self {
            Targets::Names(names) if !outside.is_empty() && !names.is_empty() => {
                let names = escaped(&mut names.iter().map(String::as_str));
                Targets::Regex(format!(r"{not}(?:.*\.)?(?:{names})"))
            }
            Targets::Regex(pattern) if !outside.is_empty() && !pattern.starts_with(&not) => {
                Targets::Regex(format!("{not}(?:{pattern})"))
            }
            same => same.clone(),
        }
    }

    /// For each module whether it matches.
    fn matching(&self, key: &str, modules: &[&str]) -> Result<Vec<bool>> {
        Ok(match self {
            Targets::AllLinear => modules.iter().map(|n| *n != HEAD && !n.ends_with(EMBEDDING)).collect(),
            Targets::Names(names) => modules.iter().map(|n| names.iter().any(|t| matches(n, t))).collect(),
            Targets::Regex(pattern) => {
                let regex = compile(key, pattern, &whole(pattern))?;
                modules.iter().map(|n| is_match(key, &regex, n)).collect::<Result<_>>()?
            }
        })
    }
}

/// For each of the modules (by path) whether it gets a branch: targeted, not excluded, not trained whole, and in one of
/// the layers asked for. Refuses a choice of nothing.
pub fn select(config: &LoraConfig, modules: &[&str]) -> Result<Vec<bool>> {
    // Experts' stacked weights may be all that is targeted.
    if config.targets == Targets::Names(Vec::new()) && !config.target_parameters.is_empty() {
        return Ok(vec![false; modules.len()]);
    }
    let mut chosen = config.targets.select(modules)?;
    if let Some(exclude) = &config.exclude {
        let excluded = exclude.matching("exclude", modules)?;
        chosen.iter_mut().zip(excluded).for_each(|(c, out)| *c &= !out);
    }
    let inside = Matcher::new("modules_to_save", &config.modules_to_save, |key| {
        format!(r"\A(?:|.*\.)(?:{key})(?:\z|\..*)")
    })?;
    for (module, chosen) in modules.iter().zip(&mut chosen) {
        *chosen &= inside.first(module)?.is_none();
    }
    if let Some(layers) = &config.layers_to_transform {
        let in_layers = layer_filter(config, layers, modules)?;
        chosen.iter_mut().zip(in_layers).for_each(|(c, inside)| *c &= inside);
    }
    if !chosen.contains(&true) {
        let problem = format!("`{}` matches no module that is left", config.targets);
        return Err(Error::config("targets", problem).with_hint(
            "exclude, layers_to_transform and modules_to_save take away every module that the targets name",
        ));
    }
    Ok(chosen)
}

/// Refuses an excluded name or a pattern that no module has: in a run file it is a mistake. An adapter that was made
/// elsewhere may carry some of another part of its model.
pub(super) fn check_used(config: &LoraConfig, modules: &[&str], targeted: &[&str]) -> Result<()> {
    if let Some(Targets::Names(names)) = &config.exclude
        && let Some(unused) = names.iter().find(|t| !modules.iter().any(|m| matches(m, t)))
    {
        return Err(unmatched("exclude", unused, modules));
    }
    let patterns = [
        ("rank_pattern", config.rank_pattern.iter().map(|(k, _)| k).collect::<Vec<_>>()),
        ("alpha_pattern", config.alpha_pattern.iter().map(|(k, _)| k).collect()),
    ];
    for (key, patterns) in patterns {
        for pattern in patterns {
            let matcher = Matcher::suffixes(key, std::iter::once(pattern))?;
            let found = targeted.iter().map(|m| matcher.first(m)).collect::<Result<Vec<_>>>()?;
            if found.iter().all(Option::is_none) {
                return Err(unmatched(key, pattern, targeted));
            }
        }
    }
    Ok(())
}

/// Whether each module is in one of the layers, by the first number of its path (after a name of `layers_pattern`). A
/// module that is named by its whole path needs no layer.
fn layer_filter(config: &LoraConfig, layers: &[usize], modules: &[&str]) -> Result<Vec<bool>> {
    const KEY: &str = "layers_pattern";
    let any = [r"[^.]*".to_string()];
    let patterns = if config.layers_pattern.is_empty() { &any[..] } else { &config.layers_pattern };
    let patterns = patterns
        .iter()
        .map(|p| compile(KEY, p, &format!(r"\A(?:|.*?\.)(?:{p})\.(?P<index>\d+)\.")))
        .collect::<Result<Vec<_>>>()?;
    let inside = |module: &str| {
        if matches!(&config.targets, Targets::Names(names) if names.iter().any(|n| n == module)) {
            return Ok(true);
        }
        for regex in &patterns {
            let found = regex.captures(module).map_err(|e| Error::config(KEY, e.to_string()))?;
            if let Some(index) = found.and_then(|c| c.name("index")?.as_str().parse().ok()) {
                return Ok(layers.contains(&index));
            }
        }
        Ok(false)
    };
    modules.iter().map(|m| inside(m)).collect()
}

/// Regular expressions of which the first that matches counts.
pub(super) struct Matcher {
    key: &'static str,
    patterns: Vec<Regex>,
}

impl Matcher {
    fn new(key: &'static str, of: &[String], expand: impl Fn(&str) -> String) -> Result<Self> {
        let patterns = of.iter().map(|p| compile(key, p, &expand(p))).collect::<Result<_>>()?;
        Ok(Matcher { key, patterns })
    }

    /// Ends of paths: `(.*\.)?(KEY)$`.
    pub(super) fn suffixes<'a>(key: &'static str, of: impl Iterator<Item = &'a String>) -> Result<Self> {
        let patterns = of.map(|p| compile(key, p, &format!(r"\A(?:.*\.)?(?:{p})\z")));
        Ok(Matcher { key, patterns: patterns.collect::<Result<_>>()? })
    }

    /// The first that matches the path.
    pub(super) fn first(&self, path: &str) -> Result<Option<usize>> {
        for (i, regex) in self.patterns.iter().enumerate() {
            if is_match(self.key, regex, path)? {
                return Ok(Some(i));
            }
        }
        Ok(None)
    }
}

fn whole(pattern: &str) -> String {
    format!(r"\A(?:{pattern})\z")
}

fn is_match(key: &str, regex: &Regex, path: &str) -> Result<bool> {
    regex.is_match(path).map_err(|e| Error::config(key, format!("`{}`: {e}", regex.as_str())))
}

fn compile(key: &str, pattern: &str, expanded: &str) -> Result<Regex> {
    Regex::new(expanded).map_err(|e| {
        Error::config(key, format!("\"{pattern}\" is not a regular expression: {e}"))
            .with_hint("a list such as [q_proj, v_proj] names linears; a string is a pattern of whole paths")
    })
}

pub(super) fn matches(path: &str, target: &str) -> bool {
    path == target || path.strip_suffix(target).is_some_and(|rest| rest.ends_with('.'))
}

/// A name or pattern that no module has.
pub(super) fn unmatched(key: &str, target: &str, modules: &[&str]) -> Error {
    let mut last: Vec<&str> = modules.iter().map(|n| n.rsplit('.').next().unwrap_or(n)).collect();
    last.sort_unstable();
    last.dedup();
    let nearest = last
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(a, target).total_cmp(&strsim::jaro_winkler(b, target)));
    let nearest = nearest.map_or(String::new(), |n| format!(", nearest `{n}`"));
    Error::config(key, format!("`{target}` matches no module")).with_hint(format!(
        "the model has {}{nearest}; a list takes names, a string a regular expression of the whole path, \
         such as `.*\\.self_attn\\.[qv]_proj`",
        last.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULES: [&str; 5] = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.up_proj",
        "model.layers.1.self_attn.q_proj",
        "lm_head",
        "model.embed_tokens",
    ];

    fn names(list: &[&str]) -> Targets {
        Targets::Names(list.iter().map(|s| s.to_string()).collect())
    }

    #[test]
    fn lists_match_whole_names_and_strings_whole_paths() {
        assert_eq!(Targets::AllLinear.select(&MODULES).unwrap(), [true, true, true, false, false]);
        assert_eq!(names(&["q_proj"]).select(&MODULES).unwrap(), [true, false, true, false, false]);
        let chosen = names(&["mlp.up_proj", "lm_head", "embed_tokens"]).select(&MODULES).unwrap();
        assert_eq!(chosen, [false, true, false, true, true]);
        let regex = Targets::Regex(r".*\.1\..*q_proj".into());
        assert_eq!(regex.select(&MODULES).unwrap(), [false, false, true, false, false]);
        assert!(Targets::Regex("q_proj".into()).select(&MODULES).is_err(), "a full match is asked for");
        assert!(names(&["proj"]).select(&MODULES).is_err(), "not a part of a name");
    }

    #[test]
    fn a_choice_in_a_larger_model_leaves_its_other_modules_out() {
        let outside = ["model.visual"];
        let inside = "model.language_model.layers.0.mlp.up_proj";
        let modules = [inside, "model.visual.blocks.0.mlp.up_proj", "model.visual.up_proj"];
        for choice in [names(&["up_proj"]), names(&[inside]), Targets::Regex(r".*up_proj".into())] {
            let written = choice.but_in(&outside);
            assert_eq!(written.select(&modules).unwrap(), [true, false, false], "{written}");
            assert_eq!(written.but_in(&outside), written, "once is enough");
            assert_eq!(choice.but_in(&[]), choice);
        }
    }

    #[test]
    fn one_unmatched_name_of_a_list_is_refused_with_the_nearest() {
        let error = names(&["q_proj", "up_porj"]).select(&MODULES).unwrap_err();
        assert!(error.to_string().contains("up_porj"), "{error}");
        assert!(error.hint().unwrap().contains("nearest `up_proj`"), "{:?}", error.hint());
    }

    #[test]
    fn targets_lose_what_is_excluded_trained_whole_or_in_another_layer() {
        let base = LoraConfig { targets: names(&["q_proj", "up_proj", "lm_head"]), ..Default::default() };
        let of = |c: LoraConfig| select(&c, &MODULES).unwrap();
        let excluded = LoraConfig { exclude: Some(names(&["up_proj"])), ..base.clone() };
        assert_eq!(of(excluded), [true, false, true, true, false]);
        let whole = LoraConfig { modules_to_save: vec!["self_attn".into()], ..base.clone() };
        assert_eq!(of(whole), [false, true, false, true, false]);
        // The head is named by its whole path.
        let layers = LoraConfig { layers_to_transform: Some(vec![1]), ..base.clone() };
        assert_eq!(of(layers.clone()), [false, false, true, true, false]);
        let pattern = LoraConfig { layers_pattern: vec!["layers".into()], ..layers.clone() };
        assert_eq!(of(pattern), [false, false, true, true, false]);
        let other = LoraConfig { layers_pattern: vec!["blocks".into()], ..layers };
        assert_eq!(of(other), [false, false, false, true, false]);
        let nothing = LoraConfig { exclude: Some(Targets::Regex(".*".into())), ..base };
        assert!(select(&nothing, &MODULES).is_err());
    }

    #[test]
    fn the_first_pattern_that_matches_gives_rank_and_alpha() {
        let config = LoraConfig {
            rank_pattern: vec![("q_proj".into(), 4), (r"layers\.1\..*".into(), 2)],
            alpha_pattern: vec![("layers.0.mlp.up_proj".into(), 32.0)],
            rank: 8,
            alpha: 8.0,
            ..Default::default()
        };
        let found = config.branches(&MODULES).unwrap();
        assert_eq!(found, [(4, 2.0), (8, 4.0), (4, 2.0), (8, 1.0), (8, 1.0)]);
    }
}
