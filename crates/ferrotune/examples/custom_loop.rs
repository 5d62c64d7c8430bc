//! A loop of one's own over forward, backward and update, below the trainer: any schedule, any objective, any order.
//!
//!     cargo run --release --example custom_loop -- MODEL
#![allow(clippy::print_stdout)]

use ferrotune::data::packed_batch::PackedBatch;
use ferrotune::load::BaseStorage;
use ferrotune::lora::{Adapter, LoraConfig};
use ferrotune::loss::NextToken;
use ferrotune::model::{Activations, Gradients, Pass};
use ferrotune::optim::adamw::{AdamW, AdamWConfig};
use ferrotune::optim::{Optimizer, clip};
use ferrotune::train::step;
use ferrotune::{BaseModel, Device, Precision, Result};

fn main() -> Result<()> {
    let model = std::env::args().nth(1).unwrap_or_else(|| "model".into());
    let base = BaseModel::open(model.as_ref(), &model)?;
    let dev = Device::cpu(None, None)?;
    let (network, _) = base.load(&dev, BaseStorage::AsStored, 512, &mut |_| {})?;
    let mut adapter = Adapter::init(&dev, &network, LoraConfig::default(), 0)?;

    // Two texts, packed: there is no padding, and neither sees the other.
    let mut batch = PackedBatch::default();
    for text in ["The mill stands by the river.", "Mira keeps the key of the mill."] {
        let ids = base.tokenizer.encode(text)?.ids;
        let labels: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
        batch.push(&ids, &labels);
    }

    let mut optimizer = AdamW::new(&dev, &adapter.params, AdamWConfig::default());
    let mut gradients = Gradients::zeros(&dev, &adapter.params);
    let scale = 1.0 / batch.label_tokens() as f32;
    for number in 1..=10 {
        gradients.clear();
        let (precision, params) = (Precision::F32, &adapter.params);
        let pass = Pass { dev: &dev, precision, params, adapted: Some(&adapter.adapted), dropout: None };
        let policy = Activations::Keep;
        let loss =
            step::forward_backward(&network, &pass, &NextToken, &batch, scale, policy, &mut gradients)?;
        let norm = step::gradient_norm(&dev, &gradients);
        // A triangle in place of the usual schedules.
        let lr = 1e-3 * f64::from(5 - i32::abs(5 - number)).max(1.0) / 5.0;
        optimizer.step(&dev, &mut adapter.params, &gradients, lr, clip::factor(norm, 1.0))?;
        println!("step {number:2}  loss {:.3}  gradient norm {norm:.3}", loss.mean());
    }
    Ok(())
}
