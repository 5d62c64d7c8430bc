//! What a run will be, decided before anything is downloaded, loaded or converted: from shapes, one pure step.
//!
//! [`RunPlan::new`] takes the run file, the checkpoint's shapes, the device and the sizes of the batches, and gives how the
//! base is held, what is trained, what layers keep for their backward, and the memory that all of it takes; or it refuses.
//! [`advise`] does so for every method. Training then only carries out the plan.

pub mod advise;
pub mod form;
pub mod init_adapter;
pub mod memory;
mod trained;
mod ways;

use ferrotune_kernels::{Device, Precision};

pub use memory::MemoryPlan;
pub use ways::{Way, lowered};

use crate::arch::families::architecture;
use crate::data::batches::{BatchSizes, Grouping};
use crate::formats::Checkpoint;
use crate::load::{BaseForm, BaseStorage, load};
use crate::lora::LoraConfig;
use crate::memory::available;
use crate::model::Decoder;
use crate::run_config::RunConfig;
use crate::{Result, loss};
use trained::Trained;

/// What a run will do, and what that takes.
#[derive(Debug, Clone)]
pub struct RunPlan {
    /// Column of the precision table.
    pub precision: Precision,
    /// How the base is held.
    pub form: BaseForm,
    /// The constants of the adapter; none if the model itself is trained.
    pub lora: Option<LoraConfig>,
    /// Whether layers are updated as soon as their gradients are whole.
    pub layer_by_layer: bool,
    /// Values that are trained.
    pub trained: usize,
    /// What layers keep, whether the base is streamed, and the memory of it all.
    pub way: Way,
}

impl RunPlan {
    /// The fastest way to run that fits.
    ///
    /// # Errors
    /// What the run file asks for does not go together with the model, or takes more memory than there is; the hint then
    /// names what would take less.
    pub fn new(
        config: &RunConfig,
        checkpoint: &Checkpoint,
        dev: &Device,
        lora: Option<LoraConfig>,
        batches: BatchSizes,
    ) -> Result<Self> {
        let arch = architecture(checkpoint.config())?;
        let precision = form::precision(config.train.precision, dev);
        let form = form::form(config, checkpoint, precision)?;
        let trained = Trained::new(config, lora.clone(), dev, &shapes(dev, checkpoint)?)?;
        let demand = trained.demand(config, &arch, form, precision, dev, batches);
        let budget = config.train.memory.or_else(available);
        Ok(RunPlan {
            precision,
            form,
            lora,
            layer_by_layer: trained::layer_by_layer(config, batches.single),
            trained: trained.elements(),
            way: ways::choose(config, checkpoint, &arch, &demand, budget)?,
        })
    }
}

/// Which rows belong together in a run with this adapter (or none).
pub(crate) fn grouping(
    config: &RunConfig,
    checkpoint: &Checkpoint,
    lora: Option<&LoraConfig>,
) -> Result<Grouping> {
    Ok(Grouping {
        rows_per_example: loss::init(config).rows_per_example(),
        longest: architecture(checkpoint.config())?.fixed_rotation(),
        own_masks: lora.is_some_and(|lora| lora.dropout > 0.0),
    })
}

/// The network without its values.
pub(crate) fn shapes(dev: &Device, checkpoint: &Checkpoint) -> Result<Decoder> {
    let shapes = Checkpoint::from_config(checkpoint.config().clone())?;
    Ok(load(dev, &shapes, BaseStorage::AsStored, 1)?.0)
}
