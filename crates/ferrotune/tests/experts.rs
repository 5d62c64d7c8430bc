//! Mixtures of experts beyond the golden cases: stacked weights in files, LoRA on each expert's linears, and what
//! `all-linear` means for them.

use std::path::{Path, PathBuf};

use ferrotune::formats::Checkpoint;
use ferrotune::formats::safetensors::{OutTensor, SafeFile, write};
use ferrotune::load::{BaseStorage, load};
use ferrotune::lora::{Adapter, LoraConfig, Targets, peft};
use ferrotune::loss::cross_entropy::{TokenTargets, forward_backward, token_losses};
use ferrotune::model::pass::{LinearAdapter, Product};
use ferrotune::model::{Activations, Decoder, Gradients, Params, Pass, Tokens};
use ferrotune_kernels::ops::attention::Segment;
use ferrotune_kernels::rng::Stream;
use ferrotune_kernels::{Device, Precision};

fn golden(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/models").join(model)
}

fn open(folder: &Path) -> (Device, Decoder, Params) {
    let dev = Device::reference();
    let (model, none) = load(&dev, &Checkpoint::open(folder).unwrap(), BaseStorage::AsStored, 32).unwrap();
    (dev, model, none)
}

const IDS: [u32; 12] = [5, 90, 17, 33, 250, 8, 8, 41, 19, 77, 300, 6];
const TARGETS: [i32; 12] = [90, 17, 33, 250, 8, 8, 41, 19, 77, 300, 6, -100];

fn tokens<'a>(positions: &'a [u32], segments: &'a [Segment]) -> Tokens<'a> {
    Tokens { ids: &IDS, positions, segments }
}

fn pass<'a>(dev: &'a Device, params: &'a Params, adapter: Option<&'a Adapter>) -> Pass<'a> {
    Pass { dev, precision: Precision::F32, params, adapted: adapter.map(|a| &a.adapted), dropout: None }
}

fn loss(dev: &Device, model: &Decoder, adapter: &Adapter) -> f64 {
    let positions: Vec<u32> = (0..12).collect();
    let pass = pass(dev, &adapter.params, Some(adapter));
    let x = model.forward(&pass, tokens(&positions, &[Segment::own(0, 12)])).unwrap();
    token_losses(model, &pass, &x, &TARGETS).unwrap().iter().map(|l| *l as f64).sum()
}

/// The folder with the experts of each layer in one tensor, as transformers 5 has them in memory.
fn stacked_copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let file = SafeFile::open(&from.join("model.safetensors")).unwrap();
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for (name, _) in file.iter().filter(|(n, _)| !n.contains(".experts.")) {
        let (shape, values) = file.f32(name).unwrap();
        tensors.push((name.replace("block_sparse_moe", "mlp"), shape, values));
    }
    for layer in 0..2 {
        let read = |expert: usize, part: &str| {
            let name = format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.{part}.weight");
            file.f32(&name).unwrap()
        };
        let (shape, _) = read(0, "w1");
        let (ffn, hidden) = (shape[0], shape[1]);
        let module = format!("model.layers.{layer}.mlp.experts");
        let both = (0..4).flat_map(|e| [read(e, "w1").1, read(e, "w3").1].concat()).collect();
        tensors.push((format!("{module}.gate_up_proj"), vec![4, 2 * ffn, hidden], both));
        let down = (0..4).flat_map(|e| read(e, "w2").1).collect();
        tensors.push((format!("{module}.down_proj"), vec![4, hidden, ffn], down));
    }
    let out: Vec<_> = tensors.iter().map(|(n, s, v)| (n.clone(), OutTensor::f32(s, v))).collect();
    write(&to.join("model.safetensors"), &out).unwrap();
}

#[test]
fn stacked_weights_are_the_same_model() {
    let folder = std::env::temp_dir().join(format!("ferrotune-stacked-{}", std::process::id()));
    stacked_copy(&golden("mixtral/model"), &folder);
    let logits = |folder: &Path| {
        let (dev, model, none) = open(folder);
        let positions: Vec<u32> = (0..12).collect();
        let pass = pass(&dev, &none, None);
        let x = model.forward(&pass, tokens(&positions, &[Segment::own(0, 12)])).unwrap();
        model.logits(&pass, &x, &(0..12).collect::<Vec<u32>>()).unwrap().to_vec()
    };
    let (found, expected) = (logits(&folder), logits(&golden("mixtral/model")));
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(found, expected);
}

#[test]
fn linears_of_experts_take_branches_of_their_own() {
    let (dev, model, _) = open(&golden("mixtral/model"));
    let names = ["w1", "w2", "w3", "gate"].map(String::from).to_vec();
    let config = LoraConfig { rank: 2, alpha: 4.0, targets: Targets::Names(names), ..LoraConfig::default() };
    let mut adapter = Adapter::init(&dev, &model, config, 1).unwrap();
    assert_eq!(adapter.adapted.linears().count(), 2 * (1 + 3 * 4));
    for value in adapter.params.values_mut() {
        let random = Stream::new(4, "values", value.len() as u64);
        value.host_f32_mut().iter_mut().enumerate().for_each(|(i, v)| *v = 0.1 * random.normal(i as u64));
    }
    let mut grads = Gradients::zeros(&dev, &adapter.params);
    {
        let positions: Vec<u32> = (0..12).collect();
        let segments = [Segment::own(0, 12)];
        let tokens = tokens(&positions, &segments);
        let pass = pass(&dev, &adapter.params, Some(&adapter));
        let (x, saved) = model.forward_train(&pass, tokens, Activations::Lean).unwrap();
        let (_, dx) =
            forward_backward(&model, &pass, &x, TokenTargets::once(&TARGETS), 1.0, &mut grads).unwrap();
        model.backward(&pass, tokens, saved, dx, &mut grads).unwrap();
    }
    // Along the gradient of one parameter the loss changes by its square.
    for name in [
        "model.layers.0.block_sparse_moe.experts.1.w1.lora_A.weight",
        "model.layers.0.block_sparse_moe.experts.2.w2.lora_B.weight",
        "model.layers.1.block_sparse_moe.experts.0.w3.lora_A.weight",
        "model.layers.0.block_sparse_moe.gate.lora_B.weight",
    ] {
        let id = adapter.params.find(name).unwrap();
        let g = grads.get(id).to_vec();
        let square: f64 = g.iter().map(|v| (*v as f64).powi(2)).sum();
        assert!(square > 0.0, "{name} has no gradient");
        let h = (1e-3 / square.sqrt()) as f32;
        let mut shifted = |sign: f32| {
            let values = adapter.params.get_mut(id).host_f32_mut();
            values.iter_mut().zip(&g).for_each(|(v, g)| *v += sign * h * g);
            let loss = loss(&dev, &model, &adapter);
            let values = adapter.params.get_mut(id).host_f32_mut();
            values.iter_mut().zip(&g).for_each(|(v, g)| *v -= sign * h * g);
            loss
        };
        let slope = (shifted(1.0) - shifted(-1.0)) / (2.0 * h as f64);
        assert!((slope / square - 1.0).abs() < 0.05, "{name}: {slope} by differences, {square} computed");
    }
}

#[test]
fn all_linear_is_what_peft_makes_of_it_and_survives_a_file() {
    for case in ["mixtral", "qwen3_moe", "olmoe", "qwen2_moe", "minimax_m2"] {
        let (dev, model, _) = open(&golden(&format!("{case}/model")));
        let config = LoraConfig { rank: 8, alpha: 16.0, ..LoraConfig::default() };
        let adapter = Adapter::init(&dev, &model, config, 1).unwrap();
        let folder = std::env::temp_dir().join(format!("ferrotune-experts-{case}-{}", std::process::id()));
        peft::save(&folder, &adapter, &model, "base").unwrap();
        let shapes = |folder: &Path| {
            let file = SafeFile::open(&folder.join("adapter_model.safetensors")).unwrap();
            let mut all: Vec<_> = file.iter().map(|(n, t)| (n.to_string(), t.shape.clone())).collect();
            all.sort();
            all
        };
        let mut expected = shapes(&golden(&format!("{case}/adapter")));
        // Beside a shared expert PEFT takes modules alone; the fixture's adapter also names the stacked parameters.
        expected.retain(|(name, _)| case != "qwen2_moe" || !name.contains(".experts."));
        assert_eq!(shapes(&folder), expected);
        let again = peft::load(&dev, &folder, &model).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let values =
            |a: &Adapter| a.params.iter().map(|(n, t)| (n.to_string(), t.to_vec())).collect::<Vec<_>>();
        assert_eq!(values(&again), values(&adapter));
        let scales = |adapter: &Adapter| {
            let scale = |kind: &dyn LinearAdapter| match kind.product() {
                Product::WithBranch(branch) => branch.scale,
                Product::Own(_) => panic!("experts take low-rank branches"),
            };
            adapter.adapted.linears().map(scale).collect::<Vec<_>>()
        };
        assert_eq!(scales(&again), scales(&adapter));
    }
}

#[test]
fn what_experts_cannot_have_is_refused() {
    let (dev, model, _) = open(&golden("mixtral/model"));
    let refusal = |config: LoraConfig| Adapter::init(&dev, &model, config, 1).unwrap_err().to_string();
    let plain = LoraConfig { target_parameters: vec!["experts.down_proj".into()], ..LoraConfig::default() };
    let dropout = LoraConfig { dropout: 0.1, ..plain.clone() };
    assert!(refusal(dropout).contains("target_parameters"));
    let nothing = LoraConfig { target_parameters: vec!["experts.up".into()], ..plain.clone() };
    assert!(refusal(nothing).contains("experts.up"));
    let twice = LoraConfig { targets: Targets::Names(vec!["w2".into()]), ..plain };
    assert!(refusal(twice).contains("w2"));
}
