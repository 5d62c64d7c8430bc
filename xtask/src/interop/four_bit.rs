//! 4-bit folders of `ferrotune quantize`: transformers and bitsandbytes load them, decode the same values, give our logits.

use std::path::{Path, PathBuf};

use ferrotune::merge::merged_weight;
use serde_json::{Value, json};

use super::{Bench, Failure};
use crate::golden::{Report, logits_limit, max_abs};
use crate::shared::python::{Answers, number};
use crate::shared::rows::{Row, write_rows};

/// A folder: name, model, options of `quantize`.
struct Folder {
    name: &'static str,
    model: &'static str,
    options: &'static [&'static str],
}

const fn folder(name: &'static str, model: &'static str, options: &'static [&'static str]) -> Folder {
    Folder { name, model, options }
}

/// The model that the program carries: rows of 128 and 384 values, whole blocks of 64 and 128.
const TINY: &str = "../crates/ferrotune-cli/builtin";

const FOLDERS: [Folder; 12] = [
    folder("nf4_double", TINY, &["--dtype", "f32"]),
    folder("nf4", TINY, &["--dtype", "f32", "--no-double"]),
    folder("nf4_double_128", TINY, &["--dtype", "f32", "--block", "128"]),
    folder("nf4_128", TINY, &["--dtype", "f32", "--no-double", "--block", "128"]),
    folder("nf4_double_256", TINY, &["--dtype", "f32", "--block", "256"]),
    folder("fp4_double", TINY, &["--dtype", "f32", "--type", "fp4"]),
    folder("fp4", TINY, &["--dtype", "f32", "--type", "fp4", "--no-double"]),
    folder("fp4_double_128", TINY, &["--dtype", "f32", "--type", "fp4", "--block", "128"]),
    folder("fp4_256", TINY, &["--dtype", "f32", "--type", "fp4", "--block", "256", "--no-double"]),
    folder("nf4_qwen2", "../testdata/golden/models/qwen2/model", &[]),
    folder("nf4_phi3", "../testdata/golden/models/phi3/model", &[]),
    folder("nf4_gemma2", "../testdata/golden/models/gemma2/model", &[]),
];

/// A folder on disk with the rows on which it is compared.
struct Written<'a> {
    folder: &'a Folder,
    path: PathBuf,
    data: Vec<Row>,
    rows: PathBuf,
}

fn write<'a>(bench: &Bench, folder: &'a Folder, work: &Path) -> Result<Written<'a>, Failure> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder.model);
    let path = work.join(folder.name);
    let text = [&source, &path].map(|p| p.display().to_string());
    let mut arguments = vec!["quantize", &text[0], "--output", &text[1]];
    arguments.extend(folder.options);
    bench.ours.run(&arguments)?;
    let config: Value = serde_json::from_slice(&std::fs::read(path.join("config.json"))?)?;
    let vocab = number(&config, "vocab_size")? as u32;
    let data = vec![Row::random(11, vocab, 40), Row::random(12, vocab, 23)];
    let rows = work.join(format!("{}.jsonl", folder.name));
    write_rows(&rows, &data)?;
    Ok(Written { folder, path, data, rows })
}

fn check_folder(
    bench: &Bench,
    w: &Written<'_>,
    answers: &Answers,
    report: &mut Report,
) -> Result<(), Failure> {
    let name = w.folder.name;
    let result = answers.of(name)?;
    let asked = |option: &str| w.folder.options.iter().skip_while(|o| **o != option).nth(1).copied();
    let described = result["kind"] == asked("--type").unwrap_or("nf4")
        && result["block"].as_u64() == asked("--block").unwrap_or("64").parse().ok()
        && result["double"] != w.folder.options.contains(&"--no-double");
    report.error("described", !described as u8 as f64, 0.0);

    let opened = bench.ours.open(&w.path)?;
    let mut compared = 0.0;
    for linear in opened.model.linears() {
        // Fused weights and heads that stay floats have another name or none there.
        let Ok(wanted) = answers.tensor(&format!("{name}/weight/{}", linear.name)) else { continue };
        let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let found = merged_weight(linear, None);
        let differ = bits(&found).iter().zip(bits(&wanted)).filter(|(a, b)| *a != b).count();
        report.error("weights", if found.len() == wanted.len() { differ as f64 } else { f64::INFINITY }, 0.0);
        compared += 1.0;
    }
    report.error("linears", (number(result, "linears")? - compared).abs(), 0.0);

    let logits = opened.logits(None, &w.data)?;
    let mut groups = vec![("logits", "plain")];
    if result["whole"] == true {
        groups.push(("own_kernel_logits", "own"));
    }
    for (kind, group) in groups {
        let wanted = answers.rows(&format!("{name}/{group}"), w.data.len())?;
        report.error(kind, max_abs(&logits, &wanted), logits_limit(&wanted));
    }
    if result["whole"] == true {
        report.error("own_kernel_weights", number(result, "own_decode")?, 0.0);
    }
    let loss = bench.ours.eval(&w.path, None, &w.rows)?;
    report.error("loss", (loss - number(result, "loss")?).abs(), 1e-5);
    Ok(())
}

pub(super) fn check(bench: &Bench, print: &mut dyn FnMut(Report)) -> Result<(), Failure> {
    let work = bench.folder("four_bit")?;
    let mut written = Vec::new();
    for folder in &FOLDERS {
        match write(bench, folder, &work) {
            Ok(w) => written.push(w),
            Err(failure) => print(Report::failed(format!("four_bit {}", folder.name), failure)),
        }
    }
    let case = |w: &Written<'_>| json!({"name": w.folder.name, "folder": w.path, "rows": w.rows});
    let job = json!({
        "out": work, "planted": bench.options.plant, "cases": written.iter().map(case).collect::<Vec<_>>(),
    });
    let answers = bench.python.run("interop/four_bit.py", &work, &job)?;
    for w in &written {
        let mut report = Report::new(format!("four_bit {}", w.folder.name));
        let outcome = check_folder(bench, w, &answers, &mut report);
        print(report.with(outcome));
    }
    Ok(())
}
