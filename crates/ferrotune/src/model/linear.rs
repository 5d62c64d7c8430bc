//! `h = Wx + s BAx + b`: one linear, frozen or trained, with room for a LoRA branch.
//!
//! A [`LinearLayer`] holds the base only. What an adapter adds or puts in its place is looked up in the [`Pass`], so that
//! adapters can be switched without touching the model.

use ferrotune_kernels::ops::elementwise::{self, Dropout};
use ferrotune_kernels::ops::linear::{self, Branch, Grads, Linear, Matrix, Passed};
use ferrotune_kernels::ops::token_rows;
use ferrotune_kernels::quant::Storage;
use ferrotune_kernels::rng::Stream;
use ferrotune_kernels::{Ctx, DType, Device, Precision, Tensor, Weight};

use super::adapted::{Adapted, Replaced};
use super::params::{Gradients, ParamId, Params};
use crate::Result;

pub use super::adapted::BranchIds;

pub(super) use super::adapted::TIED_HEAD;

/// A weight matrix of the model.
#[derive(Debug)]
pub enum Base {
    /// Frozen, in any storage format.
    Frozen(Weight),
    /// A parameter (full fine-tuning).
    Trained(ParamId),
}

impl Base {
    /// How the values are stored, for people.
    pub fn storage_name(&self) -> &'static str {
        match self {
            Base::Frozen(w) => match w.storage() {
                Storage::Dense(DType::F32, _) => "f32",
                Storage::Dense(DType::F16, _) => "f16",
                Storage::Dense(DType::Bf16, _) => "bf16",
                Storage::FourBit(bits) => bits.kind().name(),
                Storage::Int8(_) => "int8",
                _ => "gguf blocks",
            },
            Base::Trained(_) => "f32",
        }
    }
}

/// A vector of the model: a norm's weight or a bias, `[1, N]`.
#[derive(Debug)]
pub enum Vector {
    /// Frozen.
    Frozen(Tensor),
    /// A parameter.
    Trained(ParamId),
}

/// One linear of the model under its checkpoint name.
#[derive(Debug)]
pub struct LinearLayer {
    /// Number among the model's linears, in the order of [`Decoder::linears`](super::decoder::Decoder::linears).
    pub id: usize,
    /// Module path, `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Output features `N`.
    pub rows: usize,
    /// Input features `K`.
    pub cols: usize,
    /// `W [N, K]`.
    pub base: Base,
    /// `b [1, N]`.
    pub bias: Option<Vector>,
}

/// Makes dropout differ between steps and micro-batches.
#[derive(Debug, Clone, Copy)]
pub struct DropoutKey {
    /// The run's seed.
    pub seed: u64,
    /// A number that no other micro-batch of the run has.
    pub step: u64,
}

/// What a pass through the model needs besides the model: where to compute, how precisely, and the trainable part.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    /// Where to compute.
    pub dev: &'a Device,
    /// Column of the precision table.
    pub precision: Precision,
    /// Parameters of the adapter, or of the model itself.
    pub params: &'a Params,
    /// What an adapter adds to the model, if there is one.
    pub adapted: Option<&'a Adapted>,
    /// Set in training passes.
    pub dropout: Option<DropoutKey>,
}

impl<'a> Pass<'a> {
    /// Where and how precisely its ops compute.
    pub fn ctx(&self) -> Ctx<'a> {
        self.dev.ctx(self.precision)
    }

    /// The matrix of a base.
    pub fn matrix(&self, base: &'a Base) -> Matrix<'a> {
        match base {
            Base::Frozen(w) => Matrix::Frozen(w),
            Base::Trained(id) => Matrix::Trained(self.params.factor(*id)),
        }
    }

    /// The values of a vector.
    pub fn vector(&self, v: &'a Vector) -> &'a Tensor {
        match v {
            Vector::Frozen(t) => t,
            Vector::Trained(id) => self.params.get(*id),
        }
    }

    /// The branch of a linear.
    pub(super) fn branch(&self, id: usize) -> Option<BranchIds> {
        self.adapted?.branch(id)
    }

    /// Trained copies of the tensors of the module with this path.
    pub fn replaced(&self, module: &str) -> Replaced {
        self.adapted.and_then(|a| a.replaced.get(module).copied()).unwrap_or_default()
    }

    /// Whether anything of the linear is trained.
    pub fn trains(&self, l: &LinearLayer) -> bool {
        self.branch(l.id).is_some() || self.weight_id(l).is_some() || self.bias_id(l).is_some()
    }

    fn weight_id(&self, l: &LinearLayer) -> Option<ParamId> {
        match l.base {
            Base::Trained(id) => Some(id),
            Base::Frozen(_) => self.replaced(&l.name).weight,
        }
    }

    fn bias_id(&self, l: &LinearLayer) -> Option<ParamId> {
        match l.bias {
            Some(Vector::Trained(id)) => Some(id),
            _ => self.replaced(&l.name).bias,
        }
    }

    /// The weight that the linear multiplies by, without its branch.
    pub(super) fn weight(&self, l: &'a LinearLayer) -> Matrix<'a> {
        if let Some(id) = self.replaced(&l.name).weight {
            return Matrix::Trained(self.params.factor(id));
        }
        match self.adapted.and_then(|a| a.bases.get(&l.id)) {
            Some(changed) => Matrix::Frozen(changed),
            None => self.matrix(&l.base),
        }
    }

    /// A linear as the op takes it.
    pub(super) fn view(&self, l: &'a LinearLayer) -> Linear<'a> {
        let branch = self.branch(l.id).map(|ids| Branch {
            a: self.params.get(ids.a),
            b: self.params.get(ids.b),
            bias: ids.bias.map(|id| self.params.get(id)),
            scale: ids.scale,
            dropout: self
                .dropout
                .filter(|_| ids.dropout > 0.0)
                .map(|key| Dropout { p: ids.dropout, stream: Stream::new(key.seed, &l.name, key.step) }),
        });
        let bias = match self.replaced(&l.name).bias {
            Some(id) => Some(self.params.get(id)),
            None => l.bias.as_ref().map(|b| self.vector(b)),
        };
        Linear { weight: self.weight(l), bias, branch }
    }

    /// Outputs in `dtype` of linears that read the same `x`, and `H` of their branches for the backward.
    pub fn linears<const N: usize>(
        &self,
        x: &Tensor,
        layers: [&'a LinearLayer; N],
        dtype: DType,
    ) -> Result<([Tensor; N], Option<Tensor>)> {
        self.linears_as(x, layers, [dtype; N])
    }

    /// The same with a type for each output.
    pub fn linears_as<const N: usize>(
        &self,
        x: &Tensor,
        layers: [&'a LinearLayer; N],
        dtypes: [DType; N],
    ) -> Result<([Tensor; N], Option<Tensor>)> {
        // Magnitudes scale a sum in f32.
        let own = |i: usize| if self.magnitude(layers[i]).is_some() { DType::F32 } else { dtypes[i] };
        let mut outs: [Tensor; N] =
            std::array::from_fn(|i| self.dev.uninit(x.rows(), layers[i].rows, own(i)));
        let h = self.forward_into(x, &layers, outs.each_mut(), false)?;
        let mut dtypes = dtypes.into_iter();
        let outs = outs.map(|y| match dtypes.next() {
            Some(dtype) => self.stored(y, dtype),
            None => y,
        });
        Ok((outs, h))
    }

    /// `x` in `dtype`.
    pub(super) fn stored(&self, x: Tensor, dtype: DType) -> Tensor {
        if x.dtype() == dtype { x } else { elementwise::cast(self.dev, &x, dtype) }
    }

    /// Adds the output of a linear to `y` (the residual stream); gives `H`.
    pub fn linear_onto(&self, x: &Tensor, layer: &'a LinearLayer, y: &mut Tensor) -> Result<Option<Tensor>> {
        self.forward_into(x, &[layer], [y], true)
    }

    fn forward_into<const N: usize>(
        &self,
        x: &Tensor,
        layers: &[&'a LinearLayer; N],
        outs: [&mut Tensor; N],
        accumulate: bool,
    ) -> Result<Option<Tensor>> {
        // Linears with magnitudes are scaled after their sum, and make their H again in the backward.
        let (mut views, mut plain) = (Vec::new(), Vec::new());
        for (l, y) in layers.iter().copied().zip(outs) {
            match self.magnitude(l) {
                Some(ids) => self.dora_forward(x, l, ids, y, accumulate)?,
                None => {
                    views.push(self.view(l));
                    plain.push(y);
                }
            }
        }
        if views.is_empty() {
            return Ok(None);
        }
        let h = linear::forward(self.ctx(), x, &views, &mut plain, accumulate)?;
        if let ([l], [y]) = (layers.as_slice(), plain.as_mut_slice())
            && let Some((_, rows)) = self.head_rows(l)
        {
            token_rows::head_forward(self.dev, rows, x, y)?;
        }
        Ok(h)
    }

    /// Trained rows of an embedding that is the head too.
    fn head_rows(&self, l: &LinearLayer) -> Option<(ParamId, token_rows::Rows<'a>)> {
        let tokens = self.adapted.filter(|_| l.id == TIED_HEAD)?.tokens.as_ref()?;
        Some((tokens.rows, token_rows::Rows { ids: &tokens.ids, rows: self.params.get(tokens.rows) }))
    }

    /// Adds the parameters' gradients to `grads` and gives `dX`, unless nothing below needs it.
    pub fn linears_backward<const N: usize>(
        &self,
        x: &Tensor,
        h: Option<&Tensor>,
        layers: [&'a LinearLayer; N],
        dys: [&Tensor; N],
        need_dx: bool,
        grads: &mut Gradients,
    ) -> Result<Option<Tensor>> {
        let mut dx = need_dx.then(|| self.dev.empty(x.rows(), x.cols()));
        if let ([l], [dy]) = (layers.as_slice(), dys.as_slice())
            && let Some(rows) = self.head_rows(l)
        {
            self.tied_backward(x, l, rows, dy, dx.as_mut(), grads)?;
            return Ok(dx);
        }
        let plain: Vec<_> =
            layers.into_iter().zip(dys).filter(|(l, _)| self.magnitude(l).is_none()).collect();
        if !plain.is_empty() {
            self.plain_backward(x, h, &plain, dx.as_mut(), grads)?;
        }
        let mut accumulate = !plain.is_empty();
        for (l, dy) in layers.into_iter().zip(dys) {
            if let Some(ids) = self.magnitude(l) {
                self.dora_backward(x, l, ids, dy, dx.as_mut(), accumulate, grads)?;
                accumulate = true;
            }
        }
        Ok(dx)
    }

    fn plain_backward(
        &self,
        x: &Tensor,
        h: Option<&Tensor>,
        layers: &[(&'a LinearLayer, &Tensor)],
        dx: Option<&mut Tensor>,
        grads: &mut Gradients,
    ) -> Result<()> {
        let mut taken: Vec<_> = layers.iter().map(|(l, _)| Sinks::take(self, l, grads)).collect();
        let views: Vec<_> = layers.iter().map(|(l, _)| self.view(l)).collect();
        let dys: Vec<_> = layers.iter().map(|(_, dy)| *dy).collect();
        let mut sinks: Vec<_> = taken.iter_mut().map(Sinks::grads).collect();
        let result =
            linear::backward(self.ctx(), Passed { x, h, linears: &views, dys: &dys }, dx, false, &mut sinks);
        drop(sinks);
        for sinks in taken {
            sinks.put(self.dev, grads)?;
        }
        Ok(result?)
    }

    /// The head shares its table with the embedding, some of whose rows are trained.
    fn tied_backward(
        &self,
        x: &Tensor,
        l: &'a LinearLayer,
        (id, rows): (ParamId, token_rows::Rows<'_>),
        dy: &Tensor,
        mut dx: Option<&mut Tensor>,
        grads: &mut Gradients,
    ) -> Result<()> {
        let mut left = elementwise::cast(self.dev, dy, DType::F32);
        let mut share = dx.is_some().then(|| self.dev.zeros(x.rows(), x.cols()));
        let mut sum = grads.take(id);
        let result = token_rows::head_backward(self.dev, rows, x, &mut left, share.as_mut(), sum.as_mut());
        if let Some(sum) = sum {
            grads.put(id, sum);
        }
        result?;
        self.plain_backward(x, None, &[(l, &left)], dx.as_deref_mut(), grads)?;
        if let (Some(dx), Some(share)) = (dx, share) {
            elementwise::add(self.dev, dx, &share, 1.0)?;
        }
        Ok(())
    }
}

/// The gradients of a linear: they leave the store while an op adds to them.
pub(super) struct Sinks {
    ids: [Option<ParamId>; 5],
    tensors: [Option<Tensor>; 5],
}

impl Sinks {
    /// Weight, bias, A, B and B's bias, those that are trained.
    pub(super) fn take(pass: &Pass<'_>, l: &LinearLayer, grads: &mut Gradients) -> Self {
        let branch = pass.branch(l.id);
        let ids = [
            pass.weight_id(l),
            pass.bias_id(l),
            branch.map(|b| b.a),
            branch.map(|b| b.b),
            branch.and_then(|b| b.bias),
        ];
        let zeros = |id| {
            let value = pass.params.get(id);
            pass.dev.zeros(value.rows(), value.cols())
        };
        // Gate and up of an expert share their A, which may be out already.
        Sinks { ids, tensors: ids.map(|id| id.map(|id| grads.take(id).unwrap_or_else(|| zeros(id)))) }
    }

    /// As the op takes them.
    pub(super) fn grads(&mut self) -> Grads<'_> {
        let [weight, bias, a, b, branch_bias] = &mut self.tensors;
        Grads {
            weight: weight.as_mut(),
            bias: bias.as_mut(),
            a: a.as_mut(),
            b: b.as_mut(),
            branch_bias: branch_bias.as_mut(),
        }
    }

    /// Adds the column sums of `dy` to the gradient of the bias.
    pub(super) fn add_bias(&mut self, dev: &Device, dy: &Tensor) -> ferrotune_kernels::Result<()> {
        match &mut self.tensors[1] {
            Some(db) => elementwise::add_columns(dev, db, dy),
            None => Ok(()),
        }
    }

    /// Puts them back; what was shared is added.
    pub(super) fn put(self, dev: &Device, grads: &mut Gradients) -> ferrotune_kernels::Result<()> {
        for (id, tensor) in self.ids.into_iter().zip(self.tensors) {
            if let (Some(id), Some(tensor)) = (id, tensor) {
                grads.give(dev, id, tensor)?;
            }
        }
        Ok(())
    }
}
