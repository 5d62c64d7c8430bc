//! What the user sees; the only place that prints. Data goes to stdout, everything else to stderr.
//!
//! A run of hours must not end because nobody reads its lines any more: what cannot be written to stderr is dropped, and
//! what cannot be written to stdout is an error at the end of the command, unless its reader has gone.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use ferrotune::Error;
use ferrotune::fetch::net::Progress;
use ferrotune::model::Policies;
use ferrotune::train::Event;
use ferrotune::train::record::{StepRecord, Summary};
use ferrotune::units::human;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

/// Files above this size get a line for each tenth where there is no progress bar.
const LARGE: u64 = 32 << 20;

/// Files above this size get a line when they are here.
const NOTEWORTHY: u64 = 1 << 20;

/// Prints for a person, or JSON for a program.
pub struct Report {
    json: bool,
    bar: RefCell<Option<ProgressBar>>,
    plan: Cell<u64>,
    log_every: Cell<usize>,
    /// File and tenth of the newest download event.
    tenth: RefCell<Option<(String, Option<u64>)>>,
    /// Why data could not be written to stdout.
    lost: RefCell<Option<io::Error>>,
}

/// Writes a line to stderr, if it can be written.
fn line_to_stderr(text: impl Display) {
    // One write, so that lines of several processes stay whole.
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

impl Report {
    /// A report; `json` for programs.
    pub fn new(json: bool) -> Self {
        Report {
            json,
            bar: RefCell::new(None),
            plan: Cell::new(0),
            log_every: Cell::new(1),
            tenth: RefCell::new(None),
            lost: RefCell::new(None),
        }
    }

    /// Writes data to stdout and remembers if that was not possible.
    fn to_stdout(&self, text: impl Display) {
        let mut out = io::stdout();
        if let Err(e) = write!(out, "{text}").and_then(|()| out.flush()) {
            self.lost.borrow_mut().get_or_insert(e);
        }
    }

    /// Fails if data was lost on its way to stdout. A reader that has gone (`| head -1`) had what it wanted.
    pub fn check_output(&self) -> ferrotune::Result<()> {
        match self.lost.take() {
            Some(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::io("standard output", e)),
            _ => Ok(()),
        }
    }

    /// Whether a program reads.
    pub fn json(&self) -> bool {
        self.json
    }

    /// A line for a person.
    pub fn say(&self, text: impl AsRef<str>) {
        if self.json {
            line_to_stderr(serde_json::json!({"event": "message", "text": text.as_ref()}));
        } else if let Some(bar) = self.bar.borrow().as_ref() {
            bar.suspend(|| line_to_stderr(text.as_ref()));
        } else {
            line_to_stderr(text.as_ref());
        }
    }

    /// The result: an object for a program; a person has read the lines.
    pub fn done(&self, result: &Value) {
        self.end_bar();
        if self.json {
            self.to_stdout(format_args!("{result}\n"));
        }
    }

    /// Text that is the command's result.
    pub fn output(&self, text: &str) {
        self.to_stdout(format_args!("{text}\n"));
    }

    /// A piece of an answer as it comes; a program gets the whole at the end.
    pub fn stream(&self, piece: &str) {
        if !self.json {
            self.to_stdout(piece);
        }
    }

    /// The sign that a line of the user is awaited.
    pub fn prompt(&self) {
        if !self.json && std::io::stdin().is_terminal() {
            let _ = write!(io::stderr(), "> ");
        }
    }

    /// Whether a person looks at stdout.
    pub fn is_terminal(&self) -> bool {
        std::io::stdout().is_terminal()
    }

    /// An error with its hint.
    pub fn error(&self, error: &Error) {
        self.end_bar();
        if self.json {
            let event =
                serde_json::json!({"event": "error", "error": error.to_string(), "hint": error.hint()});
            line_to_stderr(event);
            return;
        }
        line_to_stderr(format_args!("error: {error}"));
        if let Some(hint) = error.hint() {
            line_to_stderr(format_args!("hint: {hint}"));
        }
    }

    /// What is going on, beside the progress bar or a spinner.
    pub fn status(&self, text: &str) {
        if !self.json {
            self.bar.borrow_mut().get_or_insert_with(ProgressBar::new_spinner).set_message(text.to_string());
        }
    }

    /// Something that happened in a run.
    pub fn event(&self, event: &Event) {
        if self.json {
            match serde_json::to_string(event) {
                Ok(line) => line_to_stderr(line),
                Err(e) => line_to_stderr(e),
            }
            return;
        }
        match event {
            Event::Prepared { train, eval_rows } => {
                let held =
                    if *eval_rows > 0 { format!(", {eval_rows} rows held out") } else { String::new() };
                let split = match train.split_rows {
                    0 => String::new(),
                    split => format!(
                        " ({split} {} whose earlier turns the template rewrites became {}, one for each answer \
                         as it is served)",
                        if split == 1 { "chat" } else { "chats" },
                        split + train.added_rows
                    ),
                };
                let split = match train.split_texts {
                    0 => split,
                    texts => format!("{split} ({texts} long texts became {})", train.text_pieces),
                };
                self.say(format!(
                    "data: {} rows{split}, {} tokens, {} of them supervised, longest row {}{held}",
                    train.kept, train.tokens, train.label_tokens, train.longest
                ));
                for source in &train.sources {
                    let (path, weight) = (&source.path, source.weight);
                    self.say(format!(
                        "source {path}: {} rows, weight {weight}: {} taken",
                        source.rows, source.taken
                    ));
                }
                if train.thoughts > 0 {
                    self.say(format!("reasoning: {} thoughts masked or dropped", train.thoughts));
                }
                if let Some(files) = train.shapes.get("source files") {
                    let left: Vec<String> = train
                        .left_out_files
                        .iter()
                        .map(|(reason, count)| format!("{count} {reason}"))
                        .collect();
                    let left = if left.is_empty() { "none".to_string() } else { left.join(", ") };
                    self.say(format!(
                        "source files: {files} taken; left out: {left}; hidden ones are not looked at"
                    ));
                    if train.permuted_rows > 0 {
                        let (permuted, kept) = (train.permuted_rows, train.kept);
                        self.say(format!("fill-in-the-middle: {permuted} of {kept} rows"));
                    }
                }
                // Nothing was chosen where all rows have one shape under its own names.
                if train.shapes.len() > 1 || train.shapes.keys().any(|shape| shape.contains('`')) {
                    let shapes: Vec<String> =
                        train.shapes.iter().map(|(shape, count)| format!("{count} {shape}")).collect();
                    self.say(format!("shapes: {}", shapes.join(", ")));
                }
            }
            Event::Warning { text } => self.say(format!("warning: {text}")),
            Event::Start(summary) => self.start(summary),
            Event::Step(record) => self.step(record),
            Event::Eval(e) => {
                let (loss, tokens) = (e.eval_loss, e.eval_label_tokens);
                self.say(format!("  step {}: held-out loss {loss:.4} over {tokens} tokens", e.step));
            }
            Event::Checkpoint { path } => self.say(format!("  checkpoint {path}")),
            Event::Resumed { path, step } => self.say(format!("resumed from {path} after step {step}")),
        }
    }

    fn start(&self, s: &Summary) {
        let share = 100.0 * s.trainable_parameters as f64 / s.total_parameters.max(1) as f64;
        self.say(format!(
            "method: {} on a base in {}{}, {} on {} threads ({}), activations: {}",
            s.method,
            s.base_format,
            if s.streamed { ", streamed from its file" } else { "" },
            s.precision,
            s.threads,
            s.isa,
            Policies { below: s.activations, kept: s.kept_layers }
        ));
        self.say(format!(
            "trainable: {} of {} parameters ({share:.2}%)",
            grouped(s.trainable_parameters),
            grouped(s.total_parameters)
        ));
        if s.stored_tokens < s.tokens {
            self.say(format!(
                "shared beginnings: {} tokens of the rows are computed as {} ({:.1} times fewer)",
                grouped(s.tokens),
                grouped(s.stored_tokens),
                s.tokens as f64 / s.stored_tokens.max(1) as f64
            ));
        }
        let p = &s.plan;
        self.say(format!("memory: {} predicted peak ({})", human(p.total() as u64), p.describe()));
        self.plan.set(p.total() as u64);
        self.log_every.set(s.log_every);
        let bar = ProgressBar::new(s.steps as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg} [{elapsed}<{eta}]") {
            bar.set_style(style);
        }
        // The ticker is a thread, for which the system may have no room.
        if !bar.is_hidden() && std::thread::Builder::new().spawn(|| ()).is_ok() {
            bar.enable_steady_tick(Duration::from_millis(500));
        }
        *self.bar.borrow_mut() = Some(bar);
    }

    fn step(&self, r: &StepRecord) {
        let bar = self.bar.borrow();
        let Some(bar) = bar.as_ref() else { return };
        let plan = self.plan.get();
        let share = 100.0 * r.peak_rss_bytes as f64 / plan.max(1) as f64;
        let text = format!(
            "loss {:.4} lr {:.2e} {:.0} tok/s peak {} ({share:.0}% of plan)",
            r.loss,
            r.lr,
            r.tokens_per_second,
            human(r.peak_rss_bytes)
        );
        bar.set_position(r.step as u64);
        bar.set_message(text.clone());
        // Without a terminal there is no bar; a line now and then says that it goes on.
        if bar.is_hidden() && (r.step == 1 || r.step.is_multiple_of(self.log_every.get())) {
            line_to_stderr(format_args!("  step {}: {text}", r.step));
        }
    }

    /// A download: lines for what is said, a bar for bytes (a program gets an event for each tenth and at the end).
    pub fn progress(&self, progress: &Progress) {
        match *progress {
            Progress::Message(text) => self.say(text),
            Progress::Bytes { file, done, total } => self.bytes(file, done, total),
            Progress::Done { file, bytes } => {
                self.end_bar();
                if self.json {
                    let event = serde_json::json!({"event": "downloaded", "file": file, "bytes": bytes});
                    line_to_stderr(event);
                } else if bytes >= NOTEWORTHY {
                    self.say(format!("  {file} {}", human(bytes)));
                }
            }
        }
    }

    fn bytes(&self, file: &str, done: u64, total: Option<u64>) {
        if self.json || !std::io::stderr().is_terminal() {
            let tenth = total.map(|total| done.saturating_mul(10).checked_div(total).unwrap_or(10));
            let now = Some((file.to_string(), tenth));
            if tenth.is_none() || *self.tenth.borrow() == now {
                return;
            }
            *self.tenth.borrow_mut() = now;
            if self.json {
                let event =
                    serde_json::json!({"event": "download", "file": file, "done": done, "total": total});
                line_to_stderr(event);
            } else if done > 0 && total.is_some_and(|total| total > LARGE && done < total) {
                line_to_stderr(format_args!(
                    "  {file} {} of {}",
                    human(done),
                    human(total.unwrap_or_default())
                ));
            }
            return;
        }
        let mut bar = self.bar.borrow_mut();
        let bar = bar.get_or_insert_with(|| {
            let bar = ProgressBar::new(total.unwrap_or(0));
            let style = "  {msg} {bar:24} {bytes}/{total_bytes} {bytes_per_sec} [{eta}]";
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar.set_message(file.to_string());
            // Speed and time left are of this run; what was here before is not counted.
            bar.set_position(done);
            bar.reset_eta();
            bar
        });
        bar.set_position(done);
    }

    /// Takes the progress line away.
    pub fn end_bar(&self) {
        if let Some(bar) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }
}

/// 4884480 -> `4,884,480`.
pub fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}
