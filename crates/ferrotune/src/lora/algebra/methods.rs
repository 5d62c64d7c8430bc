//! The methods by name.

use crate::options::choice;
use crate::{Error, Result};

/// What is done with the values of several adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The weighted sum.
    Sum,
    /// The largest values of each, their majority sign, the mean of those that have it (Yadav et al. 2023).
    Ties,
    /// As `Ties`, on values that were dropped at random and rescaled.
    DareTies,
    /// The weighted sum of values that were dropped at random and rescaled (Yu et al. 2023).
    DareLinear,
    /// The weighted sum of the largest values of each.
    MagnitudePrune,
}

/// What the values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A with A and B with B.
    Factors,
    /// Factors one after the other.
    Concatenated,
    /// The products `s B A`, of which a singular value decomposition keeps the rank asked for.
    Products,
}

choice! {
    /// How the sign of a value is elected.
    pub enum MajoritySign {
        /// By the sum of the values.
        #[default]
        Total = "total",
        /// By the number of values of each sign.
        Frequency = "frequency",
    }
}

/// A method of [`combine`](super::combine).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// What is done.
    pub rule: Rule,
    /// What is combined.
    pub form: Form,
}

/// PEFT's names of the `combination_type`.
const METHODS: [(&str, Rule, Form); 11] = [
    ("linear", Rule::Sum, Form::Factors),
    ("cat", Rule::Sum, Form::Concatenated),
    ("svd", Rule::Sum, Form::Products),
    ("ties", Rule::Ties, Form::Factors),
    ("ties_svd", Rule::Ties, Form::Products),
    ("dare_ties", Rule::DareTies, Form::Factors),
    ("dare_ties_svd", Rule::DareTies, Form::Products),
    ("dare_linear", Rule::DareLinear, Form::Factors),
    ("dare_linear_svd", Rule::DareLinear, Form::Products),
    ("magnitude_prune", Rule::MagnitudePrune, Form::Factors),
    ("magnitude_prune_svd", Rule::MagnitudePrune, Form::Products),
];

impl Method {
    /// Weighted sum of the factors.
    pub const LINEAR: Method = Method { rule: Rule::Sum, form: Form::Factors };
    /// The exact weighted sum.
    pub const CAT: Method = Method { rule: Rule::Sum, form: Form::Concatenated };

    /// All names.
    pub fn names() -> [&'static str; METHODS.len()] {
        METHODS.map(|(name, ..)| name)
    }

    /// The method of this name; an unknown one is refused with the nearest.
    pub fn parse(name: &str) -> Result<Self> {
        let plain = name.to_ascii_lowercase().replace('-', "_");
        if let Some((_, rule, form)) = METHODS.into_iter().find(|(n, _, _)| *n == plain) {
            return Ok(Method { rule, form });
        }
        let near =
            METHODS.map(|(n, _, _)| n).into_iter().min_by_key(|n| strsim::damerau_levenshtein(n, &plain));
        let all = METHODS.map(|(n, _, _)| n).join(", ");
        Err(Error::config("--method", format!("`{name}` is not a method of combination"))
            .with_hint(format!("did you mean `{}`? The methods are {all}", near.unwrap_or_default())))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        METHODS.iter().find(|(_, r, f)| (*r, *f) == (self.rule, self.form)).map_or("", |m| m.0)
    }

    /// Whether it drops values, by a density.
    pub(crate) fn drops(self) -> bool {
        self.rule != Rule::Sum
    }

    /// Whether it divides what is kept by the density.
    pub(crate) fn rescales(self) -> bool {
        matches!(self.rule, Rule::DareLinear | Rule::DareTies)
    }
}
