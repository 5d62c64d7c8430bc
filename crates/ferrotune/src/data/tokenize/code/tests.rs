use serde_json::{Value, json};

use super::*;
use crate::data::tokenizer::TokenizerSettings;

const TOKENIZER: &str =
    include_str!("../../../../../../testdata/golden/models/llama3_rope/model/tokenizer.json");
const GOLDEN: &str = include_str!("../../../../../../testdata/golden/sft/fim.json");

/// The golden tokenizer with further tokens.
fn tokenizer(added: &[&str], special: bool) -> Tokenizer {
    let mut file: Value = serde_json::from_str(TOKENIZER).unwrap();
    for (i, word) in added.iter().enumerate() {
        file["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": 320 + i, "content": word, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special,
        }));
    }
    let settings = TokenizerSettings::from_config(&json!({"eos_token": "</s>", "add_bos_token": false}));
    Tokenizer::new(file.to_string().as_bytes(), settings, "tokenizer.json").unwrap()
}

fn golden() -> (Value, Vec<CodeFile>) {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let text = |file: &Value, name: &str| file[name].as_str().unwrap().to_string();
    let file = |f: &Value| CodeFile {
        repository: text(f, "repository"),
        path: text(f, "path"),
        text: text(f, "text"),
    };
    let files = golden["files"].as_array().unwrap().iter().map(file).collect();
    (golden, files)
}

fn words(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

#[test]
fn rows_are_those_of_the_papers_and_of_the_permutation_written_anew() {
    let (golden, files) = golden();
    let mut seen = 0;
    for (family, added) in golden["tokens"].as_object().unwrap() {
        let tokenizer = tokenizer(&words(added), true);
        let style = CodeStyle::probe(&tokenizer);
        for case in golden["cases"].as_array().unwrap().iter().filter(|case| case["family"] == **family) {
            let file = &files[case["file"].as_u64().unwrap() as usize];
            let parts = match case["cut"].as_array() {
                None => style.plain_parts(file, &file.text),
                Some(cut) => {
                    let [a, b] = [0, 1].map(|i| cut[i].as_u64().unwrap() as usize);
                    style.permuted_parts(file, &Cut::new(&file.text, a, b, case["spm"] == true))
                }
            };
            let row = style.row(parts, true).unwrap();
            assert_eq!(json!(row.input_ids), case["ids"], "{case}");
            assert!(row.labels.iter().zip(&row.input_ids).all(|(label, id)| *label == *id as i32));
            seen += 1;
        }
    }
    assert_eq!(seen, 5 * 2 * 13);
}

/// Prefix, middle and suffix of a permuted row put together again, without what stands around them.
fn rebuilt(tokenizer: &Tokenizer, style: &CodeStyle, file: &CodeFile, row: &TrainRow) -> String {
    let ([prefix, suffix, middle], _) = style.fim.unwrap();
    let text = |ids: &[u32]| tokenizer.decode(ids, true).unwrap();
    let at = |id: u32| row.input_ids.iter().position(|found| *found == id);
    let place = format!("{}\n", file.path);
    let behind_place = |text: String| match text.split_once(&place) {
        Some((_, rest)) => rest.to_string(),
        None => text,
    };
    let Some(start) = at(prefix) else { return behind_place(text(&row.input_ids)) };
    let (from, to) = (at(suffix).unwrap(), at(middle).unwrap());
    let end = row.input_ids.len() - 1;
    if from == start + 1 {
        let joined = behind_place(text(&row.input_ids[to + 1..end]));
        return format!("{joined}{}", text(&row.input_ids[from + 1..to]));
    }
    let before = behind_place(text(&row.input_ids[start + 1..from]));
    let [middle, suffix] = [text(&row.input_ids[to + 1..end]), text(&row.input_ids[from + 1..to])];
    format!("{before}{middle}{suffix}")
}

fn long_file() -> CodeFile {
    let line = |i: usize| format!("\tlet größe_{i} = f({i}); // 数字 😀 <|fim_suffix|> </s>\r\n");
    CodeFile { repository: "r".into(), path: "a/b.rs".into(), text: (0..40).map(line).collect() }
}

#[test]
fn permuted_files_are_the_files_byte_for_byte() {
    let (golden, mut files) = golden();
    files.push(long_file());
    for special in [true, false] {
        for (family, added) in golden["tokens"].as_object().unwrap() {
            let tokenizer = tokenizer(&words(added), special);
            let style = CodeStyle::probe(&tokenizer);
            for file in &files {
                let (mut permuted, mut suffix_first, mut cuts) = (0, 0, std::collections::BTreeSet::new());
                for seed in 0..60 {
                    let options = FimOptions { rate: 0.5, spm_rate: Some(0.5), seed };
                    let rows = |overlong| style.rows(file, options, 100_000, overlong).unwrap();
                    let made = rows(Overlong::Truncate);
                    assert_eq!(made.rows, rows(Overlong::Split).rows);
                    let [row] = &made.rows[..] else { panic!("{} rows", made.rows.len()) };
                    assert_eq!(rebuilt(&tokenizer, &style, file, row), file.text, "{family} {seed}");
                    permuted += made.permuted;
                    let fim = style.fim.unwrap().0;
                    suffix_first += usize::from(row.input_ids.windows(2).any(|two| two == [fim[0], fim[1]]));
                    cuts.insert(row.input_ids.clone());
                }
                assert!((15..45).contains(&permuted), "{permuted} of 60");
                assert!((4..permuted).contains(&suffix_first), "{suffix_first} of {permuted}");
                assert!(cuts.len() > permuted / 2, "{} cuts", cuts.len());
            }
        }
    }
}

#[test]
fn long_files_become_pieces_that_are_the_file_together() {
    let (golden, _) = golden();
    let file = long_file();
    for family in ["qwen", "starcoder", "starcoder2", "deepseek"] {
        let tokenizer = tokenizer(&words(&golden["tokens"][family]), true);
        let style = CodeStyle::probe(&tokenizer);
        for (rate, limit) in [(0.0, 200), (1.0, 200), (0.5, 64), (0.5, 2000)] {
            let options = FimOptions { rate, spm_rate: Some(0.5), seed: 1 };
            let made = style.rows(&file, options, limit, Overlong::Split).unwrap();
            let pieces: Vec<String> =
                made.rows.iter().map(|row| rebuilt(&tokenizer, &style, &file, row)).collect();
            assert_eq!(pieces.concat(), file.text, "{family} {rate} {limit}");
            assert!(made.rows.len() > 1 && made.rows.iter().all(|row| row.len() <= limit));
            let lines = pieces.iter().filter(|piece| piece.ends_with('\n')).count();
            assert!(limit < 100 || lines == pieces.len(), "{lines} of {} end a line", pieces.len());
            // Only what ends the file, or a middle, ends the row.
            let eos = tokenizer.eos().unwrap();
            let ended = made.rows.iter().filter(|row| row.input_ids.last() == Some(&eos)).count();
            let fim = style.fim.unwrap().0[2];
            let permuted = made.rows.iter().filter(|row| row.input_ids.contains(&fim)).count();
            assert_eq!(permuted, made.permuted);
            let last_is_plain = !made.rows.last().unwrap().input_ids.contains(&fim);
            assert_eq!(ended, permuted + usize::from(last_is_plain));
            assert_eq!(permuted == 0, rate == 0.0);
        }
        let problem = style.rows(&file, FimOptions::default(), 5, Overlong::Split).unwrap_err();
        assert!(problem.text.contains("the place of the file alone"), "{}", problem.text);
    }
}

#[test]
fn a_file_that_does_not_fit_whole_is_not_permuted() {
    let (golden, files) = golden();
    let tokenizer = tokenizer(&words(&golden["tokens"]["qwen"]), true);
    let style = CodeStyle::probe(&tokenizer);
    let rate = |rate| FimOptions { rate, spm_rate: None, seed: 0 };
    let plain = style.rows(&files[0], rate(0.0), 1000, Overlong::Truncate).unwrap();
    let length = plain.rows[0].len();
    for limit in [length - 1, length, length + 1] {
        let made = style.rows(&files[0], rate(1.0), limit, Overlong::Truncate).unwrap();
        assert_eq!((made.permuted, &made.rows), (0, &plain.rows), "limit {limit}");
    }
    assert_eq!(style.rows(&files[0], rate(1.0), length + 8, Overlong::Truncate).unwrap().permuted, 1);
}

#[test]
fn a_tokenizer_without_the_tokens_is_refused_by_their_names() {
    let tokenizer = tokenizer(&["<fim_prefix>", "<fim_suffix>"], true);
    let style = CodeStyle::probe(&tokenizer);
    assert!(style.check(FimOptions::default()).is_ok());
    let error = style.check(FimOptions { rate: 0.1, ..FimOptions::default() }).unwrap_err().to_string();
    for word in
        ["data.fim_rate", "<fim_prefix> <fim_suffix> <fim_middle>", "<|fim_prefix|>", "<｜fim▁begin｜>"]
    {
        assert!(error.contains(word), "`{word}` is not in {error}");
    }
}
