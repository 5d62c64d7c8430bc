//! What an adapter puts beside the parts of a frozen model, or in their place.
//!
//! Nothing here touches the model: a part looks up what belongs to it, by the number of a linear or by its module path.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ferrotune_kernels::{Tensor, Weight};

use super::params::ParamId;

/// Number of a head that is the embedding.
pub(crate) const TIED_HEAD: usize = usize::MAX;

/// The parameters of a linear's branch, and its constants.
#[derive(Debug, Clone, Copy)]
pub struct BranchIds {
    /// `A [R, K]`.
    pub a: ParamId,
    /// `B [N, R]`.
    pub b: ParamId,
    /// A bias of B, `[1, N]`.
    pub bias: Option<ParamId>,
    /// DoRA: the trained lengths of the rows of `W + s B A`, `[1, N]`.
    pub magnitude: Option<ParamId>,
    /// `s`.
    pub scale: f32,
    /// Dropout on the input of A while training.
    pub dropout: f32,
}

/// Trained copies of a module's tensors.
#[derive(Debug, Clone, Copy, Default)]
pub struct Replaced {
    /// The weight.
    pub weight: Option<ParamId>,
    /// The bias, `[1, N]`.
    pub bias: Option<ParamId>,
}

/// A branch beside the embedding.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddingIds {
    /// `A [R, V]`.
    pub a: ParamId,
    /// `B [D, R]`.
    pub b: ParamId,
    /// `s`.
    pub scale: f32,
}

/// Trained rows of the embedding.
#[derive(Debug, Clone)]
pub struct TokenIds {
    /// The token of each row.
    pub ids: Vec<u32>,
    /// `[J, D]`.
    pub rows: ParamId,
}

/// All that an adapter adds or replaces.
#[derive(Debug, Default)]
pub struct Adapted {
    /// The branch of each linear, by its number.
    pub branches: Vec<Option<BranchIds>>,
    /// The branch of a head that is the embedding.
    pub tied_head: Option<BranchIds>,
    /// Frozen weights that stand in the place of the model's own, by the linear's number: what an initialisation that
    /// moves a part of the weight into the branch leaves of it.
    pub bases: BTreeMap<usize, Weight>,
    /// Trained copies, by module path.
    pub replaced: BTreeMap<String, Replaced>,
    /// A branch beside the embedding.
    pub embedding: Option<EmbeddingIds>,
    /// Trained rows of the embedding.
    pub tokens: Option<TokenIds>,
    /// Row lengths for DoRA, by the linear's number.
    pub(super) norms: NormCache,
}

impl Adapted {
    /// The branch of a linear.
    pub fn branch(&self, linear: usize) -> Option<BranchIds> {
        match linear {
            TIED_HEAD => self.tied_head,
            linear => self.branches.get(linear).copied().flatten(),
        }
    }

    /// Gives a linear a branch.
    pub fn set_branch(&mut self, linear: usize, branch: BranchIds) {
        match (linear, self.branches.get_mut(linear)) {
            (TIED_HEAD, _) => self.tied_head = Some(branch),
            (_, Some(slot)) => *slot = Some(branch),
            (_, None) => {}
        }
    }

    /// All branches.
    pub fn all_branches(&self) -> impl Iterator<Item = &BranchIds> {
        self.branches.iter().chain([&self.tied_head]).flatten()
    }
}

/// Row lengths of `W + s B A`, each with the version of the parameters that it was computed from.
///
/// They change only when the parameters do, and cost as much as the products of `R + 1` tokens: worth keeping for the
/// tokens of a generation and the micro-batches of a step.
#[derive(Debug, Default)]
pub(super) struct NormCache {
    kept: Mutex<BTreeMap<usize, (u64, Arc<Tensor>)>>,
}

impl NormCache {
    /// The lengths for a linear at a version of the parameters, computed if they are not there.
    pub(super) fn get<E>(
        &self,
        linear: usize,
        version: u64,
        compute: impl FnOnce() -> Result<Tensor, E>,
    ) -> Result<Arc<Tensor>, E> {
        let mut kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((of, norm)) = kept.get(&linear)
            && *of == version
        {
            return Ok(Arc::clone(norm));
        }
        let norm = Arc::new(compute()?);
        kept.insert(linear, (version, Arc::clone(&norm)));
        Ok(norm)
    }
}
