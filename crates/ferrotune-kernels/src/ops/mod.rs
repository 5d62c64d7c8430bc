//! The ops in the order data passes them, each with its forward and its backward.
//!
//! | op | forward | backward |
//! |---|---|---|
//! | [`embedding`] | rows of a table | scatter-add (trained table) |
//! | [`lora_embedding`] | adds `s B A[:, token]` to rows of a table | dA, dB |
//! | [`token_rows`] | trained rows in the place of a table's | dR; as a part of the head also dX |
//! | [`rms_norm`] | `x / rms(x) * w`, by rows or heads | dx, dw |
//! | [`layer_norm`] | `(x - mean) / deviation * w + b`, by rows or heads | dx, dw, db |
//! | [`linear`] | `X Wt + s (H Bt + c) + b`, `H = X At` for linears that share X | dX, dA, dB, dc, dW, db |
//! | [`dora`] | `Z m / n + b`, `n` the row lengths of `W + s B A` | dZ, dm |
//! | [`rope`] | rotate pairs by position | rotate back |
//! | [`attention`] | causal softmax attention within segments | dQ, dK, dV |
//! | [`causal_conv`] | a few taps for every channel, with gates or SiLU around them | dx, dw, db |
//! | [`decay`] | the gates of a gated recurrence | da, db, dA_log, ddt_bias |
//! | [`gated_delta`] | linear attention with a state that decays and is corrected, within segments | dQ, dK, dV, dg, dbeta |
//! | [`ssd`] | Mamba-2's state space, within segments | dx, ddt, da, dB, dC, dD |
//! | [`activation`] | `act(x)`, `act(gate) * up` | dx; dgate, dup |
//! | [`xielu`] | an activation with two trained numbers | dx, dalpha_p, dalpha_n |
//! | [`route`] | experts of each token and their weights | dlogits |
//! | [`softmax_xent`] | token losses of a chunk of logits | dlogits, in the same pass |
//! | [`eight_bit`] | an activation in 8 bits until its backward | the values again |
//! | [`elementwise`] | add, copy, rows, columns, dropout | the same |
//! | [`adamw`] | the update; no backward | |

use crate::error::{Error, Result};
use crate::tensor::Tensor;

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod causal_conv;
pub mod decay;
pub mod dora;
pub mod eight_bit;
pub mod elementwise;
pub mod embedding;
pub mod gated_delta;
mod groups;
pub mod layer_norm;
pub mod linear;
pub mod lora_embedding;
pub mod norm;
pub mod rms_norm;
pub mod rope;
pub mod route;
mod scalar;
pub mod segments;
pub mod softmax_xent;
pub mod ssd;
pub mod token_rows;
pub mod xielu;

/// Refuses a tensor whose shape is not the contract's.
fn expect(op: &'static str, what: &'static str, t: &Tensor, expected: [usize; 2]) -> Result<()> {
    if t.shape() == expected {
        return Ok(());
    }
    Err(Error::Shape { op, what, found: t.shape().to_vec(), expected: expected.to_vec() })
}
