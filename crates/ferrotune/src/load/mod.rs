//! A checkpoint's tensors become a [`Decoder`]: every name is consumed exactly once, every shape is checked.

use std::collections::BTreeSet;

use ferrotune_kernels::Device;

use crate::arch::families::architecture;
use crate::formats::Checkpoint;
use crate::load::base_cache::{BaseCache, BaseWriter, CachedBase, Entry};
pub(crate) use crate::load::storage::dense;
pub use crate::load::storage::{BaseForm, BaseStorage};
use crate::model::decoder::Decoder;
use crate::model::params::Params;
use crate::{Error, Result};

#[allow(clippy::disallowed_methods, reason = "keeps quantized bases in a file")]
pub mod base_cache;
mod experts;
mod loader;
mod storage;

use loader::Loader;

/// Loads the network for sequences of up to `positions` tokens, with its parameters if it is trained.
pub fn load(
    dev: &Device,
    checkpoint: &Checkpoint,
    form: impl Into<BaseForm>,
    positions: usize,
) -> Result<(Decoder, Params)> {
    load_into(dev, checkpoint, form.into(), positions, Params::default())
}

/// Like [`load`], with trained parameters added to `params`, which says where they lie.
pub(crate) fn load_into(
    dev: &Device,
    checkpoint: &Checkpoint,
    form: BaseForm,
    positions: usize,
    params: Params,
) -> Result<(Decoder, Params)> {
    load_linears(dev, checkpoint, form, positions, Linears::Convert, params)
}

/// Like [`load`], with quantized matrices from a cache, where they are put first if they are not there. `note` hears
/// what is wrong with the cache; the network is the same with and without it.
pub(crate) fn load_cached(
    dev: &Device,
    checkpoint: &Checkpoint,
    form: BaseForm,
    positions: usize,
    cache: Option<&BaseCache>,
    note: &mut dyn FnMut(String),
) -> Result<(Decoder, Params)> {
    let Some(entry) = cache.map(|cache| cache.entry(&dev.threads(), checkpoint, form)).transpose()?.flatten()
    else {
        return load(dev, checkpoint, form, positions);
    };
    let found = entry.open().unwrap_or_else(|e| {
        note(format!("the quantized base is made again: {e}"));
        None
    });
    let made = match found {
        Some(found) => Ok(found),
        None => fill(dev, checkpoint, form, &entry)?,
    };
    let linears = match &made {
        Ok(cached) => Linears::Read(cached),
        Err(e) => {
            note(format!("the quantized base is not kept for the next start: {e}"));
            Linears::Convert
        }
    };
    load_linears(dev, checkpoint, form, positions, linears, Params::default())
}

/// Quantizes a base into the cache, one matrix after the other. The outer error is the checkpoint's, the inner one the
/// cache's.
fn fill(
    dev: &Device,
    checkpoint: &Checkpoint,
    form: BaseForm,
    entry: &Entry<'_>,
) -> Result<Result<CachedBase>> {
    let mut writer = match entry.create(architecture(checkpoint.config())?.linear_count() + TABLES) {
        Ok(writer) => writer,
        Err(e) => return Ok(Err(e)),
    };
    load_linears(dev, checkpoint, form, 1, Linears::Write(&mut writer), Params::default())?;
    Ok(entry.finish(writer))
}

fn load_linears(
    dev: &Device,
    checkpoint: &Checkpoint,
    form: BaseForm,
    positions: usize,
    from: Linears<'_>,
    params: Params,
) -> Result<(Decoder, Params)> {
    let arch = architecture(checkpoint.config())?;
    let consumed = BTreeSet::new();
    let mut loader = Loader { dev, checkpoint, form, from, params, consumed, linears: 0 };
    let decoder = loader.decoder(arch, positions)?;
    let left = checkpoint.unused(&loader.consumed);
    if !left.is_empty() {
        let shown = left.iter().take(5).map(|n| format!("`{}`", checkpoint.name_in_files(n)));
        let shown = shown.collect::<Vec<_>>().join(", ");
        let problem = format!("{} tensors belong to no part of the network: {shown}", left.len());
        return Err(Error::file(checkpoint.path(), problem)
            .with_hint("the folder's weights and its config.json describe different networks"));
    }
    checkpoint.release_all();
    Ok((decoder, loader.params))
}

/// Embedding and head.
const TABLES: usize = 2;

/// Where quantized matrices come from, or go to.
enum Linears<'a> {
    /// From the checkpoint, converted.
    Convert,
    /// From a cache.
    Read(&'a CachedBase),
    /// Into a cache: the network has empty matrices in their place.
    Write(&'a mut BaseWriter),
}
