//! From layers to the typed tree, and the checks that types alone do not make.

use super::layers::{Layers, Section, number};
use super::{
    DataOptions, EvalSource, MethodOptions, ModelOptions, OutputOptions, QuantOptions, RunConfig, Targets,
    TrainOptions,
};
use crate::error::{Error, Result};
use ferrotune_kernels::quant::nf4::BLOCKS;
use serde_json::Value;

pub(super) fn run(layers: Layers) -> Result<RunConfig> {
    let mut root = layers.root();
    let config = RunConfig {
        model: model(root.child("model")?)?,
        method: method(root.child("method")?)?,
        data: data(root.child("data")?)?,
        train: train(root.child("train")?)?,
        output: output(root.child("output")?)?,
    };
    root.finish()?;
    Ok(config)
}

fn model(mut s: Section) -> Result<ModelOptions> {
    let default = ModelOptions::default();
    let options = ModelOptions {
        base: s.text(&["base", "model_name_or_path"])?.unwrap_or(default.base),
        revision: s.text(&["revision"])?,
        dtype: s.choice(&["dtype", "torch_dtype"])?.unwrap_or(default.dtype),
    };
    s.finish()?;
    Ok(options)
}

fn method(mut s: Section) -> Result<MethodOptions> {
    let default = MethodOptions::default();
    let options = MethodOptions {
        kind: s.choice(&["kind"])?.unwrap_or(default.kind),
        rank: s.count(&["rank", "r"])?.unwrap_or(default.rank),
        alpha: s.number(&["alpha", "lora_alpha"])?.unwrap_or(default.alpha),
        dropout: s.number(&["dropout", "lora_dropout"])?.unwrap_or(default.dropout),
        targets: s
            .read(
                &["targets", "target_modules"],
                "all-linear, a list of names or a regular expression",
                targets,
            )?
            .unwrap_or(default.targets),
        rslora: s.flag(&["rslora", "use_rslora"])?.unwrap_or(default.rslora),
        init: s.choice(&["init", "init_lora_weights"])?.unwrap_or(default.init),
        quant: quant(s.child("quant")?)?,
    };
    s.finish()?;
    Ok(options)
}

fn targets(value: &Value) -> Option<Targets> {
    match value {
        Value::String(text) if text == "all-linear" => Some(Targets::AllLinear),
        Value::String(text) => Some(Targets::Regex(text.clone())),
        Value::Array(_) => texts(value).filter(|names| !names.is_empty()).map(Targets::Names),
        _ => None,
    }
}

fn quant(mut s: Section) -> Result<QuantOptions> {
    let default = QuantOptions::default();
    let options = QuantOptions {
        kind: s.choice(&["type", "bnb_4bit_quant_type"])?.unwrap_or(default.kind),
        double: s.flag(&["double", "bnb_4bit_use_double_quant"])?.unwrap_or(default.double),
        block: s.count(&["block", "blocksize"])?.unwrap_or(default.block),
    };
    s.finish()?;
    Ok(options)
}

fn data(mut s: Section) -> Result<DataOptions> {
    let default = DataOptions::default();
    let options = DataOptions {
        train: s.read(&["train"], "a file or a list of files", texts)?.unwrap_or(default.train),
        eval: s
            .read(&["eval"], "a share such as 5%, a file or a list of files", eval)?
            .unwrap_or(default.eval),
        format: s.choice(&["format"])?.unwrap_or(default.format),
        supervise: s.choice(&["supervise"])?.unwrap_or(default.supervise),
        max_length: s.count(&["max_length", "max_seq_length", "cutoff_len"])?.unwrap_or(default.max_length),
        packing: s.flag(&["packing"])?.unwrap_or(default.packing),
        shuffle: s.flag(&["shuffle"])?.unwrap_or(default.shuffle),
        truncation: s.choice(&["truncation", "truncation_mode"])?.unwrap_or(default.truncation),
        overlong: s.choice(&["overlong"])?.unwrap_or(default.overlong),
        system: s.text(&["system", "system_prompt"])?,
    };
    s.finish()?;
    Ok(options)
}

/// One text or a list of texts.
fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_string)).collect(),
        _ => None,
    }
}

fn eval(value: &Value) -> Option<EvalSource> {
    match value {
        Value::String(text) if text == "none" => Some(EvalSource::None),
        Value::String(text) => match text.trim().strip_suffix('%') {
            Some(share) => share.trim().parse().ok().map(|percent: f64| EvalSource::Share(percent / 100.0)),
            None if text.parse::<f64>().is_ok() => text.parse().ok().map(EvalSource::Share),
            None => Some(EvalSource::Files(vec![text.clone()])),
        },
        Value::Number(_) => {
            number(value).map(|n| if n == 0.0 { EvalSource::None } else { EvalSource::Share(n) })
        }
        Value::Bool(false) => Some(EvalSource::None),
        Value::Array(_) => texts(value).map(EvalSource::Files),
        _ => None,
    }
}

fn train(mut s: Section) -> Result<TrainOptions> {
    let default = TrainOptions::default();
    let options = TrainOptions {
        epochs: s.count(&["epochs", "num_train_epochs"])?.unwrap_or(default.epochs),
        max_steps: s.count(&["max_steps"])?,
        batch_tokens: s.count(&["batch_tokens"])?.unwrap_or(default.batch_tokens),
        batch_rows: s.count(&["batch_rows", "batch_size"])?,
        micro_batch_tokens: s.count(&["micro_batch_tokens"])?,
        lr: s.number(&["lr", "learning_rate"])?,
        schedule: s.choice(&["schedule", "lr_scheduler_type"])?.unwrap_or(default.schedule),
        warmup: s.number(&["warmup", "warmup_ratio", "warmup_steps"])?.unwrap_or(default.warmup),
        min_lr_ratio: s.number(&["min_lr_ratio"])?.unwrap_or(default.min_lr_ratio),
        optimizer: s.choice(&["optimizer", "optim"])?.unwrap_or(default.optimizer),
        betas: s.read(&["betas"], "two numbers", pair)?.unwrap_or(default.betas),
        eps: s.number(&["eps", "adam_epsilon"])?.unwrap_or(default.eps),
        weight_decay: s.number(&["weight_decay"])?.unwrap_or(default.weight_decay),
        max_grad_norm: s.number(&["max_grad_norm"])?.unwrap_or(default.max_grad_norm),
        loss_normalization: s.choice(&["loss_normalization"])?.unwrap_or(default.loss_normalization),
        seed: s.seed(&["seed"])?.unwrap_or(default.seed),
        precision: s.choice(&["precision"])?.unwrap_or(default.precision),
        threads: s.count(&["threads"])?,
        init_adapter: s.text(&["init_adapter"])?,
        eval_every: s.count(&["eval_every", "eval_steps"])?,
        log_every: s.count(&["log_every", "logging_steps"])?.unwrap_or(default.log_every),
        activations: s.choice(&["activations"])?.unwrap_or(default.activations),
        memory: s.read(&["memory"], "a number of bytes or a size such as 8GiB", bytes)?,
    };
    s.finish()?;
    Ok(options)
}

fn pair(value: &Value) -> Option<[f64; 2]> {
    match value.as_array()?.as_slice() {
        [a, b] => Some([number(a)?, number(b)?]),
        _ => None,
    }
}

/// `8GiB`, `500 MB`, `123456`.
fn bytes(value: &Value) -> Option<u64> {
    if let Some(n) = value.as_u64() {
        return Some(n);
    }
    let text = value.as_str()?.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let amount: f64 = text[..split].trim().parse().ok()?;
    let unit: f64 = match text[split..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1_048_576.0,
        "g" | "gib" => 1_073_741_824.0,
        "t" | "tib" => 1_099_511_627_776.0,
        _ => return None,
    };
    let total = amount * unit;
    (0.0..9e15).contains(&total).then_some(total as u64)
}

fn output(mut s: Section) -> Result<OutputOptions> {
    let default = OutputOptions::default();
    let options = OutputOptions {
        dir: s.text(&["dir", "output_dir"])?.unwrap_or(default.dir),
        checkpoint_every: s.count(&["checkpoint_every", "save_steps"])?,
        keep_checkpoints: s
            .count(&["keep_checkpoints", "save_total_limit"])?
            .unwrap_or(default.keep_checkpoints),
    };
    s.finish()?;
    Ok(options)
}

/// Checks every value that its type alone does not.
pub(super) fn validate(config: &RunConfig) -> Result<()> {
    let RunConfig { model, method, data, train, output } = config;
    if model.base.is_empty() {
        return Err(Error::config("model.base", "no model is named")
            .with_hint("a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct, a folder, or a .gguf file"));
    }
    let check = |ok: bool, key: &str, found: &dyn std::fmt::Display, expected: &str| {
        if ok { Ok(()) } else { Err(Error::config(key, format!("found {found}, expected {expected}"))) }
    };
    let share = |n: f64| (0.0..1.0).contains(&n);
    let positive = "at least 1";
    check(method.rank > 0, "method.rank", &method.rank, positive)?;
    check(method.alpha > 0.0, "method.alpha", &method.alpha, "a number above 0")?;
    check(share(method.dropout), "method.dropout", &method.dropout, "a share from 0 up to, but not, 1")?;
    method.targets.check()?;
    let block = method.quant.block;
    check(BLOCKS.contains(&block), "method.quant.block", &block, "a power of two from 64 to 4096")?;

    check(data.max_length > 1, "data.max_length", &data.max_length, "at least 2")?;
    if let EvalSource::Share(n) = data.eval {
        check(n > 0.0 && n < 1.0, "data.eval", &n, "a share between 0 and 1 (5% or 0.05)")?;
    }
    check(train.epochs > 0, "train.epochs", &train.epochs, positive)?;
    for (key, count) in [
        ("train.max_steps", train.max_steps),
        ("train.batch_tokens", Some(train.batch_tokens)),
        ("train.batch_rows", train.batch_rows),
        ("train.micro_batch_tokens", train.micro_batch_tokens),
        ("train.threads", train.threads),
        ("train.eval_every", train.eval_every),
        ("train.log_every", Some(train.log_every)),
        ("output.checkpoint_every", output.checkpoint_every),
        ("output.keep_checkpoints", Some(output.keep_checkpoints)),
    ] {
        check(count != Some(0), key, &0, positive)?;
    }
    for (key, value) in [
        ("train.lr", config.lr()),
        ("train.warmup", train.warmup),
        ("train.weight_decay", train.weight_decay),
        ("train.max_grad_norm", train.max_grad_norm),
    ] {
        check(value >= 0.0, key, &value, "a number that is not negative")?;
    }
    let whole_or_share = train.warmup < 1.0 || train.warmup.fract() == 0.0;
    check(whole_or_share, "train.warmup", &train.warmup, "a share below 1 or a whole number of steps")?;
    let ratio = train.min_lr_ratio;
    check((0.0..=1.0).contains(&ratio), "train.min_lr_ratio", &ratio, "a share from 0 to 1")?;
    for beta in train.betas {
        check(share(beta), "train.betas", &beta, "numbers from 0 up to, but not, 1")?;
    }
    check(train.eps > 0.0, "train.eps", &train.eps, "a number above 0")?;
    check(!output.dir.is_empty(), "output.dir", &"\"\"", "a folder")
}
