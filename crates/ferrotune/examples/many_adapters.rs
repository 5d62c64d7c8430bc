//! Many adapters beside one base: the base is loaded once, and each pass says which adapter counts.
//!
//!     cargo run --release --example many_adapters -- MODEL QUESTION ADAPTER...
#![allow(clippy::print_stdout)]

use std::path::Path;

use ferrotune::generate::{Sampling, reply};
use ferrotune::load::BaseStorage;
use ferrotune::lora::peft;
use ferrotune::model::{Params, Pass};
use ferrotune::{BaseModel, Device, Precision, Result};
use serde_json::json;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (model, question) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
    let base = BaseModel::open(model.as_ref(), &model)?;
    let dev = Device::cpu(None, None)?;
    let (network, _) = base.load(&dev, BaseStorage::AsStored, 1024, &mut |_| {})?;

    let none = Params::default();
    let alone = Pass { dev: &dev, precision: Precision::Bf16, params: &none, adapted: None, dropout: None };
    let messages = [json!({"role": "user", "content": question})];
    println!("base: {}", reply(&network, &alone, &base, &messages, Sampling::GREEDY, 48)?);
    for folder in args {
        let adapter = peft::load(&dev, Path::new(&folder), &network)?;
        let pass = Pass { params: &adapter.params, adapted: Some(&adapter.adapted), ..alone };
        println!("{folder}: {}", reply(&network, &pass, &base, &messages, Sampling::GREEDY, 48)?);
    }
    Ok(())
}
