//! Reading a run file as a user means it: `~` is the home folder, and rows may lie beside the file.

use std::path::Path;

use ferrotune::Result;
use ferrotune::run_config::RunConfig;

use crate::environment::Environment;
use crate::report::Report;

/// Reads a run file with overrides; says which files of rows were taken from beside it.
pub fn load(path: &Path, overrides: &[String], report: &Report) -> Result<RunConfig> {
    let mut config = at_home(RunConfig::load(path, overrides)?)?;
    for text in config.find_data_beside(path)? {
        report.say(text);
    }
    Ok(config)
}

/// Whether a path is that of a run file, by its ending.
pub fn is_one(path: &Path) -> bool {
    path.extension().is_some_and(|e| ["yaml", "yml", "toml", "json"].iter().any(|r| e == *r))
}

/// A configuration with the home folder in the place of `~`.
pub fn at_home(mut config: RunConfig) -> Result<RunConfig> {
    config.expand_home(Environment::home_folder().as_deref())?;
    Ok(config)
}
