//! The settings that decide the numbers of a run, and how two runs differ in them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{OptimizerKind, RunConfig};
use crate::options::keys;

/// The settings by dotted key, those that are not set left out.
pub type Settings = BTreeMap<String, Value>;

/// A setting that two runs have in different values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Dotted key.
    pub key: String,
    /// The value of before; null if the key was not set.
    pub before: Value,
    /// The value of now.
    pub now: Value,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |value: &Value| match value {
            Value::Null => "not set".to_string(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        write!(f, "{}: {} before, {} now", self.key, text(&self.before), text(&self.now))
    }
}

impl RunConfig {
    /// The settings that decide the numbers of the run: all but those of keys that are declared with `x-numbers: false`.
    /// Those change no number, or their effect is compared in another way: the content of the base and of the rows by
    /// hashes, memory and threads not at all, as every way to run gives the same bits.
    pub fn settings(&self) -> Settings {
        let mut all = Settings::new();
        flatten("", self.resolved_tree(), &mut all);
        for key in keys::<RunConfig>().iter().filter(|key| !key.decides_numbers()) {
            all.remove(&key.path);
        }
        // Moments in a file have the bits of those in memory.
        if let Some(optimizer) = all.get_mut("train.optimizer")
            && *optimizer == OptimizerKind::PagedAdamw.as_str()
        {
            *optimizer = OptimizerKind::Adamw.as_str().into();
        }
        all
    }
}

fn flatten(path: &str, value: Value, all: &mut Settings) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let path = if path.is_empty() { name } else { format!("{path}.{name}") };
                flatten(&path, value, all);
            }
        }
        Value::Null => {}
        value => {
            all.insert(path.to_string(), value);
        }
    }
}

/// What differs. A key that one side does not have is of another version of this program, or at its default.
pub fn differences(before: &Settings, now: &Settings) -> Vec<Difference> {
    let defaults = RunConfig::default().settings();
    let value = |side: &Settings, key: &String| {
        side.get(key).or_else(|| defaults.get(key)).cloned().unwrap_or(Value::Null)
    };
    let full = |side: &Settings| side.get("method.kind").is_some_and(|kind| kind == "full");
    let both_full = full(before) && full(now);
    let mut keys: Vec<&String> = before.keys().chain(now.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.retain(|key| !(both_full && key.starts_with("method.")));
    let differs = |key: &&String| value(before, key) != value(now, key);
    let difference =
        |key: &String| Difference { key: key.clone(), before: value(before, key), now: value(now, key) };
    keys.into_iter().filter(differs).map(difference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(sets: &[&str]) -> Settings {
        let sets: Vec<String> = ["model.base=m"].iter().chain(sets).map(|s| s.to_string()).collect();
        RunConfig::from_overrides(&sets).unwrap().settings()
    }

    fn differing(before: &[&str], now: &[&str]) -> Vec<String> {
        differences(&settings(before), &settings(now)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_decides_the_numbers_is_compared() {
        assert_eq!(differing(&["train.lr=1e-3"], &["train.lr=2e-3"]), ["train.lr: 0.001 before, 0.002 now"]);
        assert_eq!(differing(&[], &["train.max_steps=3"]), ["train.max_steps: not set before, 3 now"]);
        assert_eq!(
            differing(&["method.kind=lora"], &["method.kind=qlora", "method.quant.block=128"]),
            ["method.kind: lora before, qlora now", "method.quant.block: 64 before, 128 now"]
        );
        for set in [
            "method.alpha=8",
            "method.rslora=true",
            "method.dropout=0.1",
            "method.targets=[q_proj]",
            "train.schedule=cosine",
            "train.seed=1",
            "train.batch_rows=4",
            "train.betas=[0.8, 0.9]",
            "train.weight_decay=0.1",
            "train.optimizer=adamw8bit",
            "train.epochs=2",
            "train.init_adapter=x",
            "data.shuffle=false",
            "data.packing=false",
        ] {
            let key = set.split('=').next().unwrap();
            let found = differing(&["method.kind=lora"], &["method.kind=lora", set]);
            assert!(found.len() == 1 && found[0].starts_with(&format!("{key}: ")), "{set}: {found:?}");
        }
    }

    #[test]
    fn what_changes_no_number_is_not() {
        for set in [
            "train.threads=3",
            "train.memory=4GiB",
            "train.activations=recompute",
            "train.optimizer=paged_adamw",
            "output.dir=elsewhere",
            "output.checkpoint_every=7",
            "model.base=other/place",
            "data.train=moved.jsonl",
        ] {
            assert_eq!(differing(&[], &[set]), [] as [&str; 0], "{set}");
        }
        assert_eq!(differing(&["method.kind=full"], &["method.kind=full", "method.rank=3"]), [] as [&str; 0]);
    }

    #[test]
    fn a_key_that_the_other_version_lacked_is_at_its_default() {
        let mut older = settings(&[]);
        older.remove("train.schedule");
        assert_eq!(differences(&older, &settings(&[])), []);
        assert_eq!(differences(&older, &settings(&["train.schedule=cosine"])).len(), 1);
    }
}
