//! Router and experts of a layer. A file has each expert's matrices by themselves, or all of a layer in one tensor.

use std::ops::Range;

use ferrotune_kernels::Weight;
use ferrotune_kernels::ops::route::Choice;

use super::loader::Loader;
use super::{BaseForm, BaseStorage};
use crate::Result;
use crate::arch::architecture as arch;
use crate::arch::architecture::{Architecture, Experts, Stacked};
use crate::model::moe::{Expert, Moe, SharedExpert};
use crate::model::norm::Norm;
use crate::model::parts::{LinearLayer, Vector};
use crate::model::residual::Residual;

/// A matrix of an expert: its own name, the stacked tensor that it is a part of, and its sizes.
struct Part<'a> {
    own: String,
    tensor: &'a str,
    rows: usize,
    cols: usize,
}

impl Loader<'_> {
    pub(super) fn experts(
        &mut self,
        a: &Architecture,
        e: &Experts,
        i: usize,
        norm: Option<Norm>,
        residual: Residual,
    ) -> Result<Moe> {
        let module = a.tree.in_layer(i, e.module);
        let stacked = a.tree.in_layer(i, "mlp.experts");
        let router = self.router(a, e, i, &module)?;
        let own = |n: usize, part: usize| format!("{module}.experts.{n}.{}", e.names[part]);
        let together = self.checkpoint.contains(&format!("{stacked}.gate_up_proj"));
        let apart = self.checkpoint.contains(&format!("{}.weight", own(0, 0)));
        let experts = match e.stacked {
            Stacked::Columns if !apart => self.in_columns(a, e, &stacked, &own)?,
            Stacked::Rows if together => self.in_rows(a, e, &stacked, &own)?,
            _ => {
                let mut expert = |n| -> Result<Expert> {
                    let mut linear = |part, rows, cols| self.linear(own(n, part), rows, cols, e.bias);
                    let gate_up = [linear(0, e.ffn, a.hidden)?, linear(1, e.ffn, a.hidden)?];
                    Ok(Expert { gate_up, down: linear(2, a.hidden, e.ffn)? })
                };
                (0..e.count).map(&mut expert).collect::<Result<Vec<_>>>()?
            }
        };
        let shared = e.shared.map(|shared| self.shared_expert(a, shared, i)).transpose()?.map(Box::new);
        let named = e.correction.map(|name| format!("{module}.{name}"));
        let correction = named.as_ref().map(|name| self.values(name, &[e.count])).transpose()?;
        let choice = Choice { k: e.per_token, score: e.score, normalise: e.normalise, correction };
        let columns = (e.stacked == Stacked::Columns).then_some(stacked);
        let activation = a.activation;
        Ok(Moe { norm, router, experts, choice, correction: named, columns, shared, activation, residual })
    }

    /// The router is never quantized: a choice of experts has no small errors.
    fn router(&mut self, a: &Architecture, e: &Experts, i: usize, module: &str) -> Result<LinearLayer> {
        let name = format!("{module}.{}", e.router);
        let file = a.tree.in_layer(i, &format!("mlp.{}.weight", e.router));
        let weight = match self.checkpoint.contains(&file) {
            true => self.read(&file, e.count, a.hidden)?,
            false => self.read(&format!("{name}.weight"), e.count, a.hidden)?,
        };
        let base = self.converted(&name, weight, BaseForm::from(self.form.linears).tables)?;
        let bias = if e.bias { Some(self.vector(&format!("{name}.bias"), e.count)?) } else { None };
        Ok(self.numbered(name, e.count, a.hidden, base, bias))
    }

    /// As transformers 5 holds most: `gate_up_proj` `[E, 2 F, D]` and `down_proj` `[E, D, F]`.
    fn in_rows(
        &mut self,
        a: &Architecture,
        e: &Experts,
        stacked: &str,
        own: &dyn Fn(usize, usize) -> String,
    ) -> Result<Vec<Expert>> {
        let (both, down) = (format!("{stacked}.gate_up_proj"), format!("{stacked}.down_proj"));
        let mut rows = |n: usize, part: usize, each: usize, range: Range<usize>| {
            let (tensor, cols) = if part < 2 { (&both, a.hidden) } else { (&down, e.ffn) };
            let of = Part { own: own(n, part), tensor, rows: range.len(), cols };
            let checkpoint = self.checkpoint;
            self.part(of, None, || checkpoint.stacked(tensor, [e.count, each, cols], n, range))
        };
        let mut expert = |n| -> Result<Expert> {
            let gate_up = [rows(n, 0, 2 * e.ffn, 0..e.ffn)?, rows(n, 1, 2 * e.ffn, e.ffn..2 * e.ffn)?];
            Ok(Expert { gate_up, down: rows(n, 2, a.hidden, 0..a.hidden)? })
        };
        (0..e.count).map(&mut expert).collect()
    }

    /// As gpt-oss has them: `gate_up_proj` `[E, D, 2 F]` with gate and up in turn, `down_proj` `[E, F, D]`, and biases.
    fn in_columns(
        &mut self,
        a: &Architecture,
        e: &Experts,
        stacked: &str,
        own: &dyn Fn(usize, usize) -> String,
    ) -> Result<Vec<Expert>> {
        let (both, down) = (format!("{stacked}.gate_up_proj"), format!("{stacked}.down_proj"));
        let mut biases = |name: &str, len| match e.bias {
            true => self.values(&format!("{name}_bias"), &[e.count, len]).map(Some),
            false => Ok(None),
        };
        let (both_bias, down_bias) = (biases(&both, 2 * e.ffn)?, biases(&down, a.hidden)?);
        let mut columns = |n: usize, part: usize| {
            let (tensor, bias, rows, cols) = match part {
                0 | 1 => (&both, &both_bias, e.ffn, a.hidden),
                _ => (&down, &down_bias, a.hidden, e.ffn),
            };
            let step = if part < 2 { 2 } else { 1 };
            let first = part % 2 * (step - 1);
            let bias = bias.as_ref().map(|all| {
                let of_expert = &all[n * rows * step..][..rows * step];
                of_expert.iter().skip(first).step_by(step).copied().collect::<Vec<f32>>()
            });
            let of = Part { own: own(n, part), tensor, rows, cols };
            let (checkpoint, shape) = (self.checkpoint, [e.count, cols, rows * step]);
            self.part(of, bias, || checkpoint.stacked_columns(tensor, shape, n, first, step))
        };
        let mut expert = |n| -> Result<Expert> {
            Ok(Expert { gate_up: [columns(n, 0)?, columns(n, 1)?], down: columns(n, 2)? })
        };
        (0..e.count).map(&mut expert).collect()
    }

    /// A matrix that is a part of a stacked tensor, from the cache or as `read` gives it.
    fn part(
        &mut self,
        of: Part<'_>,
        bias: Option<Vec<f32>>,
        read: impl FnOnce() -> Result<Weight>,
    ) -> Result<LinearLayer> {
        let Part { own, tensor, rows, cols } = of;
        let storage: BaseStorage = self.form.linears;
        let base = match self.cached(&own, rows, cols, storage) {
            Some(kept) => kept,
            None => {
                let weight = read()?;
                let base = self.converted(&own, weight, storage)?;
                // The file knows no tensor of the matrix's own name.
                self.checkpoint.release(tensor);
                base
            }
        };
        self.consumed.insert(tensor.to_string());
        let bias: Option<Vector> = bias.map(|values| self.keep_bias(&own, &values));
        Ok(self.numbered(own, rows, cols, base, bias))
    }

    fn shared_expert(&mut self, a: &Architecture, e: arch::SharedExpert, i: usize) -> Result<SharedExpert> {
        let module = a.tree.in_layer(i, e.module);
        let at = |name: &str| format!("{module}.{name}");
        let gate_up = ["gate_proj", "up_proj"].map(|name| self.linear(at(name), e.ffn, a.hidden, false));
        let [gate, up] = gate_up;
        let expert =
            Expert { gate_up: [gate?, up?], down: self.linear(at("down_proj"), a.hidden, e.ffn, false)? };
        let gate = match e.gate {
            Some(name) => Some(self.linear(a.tree.in_layer(i, name), 1, a.hidden, false)?),
            None => None,
        };
        Ok(SharedExpert { expert, gate })
    }
}
