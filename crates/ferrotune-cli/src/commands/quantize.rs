//! `quantize`: a model folder in 4 bits, for transformers and for ferrotune.

use std::process::ExitCode;

use ferrotune::formats::atomic::write_folder;
use ferrotune::results::quantized_folder::{self, FourBitOptions};
use ferrotune::units::human;
use ferrotune::{Error, Result};
use ferrotune_kernels::quant::nf4::{BLOCKS, FourBitKind};
use serde_json::json;

use super::{device, new_folder, open_base};
use crate::args::{Args, QuantizeArgs};
use crate::report::Report;

pub fn run(args: &Args, a: &QuantizeArgs, report: &Report) -> Result<ExitCode> {
    if !BLOCKS.contains(&a.block) {
        return Err(Error::config("--block", format!("`{}` is not possible", a.block))
            .with_hint("a power of two from 64 to 4096"));
    }
    let kind = FourBitKind::from(a.kind);
    new_folder(&a.output)?;
    let threads = device(args, None)?.threads();
    let base = open_base(args, &a.model, report)?;
    let options = FourBitOptions { kind, block: a.block, double: !a.no_double };
    let mut written = None;
    write_folder(&a.output, |folder| {
        written =
            Some(quantized_folder::write(&threads, folder, &base.checkpoint, options, a.dtype.dtype())?);
        Ok(())
    })?;
    let Some(written) = written else { return Ok(ExitCode::FAILURE) };
    let (from, to) = written.bytes;
    report.say(format!(
        "{} linears of {} in {}, the rest in {}: {} became {}, written to {}",
        written.linears,
        base.name,
        kind.name(),
        written.dtype.name(),
        human(from as u64),
        human(to as u64),
        a.output.display()
    ));
    report.done(&json!({
        "output": a.output, "base": base.name, "type": kind.name(), "block": a.block, "double": !a.no_double,
        "dtype": written.dtype.name(), "linears": written.linears, "bytes": to, "source_bytes": from,
    }));
    Ok(ExitCode::SUCCESS)
}
