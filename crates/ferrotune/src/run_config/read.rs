//! From layers to the typed tree, and the checks that types alone do not make.

use super::layers::{Layers, Section, number, whole};
use super::{
    DataOptions, EvalSource, FloatKind, LoraInit, MethodKind, MethodOptions, ModelOptions, OptimizerKind,
    OutputOptions, QuantOptions, RunConfig, TableKind, Targets, TrainOptions, WeightKind,
};
use crate::error::{Error, Result};
use ferrotune_kernels::quant::nf4::BLOCKS;
use serde_json::Value;

pub(super) fn run(layers: Layers) -> Result<RunConfig> {
    let mut root = layers.root();
    let model = model(root.child("model")?)?;
    let (method, stated) = method(root.child("method")?)?;
    let config = RunConfig {
        model,
        method,
        stated,
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
        embeddings: s.choice(&["embeddings"])?.unwrap_or(default.embeddings),
        cache: s.flag(&["cache"])?.unwrap_or(default.cache),
        cache_limit: s
            .read(&["cache_limit"], "a number of bytes or a size such as 8GiB", bytes)?
            .unwrap_or(default.cache_limit),
    };
    s.finish()?;
    Ok(options)
}

/// The section with the keys of it that were stated.
fn method(mut s: Section) -> Result<(MethodOptions, Vec<&'static str>)> {
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
        loftq_iterations: s.count(&["loftq_iterations", "loftq_iter"])?.unwrap_or(default.loftq_iterations),
        dora: s.flag(&["dora", "use_dora"])?.unwrap_or(default.dora),
        lora_bias: s.flag(&["lora_bias"])?.unwrap_or(default.lora_bias),
        bias: s.choice(&["bias"])?.unwrap_or(default.bias),
        exclude: s.read(
            &["exclude", "exclude_modules"],
            "a list of names or a regular expression",
            targets,
        )?,
        layers_to_transform: s.read(
            &["layers_to_transform", "layers"],
            "a layer or a list of layers",
            |v| one_or_many(v, |v| whole(v).and_then(|n| usize::try_from(n).ok())),
        )?,
        layers_pattern: s
            .read(&["layers_pattern"], "a name or a list of names", texts)?
            .unwrap_or(default.layers_pattern),
        rank_pattern: s
            .read(&["rank_pattern"], "a mapping from patterns to ranks", |v| {
                mapping(v, |v| whole(v).and_then(|n| usize::try_from(n).ok()))
            })?
            .unwrap_or(default.rank_pattern),
        alpha_pattern: s
            .read(&["alpha_pattern"], "a mapping from patterns to numbers", |v| mapping(v, number))?
            .unwrap_or(default.alpha_pattern),
        target_parameters: s
            .read(&["target_parameters"], "a name or a list of names", texts)?
            .unwrap_or(default.target_parameters),
        modules_to_save: s
            .read(&["modules_to_save"], "a name or a list of names", texts)?
            .unwrap_or(default.modules_to_save),
        trainable_tokens: s
            .read(&["trainable_tokens", "trainable_token_indices"], "a list of token ids", |v| {
                one_or_many(v, |v| whole(v).and_then(|n| u32::try_from(n).ok()))
            })?
            .unwrap_or(default.trainable_tokens),
        loraplus_lr_ratio: s.number(&["loraplus_lr_ratio"])?,
        loraplus_lr_embedding: s.number(&["loraplus_lr_embedding"])?.unwrap_or(default.loraplus_lr_embedding),
        quant: quant(s.child("quant")?)?,
    };
    let stated = s.stated();
    s.finish()?;
    Ok((options, stated))
}

fn one_or_many<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    match value {
        Value::Array(items) => items.iter().map(read).collect(),
        one => Some(vec![read(one)?]),
    }
}

/// A mapping in the order it is written.
fn mapping<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<(String, T)>> {
    value.as_object()?.iter().map(|(key, v)| Some((key.clone(), read(v)?))).collect()
}

fn targets(value: &Value) -> Option<Targets> {
    match value {
        Value::String(text) if text == "all-linear" => Some(Targets::AllLinear),
        Value::String(text) => Some(Targets::Regex(text.clone())),
        Value::Array(_) => texts(value).map(Targets::Names),
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
        share_prefixes: s.flag(&["share_prefixes"])?.unwrap_or(default.share_prefixes),
        shuffle: s.flag(&["shuffle"])?.unwrap_or(default.shuffle),
        truncation: s.choice(&["truncation", "truncation_mode"])?.unwrap_or(default.truncation),
        overlong: s.choice(&["overlong"])?.unwrap_or(default.overlong),
        bad_rows: s.choice(&["bad_rows"])?.unwrap_or(default.bad_rows),
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
        warmup_from_zero: s.flag(&["warmup_from_zero"])?.unwrap_or(default.warmup_from_zero),
        min_lr_ratio: s.number(&["min_lr_ratio"])?.unwrap_or(default.min_lr_ratio),
        optimizer: s.choice(&["optimizer", "optim"])?.unwrap_or(default.optimizer),
        weights: s.choice(&["weights"])?.unwrap_or(default.weights),
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
        activation_storage: s.choice(&["activation_storage"])?.unwrap_or(default.activation_storage),
        stream: s.choice(&["stream"])?.unwrap_or(default.stream),
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
    let RunConfig { model, method, data, train, output, .. } = config;
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
    method.targets.check("method.targets")?;
    // Stacked weights of experts may be all that is targeted.
    let nothing = method.targets == Targets::Names(Vec::new()) && method.target_parameters.is_empty();
    check(!nothing, "method.targets", &"a list", "all-linear, names, or a regular expression")?;
    if let Some(exclude) = &method.exclude {
        exclude.check("method.exclude")?;
    }
    let iterations = method.loftq_iterations;
    check(iterations > 0, "method.loftq_iterations", &iterations, positive)?;
    for (pattern, rank) in &method.rank_pattern {
        check(*rank > 0, &format!("method.rank_pattern.{pattern}"), rank, positive)?;
    }
    for (pattern, alpha) in &method.alpha_pattern {
        check(*alpha > 0.0, &format!("method.alpha_pattern.{pattern}"), alpha, "a number above 0")?;
    }
    if let Some(ratio) = method.loraplus_lr_ratio {
        check(ratio > 0.0, "method.loraplus_lr_ratio", &ratio, "a number above 0")?;
    }
    let embedding = method.loraplus_lr_embedding;
    check(embedding >= 0.0, "method.loraplus_lr_embedding", &embedding, "a number that is not negative")?;
    if method.kind == MethodKind::Qlora && matches!(method.init, LoraInit::Pissa | LoraInit::Olora) {
        return Err(Error::config("method.init", format!("`{}` needs weights in floats", method.init))
            .with_hint("use method.kind: lora, or method.init: loftq, which quantizes by itself"));
    }
    if method.kind == MethodKind::Full && model.embeddings != TableKind::Auto {
        return Err(Error::config("model.embeddings", format!("`{}` with `full`", model.embeddings))
            .with_hint("full fine-tuning trains embedding and head, as all else; leave the key out"));
    }
    if train.weights == WeightKind::Bf16 {
        let refuse = |key: &str, found: String, hint: &str| {
            Err(Error::config(key, format!("{found} with train.weights: bf16")).with_hint(hint))
        };
        if method.kind != MethodKind::Full {
            let hint =
                "it is for method.kind: full; the form of a frozen base is method.quant or model.dtype";
            return refuse("method.kind", format!("`{}`", method.kind), hint);
        }
        if train.optimizer != OptimizerKind::PagedAdamw {
            let hint = "use train.optimizer: paged_adamw, which keeps the f32 values in a file";
            return refuse("train.optimizer", format!("`{}`", train.optimizer), hint);
        }
        if train.precision == FloatKind::F32 {
            return refuse("train.precision", "`f32`".into(), "use train.precision: bf16");
        }
    }
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
    check(config.lr() > 0.0, "train.lr", &config.lr(), "a number above 0")?;
    for (key, value) in [
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
