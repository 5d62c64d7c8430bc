//! What follows from the constants of a LoRA adapter.

use super::targets::Matcher;
use crate::Result;
pub use crate::formats::adapter::{Init, LoraConfig, TrainedBiases};

impl LoraConfig {
    /// Rank and scale of the branch of each of the modules.
    ///
    /// A pattern key stands for the regular expression `(.*\.)?(KEY)$` on the module path. A rank of its own without an
    /// alpha of its own changes the scale.
    pub fn branches(&self, modules: &[&str]) -> Result<Vec<(usize, f32)>> {
        let ranks = Matcher::suffixes("rank_pattern", self.rank_pattern.iter().map(|(k, _)| k))?;
        let alphas = Matcher::suffixes("alpha_pattern", self.alpha_pattern.iter().map(|(k, _)| k))?;
        let one = |module: &str| {
            let rank = ranks.first(module)?.map_or(self.rank, |i| self.rank_pattern[i].1);
            let alpha = alphas.first(module)?.map_or(self.alpha, |i| self.alpha_pattern[i].1);
            Ok((rank, self.scale(rank, alpha)))
        };
        modules.iter().map(|m| one(m)).collect()
    }

    fn scale(&self, rank: usize, alpha: f64) -> f32 {
        let r = rank as f64;
        (alpha / if self.rslora { r.sqrt() } else { r }) as f32
    }
}
