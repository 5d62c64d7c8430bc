//! `merge`: `W' = W + s B A` as a Hugging Face folder.

use std::process::ExitCode;

use ferrotune::formats::atomic::write_folder;
use ferrotune::results::model_folder::{self, Learned};
use ferrotune::results::stops;
use ferrotune::train::Event;
use ferrotune::train::outputs::output_dtype;
use ferrotune::{Error, Result};
use ferrotune_kernels::Precision;
use serde_json::json;

use super::open::{Origin, resolve, trained_base};
use super::{device, new_folder};
use crate::args::{Args, MergeArgs};
use crate::report::Report;
use crate::words::{Onto, QuantChoice};

pub fn run(args: &Args, a: &MergeArgs, report: &Report) -> Result<ExitCode> {
    let found = resolve(&a.adapter.display().to_string(), None, a.base.as_deref())?;
    let Some(folder) = found.adapter.clone() else {
        return Err(
            Error::file(&a.adapter, "not an adapter folder").with_hint("give a run folder or a PEFT adapter")
        );
    };
    new_folder(&a.output)?;
    let quant = quant(a)?;
    let base = found.open_base(args, report)?;
    let dev = device(args, None)?;
    let (form, origin) = found.form(quant, &base, Precision::F32, report)?;
    let mut warn = |text| report.event(&Event::Warning { text });
    let (model, none) = base.load(&dev, form, 1, &mut warn)?;
    let adapter = super::open::adapter(&dev, &folder, &model, &base, report)?;
    let dtype = a.dtype.dtype().map_or_else(|| output_dtype(&base, &model), Ok)?;
    let onto = model.storage_name();
    let ends = stops::of_adapter(&folder, model.arch.vocab)?;
    let template = found.template()?;
    let learned = Learned { ends: &ends, template: template.as_deref() };
    write_folder(&a.output, |folder| {
        model_folder::write(folder, &base, &model, &none, Some(&adapter), dtype, learned)
    })?;
    let trained = trained_base(&folder)?.map(|(_, fingerprint)| fingerprint);
    let own_base = trained.as_ref() == Some(&base.checkpoint.fingerprint(&dev.threads())?);
    let about = match origin {
        Origin::Adapter if own_base => "those that the adapter was trained beside",
        Origin::Adapter => "in the form that the adapter was trained beside",
        Origin::Asked => "as asked for",
        Origin::Unknown => "as stored; the adapter does not say what it was trained beside",
    };
    report.say(format!(
        "merged onto {} ({onto} weights, {about}), written as {} to {}",
        base.name,
        dtype.name(),
        a.output.display()
    ));
    report.done(&json!({
        "output": a.output, "base": base.name, "onto": onto, "dtype": dtype.name(),
        "trained_form": origin == Origin::Adapter,
    }));
    Ok(ExitCode::SUCCESS)
}

/// The form to merge onto, of which `--onto` is another name.
fn quant(a: &MergeArgs) -> Result<QuantChoice> {
    let Some(onto) = a.onto else { return Ok(a.quant) };
    let quant = onto.quant();
    if a.quant != Onto::Trained.quant() && a.quant != quant {
        let problem = format!("it stands for --quant {quant}, and --quant {} is given", a.quant);
        return Err(Error::config("--onto", problem).with_hint("give one of the two"));
    }
    Ok(quant)
}
