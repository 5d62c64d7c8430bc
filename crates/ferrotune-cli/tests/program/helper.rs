//! Running the binary in a temporary folder, and the files that runs start from.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

/// The binary under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_ferrotune");

/// What a command left behind.
#[derive(Debug)]
pub struct Out {
    /// Exit code; none if a signal ended the process.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Out {
    fn from(o: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        Out { code: o.status.code(), stdout: text(o.stdout), stderr: text(o.stderr) }
    }
}

impl Out {
    /// The same, if the command succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// The one JSON object on stdout of a command that succeeded under `--json`.
    #[track_caller]
    pub fn json(self) -> Value {
        let out = self.ok();
        assert_eq!(out.stdout.lines().count(), 1, "one object and nothing else: {}", out.stdout);
        serde_json::from_str(&out.stdout).expect("stdout is JSON")
    }

    /// The loss that a command reports under `--json`.
    #[track_caller]
    pub fn eval_loss(self) -> f64 {
        self.json()["eval_loss"].as_f64().expect("a loss")
    }

    /// Asserts a refusal: exit code 1, a message that holds every one of `words`, a line `hint:`.
    #[track_caller]
    pub fn refused(self, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(1), "{words:?}: {self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        let message = self.stderr.lines().find(|l| l.starts_with("error: ")).unwrap_or_default();
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not in `{message}`: {self:#?}");
        }
        assert!(!message.is_empty(), "{self:#?}");
        assert!(self.stderr.lines().any(|l| l.starts_with("hint: ")), "no hint: {self:#?}");
        self
    }

    /// Asserts wrong usage: exit code 2, and every one of `words` on stderr.
    #[track_caller]
    pub fn misused(self, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(2), "{words:?}: {self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not in {self:#?}");
        }
        self
    }
}

/// A folder to work in.
pub struct Place {
    dir: tempfile::TempDir,
    cache: tempfile::TempDir,
}

impl Place {
    /// A new empty folder.
    pub fn new() -> Self {
        let folder = || tempfile::tempdir().expect("a temporary folder");
        Place { dir: folder(), cache: folder() }
    }

    /// A new folder with `rows.jsonl` (chats) and a run file `run.yaml` of the method for the tiny Llama.
    pub fn with_run(kind: &str) -> Self {
        let place = Place::new();
        place.write("rows.jsonl", &chats(24));
        place.write("run.yaml", &run_file(&model("llama3_rope"), kind));
        place
    }

    /// A new folder with `rows.jsonl`: the rows of token ids that a golden case has losses of.
    pub fn with_rows_of(case: &Value) -> Self {
        let place = Place::new();
        let row = |ids: &Value| format!("{}\n", json!({"input_ids": ids, "labels": ids}));
        place
            .write("rows.jsonl", &case["rows"].as_array().expect("rows").iter().map(row).collect::<String>());
        place
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A folder of the cache that its commands have.
    pub fn cache(&self, name: &str) -> PathBuf {
        self.cache.path().join(name)
    }

    /// The folder of quantized bases in the cache that its commands have.
    pub fn bases(&self) -> PathBuf {
        self.cache.path().join("bases")
    }

    /// Writes a file, with its folders.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a file in the folder")).expect("folders");
        std::fs::write(path, text).expect("a file of the test");
    }

    /// Reads a text file.
    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        String::from_utf8(self.bytes(name)).expect("a text file")
    }

    /// Reads a file.
    #[track_caller]
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Reads a JSON file.
    #[track_caller]
    pub fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).expect("a JSON file")
    }

    /// The lines of a `metrics.jsonl`, those of steps and those of evaluations.
    #[track_caller]
    pub fn metrics(&self, run: &str) -> (Vec<Value>, Vec<Value>) {
        let text = self.read(&format!("{run}/metrics.jsonl"));
        let lines = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("a line of metrics"));
        lines.partition(|l| l.get("loss").is_some())
    }

    /// Step numbers and losses of a run, to be compared bit for bit.
    #[track_caller]
    pub fn losses(&self, run: &str) -> Vec<(u64, f64)> {
        let pair = |l: &Value| (l["step"].as_u64().expect("step"), l["loss"].as_f64().expect("loss"));
        self.metrics(run).0.iter().map(pair).collect()
    }

    /// The command, not yet started; the network is never asked.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.dir.path()).env("HF_HUB_OFFLINE", "1");
        command.env("FERROTUNE_CACHE", self.cache.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the binary to its end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Out {
        self.command(PROGRAM, args).output().expect("the program starts").into()
    }

    /// Starts the binary.
    pub fn start(&self, args: &[&str]) -> Child {
        self.command(PROGRAM, args).spawn().expect("the program starts")
    }

    /// Runs the binary with a text on its standard input.
    #[track_caller]
    pub fn run_with(&self, args: &[&str], input: &str) -> Out {
        self.write("stdin", input);
        let file = std::fs::File::open(self.path("stdin")).expect("the input");
        self.command(PROGRAM, args).stdin(file).output().expect("the program starts").into()
    }

    /// A copy of a model folder, to be damaged.
    pub fn copy_of(&self, source: &Path, name: &str) -> PathBuf {
        let target = self.path(name);
        std::fs::create_dir_all(&target).expect("a folder");
        for entry in std::fs::read_dir(source).expect("the model") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), target.join(entry.file_name())).expect("a copy");
        }
        target
    }
}

/// A text in UTF-16; `bytes` are those of a unit.
pub fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(bytes).collect()
}

/// Names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut all: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    all.sort();
    all
}

/// A tiny model folder of the test data.
pub fn model(name: &str) -> PathBuf {
    golden(&format!("models/{name}/model"))
}

/// A path of the test data.
pub fn golden(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(path);
    path.canonicalize().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A JSON file of the test data.
pub fn golden_json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(path)).expect("the case")).expect("JSON")
}

/// Chats that a model can learn in a few steps.
pub fn chats(n: usize) -> String {
    let row = |i: usize| {
        json!({"messages": [
            {"role": "user", "content": format!("What comes after {i}?")},
            {"role": "assistant", "content": format!("After {i} comes {}.", i + 1)},
        ]})
    };
    (0..n).map(|i| format!("{}\n", row(i))).collect()
}

/// A run file for `rows.jsonl` with results in `out`.
pub fn run_file(base: &Path, kind: &str) -> String {
    format!(
        "model: {{ base: '{}' }}\n\
         method: {{ kind: {kind}, rank: 4, alpha: 8 }}\n\
         data: {{ train: rows.jsonl, max_length: 128 }}\n\
         train: {{ epochs: 5, batch_rows: 6, lr: 1.0e-2, precision: f32 }}\n\
         output: {{ dir: out }}\n",
        base.display()
    )
}

/// The tensors of a safetensors file changed by `edit`, written over it.
pub fn edit_tensors(path: &Path, edit: impl FnOnce(&mut Vec<Tensor>)) {
    let bytes = std::fs::read(path).expect("the weights");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("whole weights");
    let mut tensors: Vec<Tensor> = file
        .iter()
        .map(|(name, t)| Tensor {
            name: name.to_string(),
            dtype: t.dtype(),
            shape: t.shape().to_vec(),
            data: t.data().to_vec(),
        })
        .collect();
    edit(&mut tensors);
    let views = tensors.iter().map(|t| {
        let view = safetensors::tensor::TensorView::new(t.dtype, t.shape.clone(), &t.data);
        (t.name.as_str(), view.expect("a shape that fits its data"))
    });
    let bytes = safetensors::serialize(views, None).expect("weights");
    std::fs::write(path, bytes).expect("the weights");
}

/// A tensor in memory.
#[derive(Clone)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: safetensors::Dtype,
    /// Shape.
    pub shape: Vec<usize>,
    /// Little-endian bytes.
    pub data: Vec<u8>,
}

/// Rows as `preview` shows them.
#[derive(Debug)]
pub struct Shown {
    /// The text of each row.
    pub texts: Vec<String>,
    /// The supervised runs of each row.
    pub supervised: Vec<Vec<String>>,
    /// The warnings that came as events.
    pub warnings: Vec<String>,
    /// The counts of the preparation.
    pub report: Value,
}

impl Shown {
    /// All supervised runs of all rows.
    pub fn trained(&self) -> Vec<&str> {
        self.supervised.iter().flatten().map(String::as_str).collect()
    }

    /// Whether a warning has all of these words.
    pub fn warns(&self, words: &[&str]) -> bool {
        self.warnings.iter().any(|text| words.iter().all(|word| text.contains(word)))
    }
}

impl Place {
    /// A new folder with a run file for a copy of the tiny model with this chat template (none if empty).
    pub fn with_template(template: &str) -> Self {
        let place = Place::with_run("lora");
        let copy = place.copy_of(&model("llama3_rope"), "model");
        if template.is_empty() {
            let mut config = place.json("model/tokenizer_config.json");
            config.as_object_mut().expect("an object").remove("chat_template");
            place.write("model/tokenizer_config.json", &config.to_string());
        } else {
            place.write("model/chat_template.jinja", template);
        }
        place.write("run.yaml", &run_file(&copy, "lora").replace("max_length: 128", "max_length: 512"));
        place
    }

    /// `preview` of rows: what it shows of all of them.
    #[track_caller]
    pub fn preview(&self, rows: &[Value], set: &[&str]) -> Shown {
        self.write("rows.jsonl", &rows.iter().map(|row| format!("{row}\n")).collect::<String>());
        self.preview_again(set)
    }

    /// The same for the rows that are there.
    #[track_caller]
    pub fn preview_again(&self, set: &[&str]) -> Shown {
        let mut args = vec!["--json", "preview", "run.yaml", "-n", "1000"];
        args.extend(set.iter().flat_map(|set| ["--set", set]));
        let out = self.run(&args).ok();
        let events = out.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let warnings = events.filter(|event| event["event"] == "warning");
        let warnings = warnings.map(|event| event["text"].as_str().expect("a text").to_string()).collect();
        let result = out.json();
        let (mut texts, mut supervised) = (Vec::new(), Vec::new());
        for row in result["rows"].as_array().expect("rows") {
            let (mut text, mut runs, mut open) = (String::new(), Vec::<String>::new(), false);
            for piece in row["pieces"].as_array().expect("pieces") {
                let part = piece["text"].as_str().expect("a text");
                text += part;
                let on = piece["supervised"] == true;
                match (on, open, runs.last_mut()) {
                    (true, true, Some(run)) => *run += part,
                    (true, ..) => runs.push(part.to_string()),
                    (false, ..) => {}
                }
                open = on;
            }
            texts.push(text);
            supervised.push(runs);
        }
        Shown { texts, supervised, warnings, report: result["report"].clone() }
    }

    /// `preview` of rows is refused with these words.
    #[track_caller]
    pub fn preview_refused(&self, rows: &[Value], words: &[&str]) -> Out {
        self.write("rows.jsonl", &rows.iter().map(|row| format!("{row}\n")).collect::<String>());
        self.run(&["preview", "run.yaml"]).refused(words)
    }
}

/// A template of the usual form that writes tools and tool calls.
pub const WITH_TOOLS: &str = "{%- if tools %}<|im_start|>system\nTools:{% for t in tools %}\n{{ t | tojson }}{% endfor %}<|im_end|>\n{% endif %}\
    {%- for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content %}{{ m.content }}{% endif %}{% if m.tool_calls %}\
    {% for c in m.tool_calls %}<call>{\"name\": {{ c.function.name | tojson }}, \"arguments\": {{ c.function.arguments | tojson }}}</call>{% endfor %}\
    {% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// A template of the usual form for texts.
pub const PLAIN: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
