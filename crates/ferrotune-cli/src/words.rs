//! Options that take a word: the words of the library's choices, and those that only the command line has.

use std::fmt::Display;
use std::str::FromStr;

use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use ferrotune::load::BaseStorage;
use ferrotune::lora::algebra::Method;
use ferrotune::options::{JsonSchema, words};
use ferrotune::run_config::{QuantKind, QuantOptions};
use ferrotune_kernels::DType;
use ferrotune_kernels::cpu::Isa;

/// Takes the words of one of the library's choices, with their meanings in the help.
pub fn word<T>() -> impl TypedValueParser<Value = T>
where
    T: JsonSchema + FromStr<Err: Display> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(possible::<T>()).try_map(|word| word.parse().map_err(|e: T::Err| e.to_string()))
}

fn possible<T: JsonSchema>() -> Vec<PossibleValue> {
    let value = |w: ferrotune::options::Word| PossibleValue::new(w.word).help(w.meaning).aliases(w.aliases);
    words::<T>().into_iter().map(value).collect()
}

/// Takes the name of an instruction set.
pub fn isa() -> impl TypedValueParser<Value = Isa> {
    PossibleValuesParser::new(Isa::ALL.map(Isa::name))
        .try_map(|name| Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or("not an instruction set"))
}

/// Takes the name of a way to combine adapters.
pub fn method() -> impl TypedValueParser<Value = Method> {
    PossibleValuesParser::new(Method::names()).try_map(|name| Method::parse(&name))
}

/// How a base's linears are asked to be held: in one of the forms of `method.quant`, or dense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantChoice {
    /// As `method.quant.type` says it.
    Quant(QuantKind),
    /// In floats.
    Dense(DType),
}

impl QuantChoice {
    /// Takes one of them.
    pub fn parser() -> impl TypedValueParser<Value = QuantChoice> {
        let dense =
            [PossibleValue::new("bf16").help("bfloat16"), PossibleValue::new("f32").help("32-bit floats")];
        let mut all = possible::<QuantKind>();
        all[0] = PossibleValue::new("auto")
            .help("The form that the adapter was trained beside, as far as its folder says; else as stored");
        all.extend(dense);
        PossibleValuesParser::new(all).try_map(|word| match word.as_str() {
            "bf16" => Ok(QuantChoice::Dense(DType::Bf16)),
            "f32" => Ok(QuantChoice::Dense(DType::F32)),
            word => word.parse().map(QuantChoice::Quant),
        })
    }

    /// The storage; none for `auto`.
    pub fn storage(self) -> ferrotune::Result<Option<BaseStorage>> {
        match self {
            QuantChoice::Quant(QuantKind::Auto) => Ok(None),
            QuantChoice::Quant(kind) => {
                BaseStorage::from_options(&QuantOptions { kind, ..QuantOptions::default() }).map(Some)
            }
            QuantChoice::Dense(dtype) => Ok(Some(BaseStorage::Dense(dtype))),
        }
    }
}

impl Display for QuantChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            QuantChoice::Quant(kind) => kind.fmt(f),
            QuantChoice::Dense(dtype) => f.write_str(dtype.name()),
        }
    }
}

/// What `merge` merges onto.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Onto {
    /// The form that the adapter was trained beside (`--quant auto`).
    Trained,
    /// The weights as stored (`--quant keep`).
    Stored,
}

impl Onto {
    /// The same as a value of `--quant`.
    pub fn quant(self) -> QuantChoice {
        QuantChoice::Quant(match self {
            Onto::Trained => QuantKind::Auto,
            Onto::Stored => QuantKind::Keep,
        })
    }
}

/// A type of written weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FloatType {
    /// As the model has it.
    Auto,
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
}

impl FloatType {
    /// The type; none for `auto`.
    pub fn dtype(self) -> Option<DType> {
        match self {
            FloatType::Auto => None,
            FloatType::F32 => Some(DType::F32),
            FloatType::Bf16 => Some(DType::Bf16),
            FloatType::F16 => Some(DType::F16),
        }
    }
}

/// `NAME=VALUE`; a value that is JSON is that value, anything else is text.
pub fn variable(text: &str) -> Result<(String, serde_json::Value), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            Ok((name.to_string(), value))
        }
        _ => Err("expected NAME=VALUE, such as enable_thinking=false".to_string()),
    }
}

/// A 4-bit format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FourBit {
    /// 4-bit normal float.
    Nf4,
    /// 4-bit float.
    Fp4,
}

impl From<FourBit> for QuantKind {
    fn from(kind: FourBit) -> Self {
        match kind {
            FourBit::Nf4 => QuantKind::Nf4,
            FourBit::Fp4 => QuantKind::Fp4,
        }
    }
}

/// When text is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}
