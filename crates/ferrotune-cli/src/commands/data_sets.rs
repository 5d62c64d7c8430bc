//! Data sets of the hub that a run file or an option names: brought before their rows are read.

use std::path::PathBuf;

use ferrotune::Result;
use ferrotune::fetch::data_sets::{self, DataSet, Located};
use ferrotune::fetch::hub::HubSettings;
use ferrotune::run_config::RunConfig;

use crate::args::Args;
use crate::environment::Environment;
use crate::report::Report;

/// A configuration whose rows are on this machine.
pub fn locate(args: &Args, config: &RunConfig, report: &Report) -> Result<Located> {
    let located = data_sets::locate(config, &settings(args), &mut |progress| report.progress(&progress));
    report.end_bar();
    let located = located?;
    located.data_sets.iter().for_each(|set| say(set, report));
    Ok(located)
}

/// Files of an option, those of data sets in the place of their names.
pub fn locate_paths(args: &Args, option: &str, paths: &[PathBuf], report: &Report) -> Result<Vec<PathBuf>> {
    let mut here = Vec::new();
    for path in paths {
        // The name of a data set is a text.
        let Some(text) = path.to_str() else {
            here.push(path.clone());
            continue;
        };
        let found = data_sets::locate_paths(option, &[text.to_string()], &settings(args), &mut |progress| {
            report.progress(&progress);
        });
        report.end_bar();
        let (files, sets) = found?;
        sets.iter().for_each(|set| say(set, report));
        here.extend(files.into_iter().map(PathBuf::from));
    }
    Ok(here)
}

fn settings(args: &Args) -> impl Fn() -> HubSettings {
    let offline = args.offline;
    move || Environment::read(offline).data_sets
}

fn say(set: &DataSet, report: &Report) {
    let part: Vec<&str> = [&set.config, &set.split].into_iter().flatten().map(String::as_str).collect();
    let part = if part.is_empty() { String::new() } else { format!(" ({})", part.join(", ")) };
    let files = match &set.files[..] {
        [one] => one.clone(),
        all => format!("{} files", all.len()),
    };
    report.say(format!("data set {}{part}: {files} of commit {}", set.data_set, set.commit));
}
