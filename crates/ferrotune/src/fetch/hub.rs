//! Models of the hub, as far as this library can open them.

use std::path::PathBuf;

use ferrotune_hub::hub;
pub use ferrotune_hub::hub::{HubId, HubSettings, cached};

use super::net::OnProgress;
use crate::Result;
use crate::arch::families::read_config;

/// Files beside the weights that are taken if the model has them.
const SIDECARS: [&str; 15] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    crate::formats::folder::TOOL_TEMPLATE,
    "tokenizer.model",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
];

/// The snapshot folder or GGUF file of `id`: of the cache if it is there, else downloaded into it.
///
/// An architecture that is not supported is refused before gigabytes are brought.
pub fn fetch(id: &HubId, settings: &HubSettings, on: &mut OnProgress) -> Result<PathBuf> {
    hub::fetch(id, settings, &SIDECARS, |config| read_config(config).map(drop), on)
}

/// The `config.json` of `id`, of the cache or downloaded into it; nothing else is.
pub fn fetch_config(id: &HubId, settings: &HubSettings, on: &mut OnProgress) -> Result<PathBuf> {
    Ok(hub::fetch_config(id, settings, on)?)
}
