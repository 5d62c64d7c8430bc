//! Where a network stands in the tree of modules that transformers builds, and what stands beside it.
//!
//! The engine knows every module by its path in that tree, which PEFT's adapters have too. A checkpoint may have older
//! names; they are turned into these where a file is read.

use std::borrow::Cow;

/// The place of the network in the tree of modules of a model.
#[derive(Debug, PartialEq, Eq)]
pub struct Tree {
    /// Path of the module that has the layers.
    pub decoder: &'static str,
    /// Path of the embedding.
    pub embedding: &'static str,
    /// Beginnings of names in files, and what they are in the tree. The first that fits counts.
    pub(crate) renamed: &'static [(&'static str, &'static str)],
    /// Modules that no row of text goes through: they are not loaded, and results have their bytes as they are.
    pub(crate) carried: &'static [&'static str],
}

impl Tree {
    /// A model of text alone.
    pub const TEXT: Tree =
        Tree { decoder: "model", embedding: "model.embed_tokens", renamed: &[], carried: &[] };

    /// A part of a layer.
    pub(crate) fn in_layer(&self, layer: usize, part: &str) -> String {
        format!("{}.layers.{layer}.{part}", self.decoder)
    }

    /// Whether a tensor is of a layer.
    pub(crate) fn is_in_layer(&self, tensor: &str) -> bool {
        tensor.strip_prefix(self.decoder).is_some_and(|rest| rest.starts_with(".layers."))
    }

    /// Whether a tensor is of a module that is only carried along.
    pub(crate) fn carries(&self, tensor: &str) -> bool {
        let inside = |module: &str| tensor.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'));
        self.carried.iter().any(|module| inside(module))
    }

    /// The name in the tree for one of a file.
    pub(crate) fn name<'n>(&self, in_file: &'n str) -> Cow<'n, str> {
        let found = self.renamed.iter().find_map(|(old, new)| Some((new, in_file.strip_prefix(old)?)));
        found.map_or(in_file.into(), |(new, rest)| format!("{new}{rest}").into())
    }

    /// The name that files of the older kind have for one of the tree.
    pub(crate) fn older(&self, name: &str) -> String {
        let renamed = self.renamed.iter().filter(|(old, new)| old != new);
        let found = renamed.into_iter().find_map(|(old, new)| Some((old, name.strip_prefix(new)?)));
        found.map_or(name.into(), |(old, rest)| format!("{old}{rest}"))
    }
}
