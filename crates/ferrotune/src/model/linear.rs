//! `h = Wx + s BAx + b`: linears with what an adapter has beside them, forward and backward.

use ferrotune_kernels::ops::elementwise::{self, Dropout};
use ferrotune_kernels::ops::linear::{self, Branch, Grads, Linear, Matrix, Passed};
use ferrotune_kernels::ops::token_rows;
use ferrotune_kernels::rng::Stream;
use ferrotune_kernels::{DType, Device, Tensor};

use super::params::{Gradients, ParamId};
use super::parts::{LinearLayer, TIED_HEAD};
use super::pass::{Dx, LinearAdapter, LowRank, OwnProduct, Pass, Product, Site};
use crate::Result;

impl<'a> Pass<'a> {
    /// The weight that the linear multiplies by, without its branch.
    pub(crate) fn weight(&self, l: &'a LinearLayer) -> Matrix<'a> {
        if let Some(id) = self.replaced(&l.name).weight {
            return Matrix::Trained(self.params.factor(id));
        }
        match self.adapted.and_then(|a| a.bases.get(&l.id)) {
            Some(changed) => Matrix::Frozen(changed),
            None => self.matrix(&l.base),
        }
    }

    /// A linear as the op takes it, with a branch.
    pub(crate) fn view(&self, l: &'a LinearLayer, branch: Option<LowRank>) -> Linear<'a> {
        let branch = branch.map(|ids| Branch {
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

    /// The branch that is summed in the linear's own product, or what computes the linear by itself.
    fn product(&self, l: &LinearLayer) -> (Option<LowRank>, Option<&'a dyn OwnProduct>) {
        match self.adapter(l).map(LinearAdapter::product) {
            None => (None, None),
            Some(Product::WithBranch(branch)) => (Some(branch), None),
            Some(Product::Own(own)) => (None, Some(own)),
        }
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

    /// Like [`Self::linears`], with a type for each output.
    pub(crate) fn linears_as<const N: usize>(
        &self,
        x: &Tensor,
        layers: [&'a LinearLayer; N],
        dtypes: [DType; N],
    ) -> Result<([Tensor; N], Option<Tensor>)> {
        let own = |i: usize| if self.product(layers[i]).1.is_some() { DType::F32 } else { dtypes[i] };
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
    pub(crate) fn linear_onto(
        &self,
        x: &Tensor,
        layer: &'a LinearLayer,
        y: &mut Tensor,
    ) -> Result<Option<Tensor>> {
        self.forward_into(x, &[layer], [y], true)
    }

    fn forward_into<const N: usize>(
        &self,
        x: &Tensor,
        layers: &[&'a LinearLayer; N],
        outs: [&mut Tensor; N],
        accumulate: bool,
    ) -> Result<Option<Tensor>> {
        let (mut views, mut plain) = (Vec::new(), Vec::new());
        for (l, y) in layers.iter().copied().zip(outs) {
            match self.product(l) {
                (_, Some(own)) => own.forward(Site { pass: self, linear: l }, x, y, accumulate)?,
                (branch, None) => {
                    views.push(self.view(l, branch));
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
    pub(crate) fn linears_backward<const N: usize>(
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
            layers.into_iter().zip(dys).filter(|(l, _)| self.product(l).1.is_none()).collect();
        if !plain.is_empty() {
            self.plain_backward(x, h, &plain, dx.as_mut(), grads)?;
        }
        let mut accumulate = !plain.is_empty();
        for (l, dy) in layers.into_iter().zip(dys) {
            if let (_, Some(own)) = self.product(l) {
                let dx = Dx { out: dx.as_mut(), accumulate };
                own.backward(Site { pass: self, linear: l }, x, dy, dx, grads)?;
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
        let branches: Vec<_> = layers.iter().map(|(l, _)| self.product(l).0).collect();
        let linears = || layers.iter().map(|(l, _)| *l).zip(branches.iter().copied());
        let mut taken: Vec<_> = linears().map(|(l, branch)| Sinks::take(self, l, branch, grads)).collect();
        let views: Vec<_> = linears().map(|(l, branch)| self.view(l, branch)).collect();
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

/// The gradients of a linear and of a branch: they leave the store while an op adds to them.
pub(crate) struct Sinks {
    ids: [Option<ParamId>; 5],
    tensors: [Option<Tensor>; 5],
}

impl Sinks {
    /// Weight, bias, A, B and B's bias, those that are trained.
    pub(crate) fn take(
        pass: &Pass<'_>,
        l: &LinearLayer,
        branch: Option<LowRank>,
        grads: &mut Gradients,
    ) -> Self {
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

    /// The gradients as the op takes them.
    pub(crate) fn grads(&mut self) -> Grads<'_> {
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
    pub(crate) fn add_bias(&mut self, dev: &Device, dy: &Tensor) -> ferrotune_kernels::Result<()> {
        match &mut self.tensors[1] {
            Some(db) => elementwise::add_columns(dev, db, dy),
            None => Ok(()),
        }
    }

    /// Puts them back; what was shared is added.
    pub(crate) fn put(self, dev: &Device, grads: &mut Gradients) -> ferrotune_kernels::Result<()> {
        for (id, tensor) in self.ids.into_iter().zip(self.tensors) {
            if let (Some(id), Some(tensor)) = (id, tensor) {
                grads.put_or_add(dev, id, tensor)?;
            }
        }
        Ok(())
    }
}
