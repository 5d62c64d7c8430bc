//! The tensors of experts that files hold together and transposed (gpt-oss): `gate_up_proj` `[E, D, 2 F]` with gate and up in
//! turn, `down_proj` `[E, F, D]`, and their biases.

use ferrotune_kernels::DType;

use super::model_folder::{encode, linear_values, safetensors_dtype, vector_value};
use crate::base::BaseModel;
use crate::formats::safetensors::OutTensor;
use crate::lora::Adapter;
use crate::merge::merged_vector;
use crate::model::moe::Moe;
use crate::model::parts::LinearLayer;
use crate::model::{Decoder, Params};

/// A tensor with the linears that stand in turn in its columns, for each expert.
struct Columns<'m> {
    name: String,
    experts: Vec<Vec<&'m LinearLayer>>,
}

/// Tensors of a result: those that are made, by their names in the tree of modules, and those of the base, by their names in its
/// files.
pub(super) struct Stacked<'t> {
    pub(super) made: Vec<(String, OutTensor<'t>)>,
    pub(super) as_they_were: Vec<(String, OutTensor<'t>)>,
}

/// The experts of a model that are held so.
pub(super) struct Stacks<'m> {
    paths: Vec<String>,
    tensors: Vec<Columns<'m>>,
}

impl<'m> Stacks<'m> {
    pub(super) fn of(model: &'m Decoder) -> Self {
        let held = model.layers.iter().filter_map(|layer| layer.mlp.experts());
        let held = held.filter_map(|moe| Some((moe, moe.columns.clone()?)));
        let of_layer = |(moe, path): (&'m Moe, String)| {
            let both = moe.experts.iter().map(|e| e.gate_up.iter().collect()).collect();
            let down = moe.experts.iter().map(|e| vec![&e.down]).collect();
            let columns = |name: &str, experts| Columns { name: format!("{path}.{name}"), experts };
            let tensors = [columns("gate_up_proj", both), columns("down_proj", down)];
            (path, tensors)
        };
        let (paths, tensors): (Vec<_>, Vec<_>) = held.map(of_layer).unzip();
        Stacks { paths, tensors: tensors.into_iter().flatten().collect() }
    }

    /// Whether the matrix or bias of this name is a part of one of the tensors.
    pub(super) fn hold(&self, name: &str) -> bool {
        self.paths
            .iter()
            .any(|path| name.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with('.')))
    }

    /// The tensors; those of the base in packed form where no expert was changed.
    pub(super) fn tensors<'t>(
        &'t self,
        base: &'t BaseModel,
        model: &'t Decoder,
        params: &'t Params,
        adapter: Option<&'t Adapter>,
        dtype: DType,
    ) -> Stacked<'t> {
        let linears = || self.tensors.iter().flat_map(|t| t.experts.iter().flatten());
        let same = params.is_empty() && !linears().any(|l| adapter.is_some_and(|a| a.changes(l)));
        let (mut made, mut as_they_were) = (Vec::new(), Vec::new());
        for Columns { name, experts } in &self.tensors {
            let packed = base.checkpoint.packed(name);
            match same && !packed.is_empty() {
                true => as_they_were.extend(packed),
                false => {
                    let (out, cols) = (experts[0].iter().map(|l| l.rows).sum(), experts[0][0].cols);
                    let shape = [experts.len(), cols, out];
                    let values = move || transposed(experts, params, adapter, dtype);
                    made.push((name.clone(), OutTensor::lazy(safetensors_dtype(dtype), &shape, values)));
                }
            }
            if experts[0][0].bias.is_some() {
                let values = biases(model, params, adapter, experts);
                let shape = [experts.len(), values.len() / experts.len()];
                let tensor =
                    OutTensor::lazy(safetensors_dtype(dtype), &shape, move || encode(&values, dtype));
                made.push((format!("{name}_bias"), tensor));
            }
        }
        Stacked { made, as_they_were }
    }
}

/// The bytes of a tensor, an expert's linear at a time.
fn transposed(
    experts: &[Vec<&LinearLayer>],
    params: &Params,
    adapter: Option<&Adapter>,
    dtype: DType,
) -> Vec<u8> {
    let (size, turn) = (dtype.size(), experts[0].len());
    let (rows, cols) = (experts[0][0].rows, experts[0][0].cols);
    let each = rows * cols * turn * size;
    let mut out = vec![0; experts.len() * each];
    for (linears, out) in experts.iter().zip(out.chunks_exact_mut(each.max(1))) {
        for (part, linear) in linears.iter().enumerate() {
            let values = encode(&linear_values(linear, params, adapter), dtype);
            for (i, value) in values.chunks_exact(size).enumerate() {
                let (row, col) = (i / cols, i % cols);
                out[((col * rows + row) * turn + part) * size..][..size].copy_from_slice(value);
            }
        }
    }
    out
}

/// The biases `[E, out]`, in turn as the columns.
fn biases(
    model: &Decoder,
    params: &Params,
    adapter: Option<&Adapter>,
    experts: &[Vec<&LinearLayer>],
) -> Vec<f32> {
    let mut all = Vec::new();
    for linears in experts {
        let own: Vec<Vec<f32>> = linears
            .iter()
            .filter_map(|l| {
                let own = vector_value(l.bias.as_ref()?, params).host_f32();
                Some(merged_vector(model, &format!("{}.bias", l.name), own, adapter))
            })
            .collect();
        for row in 0..linears[0].rows {
            all.extend(own.iter().map(|bias| bias[row]));
        }
    }
    all
}
