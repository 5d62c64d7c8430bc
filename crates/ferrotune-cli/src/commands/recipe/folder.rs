//! The folder of a recipe: rows, run file, README.

use std::fs;
use std::path::Path;

use ferrotune::{Error, Result};
use serde_json::Value;

use super::measure::Measure;
use super::{Part, Recipe};

/// Columns of the commands beside what they do; longer ones are not waited for.
const WIDTH: usize = 80;

/// Writes all files; their paths in the folder.
pub fn write(recipe: &Recipe, dir: &Path, model: &str) -> Result<Vec<String>> {
    let mut files = (recipe.files)()?;
    files.push(("run.yaml".into(), run_file(recipe, dir, model)));
    files.push(("README.md".into(), readme(recipe, dir)));
    for (name, text) in &files {
        let path = dir.join(name);
        let parent = path.parent().unwrap_or(dir);
        fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        fs::write(&path, text).map_err(|e| Error::io(&path, e))?;
    }
    Ok(files.into_iter().map(|(name, _)| name).collect())
}

/// The run file. Rows are named as they lie beside it; results go into the same folder.
fn run_file(recipe: &Recipe, dir: &Path, model: &str) -> String {
    // A text of JSON is one of YAML, whatever is in it.
    let quoted = |text: &str| Value::from(text).to_string();
    let list = |parts: &[Part]| parts.iter().map(|p| quoted(p.path)).collect::<Vec<_>>().join(", ");
    let Recipe { name, about, settings: s, .. } = recipe;
    let more: String = s.data.iter().map(|line| format!("  {line}\n")).collect();
    format!(
        "# Recipe {name}: {about}.\n\
         # `ferrotune config KEY` explains a key, `ferrotune config` lists all.\n\
         model:\n  base: {model}   # a hub id, a model folder, a .gguf file, or starter\n\
         method:\n  kind: lora   # full, lora, qlora\n  rank: 16\n  alpha: 32\n\
         data:\n  train: [{train}]\n  eval: [{test}]   # never trained on\n  max_length: {max_length}\n{more}\
         train:\n  epochs: {epochs}\n  batch_rows: {batch_rows}\n  lr: {lr}\n  schedule: cosine\n\
         output:\n  dir: {output}\n",
        model = quoted(model),
        train = list(recipe.train),
        test = list(recipe.test),
        max_length = s.max_length,
        epochs = s.epochs,
        batch_rows = s.batch_rows,
        lr = s.lr,
        output = quoted(&dir.join("result").display().to_string()),
    )
}

fn readme(recipe: &Recipe, dir: &Path) -> String {
    let Recipe { name, about, origin, own_data, .. } = recipe;
    let parts = recipe.train.iter().chain(recipe.test);
    let parts: String = parts.map(|p| format!("- `{}`: {}\n", p.path, p.what)).collect();
    let commands = as_lines(&next(recipe, &dir.display().to_string()));
    format!(
        "# Recipe {name}\n\n{about}.\n\n{parts}- `run.yaml`: the run file\n\n{origin} \
         Commands, to be given where the folder was written:\n\n```sh\n{commands}\n```\n\n\
         `ferrotune recipe {name} --run` does all of it and measures before and after.\n\n## Your own data\n\n{own_data}\n",
    )
}

/// The commands that come next, each with what it does.
pub fn next(recipe: &Recipe, dir: &str) -> Vec<(String, &'static str)> {
    let test: Vec<String> = recipe.test.iter().map(|p| format!("{dir}/{}", p.path)).collect();
    let exact = match recipe.measure {
        Measure::ExactMatch { .. } => " --exact-match",
        Measure::Loss => "",
    };
    let try_it = match recipe.measure {
        Measure::ExactMatch { .. } => (format!("ferrotune chat {dir}/result"), "ask it"),
        Measure::Loss => (
            format!("ferrotune generate {dir}/result --raw --temperature 0.8 -p TEXT"),
            "let it go on with a text",
        ),
    };
    vec![
        (format!("ferrotune preview {dir}/run.yaml"), "the rows as the model sees them"),
        (format!("ferrotune train {dir}/run.yaml"), "train"),
        (format!("ferrotune eval {dir}/result --data {}{exact}", test.join(" ")), "measure on the test"),
        try_it,
    ]
}

/// Commands below each other, with what they do.
pub fn as_lines(commands: &[(String, &'static str)]) -> String {
    let width = commands.iter().map(|(command, _)| command.chars().count()).max().unwrap_or(0).min(WIDTH);
    let line = |(command, what): &(String, &str)| format!("{command:width$}   # {what}");
    commands.iter().map(line).collect::<Vec<_>>().join("\n")
}
