//! QLoRA of a base of LLaMA-65B's shape inside hard limits of the system: the base is larger than the memory.
//!
//! The weights are random NF4 codes, written straight as a folder in bitsandbytes' format (33 GiB, a file for each layer),
//! and removed afterwards. Before every run the pages of the files leave memory, as pages that another process has read
//! would not count against the limit.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use ferrotune::formats::quantized::bnb4;
use ferrotune::formats::safetensors::{Dtype, OutTensor, write};
use ferrotune_kernels::quant::Bytes;
use ferrotune_kernels::quant::dynamic8::DynamicMap;
use ferrotune_kernels::quant::nf4::{FourBit, FourBitKind, Scales};
use ferrotune_kernels::rng::Stream;
use serde_json::{Value, json};

use super::cases::Method;
use super::flops::Shape;
use super::limit::Limit;
use super::llama_shape::LLAMA_65B;
use super::work::{self, Workload};
use super::{Bench, RANK, cases, large, measured, ours};
use crate::golden::Failure;
use crate::shared::python::{number, output};

/// Free bytes that the folder, an adapter and its checkpoint need.
const ROOM: u64 = 42 << 30;

/// Steps of a run: the first is not counted.
const STEPS: usize = 2;

/// Hard limits, in GiB.
const LIMITS: [u64; 2] = [24, 8];

/// Random bytes that all weights are cut from.
const POOL: usize = 256 << 20;

const BLOCK: usize = 64;
const NESTED: usize = 256;

/// What a run of the large base gave.
pub(super) struct Streamed {
    /// The name by which it is chosen.
    pub(super) name: String,
    /// Median time of a step.
    pub(super) seconds: f64,
    /// Bytes that a step read from the disk.
    pub(super) read: f64,
    /// Bytes per second that the disk gives at best.
    pub(super) disk: f64,
    /// Share of the products' peak.
    pub(super) compute: f64,
    /// Largest resident memory, and what was predicted.
    pub(super) peak: f64,
    pub(super) planned: f64,
    /// The most that the group held, pages of files included.
    pub(super) held: Option<f64>,
    /// Losses of the steps.
    pub(super) losses: Vec<f64>,
}

/// A folder that is removed when it is dropped.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Bench {
    /// A run for each limit; the folder is made for them and removed.
    #[allow(clippy::print_stdout)]
    pub(super) fn huge(&self) -> Vec<(String, Result<Streamed, Failure>)> {
        let named = LIMITS.map(|gib| (gib, format!("qlora-65b-{gib}GiB")));
        let chosen: Vec<_> =
            named.into_iter().filter(|(_, name)| cases::wanted(&self.options, name)).collect();
        if !self.options.large || chosen.is_empty() {
            return Vec::new();
        }
        let base = match self.huge_base() {
            Ok(base) => base,
            Err(failure) => return vec![("qlora-65b".into(), Err(failure))],
        };
        let runs = chosen.into_iter().map(|(gib, name)| {
            let found = self.huge_run(&base.0, gib, &name);
            (name, found)
        });
        runs.collect()
    }

    #[allow(clippy::print_stdout)]
    fn huge_base(&self) -> Result<Temporary, Failure> {
        let free = free_bytes(&self.options.work)?;
        if free < ROOM {
            let gib = |bytes: u64| bytes >> 30;
            return Err(Failure(format!("{} GiB are free and {} are needed", gib(free), gib(ROOM))));
        }
        let folder = Temporary(self.options.work.join("llama-65b-nf4"));
        println!("writing a base of 33 GiB to {}", folder.0.display());
        write_base(&folder.0, &self.model)?;
        Ok(folder)
    }

    fn huge_run(&self, base: &Path, gib: u64, name: &str) -> Result<Streamed, Failure> {
        let rows = work::write(Workload::Short, base, STEPS, &self.options.work)?;
        let run = Temporary(self.run_folder()?);
        forget(base)?;
        let disk = disk_rate(base)?;
        forget(base)?;
        let mut settings = ours::settings("qlora", "bf16", Workload::Short, &rows, base, self.threads);
        settings.push(format!("train.memory={gib}GiB"));
        let mut command = self.ours.training(&run.0, &settings)?;
        command.args(["--isa", self.isa.name()]);
        let limit = Limit::new(gib << 30)?;
        let mut child = limit.run(&command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let io = format!("/proc/{}/io", child.id());
        let (mut read, mut steps, mut planned, mut last) = (Vec::new(), Vec::new(), 0.0, String::new());
        for line in BufReader::new(child.stderr.take().ok_or_else(|| Failure("no stderr".into()))?).lines() {
            last = line?;
            let Ok(event) = serde_json::from_str::<Value>(&last) else { continue };
            if event["event"] == "start" {
                planned = measured::planned(&event).0;
            } else if event["event"] == "step" {
                read.push(read_bytes(&io)?);
                steps.push(event);
            }
        }
        let out = child.wait_with_output()?;
        if !out.status.success() {
            return Err(Failure(format!("ferrotune train: {}: {last}", out.status)));
        }
        let done: Value = serde_json::from_slice(&out.stdout)?;
        let column = |key: &str| steps.iter().map(|s| number(s, key)).collect::<Result<Vec<f64>, _>>();
        let mut seconds = column("seconds")?.split_off(1);
        seconds.sort_by(f64::total_cmp);
        let seconds = seconds[seconds.len() / 2];
        let labels = column("label_tokens")?[0];
        let flops = Shape::open(base)?.flops(Method::Qlora, RANK, &rows.lengths[..1], labels);
        Ok(Streamed {
            name: name.into(),
            seconds,
            read: (read[read.len() - 1] - read[0]) / (read.len() - 1) as f64,
            disk,
            compute: flops / seconds / self.peak.of("bf16"),
            peak: number(&done, "peak_rss_bytes")?,
            planned,
            held: limit.peak(),
            losses: column("loss")?,
        })
    }
}

/// Bytes that a process has read from the disk so far.
fn read_bytes(io: &str) -> Result<f64, Failure> {
    let text = std::fs::read_to_string(io)?;
    let found = text.lines().find_map(|l| l.strip_prefix("read_bytes: ")).and_then(|n| n.parse().ok());
    found.ok_or_else(|| Failure("the system does not say what a process has read".into()))
}

/// Free bytes of the disk that a folder is on.
fn free_bytes(folder: &Path) -> Result<u64, Failure> {
    let text = output(Command::new("df").args(["-Pk"]).arg(folder))?;
    let field = text.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok());
    field.map(|kib| kib << 10).ok_or_else(|| Failure("df does not say how much is free".into()))
}

fn shards(base: &Path) -> Result<Vec<PathBuf>, Failure> {
    let all = std::fs::read_dir(base)?.flatten().map(|e| e.path());
    Ok(all.filter(|p| p.extension().is_some_and(|e| e == "safetensors")).collect())
}

/// Drops the pages of the base from memory.
fn forget(base: &Path) -> Result<(), Failure> {
    for shard in shards(base)? {
        let file = format!("if={}", shard.display());
        output(Command::new("dd").args([&file, "of=/dev/null", "iflag=nocache", "count=0", "status=none"]))?;
    }
    Ok(())
}

/// Bytes per second of reading some layers past the system's pages.
fn disk_rate(base: &Path) -> Result<f64, Failure> {
    let (mut bytes, start) = (0, Instant::now());
    for shard in shards(base)?.iter().take(8) {
        let file = format!("if={}", shard.display());
        output(Command::new("dd").args([&file, "of=/dev/null", "bs=16M", "iflag=direct", "status=none"]))?;
        bytes += shard.metadata()?.len();
    }
    Ok(bytes as f64 / start.elapsed().as_secs_f64())
}

/// Writes the folder, a file for each layer.
fn write_base(folder: &Path, tokenizer_of: &Path) -> Result<(), Failure> {
    let shape = LLAMA_65B;
    let mut config = shape.config();
    config["quantization_config"] = bnb4::quantization_config(FourBitKind::Nf4, true, "bfloat16", &[]);
    large::describe(folder, &config, tokenizer_of)?;
    let pool = random_bytes(POOL);
    let mut map = serde_json::Map::new();
    let mut keep = |file: &str, tensors: Vec<(String, OutTensor<'_>)>| -> Result<(), Failure> {
        write(&folder.join(file), &tensors)?;
        map.extend(tensors.iter().map(|(name, _)| (name.clone(), json!(file))));
        Ok(())
    };
    let ones = large::values("", &[shape.hidden]);
    for layer in 0..shape.layers {
        let linears = shape.linears(layer);
        let bits: Vec<FourBit> = linears
            .iter()
            .map(|(name, [rows, cols])| codes(&pool, name, rows * cols))
            .collect::<Result<_, _>>()?;
        let mut tensors: Vec<_> = linears
            .iter()
            .zip(&bits)
            .flat_map(|((name, [rows, cols]), bits)| bnb4::tensors(name, *rows, *cols, bits, "bfloat16"))
            .collect();
        let norm = |name: String| (name, OutTensor::bytes(Dtype::BF16, &[shape.hidden], &ones));
        tensors.extend(shape.norms(layer).map(norm));
        keep(&format!("layer-{layer:02}.safetensors"), tensors)?;
    }
    let outer = shape.outer().map(|(name, size)| {
        let of = name.clone();
        (name, OutTensor::lazy(Dtype::BF16, &size, move || large::values(&of, &size)))
    });
    let norm = ("model.norm.weight".to_string(), OutTensor::bytes(Dtype::BF16, &[shape.hidden], &ones));
    keep("outer.safetensors", outer.into_iter().chain([norm]).collect())?;
    let index = json!({"metadata": {}, "weight_map": map});
    let mut file = std::fs::File::create(folder.join("model.safetensors.index.json"))?;
    file.write_all(format!("{index:#}\n").as_bytes())?;
    // What is still to be written would slow the first run.
    output(&mut Command::new("sync"))?;
    Ok(())
}

fn random_bytes(count: usize) -> Arc<Vec<u8>> {
    let random = Stream::new(5, "65b", 0);
    Arc::new((0..count as u64 / 8).flat_map(|i| random.bits(i).to_le_bytes()).collect())
}

/// Random codes with scales of about 0.035, so that values have a deviation of about 0.02.
fn codes(pool: &Arc<Vec<u8>>, name: &str, len: usize) -> Result<FourBit, Failure> {
    let at = |what: &str, bytes: usize| {
        let start = Stream::new(7, name, 0).below(what.len() as u64, (pool.len() - bytes) as u64) as usize;
        Bytes::shared(pool.clone(), start..start + bytes)
    };
    let blocks = len.div_ceil(BLOCK);
    let scales = Scales::Nested {
        codes: at("absmax", blocks),
        absmax: vec![0.01; blocks.div_ceil(NESTED)].into(),
        map: Arc::new(*DynamicMap::Signed.values()),
        offset: 0.035,
        block: NESTED,
    };
    let kind = FourBitKind::Nf4;
    Ok(FourBit::new(kind, BLOCK, len, at("codes", len.div_ceil(2)), scales, *kind.code())?)
}

#[cfg(test)]
mod tests {
    use ferrotune_kernels::Weight;

    use super::*;

    #[test]
    fn random_codes_have_the_deviation_of_weights() {
        let bits = codes(&random_bytes(1 << 17), "a", 64 * 1024).map_err(|f| f.0);
        let weight = bits.and_then(|b| Weight::four_bit(64, 1024, b).map_err(|e| e.to_string()));
        let mut values = vec![0.0f32; 64 * 1024];
        if let Ok(weight) = &weight {
            weight.decode_flat(0, &mut values);
        }
        let deviation = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
        assert!(weight.is_ok() && (0.015..0.025).contains(&deviation), "{deviation}");
    }

    #[test]
    fn free_bytes_are_told() {
        assert!(free_bytes(Path::new(".")).is_ok_and(|bytes| bytes > 0));
    }
}
