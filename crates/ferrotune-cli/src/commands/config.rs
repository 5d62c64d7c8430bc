//! `config`: the keys of the run file, and the settings of one.

use std::path::Path;
use std::process::ExitCode;

use ferrotune::Result;
use ferrotune::run_config::reference;
use serde_json::json;

use super::run_file;
use crate::args::{Args, ConfigArgs};
use crate::report::Report;

pub fn run(_: &Args, a: &ConfigArgs, report: &Report) -> Result<ExitCode> {
    let text = match &a.what {
        _ if a.schema => reference::schema(),
        _ if a.reference => reference::page(),
        None => reference::commented(),
        Some(what) if run_file::is_one(Path::new(what)) || Path::new(what).is_file() => {
            let config = run_file::load(Path::new(what), &a.set, report)?;
            if report.json() {
                report.done(&config.resolved_tree());
                return Ok(ExitCode::SUCCESS);
            }
            config.to_yaml()
        }
        Some(key) => reference::explain(key)?,
    };
    if report.json() {
        report.done(&json!({"text": text}));
    } else {
        report.output(text.trim_end());
    }
    Ok(ExitCode::SUCCESS)
}
