use proptest::prelude::*;

use super::super::Checkpoint;
use super::rope::scaling_of;
use super::*;
use ferrotune_kernels::Threads;

mod vocabulary;

/// Writes small GGUF files, well formed or not.
#[derive(Clone)]
struct Builder {
    version: u32,
    keys: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    data: Vec<u8>,
    alignment: usize,
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat()
}

impl Builder {
    /// The least that counts as a llama model: one embedding.
    fn new() -> Self {
        let mut file =
            Builder { version: 3, keys: Vec::new(), tensors: Vec::new(), data: vec![0; 4096], alignment: 32 };
        file.text("general.architecture", "llama");
        for (key, value) in [
            ("embedding_length", 32u32),
            ("block_count", 1),
            ("feed_forward_length", 64),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("context_length", 128),
        ] {
            file.key(&format!("llama.{key}"), 4, value.to_le_bytes().to_vec());
        }
        file.tensors.push(("token_embd.weight".into(), vec![32, 8], 8, 0));
        file
    }

    /// The same sizes as a model of another architecture.
    fn of(architecture: &str) -> Self {
        let mut file = Builder::new();
        for (key, ..) in &mut file.keys {
            *key = key.replace("llama.", &format!("{architecture}."));
        }
        file.text("general.architecture", architecture);
        file
    }

    fn count(&mut self, key: &str, value: u32) {
        self.key(key, 4, value.to_le_bytes().to_vec());
    }

    fn counts(&mut self, key: &str, values: &[u32]) {
        self.array(key, 4, values.iter().map(|v| v.to_le_bytes().to_vec()).collect());
    }

    fn key(&mut self, key: &str, kind: u32, value: Vec<u8>) {
        self.keys.retain(|(k, ..)| k != key);
        self.keys.push((key.into(), kind, value));
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key, 8, text(value));
    }

    fn array(&mut self, key: &str, kind: u32, values: Vec<Vec<u8>>) {
        let head = [&kind.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        self.key(key, 9, [head, values.concat()].concat());
    }

    fn texts(&mut self, key: &str, values: &[&str]) {
        self.array(key, 8, values.iter().map(|v| text(v)).collect());
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.keys {
            out.extend(text(key));
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        for (name, dims, kind, offset) in &self.tensors {
            out.extend(text(name));
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(&self.data);
        out
    }

    fn open(&self) -> Result<Checkpoint> {
        open(&self.bytes())
    }
}

fn open(bytes: &[u8]) -> Result<Checkpoint> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    Checkpoint::open(&path)
}

/// Opens the file and uses all of it, as a run would.
fn exercise(bytes: &[u8]) {
    let Ok(c) = open(bytes) else { return };
    for name in c.names() {
        let _ = c.weight(&name, 8, 32);
        let _ = c.vector(&name, 32);
    }
    let _ = (
        c.tokenizer_json(),
        c.chat_template(),
        c.special_tokens(),
        c.eos_ids(),
        c.sidecars(),
        c.fingerprint(&Threads::one()),
    );
}

fn refusal(change: impl FnOnce(&mut Builder)) -> String {
    let mut file = Builder::new();
    change(&mut file);
    file.open().err().expect("must be refused").to_string()
}

#[test]
fn small_file_opens() {
    for version in [2, 3] {
        let c = Builder { version, ..Builder::new() }.open().unwrap();
        let config = c.config();
        assert_eq!((config.hidden_size, config.head_dim, config.vocab_size), (32, 8, 8));
        assert_eq!((config.num_attention_heads, config.num_key_value_heads), (4, 2));
        assert!(config.tie_word_embeddings == Some(true) && config.eos_token_ids.is_empty());
        assert_eq!(c.names(), ["model.embed_tokens.weight"]);
    }
}

#[test]
fn refusals_name_what_was_found() {
    type Change = fn(&mut Builder);
    let cases: [(Change, &str); 24] = [
        (|f| f.version = 1, "version 1"),
        (|f| f.version = 3u32.swap_bytes(), "big-endian"),
        (|f| f.text("general.architecture", "mamba"), "`mamba`"),
        (|f| f.keys.remove(0).2.clear(), "`general.architecture`: missing"),
        (|f| f.text("general.type", "adapter"), "`adapter`"),
        (|f| f.count("llama.expert_count", 8), "`llama.expert_used_count`: missing"),
        (|f| (f.text("general.architecture", "qwen2"), f.count("qwen2.expert_count", 8)).1, "8 experts"),
        (|f| (f.text("general.architecture", "gpt-oss"), ()).1, "0 experts"),
        (|f| f.keys.retain(|k| k.0 != "llama.block_count"), "`llama.block_count`: missing"),
        (|f| f.text("llama.block_count", "two"), "`llama.block_count`: not a count"),
        (|f| f.counts("llama.attention.head_count_kv", &[2, 1]), "each layer"),
        (|f| f.key("llama.rope.dimension_count", 4, 4u32.to_le_bytes().to_vec()), "dimension_count"),
        (|f| f.text("llama.rope.scaling.type", "longrope"), "`longrope`"),
        (|f| f.keys.push(f.keys[0].clone()), "stands twice"),
        (|f| f.key("general.alignment", 4, 24u32.to_le_bytes().to_vec()), "general.alignment"),
        (|f| f.key("x", 77, vec![]), "type 77"),
        (|f| f.tensors.push(f.tensors[0].clone()), "twice"),
        (|f| f.tensors.push(("second".into(), vec![32], 0, 32)), "overlap"),
        (|f| f.tensors[0].2 = 16, "IQ2_XXS"),
        (|f| f.tensors[0].1 = vec![33, 8], "whole blocks"),
        (|f| f.tensors[0].1 = vec![1 << 32, 1 << 32, 1 << 32, 1 << 32], "too large"),
        (|f| f.tensors[0].1 = vec![32, 0], "dimension 0"),
        (|f| f.tensors[0].3 = 33, "alignment"),
        (|f| f.tensors[0].3 = 1 << 40, "behind the file"),
    ];
    for (change, word) in cases {
        let message = refusal(|f| {
            change(f);
        });
        assert!(message.contains(word), "{message} does not say {word}");
        assert!(message.contains("model.gguf"), "{message} does not name the file");
    }
}

#[test]
fn absurd_counts_are_refused_before_memory_is_taken() {
    let good = Builder::new().bytes();
    for at in [8, 16] {
        let mut bytes = good.clone();
        bytes[at..at + 8].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
        assert!(open(&bytes).err().unwrap().to_string().contains("has room for"));
    }
    let mut file = Builder::new();
    file.key("x", 9, [&8u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat());
    assert!(file.open().err().unwrap().to_string().contains("length of an array"));
    // Arrays in arrays in arrays.
    let mut value = Vec::new();
    for _ in 0..100 {
        value.extend([&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat());
    }
    file.key("x", 9, [value, vec![0; 64]].concat());
    assert!(file.open().err().unwrap().to_string().contains("too deep"));
}

#[test]
fn every_truncation_is_an_error() {
    let file = Builder::new();
    let whole = file.bytes();
    let needed = whole.len() - file.data.len() + 8 * 34;
    for length in 0..needed {
        assert!(open(&whole[..length]).is_err(), "{length} of {needed} bytes were enough");
    }
    assert!(open(&whole[..needed]).is_ok());
}

#[test]
fn rope_scaling_is_recognised_for_merged_models() {
    let factors = |factor: f64| -> Vec<f32> {
        (0..64)
            .map(|i| {
                let wavelength = std::f64::consts::TAU * 500_000f64.powf(i as f64 / 64.0);
                let smooth = ((8192.0 / wavelength - 1.0) / 3.0).clamp(0.0, 1.0);
                (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
            })
            .collect()
    };
    let raw = json!({"rope_theta": 500_000.0});
    assert_eq!(scaling_of(&factors(32.0), &raw)["factor"], 32.0);
    assert_eq!(scaling_of(&factors(8.0), &raw)["rope_type"], "llama3");
    assert_eq!(scaling_of(&factors(16.0), &raw)["rope_type"], "factors");
}

#[test]
fn a_value_for_each_layer_may_be_the_same_in_all() {
    let mut file = Builder::new();
    file.counts("llama.attention.head_count_kv", &[1, 1]);
    assert_eq!(file.open().unwrap().config().num_key_value_heads, 1);
}

#[test]
fn windows_are_those_of_the_file_or_of_the_architecture() {
    use crate::arch::families::architecture;
    let windows = |file: &Builder| architecture(file.open().unwrap().config()).unwrap().windows;
    let mut file = Builder::of("gemma3");
    file.count("gemma3.block_count", 7);
    assert_eq!(windows(&file), [None; 7]);
    file.count("gemma3.attention.sliding_window", 16);
    let slides = Some(16);
    assert_eq!(windows(&file), [slides, slides, slides, slides, slides, None, slides]);
    file.count("gemma3.attention.sliding_window_pattern", 2);
    assert_eq!(windows(&file), [slides, None, slides, None, slides, None, slides]);
    let flags = [1, 1, 0, 0, 1, 1, 1].map(|flag| vec![flag]).to_vec();
    file.array("gemma3.attention.sliding_window_pattern", 7, flags);
    assert_eq!(windows(&file), [slides, slides, None, None, slides, slides, slides]);

    assert_eq!(windows(&Builder::of("gemma2")), [Some(4096)]);
    assert_eq!(windows(&Builder::of("starcoder2")), [Some(4096)]);
    let mut file = Builder::of("phi3");
    file.count("phi3.attention.sliding_window", 0);
    assert_eq!(windows(&file), [None]);
    let mut file = Builder::of("olmo2");
    file.count("olmo2.attention.sliding_window", 16);
    assert_eq!(file.open().unwrap().config().model_type, "olmo3");
    assert_eq!(windows(&file), [Some(16)]);
}

#[test]
fn scale_of_the_scores_follows_from_the_size_of_gemma() {
    for (name, large) in [("gemma2", 46), ("gemma3", 62)] {
        let mut file = Builder::of(name);
        file.count(&format!("{name}.attention.key_length"), 16);
        assert_eq!(file.open().unwrap().config().raw["query_pre_attn_scalar"], 16);
        file.count(&format!("{name}.block_count"), large);
        assert_eq!(file.open().unwrap().config().raw["query_pre_attn_scalar"], 8);
    }
}

#[test]
fn long_rope_needs_both_tables_and_granite_its_factors() {
    let mut file = Builder::of("phi3");
    file.count("phi3.rope.scaling.original_context_length", 64);
    file.tensors.push(("rope_factors_long.weight".into(), vec![4], 0, 512));
    file.data[512..528].copy_from_slice(&[[0, 0, 0, 0x40]; 4].concat());
    let error = file.open().err().unwrap().to_string();
    assert!(error.contains("`rope_factors_short.weight`") && error.contains("missing"), "{error}");
    file.tensors.push(("rope_factors_short.weight".into(), vec![4], 0, 544));
    assert!(file.open().err().unwrap().to_string().contains("factor 0"));
    file.data[544..560].copy_from_slice(&[[0, 0, 0x80, 0x3f]; 4].concat());
    assert_eq!(file.open().unwrap().config().raw["rope_scaling"]["long_factor"][0], 2.0);
    let error = Builder::of("granite").open().err().unwrap().to_string();
    assert!(error.contains("`granite.embedding_scale`: missing"), "{error}");
}

#[test]
fn floats_are_the_decimals_that_were_meant() {
    let mut file = Builder::new();
    file.key("llama.attention.layer_norm_rms_epsilon", 6, 1e-5f32.to_le_bytes().to_vec());
    file.key("llama.rope.freq_base", 6, 500_000f32.to_le_bytes().to_vec());
    let c = file.open().unwrap();
    assert_eq!((c.config().norm_eps, c.config().rope.theta), (1e-5, Some(500_000.0)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a few changed bytes mean now, reading gives a value or an error.
    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((0usize..1400, any::<u8>()), 1..6)) {
        let mut file = Builder::new();
        file.text("tokenizer.ggml.model", "llama");
        file.texts("tokenizer.ggml.tokens", &["<unk>", "<s>", "</s>", "a", "b", "ab", "▁", "▁a"]);
        file.array("tokenizer.ggml.scores", 6, (0..8).map(|i| (-(i as f32)).to_le_bytes().to_vec()).collect());
        file.array("tokenizer.ggml.token_type", 5, [2, 3, 3, 1, 1, 1, 1, 1].map(|t: i32| t.to_le_bytes().to_vec()).to_vec());
        file.key("tokenizer.ggml.bos_token_id", 4, 1u32.to_le_bytes().to_vec());
        let mut bytes = file.bytes();
        for (at, byte) in changes {
            let at = at % (bytes.len() - 4096 + 300);
            bytes[at] = byte;
        }
        exercise(&bytes);
    }

    #[test]
    fn random_bytes_never_panic(rest in prop::collection::vec(any::<u8>(), 0..400)) {
        exercise(&[b"GGUF\x03\0\0\0", &rest[..]].concat());
    }
}
