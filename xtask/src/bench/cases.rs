//! What is measured: method, precision, workload and threads of a run.

use super::Options;
use super::work::Workload;

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Low-rank matrices beside the base as it is stored.
    Lora,
    /// Low-rank matrices beside an NF4 base.
    Qlora,
    /// Everything.
    Full,
}

impl Method {
    /// The name in the run file.
    pub(super) fn name(self) -> &'static str {
        match self {
            Method::Lora => "lora",
            Method::Qlora => "qlora",
            Method::Full => "full",
        }
    }

    /// The learning rate of both sides.
    pub(super) fn lr(self) -> f64 {
        if self == Method::Full { 1e-5 } else { 2e-4 }
    }
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Case {
    /// The name by which it is chosen.
    pub(super) name: String,
    /// What is trained.
    pub(super) method: Method,
    /// `bf16` or `f32`.
    pub(super) precision: &'static str,
    /// The rows.
    pub(super) workload: Workload,
    /// Threads of both sides.
    pub(super) threads: usize,
    /// Whether the peer runs it too.
    pub(super) peer: bool,
    /// Whether rows share what they begin with in common.
    pub(super) shared: bool,
}

impl Case {
    /// The same work without sharing, to be run in alternation; where rows begin alike.
    pub(super) fn unshared(&self) -> Option<Case> {
        let name = format!("{}-unshared", self.name);
        matches!(self.workload, Workload::Prefix | Workload::Mix).then(|| Case {
            name,
            peer: false,
            shared: false,
            ..self.clone()
        })
    }
}

fn case(method: Method, precision: &'static str, workload: Workload, threads: usize) -> Case {
    let name = format!("{}-{precision}-{}", method.name(), workload.name());
    Case { name, method, precision, workload, threads, peer: workload != Workload::Prefix, shared: true }
}

/// The precision in which a CPU trains fastest.
pub(super) fn fastest(bf16: bool) -> &'static str {
    if bf16 { "bf16" } else { "f32" }
}

/// The training runs that the options choose; on a CPU that multiplies bf16 in hardware, or that does not.
pub(super) fn chosen(options: &Options, bf16: bool, threads: usize) -> Vec<Case> {
    use Method::{Full, Lora, Qlora};
    let mut all = Vec::new();
    let best = fastest(bf16);
    for workload in [Workload::Fixed, Workload::Mix] {
        for precision in ["bf16", "f32"].into_iter().filter(|precision| bf16 || *precision == best) {
            all.extend([Lora, Qlora, Full].map(|method| case(method, precision, workload, threads)));
        }
    }
    if options.quick {
        all.retain(|c| c.method != Full && c.precision == best && c.workload == Workload::Fixed);
    } else {
        let scaled =
            |n| Case { name: format!("scaling-{n}"), peer: false, ..case(Lora, best, Workload::Fixed, n) };
        all.extend([1, 2].map(scaled));
        all.extend([Lora, Qlora].map(|method| case(method, best, Workload::Prefix, threads)));
    }
    if options.large {
        all.extend([Lora, Qlora].map(|method| case(method, best, Workload::Long, threads)));
    }
    all.retain(|c| wanted(options, &c.name));
    all
}

/// Whether a row of this name is chosen.
pub(super) fn wanted(options: &Options, name: &str) -> bool {
    options.only.as_ref().is_none_or(|part| name.contains(part.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(options: Options) -> Vec<String> {
        chosen(&options, true, 2).into_iter().map(|c| c.name).collect()
    }

    #[test]
    fn options_choose_rows() {
        assert_eq!(names(Options::default()).len(), 16);
        let quick = Options { quick: true, ..Options::default() };
        assert_eq!(names(quick), ["lora-bf16-fixed", "qlora-bf16-fixed"]);
        let some = Options { only: Some("long".into()), large: true, ..Options::default() };
        assert_eq!(names(some), ["lora-bf16-long", "qlora-bf16-long"]);
        let prefix = Options { only: Some("prefix".into()), ..Options::default() };
        let both = chosen(&prefix, true, 2);
        assert!(both.iter().all(|c| !c.peer && c.unshared().is_some_and(|c| !c.shared)));
        assert_eq!(names(prefix), ["lora-bf16-prefix", "qlora-bf16-prefix"]);
        let none = Options { only: Some("long".into()), ..Options::default() };
        assert!(names(none).is_empty());
        let plain = chosen(&Options { large: true, ..Options::default() }, false, 2);
        assert!(plain.len() == 12 && plain.iter().all(|c| c.precision == "f32"));
    }
}
