//! `docs/families.md`: which families are trained, made from the engine's tables and the fixtures that hold them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use ferrotune::arch::families::{FAMILIES, architecture, read_config};
use ferrotune::arch::wrappers::WRAPPERS;
use ferrotune::formats::reads_gguf;
use serde_json::Value;

/// Released models by the `model_type` of their `config.json`, with their sizes; of experts also the active share.
const RELEASED: &[(&str, &str)] = &[
    ("apertus", "Apertus 8B, 70B"),
    ("ernie4_5", "ERNIE 4.5 0.3B"),
    ("exaone4", "EXAONE 4.0 1.2B, 32B"),
    ("falcon_h1", "Falcon-H1 0.5B to 34B"),
    ("gemma2", "Gemma 2 2B, 9B, 27B"),
    ("gemma3", "Gemma 3 4B, 12B, 27B"),
    ("gemma3_text", "Gemma 3 270M, 1B"),
    ("gemma4", "Gemma 4 12B, 31B"),
    ("gemma4_text", "the text part of Gemma 4"),
    ("glm", "GLM-4 9B (2024), GLM-Edge"),
    ("glm4", "GLM-4-0414 9B, 32B"),
    ("gpt_oss", "gpt-oss 20B, 120B"),
    ("granite", "Granite 3.0 to 3.3 2B, 8B"),
    ("granitemoehybrid", "Granite 4.0 350M to Micro 3B, with and without `h`"),
    ("helium", "Helium 2B"),
    ("hunyuan_v1_dense", "Hunyuan 0.5B to 7B"),
    ("internlm3", "InternLM 3 8B"),
    ("lfm2", "LFM2 and LFM2.5 350M to 2.6B"),
    ("llama", "Llama 2 and 3 1B to 405B, SmolLM 1 and 2, TinyLlama, Falcon 3, DeepSeek-R1-Distill"),
    ("minimax_m2", "MiniMax-M2 230B-A10B"),
    ("ministral3", "Ministral 3 3B, 8B, 14B"),
    ("mistral", "Mistral 7B, Nemo 12B, Ministral 8B"),
    ("mistral3", "Mistral Small 3.1 and 3.2 24B, Devstral, Ministral 3"),
    ("mixtral", "Mixtral 8x7B, 8x22B"),
    ("nemotron_h", "Nemotron-H 4B to 56B, Nemotron Nano 2 and 3"),
    ("olmo2", "OLMo 2 1B to 32B"),
    ("olmo3", "OLMo 3 7B, 32B"),
    ("olmoe", "OLMoE 7B-A1B"),
    ("phi3", "Phi-3 mini to medium, Phi-3.5 mini, Phi-4, Phi-4-mini"),
    ("qwen2", "Qwen 2, 2.5 and 2.5-Coder 0.5B to 72B, QwQ"),
    ("qwen2_5_vl", "Qwen2.5-VL 3B to 72B"),
    ("qwen2_5_vl_text", "the text part of Qwen2.5-VL"),
    ("qwen2_moe", "Qwen1.5-MoE A2.7B, Qwen 2 57B-A14B"),
    ("qwen3", "Qwen 3 0.6B to 32B, Qwen3-2507"),
    ("qwen3_5", "Qwen 3.5, 3.6 and 3.8 0.8B to 27B"),
    ("qwen3_5_moe_text", "the text part of Qwen 3.5 35B-A3B and its kind"),
    ("qwen3_5_text", "the text part of Qwen 3.5 and later"),
    ("qwen3_moe", "Qwen 3 30B-A3B, 235B-A22B, Qwen3-Coder"),
    ("qwen3_next", "Qwen3-Next 80B-A3B"),
    ("qwen3_vl", "Qwen3-VL 2B to 32B"),
    ("qwen3_vl_text", "the text part of Qwen3-VL"),
    ("seed_oss", "Seed-OSS 36B"),
    ("smollm3", "SmolLM 3 3B"),
    ("stablelm", "StableLM 2 1.6B, 12B"),
    ("starcoder2", "StarCoder 2 3B, 7B, 15B"),
];

const INTRODUCTION: &str = "# Families

Which `model_type` of a `config.json` can be trained. Full fine-tuning, LoRA and QLoRA, packed rows, gradient checkpointing,
streaming from the file and bf16 hold for every family: one test goes through all fixtures (`tests/invariants.rs`). Beginnings that
rows share are computed once (`tests/prefixes.rs`), where rotary frequencies do not depend on the length of a row.

*Fixtures* are tiny models whose logits, losses, gradients, five steps, merged weights and greedy tokens are those of transformers
and PEFT; *of which full* also have every gradient of full fine-tuning. GGUF files are read (*GGUF in*); none are written yet.

Experts are quantized like every other linear. gpt-oss is trained beside its MXFP4 blocks as they lie in the file; its experts in
floats are transposed there, so they are copied into memory and not streamed.

This page is made by `cargo xtask docs`.
";

/// What the fixtures say about a family.
#[derive(Default)]
struct Held {
    fixtures: usize,
    full: usize,
    /// Whether some configuration bounds the length of shared beginnings.
    bounded: bool,
    experts: bool,
}

/// The page, for the fixtures of `golden`.
pub fn page(golden: &Path) -> std::io::Result<String> {
    let mut held: BTreeMap<String, Held> = BTreeMap::new();
    for folder in std::fs::read_dir(golden.join("models"))? {
        let folder = folder?.path();
        let file = folder.join("model/config.json");
        let raw: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        let config = read_config(&file).map_err(std::io::Error::other)?;
        let a = architecture(&config).map_err(std::io::Error::other)?;
        let full = golden.join("full_ft").join(folder.file_name().unwrap_or_default()).exists();
        for name in [raw["model_type"].as_str().unwrap_or_default(), &config.model_type] {
            let of = held.entry(name.to_string()).or_default();
            of.fixtures += 1;
            of.full += usize::from(full);
            of.bounded |= a.fixed_rotation() < usize::MAX;
            of.experts |= a.experts.is_some();
            if raw["model_type"] == config.model_type.as_str() {
                break;
            }
        }
    }
    let released: BTreeMap<&str, &str> = RELEASED.iter().copied().collect();
    let mut rows: Vec<(&str, bool)> = FAMILIES.iter().map(|f| (f.model_type, false)).collect();
    rows.extend(WRAPPERS.iter().map(|w| (w.model_type, true)));
    rows.sort_unstable();
    let mut page = format!(
        "{INTRODUCTION}\n| `model_type` | models | full | LoRA | QLoRA | streaming | shared beginnings | GGUF in | GGUF out | \
         fixtures (of which full) |\n|---|---|---|---|---|---|---|---|---|---|\n"
    );
    for (name, wrapper) in rows {
        let none = Held::default();
        let of = held.get(name).unwrap_or(&none);
        let models = released.get(name).copied().unwrap_or("");
        let part = if wrapper { " (text part)" } else { "" };
        let qlora = if of.experts { "yes, experts too" } else { "yes" };
        let shared = if of.bounded { "yes; with dynamic or long rope up to their length" } else { "yes" };
        let gguf = if reads_gguf(name) { "yes" } else { "no" };
        let line = writeln!(
            page,
            "| `{name}` | {models}{part} | yes | yes | {qlora} | yes | {shared} | {gguf} | no | {} ({}) |",
            of.fixtures, of.full
        );
        line.map_err(std::io::Error::other)?;
    }
    Ok(page)
}

/// Writes the page into `docs`.
pub fn write(docs: &Path, golden: &Path) -> std::io::Result<()> {
    std::fs::write(docs.join("families.md"), page(golden)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn the_page_is_that_of_the_code() {
        let made = page(&root().join("testdata/golden")).unwrap();
        let there = std::fs::read_to_string(root().join("docs/families.md")).unwrap();
        assert!(made == there, "docs/families.md is old: cargo xtask docs");
    }

    #[test]
    fn every_family_has_a_fixture_and_a_model() {
        let made = page(&root().join("testdata/golden")).unwrap();
        for name in FAMILIES.iter().map(|f| f.model_type).chain(WRAPPERS.iter().map(|w| w.model_type)) {
            assert!(RELEASED.iter().any(|(known, _)| *known == name), "{name} has no released model");
        }
        assert!(!made.contains("| 0 (0) |"), "a family without a fixture:\n{made}");
    }
}
