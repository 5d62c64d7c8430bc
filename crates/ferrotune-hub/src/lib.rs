//! Models and data sets of the Hugging Face hub, and files of a package index.
//!
//! A download goes on where an earlier one stopped, also one of another process; it is checked by length and SHA-256, and
//! a file appears under its name only when it is whole. Nothing is read from the environment, and no process-wide state
//! exists: address, cache, token, proxies, certificates and patience are values ([`hub::HubSettings`],
//! [`net::NetSettings`], [`index::IndexSettings`]).
//!
//! ```no_run
//! use ferrotune_hub::hub::{self, HubId, HubSettings};
//! use ferrotune_hub::net::NetSettings;
//!
//! # fn main() -> ferrotune_hub::Result<()> {
//! let settings = HubSettings {
//!     endpoint: "https://huggingface.co".into(),
//!     cache_dir: "hub".into(),
//!     token: None,
//!     offline: false,
//!     net: NetSettings::default(),
//! };
//! let id = HubId::parse("HuggingFaceTB/SmolLM2-135M-Instruct").expect("owner/name");
//! let any = |_: &std::path::Path| Ok::<_, ferrotune_hub::Error>(());
//! let folder = hub::fetch(&id, &settings, &["tokenizer.json"], any, &mut |_| {})?;
//! println!("{}", folder.display());
//! # Ok(())
//! # }
//! ```

pub mod dataset;
mod download;
mod error;
pub mod files;
pub mod hash;
pub mod hub;
pub mod index;
pub mod net;
mod repository;
pub mod wheel;

pub use error::{Error, Result};
