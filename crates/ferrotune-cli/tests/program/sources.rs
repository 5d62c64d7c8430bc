//! What a path of rows may be: a file, a folder, a pattern; texts and how long ones are cut; what no row may hold.

use serde_json::json;

use super::helper::{PLAIN, Place};

/// The texts that `preview` shows of what this path stands for, without the end of each.
#[track_caller]
fn texts(place: &Place, path: &str) -> Vec<String> {
    let shown = place.preview_again(&[&format!("data.train={path}")]);
    shown.texts.into_iter().map(|text| text.trim_end_matches("</s>").to_string()).collect()
}

fn row(text: &str) -> String {
    format!("{}\n", json!({"text": text}))
}

#[test]
fn folders_and_patterns_are_the_files_in_them() {
    let place = Place::with_template(PLAIN);
    for (name, text) in [
        ("logs/part-10.jsonl", row("c")),
        ("logs/part-02.csv", "text\nb\n".to_string()),
        ("logs/a/part-01.jsonl", row("a")),
        ("logs/.hidden.jsonl", row("hidden")),
        ("logs/README.md", "About the logs.".to_string()),
        ("logs/picture.png", "png".to_string()),
        ("notes/one.md", "[![badge](x)](y)\r\n\r\n# One\r\n".to_string()),
        ("notes/two.txt", "{curly} two".to_string()),
        ("notes/empty.txt", " \n".to_string()),
        ("empty/x.bin", "x".to_string()),
    ] {
        place.write(name, &text);
    }
    assert_eq!(texts(&place, "logs"), ["a", "b", "c"]);
    assert_eq!(texts(&place, "logs/part-*"), ["b", "c"]);
    assert_eq!(texts(&place, "logs/**/*.jsonl"), ["a", "c"]);
    place.write("top.jsonl", &row("top"));
    assert_eq!(texts(&place, "*p.jsonl"), ["top"]);
    let quoted = place.read("run.yaml").replace("train: rows.jsonl", "train: '*p.jsonl'");
    place.write("quoted.yaml", &quoted);
    place.run(&["preview", "quoted.yaml"]).ok();
    place.write("unquoted.yaml", &quoted.replace('\'', ""));
    place.run(&["preview", "unquoted.yaml"]).refused(&["unquoted.yaml", "begins with `*`", "quotes"]);
    assert_eq!(texts(&place, "[logs/part-10.jsonl, notes/two.txt]"), ["c", "{curly} two"]);
    assert_eq!(texts(&place, "notes/[!e]*"), ["[![badge](x)](y)\n\n# One\n", "{curly} two"]);
    // Beside the run file.
    place.write("deep/run.yaml", &place.read("run.yaml"));
    place.write("deep/own/x.jsonl", &row("own"));
    let args =
        |path| ["preview".to_string(), "deep/run.yaml".into(), "--set".into(), format!("data.train={path}")];
    for path in ["own", "own/*.jsonl"] {
        let args = args(path);
        let out = place.run(&args.each_ref().map(String::as_str)).ok();
        assert!(
            out.stderr.contains("beside the run file") && out.stderr.contains("data: 1 rows"),
            "{out:#?}"
        );
    }
    for (path, words) in [
        ("logs/*.parquet", &["logs/*.parquet", "no file matches"][..]),
        ("logs/[", &["logs/[", "not a pattern"]),
        ("empty", &["empty", "no file of rows and no text", "1 other"]),
        ("nothing.jsonl", &["nothing.jsonl", "No such file"]),
        ("notes", &["notes/empty.txt", "there are no rows"]),
    ] {
        place.run(&["preview", "run.yaml", "--set", &format!("data.train={path}")]).refused(words);
    }
}

#[test]
fn long_texts_are_split_so_that_every_token_is_predicted_once() {
    let place = Place::with_template(PLAIN);
    let text: String = (0..300).map(|i| format!("line {i}\n")).collect();
    place.write("book.txt", &text);
    let set = ["data.train=book.txt", "data.max_length=50"];
    let cut = place.preview_again(&set);
    assert_eq!((cut.texts.len(), &cut.report["cut_texts"]), (1, &json!(1)));
    assert!(cut.warns(&["1 of 1 rows were cut to data.max_length", "data.overlong=split"]), "{cut:#?}");
    let whole = place.preview_again(&["data.train=book.txt", "data.max_length=100000"]);
    let split = place.preview_again(&[&set[..], &["data.overlong=split"]].concat());
    assert!(split.warnings.is_empty(), "{split:#?}");
    let number = |report: &serde_json::Value, key: &str| report[key].as_u64().expect(key);
    // All tokens but the first, as in one piece; each piece but the first repeats a token.
    assert_eq!(number(&split.report, "label_tokens"), number(&whole.report, "label_tokens"));
    let pieces = split.texts.len() as u64;
    assert!(pieces > 5 && number(&split.report, "text_pieces") == pieces, "{split:#?}");
    assert_eq!(number(&split.report, "tokens"), number(&whole.report, "tokens") + pieces - 1);
    assert_eq!(number(&split.report, "longest"), 50);
    assert_eq!(number(&split.report, "rows_with_terminator"), 1);
    let said = place
        .run(
            &[
                &["train", "run.yaml"][..],
                &[
                    "--set",
                    set[0],
                    "--set",
                    set[1],
                    "--set",
                    "data.overlong=split",
                    "--set",
                    "train.max_steps=1",
                ],
            ]
            .concat(),
        )
        .ok()
        .stderr;
    assert!(said.contains(&format!("1 long texts became {pieces}")), "{said}");
    // A chat is cut as before.
    let chat =
        json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": text}]});
    let shown = place.preview(&[chat], &["data.max_length=50", "data.overlong=split"]);
    assert_eq!((shown.texts.len(), &shown.report["truncated"]), (1, &json!(1)));
}

#[test]
fn zeros_and_endless_lines_are_bad_rows() {
    let place = Place::with_template(PLAIN);
    for (name, text) in [
        ("zero.jsonl", "{\"text\": \"a\\u0000b\"}\n".to_string()),
        ("zero.csv", "text\na\0b\n".to_string()),
        ("deep.jsonl", "{\"text\": \"c\", \"meta\": [{\"x\": \"\\u0000\"}]}\n".to_string()),
    ] {
        place.write(name, &text);
        let data = format!("data.train={name}");
        place.run(&["preview", "run.yaml", "--set", &data]).refused(&[name, "NUL character (U+0000)"]);
    }
    let long = format!("{}{}{}", row("before"), row(&"x".repeat(100 << 20)), row("after"));
    place.write("long.jsonl", &long);
    place
        .run(&["preview", "run.yaml", "--set", "data.train=long.jsonl"])
        .refused(&["long.jsonl:2", "longer than"]);
    let shown = place.preview_again(&["data.train=long.jsonl", "data.bad_rows=skip"]);
    assert_eq!(shown.texts, ["before</s>", "after</s>"]);
    assert!(shown.warns(&["1 of 3 rows cannot be used", "long.jsonl:2"]), "{shown:#?}");
}

#[test]
fn sources_have_weights_limits_and_columns_of_their_own() {
    let place = Place::with_template(PLAIN);
    place.write("rows.jsonl", &row("own"));
    place.write("a/x.jsonl", &(0..4).map(|i| row(&format!("a{i}"))).collect::<String>());
    place.write("b.csv", &format!("Satz,n\n{}", (0..50).map(|i| format!("b{i},1\n")).collect::<String>()));
    let set =
        "data.sources=[{path: a, weight: 2}, {path: b.csv, rows: 40, weight: 0.5, columns: {text: Satz}}]";
    let shown = place.preview_again(&[set]);
    let count = |start: &str| shown.texts.iter().filter(|text| text.starts_with(start)).count();
    assert_eq!((count("own"), count("a0<"), count("a3<"), count("b40"), count("b49")), (1, 2, 2, 0, 0));
    let taken = count("b");
    assert!((8..=32).contains(&taken), "{taken}");
    assert_eq!(
        shown.report["sources"],
        json!([{"path": "a", "weight": 2.0, "rows": 4, "taken": 8}, {"path": "b.csv", "weight": 0.5, "rows": 40, "taken": taken}])
    );
    // What is kept out for evaluation is not trained by a repetition.
    let held = place.preview_again(&[set, "data.eval=0.5"]);
    let mut texts: Vec<&String> = held.texts.iter().filter(|text| text.starts_with('a')).collect();
    texts.sort();
    assert!(texts.len() < 8 && texts.chunks(2).all(|pair| pair[0] == pair[1]), "{texts:?}");
    // The same rows whenever they are read, and resumed with the same.
    assert_eq!(place.preview_again(&[set]).texts, shown.texts);
    let train = |more: &[&str]| {
        let args = [
            "train",
            "run.yaml",
            "--set",
            set,
            "--set",
            "train.max_steps=3",
            "--set",
            "output.checkpoint_every=1",
        ];
        place.run(&[&args[..], more].concat())
    };
    let said = train(&[]).ok().stderr;
    assert!(said.contains("source a: 4 rows, weight 2: 8 taken"), "{said}");
    assert!(place.json("out/receipt.json")["data"]["files"].as_array().is_some_and(|files| files.len() == 3));
    let other = set.replace("weight: 2", "weight: 3");
    train(&["--resume", "--set", &other]).refused(&["data"]);
    for (sources, words) in [
        ("[{path: a, weights: 2}]", &["data.sources.weights", "did you mean `data.sources.weight`"][..]),
        ("[{path: a, weight: 0}]", &["data.sources.weight", "above 0"]),
        ("[{weight: 1}]", &["data.sources", "path"]),
        ("[{path: nothing}]", &["nothing", "no file or folder `nothing`"]),
        ("[{path: a, columns: {txt: Satz}}]", &["data.columns", "`txt`"]),
    ] {
        place.run(&["preview", "run.yaml", "--set", &format!("data.sources={sources}")]).refused(words);
    }
}
