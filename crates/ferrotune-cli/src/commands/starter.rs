//! The starter model: `starter` in place of a model, and what the tour begins with.

use ferrotune::Result;
use ferrotune::base::BaseModel;
use ferrotune::fetch::starter::{Starter, StarterSettings, starter};

use crate::args::Args;
use crate::environment::Environment;
use crate::report::Report;

/// The word that stands for the starter model where a model is asked for.
pub const WORD: &str = "starter";

/// Files of the model that the program carries, by name; `cargo xtask tiny-model` makes them.
const BUILTIN: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../../builtin/config.json")),
    ("generation_config.json", include_bytes!("../../builtin/generation_config.json")),
    ("tokenizer.json", include_bytes!("../../builtin/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../builtin/tokenizer_config.json")),
    ("model.safetensors", include_bytes!("../../builtin/model.safetensors")),
];

/// What people call it.
const BUILTIN_TITLE: &str = "ferrotune-tiny, the built-in model of one million parameters";

/// Finds the starter model and opens it.
pub fn open_starter(args: &Args, report: &Report) -> Result<(Starter, BaseModel)> {
    let environment = Environment::read(args.offline);
    let (hub, index) = (&environment.hub, &environment.index);
    let settings = StarterSettings::new(&environment.cache, hub, index, BUILTIN_TITLE, BUILTIN);
    let found = starter(&settings, &mut |progress| report.progress(&progress));
    report.end_bar();
    let found = found?;
    let mut base = BaseModel::open(&found.path, &found.name)?;
    base.tokens = Some(super::cache::tokens());
    Ok((found, base))
}
