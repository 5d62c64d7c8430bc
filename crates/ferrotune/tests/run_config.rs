//! Reading, overriding, refusing and writing run files.

use ferrotune::error::Error;
use ferrotune::run_config::{EvalSource, MethodKind, Notation, QuantKind, RunConfig, Shape, Targets};

fn yaml(text: &str) -> Result<RunConfig, Error> {
    RunConfig::parse(text, Notation::Yaml, "run.yaml", &[])
}

fn with(overrides: &[&str]) -> Result<RunConfig, Error> {
    let overrides: Vec<String> =
        ["model.base=x"].iter().chain(overrides).map(|text| (*text).to_string()).collect();
    RunConfig::from_overrides(&overrides)
}

/// The message and the hint of a refusal.
fn refusal(result: Result<RunConfig, Error>) -> (String, String) {
    let error = result.expect_err("accepted");
    (error.to_string(), error.hint().unwrap_or_default())
}

const EXAMPLE: &str = "
model:  { base: HuggingFaceTB/SmolLM2-135M-Instruct }
method: { kind: qlora, rank: 16, alpha: 32, targets: all-linear, quant: { type: nf4, double: true, block: 64 } }
data:   { train: facts.jsonl, eval: 5%, format: auto, supervise: assistant, max_length: 1024, packing: true }
train:  { epochs: 1, batch_tokens: 4096, lr: 2.0e-4, schedule: cosine, warmup: 0.03, optimizer: adamw, seed: 0 }
output: { dir: runs/facts, checkpoint_every: 200 }
";

#[test]
fn the_documented_example_is_read() {
    let config = yaml(EXAMPLE).unwrap();
    assert_eq!(config.model.base, "HuggingFaceTB/SmolLM2-135M-Instruct");
    assert_eq!(config.method.kind, MethodKind::Qlora);
    assert_eq!(config.method.quant.kind, QuantKind::Nf4);
    assert_eq!(config.data.train, ["facts.jsonl"]);
    assert_eq!(config.data.eval, EvalSource::Share(0.05));
    assert_eq!(config.train.schedule, Shape::Cosine);
    assert_eq!(config.train.lr, Some(2e-4));
    assert_eq!(config.output.checkpoint_every, Some(200));
}

#[test]
fn defaults_are_those_of_the_page() {
    let config = with(&[]).unwrap();
    assert_eq!(
        (config.method.lora.rank, config.method.lora.alpha, config.method.lora.dropout),
        (16, 32.0, 0.0)
    );
    assert_eq!(config.method.lora.targets, Targets::AllLinear);
    assert_eq!(config.method.quant.kind, QuantKind::Auto);
    assert_eq!((config.data.max_length, config.data.packing, config.data.shuffle), (1024, true, true));
    assert!(config.data.share_prefixes);
    assert_eq!((config.train.batch_tokens, config.train.betas, config.train.eps), (4096, [0.9, 0.999], 1e-8));
    assert_eq!(config.lr(), 2e-4);
    assert_eq!(with(&["method.kind=full"]).unwrap().lr(), 1e-5);
}

#[test]
fn yaml_anchors_merge_keys_and_exponents_work() {
    let config = yaml(
        "x-common: &common { lr: 1e-4, weight_decay: 1e-2, seed: 7 }\n\
         model: { base: &b some/model }\n\
         train:\n  <<: *common\n  seed: 8\n\
         output: { dir: *b }\n",
    )
    .unwrap();
    assert_eq!(config.train.lr, Some(1e-4));
    assert_eq!(config.train.weight_decay, 0.01);
    assert_eq!(config.train.seed, 8);
    assert_eq!(config.output.dir, "some/model");
}

#[test]
fn toml_and_json_say_the_same_as_yaml() {
    let toml =
        "model.base = \"m\"\n[train]\nlr = 1e-4\nbetas = [0.8, 0.9]\n[method]\ntargets = [\"q_proj\"]\n";
    let json = r#"{"model": {"base": "m"}, "train": {"lr": 1e-4, "betas": [0.8, 0.9]}, "method": {"targets": ["q_proj"]}}"#;
    let plain =
        yaml("model: {base: m}\ntrain: {lr: 1e-4, betas: [0.8, 0.9]}\nmethod: {targets: [q_proj]}").unwrap();
    assert_eq!(plain.train.lr, Some(1e-4));
    assert_eq!(RunConfig::parse(toml, Notation::Toml, "run.toml", &[]).unwrap(), plain);
    assert_eq!(RunConfig::parse(json, Notation::Json, "run.json", &[]).unwrap(), plain);
    for (name, notation) in
        [("a.toml", Notation::Toml), ("b.JSON", Notation::Json), ("c.yml", Notation::Yaml)]
    {
        assert_eq!(Notation::from_path(std::path::Path::new(name)), notation);
    }
}

#[test]
fn names_of_the_field_are_aliases() {
    let config = yaml(
        "model: {model_name_or_path: m, torch_dtype: bfloat16}\n\
         method: {r: 8, lora_alpha: 4, lora_dropout: 0.1, target_modules: '.*q_proj', use_rslora: true, init_lora_weights: true}\n\
         train: {learning_rate: 1e-3, num_train_epochs: 3, max_grad_norm: 0, warmup_ratio: 0.1, optim: adamw_torch}\n\
         data: {max_seq_length: 77, supervise: completion}\n",
    )
    .unwrap();
    assert_eq!((config.method.lora.rank, config.method.lora.alpha), (8, 4.0));
    assert_eq!(config.method.lora.targets, Targets::Regex(".*q_proj".to_string()));
    let (rank, scale) = config.method.lora.branches(&["model.layers.0.self_attn.q_proj"]).unwrap()[0];
    assert!(rank == 8 && (scale - 4.0 / 8f32.sqrt()).abs() < 1e-6);
    assert_eq!((config.train.lr, config.train.epochs, config.train.warmup), (Some(1e-3), 3, 0.1));
    assert_eq!(config.train.max_grad_norm, 0.0);
    assert_eq!(config.data.max_length, 77);
}

#[test]
fn every_setting_of_an_adapter_is_read_and_written_back() {
    let config = yaml(
        "model: { base: m }\n\
         method:\n\
        \x20 use_dora: true\n\
        \x20 bias: lora_only\n\
        \x20 exclude_modules: [o_proj]\n\
        \x20 layers_to_transform: 3\n\
        \x20 layers_pattern: layers\n\
        \x20 rank_pattern: { zeta: 4, alpha: 2 }\n\
        \x20 alpha_pattern: { zeta: 1.5 }\n\
        \x20 modules_to_save: lm_head\n\
        \x20 trainable_token_indices: [7, 5]\n\
        \x20 init_lora_weights: loftq\n\
        \x20 loftq_iter: 3\n\
        \x20 loraplus_lr_ratio: 16\n",
    )
    .unwrap();
    let m = &config.method;
    assert_eq!(m.loraplus_lr_ratio, Some(16.0));
    let m = &m.lora;
    assert!(m.dora && !m.lora_bias);
    assert_eq!(m.exclude, Some(Targets::Names(vec!["o_proj".to_string()])));
    assert_eq!((m.layers_to_transform.clone(), m.layers_pattern.len()), (Some(vec![3]), 1));
    // The first that matches counts, so the order stays.
    assert_eq!(m.rank_pattern, [("zeta".to_string(), 4), ("alpha".to_string(), 2)]);
    assert_eq!(m.alpha_pattern, [("zeta".to_string(), 1.5)]);
    assert_eq!((m.modules_to_save.len(), m.trainable_tokens.as_slice()), (1, &[7, 5][..]));
    assert_eq!(m.loftq_iterations, 3);
    assert_eq!(yaml(&config.to_yaml()).unwrap(), config);
}

#[test]
fn overrides_win_over_the_file_under_any_name() {
    let set = |text: &str| vec![text.to_string()];
    let read =
        |overrides: Vec<String>| RunConfig::parse(EXAMPLE, Notation::Yaml, "run.yaml", &overrides).unwrap();
    assert_eq!(read(set("train.learning_rate=1e-5")).train.lr, Some(1e-5));
    assert_eq!(read(set("method.quant.type=fp4")).method.quant.kind, QuantKind::Fp4);
    assert_eq!(read(set("data.eval=none")).data.eval, EvalSource::None);
    assert_eq!(read(set("data.eval=")).data.eval, EvalSource::None);
    assert_eq!(read(set("data.train=[a.jsonl, b.jsonl]")).data.train, ["a.jsonl", "b.jsonl"]);
    assert_eq!(
        read(set("method.targets=[q_proj, v_proj]")).method.lora.targets,
        Targets::Names(vec!["q_proj".to_string(), "v_proj".to_string()])
    );
    assert_eq!(read(set("train.memory=8GiB")).train.memory, Some(8 << 30));
    let last = read(vec!["train.seed=1".to_string(), "train.seed=2".to_string()]);
    assert_eq!(last.train.seed, 2);
}

#[test]
fn refusals_name_the_key_and_what_was_expected() {
    let cases: &[(Result<RunConfig, Error>, &str, &str)] = &[
        (
            yaml("model: {base: m}\ntrain: {leraning_rate: 1}"),
            "train.leraning_rate: unknown key (in run.yaml",
            "`train.learning_rate`",
        ),
        (yaml("model: {base: m}\nmodle: {}"), "modle: unknown key", "`model`"),
        (
            yaml("model: {base: m}\nmethod: {quant: {tpye: nf4}}"),
            "method.quant.tpye: unknown key",
            "`method.quant.type`",
        ),
        (
            yaml("model: {base: m}\nmethod: {zzzzzzzz: 1}"),
            "method.zzzzzzzz: unknown key",
            "known here: kind, adapter, rank, alpha,",
        ),
        (yaml("model: {base: m}\ntrain: {lr: fast}"), "train.lr: found \"fast\", expected a number", ""),
        (
            yaml("model: {base: m}\nmethod: {r: 8, rank: 4}"),
            "method.r: the same setting as `method.rank`",
            "keep one",
        ),
        (
            yaml("model: {base: m}\nmethod: {kind: qlroa}"),
            "method.kind: found \"qlroa\", expected one of full, lora, qlora",
            "`qlora`",
        ),
        (yaml("model: {base: m}\nmethod: {rank: 0}"), "method.rank: found 0, expected at least 1", ""),
        (
            yaml("model: {base: m}\nmethod: {rank: 2.5}"),
            "method.rank: found 2.5, expected a whole number",
            "",
        ),
        (
            yaml("model: {base: m}\nmethod: {targets: '('}"),
            "method.targets: \"(\" is not a regular expression",
            "list",
        ),
        (
            yaml("model: {base: m}\nmethod: {targets: []}"),
            "method.targets: found a list, expected all-linear",
            "",
        ),
        (yaml("model: {base: m}\ndata: {eval: 150%}"), "data.eval: found 1.5, expected a share", ""),
        (yaml("model: {base: m}\ndata: 3"), "data: found 3, expected keys and values", ""),
        (yaml("model: {base: m}\ntrain: {memory: 8 apples}"), "train.memory: found \"8 apples\"", ""),
        (yaml("train: {lr: 1}"), "model.base: no model is named", "hub id"),
        (yaml(""), "run.yaml: the file is empty", "sections"),
        (yaml("- a"), "run.yaml: found a list", "sections"),
        (yaml("a: [b"), "run.yaml: not valid YAML", ""),
        (
            yaml("model: {base: m, base: n}"),
            "run.yaml: not valid YAML: line 1: the key `base` is there twice",
            "",
        ),
        (with(&["lr=3"]), "lr: an override names a section and a key", "train.lr=1e-4"),
        (with(&["train.lr"]), "train.lr: an override needs `=`", "train.lr=1e-4"),
        (with(&["train.lrr=3"]), "train.lrr: unknown key", "`train.lr`"),
        (with(&["train.betas=[0.9]"]), "train.betas: found a list, expected two numbers", ""),
        (with(&["train.warmup=2.5"]), "train.warmup: found 2.5, expected a share", ""),
    ];
    for (result, message, hint) in cases {
        let found = result.as_ref().expect_err(message);
        assert!(found.to_string().contains(message), "{found} does not contain {message}");
        assert!(
            found.hint().unwrap_or_default().contains(hint),
            "{:?} does not contain {hint}",
            found.hint()
        );
    }
}

#[test]
fn what_is_written_reads_back_the_same() {
    let every_key = with(&[
        "model.revision=\"12345\"",
        "model.dtype=bf16",
        "method.kind=full",
        "method.rank=3",
        "method.alpha=0.1",
        "method.dropout=0.05",
        "method.targets=[a, b.c]",
        "method.rslora=true",
        "method.init=gaussian",
        "method.quant.type=keep",
        "method.quant.double=false",
        "method.quant.block=128",
        "data.train=[a b.jsonl, 'no']",
        "data.eval=1%",
        "data.format=tokens",
        "data.supervise=all",
        "data.max_length=2048",
        "data.packing=false",
        "data.share_prefixes=no",
        "data.shuffle=off",
        "data.truncation=keep_end",
        "data.overlong=drop",
        "data.system=\"Be: brief\\n# now\"",
        "train.epochs=2",
        "train.max_steps=9",
        "train.batch_tokens=99",
        "train.batch_rows=8",
        "train.micro_batch_tokens=512",
        "train.lr=3e-7",
        "train.schedule=constant",
        "train.warmup=10",
        "train.min_lr_ratio=0.1",
        "train.betas=[0.8, 0.95]",
        "train.eps=1e-12",
        "train.weight_decay=0.01",
        "train.max_grad_norm=0",
        "train.loss_normalization=labels",
        "train.seed=18446744073709551615",
        "train.precision=f32",
        "train.threads=2",
        "train.init_adapter=runs/a",
        "train.eval_every=10",
        "train.log_every=5",
        "train.activations=recompute",
        "train.stream=always",
        "train.memory=1.5GiB",
        "output.dir=\"true\"",
        "output.checkpoint_every=7",
        "output.keep_checkpoints=1",
    ])
    .unwrap();
    for config in [every_key, with(&[]).unwrap(), yaml(EXAMPLE).unwrap()] {
        let written = config.to_yaml();
        let again = yaml(&written).unwrap_or_else(|e| panic!("{e}\n{written}"));
        assert_eq!(again, config, "{written}");
        assert_eq!(again.to_yaml(), written);
    }
}

#[test]
fn target_rules_are_those_of_peft() {
    let name = "model.layers.0.self_attn.q_proj";
    let matches = |targets: &str, name: &str| {
        with(&[&format!("method.targets={targets}")]).unwrap().method.lora.targets.select(&[name]).is_ok()
    };
    assert!(matches("all-linear", name));
    assert!(matches("[q_proj]", name));
    assert!(matches("[self_attn.q_proj]", name));
    assert!(!matches("[proj]", name));
    assert!(!matches("q_proj", name), "a string is a pattern for the whole name");
    assert!(matches("'.*\\.q_proj'", name));
    assert!(matches("'.*layers\\.(0|1)\\..*'", name));
    assert!(!matches("'.*q_pro'", name));
}

#[test]
fn warmup_is_a_share_or_a_number_of_steps() {
    let steps =
        |warmup: &str, total| with(&[&format!("train.warmup={warmup}")]).unwrap().train.warmup_steps(total);
    assert_eq!(steps("0.03", 100), 3);
    assert_eq!(steps("0.03", 10), 1);
    assert_eq!(steps("0", 10), 0);
    assert_eq!(steps("5", 100), 5);
}

#[test]
fn a_missing_file_is_named() {
    let (message, hint) = refusal(RunConfig::load(std::path::Path::new("no/such/run.yaml"), &[]));
    assert!(message.contains("no/such/run.yaml"), "{message}");
    assert!(hint.contains("check the path"), "{hint}");
}
