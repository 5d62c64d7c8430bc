//! `merge`: `W' = W + s B A` as a Hugging Face folder.

use std::process::ExitCode;

use ferrotune::checkpoint::atomic::write_folder;
use ferrotune::checkpoint::model_folder;
use ferrotune::checkpoint::outputs::output_dtype;
use ferrotune::checkpoint::stops;
use ferrotune::model::weights::BaseStorage;
use ferrotune::train::{Event, setup};
use ferrotune::{Error, Result};
use ferrotune_kernels::{DType, Precision};
use serde_json::json;

use super::open::resolve;
use super::{device, new_folder, open_cached};
use crate::args::{Args, MergeArgs};
use crate::report::Report;

pub fn run(args: &Args, a: &MergeArgs, report: &Report) -> Result<ExitCode> {
    let found = resolve(&a.adapter.display().to_string(), None, a.base.as_deref())?;
    let Some(folder) = found.adapter else {
        return Err(
            Error::file(&a.adapter, "not an adapter folder").with_hint("give a run folder or a PEFT adapter")
        );
    };
    new_folder(&a.output)?;
    let base = open_cached(args, &found.base, found.run.as_ref(), report)?;
    let dev = device(args, None)?;
    let form = match (a.onto.as_str(), &found.run) {
        ("trained", Some(run)) => setup::form(run, &base.checkpoint, Precision::F32)?,
        ("trained" | "stored", _) => BaseStorage::AsStored.into(),
        (other, _) => {
            return Err(
                Error::config("--onto", format!("`{other}` is not a base")).with_hint("trained or stored")
            );
        }
    };
    let mut warn = |text| report.event(&Event::Warning { text });
    let (model, none) = base.load(&dev, form, 1, &mut warn)?;
    let adapter = super::open::adapter(&dev, &folder, &model, &base, report)?;
    let dtype = match a.dtype.as_str() {
        "auto" => output_dtype(&base, &model)?,
        "bf16" => DType::Bf16,
        "f32" => DType::F32,
        "f16" => DType::F16,
        other => {
            return Err(Error::config("--dtype", format!("`{other}` is not a type"))
                .with_hint("auto, f32, bf16 or f16"));
        }
    };
    let onto = model.storage_name();
    let learned = stops::of_adapter(&folder, model.arch.vocab)?;
    write_folder(&a.output, |folder| {
        model_folder::write(folder, &base, &model, &none, Some(&adapter), dtype, &learned)
    })?;
    report.say(format!(
        "merged onto {} ({onto} weights, {}), written as {} to {}",
        base.name,
        if a.onto == "trained" { "those that the adapter was trained beside" } else { "as stored" },
        dtype.name(),
        a.output.display()
    ));
    report.done(&json!({
        "output": a.output, "base": base.name, "onto": onto, "dtype": dtype.name(),
    }));
    Ok(ExitCode::SUCCESS)
}
