//! Data sets of the hub in the place of files of rows: the same tokens, losses and bytes as from the files themselves, which
//! files are a config and a split, and what is refused.

use std::path::Path;

use serde_json::{Value, json};

use super::helper::{Out, PROGRAM, Place, model, run_file};
use crate::data_hub::{DataHub, Files, Tricks, files};
use crate::server::nowhere;

const ID: &str = "acme/chats";

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/rows").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A folder with a run file for the data set, its `hf` the cache.
struct Work {
    place: Place,
    endpoint: String,
}

impl Work {
    fn at(hub: &DataHub) -> Self {
        let place = Place::new();
        let run = run_file(&model("llama3_rope"), "lora").replace("max_length: 128", "max_length: 512");
        place.write("run.yaml", &run.replace("train: rows.jsonl", &format!("train: {ID}")));
        Work { place, endpoint: hub.server.url.clone() }
    }

    fn with_env(&self, args: &[&str], env: &[(&str, &str)]) -> Out {
        let mut command = self.place.command(PROGRAM, args);
        command.env_remove("HF_HUB_OFFLINE").env("HF_HOME", self.place.path("hf"));
        command.env("HF_ENDPOINT", &self.endpoint).env_remove("HF_TOKEN");
        command.envs(env.iter().copied());
        command.output().expect("the program starts").into()
    }

    fn run(&self, args: &[&str]) -> Out {
        self.with_env(args, &[])
    }

    /// `preview` of these rows: the texts of all of them.
    #[track_caller]
    fn preview(&self, data: &str) -> Vec<Value> {
        let set = format!("data.train={data}");
        let shown = self.run(&["--json", "preview", "run.yaml", "-n", "1000", "--set", &set]).json();
        shown["rows"].as_array().expect("rows").iter().map(|row| row["pieces"].clone()).collect()
    }

    /// The plain texts of these rows.
    #[track_caller]
    fn texts(&self, data: &str) -> Vec<String> {
        let text = |pieces: &Value| {
            let parts = pieces.as_array().expect("pieces").iter();
            parts.map(|piece| piece["text"].as_str().expect("a text")).collect::<String>()
        };
        let trimmed = |text: String| text.replace("<s>", "").replace("</s>", "").trim().to_string();
        self.preview(data).iter().map(text).map(trimmed).collect()
    }

    #[track_caller]
    fn refused(&self, data: &str, words: &[&str]) {
        self.run(&["preview", "run.yaml", "--set", &format!("data.train={data}")]).refused(words);
    }
}

/// A file of one row of text.
fn row(text: &str) -> Vec<u8> {
    format!("{}\n", json!({"text": text})).into_bytes()
}

/// The same rows in five layouts of a repository.
fn layouts() -> Vec<(&'static str, Files)> {
    let jsonl = fixture("rows.jsonl");
    let lines: Vec<&[u8]> = jsonl.split_inclusive(|b| *b == b'\n').collect();
    let (first, last) = (lines[..90].concat(), lines[90..].concat());
    let card = b"---\nlicense: mit\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: 'a/**'\n\
        - config_name: other\n  data_files: other.csv\n---\n# Chats\n";
    vec![
        (
            "acme/chats",
            files([
                ("data/train-00000-of-00001.parquet", &fixture("rows.parquet")),
                ("README.md", b"# Chats"),
            ]),
        ),
        (
            "acme/chats",
            files([("train.csv", &fixture("rows.csv")), ("test.csv", b"messages\n"), ("LICENSE", b"MIT")]),
        ),
        (
            "acme/chats",
            files([("train/1.jsonl", &first), ("train/2.jsonl", &last), ("dev/1.jsonl", &row("dev"))]),
        ),
        (
            "acme/chats:main:train",
            files([
                ("README.md", card),
                ("a/b/1.jsonl", &first),
                ("a/c/2.jsonl", &last),
                ("other.csv", b"text\no\n"),
            ]),
        ),
        ("hf://datasets/acme/chats/x/y.parquet", files([("x/y.parquet", &fixture("rows-zstd.parquet"))])),
    ]
}

#[test]
fn the_same_rows_from_the_hub_are_the_same_run() {
    let local = Work::at(&DataHub::start(ID, Files::new(), Tricks::default()));
    std::fs::write(local.place.path("rows.jsonl"), fixture("rows.jsonl")).expect("the rows");
    let tokens = local.preview("rows.jsonl");
    assert_eq!(tokens.len(), 200);
    let two = ["train", "run.yaml", "--set", "train.max_steps=2", "--set"];
    local.run(&[&two[..], &["data.train=rows.jsonl"]].concat()).ok();
    let adapter = local.place.bytes("out/adapter_model.safetensors");
    for (name, files) in layouts() {
        let hub = DataHub::start(ID, files, Tricks::default());
        let work = Work::at(&hub);
        let set = format!("data.train={name}");
        work.run(&[&two[..], &[&set]].concat()).ok();
        assert_eq!(work.place.losses("out"), local.place.losses("out"), "{name}");
        assert!(work.place.bytes("out/adapter_model.safetensors") == adapter, "{name}: another adapter");
        assert!(work.preview(name) == tokens, "{name}: other tokens");
    }
}

#[test]
fn a_run_records_what_was_asked_and_the_commit_and_goes_on_without_the_hub() {
    let card = "---\nconfigs:\n- config_name: main\n  data_files:\n  - {split: train, path: rows.jsonl}\n  \
        - {split: test, path: held.jsonl}\n---\n";
    let all = fixture("rows.jsonl");
    let first_rows =
        |count: usize| all.split_inclusive(|b| *b == b'\n').take(count).collect::<Vec<_>>().concat();
    let with = |rows: &[u8]| {
        files([("README.md", card.as_bytes()), ("rows.jsonl", rows), ("held.jsonl", &first_rows(5))])
    };
    let hub = DataHub::start(ID, Files::new(), Tricks::default());
    let first = hub.set("main", with(&first_rows(30)));
    let work = Work::at(&hub);
    let sources = format!("data.sources=[{{path: {ID}, config: main, split: train, rows: 20, weight: 2}}]");
    let mut run = String::from("train run.yaml --set data.train=[] --set data.eval=acme/chats:main:test");
    run += " --set output.checkpoint_every=1 --set train.max_steps=3";
    let train = |more: &[&str], env: &[(&str, &str)]| {
        let args: Vec<&str> = run.split(' ').chain(["--set", &sources]).collect();
        work.with_env(&[&args[..], more].concat(), env).ok()
    };
    let out = train(&[], &[]);
    let adapter = work.place.bytes("out/adapter_model.safetensors");
    for words in [
        &format!("(main, train): rows.jsonl of commit {first}"),
        "20 rows, weight 2: 40 taken",
        "held-out loss",
    ] {
        assert!(out.stderr.contains(words), "{words}: {out:#?}");
    }
    let receipt = work.place.json("out/receipt.json");
    assert_eq!(receipt["data"]["files"], json!(["acme/chats:main:train"]));
    let set = |split: &str, file: &str| json!({"data_set": ID, "revision": "main", "commit": first, "config": "main", "split": split, "files": [file]});
    assert_eq!(receipt["data"]["data_sets"], json!([set("test", "held.jsonl"), set("train", "rows.jsonl")]));
    let yaml = work.place.read("out/run.yaml");
    assert!(
        yaml.contains("path: acme/chats\n") && yaml.contains("split: train") && !yaml.contains("snapshots"),
        "{yaml}"
    );
    assert!(work.place.read("out/README.md").contains("\ndatasets: [acme/chats]\n"));

    // The hub has other rows by now, and is not asked, or not there.
    hub.set("main", with(&row("another")));
    let asked = hub.server.asked().len();
    let gone = nowhere();
    let here = hub.server.url.clone();
    for env in [
        ("HF_ENDPOINT", here.as_str()),
        ("HF_ENDPOINT", &gone),
        ("HF_DATASETS_OFFLINE", "1"),
        ("HF_HUB_OFFLINE", "1"),
    ] {
        std::fs::remove_dir_all(work.place.path("out/checkpoints/step-3")).expect("the last checkpoint");
        let out = train(&["--resume"], &[env]);
        assert!(out.stderr.contains("resumed from out/checkpoints/step-2"), "{env:?}: {out:#?}");
        assert!(work.place.bytes("out/adapter_model.safetensors") == adapter, "{env:?}");
    }
    assert_eq!(hub.server.asked().len(), asked);
    assert_eq!(work.place.json("out/receipt.json")["data"]["data_sets"], receipt["data"]["data_sets"]);
    // eval and plan read them too, and the run file of the results.
    let loss = work.run(&["--json", "eval", "out", "--data", "acme/chats:main:test"]).json();
    assert_eq!(loss["rows"], 5);
    work.run(&["--json", "plan", "out/run.yaml"]).ok();
    work.run(&["--json", "preview", "out/run.yaml"]).ok();
    assert_eq!(hub.server.asked().len(), asked);
    // A folder that was removed is brought anew, with what the hub has now.
    std::fs::remove_dir_all(work.place.path("hf")).expect("the cache");
    assert_eq!(work.texts("acme/chats:main:train"), ["another"]);
}

#[test]
fn only_what_a_split_needs_is_brought() {
    let hub = DataHub::start(
        ID,
        files([
            ("data/train-00000-of-00002.parquet", &fixture("rows.parquet")),
            ("data/train-00001-of-00002.parquet", &fixture("rows-text.parquet")),
            ("data/test-00000-of-00001.parquet", &fixture("rows-plain.parquet")),
            ("README.md", b"no configs"),
            ("big.bin", b"..."),
        ]),
        Tricks::default(),
    );
    let work = Work::at(&hub);
    assert_eq!(work.preview("acme/chats:test").len(), 200);
    assert_eq!(hub.contents(), 2, "the test split and the README");
    assert_eq!(work.preview(ID).len(), 400);
    assert_eq!(hub.contents(), 4);
    let events = work.run(&[
        "--json",
        "preview",
        "run.yaml",
        "--set",
        "data.train=hf://datasets/acme/chats@main/data/t*.parquet",
    ]);
    assert!(events.ok().stderr.contains("3 files of commit"));
    assert_eq!(hub.contents(), 4);
    work.refused("acme/chats:validation", &["no split `validation`", "its splits: train, test"]);
    work.refused("acme/chats:main:train", &["no config `main`", "declares none", "refs/convert/parquet"]);
    work.refused("hf://datasets/acme/chats/data/nothing.csv", &["no file `data/nothing.csv`", "README.md"]);
    work.refused("hf://datasets/acme/chats/big.bin", &["big.bin"]);
    work.refused("hf://acme/chats", &["hf://datasets/owner/name"]);
}

#[test]
fn the_readme_names_configs_splits_and_files() {
    let card = b"---\nconfigs:\n- config_name: en\n  data_files:\n  - split: train\n    path: [en/a.jsonl, 'en/b?.csv']\n  \
        - split: validation\n    path: en/v.jsonl\n- config_name: de\n  data_dir: de\n---\n";
    let hub = DataHub::start(
        ID,
        files([
            ("README.md", card),
            ("en/a.jsonl", &row("a")),
            ("en/b1.csv", b"text\nb1\n"),
            ("en/b22.csv", b"text\nb22\n"),
            ("en/v.jsonl", &row("v")),
            ("de/dev.jsonl", &row("dev")),
            ("de/train.jsonl", &row("de")),
        ]),
        Tricks::default(),
    );
    let work = Work::at(&hub);
    assert_eq!(work.texts("acme/chats:en:train"), ["a", "b1"]);
    assert_eq!(work.texts("acme/chats:en:validation"), ["v"]);
    assert_eq!(work.texts("acme/chats:de:train"), ["de"]);
    assert_eq!(work.texts("acme/chats:de:validation"), ["dev"]);
    work.refused(ID, &["data.train", "several configs: en, de", "acme/chats:en:train"]);
    work.refused("acme/chats:fr:train", &["no config `fr`", "en, de"]);
    work.refused("acme/chats:en:test", &["no split `test`", "train, validation"]);
    let conflict = "data.sources=[{path: 'acme/chats:en:train', split: test}]";
    work.run(&["preview", "run.yaml", "--set", "data.train=[]", "--set", conflict]).refused(&[
        "data.sources",
        "split",
        "train",
        "test",
    ]);
}

#[test]
fn a_repository_with_a_script_is_read_from_its_converted_branch() {
    let hub =
        DataHub::start(ID, files([("chats.py", b"import datasets"), ("README.md", b"")]), Tricks::default());
    let work = Work::at(&hub);
    work.refused(ID, &["no file of rows", "refs/convert/parquet", "no revision"]);
    let commit = hub.set(
        "refs/convert/parquet",
        files([
            ("plain/train/0000.parquet", &fixture("rows.parquet")),
            ("plain/train/0001.parquet", &fixture("rows-text.parquet")),
            ("plain/test/0000.parquet", &fixture("rows-plain.parquet")),
            ("fancy/train/0000.parquet", b"not asked for"),
        ]),
    );
    assert_eq!(work.preview("acme/chats:plain:train").len(), 400);
    let before = hub.server.asked().len();
    assert_eq!(work.preview("acme/chats:plain:train").len(), 400);
    assert_eq!(hub.server.asked().len(), before, "the cache is enough");
    let out = work.run(&["preview", "run.yaml", "--set", "data.train=acme/chats:plain:test"]).ok();
    assert!(out.stderr.contains(&format!("of commit {commit}")), "{out:#?}");
    work.refused(ID, &["several configs: fancy, plain"]);
    work.refused("acme/chats:plain:dev", &["no split `dev`", "its splits: test, train"]);
    // Another revision has no such branch.
    hub.set("old", files([("chats.py", b"import datasets")]));
    work.refused("acme/chats@old", &["no file of rows"]);
    assert_eq!(work.preview("hf://datasets/acme/chats@~parquet/plain/test/0000.parquet").len(), 200);
}

#[test]
fn a_revision_is_another_commit() {
    let hub = DataHub::start(ID, files([("a.jsonl", &row("main"))]), Tricks::default());
    hub.set("v2", files([("a.jsonl", &row("two")), ("sub/b.jsonl", &row("three"))]));
    let work = Work::at(&hub);
    assert_eq!(work.texts(ID), ["main"]);
    assert_eq!(work.texts("acme/chats@v2"), ["two", "three"]);
    assert_eq!(work.texts("hf://datasets/acme/chats@v2/sub"), ["three"]);
    assert_eq!(work.texts("acme/chats@v2:train"), ["two", "three"]);
    let sources = "data.sources=[{path: acme/chats, revision: v2}]";
    let shown =
        work.run(&["--json", "preview", "run.yaml", "--set", "data.train=[]", "--set", sources]).json();
    assert_eq!(shown["rows"].as_array().map(Vec::len), Some(2));
    work.refused("acme/chats@v3", &["no revision `v3`"]);
}

#[test]
fn paths_of_this_machine_come_first() {
    let hub = DataHub::start(ID, files([("a.jsonl", &row("hub"))]), Tricks::default());
    let work = Work::at(&hub);
    work.place.write("acme/chats/rows.jsonl", &String::from_utf8(row("here")).expect("text"));
    assert_eq!(work.texts(ID), ["here"]);
    assert_eq!(work.texts("hf://datasets/acme/chats"), ["hub"]);
    work.refused("acme/chats:train", &["for data sets of the hub", "`acme/chats` is a path"]);
    let asked = hub.server.asked().len();
    // What looks like a file is one, though it is not there.
    work.refused("data/rows.jsonl", &["data/rows.jsonl"]);
    work.refused("data/rows.csv.gz", &["data/rows.csv.gz"]);
    let source = "data.sources=[{path: acme/chats, split: train}]";
    work.run(&["preview", "run.yaml", "--set", "data.train=[]", "--set", source])
        .refused(&["data.sources", "for data sets of the hub"]);
    assert_eq!(hub.server.asked().len(), asked);
    work.refused("acme/other", &["acme/other", "spelling", "no file or folder `acme/other`"]);
}

/// The ids of the hub's first data sets are one word, as names of folders are.
#[test]
fn one_word_is_a_data_set_unless_it_is_a_path() {
    let hub = DataHub::start(
        "squad",
        files([("train.jsonl", &row("hub")), ("test.jsonl", &row("held"))]),
        Tricks::default(),
    );
    let work = Work::at(&hub);
    assert_eq!(work.texts("squad"), ["hub"]);
    assert_eq!(work.texts("squad:test"), ["held"]);
    assert_eq!(work.texts("hf://datasets/squad@main:test"), ["held"]);
    assert!(work.place.path("hf/hub/datasets--squad/snapshots").is_dir());
    let asked = hub.server.asked().len();
    // A mistyped name of a file is none of a data set; of a word both readings are named.
    work.refused("rows.jsnl", &["rows.jsnl"]);
    assert_eq!(hub.server.asked().len(), asked);
    work.refused("squat", &["/datasets/squat", "no such data set", "no file or folder `squat`"]);
    work.place.write("squad/rows.jsonl", &String::from_utf8(row("here")).expect("text"));
    assert_eq!(work.texts("squad"), ["here"]);
    assert_eq!(work.texts("hf://datasets/squad"), ["hub"]);
}

#[test]
fn gated_private_and_hostile_data_sets() {
    let gated =
        DataHub::start(ID, files([("a.jsonl", &row("a"))]), Tricks { gated: true, ..Tricks::default() });
    Work::at(&gated).refused(ID, &["the data set is gated", "/datasets/acme/chats, then set HF_TOKEN"]);
    let private = DataHub::start(
        ID,
        files([("a.jsonl", &row("a"))]),
        Tricks { token: Some("t".into()), ..Tricks::default() },
    );
    let work = Work::at(&private);
    work.refused(ID, &["no such data set, or a private one (401, asked with no token)", "HF_TOKEN"]);
    work.with_env(&["preview", "run.yaml"], &[("HF_TOKEN", "t")]).ok();
    let hostile =
        DataHub::start(ID, files([("../x.jsonl", &row("evil")), ("a.jsonl", &row("a"))]), Tricks::default());
    let work = Work::at(&hostile);
    work.refused(ID, &["`../x.jsonl`", "a hub?"]);
    assert_eq!(hostile.contents(), 0);
    let card = "---\nconfigs: [{config_name: x, data_files: 3}]\n---\n";
    let broken = DataHub::start(
        ID,
        files([("a.jsonl", &row("a")), ("README.md", card.as_bytes())]),
        Tricks::default(),
    );
    Work::at(&broken).refused(ID, &["README.md", "`data_files` of the config `x`"]);
}

#[test]
fn a_file_that_was_cut_off_is_gone_on_with() {
    let parquet = fixture("rows.parquet");
    let name = "data/train-00000-of-00001.parquet";
    let never = Tricks { cut: Some((usize::MAX, 0)), ..Tricks::default() };
    let hub = DataHub::start(ID, files([(name, &parquet)]), never);
    let work = Work::at(&hub);
    let hash = crate::server::sha256(&parquet);
    let folder = work.place.path("hf/hub/datasets--acme--chats/blobs");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join(format!("{hash}.part")), &parquet[..4000]).expect("a part");
    work.refused(ID, &["cut after 4000 of"]);
    let hub =
        DataHub::start(ID, files([(name, &parquet)]), Tricks { cut: Some((1, 1000)), ..Tricks::default() });
    let work = Work { endpoint: hub.server.url.clone(), ..work };
    assert_eq!(work.preview(ID).len(), 200);
    let ranges: Vec<_> = hub.storage.asked().iter().map(|a| a.header("range").map(str::to_string)).collect();
    assert_eq!(ranges, [Some("bytes=4000-".into()), Some("bytes=5000-".into())]);
    assert!(folder.join(&hash).is_file());
}

#[test]
fn a_cache_that_another_program_left_is_used_unless_a_part_is_missing() {
    let hub = DataHub::start(ID, Files::new(), Tricks::default());
    let work = Work::at(&hub);
    let root = "hf/hub/datasets--acme--chats";
    let text = String::from_utf8(row("one")).expect("text");
    work.place.write(&format!("{root}/refs/main"), "0123abcd");
    work.place.write(&format!("{root}/snapshots/0123abcd/data/train-00000-of-00002.jsonl"), &text);
    let offline =
        |json: &[&str]| work.with_env(&[json, &["preview", "run.yaml"]].concat(), &[("HF_HUB_OFFLINE", "1")]);
    offline(&[]).refused(&["train-00001-of-00002", "not in the cache"]);
    work.place.write(&format!("{root}/snapshots/0123abcd/data/train-00001-of-00002.jsonl"), &text);
    assert_eq!(offline(&["--json"]).json()["rows"].as_array().map(Vec::len), Some(2));
    assert!(hub.server.asked().is_empty());
}
