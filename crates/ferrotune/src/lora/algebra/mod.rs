//! Several adapters made into one, as PEFT's `add_weighted_adapter` does it, on adapter folders alone.
//!
//! An adapter adds `s B A` to a linear. What a method combines is one of three things ([`Form`]):
//!
//! * the **factors** (`linear`, `ties`, ...): A with A and B with B, each weighted by the root of `|w s|`. The product
//!   of sums has cross terms `B_i A_j`, so `linear` is not the weighted sum of the adapters; it keeps the rank.
//! * the **concatenation** (`cat`): exactly the weighted sum, with the sum of the ranks.
//! * the **products** `s B A` (`svd`, `ties_svd`, ...), whose best approximation of some rank is then taken.
//!
//! [`Combination::exact`] gives the weighted sum without cross terms and without loss in the least rank that holds it.
//! The scale of the result is 1 (`lora_alpha` equals `r`), also where the inputs were rsLoRA: PEFT keeps `use_rslora`
//! of the first input there, which scales its result by the root of the rank once more.

mod methods;
mod modules;
mod tensors;

use std::path::PathBuf;

use ferrotune_kernels::Threads;

use crate::formats::adapter::{AdapterConfig, AdapterFile, LoraConfig, Targets};
use crate::{Error, Result};

use super::svd::{self, Factors};
pub use methods::{Form, MajoritySign, Method, Rule};
use modules::{Branch, Module, Part};

/// An adapter to combine.
#[derive(Debug, Clone)]
pub struct Input {
    /// Its folder, for messages.
    pub path: PathBuf,
    /// Its content.
    pub file: AdapterFile,
}

/// How adapters are combined.
#[derive(Debug, Clone)]
pub struct Combination {
    /// The method.
    pub method: Method,
    /// One factor for each adapter; may be negative.
    pub weights: Vec<f64>,
    /// Share of the values that is kept by methods that drop some.
    pub density: Option<f64>,
    /// How the sign of a value is elected by the `ties` methods.
    pub majority_sign: MajoritySign,
    /// Rank of the result of methods on products; by default the largest of the inputs.
    pub rank: Option<usize>,
    /// The weighted sum itself in the least rank that holds it, in place of a sum with cross terms or a truncated one.
    pub exact: bool,
    /// Seed of what the `dare` methods drop.
    pub seed: u64,
    /// Name of the base; without it the inputs must name the same one.
    pub base: Option<String>,
}

/// The result.
#[derive(Debug, Clone)]
pub struct Combined {
    /// The new adapter.
    pub file: AdapterFile,
    /// The largest share of a module's combined product (norm of what was cut over norm of the whole) that the rank
    /// has no room for; 0 for methods that cut nothing.
    pub cut: f64,
}

/// Combines the adapters.
pub fn combine(threads: &Threads, inputs: &[Input], how: &Combination) -> Result<Combined> {
    let method = check(inputs, how)?;
    let modules = modules::collect(inputs)?;
    let rank = match (method.form, how.exact) {
        (_, true) => 0,
        (Form::Factors, _) => equal_rank(inputs, &modules, method)?,
        (Form::Concatenated, _) => inputs.iter().map(|i| modules::rank(&i.file)).sum(),
        (Form::Products, _) => {
            how.rank.unwrap_or_else(|| inputs.iter().map(|i| modules::rank(&i.file)).max().unwrap_or(1))
        }
    };
    let made = threads.map(&modules, |module| one(module, method, how, rank));
    let made: Vec<(Factors, f64)> = made.into_iter().collect::<Result<_>>()?;
    let rank = if how.exact { exact_rank(&made, how)? } else { rank };
    let cut = made.iter().map(|(_, cut)| *cut).fold(0.0, f64::max);
    let mut tensors = Vec::with_capacity(2 * made.len());
    for (module, (factors, _)) in modules.iter().zip(made) {
        let (a, b) = factors.padded(rank);
        tensors.push(module.tensor(Part::A, &[rank, module.cols], a));
        tensors.push(module.tensor(Part::B, &[module.rows, rank], b));
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Combined { file: AdapterFile { config: config(inputs, &modules, how, rank), tensors }, cut })
}

/// The combination of one module, and the share of it that was cut.
fn one(module: &Module<'_>, method: Method, how: &Combination, rank: usize) -> Result<(Factors, f64)> {
    let (rows, cols) = (module.rows, module.cols);
    if how.exact {
        return Ok((svd::product(&concatenated(module, &how.weights)).exact(), 0.0));
    }
    match method.form {
        Form::Concatenated => Ok((concatenated(module, &how.weights), 0.0)),
        Form::Products if method.rule == Rule::Sum => {
            Ok(svd::product(&concatenated(module, &how.weights)).truncated(rank))
        }
        Form::Products => {
            let (products, weights) = products(module, how);
            let delta = tensors::apply(method.rule, products, &weights, how, &module.name);
            Ok(svd::dense(&delta, rows, cols, rank))
        }
        Form::Factors => {
            let sides = [Part::A, Part::B].map(|part| {
                let values = module.branches.iter().map(|b| b.tensor(part).values.clone()).collect();
                let weights: Vec<f32> =
                    module.branches.iter().map(|b| b.root(how.weights[b.input], part)).collect();
                tensors::apply(method.rule, values, &weights, how, &module.key(part))
            });
            let [a, b] = sides;
            Ok((Factors { rows, cols, rank: module.branches[0].rank(), a, b }, 0.0))
        }
    }
}

/// All branches side by side: A's rows weighted by `w s`, B's columns as they are.
fn concatenated(module: &Module<'_>, weights: &[f64]) -> Factors {
    let rank: usize = module.branches.iter().map(Branch::rank).sum();
    let mut a = Vec::with_capacity(rank * module.cols);
    for branch in &module.branches {
        let (w, s) = (weights[branch.input] as f32, branch.scale as f32);
        a.extend(branch.tensor(Part::A).values.iter().map(|v| v * w * s));
    }
    let mut b = Vec::with_capacity(module.rows * rank);
    for row in 0..module.rows {
        for branch in &module.branches {
            let r = branch.rank();
            b.extend_from_slice(&branch.tensor(Part::B).values[row * r..][..r]);
        }
    }
    Factors { rows: module.rows, cols: module.cols, rank, a, b }
}

/// `s B A` of each branch, and its weight.
fn products(module: &Module<'_>, how: &Combination) -> (Vec<Vec<f32>>, Vec<f32>) {
    let product = |branch: &Branch<'_>| {
        let factors = Factors {
            rows: module.rows,
            cols: module.cols,
            rank: branch.rank(),
            a: branch.tensor(Part::A).values.clone(),
            b: branch.tensor(Part::B).values.clone(),
        };
        factors.product().into_iter().map(|v| v * branch.scale as f32).collect()
    };
    let weights = module.branches.iter().map(|b| how.weights[b.input] as f32).collect();
    (module.branches.iter().map(product).collect(), weights)
}

/// What the options and the adapters' features allow; gives the method that is in force.
fn check(inputs: &[Input], how: &Combination) -> Result<Method> {
    let wrong = |key: &str, problem: String| Err(Error::config(key, problem));
    let Some(first) = inputs.first() else {
        return wrong("combine", "no adapter is given".into());
    };
    if how.weights.len() != inputs.len() {
        let (weights, adapters) = (how.weights.len(), inputs.len());
        return wrong(
            "--weights",
            format!("{weights} found, expected one for each of the {adapters} adapters"),
        );
    }
    if let Some(w) = how.weights.iter().find(|w| !w.is_finite()) {
        return wrong("--weights", format!("{w} is not a finite number"));
    }
    if how.rank == Some(0) {
        return wrong("--rank", "found 0, expected at least 1".into());
    }
    // With one adapter PEFT has nothing but the weight to apply.
    let method = if inputs.len() == 1 && !how.exact { Method::LINEAR } else { how.method };
    let name = how.method.name();
    match how.density {
        Some(d) if !how.method.drops() => {
            return wrong("--density", format!("{d} is given, but `{name}` drops no values"));
        }
        Some(d) if !(0.0..=1.0).contains(&d) => {
            return wrong("--density", format!("{d} found, expected a share between 0 and 1"));
        }
        Some(0.0) if how.method.rescales() => {
            return wrong("--density", format!("0 found, but `{name}` divides by the density"));
        }
        None if how.method.drops() => {
            return Err(Error::config("--density", format!("missing, `{name}` needs it"))
                .with_hint("the share of values to keep, such as --density 0.5"));
        }
        _ => {}
    }
    if how.exact && how.method.rule != Rule::Sum {
        return Err(Error::config("--exact", format!("`{name}` drops values, there is no exact sum of it"))
            .with_hint(format!(
                "exact is for linear, cat and svd; {} drops values of the products",
                match how.method.form {
                    Form::Factors => format!("{name}_svd"),
                    _ => name.to_string(),
                }
            )));
    }
    if how.rank.is_some() && how.method.form != Form::Products && !how.exact {
        return Err(Error::config("--rank", format!("`{name}` has the rank that follows from the inputs"))
            .with_hint("the methods whose names end in svd take a rank"));
    }
    for input in inputs {
        modules::supported(input)?;
        let (base, other) =
            (&first.file.config.base_model_name_or_path, &input.file.config.base_model_name_or_path);
        if how.base.is_none() && base.is_some() && other.is_some() && base != other {
            let (base, other) = (base.as_deref().unwrap_or_default(), other.as_deref().unwrap_or_default());
            let problem = format!(
                "its base is `{other}`, that of {} is `{base}`: adapters of different bases do not add up",
                first.path.display()
            );
            return Err(Error::file(&input.path, problem)
                .with_hint("if the names stand for the same weights, give the one to write with --base"));
        }
    }
    Ok(method)
}

/// The rank that all inputs have; methods on factors add A to A, so they need one.
fn equal_rank(inputs: &[Input], modules: &[Module<'_>], method: Method) -> Result<usize> {
    let name = method.name();
    let hint = format!(
        "{}, cat and svd take adapters of different ranks",
        match method.rule {
            Rule::Sum => "linear with --exact".to_string(),
            _ => format!("{name}_svd"),
        }
    );
    let rank = modules::rank(&inputs[0].file);
    if let Some(other) = inputs.iter().find(|i| modules::rank(&i.file) != rank) {
        let problem = format!(
            "its rank is {}, that of {} is {rank}; `{name}` needs equal ranks",
            modules::rank(&other.file),
            inputs[0].path.display()
        );
        return Err(Error::file(&other.path, problem).with_hint(hint));
    }
    for module in modules {
        let first = &module.branches[0];
        if let Some(other) = module.branches.iter().find(|b| b.rank() != first.rank()) {
            let problem = format!(
                "rank is {}, in {} it is {}; `{name}` needs equal ranks",
                other.rank(),
                inputs[first.input].path.display(),
                first.rank()
            );
            return Err(
                Error::tensor(&inputs[other.input].path, module.key(Part::A), problem).with_hint(hint)
            );
        }
    }
    Ok(rank)
}

/// The rank that holds every module's exact sum.
fn exact_rank(made: &[(Factors, f64)], how: &Combination) -> Result<usize> {
    let needed = made.iter().map(|(f, _)| f.rank).max().unwrap_or(0).max(1);
    match how.rank {
        Some(rank) if rank < needed => Err(Error::config(
            "--rank",
            format!("found {rank}, the exact sum of these adapters has rank {needed}"),
        )
        .with_hint("leave --rank away, or take --method svd for the best approximation of that rank")),
        rank => Ok(rank.unwrap_or(needed)),
    }
}

/// The configuration of the result: scale 1, the targets of all inputs, the rest from the first.
fn config(inputs: &[Input], modules: &[Module<'_>], how: &Combination, rank: usize) -> AdapterConfig {
    let first = &inputs[0].file.config;
    let named = inputs.iter().find_map(|i| i.file.config.base_model_name_or_path.clone());
    let lora: Vec<&LoraConfig> = inputs.iter().map(|i| &i.file.config.lora).collect();
    AdapterConfig {
        lora: LoraConfig {
            rank,
            alpha: rank as f64,
            dropout: first.lora.dropout,
            targets: targets(&lora, modules),
            ..LoraConfig::default()
        },
        base_model_name_or_path: how.base.clone().or(named),
        revision: first.revision.clone(),
        task_type: first.task_type.clone(),
    }
}

/// The union of the targets where it selects the union of the modules; else the paths of the modules.
fn targets(configs: &[&LoraConfig], modules: &[Module<'_>]) -> Targets {
    let restricted = |c: &&LoraConfig| {
        c.exclude.is_some() || c.layers_to_transform.is_some() || c.targets == Targets::Names(Vec::new())
    };
    if !configs.iter().any(restricted) {
        let first = &configs[0].targets;
        if configs.iter().all(|c| c.targets == *first) {
            return first.clone();
        }
        let lists = configs.iter().map(|c| match &c.targets {
            Targets::Names(names) => Some(names.as_slice()),
            _ => None,
        });
        if let Some(lists) = lists.collect::<Option<Vec<_>>>() {
            let mut names = lists.concat();
            names.sort();
            names.dedup();
            return Targets::Names(names);
        }
        let patterns = configs.iter().map(|c| match &c.targets {
            Targets::Regex(pattern) => Some(format!("({pattern})")),
            _ => None,
        });
        if let Some(patterns) = patterns.collect::<Option<Vec<_>>>() {
            return Targets::Regex(patterns.join("|"));
        }
    }
    Targets::Names(modules.iter().map(|m| m.name.clone()).collect())
}
