//! Trainable tensors: their values, and where their gradients are summed.

use std::collections::HashMap;

use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::{Device, Tensor};

/// Index of a parameter in [`Params`] and [`Gradients`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(usize);

/// Named f32 parameters in a fixed order.
#[derive(Debug, Default)]
pub struct Params {
    names: Vec<String>,
    values: Vec<Tensor>,
    index: HashMap<String, usize>,
    version: u64,
}

impl Params {
    /// Adds a parameter; panics if the name is taken, as two modules would then share it by accident.
    pub fn push(&mut self, name: impl Into<String>, value: Tensor) -> ParamId {
        let name = name.into();
        let id = self.values.len();
        assert!(self.index.insert(name.clone(), id).is_none(), "parameter `{name}` twice");
        self.names.push(name);
        self.values.push(value);
        ParamId(id)
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

    /// Name and value of each, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.names.iter().map(String::as_str).zip(&self.values)
    }

    /// Values in order, to write.
    pub fn values_mut(&mut self) -> &mut [Tensor] {
        self.version += 1;
        &mut self.values
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
    pub fn elements(&self) -> usize {
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
    pub fn on_demand(dev: &Device, params: &Params) -> Self {
        let missing = params.values.iter().map(|v| Some(v.shape())).collect();
        Gradients { tensors: params.values.iter().map(|_| None).collect(), missing, dev: dev.clone() }
    }

    /// Sets every gradient to zero.
    pub fn clear(&mut self) {
        for (tensor, missing) in self.tensors.iter_mut().zip(&mut self.missing) {
            match (tensor, missing.take()) {
                (Some(tensor), _) => tensor.f32_mut().fill(0.0),
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
    pub(crate) fn give(
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

    /// The gradient of a parameter.
    pub fn get(&self, id: ParamId) -> &Tensor {
        self.tensors[id.0].as_ref().expect("gradient is in the store between backwards")
    }

    /// The gradients that are there, in the parameters' order.
    pub fn all(&self) -> Vec<&Tensor> {
        self.tensors.iter().flatten().collect()
    }

    /// For each parameter its gradient, if it is there.
    pub fn each(&self) -> impl Iterator<Item = Option<&Tensor>> {
        self.tensors.iter().map(Option::as_ref)
    }

    /// Lets go of the gradients that are there; they are made again when they are added to.
    pub(crate) fn leave(&mut self) {
        for (tensor, missing) in self.tensors.iter_mut().zip(&mut self.missing) {
            *missing = tensor.take().map(|tensor| tensor.shape()).or(*missing);
        }
    }

    /// Takes a gradient out if it is there.
    pub(crate) fn withdraw(&mut self, id: ParamId) -> Option<Tensor> {
        self.tensors[id.0].take()
    }
}
