//! One optimizer step, the loop around it, evaluation, and what a resumed run needs.

mod budget;
pub mod eval;
mod feed;
pub mod foresee;
pub mod init_adapter;
mod needs;
pub mod outputs;
mod progress;
pub mod record;
pub mod setup;
pub mod step;
pub mod trainer;

pub use record::Event;
pub use setup::Trainable;
pub use trainer::{Outcome, Trainer};
