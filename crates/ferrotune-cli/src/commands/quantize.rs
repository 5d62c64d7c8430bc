//! `quantize`: a model folder in 4 bits, for transformers and for ferrotune.

use std::process::ExitCode;

use ferrotune::formats::atomic::write_folder;
use ferrotune::formats::quantized::{Blocks, QuantKind, Quantized};
use ferrotune::results::quantized_folder;
use ferrotune::units::human;
use ferrotune::{Error, Result};
use serde_json::json;

use super::{device, new_folder, open_base};
use crate::args::{Args, QuantizeArgs};
use crate::report::Report;

pub fn run(args: &Args, a: &QuantizeArgs, report: &Report) -> Result<ExitCode> {
    let kind = QuantKind::from(a.kind);
    let blocks = Blocks { block: a.block, double: !a.no_double };
    let format = Quantized::new(kind, blocks)
        .map_err(|problem| Error::config("--block", problem))?
        .ok_or_else(|| Error::config("--type", format!("{kind} is no format")))?;
    new_folder(&a.output)?;
    let threads = device(args, None)?.threads();
    let base = open_base(args, &a.model, report)?;
    let mut written = None;
    write_folder(&a.output, |folder| {
        written = Some(quantized_folder::write(&threads, folder, &base.checkpoint, format, a.dtype.dtype())?);
        Ok(())
    })?;
    let Some(written) = written else { return Ok(ExitCode::FAILURE) };
    let (from, to) = written.bytes;
    report.say(format!(
        "{} linears of {} in {}, the rest in {}: {} became {}, written to {}",
        written.linears,
        base.name,
        kind,
        written.dtype.name(),
        human(from as u64),
        human(to as u64),
        a.output.display()
    ));
    report.done(&json!({
        "output": a.output, "base": base.name, "type": kind.to_string(), "block": a.block, "double": !a.no_double,
        "dtype": written.dtype.name(), "linears": written.linears, "bytes": to, "source_bytes": from,
    }));
    Ok(ExitCode::SUCCESS)
}
