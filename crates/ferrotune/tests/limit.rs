//! A limit on memory that is lowered while a run goes on.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use ferrotune::base::BaseModel;
use ferrotune::results::run_folder::{Begin, RunFolder};
use ferrotune::run_config::RunConfig;
use ferrotune::train::Trainer;
use ferrotune_kernels::{Device, Threads};

fn config(folder: &Path, name: &str, model: &Path) -> RunConfig {
    let rows = folder.join("rows.jsonl");
    let row = |i: u32| {
        let ids: Vec<u32> = (0..24).map(|j| 5 + (i * 7 + j * 3) % 200).collect();
        serde_json::json!({"input_ids": ids, "labels": ids}).to_string() + "\n"
    };
    std::fs::write(&rows, (0..12).map(row).collect::<String>()).unwrap();
    let set = [
        format!("model.base={}", model.display()),
        format!("data.train={}", rows.display()),
        format!("output.dir={}", folder.join(name).display()),
        "data.format=tokens".into(),
        "method.rank=4".into(),
        "train.batch_rows=2".into(),
        "train.precision=f32".into(),
    ];
    RunConfig::from_overrides(&set).unwrap()
}

#[test]
fn a_lowered_limit_ends_the_run_with_a_checkpoint_that_is_gone_on_from() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/models/llama3_rope/model");
    let dir = tempfile::tempdir().unwrap();
    let base = BaseModel::open(&model, "model").unwrap();
    let dev = Device::cpu(Some(2), None).unwrap();
    let run = |name: &str, resume: bool, limit: fn() -> Option<u64>| {
        let config = config(dir.path(), name, &model);
        let begin = if resume { Begin::Resume } else { Begin::New };
        let mut folder = RunFolder::at(&dir.path().join(name), begin).unwrap();
        let prepared = base.prepare(&Threads::one(), &config).unwrap();
        let mut trainer = Trainer::new(&config, &base, &dev, prepared, &mut |_| {}).unwrap();
        trainer.limit = limit;
        folder.make().unwrap();
        if resume {
            let point = folder.resume_point(&Threads::one()).unwrap();
            trainer.resume(&folder, point, false, &mut |_| {}).unwrap();
        }
        let outcome = trainer.run(Some(&folder), &AtomicBool::new(false), &mut |_| {});
        let values: Vec<Vec<u32>> = trainer
            .session
            .trainable
            .params()
            .iter()
            .map(|(_, p)| p.host_f32().iter().map(|v| v.to_bits()).collect())
            .collect();
        (outcome, values)
    };
    let (whole, expected) = run("whole", false, || None);
    assert_eq!(whole.unwrap().steps, 6);
    let (lowered, _) = run("out", false, || Some(1 << 20));
    let error = lowered.unwrap_err();
    assert!(error.to_string().contains("lowered to 1 MB"), "{error}");
    assert!(dir.path().join("out/checkpoints/step-1/state.json").is_file(), "the step that was done");
    let (rest, found) = run("out", true, || None);
    assert_eq!(rest.unwrap().steps, 6);
    assert!(found == expected, "the same bits as a run that was left alone");
}
