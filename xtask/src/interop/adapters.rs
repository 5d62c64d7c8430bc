//! Adapters and merged folders, both ways.
//!
//! Ours: trained a few steps and merged by the program; PEFT must hold exactly the tensors of the file, and its logits,
//! those of transformers on the merged folder, and ours must be the same. PEFT's: random adapters that we must read.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Bench, Failure};
use crate::golden::{Report, logits_limit, max_abs};
use crate::shared::ours::Opened;
use crate::shared::python::{Answers, number};
use crate::shared::rows::{Row, write_rows};

/// Vocabulary of the models of `testdata/golden/models`.
const VOCAB: u32 = 320;
/// Tokens of the rows.
const LENGTHS: [usize; 4] = [28, 19, 33, 24];
/// The program and PEFT sum in another order.
const LOSS_LIMIT: f64 = 1e-5;

/// An adapter of ours: what the run file says of it.
struct Variant {
    name: &'static str,
    model: &'static str,
    method: &'static [&'static str],
    /// Read as a plain LoRA, which the run wrote as well.
    converted: bool,
}

const fn variant(name: &'static str, model: &'static str, method: &'static [&'static str]) -> Variant {
    Variant { name, model, method, converted: false }
}

const fn converted(name: &'static str, model: &'static str, method: &'static [&'static str]) -> Variant {
    Variant { name, model, method, converted: true }
}

const QV: &str = "targets=[q_proj, v_proj]";

const VARIANTS: [Variant; 28] = [
    variant("lora", "llama3_rope", &[]),
    variant("rslora", "qwen2", &["rslora=true"]),
    variant("dora", "llama3_rope", &["dora=true"]),
    variant(
        "patterns",
        "llama3_rope",
        &["rank_pattern={q_proj: 2, 1.mlp.down_proj: 6}", "alpha_pattern={v_proj: 3}"],
    ),
    variant("modules_to_save", "llama3_rope", &[QV, "modules_to_save=[lm_head]"]),
    variant("lora_embedding", "llama3_rope", &["targets=[embed_tokens, q_proj]"]),
    variant("bias_all", "qwen2", &[QV, "bias=all"]),
    variant("bias_lora_only", "starcoder2", &["targets=[q_proj, c_fc]", "bias=lora_only"]),
    variant("lora_bias", "qwen2", &[QV, "lora_bias=true"]),
    variant("trainable_tokens", "llama3_rope", &[QV, "trainable_tokens=[7, 8, 60]"]),
    converted("pissa_converted", "llama3_rope", &[QV, "init=pissa"]),
    converted("olora_converted", "llama3_rope", &[QV, "init=olora"]),
    variant("lora", "gemma2", &[]),
    variant("lora", "phi3", &[]),
    // What follows is left out of a quick run.
    variant("pissa", "llama3_rope", &[QV, "init=pissa"]),
    variant("olora", "llama3_rope", &[QV, "init=olora"]),
    variant("dora_rslora_phi3", "phi3", &["dora=true", "rslora=true"]),
    variant("regex_layers", "qwen3", &["targets=.*\\.(q_proj|up_proj)", "exclude=.*layers\\.0.*up_proj"]),
    variant("layers", "mistral", &["layers_to_transform=[1]"]),
    variant("tied_tokens", "llama_tied", &[QV, "trainable_tokens=[7, 8, 60]"]),
    variant("tied_embedding", "llama_tied", &["targets=[embed_tokens, q_proj]"]),
    variant("lora", "gemma3_text", &[]),
    variant("lora", "smollm3", &[]),
    variant("lora", "olmo2", &[]),
    variant("lora", "granite", &[]),
    variant("lora", "stablelm", &[]),
    variant("lora", "llama_yarn", &[]),
    variant("lora", "phi3_short", &[]),
];
const QUICK: usize = 14;

/// An adapter that PEFT makes.
struct Made {
    name: String,
    model: PathBuf,
    adapter: PathBuf,
    /// Of its `LoraConfig`.
    arguments: Value,
}

fn made(bench: &Bench, folder: &Path) -> Vec<Made> {
    let (all, qv) = (json!("all-linear"), json!(["q_proj", "v_proj"]));
    let patterns = json!({
        "target_modules": all, "use_rslora": true, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3},
    });
    let cases = [
        ("lora", "llama3_rope", json!({"target_modules": all})),
        ("dora", "qwen2", json!({"target_modules": all, "use_dora": true})),
        ("rslora_patterns", "gemma2", patterns),
        ("modules_to_save", "llama3_rope", json!({"target_modules": qv, "modules_to_save": ["lm_head"]})),
        ("embedding", "llama3_rope", json!({"target_modules": ["embed_tokens", "q_proj"]})),
        ("lora_bias", "qwen2", json!({"target_modules": qv, "lora_bias": true})),
        ("bias_all", "qwen2", json!({"target_modules": qv, "bias": "all"})),
        ("tokens", "llama_tied", json!({"target_modules": qv, "trainable_token_indices": [7, 8, 60]})),
    ];
    let made = |(name, model, arguments): (&str, &str, Value)| Made {
        name: format!("made_by_peft_{name}/{model}"),
        model: bench.golden_model(model),
        adapter: folder.join(format!("peft-{name}-{model}")),
        arguments,
    };
    cases.into_iter().map(made).collect()
}

/// The rows of all cases, and the folder for everything.
struct Data {
    folder: PathBuf,
    file: PathBuf,
    rows: Vec<Row>,
}

/// An adapter of ours on disk, with our own numbers.
struct Measured {
    name: String,
    model: PathBuf,
    adapter: PathBuf,
    merged: PathBuf,
    loss: f64,
    logits: Vec<f32>,
}

impl Bench {
    fn golden_model(&self, name: &str) -> PathBuf {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/golden/models");
        folder.join(name).join("model")
    }

    /// Trains a few steps at a rate that moves every part; the run folder.
    fn train_small(&self, rows: &Path, model: &Path, run: &Path, method: &[&str]) -> Result<(), Failure> {
        let mut settings = vec![
            format!("model.base={}", json!(model)),
            format!("data.train={}", json!(rows)),
            "method.rank=4".into(),
            "method.alpha=8".into(),
            "train.lr=5e-3".into(),
            "train.batch_rows=4".into(),
            "train.max_steps=4".into(),
            "train.precision=f32".into(),
        ];
        settings.extend(method.iter().map(|m| format!("method.{m}")));
        self.ours.train(run, &settings)?;
        Ok(())
    }

    /// Merges an adapter, evaluates it.
    fn measure(
        &self,
        data: &Data,
        name: &str,
        model: PathBuf,
        adapter: PathBuf,
    ) -> Result<Measured, Failure> {
        let merged = adapter.join("merged");
        let text = [&adapter, &merged, &model].map(|p| p.display().to_string());
        self.ours.run(&["merge", &text[0], "--output", &text[1], "--base", &text[2], "--dtype", "f32"])?;
        let loss = self.ours.eval(&model, Some(&adapter), &data.file)?;
        let opened = self.ours.open(&model)?;
        let logits = opened.logits(Some(&adapter), &data.rows)?;
        // Agreement over an adapter that does nothing would prove nothing.
        if max_abs(&logits, &opened.logits(None, &data.rows)?) < 0.01 {
            return Err(Failure("the adapter hardly changes the logits".into()));
        }
        Ok(Measured { name: name.into(), model, adapter, merged, loss, logits })
    }

    fn train_variant(&self, v: &Variant, data: &Data) -> Result<Measured, Failure> {
        let run = data.folder.join(format!("{}-{}", v.name, v.model));
        let model = self.golden_model(v.model);
        self.train_small(&data.file, &model, &run, v.method)?;
        let adapter = if v.converted { run.join("adapter_converted") } else { run };
        self.measure(data, &format!("{}/{}", v.name, v.model), model, adapter)
    }

    /// One adapter of two by `combine`.
    fn combine(&self, data: &Data, name: &str, model: &str, parts: [&str; 2]) -> Result<Measured, Failure> {
        let output = data.folder.join(name);
        let text = [&data.folder.join(parts[0]), &data.folder.join(parts[1]), &output];
        let text = text.map(|p| p.display().to_string());
        self.ours.run(&["combine", &text[0], &text[1], "--output", &text[2], "--weights", "0.7,0.6"])?;
        self.measure(data, &format!("{name}/{model}"), self.golden_model(model), output)
    }
}

/// Logits against the reference's.
fn compare(report: &mut Report, kind: &str, found: &[f32], wanted: &[f32]) {
    report.error(kind, max_abs(found, wanted), logits_limit(wanted));
}

fn check_read(t: &Measured, answers: &Answers, report: &mut Report) -> Result<(), Failure> {
    let result = answers.of(&t.name)?;
    let keys = |kind: &str| result[kind].as_array().map_or(f64::INFINITY, |a| a.len() as f64);
    report.error("missing_keys", keys("missing"), 0.0);
    report.error("unexpected_keys", keys("unexpected"), 0.0);
    report.error("changed_values", keys("changed"), 0.0);
    let group = |side: &str| answers.rows(&format!("{}/{side}", t.name), LENGTHS.len());
    let wanted = group("peft")?;
    compare(report, "logits", &t.logits, &wanted);
    compare(report, "merged_logits", &group("merged")?, &wanted);
    report.error("loss", (t.loss - number(result, "loss")?).abs(), LOSS_LIMIT);
    Ok(())
}

/// A model trained whole: transformers reads the run folder.
fn check_full(
    bench: &Bench,
    data: &Data,
    name: &str,
    answers: &Answers,
    report: &mut Report,
) -> Result<(), Failure> {
    let folder = data.folder.join(name);
    let result = answers.of(name)?;
    let found = bench.ours.open(&folder)?.logits(None, &data.rows)?;
    compare(report, "logits", &found, &answers.rows(name, LENGTHS.len())?);
    let loss = bench.ours.eval(&folder, None, &data.file)?;
    report.error("loss", (loss - number(result, "loss")?).abs(), LOSS_LIMIT);
    Ok(())
}

/// An adapter that PEFT made.
fn check_made(
    bench: &Bench,
    data: &Data,
    made: &Made,
    answers: &Answers,
    report: &mut Report,
) -> Result<(), Failure> {
    let result = answers.of(&made.name)?;
    let opened: Opened<'_> = bench.ours.open(&made.model)?;
    let wanted = answers.rows(&made.name, LENGTHS.len())?;
    compare(report, "logits", &opened.logits(Some(&made.adapter), &data.rows)?, &wanted);
    let loss = bench.ours.eval(&made.model, Some(&made.adapter), &data.file)?;
    report.error("loss", (loss - number(result, "loss")?).abs(), LOSS_LIMIT);
    Ok(())
}

pub(super) fn check(bench: &Bench, print: &mut dyn FnMut(Report)) -> Result<(), Failure> {
    let folder = bench.folder("adapters")?;
    let rows: Vec<Row> = LENGTHS.iter().zip(1..).map(|(n, seed)| Row::random(seed, VOCAB, *n)).collect();
    let data = Data { file: folder.join("rows.jsonl"), rows, folder };
    write_rows(&data.file, &data.rows)?;

    let variants = if bench.options.quick { &VARIANTS[..QUICK] } else { &VARIANTS[..] };
    let mut measured = Vec::new();
    let ours = variants.iter().map(|v| (v.name, v.model, bench.train_variant(v, &data)));
    let parts = ["lora-llama3_rope", "patterns-llama3_rope"];
    let combined = std::iter::once_with(|| {
        ("combined", "llama3_rope", bench.combine(&data, "combined", "llama3_rope", parts))
    });
    for (name, model, outcome) in ours.chain(combined) {
        match outcome {
            Ok(m) => measured.push(m),
            Err(failure) => print(Report::failed(format!("adapter {name}/{model}"), failure)),
        }
    }
    let full = ["full-llama3_rope", "full-gemma2"];
    for (name, model) in full.iter().zip(["llama3_rope", "gemma2"]) {
        bench.train_small(&data.file, &bench.golden_model(model), &data.folder.join(name), &["kind=full"])?;
    }
    let made = made(bench, &data.folder);
    let read =
        |m: &Measured| json!({"name": m.name, "base": m.model, "adapter": m.adapter, "merged": m.merged});
    let whole = |name: &&str| json!({"name": name, "folder": data.folder.join(name)});
    let make =
        |m: &Made| json!({"name": m.name, "base": m.model, "folder": m.adapter, "arguments": m.arguments});
    let job = json!({
        "out": data.folder, "rows": data.file, "planted": bench.options.plant,
        "read": measured.iter().map(read).collect::<Vec<_>>(),
        "full": full.iter().map(whole).collect::<Vec<_>>(),
        "make": made.iter().map(make).collect::<Vec<_>>(),
    });
    let answers = bench.python.run("interop/adapters.py", &data.folder, &job)?;
    for m in &measured {
        let mut report = Report::new(format!("adapter {}", m.name));
        let outcome = check_read(m, &answers, &mut report);
        print(report.with(outcome));
    }
    for name in full {
        let mut report = Report::new(format!("model {name}"));
        let outcome = check_full(bench, &data, name, &answers, &mut report);
        print(report.with(outcome));
    }
    for m in &made {
        let mut report = Report::new(format!("adapter {}", m.name));
        let outcome = check_made(bench, &data, m, &answers, &mut report);
        print(report.with(outcome));
    }
    Ok(())
}
