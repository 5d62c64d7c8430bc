//! Trainable tensors: their values, and where their gradients are summed.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::tensor::Pool;
use ferrotune_kernels::{DType, Device, Tensor};

/// Index of a parameter in [`Params`] and [`Gradients`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(usize);

/// What a parameter is to an optimizer. Whoever makes a parameter says so; optimizers know no names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Group {
    /// A matrix that has no group of its own.
    #[default]
    Matrix,
    /// A bias, or the weight of a norm.
    BiasOrNorm,
    /// What a branch beside a linear ends with: B of LoRA, the magnitudes of DoRA.
    BranchOutput,
    /// The branch beside the embedding.
    EmbeddingBranch,
}

/// Named f32 parameters in a fixed order.
///
/// Those of [`Params::paged`] lie in a file if they are matrices; what is in memory of them is a copy in bf16, which is what
/// products read anyway.
#[derive(Debug, Default)]
pub struct Params {
    names: Vec<String>,
    groups: Vec<Group>,
    values: Vec<Tensor>,
    /// For each parameter its copy, if it has one.
    copies: Vec<Option<Tensor>>,
    /// Where matrices go.
    pool: Option<Arc<Pool>>,
    index: HashMap<String, usize>,
    version: u64,
}

impl Params {
    /// No parameters yet; the matrices will lie in a file that nobody else uses and take up to `elements` of it.
    pub fn paged(file: File, elements: usize) -> Self {
        Params { pool: Some(Arc::new(Pool::in_file(file, elements))), ..Params::default() }
    }

    /// Adds a matrix that has no group of its own; panics if the name is taken.
    pub fn push(&mut self, name: impl Into<String>, value: Tensor) -> ParamId {
        self.push_in(Group::Matrix, name, value)
    }

    /// Adds a parameter; panics if the name is taken, as two modules would then share it by accident.
    pub(crate) fn push_in(&mut self, group: Group, name: impl Into<String>, value: Tensor) -> ParamId {
        let name = name.into();
        let id = self.values.len();
        assert!(self.index.insert(name.clone(), id).is_none(), "parameter `{name}` twice");
        self.names.push(name);
        self.groups.push(group);
        self.values.push(value);
        self.copies.push(None);
        ParamId(id)
    }

    /// Adds a parameter where the matrices are; an error if its file cannot take it.
    pub fn place(&mut self, dev: &Device, name: &str, value: Tensor) -> std::io::Result<ParamId> {
        let Some(pool) = self.pool.as_ref().filter(|_| value.rows() > 1) else {
            return Ok(self.push(name, value));
        };
        let mut placed = pool.zeros_in_file(value.rows(), value.cols())?;
        placed.host_f32_mut().copy_from_slice(value.host_f32());
        placed.release();
        let id = self.push(name, placed);
        self.copies[id.0] = Some(elementwise::cast(dev, &value, DType::Bf16));
        Ok(id)
    }

    /// Changes a parameter.
    pub fn set(&mut self, dev: &Device, id: ParamId, values: &[f32]) {
        let value = self.get_mut(id);
        value.host_f32_mut().copy_from_slice(values);
        if let Some(copy) = &mut self.copies[id.0] {
            *copy = elementwise::cast(dev, &self.values[id.0], DType::Bf16);
            self.values[id.0].release();
        }
    }

    /// The parameter as products read it.
    pub fn factor(&self, id: ParamId) -> &Tensor {
        self.copies[id.0].as_ref().unwrap_or(&self.values[id.0])
    }

    /// The value.
    pub fn get(&self, id: ParamId) -> &Tensor {
        &self.values[id.0]
    }

    /// The value, to write.
    pub fn get_mut(&mut self, id: ParamId) -> &mut Tensor {
        self.version += 1;
        &mut self.values[id.0]
    }

    /// The parameter of this name.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.index.get(name).copied().map(ParamId)
    }

    /// Names in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Groups in order.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Name and value of each, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.names.iter().map(String::as_str).zip(&self.values)
    }

    /// Values in order, to write; of no use where there are copies.
    pub fn values_mut(&mut self) -> &mut [Tensor] {
        self.version += 1;
        &mut self.values
    }

    /// Values in order with their copies, to write both.
    pub(crate) fn with_copies_mut(&mut self) -> impl Iterator<Item = (&mut Tensor, Option<&mut Tensor>)> {
        self.version += 1;
        self.values.iter_mut().zip(self.copies.iter_mut().map(Option::as_mut))
    }

    /// A number that changes whenever values may have: what was derived from them holds for one version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether nothing is trained.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Number of trainable values.
    pub(crate) fn elements(&self) -> usize {
        self.values.iter().map(Tensor::len).sum()
    }
}

/// A gradient for each parameter.
///
/// A backward takes the few that it adds to out of the store and puts them back, since they lie anywhere in it.
#[derive(Debug)]
pub struct Gradients {
    tensors: Vec<Option<Tensor>>,
    /// Shapes of those that are made when they are first added to.
    missing: Vec<Option<[usize; 2]>>,
    dev: Device,
}

impl Gradients {
    /// Zeros of the parameters' shapes.
    pub fn zeros(dev: &Device, params: &Params) -> Self {
        let mut all = Self::on_demand(dev, params);
        all.clear();
        all
    }

    /// None yet: each is made when it is first added to, so that those that are done can leave before others begin.
    pub(crate) fn on_demand(dev: &Device, params: &Params) -> Self {
        let missing = params.values.iter().map(|v| Some(v.shape())).collect();
        Gradients { tensors: params.values.iter().map(|_| None).collect(), missing, dev: dev.clone() }
    }

    /// Sets every gradient to zero.
    pub fn clear(&mut self) {
        for (tensor, missing) in self.tensors.iter_mut().zip(&mut self.missing) {
            match (tensor, missing.take()) {
                (Some(tensor), _) => self.dev.fill_rows(tensor, |_, row| row.fill(0.0)),
                (empty, Some([rows, cols])) => *empty = Some(self.dev.zeros(rows, cols)),
                (None, None) => {}
            }
        }
    }

    /// Takes a gradient out; `None` if it is out already.
    pub(crate) fn take(&mut self, id: ParamId) -> Option<Tensor> {
        match self.missing[id.0].take() {
            Some([rows, cols]) => Some(self.dev.zeros(rows, cols)),
            None => self.tensors[id.0].take(),
        }
    }

    /// Puts a gradient in its place.
    pub fn put(&mut self, id: ParamId, tensor: Tensor) {
        self.missing[id.0] = None;
        self.tensors[id.0] = Some(tensor);
    }

    /// Puts it back, or adds it to what another part put back meanwhile.
    pub(crate) fn put_or_add(
        &mut self,
        dev: &Device,
        id: ParamId,
        tensor: Tensor,
    ) -> ferrotune_kernels::Result<()> {
        match &mut self.tensors[id.0] {
            Some(sum) => elementwise::add(dev, sum, &tensor, 1.0),
            empty => {
                *empty = Some(tensor);
                Ok(())
            }
        }
    }

    /// Takes those out that there are.
    pub(crate) fn take_all<const N: usize>(&mut self, ids: [Option<ParamId>; N]) -> [Option<Tensor>; N] {
        ids.map(|id| id.and_then(|id| self.take(id)))
    }

    /// Puts those back that were taken out.
    pub(crate) fn put_back<const N: usize>(
        &mut self,
        ids: [Option<ParamId>; N],
        gradients: [Option<Tensor>; N],
    ) {
        for (id, gradient) in ids.into_iter().zip(gradients) {
            if let (Some(id), Some(gradient)) = (id, gradient) {
                self.put(id, gradient);
            }
        }
    }

    /// The gradient of a parameter.
    pub fn get(&self, id: ParamId) -> &Tensor {
        self.tensors[id.0].as_ref().expect("gradient is in the store between backwards")
    }

    /// The gradients that are there, in the parameters' order.
    pub fn all(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors.iter().flatten()
    }

    /// For each parameter its gradient, if it is there.
    pub fn each(&self) -> impl Iterator<Item = Option<&Tensor>> {
        self.tensors.iter().map(Option::as_ref)
    }

    /// Lets go of the gradients that are there; they are made again when they are added to.
    pub(crate) fn release(&mut self) {
        for (tensor, missing) in self.tensors.iter_mut().zip(&mut self.missing) {
            *missing = tensor.take().map(|tensor| tensor.shape()).or(*missing);
        }
    }

    /// Takes a gradient out if it is there.
    pub(crate) fn take_out(&mut self, id: ParamId) -> Option<Tensor> {
        self.tensors[id.0].take()
    }
}
