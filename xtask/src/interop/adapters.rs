//! Adapters and merged folders, both ways.
//!
//! Ours: trained a few steps and merged by the program; PEFT must hold exactly the tensors of the file, and its logits,
//! those of transformers on the merged folder, and ours must be the same. PEFT's: random adapters that we must read.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::ours::{Opened, Row, write_rows};
use super::python::{Answers, number};
use super::{Bench, Failure};
use crate::golden::{Report, logits_limit, max_abs};

/// Vocabulary of the models of `testdata/golden/models`.
const VOCAB: u32 = 320;
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

/// Adapters that PEFT makes: model, arguments of its `LoraConfig`.
fn made() -> Vec<(&'static str, &'static str, Value)> {
    let all = json!("all-linear");
    let qv = json!(["q_proj", "v_proj"]);
    vec![
        ("lora", "llama3_rope", json!({"target_modules": all})),
        ("dora", "qwen2", json!({"target_modules": all, "use_dora": true})),
        (
            "rslora_patterns",
            "gemma2",
            json!({
                "target_modules": all, "use_rslora": true, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3},
            }),
        ),
        ("modules_to_save", "llama3_rope", json!({"target_modules": qv, "modules_to_save": ["lm_head"]})),
        ("embedding", "llama3_rope", json!({"target_modules": ["embed_tokens", "q_proj"]})),
        ("lora_bias", "qwen2", json!({"target_modules": qv, "lora_bias": true})),
        ("bias_all", "qwen2", json!({"target_modules": qv, "bias": "all"})),
        ("tokens", "llama_tied", json!({"target_modules": qv, "trainable_token_indices": [7, 8, 60]})),
    ]
}

/// An adapter of ours on disk, with our own numbers.
struct Trained {
    name: String,
    model: PathBuf,
    adapter: PathBuf,
    merged: PathBuf,
    loss: f64,
    logits: Vec<Vec<f32>>,
}

impl Bench {
    fn golden_model(&self, name: &str) -> PathBuf {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/golden/models");
        folder.join(name).join("model")
    }

    /// Trains a few steps at a rate that moves every part, merges, evaluates.
    fn train_variant(
        &self,
        v: &Variant,
        folder: &Path,
        rows: &Path,
        data: &[Row],
    ) -> Result<Trained, Failure> {
        let name = format!("{}/{}", v.name, v.model);
        let run = folder.join(format!("{}-{}", v.name, v.model));
        let model = self.golden_model(v.model);
        let mut settings = vec![
            format!("model.base={}", json!(model)),
            format!("data.train={}", json!(rows)),
            "method.rank=4".into(),
            "method.alpha=8".into(),
            "train.lr=5e-3".into(),
            "train.batch_rows=4".into(),
            "train.max_steps=4".into(),
        ];
        settings.extend(v.method.iter().map(|m| format!("method.{m}")));
        self.ours.train(&run, &settings)?;
        let adapter = if v.converted { run.join("adapter_converted") } else { run.clone() };
        let merged = run.join("merged");
        let text = [&adapter, &merged, &model].map(|p| p.display().to_string());
        self.ours.run(&["merge", &text[0], "--output", &text[1], "--base", &text[2], "--dtype", "f32"])?;
        let loss = self.ours.eval(&model, Some(&adapter), rows)?;
        let logits = self.ours.open(&model)?.logits(Some(&adapter), data)?;
        Ok(Trained { name, model, adapter, merged, loss, logits })
    }
}

/// Logits of one side against those of a tensor group of the script.
fn compare(
    report: &mut Report,
    kind: &str,
    answers: &Answers,
    group: &str,
    ours: &[Vec<f32>],
) -> Result<(), Failure> {
    for (i, found) in ours.iter().enumerate() {
        let wanted = answers.tensor(&format!("{group}/{i}"))?;
        report.error(kind, max_abs(found, &wanted), logits_limit(&wanted).max(2e-5));
    }
    Ok(())
}

fn check_read(t: &Trained, answers: &Answers, report: &mut Report) -> Result<(), Failure> {
    let result = answers.of(&t.name)?;
    let keys = |kind: &str| result[kind].as_array().map_or(f64::INFINITY, |a| a.len() as f64);
    report.error("missing_keys", keys("missing"), 0.0);
    report.error("unexpected_keys", keys("unexpected"), 0.0);
    report.error("changed_values", keys("changed"), 0.0);
    compare(report, "logits", answers, &format!("{}/peft", t.name), &t.logits)?;
    for i in 0..t.logits.len() {
        let wanted = answers.tensor(&format!("{}/peft/{i}", t.name))?;
        let found = answers.tensor(&format!("{}/merged/{i}", t.name))?;
        report.error("merged_logits", max_abs(&found, &wanted), logits_limit(&wanted).max(2e-5));
    }
    report.error("loss", (t.loss - number(result, "loss")?).abs(), LOSS_LIMIT);
    Ok(())
}

pub(super) fn check(bench: &Bench, print: &mut dyn FnMut(Report)) -> Result<(), Failure> {
    let folder = bench.folder("adapters")?;
    let data: Vec<Row> =
        [28, 19, 33, 24].iter().zip(1..).map(|(n, seed)| Row::random(seed, VOCAB, *n)).collect();
    let rows = folder.join("rows.jsonl");
    write_rows(&rows, &data)?;
    let variants = if bench.options.quick { &VARIANTS[..QUICK] } else { &VARIANTS[..] };
    let mut trained = Vec::new();
    for v in variants {
        match bench.train_variant(v, &folder, &rows, &data) {
            Ok(t) => trained.push(t),
            Err(failure) => print(Report::failed(format!("adapter {}/{}", v.name, v.model), failure)),
        }
    }
    let made: Vec<_> = made()
        .into_iter()
        .map(|(name, model, arguments)| {
            let name = format!("{name}/{model}");
            (
                format!("made/{name}"),
                bench.golden_model(model),
                folder.join(name.replace('/', "-peft-")),
                arguments,
            )
        })
        .collect();
    let read =
        |t: &Trained| json!({"name": t.name, "base": t.model, "adapter": t.adapter, "merged": t.merged});
    let make = |(name, model, to, arguments): &(String, PathBuf, PathBuf, Value)| json!({"name": name, "base": model, "folder": to, "arguments": arguments});
    let job = json!({
        "out": folder, "rows": rows, "planted": bench.options.plant,
        "read": trained.iter().map(read).collect::<Vec<_>>(), "make": made.iter().map(make).collect::<Vec<_>>(),
    });
    let answers = bench.python.run("adapters.py", &folder, &job)?;
    for t in &trained {
        let mut report = Report::new(format!("adapter {}", t.name));
        let outcome = check_read(t, &answers, &mut report);
        print(report.with(outcome));
    }
    for (name, model, adapter, _) in &made {
        let mut report = Report::new(format!("adapter {name}"));
        let mut read = || {
            let result = answers.of(name)?;
            let opened: Opened<'_> = bench.ours.open(model)?;
            compare(
                &mut report,
                "logits",
                &answers,
                &format!("{name}/peft"),
                &opened.logits(Some(adapter), &data)?,
            )?;
            let loss = bench.ours.eval(model, Some(adapter), &rows)?;
            report.error("loss", (loss - number(result, "loss")?).abs(), LOSS_LIMIT);
            Ok(())
        };
        let outcome = read();
        print(report.with(outcome));
    }
    Ok(())
}
