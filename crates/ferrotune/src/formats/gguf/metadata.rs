//! The keys that a file has under the name of its architecture.

use std::collections::BTreeSet;

use super::file::GgufFile;
use crate::{Error, Result};

/// The keys of the file's architecture.
pub(super) struct Metadata<'a> {
    pub(super) file: &'a GgufFile,
    /// Prefix of the architecture's keys.
    pub(super) prefix: &'static str,
}

impl Metadata<'_> {
    pub(super) fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.prefix)
    }

    pub(super) fn missing(&self, suffix: &str) -> Error {
        self.file.bad(&self.key(suffix), "missing")
    }

    pub(super) fn bad(&self, suffix: &str, problem: String) -> Error {
        self.file.bad(&self.key(suffix), problem)
    }

    pub(super) fn unsigned(&self, suffix: &str) -> Result<Option<u64>> {
        self.file.unsigned(&self.key(suffix))
    }

    pub(super) fn need(&self, suffix: &str) -> Result<u64> {
        self.unsigned(suffix)?.ok_or_else(|| self.missing(suffix))
    }

    /// A count that all layers have but those that have none of it.
    pub(super) fn alike(&self, suffix: &str) -> Result<Option<u64>> {
        let Some(counts) = self.per_layer(suffix)? else { return Ok(None) };
        let some: BTreeSet<u64> = counts.into_iter().filter(|n| *n > 0).collect();
        match Vec::from_iter(some)[..] {
            [] => Ok(Some(0)),
            [one] => Ok(Some(one)),
            _ => Err(self.bad(suffix, "an array with another value for each layer is not supported".into())),
        }
    }

    /// The count of each layer, or the one of all.
    pub(super) fn per_layer(&self, suffix: &str) -> Result<Option<Vec<u64>>> {
        self.file.counts(&self.key(suffix))
    }

    pub(super) fn float(&self, suffix: &str) -> Result<Option<f64>> {
        self.file.float(&self.key(suffix))
    }

    pub(super) fn text(&self, suffix: &str) -> Result<Option<&str>> {
        self.file.text(&self.key(suffix))
    }

    pub(super) fn has(&self, tensor: &str) -> bool {
        self.file.tensors().contains_key(tensor)
    }

    /// A window, where 0 stands for none.
    pub(super) fn window(&self) -> Result<Option<u64>> {
        Ok(self.unsigned("attention.sliding_window")?.filter(|&n| n > 0))
    }
}
