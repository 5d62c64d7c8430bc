//! What is in memory of a mapped model: never more than the plan says, however large the pieces are in which the system
//! keeps and maps a file that was written in one piece.
#![cfg(target_os = "linux")]

use serde_json::{Value, json};

use super::helper::{Place, model};

const HIDDEN: usize = 256;
const FFN: usize = 768;
const VOCAB: usize = 32768;
const LAYERS: usize = 48;

/// What a program that was built for tests has in memory besides what is planned for a released one: its code is several
/// times as long.
const UNOPTIMIZED: u64 = if cfg!(debug_assertions) { 16 << 20 } else { 0 };

/// Names and shapes of a Llama's tensors, in the order of a file that transformers wrote.
fn tensors() -> Vec<(String, Vec<usize>)> {
    let tables = ["lm_head.weight", "model.embed_tokens.weight"];
    let mut all: Vec<_> = tables.iter().map(|name| (name.to_string(), vec![VOCAB, HIDDEN])).collect();
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize]| {
            all.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        };
        add("input_layernorm", &[HIDDEN]);
        add("mlp.down_proj", &[HIDDEN, FFN]);
        add("mlp.gate_proj", &[FFN, HIDDEN]);
        add("mlp.up_proj", &[FFN, HIDDEN]);
        add("post_attention_layernorm", &[HIDDEN]);
        for part in ["k_proj", "o_proj", "q_proj", "v_proj"] {
            add(&format!("self_attn.{part}"), &[HIDDEN, HIDDEN]);
        }
    }
    all.push(("model.norm.weight".into(), vec![HIDDEN]));
    all
}

/// A model folder of 115 MB in bf16, whose weight file is written in one piece.
fn write_model(place: &Place) {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors() {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
    }
    let mut header = Value::Object(header).to_string();
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    // Any values will do, as long as they are small: signs and fractions of about 0.03.
    let mut state = 1u32;
    let some = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        0x3d00 | (state >> 16) as u16 & 0x807f
    });
    let some: Vec<u8> = some.take(1 << 18).flat_map(u16::to_le_bytes).collect();
    file.extend(some.iter().cycle().take(end));

    let folder = place.copy_of(&model("llama3_rope"), "base");
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    std::fs::write(folder.join("model.safetensors"), file).unwrap();
    let mut config = place.json("base/config.json");
    for (key, value) in [
        ("hidden_size", HIDDEN),
        ("intermediate_size", FFN),
        ("vocab_size", VOCAB),
        ("num_hidden_layers", LAYERS),
        ("num_key_value_heads", 4),
        ("head_dim", HIDDEN / 4),
    ] {
        config[key] = json!(value);
    }
    config["dtype"] = json!("bfloat16");
    place.write("base/config.json", &config.to_string());
}

/// Rows of tokens from all over the vocabulary.
fn write_rows(place: &Place) {
    let row = |i: usize| {
        let ids: Vec<usize> = (0..64).map(|j| (1 + i * 64 + j) * 7919 % VOCAB).collect();
        format!("{}\n", json!({"input_ids": ids, "labels": ids}))
    };
    place.write("rows.jsonl", &(0..2).map(row).collect::<String>());
}

/// Trains for two steps; asserts that no more was in memory than planned.
#[track_caller]
fn fits(place: &Place, run: &str, method: &str, more: &[&str]) {
    let method = format!("method: {{ kind: {method} }}\n");
    let rest = "model: { base: base }\n\
                data: { train: rows.jsonl, format: tokens }\n\
                train: { epochs: 1, batch_rows: 1, lr: 1.0e-3, activations: recompute }\n";
    place.write("run.yaml", &format!("{method}{rest}output: {{ dir: {run} }}\n"));
    let more = more.iter().flat_map(|set| ["--set", set]);
    let args: Vec<&str> = ["train", "run.yaml"].into_iter().chain(more).collect();
    place.run(&args).ok();
    let receipt = place.json(&format!("{run}/receipt.json"));
    let bytes = |key: &str| receipt[key].as_u64().expect("bytes");
    let (planned, peak) = (bytes("planned_bytes"), bytes("peak_rss_bytes"));
    assert!(peak <= planned + UNOPTIMIZED, "{run}: {peak} bytes of {planned} planned ones");
}

#[test]
fn a_model_written_in_one_piece_takes_no_more_than_planned() {
    let place = Place::new();
    write_model(&place);
    write_rows(&place);
    fits(&place, "converted", "qlora", &["model.cache=false"]);
    fits(&place, "kept", "qlora", &[]);
    fits(&place, "from the cache", "qlora", &[]);
    fits(&place, "streamed", "qlora", &["train.stream=always"]);
    assert_eq!(place.losses("from the cache"), place.losses("converted"));
    assert_eq!(place.losses("streamed"), place.losses("converted"));
    fits(&place, "as stored", "lora", &[]);
    fits(&place, "as stored and streamed", "lora", &["train.stream=always"]);
}
