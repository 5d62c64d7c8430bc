//! The starter model: `starter` in place of a model, and what the tour begins with.

use ferrotune::Result;
use ferrotune::base::BaseModel;
use ferrotune::checkpoint::starter::{Starter, StarterSettings, starter};

use crate::args::Args;
use crate::environment::Environment;
use crate::report::Report;

/// The word that stands for the starter model where a model is asked for.
pub const WORD: &str = "starter";

/// Files of the model that the program carries, by name.
const BUILTIN: &[(&str, &[u8])] = &[];

/// What people call it.
const BUILTIN_TITLE: &str = "the built-in model";

/// Finds the starter model and opens it.
pub fn open_starter(args: &Args, report: &Report) -> Result<(Starter, BaseModel)> {
    let environment = Environment::read(args.offline);
    let (hub, index) = (&environment.hub, &environment.index);
    let settings = StarterSettings::new(&environment.cache, hub, index, BUILTIN_TITLE, BUILTIN);
    let found = starter(&settings, &mut |progress| report.progress(&progress));
    report.end_bar();
    let found = found?;
    let base = BaseModel::open(&found.path, &found.name)?;
    Ok((found, base))
}
