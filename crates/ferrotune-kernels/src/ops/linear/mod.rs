//! Linears that read the same X: `Y_i = X W_it + s_i (drop_i(X) A_it B_it + c_i) + b_i`.
//!
//! Shapes: X `[M, K]`, W `[N, K]`, A `[R, K]`, B `[N, R]`, Y `[M, N]`. q, k and v (or gate and up) are given together,
//! so that X is packed once for all of them. W may be frozen in any storage format, or trained f32.
//!
//! Backward, with `G = dY B`: `dX = dY W + G s A`, `dA = s Gt X`, `dB = dYt H` where `H = s X At` was kept from the
//! forward (in bf16 rounded, as all saved activations), and for a trained weight `dW = dYt X`, `db = column sums of dY`, `dc = s db`. A frozen weight costs only
//! `dY W`.

mod cpu;
mod few;
mod reference;

use super::elementwise::{self, Dropout};
use super::expect;
use crate::cpu::Cpu;
use crate::cpu::words::Mat;
use crate::device::{Ctx, Device};
use crate::dtype::{DType, Precision};
use crate::error::{Error, Result};
use crate::quant::Weight;
use crate::tensor::Tensor;

/// A weight matrix: frozen in some format, or trained.
#[derive(Clone, Copy)]
pub enum Matrix<'a> {
    /// Never changes; decoded inside the product.
    Frozen(&'a Weight),
    /// An f32 parameter.
    Trained(&'a Tensor),
}

impl<'a> Matrix<'a> {
    /// Output features `N`.
    pub fn rows(self) -> usize {
        match self {
            Matrix::Frozen(w) => w.rows(),
            Matrix::Trained(t) => t.rows(),
        }
    }

    /// Input features `K`.
    pub fn cols(self) -> usize {
        match self {
            Matrix::Frozen(w) => w.cols(),
            Matrix::Trained(t) => t.cols(),
        }
    }

    /// The values to read.
    pub(crate) fn mat(self) -> Mat<'a> {
        match self {
            Matrix::Frozen(w) => Mat::from(w),
            Matrix::Trained(t) => Mat::from(t),
        }
    }
}

/// A LoRA branch beside a weight.
#[derive(Clone, Copy)]
pub struct Branch<'a> {
    /// `A [R, K]`.
    pub a: &'a Tensor,
    /// `B [N, R]`.
    pub b: &'a Tensor,
    /// `c [1, N]`, a bias of the branch's own (PEFT's `lora_bias`).
    pub bias: Option<&'a Tensor>,
    /// The factor `s`: `alpha / r`, or `alpha / sqrt(r)`.
    pub scale: f32,
    /// Dropout on the branch's input.
    pub dropout: Option<Dropout>,
}

/// One linear.
#[derive(Clone, Copy)]
pub struct Linear<'a> {
    /// `W [N, K]`.
    pub weight: Matrix<'a>,
    /// `b [1, N]`.
    pub bias: Option<&'a Tensor>,
    /// The trainable low-rank branch.
    pub branch: Option<Branch<'a>>,
}

/// Where the gradients of one linear are added; what is `None` is not computed.
#[derive(Default)]
pub struct Grads<'a> {
    /// `dW [N, K]`.
    pub weight: Option<&'a mut Tensor>,
    /// `db [1, N]`.
    pub bias: Option<&'a mut Tensor>,
    /// `dA [R, K]`.
    pub a: Option<&'a mut Tensor>,
    /// `dB [N, R]`.
    pub b: Option<&'a mut Tensor>,
    /// `dc [1, N]`.
    pub branch_bias: Option<&'a mut Tensor>,
}

/// The CPU as the device that it is, and the precision.
#[derive(Clone, Copy)]
struct On<'a> {
    dev: &'a Device,
    cpu: &'a Cpu,
    precision: Precision,
}

/// The rank of a linear's branch, 0 without one.
fn rank(linear: &Linear<'_>) -> usize {
    linear.branch.map_or(0, |b| b.a.rows())
}

/// The sum of the ranks: the columns of `H`.
fn total_rank(linears: &[Linear<'_>]) -> usize {
    linears.iter().map(rank).sum()
}

/// Where the columns of each branch begin in `H`.
fn starts(linears: &[Linear<'_>]) -> impl Iterator<Item = usize> {
    linears.iter().scan(0, |next, l| {
        let start = *next;
        *next += rank(l);
        Some(start)
    })
}

fn check(x: &Tensor, linears: &[Linear<'_>]) -> Result<()> {
    for l in linears {
        let (n, k) = (l.weight.rows(), l.weight.cols());
        expect("linear", "x", x, [x.rows(), k])?;
        if let Some(b) = l.bias {
            expect("linear", "bias", b, [1, n])?;
        }
        if let Some(branch) = l.branch {
            let r = branch.a.rows();
            expect("linear", "lora_A", branch.a, [r, k])?;
            expect("linear", "lora_B", branch.b, [n, r])?;
            if let Some(bias) = branch.bias {
                expect("linear", "lora_B.bias", bias, [1, n])?;
            }
        }
    }
    Ok(())
}

/// Computes every output (`accumulate` adds to what is there: a residual) and gives `H`, all branches side by side.
/// An output may be bf16, and is then rounded once, when its sum is whole.
pub fn forward(
    ctx: Ctx<'_>,
    x: &Tensor,
    linears: &[Linear<'_>],
    outs: &mut [&mut Tensor],
    accumulate: bool,
) -> Result<Option<Tensor>> {
    let Ctx { dev, precision } = ctx;
    check(x, linears)?;
    if outs.len() != linears.len() {
        let (what, found) = ("outputs of linear", outs.len().to_string());
        return Err(Error::Unsupported { what, found, allowed: "one for each linear" });
    }
    for (l, y) in linears.iter().zip(outs.iter()) {
        expect("linear", "y", y, [x.rows(), l.weight.rows()])?;
    }
    // A branch's bias is a part of the linear's.
    let sums = linears.iter().map(|l| whole_bias(dev, l)).collect::<Result<Vec<_>>>()?;
    let linears: Vec<_> =
        linears.iter().zip(&sums).map(|(l, sum)| Linear { bias: sum.as_ref().or(l.bias), ..*l }).collect();
    let linears = linears.as_slice();
    let total = total_rank(linears);
    let mut h = (total > 0).then(|| dev.uninit(x.rows(), total, precision.saved()));
    match dev {
        Device::Reference(_) => reference::forward(x, linears, outs, accumulate, h.as_mut()),
        Device::Cpu(cpu) => {
            cpu::forward(On { dev, cpu, precision }, x, linears, outs, accumulate, h.as_mut())
        }
    }
    Ok(h)
}

/// `b + s c` of a linear whose branch has a bias.
fn whole_bias(dev: &Device, l: &Linear<'_>) -> Result<Option<Tensor>> {
    let Some((own, scale)) = l.branch.and_then(|b| Some((b.bias?, b.scale))) else { return Ok(None) };
    let mut sum = l.bias.map_or_else(|| dev.zeros(1, own.cols()), |b| elementwise::cast(dev, b, DType::F32));
    elementwise::add(dev, &mut sum, own, scale)?;
    Ok(Some(sum))
}

/// What a [`backward`] goes back over; `x`, `h` and `dys` may be bf16.
#[derive(Clone, Copy)]
pub struct Passed<'a> {
    /// The input that all linears read.
    pub x: &'a Tensor,
    /// What [`forward`] gave.
    pub h: Option<&'a Tensor>,
    /// The linears.
    pub linears: &'a [Linear<'a>],
    /// The gradient of each linear's output.
    pub dys: &'a [&'a Tensor],
}

/// Adds every gradient that `grads` asks for, and writes (or with `accumulate` adds) `dx`.
pub fn backward(
    ctx: Ctx<'_>,
    passed: Passed<'_>,
    dx: Option<&mut Tensor>,
    accumulate: bool,
    grads: &mut [Grads<'_>],
) -> Result<()> {
    let (Ctx { dev, precision }, Passed { x, h, linears, dys }) = (ctx, passed);
    check(x, linears)?;
    let total = total_rank(linears);
    if dys.len() != linears.len() || grads.len() != linears.len() || (total > 0) != h.is_some() {
        let found = format!("{} of dY, {} of grads, H: {}", dys.len(), grads.len(), h.is_some());
        return Err(Error::Unsupported {
            what: "arguments of linear",
            found,
            allowed: "one for each linear, H with branches",
        });
    }
    if let Some(h) = h {
        expect("linear", "h", h, [x.rows(), total])?;
    }
    if let Some(dx) = &dx {
        expect("linear", "dx", dx, x.shape())?;
    }
    for ((l, dy), g) in linears.iter().zip(dys).zip(grads.iter()) {
        expect("linear", "dy", dy, [x.rows(), l.weight.rows()])?;
        for (what, grad, of) in [
            ("dW", &g.weight, None),
            ("dA", &g.a, l.branch.map(|b| b.a)),
            ("dB", &g.b, l.branch.map(|b| b.b)),
        ] {
            if let Some(grad) = grad {
                let expected = of.map_or([l.weight.rows(), l.weight.cols()], Tensor::shape);
                expect("linear", what, grad, expected)?;
            }
        }
        for (what, bias) in [("db", &g.bias), ("dc", &g.branch_bias)] {
            if let Some(bias) = bias {
                expect("linear", what, bias, [1, l.weight.rows()])?;
            }
        }
    }
    for ((l, dy), g) in linears.iter().zip(dys).zip(grads.iter_mut()) {
        let (Some(branch), Some(dc)) = (l.branch, g.branch_bias.as_deref_mut()) else { continue };
        let mut sums = dev.zeros(1, dc.cols());
        elementwise::add_columns(dev, &mut sums, dy)?;
        elementwise::add(dev, dc, &sums, branch.scale)?;
    }
    match dev {
        Device::Reference(_) => reference::backward(x, linears, dys, dx, accumulate, grads),
        Device::Cpu(cpu) => cpu::backward(On { dev, cpu, precision }, passed, dx, accumulate, grads),
    }
    Ok(())
}
