//! Results as a table, as JSON and as a document.

use std::path::Path;

use serde_json::{Value, json};

use super::Options;
use super::cases::Case;
use super::document::Section;
use super::huge::Streamed;
use super::measured::{Measured, fastest, spread};
use super::peak::Peak;
use super::peer::Peer;
use crate::golden::Failure;

const HEADER: [&str; 11] = [
    "run",
    "tokens/s",
    "spread",
    "step s",
    "MB",
    "GFLOP/s",
    "of peak",
    "peer tokens/s",
    "peer MB",
    "speed ratio",
    "memory ratio",
];

const STREAMED: [&str; 9] = [
    "run",
    "step s",
    "read GB a step",
    "disk GB/s",
    "of the disk's peak",
    "of the CPU's peak",
    "peak MB",
    "planned MB",
    "group MB",
];

/// A training run's numbers.
pub(super) struct Row {
    /// What was run.
    pub(super) case: Case,
    /// Our runs.
    pub(super) ours: Vec<Measured>,
    /// Operations per second of the fastest.
    pub(super) rate: f64,
    /// The share of the CPU's peak that this is.
    pub(super) share: f64,
    /// The peer's runs.
    pub(super) peer: Peer,
}

/// A number that is no training run.
pub(super) struct Extra {
    /// The name by which it is chosen.
    pub(super) name: String,
    /// What the number counts.
    pub(super) unit: &'static str,
    /// Our number.
    pub(super) ours: f64,
    /// The peer's.
    pub(super) peer: Option<f64>,
}

/// Everything that a run of the suite found.
pub(super) struct Results {
    machine: Vec<(&'static str, String)>,
    peer_versions: Option<String>,
    peak: Peak,
    /// Training.
    pub(super) rows: Vec<Row>,
    /// Loading and decoding.
    pub(super) extras: Vec<Extra>,
    /// A base larger than memory.
    pub(super) streamed: Vec<Streamed>,
}

/// Two places below ten, one above.
fn short(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}

fn megabytes(bytes: f64) -> String {
    format!("{:.0}", bytes / 1e6)
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let none = || "-".to_string();
        let Some(best) = fastest(&self.ours) else { return vec![String::new(); HEADER.len()] };
        let (fast, lean) = (self.peer.fastest(), self.peer.leanest());
        let ratio = |r: Option<f64>| r.map_or(none(), |r| format!("{r:.2}"));
        vec![
            self.case.name.clone(),
            format!("{:.0}", best.speed()),
            format!("{:.0}%", 100.0 * spread(&self.ours)),
            format!("{:.2}", best.median_step()),
            megabytes(best.peak_bytes),
            format!("{:.0}", self.rate / 1e9),
            format!("{:.0}%", 100.0 * self.share),
            fast.map_or(none(), |(s, run)| format!("{:.0} ({})", run.speed(), s.describe())),
            lean.map_or(none(), |(s, run)| format!("{} ({})", megabytes(run.peak_bytes), s.describe())),
            ratio(self.peer.speed_ratio(&self.ours)),
            ratio(self.peer.memory_ratio(&self.ours)),
        ]
    }

    /// A line while the suite goes on; what the peer could not do follows it.
    pub(super) fn line(&self) -> String {
        let words = HEADER.iter().zip(self.cells()).skip(1).filter(|(_, cell)| cell != "-");
        let words: Vec<String> = words.map(|(name, cell)| format!("{name} {cell}")).collect();
        let refused = self.peer.refused.iter().map(|r| format!("\n    peer {r}")).collect::<String>();
        format!("{}: {}{refused}", self.case.name, words.join(", "))
    }

    fn json(&self) -> Value {
        let run = |m: &Measured| {
            json!({
                "tokens_per_second": m.speed(), "median_step_seconds": m.median_step(),
                "peak_rss_bytes": m.peak_bytes, "load_seconds": m.load_seconds,
                "trainable_parameters": m.trainable, "losses": m.losses, "seconds": m.seconds,
            })
        };
        let theirs = |of: Option<&(super::peer::Setting, Measured)>| {
            of.map(|(setting, m)| json!({"setting": setting.describe(), "run": run(m)}))
        };
        json!({
            "name": self.case.name, "threads": self.case.threads,
            "ours": self.ours.iter().map(run).collect::<Vec<_>>(),
            "spread": spread(&self.ours), "flops_per_second": self.rate, "share_of_peak": self.share,
            "peer_fastest": theirs(self.peer.fastest()), "peer_leanest": theirs(self.peer.leanest()),
            "peer_refused": self.peer.refused,
            "speed_ratio": self.peer.speed_ratio(&self.ours), "memory_ratio": self.peer.memory_ratio(&self.ours),
        })
    }
}

impl Extra {
    /// How much faster a case is with shared beginnings.
    pub(super) fn ratio(shared: &Row, unshared: &Row) -> Self {
        let speed = |row: &Row| fastest(&row.ours).map_or(f64::NAN, Measured::speed);
        let name = format!("{} over unshared", shared.case.name);
        Extra { name, unit: "times", ours: speed(shared) / speed(unshared), peer: None }
    }

    fn cells(&self) -> Vec<String> {
        let peer = self.peer.map_or("-".to_string(), |p| format!("{} {}", short(p), self.unit));
        vec![self.name.clone(), format!("{} {}", short(self.ours), self.unit), peer]
    }

    /// A line while the suite goes on.
    pub(super) fn line(&self) -> String {
        let peer = self.peer.map_or(String::new(), |p| format!(", peer {} {}", short(p), self.unit));
        format!("{}: {} {}{peer}", self.name, short(self.ours), self.unit)
    }
}

impl Streamed {
    fn cells(&self) -> Vec<String> {
        let rate = self.read / self.seconds;
        vec![
            self.name.clone(),
            format!("{:.1}", self.seconds),
            format!("{:.1}", self.read / 1e9),
            format!("{:.2}", rate / 1e9),
            format!("{:.0}%", 100.0 * rate / self.disk),
            format!("{:.0}%", 100.0 * self.compute),
            megabytes(self.peak),
            megabytes(self.planned),
            self.held.map_or("-".into(), megabytes),
        ]
    }

    /// A line while the suite goes on.
    pub(super) fn line(&self) -> String {
        let words: Vec<String> =
            STREAMED.iter().zip(self.cells()).skip(1).map(|(name, cell)| format!("{name} {cell}")).collect();
        format!("{}: {}; losses {:.4?}", self.name, words.join(", "), self.losses)
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "step_seconds": self.seconds, "read_bytes_per_step": self.read,
            "disk_bytes_per_second": self.disk, "share_of_peak": self.compute, "peak_rss_bytes": self.peak,
            "planned_bytes": self.planned, "group_peak_bytes": self.held, "losses": self.losses,
        })
    }
}

/// Lines of a Markdown table, columns aligned.
fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |i: usize| rows.iter().map(|r| r[i].len()).chain([header[i].len()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = cells.zip(&widths).map(|(c, w)| format!("{c:w$}")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let dashes: Vec<String> = widths.iter().map(|w| "-".repeat(*w)).collect();
    let mut text = line(&mut header.iter().copied());
    text += &line(&mut dashes.iter().map(String::as_str));
    rows.iter().for_each(|r| text += &line(&mut r.iter().map(String::as_str)));
    text
}

impl Results {
    /// Nothing yet.
    pub(super) fn new(
        machine: Vec<(&'static str, String)>,
        peer_versions: Option<String>,
        peak: Peak,
    ) -> Self {
        Results { machine, peer_versions, peak, rows: Vec::new(), extras: Vec::new(), streamed: Vec::new() }
    }

    /// The tables.
    pub(super) fn text(&self) -> String {
        let mut parts = Vec::new();
        if !self.rows.is_empty() {
            parts.push(table(&HEADER, &self.rows.iter().map(Row::cells).collect::<Vec<_>>()));
        }
        if !self.extras.is_empty() {
            let rows: Vec<_> = self.extras.iter().map(Extra::cells).collect();
            parts.push(table(&["measured", "ferrotune", "peer"], &rows));
        }
        if !self.streamed.is_empty() {
            let rows: Vec<_> = self.streamed.iter().map(Streamed::cells).collect();
            parts.push(table(&STREAMED, &rows));
        }
        parts.push(format!("{}\n", self.peak_line()));
        parts.join("\n")
    }

    fn peak_line(&self) -> String {
        let rate = |precision| self.peak.of(precision) / 1e9;
        format!(
            "The micro-kernels' peak in this run: f32 {:.0}, bf16 {:.0} GFLOP/s.",
            rate("f32"),
            rate("bf16")
        )
    }

    /// Writes everything as JSON.
    pub(super) fn write(&self, path: &Path) -> Result<(), Failure> {
        let extra = |e: &Extra| json!({"name": e.name, "unit": e.unit, "ferrotune": e.ours, "peer": e.peer});
        let machine: serde_json::Map<String, Value> =
            self.machine.iter().map(|(k, v)| (k.to_string(), v.clone().into())).collect();
        let all = json!({
            "machine": machine, "peer_versions": self.peer_versions,
            "peak_flops_per_second": {"f32": self.peak.of("f32"), "bf16": self.peak.of("bf16")},
            "training": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
            "streamed": self.streamed.iter().map(Streamed::json).collect::<Vec<_>>(),
            "others": self.extras.iter().map(extra).collect::<Vec<_>>(),
        });
        Ok(std::fs::write(path, format!("{all:#}\n"))?)
    }

    /// A section of `docs/benchmarks.md`.
    pub(super) fn section(&self, options: &Options) -> Section {
        let machine: String =
            self.machine.iter().map(|(name, value)| format!("- {name}: {value}\n")).collect();
        let peer = self.peer_versions.iter().map(|v| format!("- peer: {v}\n")).collect::<String>();
        let refused = self.rows.iter().flat_map(|r| r.peer.refused.iter().map(|w| (&r.case.name, w)));
        let refused: String = refused.map(|(name, why)| format!("- {name}, {why}\n")).collect();
        let refused = match refused.is_empty() {
            true => refused,
            false => format!("\nSettings of the peer that gave no number:\n\n{refused}"),
        };
        let of = |wanted: &str| {
            let found = self.machine.iter().find(|(name, _)| *name == wanted);
            found.map_or("", |(_, value)| value.as_str())
        };
        let rows = options.only.as_deref().unwrap_or("everything");
        Section {
            heading: format!("## {}, {}: {rows}", of("CPU"), of("instruction set")),
            text: format!("{machine}{peer}\n    {}\n\n{}{refused}", command(options), self.text()),
        }
    }
}

/// The command that repeats this, without what differs between machines.
fn command(options: &Options) -> String {
    let mut text = "cargo xtask bench".to_string();
    let mut add = |on: bool, words: String| text += &if on { format!(" {words}") } else { String::new() };
    add(options.quick, "--quick".into());
    add(options.peer, "--peer".into());
    add(options.large, "--large".into());
    add(options.python.is_some(), "--python PYTHON".into());
    add(options.model.is_some(), "--model SMOLLM2_FOLDER".into());
    add(options.gguf.is_some(), "--gguf SMOLLM2_GGUF".into());
    options.only.iter().for_each(|only| add(true, format!("--only {only}")));
    options.steps.iter().for_each(|steps| add(true, format!("--steps {steps}")));
    add(options.llama.is_some(), "--llama PYTHON".into());
    options.isa.iter().for_each(|isa| add(true, format!("--isa {isa}")));
    options.threads.iter().for_each(|threads| add(true, format!("--threads {threads}")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows =
            [vec!["lora".to_string(), "386".to_string()], vec!["a".to_string(), "1234567".to_string()]];
        let wanted = "| run  | value   |\n| ---- | ------- |\n| lora | 386     |\n| a    | 1234567 |\n";
        assert_eq!(table(&["run", "value"], &rows), wanted);
    }

    #[test]
    fn the_command_names_no_path_of_this_machine() {
        let options = Options {
            peer: true,
            model: Some("/home/someone/model".into()),
            steps: Some(3),
            only: Some("lora".into()),
            ..Options::default()
        };
        assert_eq!(
            command(&options),
            "cargo xtask bench --peer --model SMOLLM2_FOLDER --only lora --steps 3"
        );
    }

    #[test]
    fn a_number_without_a_peer_has_a_dash() {
        let extra = |peer| Extra { name: "load".into(), unit: "s", ours: 0.25, peer };
        assert_eq!(extra(None).cells()[1..], ["0.25 s", "-"]);
        assert_eq!(extra(None).line(), "load: 0.25 s");
        assert_eq!(extra(Some(8.0)).line(), "load: 0.25 s, peer 8.00 s");
    }
}
