//! Numbers of the reference stack (PEFT, transformers, bitsandbytes, PyTorch), case by case, beside ours.
//!
//! A case is a folder of the fixtures' layout; what it holds decides which checks run. Each check records its largest
//! error and the limit of that kind; a missing file is a failure, never a skip.

mod adam8;
mod algebra;
mod eight_bit;
mod fixture;
mod full;
mod gguf;
mod model;
mod optim;
mod quant;
mod trainer;
mod variants;

use std::fmt;
use std::path::{Path, PathBuf};

pub(crate) use fixture::max_abs;
pub use fixture::{Case, Failure};
pub(crate) use model::logits_limit;

/// The outcome of a case.
#[derive(Debug)]
pub struct Report {
    name: String,
    errors: Vec<(String, f64, f64)>,
    note: Option<String>,
    problem: Option<String>,
}

impl Report {
    pub(crate) fn new(name: String) -> Self {
        Report { name, errors: Vec::new(), note: None, problem: None }
    }

    /// A case that could not be checked.
    pub(crate) fn failed(name: String, failure: Failure) -> Self {
        Report { problem: Some(failure.0), ..Report::new(name) }
    }

    /// The report with what ended its check, if something did.
    pub(crate) fn with(mut self, outcome: Result<(), Failure>) -> Self {
        self.problem = outcome.err().map(|failure| failure.0);
        self
    }

    /// Something for the reader that is not compared.
    pub(crate) fn note(&mut self, text: String) {
        self.note = Some(text);
    }

    /// Records an error of a kind; the largest is kept.
    pub(crate) fn error(&mut self, kind: &str, found: f64, limit: f64) {
        let found = if found.is_nan() { f64::INFINITY } else { found };
        match self.errors.iter_mut().find(|(k, _, _)| k == kind) {
            Some((_, worst, _)) => *worst = worst.max(found),
            None => self.errors.push((kind.to_string(), found, limit)),
        }
    }

    /// Whether everything was checked and within its limit.
    pub fn passed(&self) -> bool {
        self.problem.is_none()
            && !self.errors.is_empty()
            && self.errors.iter().all(|(_, e, limit)| e <= limit)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", if self.passed() { "pass" } else { "FAIL" }, self.name)?;
        for (kind, worst, limit) in &self.errors {
            let mark = if worst <= limit { "" } else { " (!)" };
            write!(f, "  {kind} {worst:.2e}/{limit:.0e}{mark}")?;
        }
        for text in self.note.iter().chain(&self.problem) {
            write!(f, "  {text}")?;
        }
        Ok(())
    }
}

/// The largest error of each kind and the case that has it, for all cases of a folder: what to look at first.
pub struct Table<'a>(pub &'a [Report]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut worst: Vec<(&str, &str, f64, f64, &str)> = Vec::new();
        for report in self.0 {
            let group = report.name.split('/').next().unwrap_or_default();
            for (kind, error, limit) in &report.errors {
                let row = (group, kind.as_str(), *error, *limit, report.name.as_str());
                match worst.iter_mut().find(|r| (r.0, r.1) == (group, kind.as_str())) {
                    // How near its limit an error is counts: limits of a kind differ between cases.
                    Some(known) if known.2 / known.3.max(1e-30) < error / limit.max(1e-30) => *known = row,
                    Some(_) => {}
                    None => worst.push(row),
                }
            }
        }
        for (group, kind, error, limit, case) in worst {
            writeln!(f, "{group:14} {kind:22} {error:>9.2e} of {limit:>7.0e}  {case}")?;
        }
        Ok(())
    }
}

/// The cases at or below `dir`, in order of their paths.
pub fn find(dir: &Path) -> Vec<PathBuf> {
    let mut cases = Vec::new();
    if dir.join("case.json").is_file() {
        cases.push(dir.to_path_buf());
    }
    let mut folders: Vec<PathBuf> = std::fs::read_dir(dir)
        .map(|entries| entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect())
        .unwrap_or_default();
    folders.sort();
    for folder in folders {
        cases.extend(find(&folder));
    }
    cases
}

/// Runs the checks of one case.
pub fn run(dir: &Path) -> Report {
    let name = dir.components().rev().take(2).map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>();
    let mut report = Report::new(name.into_iter().rev().collect::<Vec<_>>().join("/"));
    let outcome = Case::open(dir).and_then(|case| match case.kind() {
        "model" => model::check(&case, &mut report),
        "variant" => variants::check(&case, &mut report),
        "full_ft" => full::check(&case, &mut report),
        "optim" => optim::check(&case, &mut report),
        "algebra" => algebra::check(&case, &mut report),
        "eight_bit" => eight_bit::check(&case, &mut report),
        "trainer" => trainer::check(&case, &mut report),
        "adam8" => adam8::check(&case, &mut report),
        "four_bit" => quant::check_four_bit(&case, &mut report),
        "gguf_model" => gguf::check_model(&case, &mut report),
        "gguf" => gguf::check_blocks(&case, &mut report),
        "quant_model" => quant::check_model(&case, &mut report),
        _ => Err(Failure("no check for this kind of case yet".into())),
    });
    report.with(outcome)
}
