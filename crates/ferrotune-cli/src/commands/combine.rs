//! `combine`: several adapters made into one; one adapter of another layout written in PEFT's.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ferrotune::formats::adapter::AdapterFile;
use ferrotune::formats::atomic::{write_atomic, write_folder};
use ferrotune::lora::algebra::{Combination, Combined, Input, Method, combine};
use ferrotune::lora::peft;
use ferrotune::results::model_folder::TEMPLATE_FILE;
use ferrotune::results::stops;
use ferrotune::results::trained_beside::TrainedBeside;
use ferrotune::train::Event;
use ferrotune::{Error, Result};
use serde_json::json;

use super::open::adapter_template;
use super::{device, new_folder};
use crate::args::{Args, CombineArgs};
use crate::report::Report;

pub fn run(args: &Args, a: &CombineArgs, report: &Report) -> Result<ExitCode> {
    let how = Combination {
        method: a.method.unwrap_or(Method::CAT),
        weights: if a.weights.is_empty() { vec![1.0; a.adapters.len()] } else { a.weights.clone() },
        density: a.density,
        majority_sign: a.majority_sign,
        rank: a.rank,
        exact: a.exact,
        seed: a.seed,
        base: a.base.clone(),
    };
    new_folder(&a.output)?;
    let inputs = a.adapters.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    // Nothing to compute: the tensors stay as they are, features that do not add up included.
    let rewritten = inputs.len() == 1 && a.method.is_none() && a.weights.is_empty() && !a.exact;
    let made = if rewritten {
        let mut file = inputs[0].file.clone();
        file.config.base_model_name_or_path = how.base.clone().or(file.config.base_model_name_or_path);
        Combined { file, cut: 0.0 }
    } else {
        combine(&device(args, None)?.threads(), &inputs, &how)?
    };
    let beside = common_base(&a.adapters)?;
    let template = common_template(&a.adapters, report)?;
    let ends = stops::of_adapters(a.adapters.iter().map(PathBuf::as_path))?;
    write_folder(&a.output, |folder| {
        made.file.write(folder)?;
        if let Some(beside) = &beside {
            beside.write(folder)?;
        }
        if let Some(template) = &template {
            write_atomic(&folder.join(TEMPLATE_FILE), template.as_bytes())?;
        }
        stops::write_settings(folder, ends.as_ref())
    })?;
    let method = match (rewritten, a.exact) {
        (true, _) => "none",
        (_, true) => "exact",
        _ => how.method.name(),
    };
    let config = &made.file.config;
    let (rank, output) = (config.lora.rank, a.output.display());
    match rewritten {
        true => report.say(format!("written in PEFT's form, rank {rank}, to {output}")),
        false => report
            .say(format!("{} adapters combined by {method}, rank {rank}, written to {output}", inputs.len())),
    }
    if made.cut > 0.0 {
        let share = 100.0 * made.cut;
        report.say(format!("the rank leaves out up to {share:.2}% of a module's change (norm)"));
    }
    report.done(&json!({
        "output": a.output, "method": method, "adapters": a.adapters, "weights": how.weights, "rank": rank,
        "tensors": made.file.tensors.len(), "cut": made.cut, "base": config.base_model_name_or_path,
    }));
    Ok(ExitCode::SUCCESS)
}

/// The weights that all of the adapters were trained beside, if their folders say so.
fn common_base(adapters: &[PathBuf]) -> Result<Option<TrainedBeside>> {
    let all = adapters.iter().map(|path| TrainedBeside::read(path)).collect::<Result<Vec<_>>>()?;
    let first = all.first().cloned().flatten();
    let same = |other: &Option<TrainedBeside>| match (other, &first) {
        (Some(a), Some(b)) => a.fingerprint == b.fingerprint && a.form() == b.form(),
        _ => false,
    };
    Ok(first.clone().filter(|_| all.iter().all(same)))
}

/// The chat template that all of the adapters were trained with, where it is not the model's own.
fn common_template(adapters: &[PathBuf], report: &Report) -> Result<Option<String>> {
    let all = adapters.iter().map(|path| adapter_template(path)).collect::<Result<Vec<_>>>()?;
    let first = all.first().cloned().flatten();
    if all.iter().any(|other| *other != first) {
        let text = "the adapters were trained with different chat templates; the result has none of them, and is asked \
                    in that of its base (--template takes another one)";
        report.event(&Event::Warning { text: text.to_string() });
        return Ok(None);
    }
    Ok(first)
}

fn read(path: &Path) -> Result<Input> {
    if !peft::is_adapter(path) {
        return Err(Error::file(path, "not an adapter folder")
            .with_hint("give folders with an adapter_config.json: of PEFT, of MLX-LM, or run folders"));
    }
    Ok(Input { path: path.to_path_buf(), file: AdapterFile::read(path)? })
}
