//! `cargo xtask tiny-model`: makes the model that the binary carries, from nothing but the project's own files.
//!
//! A Llama of a million parameters and its tokenizer, trained by ferrotune itself on exercises that a script writes
//! (word splitting, counting, choosing). It knows chats and the words of US-GAAP concept names, none of the answers of
//! the quickstart. The result is deterministic for one instruction set.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use ferrotune::base::BaseModel;
use ferrotune::formats::safetensors::{OutTensor, write};
use ferrotune::formats::write_atomic;
use ferrotune::results::model_folder;
use ferrotune::results::run_folder::{Begin, RunFolder};
use ferrotune::run_config::RunConfig;
use ferrotune::train::{Event, Trainer};
use ferrotune_kernels::rng::Stream;
use ferrotune_kernels::{DType, Device};
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer, TokenizerBuilder};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const VOCAB: usize = 2048;
const HIDDEN: usize = 128;
const LAYERS: usize = 4;
const FFN: usize = 384;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + \
                        '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Makes the model in `out`, with `work` for what is needed on the way.
pub fn make(facts: &Path, work: &Path, out: &Path) -> Outcome<()> {
    std::fs::create_dir_all(work)?;
    let concepts = concepts(facts)?;
    let rows = exercises(&concepts);
    let text: Vec<String> = rows.iter().map(Value::to_string).collect();
    write_atomic(&work.join("exercises.jsonl"), format!("{}\n", text.join("\n")).as_bytes())?;
    let start = work.join("start");
    std::fs::create_dir_all(&start)?;
    tokenizer(&rows)?.save(start.join("tokenizer.json"), false)?;
    settings(&start)?;
    random_weights(&start)?;
    train(&start, work, out)
}

/// Names of the `train` split, without what is known of them.
fn concepts(facts: &Path) -> Outcome<Vec<String>> {
    let text = std::fs::read_to_string(facts)?;
    let rows: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let train = rows.iter().filter(|r| r["split"] == "train");
    Ok(train.filter_map(|r| r["concept"].as_str().map(String::from)).collect())
}

/// `AccountsPayableCurrent` -> `Accounts`, `Payable`, `Current`.
fn words(concept: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for c in concept.chars() {
        match words.last_mut() {
            Some(last) if !c.is_uppercase() => last.push(c),
            _ => words.push(c.to_string()),
        }
    }
    words
}

fn chat(question: String, answer: String) -> Value {
    json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
}

/// Exercises with the words of the concepts, and a few of general knowledge.
fn exercises(concepts: &[String]) -> Vec<Value> {
    let s = Stream::new(1, "exercises", 0);
    let mut rows = Vec::new();
    for (i, concept) in concepts.iter().enumerate() {
        let w = words(concept);
        let (first, last) = (w.first().cloned().unwrap_or_default(), w.last().cloned().unwrap_or_default());
        rows.push(chat(format!("Words of {concept}"), w.join(" ")));
        rows.push(chat(format!("Last word of {concept}"), last.clone()));
        rows.push(chat(format!("First word of {concept}"), first.clone()));
        rows.push(chat(format!("How many words has {concept}?"), w.len().to_string()));
        let other = words(&concepts[s.below(i as u64, concepts.len() as u64) as usize]);
        let asked = if s.uniform(i as u64 + 1_000_000) < 0.5 {
            last
        } else {
            other.last().cloned().unwrap_or_default()
        };
        let answer = if w.contains(&asked) { "yes" } else { "no" };
        rows.push(chat(format!("Is {asked} a word of {concept}?"), answer.into()));
    }
    for i in 0..1500u64 {
        let (a, b) = (s.below(2_000_000 + i, 50), s.below(3_000_000 + i, 50));
        rows.push(chat(format!("What is {a} + {b}?"), (a + b).to_string()));
    }
    for greeting in ["Hello", "Hi", "Good morning", "Good evening", "Hello there"] {
        for _ in 0..20 {
            let answer =
                "Hello! I am the tiny model of ferrotune. I know little; teach me with `ferrotune train`.";
            rows.push(chat(greeting.into(), answer.into()));
        }
    }
    rows
}

/// Byte-level BPE over the exercises; capitals start words, so concept names fall into their words.
fn tokenizer(rows: &[Value]) -> Outcome<Tokenizer> {
    let texts = rows.iter().flat_map(|r| r["messages"].as_array().cloned().unwrap_or_default());
    let texts: Vec<String> = texts.filter_map(|m| m["content"].as_str().map(String::from)).collect();
    let capitals = tokenizers::pre_tokenizers::split::Split::new(
        tokenizers::pre_tokenizers::split::SplitPattern::Regex(r"[A-Z][a-z]*".into()),
        tokenizers::SplitDelimiterBehavior::Isolated,
        false,
    )?;
    let pre = Sequence::new(vec![
        Digits::new(true).into(),
        capitals.into(),
        ByteLevel::new(false, false, true).into(),
    ]);
    let mut tokenizer = TokenizerBuilder::default()
        .with_model(BPE::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(pre))
        .with_post_processor(None::<tokenizers::PostProcessorWrapper>)
        .with_decoder(Some(ByteLevel::default()))
        .build()?;
    let special = SPECIAL.map(|t| AddedToken::from(t, true)).to_vec();
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(VOCAB)
        .show_progress(false)
        .special_tokens(special)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, texts.into_iter())?;
    let text = serde_json::to_string(&tokenizer)?;
    text.parse::<Tokenizer>()
}

fn settings(folder: &Path) -> Outcome<()> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "vocab_size": VOCAB,
        "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "attention_bias": false, "mlp_bias": false, "bos_token_id": 0, "eos_token_id": 2, "torch_dtype": "float32",
    });
    let tokenizer = json!({
        "bos_token": SPECIAL[0], "eos_token": SPECIAL[2], "pad_token": SPECIAL[0], "chat_template": TEMPLATE,
        "model_max_length": 1024, "tokenizer_class": "PreTrainedTokenizerFast",
    });
    let generation = json!({"eos_token_id": 2, "bos_token_id": 0});
    for (name, content) in [
        ("config.json", config),
        ("tokenizer_config.json", tokenizer),
        ("generation_config.json", generation),
    ] {
        write_atomic(&folder.join(name), format!("{content:#}\n").as_bytes())?;
    }
    Ok(())
}

/// Normal with deviation 0.02; what writes to the residual stream is smaller by the root of twice the layers.
fn random_weights(folder: &Path) -> Outcome<()> {
    let head = HIDDEN / HEADS;
    let mut shapes = vec![("model.embed_tokens.weight".to_string(), VOCAB, HIDDEN)];
    for i in 0..LAYERS {
        let at = |name: &str| format!("model.layers.{i}.{name}.weight");
        shapes.extend([
            (at("self_attn.q_proj"), HIDDEN, HIDDEN),
            (at("self_attn.k_proj"), KV_HEADS * head, HIDDEN),
            (at("self_attn.v_proj"), KV_HEADS * head, HIDDEN),
            (at("self_attn.o_proj"), HIDDEN, HIDDEN),
            (at("mlp.gate_proj"), FFN, HIDDEN),
            (at("mlp.up_proj"), FFN, HIDDEN),
            (at("mlp.down_proj"), HIDDEN, FFN),
            (at("input_layernorm"), 0, HIDDEN),
            (at("post_attention_layernorm"), 0, HIDDEN),
        ]);
    }
    shapes.push(("model.norm.weight".into(), 0, HIDDEN));
    let values: Vec<(String, Vec<usize>, Vec<f32>)> = shapes
        .into_iter()
        .map(|(name, rows, cols)| {
            if rows == 0 {
                return (name, vec![cols], vec![1.0; cols]);
            }
            let residual = name.contains("o_proj") || name.contains("down_proj");
            let deviation = if residual { 0.02 / (2.0 * LAYERS as f32).sqrt() } else { 0.02 };
            let s = Stream::new(2, &name, 0);
            let v = (0..(rows * cols) as u64).map(|i| deviation * s.normal(i)).collect();
            (name, vec![rows, cols], v)
        })
        .collect();
    let tensors: Vec<(String, OutTensor<'_>)> =
        values.iter().map(|(n, shape, v)| (n.clone(), OutTensor::f32(shape, v))).collect();
    write(&folder.join("model.safetensors"), &tensors)?;
    Ok(())
}

#[allow(clippy::print_stdout)]
fn train(start: &Path, work: &Path, out: &Path) -> Outcome<()> {
    let base = BaseModel::open(start, "ferrotune-tiny")?;
    let run = work.join("run");
    let _ = std::fs::remove_dir_all(&run);
    let config = RunConfig::from_overrides(&[
        format!("model.base='{}'", start.display()),
        "method.kind=full".into(),
        format!("data.train='{}'", work.join("exercises.jsonl").display()),
        "train.epochs=4".into(),
        "train.batch_tokens=2048".into(),
        "train.lr=3e-3".into(),
        "train.schedule=cosine".into(),
        "train.weight_decay=0.01".into(),
        "train.precision=f32".into(),
        format!("output.dir='{}'", run.display()),
    ])?;
    let dev = Device::cpu(None, None)?;
    let mut on_event = |event: &Event| match event {
        Event::Step(s) if s.step % 50 == 0 => {
            println!("step {}: loss {:.4}, {:.0} tok/s", s.step, s.loss, s.tokens_per_second)
        }
        Event::Start(s) => println!("{} parameters, {} steps", s.trainable_parameters, s.steps),
        _ => {}
    };
    let prepared = base.prepare(&dev.threads(), &config)?;
    let mut trainer = Trainer::new(&config, &base, &dev, prepared, &mut on_event)?;
    let folder = RunFolder::create(&run, Begin::New)?;
    let outcome = trainer.run(Some(&folder), &AtomicBool::new(false), &mut on_event)?;
    println!("loss {:.4} after {} steps", outcome.loss, outcome.steps);
    model_folder::write(
        out,
        &base,
        &trainer.session.model,
        trainer.session.trainable.params(),
        None,
        DType::Bf16,
        trainer.learned(),
    )?;
    Ok(())
}
