//! `cache`: the quantized bases that are kept, and their removal.

use std::path::PathBuf;
use std::process::ExitCode;

use ferrotune::Result;
use ferrotune::load::base_cache::{clear, list};
use ferrotune::units::human;
use serde_json::json;

use crate::args::{Args, CacheArgs};
use crate::environment::Environment;
use crate::report::Report;

/// Where quantized bases are kept.
pub fn folder() -> PathBuf {
    Environment::cache_folder().join("bases")
}

pub fn run(_: &Args, a: &CacheArgs, report: &Report) -> Result<ExitCode> {
    let folder = folder();
    let kept = list(&folder)?;
    let total: u64 = kept.iter().map(|k| k.bytes).sum();
    if a.clear {
        let freed = clear(&folder)?;
        report.say(format!("{} removed from {}", human(freed), folder.display()));
        report.done(&json!({"folder": folder, "freed_bytes": freed}));
        return Ok(ExitCode::SUCCESS);
    }
    for k in &kept {
        let days = k.used.elapsed().unwrap_or_default().as_secs() / 86_400;
        let base = if k.base.is_empty() { "not a quantized base" } else { &k.base };
        report.say(format!("{:>8}  {:<28}  {days} days ago  {base}", human(k.bytes), k.storage));
    }
    report.say(format!("{} in {} files of {}", human(total), kept.len(), folder.display()));
    let files =
        kept.iter().map(|k| json!({"file": k.path, "base": k.base, "storage": k.storage, "bytes": k.bytes}));
    report.done(&json!({"folder": folder, "bytes": total, "files": files.collect::<Vec<_>>()}));
    Ok(ExitCode::SUCCESS)
}
