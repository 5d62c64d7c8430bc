//! The kinds of adapters: one file has all that a kind does at a linear, from its tensors to merging.
//!
//! A kind is an entry of `KINDS`. Everything else (choice of modules, initialisation, files, training, plan, merging)
//! asks it through [`Kind`] and through what it puts at each linear, a [`LinearAdapter`].

mod dora;
mod lora;

pub(super) use lora::{plus_product, random_a};

use ferrotune_kernels::ops::linear::Matrix;
use ferrotune_kernels::{Device, Weight};

use super::config::LoraConfig;
use crate::Result;
use crate::arch::architecture::Architecture;
use crate::model::parts::LinearLayer;
use crate::model::pass::LinearAdapter;
use crate::model::{Group, ParamId, Params};

/// All kinds, in no order: options ask for one of them.
const KINDS: &[&dyn Kind] = &[&lora::Lora, &dora::Dora];

/// The kind that options ask for.
pub fn kind(config: &LoraConfig) -> &'static dyn Kind {
    let found = KINDS.iter().find(|kind| kind.is_asked_for(config));
    *found.unwrap_or_else(|| unreachable!("a test holds that every choice has a kind"))
}

/// A kind of adapter.
pub trait Kind: Sync {
    /// Whether the options ask for it.
    fn is_asked_for(&self, config: &LoraConfig) -> bool;

    /// Refuses options that it does not have.
    fn check(&self, config: &LoraConfig) -> Result<()>;

    /// PEFT's name of the option that makes it more than `s B A` beside the weights of the base. Only what is no more is
    /// there for the embedding and for stacked experts, and can be combined.
    fn beyond_low_rank(&self, config: &LoraConfig) -> Option<&'static str>;

    /// The tensors that it has at a linear.
    fn tensors(&self, config: &LoraConfig, at: Place<'_>) -> Vec<TensorSpec>;

    /// Writes the first values of one of these tensors over zeros.
    fn init(&self, fresh: &Fresh<'_>, tensor: &TensorSpec, out: &mut [f32]);

    /// Writes first values that follow from the weight and from the other tensors, which have theirs.
    fn settle(&self, _: &Device, _: Matrix<'_>, _: Place<'_>, _: &[ParamId], _: &mut Params) -> Result<()> {
        Ok(())
    }

    /// What computes with the parameters, which are in the order of the tensors.
    fn linear(&self, config: &LoraConfig, at: Place<'_>, ids: &[ParamId]) -> Box<dyn LinearAdapter>;

    /// Values that a token keeps at a linear from the forward to the backward.
    fn kept_per_token(&self, at: Place<'_>) -> usize;

    /// Bytes that a token takes while a layer is at work, beyond what the layer takes by itself.
    fn workspace_per_token(&self, _: &Architecture) -> usize {
        0
    }
}

/// A targeted linear with the constants that the options give it.
#[derive(Debug, Clone, Copy)]
pub struct Place<'m> {
    /// The linear.
    pub linear: &'m LinearLayer,
    /// Rank.
    pub rank: usize,
    /// Factor of the product.
    pub scale: f32,
}

/// A tensor of a kind at a linear.
#[derive(Debug, Clone, Copy)]
pub struct TensorSpec {
    /// Its name after the path of the linear, as PEFT has it: `lora_A.weight`.
    pub name: &'static str,
    /// Rows; 1 for a vector.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Whether it is a vector in files.
    pub vector: bool,
    /// What it is to an optimizer.
    pub group: Group,
    /// The key of `adapter_config.json` that asks for it.
    pub asked_by: &'static str,
}

/// Where a branch starts, and what is left of the weight.
pub(in crate::lora) struct InitialBranch {
    /// `A [R, K]`.
    pub(in crate::lora) a: Vec<f32>,
    /// `B [N, R]`.
    pub(in crate::lora) b: Vec<f32>,
    /// The frozen weight from now on.
    pub(in crate::lora) base: Weight,
}

/// What the first values of a kind's tensors follow from.
pub struct Fresh<'a> {
    /// The options.
    pub config: &'a LoraConfig,
    /// The linear.
    pub at: Place<'a>,
    /// The run's seed.
    pub seed: u64,
    /// A and B that an initialisation took out of the frozen weight.
    pub(super) initial: Option<&'a InitialBranch>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::adapter::AdapterKind;

    #[test]
    fn every_choice_has_one_kind() {
        for adapter in AdapterKind::ALL {
            for dora in [false, true] {
                let config = LoraConfig { adapter: *adapter, dora, ..LoraConfig::default() };
                let asked = KINDS.iter().filter(|kind| kind.is_asked_for(&config)).count();
                assert_eq!(asked, 1, "{adapter}, dora {dora}");
            }
        }
    }
}
