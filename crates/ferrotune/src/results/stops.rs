//! Tokens that end an answer, in the files of a result: what rows taught joins the model's own.
//!
//! Other programs stop at what `generation_config.json` (or, without it, `config.json`) names. A base of plain text that
//! learned a chat template ends its answers with a token that neither of its files knows.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::arch::config::{ModelConfig, token_ids};
use crate::formats::atomic::write_atomic;
use crate::formats::{Checkpoint, GENERATION_CONFIG};
use crate::{Error, Result};

/// The key of the ids, in both files.
const KEY: &str = "eos_token_id";

/// Settings of generation that old configurations hold themselves; transformers reads them there if there is no file.
const IN_CONFIG: [&str; 9] = [
    "bos_token_id",
    "pad_token_id",
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "repetition_penalty",
    "max_length",
    "num_beams",
];

/// The base's settings of generation with `learned` among the tokens that end an answer; `None` if they need no change.
pub fn generation_config(base: &Checkpoint, learned: &[u32]) -> Result<Option<Value>> {
    let (own, ids) = (base.generation_json()?, base.eos_ids()?);
    let Some(ids) = joined(&ids, learned) else { return Ok(None) };
    let mut settings = own.and_then(|v| v.as_object().cloned()).unwrap_or_else(|| of_config(base.config()));
    settings.insert(KEY.into(), ids);
    Ok(Some(settings.into()))
}

fn of_config(config: &ModelConfig) -> Map<String, Value> {
    let found = |key: &str| Some((key.to_string(), config.stated(key)?.clone()));
    IN_CONFIG.into_iter().filter_map(found).collect()
}

/// Adds the ids to a `config.json` that has `own`.
pub(crate) fn add_to_config(config: &mut Map<String, Value>, own: &[u32], learned: &[u32]) {
    if let Some(ids) = joined(own, learned) {
        config.insert(KEY.into(), ids);
    }
}

fn ids_of(settings: &Map<String, Value>) -> Vec<u32> {
    settings.get(KEY).and_then(token_ids).unwrap_or_default()
}

/// Both lists as one, the model's own first; `None` if nothing is new.
fn joined(own: &[u32], learned: &[u32]) -> Option<Value> {
    let mut ids = own.to_vec();
    for id in learned {
        if !ids.contains(id) {
            ids.push(*id);
        }
    }
    match ids.as_slice() {
        same if same.len() == own.len() => None,
        [one] => Some(json!(one)),
        many => Some(json!(many)),
    }
}

/// Writes the settings into `folder` if they differ from the base's.
pub fn write(folder: &Path, base: &Checkpoint, learned: &[u32]) -> Result<()> {
    write_settings(folder, generation_config(base, learned)?.as_ref())
}

/// Writes settings of generation into a folder, if there are any.
pub fn write_settings(folder: &Path, settings: Option<&Value>) -> Result<()> {
    match settings {
        Some(settings) => write_atomic(&folder.join(GENERATION_CONFIG), format!("{settings:#}\n").as_bytes()),
        None => Ok(()),
    }
}

/// The settings that stand in an adapter's folder.
pub(crate) fn of_folder(folder: &Path) -> Result<Option<Value>> {
    let path = folder.join(GENERATION_CONFIG);
    match std::fs::read(&path) {
        Ok(text) => crate::json::in_file(&path, &text).map(Some),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(&path, e)),
    }
}

/// The tokens that end an answer by an adapter's folder; those that a model of `vocab` tokens has.
pub fn of_adapter(folder: &Path, vocab: usize) -> Result<Vec<u32>> {
    let settings = of_folder(folder)?;
    let ids = settings.and_then(|s| s.get(KEY).and_then(token_ids)).unwrap_or_default();
    Ok(ids.into_iter().filter(|id| (*id as usize) < vocab).collect())
}

/// The settings of several adapters' folders as one: the first's, with the ids of all.
pub fn of_adapters<'a>(folders: impl Iterator<Item = &'a Path>) -> Result<Option<Value>> {
    let mut all: Option<Map<String, Value>> = None;
    for folder in folders {
        let Some(settings) = of_folder(folder)?.and_then(|v| v.as_object().cloned()) else { continue };
        match &mut all {
            None => all = Some(settings),
            Some(all) => add_to_config(all, &ids_of(all), &ids_of(&settings)),
        }
    }
    Ok(all.map(Value::Object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_added_and_never_lost() {
        assert_eq!(joined(&[2], &[2]), None);
        assert_eq!(joined(&[2], &[]), None);
        assert_eq!(joined(&[7, 2], &[2, 4]), Some(json!([7, 2, 4])));
        assert_eq!(joined(&[], &[4]), Some(json!(4)));
        let mut config = json!({"eos_token_id": -1}).as_object().cloned().unwrap();
        let own = ids_of(&config);
        add_to_config(&mut config, &own, &[4]);
        assert_eq!(config["eos_token_id"], 4, "-1 stands for none");
    }
}
