//! Work of a training step, counted from shapes.
//!
//! What the method needs is counted, not what a program does: nothing that is computed again, no padding, no decoding of
//! 4-bit weights. With `P` values of all layers' linears, `V D` of the head, `A` of the adapter, for `T` tokens of which `S`
//! are supervised:
//!
//! | part | forward | backward |
//! |---|---|---|
//! | linears and head | `2 (P T + V D S)` | the same for the gradient of the input |
//! | adapter | `2 A T` | `4 A T` |
//! | full fine-tuning: gradients of weights | | `2 (P T + V D S)` |
//! | attention of a row of `L` tokens, `n` layers | `L * 4 (L / 2) D n` | 2.5 times that |
//! | gated delta rule, `n` layers of `H` heads `k` by `v`, chunks of `C = 64` | `T H n (2 C (k + v) + 6 k v)` | 2.5 times that |
//!
//! Causal attention sees half of the square; its backward makes the scores again and then four products like the two of the
//! forward. `D` of the attention is heads times the size of a head.

use std::path::Path;

use ferrotune::arch::architecture::{Architecture, Mixing};
use ferrotune::formats::Checkpoint;
use ferrotune::load::{BaseStorage, load};
use ferrotune_kernels::Device;

use super::cases::Method;
use crate::golden::Failure;

/// What is counted of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    linears: f64,
    head: f64,
    /// Values of q for a token, in all layers.
    attended: f64,
    adapter_of_rank: f64,
    /// Operations of recurrences for a token.
    recurrent: f64,
}

/// Tokens of a recurrence's chunk.
const CHUNK: f64 = 64.0;

impl Shape {
    /// Of a model folder, whose weights are mapped and not read.
    pub(super) fn open(model: &Path) -> Result<Self, Failure> {
        let (decoder, _) = load(&Device::reference(), &Checkpoint::open(model)?, BaseStorage::AsStored, 8)?;
        let linears = decoder.layers.iter().flat_map(|layer| layer.linears());
        let sizes: Vec<_> = linears.map(|l| [l.rows, l.cols].map(|n| n as f64)).collect();
        Ok(Self::of(&decoder.arch, &sizes))
    }

    /// Of a network and the sizes of its layers' linears.
    fn of(a: &Architecture, linears: &[[f64; 2]]) -> Self {
        let recurrent = |mixing: &Mixing| match mixing {
            Mixing::GatedDelta(delta) => {
                let (k, v) = (delta.key_dim as f64, delta.value_dim as f64);
                delta.value_heads as f64 * (2.0 * CHUNK * (k + v) + 6.0 * k * v)
            }
            Mixing::Mamba2(mamba) | Mixing::AttentionAndMamba2(mamba) => {
                let (n, p) = (mamba.heads.state_dim as f64, mamba.heads.head_dim as f64);
                mamba.heads.count as f64 * (CHUNK * (n + p) + 4.0 * n * p)
            }
            Mixing::Attention | Mixing::ShortConv(_) => 0.0,
        };
        Shape {
            linears: linears.iter().map(|[o, i]| o * i).sum(),
            head: (a.hidden * a.vocab) as f64,
            attended: a.attended() as f64,
            adapter_of_rank: linears.iter().map(|[o, i]| o + i).sum(),
            recurrent: a.mixers.iter().map(recurrent).sum(),
        }
    }

    /// Floating point operations of rows of these lengths with `labels` supervised tokens.
    pub(super) fn flops(&self, method: Method, rank: usize, lengths: &[usize], labels: f64) -> f64 {
        let tokens = lengths.iter().sum::<usize>() as f64;
        let products = 2.0 * (self.linears * tokens + self.head * labels);
        let attention: f64 = lengths.iter().map(|&l| l as f64 * 4.0 * (l as f64 / 2.0) * self.attended).sum();
        let trained = match method {
            Method::Full => products,
            _ => 6.0 * self.adapter_of_rank * rank as f64 * tokens,
        };
        2.0 * products + trained + 3.5 * (attention + self.recurrent * tokens)
    }
}

#[cfg(test)]
mod tests {
    use ferrotune::arch::families::{architecture, config_from_json};
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_are_those_of_the_table() {
        let config = json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10,
        });
        let config = config_from_json(Path::new("config.json"), config).unwrap();
        let sizes =
            [(8, 8), (4, 8), (4, 8), (8, 8), (16, 8), (16, 8), (8, 16)].map(|(o, i)| [o as f64, i as f64]);
        let shape = Shape::of(&architecture(&config).unwrap(), &[sizes, sizes].concat());
        // A layer: 64 + 32 + 32 + 64 + 3 * 128 = 576; sums of sizes 16 + 12 + 12 + 16 + 3 * 24 = 128.
        let wanted =
            Shape { linears: 1152.0, head: 80.0, attended: 16.0, adapter_of_rank: 256.0, recurrent: 0.0 };
        assert_eq!(shape, wanted);
        // 6 tokens, 5 labels: products 2 (6912 + 400) = 14624; attention (16 + 4) * 2 * 16 = 640.
        let rows = [4, 2];
        assert_eq!(wanted.flops(Method::Lora, 3, &rows, 5.0), 2.0 * 14624.0 + 27648.0 + 2240.0);
        assert_eq!(wanted.flops(Method::Full, 3, &rows, 5.0), 3.0 * 14624.0 + 2240.0);
    }
}
