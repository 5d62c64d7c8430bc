//! What a resumed run needs: parameters, optimizer state, the loader's place, and with which settings it got there.
//! Resuming from it is bit-exact.

use std::cell::Cell;
use std::path::Path;

use ferrotune_kernels::{Device, Tensor, Threads};
use serde::{Deserialize, Serialize};

use super::manifest::Digests;
use crate::data::loader::LoaderState;
use crate::formats::atomic::write_atomic;
use crate::formats::safetensors::{Dtype, OutTensor, SafeFile, write_hashed};
use crate::model::Params;
use crate::optim::{Optimizer, Saved};
use crate::run_config::{Difference, Settings};
use crate::{Error, Result};

const PARAMS: &str = "parameters.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// Where a run stood.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    /// Version of this layout; see [`super::manifest`].
    pub format: u32,
    /// Optimizer steps done.
    pub step: usize,
    /// Place in the data.
    pub loader: LoaderState,
    /// The time that chat templates print, in seconds since 1970: a resumed run has the rows of before.
    pub clock: i64,
    /// Hash of the tokenized rows.
    pub data: String,
    /// Hash of the base model's files.
    pub base: String,
    /// Instruction set that computed it.
    pub isa: String,
    /// The settings that decide the run's numbers.
    pub settings: Settings,
    /// Settings that were changed on the way, with the user's consent.
    pub changes: Vec<Changed>,
}

/// Settings that were changed when a run was resumed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// Optimizer steps done before.
    pub after_step: usize,
    /// What was changed.
    pub differences: Vec<Difference>,
}

/// Writes a checkpoint's files into `folder`; gives the digests of the large ones.
pub fn save(
    threads: &Threads,
    folder: &Path,
    state: &TrainState,
    params: &Params,
    optimizer: &dyn Optimizer,
) -> Result<Digests> {
    // Of tensors in a file one is in memory at a time.
    let last = Cell::new(None);
    let params_out: Vec<(String, OutTensor<'_>)> =
        params.iter().map(|(n, t)| (n.to_string(), out(Saved::Tensor(t), &last))).collect();
    let mut digests = Digests::new();
    digests.insert(PARAMS.to_string(), write_hashed(threads, &folder.join(PARAMS), &params_out)?);
    let moments = optimizer.state(params);
    let moments_out: Vec<(String, OutTensor<'_>)> =
        moments.iter().map(|(n, saved)| (n.clone(), out(*saved, &last))).collect();
    digests.insert(OPTIMIZER.to_string(), write_hashed(threads, &folder.join(OPTIMIZER), &moments_out)?);
    last.take().into_iter().for_each(Tensor::release);
    let text =
        serde_json::to_string_pretty(state).map_err(|e| Error::file(folder.join(STATE), e.to_string()))?;
    write_atomic(&folder.join(STATE), text.as_bytes())?;
    Ok(digests)
}

fn out<'a>(saved: Saved<'a>, last: &'a Cell<Option<&'a Tensor>>) -> OutTensor<'a> {
    match saved {
        Saved::Tensor(t) if t.in_file() => OutTensor::f32(&t.shape(), t.host_f32())
            .when_written(move || last.replace(Some(t)).into_iter().for_each(Tensor::release)),
        Saved::Tensor(t) => OutTensor::f32(&t.shape(), t.host_f32()),
        Saved::Codes(shape, codes) => OutTensor::bytes(Dtype::U8, &shape, codes),
        Saved::Scales(scales) => OutTensor::f32(&[1, scales.len()], scales),
    }
}

/// Where the run stood.
pub(crate) fn read_state(folder: &Path) -> Result<TrainState> {
    let path = folder.join(STATE);
    let text = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
    serde_json::from_slice(&text).map_err(|e| Error::file(&path, format!("not a training state: {e}")))
}

/// Restores parameters and optimizer as they were after the steps of `state`.
pub fn load(
    folder: &Path,
    state: &TrainState,
    dev: &Device,
    params: &mut Params,
    optimizer: &mut dyn Optimizer,
) -> Result<()> {
    let read = |file: &SafeFile, name: &str, shape: [usize; 2]| {
        let (found, values) = match file.get(name).filter(|t| t.dtype == Dtype::U8) {
            Some(codes) => (codes.shape.clone(), codes.bytes.as_slice().iter().map(|b| *b as f32).collect()),
            None => file.f32(name)?,
        };
        if found != shape {
            let problem = format!("shape is {found:?}, the run's is {shape:?}");
            return Err(Error::tensor(file.path(), name, problem).with_hint(OTHER_RUN));
        }
        Ok(values)
    };
    let file = SafeFile::open(&folder.join(PARAMS))?;
    let names = params.names().to_vec();
    if let Some((left, _)) = file.iter().find(|(name, _)| params.find(name).is_none()) {
        return Err(Error::tensor(file.path(), left, "this run trains no such tensor").with_hint(OTHER_RUN));
    }
    for name in &names {
        if let Some(id) = params.find(name) {
            let shape = params.get(id).shape();
            let values = read(&file, name, shape)?;
            params.set(dev, id, &values);
        }
    }
    let file = SafeFile::open(&folder.join(OPTIMIZER))?;
    let restored = optimizer.restore(params, state.step as u64, &mut |name, shape| read(&file, name, shape));
    restored.map_err(|e| e.with_hint(OTHER_RUN))
}

/// What helps where tensors are of another kind of run: no consent makes these fit.
const OTHER_RUN: &str = "the checkpoint is of another run: what is trained and the optimizer must be those of before; \
                         begin anew with --restart, which keeps it aside, or in another output.dir";
