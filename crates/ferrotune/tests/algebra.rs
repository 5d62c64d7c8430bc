//! Combining adapters of other shapes than the golden ones: scales, patterns, embeddings, modules that one lacks.

use std::path::{Path, PathBuf};

use ferrotune::formats::adapter::{AdapterFile, Targets};
use ferrotune::lora::Init;
use ferrotune::lora::algebra::{Combination, Combined, Input, MajoritySign, Method, combine};
use ferrotune_kernels::Threads;

fn golden(name: &str) -> Input {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(name);
    Input { file: AdapterFile::read(&path).unwrap(), path: PathBuf::from(name) }
}

fn how(method: &str, weights: &[f64]) -> Combination {
    Combination {
        method: Method::parse(method).unwrap(),
        weights: weights.to_vec(),
        density: None,
        majority_sign: MajoritySign::Total,
        rank: None,
        exact: false,
        seed: 0,
        base: Some("base".into()),
    }
}

/// `scale B A` of a module in f64; zeros if the adapter lacks it.
fn product(file: &AdapterFile, module: &str, scale: f64, shape: [usize; 2]) -> Vec<f64> {
    let part = |suffixes: [&str; 2]| suffixes.iter().find_map(|s| file.get(&format!("{module}{s}")));
    let (Some(a), Some(b)) =
        (part([".lora_A.weight", ".lora_embedding_A"]), part([".lora_B.weight", ".lora_embedding_B"]))
    else {
        return vec![0.0; shape[0] * shape[1]];
    };
    let (rank, cols) = (a.shape[0], a.shape[1]);
    assert_eq!([b.shape[0], cols], shape);
    let sum = |row: &[f32], c: usize| {
        row.iter().enumerate().map(|(q, b)| *b as f64 * a.values[q * cols + c] as f64).sum::<f64>()
    };
    b.values.chunks_exact(rank).flat_map(|row| (0..cols).map(move |c| scale * sum(row, c))).collect()
}

/// Every module of the result must be the weighted sum of the inputs' products.
fn assert_sum(found: &Combined, inputs: &[Input], weights: &[f64], scale: impl Fn(usize, &str) -> f64) {
    let mut modules = 0;
    let rank = found.file.config.lora.rank as f64;
    assert_eq!(found.file.config.lora.alpha, rank, "the scale of the result is 1");
    for a in &found.file.tensors {
        let module = a.name.strip_suffix(".lora_A.weight").or(a.name.strip_suffix(".lora_embedding_A"));
        let Some(module) = module else { continue };
        let b = a.name.replace("lora_A.", "lora_B.").replace("embedding_A", "embedding_B");
        let shape = [found.file.get(&b).unwrap().shape[0], a.shape[1]];
        let result = product(&found.file, module, 1.0, shape);
        let mut sum = vec![0.0; result.len()];
        for (i, (input, w)) in inputs.iter().zip(weights).enumerate() {
            let own = product(&input.file, module, w * scale(i, module), shape);
            sum.iter_mut().zip(own).for_each(|(s, v)| *s += v);
        }
        let worst = result.iter().zip(&sum).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
        assert!(worst < 1e-5, "{module}: {worst}");
        modules += 1;
    }
    assert!(modules > 3);
}

#[test]
fn scales_are_those_of_each_module() {
    let inputs = [golden("variants/rslora/adapter"), golden("variants/rank_alpha_pattern/adapter")];
    let weights = [0.5, -2.0];
    let configs = [&inputs[0].file.config.lora, &inputs[1].file.config.lora];
    assert!(configs[0].rslora && !configs[1].rank_pattern.is_empty() && !configs[1].alpha_pattern.is_empty());
    let scale = |i: usize, module: &str| {
        // The patterns of this case are ends of paths.
        let named = |key: &str| module.ends_with(&format!(".{key}"));
        let c = configs[i];
        let rank = c.rank_pattern.iter().find(|(k, _)| named(k)).map_or(c.rank, |(_, r)| *r) as f64;
        let alpha = c.alpha_pattern.iter().find(|(k, _)| named(k)).map_or(c.alpha, |(_, a)| *a);
        alpha / if c.rslora { rank.sqrt() } else { rank }
    };
    for (method, exact) in [("cat", false), ("linear", true), ("svd", true)] {
        let found =
            combine(&Threads::one(), &inputs, &Combination { exact, ..how(method, &weights) }).unwrap();
        assert_sum(&found, &inputs, &weights, scale);
        assert!(!found.file.config.lora.rslora, "its scale would not be 1");
    }
    let text =
        combine(&Threads::one(), &inputs, &how("linear", &weights)).map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("its rank is"), "{text}");
}

#[test]
fn modules_that_one_adapter_lacks_and_embeddings() {
    let inputs = [golden("algebra/inputs/a"), golden("variants/lora_embedding/adapter")];
    let weights = [1.0, 0.5];
    let scale = |i: usize, _: &str| {
        let c = &inputs[i].file.config.lora;
        c.alpha / c.rank as f64
    };
    let found = combine(&Threads::one(), &inputs, &how("cat", &weights)).unwrap();
    assert_sum(&found, &inputs, &weights, scale);
    assert!(found.file.get("model.embed_tokens.lora_embedding_A").is_some());
    assert!(found.file.get("model.layers.0.mlp.down_proj.lora_A.weight").is_some());
    assert!(found.file.tensors.iter().all(|t| !t.name.ends_with("base_layer.weight")), "a copy of the base");
    let wide = Combination { rank: Some(40), ..how("svd", &weights) };
    let found = combine(&Threads::one(), &inputs, &wide).unwrap();
    assert_eq!(found.file.config.lora.rank, 40);
    assert_sum(&found, &inputs, &weights, scale);
    assert!(found.cut < 1e-6, "{}", found.cut);
    let narrow =
        combine(&Threads::one(), &inputs, &Combination { rank: Some(2), ..how("svd", &weights) }).unwrap();
    assert!(narrow.cut > 0.1, "{}", narrow.cut);
}

#[test]
fn targets_select_the_union_of_the_modules() {
    let a = golden("algebra/inputs/a");
    let layers = golden("variants/layers_to_transform/adapter");
    let regex = golden("variants/regex_target/adapter");
    let names = |c: Combined| match c.file.config.lora.targets {
        Targets::Names(names) => names,
        other => panic!("{other:?}"),
    };
    let one =
        |inputs: &[Input]| combine(&Threads::one(), inputs, &how("cat", &vec![1.0; inputs.len()])).unwrap();
    assert_eq!(names(one(&[a.clone(), a.clone()])), ["down_proj", "q_proj", "v_proj"]);
    // Where the union of the words would select more than there is, every path is named.
    for other in [&layers, &regex] {
        let found = one(&[a.clone(), other.clone()]);
        let mut paths: Vec<String> = found
            .file
            .tensors
            .iter()
            .filter_map(|t| t.name.strip_suffix(".lora_A.weight").map(str::to_string))
            .collect();
        paths.sort();
        assert!(paths.len() > 6);
        assert!(found.file.config.lora.layers_to_transform.is_none());
        assert_eq!(names(found), paths);
    }
    let pattern = one(&[regex.clone(), regex.clone()]).file.config.lora.targets;
    assert_eq!(pattern, regex.file.config.lora.targets);
}

#[track_caller]
fn refusal(inputs: &[Input], weights: &[f64]) -> String {
    combine(&Threads::one(), inputs, &how("cat", weights)).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn features_that_do_not_add_up_are_refused() {
    for (name, key) in [
        ("dora", "use_dora"),
        ("bias_all", "bias"),
        ("lora_bias", "lora_bias"),
        ("modules_to_save", "modules_to_save"),
        ("trainable_tokens", "trainable_token_indices"),
    ] {
        let input = golden(&format!("variants/{name}/adapter"));
        let text = refusal(&[input.clone(), input], &[1.0, 1.0]);
        assert!(text.contains(&format!("`{key}`")) && text.contains(name), "{name}: {text}");
    }
    let mut residual = golden("algebra/inputs/a");
    residual.file.config.lora.init = Init::Pissa;
    let text = refusal(&[residual], &[1.0]);
    assert!(text.contains("`init_lora_weights`"), "{text}");
    let mut broken = golden("algebra/inputs/a");
    broken.file.tensors[0].values[3] = f32::NAN;
    let name = broken.file.tensors[0].name.clone();
    let text = refusal(&[broken], &[1.0]);
    assert!(text.contains(&name) && text.contains("NaN"), "{text}");
}
