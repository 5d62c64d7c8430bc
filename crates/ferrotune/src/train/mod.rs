//! One optimizer step, the loop around it, evaluation, and what a resumed run needs.

pub mod notices;
pub mod outputs;
mod progress;
pub mod record;
pub mod session;
pub mod step;
pub mod trainer;

pub use record::Event;
pub use session::{Session, Trainable};
pub use trainer::{Outcome, Trainer};
