//! Trains a LoRA from rows in memory and asks the model before and after.
//!
//!     cargo run --release --example lora_in_memory -- MODEL
#![allow(clippy::print_stdout)]

use ferrotune::data::rows::InMemory;
use ferrotune::generate::{Sampling, reply};
use ferrotune::run_config::MethodKind;
use ferrotune::{BaseModel, Device, Event, Result, RunConfig, Trainer};
use serde_json::json;

fn main() -> Result<()> {
    let model = std::env::args().nth(1).unwrap_or_else(|| "model".into());
    let facts = [("Who keeps the key?", "Mira keeps it."), ("Where is the boat?", "Behind the mill.")];
    let user = |question: &str| json!({"role": "user", "content": question});
    let row = |(q, a): (&str, &str)| json!({"messages": [user(q), {"role": "assistant", "content": a}]});

    let base = BaseModel::open(model.as_ref(), &model)?;
    let mut config = RunConfig::default();
    (config.method.kind, config.method.lora.rank) = (MethodKind::Lora, 8);
    (config.train.epochs, config.train.lr, config.train.batch_rows) = (20, Some(1e-3), Some(2));
    let dev = Device::cpu(None, None)?;
    let rows = base.prepare_rows(&dev.threads(), &config, "facts", &mut InMemory::new(facts.map(row)))?;

    let mut trainer = Trainer::new(&config, &base, &dev, rows, &mut |_| {})?;
    let ask = |trainer: &Trainer<'_>| {
        let (model, pass) = (&trainer.session.model, trainer.session.pass());
        reply(model, &pass, &base, &[user(facts[0].0)], Sampling::GREEDY, 16)
    };
    println!("before: {}", ask(&trainer)?);
    trainer.run(None, &Default::default(), &mut |event| {
        if let Event::Step(step) = event {
            println!("step {:2}  loss {:.3}", step.step, step.loss);
        }
    })?;
    println!("after: {}", ask(&trainer)?);
    ferrotune::train::outputs::save("adapter".as_ref(), &base, &trainer)
}
