//! An adapter that fits the original weights, of one whose initialisation changed them.

use ferrotune_kernels::{Device, Tensor};

use super::Adapter;
use super::config::{Init, LoraConfig};
use super::layout::{Part, Slot};
use crate::Result;
use crate::model::Decoder;
use crate::model::parts::LinearLayer;

impl Adapter {
    /// The same adapter for the original weights, where PiSSA or OLoRA changed them: a plain LoRA of twice the rank,
    /// `B A - B0 A0 = [B, -B0] [A; A0]`. `None` for adapters that fit the original weights already, and for LoftQ, whose
    /// quantized weights no branch makes up for.
    pub fn converted(&self, dev: &Device, model: &Decoder) -> Result<Option<Adapter>> {
        if self.moved.is_empty() {
            return Ok(None);
        }
        let old = &self.config;
        let config = LoraConfig {
            rank: 2 * old.rank,
            alpha: old.alpha * if old.rslora { std::f64::consts::SQRT_2 } else { 2.0 },
            rank_pattern: old.rank_pattern.iter().map(|(k, r)| (k.clone(), 2 * r)).collect(),
            alpha_pattern: old
                .alpha_pattern
                .iter()
                .map(|(k, a)| (k.clone(), a * if old.rslora { std::f64::consts::SQRT_2 } else { 2.0 }))
                .collect(),
            init: Init::Kaiming,
            ..old.clone()
        };
        let mut make = |slot: &Slot<'_>| {
            let own = self.params.find(&slot.name).map(|id| self.params.get(id));
            let own = own.map_or(&[][..], Tensor::host_f32);
            let moved = |l: &LinearLayer| self.moved.get(&l.id);
            Ok(match slot.part {
                Part::Linear(at, spec) if spec.name == "lora_A.weight" => {
                    let first = moved(at.linear).map_or(&[][..], |m| &m.0);
                    dev.tensor(slot.rows, slot.cols, &[own, first].concat())
                }
                Part::Linear(at, spec) if spec.name == "lora_B.weight" => {
                    let (r, first) = (slot.cols / 2, moved(at.linear).map_or(&[][..], |m| &m.1));
                    let rows = own.chunks_exact(r).zip(first.chunks_exact(r));
                    let rows = rows.flat_map(|(b, b0)| b.iter().copied().chain(b0.iter().map(|v| -v)));
                    dev.tensor(slot.rows, slot.cols, &rows.collect::<Vec<f32>>())
                }
                // The embedding's branch has its rank doubled with the others: the second half adds nothing.
                Part::EmbeddingA => dev.tensor(slot.rows, slot.cols, &[own, &vec![0.0; own.len()]].concat()),
                Part::EmbeddingB => {
                    let r = slot.cols / 2;
                    let rows = own.chunks_exact(r).flat_map(|b| [b, &vec![0.0; r]].concat());
                    dev.tensor(slot.rows, slot.cols, &rows.collect::<Vec<f32>>())
                }
                _ => dev.tensor(slot.rows, slot.cols, own),
            })
        };
        Ok(Some(Adapter::build(dev, model, config, &mut make)?))
    }
}
