//! Folders of source code, and fill-in-the-middle.

use serde_json::{Value, json};

use super::helper::{Place, model, run_file};

/// Words of Qwen for files and fill-in-the-middle.
const QWEN: [&str; 5] =
    ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|repo_name|>", "<|file_sep|>"];

/// A folder with a small repository and a run file for a tiny model whose last tokens are these words.
fn place(words: &[&str]) -> Place {
    let place = Place::new();
    let copy = place.copy_of(&model("llama3_rope"), "model");
    let mut tokenizer = place.json("model/tokenizer.json");
    for (i, word) in words.iter().enumerate() {
        let first = 320 - words.len();
        let name = tokenizer["model"]["vocab"].as_object().unwrap().iter().find(|(_, id)| **id == first + i);
        let name = name.unwrap().0.clone();
        tokenizer["model"]["vocab"].as_object_mut().unwrap().shift_remove(&name);
        // Qwen's are not called special.
        tokenizer["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": first + i, "content": word, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": false,
        }));
    }
    let merges = tokenizer["model"]["merges"].as_array_mut().unwrap();
    merges.truncate(merges.len() - words.len());
    place.write("model/tokenizer.json", &tokenizer.to_string());
    let run = run_file(&copy, "lora")
        .replace("train: rows.jsonl, max_length: 128", "train: shop, format: code, max_length: 256");
    place.write("run.yaml", &run);
    place.write("shop/src/main.py", "def main():\n    print('größe <|fim_middle|> </s>')\n");
    place.write("shop/src/util/add.js", "export const add = (a, b) => a + b;\r\n");
    place.write("shop/Makefile", "all:\n\techo ok\n");
    place.write("shop/.gitignore", "build/\n");
    place.write("shop/build/out.py", "x = 1\n");
    place.write("shop/package-lock.json", "{}\n");
    place.write("shop/logo.svg", "<svg/>\n");
    place
}

#[test]
fn a_folder_of_source_code_is_trained_with_the_place_of_each_file() {
    let place = place(&QWEN);
    let shown = place.preview_again(&[]);
    let texts = [
        "<|repo_name|>shop\n<|file_sep|>Makefile\nall:\n\techo ok\n</s>",
        "<|repo_name|>shop\n<|file_sep|>src/main.py\ndef main():\n    print('größe <|fim_middle|> </s>')\n</s>",
        "<|repo_name|>shop\n<|file_sep|>src/util/add.js\nexport const add = (a, b) => a + b;\r\n</s>",
    ];
    assert_eq!(shown.texts, texts);
    assert!(shown.supervised.iter().zip(&shown.texts).all(|(runs, text)| *runs == [text.as_str()]));
    assert_eq!(shown.report["shapes"], json!({"source files": 3}));
    let left_out =
        json!({"lock files": 1, "named in .gitignore or .ignore": 1, "no source by their names": 1});
    assert_eq!(shown.report["left_out_files"], left_out);
    let out = place.run(&["preview", "run.yaml"]).ok();
    let said = "source files: 3 taken; left out: 1 lock files, 1 named in .gitignore or .ignore, 1 no source by their names";
    assert!(out.stderr.contains(said), "{}", out.stderr);
    // A tokenizer without such tokens has a comment.
    let plain = self::place(&[]);
    let texts = plain.preview_again(&[]).texts;
    assert!(texts[0].starts_with("# Makefile\nall:"), "{}", texts[0]);
    assert!(texts[2].starts_with("// src/util/add.js\nexport"), "{}", texts[2]);
}

#[test]
fn words_of_control_tokens_in_a_file_are_text() {
    let place = place(&QWEN);
    let out = place.run(&["preview", "run.yaml", "--tokens"]).ok();
    let count = |id: usize| {
        out.stdout
            .lines()
            .filter(|line| line.split_whitespace().next() == Some(id.to_string().as_str()))
            .count()
    };
    assert_eq!((count(318), count(319)), (3, 3), "repository and file of each row");
    assert_eq!(count(316), 0, "<|fim_middle|> is in a string of main.py");
    assert_eq!(count(2), 3, "</s> ends each row, and is in the same string");
}

#[test]
fn fill_in_the_middle_has_the_file_in_three_parts() {
    let place = place(&QWEN);
    let shown = place.preview_again(&["data.fim_rate=1"]);
    for (text, path, content) in [
        (&shown.texts[0], "Makefile", "all:\n\techo ok\n"),
        (&shown.texts[2], "src/util/add.js", "export const add = (a, b) => a + b;\r\n"),
    ] {
        let start = format!("<|repo_name|>shop\n<|file_sep|>{path}\n<|fim_prefix|>");
        let rest = text.strip_prefix(&start).unwrap_or_else(|| panic!("{text:?}"));
        let (prefix, rest) = rest.split_once("<|fim_suffix|>").unwrap();
        let (suffix, middle) = rest.split_once("<|fim_middle|>").unwrap();
        assert_eq!(format!("{prefix}{}{suffix}", middle.strip_suffix("</s>").unwrap()), content);
    }
    assert_eq!(shown.report["permuted_rows"], 3);
    assert!(shown.supervised.iter().all(|runs| runs.len() == 1), "all tokens are trained");
    // The choice is one of seed and file, whatever the threads.
    let texts = |set: &[&str]| place.preview_again(set).texts;
    assert_eq!(texts(&["data.fim_rate=1", "train.threads=1"]), shown.texts);
    assert_ne!(texts(&["data.fim_rate=1", "train.seed=5"]), shown.texts);
    let spm = texts(&["data.fim_rate=1", "data.fim_spm_rate=1"]);
    assert!(spm.iter().all(|text| text.contains("<|fim_prefix|><|fim_suffix|>")), "{spm:?}");
    let half = place.run(&["preview", "run.yaml", "--set", "data.fim_rate=1"]).ok();
    assert!(half.stderr.contains("fill-in-the-middle: 3 of 3 rows"), "{}", half.stderr);
}

#[test]
fn fill_in_the_middle_is_trained_and_asked_for() {
    let place = place(&QWEN);
    place.run(&["train", "run.yaml", "--set", "data.fim_rate=0.5", "--set", "train.epochs=2"]).ok();
    let receipt = place.json("out/receipt.json");
    assert_eq!(receipt["data"]["files"].as_array().map_or(0, Vec::len), 1, "{receipt}");
    let prompt = "<|fim_prefix|>def main():<|fim_suffix|>\n<|fim_middle|>";
    place.run(&["generate", "out", "--raw", "--prompt", prompt, "--max-new-tokens", "4"]).ok();
    place.run(&["eval", "out", "--data", "shop"]).ok();
}

#[test]
fn an_evaluation_cuts_files_as_the_run_did() {
    let place = place(&QWEN);
    let set =
        ["data.fim_rate=1", "data.eval=[shop]", "train.seed=5", "train.epochs=1", "train.precision=f32"];
    let set = set.iter().flat_map(|set| ["--set", set]);
    let args: Vec<&str> = ["train", "run.yaml", "--json"].into_iter().chain(set).collect();
    let trained = place.run(&args).json()["eval_loss"].as_f64().unwrap();
    let args = ["eval", "out", "--data", "shop", "--max-length", "256", "--precision", "f32", "--json"];
    let evaluated = place.run(&args).json();
    let evaluated = evaluated["eval_loss"].as_f64().unwrap();
    assert!((trained - evaluated).abs() < 1e-4, "{trained} {evaluated}");
}

#[test]
fn a_recipe_is_measured_on_files_as_they_stand() {
    let place = place(&QWEN);
    let run = |rate: &str| {
        let dir = format!("r{rate}");
        let rate = format!("data.fim_rate={rate}");
        let set = [&rate, "data.overlong=split", "data.max_length=256", "train.max_steps=1"];
        let set = set.iter().flat_map(|set| ["--set", *set]);
        let args =
            ["recipe", "code", "--run", "--model", "model", "--limit", "3", "--json", "--output", &dir];
        place.run(&args.into_iter().chain(set).collect::<Vec<_>>()).json()
    };
    let (plain, permuted) = (run("0"), run("1"));
    assert_eq!(plain["before"], permuted["before"]);
    assert_ne!(plain["first_loss"], permuted["first_loss"], "the rows of training are permuted");
}

#[test]
fn long_files_are_split_with_their_place() {
    let place = place(&QWEN);
    let lines: String = (0..60).map(|i| format!("value_{i} = compute({i})\n")).collect();
    place.write("shop/src/long.py", &lines);
    let shown = place.preview_again(&["data.overlong=split", "data.max_length=120"]);
    let pieces: Vec<&str> = shown
        .texts
        .iter()
        .filter_map(|text| text.strip_prefix("<|repo_name|>shop\n<|file_sep|>src/long.py\n"))
        .collect();
    assert!(pieces.len() > 5, "{} pieces", pieces.len());
    assert_eq!(pieces.concat(), format!("{lines}</s>"));
    assert_eq!(
        (&shown.report["split_texts"], &shown.report["text_pieces"]),
        (&json!(1), &json!(pieces.len()))
    );
    assert_eq!(shown.report["truncated"], 0);
    assert!(!shown.warns(&["were cut"]));
    let cut = place.preview_again(&["data.max_length=120"]);
    assert!(
        cut.warns(&["1 of 4 rows were cut to data.max_length", "data.overlong=split"]),
        "{:?}",
        cut.warnings
    );
}

#[test]
fn what_is_no_source_code_is_refused_with_a_way_out() {
    let place = place(&[]);
    let refused = |set: &[&str], words: &[&str]| {
        let set = set.iter().flat_map(|set| ["--set", set]);
        let args: Vec<&str> = ["preview", "run.yaml"].into_iter().chain(set).collect();
        place.run(&args).refused(words);
    };
    refused(&["data.format=auto"], &["shop", "source code", "4 source files", "data.format=code"]);
    place.write("shop/README.md", "# Shop\n");
    place.write("shop/package.json", "{\"name\": \"shop\"}\n");
    place.write("shop/src/more.py", "y = 2\n");
    refused(&["data.format=auto"], &["shop", "5 source files", "data.format=code"]);
    refused(&["data.fim_rate=0.5"], &["data.fim_rate", "no tokens for fill-in-the-middle", "<|fim_prefix|>"]);
    refused(&["data.fim_rate=0.5", "data.format=auto"], &["data.fim_rate", "without source files"]);
    refused(&["data.fim_rate=2"], &["data.fim_rate", "expected"]);
    refused(&["data.train=nowhere"], &["nowhere"]);
    refused(&["data.train=run.yaml.bak*"], &["no file matches"]);
    place.write("rows.jsonl", "{\"text\": \"a\"}\n");
    refused(&["data.train=rows.jsonl"], &["rows.jsonl", "no source file by its name"]);
    place.write("empty/photo.png", "x");
    refused(&["data.train=empty"], &["empty", "no source file is in it", "1 no source by their names"]);
}

#[test]
fn several_repositories_and_rows_stand_beside_each_other() {
    let place = place(&QWEN);
    place.write("other/lib.rs", "pub fn f() {}\n");
    place.write("chats.jsonl", &super::helper::chats(2));
    let sources = "data.sources=[{path: chats.jsonl, format: messages}]";
    let shown = place.preview_again(&["data.train=[shop, other]", sources]);
    assert_eq!(shown.report["shapes"], json!({"source files": 4, "chats": 2}));
    assert!(shown.texts[3].starts_with("<|repo_name|>other\n<|file_sep|>lib.rs\n"), "{}", shown.texts[3]);
    let shown = place.preview_again(&["data.train=chats.jsonl", "data.format=auto"]);
    assert_eq!(shown.report.get("left_out_files"), None::<&Value>);
    let pattern = place.preview_again(&["data.train=[\"[so]*\"]"]);
    assert_eq!(pattern.report["shapes"], json!({"source files": 4}));
}
