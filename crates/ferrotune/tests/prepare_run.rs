//! From a run file to the batches of its steps.

use ferrotune::data::chat_template::Clock;
use ferrotune::data::loader::{Loader, LoaderOptions};
use ferrotune::data::tokenizer::{Tokenizer, TokenizerSettings};
use ferrotune::data::{PreparedData, TextModel, prepare};
use ferrotune::error::Result;
use ferrotune::run_config::RunConfig;
use ferrotune_kernels::Threads;
use serde_json::json;
use std::path::Path;

fn run(overrides: &[String]) -> Result<(PreparedData, RunConfig)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/models/llama3_rope/model");
    let config = std::fs::read_to_string(folder.join("tokenizer_config.json")).unwrap();
    let settings = TokenizerSettings::from_config(&serde_json::from_str(&config).unwrap());
    let tokenizer =
        Tokenizer::new(&std::fs::read(folder.join("tokenizer.json")).unwrap(), settings, "t").unwrap();
    let template = tokenizer.chat_template(Clock { unix_seconds: 0 }).unwrap();
    let config = RunConfig::from_overrides(overrides)?;
    Ok((
        prepare(
            &Threads::one(),
            &config,
            TextModel {
                tokenizer: &tokenizer,
                template: template.as_ref(),
                clock: Clock { unix_seconds: 0 },
                vocab_size: Some(320),
            },
            None,
        )?,
        config,
    ))
}

#[test]
fn a_run_file_gives_the_steps_of_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let row = |i: usize| json!({"messages": [{"role": "user", "content": format!("question {i}")}, {"role": "assistant", "content": "yes"}]});
    let text: String = (0..40).map(|i| format!("{}\n", row(i))).collect();
    std::fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    let set = |more: &[&str]| {
        let mut all = vec!["model.base=x".to_string(), format!("data.train={path}")];
        all.extend(more.iter().map(|text| (*text).to_string()));
        all
    };
    let (data, config) = run(&set(&["data.eval=10%", "train.batch_rows=5", "train.epochs=2"])).unwrap();
    assert_eq!((data.train.len(), data.eval.len(), data.files.len()), (36, 4, 1));
    assert_eq!(data.eval_report.unwrap().rows, 4);
    assert_eq!(data.stop_ids, [2, 4]);
    let loader = Loader::new(data.train.clone(), LoaderOptions::from(&config)).unwrap();
    assert_eq!(loader.steps_total(), 16);
    let label_tokens: usize = loader.map(|step| step.unwrap().label_tokens).sum();
    assert_eq!(label_tokens, 2 * data.train_report.label_tokens);

    // The same rows are held out whatever the order of training.
    let (other, _) = run(&set(&["data.eval=10%", "data.shuffle=false"])).unwrap();
    assert_eq!(other.eval, data.eval);
    let (files, _) = run(&set(&[&format!("data.eval={path}")])).unwrap();
    assert_eq!((files.train.len(), files.eval.len(), files.files.len()), (40, 40, 1));
    let (none, _) = run(&set(&[])).unwrap();
    assert!(none.eval.is_empty() && none.eval_report.is_none());

    let error = run(&["model.base=x".to_string()]).unwrap_err();
    assert_eq!(error.to_string(), "data.train: no file is named");
}
