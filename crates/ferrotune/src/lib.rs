//! Fine-tuning of language models with full fine-tuning, LoRA and QLoRA.
//!
//! A program opens a base, describes a run, and trains with events; then it generates, saves or merges. This is all of it for
//! a LoRA from rows in memory:
//!
//! ```no_run
//! use ferrotune::data::rows::InMemory;
//! use ferrotune::run_config::MethodKind;
//! use ferrotune::{BaseModel, Device, Event, RunConfig, Trainer};
//! use serde_json::json;
//!
//! # fn main() -> ferrotune::Result<()> {
//! let base = BaseModel::open("SmolLM2-135M-Instruct".as_ref(), "SmolLM2")?;
//! let mut config = RunConfig::default();
//! (config.method.kind, config.train.epochs) = (MethodKind::Lora, 3);
//! let dev = Device::cpu(None, None)?;
//! let row = json!({"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]});
//! let rows = base.prepare_rows(&dev.threads(), &config, "mine", &mut InMemory::new([row]))?;
//! let mut trainer = Trainer::new(&config, &base, &dev, rows, &mut |_| {})?;
//! trainer.run(None, &Default::default(), &mut |event| {
//!     if let Event::Step(step) = event {
//!         println!("{}", step.loss);
//!     }
//! })?;
//! ferrotune::train::outputs::save("adapter".as_ref(), &base, &trainer)
//! # }
//! ```
//!
//! `examples/` has whole programs: rows in memory, a source of rows of one's own, a loop over forward and backward, many
//! adapters beside one base.
//!
//! **Stable** are the names that this page re-exports and what their methods need. Everything else is public so that the
//! program and its tests can reach it, and may change with any version.
//!
//! Modules stand in the order of their layers: each knows those above it in this list, and none below.

// Who touches the disk says so where the module is declared; clippy.toml lists what is forbidden elsewhere.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod error;
mod file_kind;
mod json;
pub mod options;
pub mod panics;
pub mod units;

pub mod arch;
#[allow(clippy::disallowed_methods, reason = "reads and writes checkpoints")]
pub mod formats;

pub mod run_config;

pub mod data;

#[allow(clippy::disallowed_methods, reason = "finds starter models and files of data sets")]
pub mod fetch;

pub mod model;

pub mod load;

pub mod base;

pub mod lora;

pub mod merge;

pub mod loss;

#[allow(clippy::disallowed_methods, reason = "reads what the system says of memory")]
pub mod memory;

pub mod optim;

pub mod plan;

#[allow(clippy::disallowed_methods, reason = "writes run folders")]
pub mod results;

pub mod train;

pub mod generate;

pub use base::BaseModel;
pub use error::{Error, Result};
pub use ferrotune_kernels::{Device, Precision};
pub use run_config::RunConfig;
pub use train::{Event, Outcome, Session, Trainer};
