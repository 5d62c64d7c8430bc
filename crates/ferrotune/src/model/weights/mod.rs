//! A checkpoint's tensors become a [`Decoder`]: every name is consumed exactly once, every shape is checked.

use std::collections::BTreeSet;

use ferrotune_kernels::Device;

use super::decoder::Decoder;
use super::families::architecture;
use super::params::Params;
pub(crate) use super::storage::dense;
pub use super::storage::{BaseStorage, FourBitOptions};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::base_cache::{BaseCache, BaseWriter, CachedBase, Entry};
use crate::{Error, Result};

mod loader;

use loader::Loader;

/// Loads the network for sequences of up to `positions` tokens, with its parameters if it is trained.
pub fn load(
    dev: &Device,
    checkpoint: &Checkpoint,
    storage: BaseStorage,
    positions: usize,
) -> Result<(Decoder, Params)> {
    load_linears(dev, checkpoint, storage, positions, Linears::Convert)
}

/// Like [`load`], with quantized linears from a cache, where they are put first if they are not there. `note` hears
/// what is wrong with the cache; the network is the same with and without it.
pub fn load_cached(
    dev: &Device,
    checkpoint: &Checkpoint,
    storage: BaseStorage,
    positions: usize,
    cache: Option<&BaseCache>,
    note: &mut dyn FnMut(String),
) -> Result<(Decoder, Params)> {
    let Some(entry) = cache.and_then(|cache| cache.entry(checkpoint, storage)) else {
        return load(dev, checkpoint, storage, positions);
    };
    let found = entry.open().unwrap_or_else(|e| {
        note(format!("the quantized base is made again: {e}"));
        None
    });
    let made = match found {
        Some(found) => Ok(found),
        None => fill(dev, checkpoint, storage, &entry)?,
    };
    let linears = match &made {
        Ok(cached) => Linears::Read(cached),
        Err(e) => {
            note(format!("the quantized base is not kept for the next start: {e}"));
            Linears::Convert
        }
    };
    load_linears(dev, checkpoint, storage, positions, linears)
}

/// Quantizes a base into the cache, one linear after the other. The outer error is the checkpoint's, the inner one the
/// cache's.
fn fill(
    dev: &Device,
    checkpoint: &Checkpoint,
    storage: BaseStorage,
    entry: &Entry<'_>,
) -> Result<Result<CachedBase>> {
    let mut writer = match entry.create(architecture(checkpoint.config())?.linear_count()) {
        Ok(writer) => writer,
        Err(e) => return Ok(Err(e)),
    };
    load_linears(dev, checkpoint, storage, 1, Linears::Write(&mut writer))?;
    Ok(entry.finish(writer))
}

fn load_linears(
    dev: &Device,
    checkpoint: &Checkpoint,
    storage: BaseStorage,
    positions: usize,
    from: Linears<'_>,
) -> Result<(Decoder, Params)> {
    let arch = architecture(checkpoint.config())?;
    let (params, consumed) = (Params::default(), BTreeSet::new());
    let mut loader = Loader { dev, checkpoint, storage, from, params, consumed, linears: 0 };
    let decoder = loader.decoder(arch, positions)?;
    let left = checkpoint.unused(&loader.consumed);
    if !left.is_empty() {
        let shown = left.iter().take(5).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        let problem = format!("{} tensors belong to no part of the network: {shown}", left.len());
        return Err(Error::file(checkpoint.path(), problem)
            .with_hint("the folder's weights and its config.json describe different networks"));
    }
    Ok((decoder, loader.params))
}

/// Where the linears of the layers come from, or go to.
enum Linears<'a> {
    /// From the checkpoint, converted.
    Convert,
    /// From a cache.
    Read(&'a CachedBase),
    /// Into a cache: the network has empty matrices in their place.
    Write(&'a mut BaseWriter),
}
