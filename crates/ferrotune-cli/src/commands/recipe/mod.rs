//! `recipe`: worked examples of what fine-tuning is used for, each with its data, its run file and its own measure.
//!
//! A recipe is a file here with a [`Recipe`], its `mod` line and its row of [`RECIPES`].

mod chatbot;
mod code;
mod finance;
mod folder;
mod measure;
mod run;
mod voice;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use ferrotune::Result;
use serde_json::json;

use self::measure::Measure;
use super::new_folder;
use crate::args::{Args, RecipeArgs};
use crate::report::Report;

/// All of them.
const RECIPES: &[Recipe] = &[chatbot::RECIPE, code::RECIPE, voice::RECIPE, finance::RECIPE];

/// A worked example.
#[derive(Debug)]
pub struct Recipe {
    /// Its word.
    name: &'static str,
    /// What it is, in a line.
    about: &'static str,
    /// What the model learns from: a file or a folder of the recipe's folder, and what is in it.
    train: &'static [Part],
    /// What it is measured on, never trained on.
    test: &'static [Part],
    /// How it is measured.
    measure: Measure,
    /// Settings of the run file.
    settings: Settings,
    /// Paths in the recipe's folder and texts of all files of rows.
    files: fn() -> Result<Vec<(String, String)>>,
    /// Where its data comes from, as a sentence.
    origin: &'static str,
    /// How a user puts own data in the place of the recipe's.
    own_data: &'static str,
}

/// A file or folder of rows.
#[derive(Debug)]
struct Part {
    path: &'static str,
    what: &'static str,
}

/// What differs between the recipes' run files.
#[derive(Debug)]
struct Settings {
    /// More lines of `data`.
    data: &'static [&'static str],
    /// `data.max_length`.
    max_length: usize,
    /// `train.epochs`.
    epochs: usize,
    /// `train.batch_rows`.
    batch_rows: usize,
    /// `train.lr`, as it is written.
    lr: &'static str,
}

/// Takes the name of a recipe.
pub fn parser() -> impl TypedValueParser<Value = &'static Recipe> {
    let values = RECIPES.iter().map(|recipe| PossibleValue::new(recipe.name).help(recipe.about));
    PossibleValuesParser::new(values)
        .try_map(|name| RECIPES.iter().find(|recipe| recipe.name == name).ok_or("not the name of a recipe"))
}

pub fn run(args: &Args, a: &RecipeArgs, report: &Report) -> Result<ExitCode> {
    let Some(recipe) = a.name else {
        list(report);
        return Ok(ExitCode::SUCCESS);
    };
    let dir = a.output.clone().unwrap_or_else(|| PathBuf::from(format!("recipe-{}", recipe.name)));
    new_folder(&dir)?;
    let written = folder::write(recipe, &dir, &a.model)?;
    report.say(format!("recipe {}: {}", recipe.name, recipe.about));
    report.say(format!("wrote {} files into {}", written.len(), dir.display()));
    if a.run {
        return run::run(args, a, recipe, &dir, report);
    }
    let next = folder::next(recipe, &dir.display().to_string());
    report.say(format!("go on with\n{}", folder::as_lines(&next)));
    let next: Vec<&String> = next.iter().map(|(command, _)| command).collect();
    report.done(&json!({"recipe": recipe.name, "output": dir, "files": written, "next": next}));
    Ok(ExitCode::SUCCESS)
}

/// Says which recipes there are.
fn list(report: &Report) {
    if !report.json() {
        let line = |recipe: &Recipe| format!("{:9} {}\n", recipe.name, recipe.about);
        let lines: String = RECIPES.iter().map(line).collect();
        report.output(&format!(
            "{lines}\nferrotune recipe NAME writes one into recipe-NAME; with --run it is trained and measured too"
        ));
    }
    let entry = |recipe: &Recipe| json!({"name": recipe.name, "about": recipe.about});
    report.done(&json!({"recipes": RECIPES.iter().map(entry).collect::<Vec<_>>()}));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Files of a part, or a file that is the part.
    fn of<'a>(files: &'a [(String, String)], part: &'a Part) -> Vec<&'a str> {
        let inside = |path: &str| path == part.path || path.starts_with(&format!("{}/", part.path));
        files.iter().filter(|(path, _)| inside(path)).map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn no_row_of_a_test_is_trained_on() {
        for recipe in RECIPES {
            let files = (recipe.files)().unwrap();
            let rows = |parts: &'static [Part]| -> BTreeSet<String> {
                let texts: Vec<_> = parts.iter().flat_map(|part| of(&files, part)).collect();
                assert!(texts.len() >= parts.len(), "{}: a part has no file", recipe.name);
                // Texts of JSON Lines are rows by the line, articles are one.
                let row = |text: &str| match text.starts_with('{') {
                    true => text.lines().map(str::to_string).collect(),
                    false => vec![text.to_string()],
                };
                texts.into_iter().flat_map(row).collect()
            };
            let (train, test) = (rows(recipe.train), rows(recipe.test));
            assert!(train.len() > test.len() && test.len() >= 6, "{}", recipe.name);
            assert!(train.is_disjoint(&test), "{}", recipe.name);
        }
    }

    #[test]
    fn names_differ_and_files_are_the_same_each_time() {
        assert_eq!(RECIPES.iter().map(|r| r.name).collect::<BTreeSet<_>>().len(), RECIPES.len());
        for recipe in RECIPES {
            assert_eq!((recipe.files)().unwrap(), (recipe.files)().unwrap(), "{}", recipe.name);
        }
    }
}
