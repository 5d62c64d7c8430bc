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
//!
//! Causal attention sees half of the square; its backward makes the scores again and then four products like the two of the
//! forward. `D` of the attention is heads times the size of a head.

use std::path::Path;

use serde_json::Value;

use super::cases::Method;
use crate::golden::Failure;
use crate::shared::python::number;

/// What is counted of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    linears: f64,
    head: f64,
    attended: f64,
    layers: f64,
    adapter_of_rank: f64,
}

impl Shape {
    /// Reads `config.json` of a folder with a Llama.
    pub(super) fn open(model: &Path) -> Result<Self, Failure> {
        Self::of(&serde_json::from_slice(&std::fs::read(model.join("config.json"))?)?)
    }

    fn of(config: &Value) -> Result<Self, Failure> {
        let read = |key| number(config, key);
        let (hidden, ffn, layers) =
            (read("hidden_size")?, read("intermediate_size")?, read("num_hidden_layers")?);
        let heads = read("num_attention_heads")?;
        let head_dim = read("head_dim").unwrap_or(hidden / heads);
        let (q, kv) = (heads * head_dim, read("num_key_value_heads")? * head_dim);
        // Inputs and outputs of q, k, v, o, gate, up, down.
        let sizes = [
            (hidden, q),
            (hidden, kv),
            (hidden, kv),
            (q, hidden),
            (hidden, ffn),
            (hidden, ffn),
            (ffn, hidden),
        ];
        Ok(Shape {
            linears: layers * sizes.iter().map(|(i, o)| i * o).sum::<f64>(),
            head: hidden * read("vocab_size")?,
            attended: q,
            layers,
            adapter_of_rank: layers * sizes.iter().map(|(i, o)| i + o).sum::<f64>(),
        })
    }

    /// Floating point operations of rows of these lengths with `labels` supervised tokens.
    pub(super) fn flops(&self, method: Method, rank: usize, lengths: &[usize], labels: f64) -> f64 {
        let tokens = lengths.iter().sum::<usize>() as f64;
        let products = 2.0 * (self.linears * tokens + self.head * labels);
        let attention: f64 =
            lengths.iter().map(|&l| l as f64 * 4.0 * (l as f64 / 2.0) * self.attended * self.layers).sum();
        let trained = match method {
            Method::Full => products,
            _ => 6.0 * self.adapter_of_rank * rank as f64 * tokens,
        };
        2.0 * products + trained + 3.5 * attention
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_are_those_of_the_table() {
        let config = json!({
            "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": 10,
        });
        let shape = Shape::of(&config).map_err(|f| f.0);
        // A layer: 64 + 32 + 32 + 64 + 3 * 128 = 576; sums of sizes 16 + 12 + 12 + 16 + 3 * 24 = 128.
        let wanted =
            Shape { linears: 1152.0, head: 80.0, attended: 8.0, layers: 2.0, adapter_of_rank: 256.0 };
        assert_eq!(shape, Ok(wanted));
        // 6 tokens, 5 labels: products 2 (6912 + 400) = 14624; attention (16 + 4) * 2 * 16 = 640.
        let rows = [4, 2];
        assert_eq!(wanted.flops(Method::Lora, 3, &rows, 5.0), 2.0 * 14624.0 + 27648.0 + 2240.0);
        assert_eq!(wanted.flops(Method::Full, 3, &rows, 5.0), 3.0 * 14624.0 + 2240.0);
        assert!(Shape::of(&json!({"hidden_size": 8})).is_err());
    }
}
