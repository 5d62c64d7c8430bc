//! `cache`: the quantized bases and the tokenized data that are kept, and their removal.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use ferrotune::Result;
use ferrotune::data::token_rows::TokenCache;
use ferrotune::load::base_cache::{clear, list};
use ferrotune::run_config::ModelOptions;
use ferrotune::units::human;
use serde_json::json;

use crate::args::{Args, CacheArgs};
use crate::environment::Environment;
use crate::report::Report;

/// Where tokens of large data are kept.
pub fn tokens() -> TokenCache {
    TokenCache::new(&Environment::cache_folder().join("tokens"), ModelOptions::default().cache_limit)
}

/// Where quantized bases are kept.
pub fn folder() -> PathBuf {
    Environment::cache_folder().join("bases")
}

pub fn run(_: &Args, a: &CacheArgs, report: &Report) -> Result<ExitCode> {
    let (folder, tokens) = (folder(), tokens());
    if a.clear {
        let freed = clear(&folder)? + tokens.clear()?;
        report.say(format!("{} removed from {}", human(freed), Environment::cache_folder().display()));
        report.done(&json!({"folder": folder, "freed_bytes": freed}));
        return Ok(ExitCode::SUCCESS);
    }
    let days = |used: &SystemTime| used.elapsed().unwrap_or_default().as_secs() / 86_400;
    let kept = list(&folder)?;
    let mut total: u64 = 0;
    for k in &kept {
        let base = if k.base.is_empty() { "not a quantized base" } else { &k.base };
        let size = human(k.bytes);
        report.say(format!("{size:>8}  {:<28}  {} days ago  {base}", k.storage, days(&k.used)));
        total += k.bytes;
    }
    let rows = tokens.list()?;
    for k in &rows {
        let size = human(k.bytes);
        report.say(format!(
            "{size:>8}  {:<28}  {} days ago  {} rows",
            "tokenized data",
            days(&k.used),
            k.rows
        ));
        total += k.bytes;
    }
    let all = kept.len() + rows.len();
    report.say(format!("{} in {all} files of {}", human(total), Environment::cache_folder().display()));
    let files =
        kept.iter().map(|k| json!({"file": k.path, "base": k.base, "storage": k.storage, "bytes": k.bytes}));
    let tokens = rows.iter().map(|k| json!({"file": k.path, "rows": k.rows, "bytes": k.bytes}));
    report.done(&json!({
        "folder": folder, "bytes": total, "files": files.collect::<Vec<_>>(), "tokens": tokens.collect::<Vec<_>>(),
    }));
    Ok(ExitCode::SUCCESS)
}
