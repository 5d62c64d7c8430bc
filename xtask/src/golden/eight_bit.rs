//! `quant/eight_bit`: dynamic maps, blockwise 8 bits, 8-bit rows and the layer built on them.

use ferrotune::formats::safetensors::SafeFile;
use ferrotune_kernels::ops::linear::{Linear, Matrix, forward};
use ferrotune_kernels::quant::Int8Rows;
use ferrotune_kernels::quant::dynamic8::DynamicMap;
use ferrotune_kernels::quant::int8::{llm_int8, quantize};
use ferrotune_kernels::{Tensor, Threads, Weight};

use super::Report;
use super::fixture::{Case, F32, Failure, devices, max_abs};

fn bytes(file: &SafeFile, name: &str) -> Result<Vec<u8>, Failure> {
    let found = file.get(name).map(|t| t.bytes.as_slice().to_vec());
    found.ok_or_else(|| Failure(format!("{}: no tensor {name}", file.path().display())))
}

fn rows(weight: &Weight) -> Result<&Int8Rows, Failure> {
    weight.format().ok_or_else(|| Failure(format!("not 8-bit: {weight:?}")))
}

fn differing(found: &[u8], expected: &[u8]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    found.iter().zip(expected).filter(|(a, b)| a != b).count() as f64
}

pub(super) fn check(case: &Case, report: &mut Report) -> Result<(), Failure> {
    let file = SafeFile::open(&case.path("eight_bit.safetensors"))?;
    check_blocks(case, &file, report)?;
    check_rows(&file, report)?;
    check_layer(&file, report)
}

fn check_blocks(case: &Case, file: &SafeFile, report: &mut Report) -> Result<(), Failure> {
    for (map, name) in [(DynamicMap::Signed, "dynamic_signed"), (DynamicMap::Unsigned, "dynamic_unsigned")] {
        report.error("map", max_abs(map.values(), &file.f32(&format!("map/{name}"))?.1), 0.0);
    }
    let cases = case.json["cases"].as_object().ok_or_else(|| Failure("no cases".into()))?;
    for (name, c) in cases {
        let map = match c["map"].as_str() {
            Some("dynamic_signed") => DynamicMap::Signed,
            Some("dynamic_unsigned") => DynamicMap::Unsigned,
            other => return Err(Failure(format!("{name}: map {other:?}"))),
        };
        let block = c["blocksize"].as_u64().ok_or_else(|| Failure(format!("{name}: no blocksize")))? as usize;
        let (_, source) = file.f32(&format!("{name}/source"))?;
        let (mut codes, mut values) = (vec![0; source.len()], vec![0.0; source.len()]);
        let blocks = source.chunks(block).zip(codes.chunks_mut(block)).zip(values.chunks_mut(block));
        let scales: Vec<f32> = blocks
            .map(|((source, codes), values)| {
                let scale = map.encode(source, codes);
                map.decode(codes, scale, values);
                scale
            })
            .collect();
        report.error("codes", differing(&codes, &bytes(file, &format!("{name}/codes"))?), 0.0);
        report.error("absmax", max_abs(&scales, &file.f32(&format!("{name}/absmax"))?.1), 0.0);
        report.error("dequant", max_abs(&values, &file.f32(&format!("{name}/dequant"))?.1), 0.0);
    }
    Ok(())
}

fn check_rows(file: &SafeFile, report: &mut Report) -> Result<(), Failure> {
    let (shape, source) = file.f32("int8/source")?;
    let weight = quantize(&Threads::one(), &Weight::from_f32(shape[0], shape[1], &source), false)?;
    report.error("int8_codes", differing(rows(&weight)?.codes(), &bytes(file, "int8/codes")?), 0.0);
    report.error("int8_absmax", max_abs(rows(&weight)?.absmax(), &file.f32("int8/row_stats")?.1), 0.0);
    let mut values = vec![0.0; source.len()];
    weight.decode_flat(0, &mut values);
    report.error("int8_dequant", max_abs(&values, &file.f32("int8/dequant")?.1), 0.0);
    Ok(())
}

/// Training decodes the weight, whatever the threshold; inference of the reference rounds activations too.
fn check_layer(file: &SafeFile, report: &mut Report) -> Result<(), Failure> {
    let (shape, source) = file.f32("int8/source")?;
    let weight = quantize(&Threads::one(), &Weight::from_f32(shape[0], shape[1], &source), true)?;
    let (x_shape, x) = file.f32("int8_linear/input")?;
    for threshold in [0.0f32, 6.0] {
        let found = llm_int8(&x, rows(&weight)?, threshold);
        let want = file.f32(&format!("int8_linear/eval_thr{threshold}"))?.1;
        report.error("int8_linear_eval", max_abs(&found, &want), 1e-4);
        for (_, dev) in devices() {
            let input = dev.tensor(x_shape[0], x_shape[1], &x);
            let mut out: Tensor = dev.zeros(x_shape[0], shape[0]);
            let linear = Linear { weight: Matrix::Frozen(&weight), bias: None, branch: None };
            forward(dev.ctx(F32), &input, &[linear], &mut [&mut out], false)?;
            let want = file.f32(&format!("int8_linear/train_thr{threshold}"))?.1;
            report.error("int8_linear_train", max_abs(out.host_f32(), &want), 1e-4);
        }
    }
    Ok(())
}
