use std::fs;

use serde_json::json;

use super::super::selection::{Source, weighed};
use super::super::tokenize::PrepareOptions;
use super::super::tokenizer::{Tokenizer, TokenizerSettings};
use super::*;
use crate::data::rows::InMemory;
use crate::run_config::{BadRowPolicy, DataOptions};

fn tokenizer() -> Tokenizer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/models/llama3_rope/model");
    let config = fs::read_to_string(folder.join("tokenizer_config.json")).unwrap();
    let settings = TokenizerSettings::from_config(&serde_json::from_str(&config).unwrap());
    Tokenizer::new(&fs::read(folder.join("tokenizer.json")).unwrap(), settings, "t").unwrap()
}

fn preparer(tokenizer: &Tokenizer) -> Preparer<'_> {
    let data = DataOptions { bad_rows: BadRowPolicy::Skip, max_length: 20, ..DataOptions::default() };
    Preparer::new(tokenizer, None, PrepareOptions::from(&data))
}

fn line(i: usize) -> String {
    let text = "the dog rests in the sun ".repeat(i % 7);
    match i % 50 {
        3 => "{\"text\": 7}".into(),
        9 => "not json".into(),
        _ => json!({"prompt": format!("question {i}"), "completion": format!("{text}yes")}).to_string(),
    }
}

fn write(folder: &Path, name: &str, rows: std::ops::Range<usize>) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, rows.map(|i| line(i) + "\n").collect::<String>()).unwrap();
    path
}

#[test]
fn rows_are_the_same_from_files_from_memory_and_from_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer();
    let preparer = preparer(&tokenizer);
    let paths = [write(folder.path(), "a.jsonl", 0..6000), write(folder.path(), "b.jsonl", 6000..9000)];
    let dataset = Dataset::read(&paths, ReadOptions::default()).unwrap();
    let threads = Threads::new(2).unwrap();
    let (expected, report) = preparer.prepare(&threads, &dataset).unwrap();
    assert!(report.truncated > 1000 && report.bad_rows == 360 && report.bad.len() == 21, "{report:?}");

    let inputs = [Input { paths: paths.to_vec(), read: ReadOptions::default() }];
    let cache = TokenCache::new(&folder.path().join("cache"), 1 << 30).with_bounds(0, 10_000);
    let read = |preparer: &Preparer<'_>| {
        let all = tokenized(&threads, preparer, &inputs, Some(&cache)).unwrap();
        (all.about.clone(), all.outcomes.clone(), all.whole(preparer, preparer.names()).unwrap())
    };
    let (about, outcomes, (rows, its_report)) = read(&preparer);
    assert!(rows == expected);
    assert_eq!(its_report, report);
    assert_eq!(about.files, dataset.files);
    let kept = cache.list().unwrap();
    assert_eq!(kept.len(), 1);
    let written = fs::metadata(&kept[0].path).unwrap().modified().unwrap();

    // The second time nothing is made.
    let (again, its_outcomes, (rows, its_report)) = read(&preparer);
    assert!(rows == expected);
    assert_eq!((again, its_report, its_outcomes), (about, report.clone(), outcomes));
    assert_eq!(rows.sha256(), expected.sha256());
    assert_eq!(rows.taught(), expected.taught());
    assert_eq!(cache.list().unwrap().len(), 1);
    assert!(fs::metadata(&kept[0].path).unwrap().modified().unwrap() >= written);

    // Whatever decides the rows decides what is taken.
    let other = PrepareOptions { max_length: Some(12), ..PrepareOptions::from(&DataOptions::default()) };
    let other = PrepareOptions { bad_rows: BadRowPolicy::Skip, ..other };
    let (_, _, (shorter, _)) = read(&Preparer::new(&tokenizer, None, other));
    assert_eq!(shorter.longest(), 12);
    assert_eq!(cache.list().unwrap().len(), 2);
    fs::write(&paths[1], line(1)).unwrap();
    let (_, _, (fewer, _)) = read(&preparer);
    assert!(fewer.len() < rows.len());
    assert_eq!(cache.list().unwrap().len(), 3);
    assert!(cache.clear().unwrap() > 0);
    // What is open stays readable.
    #[cfg(unix)]
    assert!(rows == expected);
}

#[test]
fn where_no_file_can_be_made_rows_stay_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer();
    let preparer = preparer(&tokenizer);
    fs::write(folder.path().join("cache"), "a file where the folder should be").unwrap();
    let cache = TokenCache::new(&folder.path().join("cache"), 1 << 30).with_bounds(0, 0);
    let path = write(folder.path(), "a.jsonl", 0..100);
    let inputs = [Input::new(&[&path], ReadOptions::default()).unwrap()];
    let threads = Threads::one();
    let with = tokenized(&threads, &preparer, &inputs, Some(&cache))
        .unwrap()
        .whole(&preparer, preparer.names())
        .unwrap();
    let without =
        tokenized(&threads, &preparer, &inputs, None).unwrap().whole(&preparer, preparer.names()).unwrap();
    assert!(with == without);
}

#[test]
fn rows_of_a_program_are_like_those_of_a_file() {
    let rows = || [json!({"text": "a"}), json!(7), json!({"prompt": "q", "completion": "a"})];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    fs::write(&path, rows().iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let tokenizer = tokenizer();
    let preparer = preparer(&tokenizer);
    let threads = Threads::one();
    let mut reading = Reading::new(&threads, &preparer, None).unwrap();
    reading.add_source("mine", &mut InMemory::new(rows()), ReadOptions::default()).unwrap();
    let own = reading.finish().unwrap();
    assert_eq!(own.about.bad.lines(&own.about.files), ["mine:2: found a number, expected an object"]);
    let input = Input { paths: vec![path], read: ReadOptions::default() };
    let file = tokenized(&threads, &preparer, &[input], None).unwrap();
    assert!(
        own.whole(&preparer, preparer.names()).unwrap().0
            == file.whole(&preparer, preparer.names()).unwrap().0
    );
}

#[test]
fn rows_are_taken_as_often_as_their_weights_say() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer();
    let preparer = preparer(&tokenizer);
    let text = |name: &str, rows: usize| {
        let path = folder.path().join(name);
        let lines = (0..rows).map(|i| format!("{}\n", json!({"text": format!("{name} {i}")})));
        fs::write(&path, lines.collect::<String>()).unwrap();
        Input { paths: vec![path], read: ReadOptions::default() }
    };
    let inputs = [text("own", 10), text("half", 1000), text("more", 400)];
    let all = tokenized(&Threads::one(), &preparer, &inputs, None).unwrap();
    let source = |path: &str, weight| Source { path: path.into(), weight, rows: 0, taken: 0 };
    let take = |seed| {
        let mut sources = [source("half", 0.5), source("more", 2.25)];
        let taken = weighed(&all, 0..1410, &mut sources, seed);
        (taken, sources)
    };
    let (taken, [half, more]) = take(3);
    assert_eq!((half.rows, more.rows), (1000, 400));
    assert!((450..550).contains(&half.taken), "{half:?}");
    assert!((860..940).contains(&more.taken), "{more:?}");
    assert_eq!(taken.len(), 10 + half.taken + more.taken);
    assert_eq!(taken[..10], (0..10).collect::<Vec<_>>());
    let seventh = taken.iter().filter(|example| **example == 1017).count();
    assert!((2..=3).contains(&seventh), "{seventh}");
    assert_eq!(take(3).0, taken);
    assert_ne!(take(4).0, taken);
    let (rows, report) = all.some(taken.iter().map(|example| *example as usize));
    assert_eq!((rows.len(), report.kept, report.rows), (taken.len(), taken.len(), taken.len()));
    assert_eq!(all.some(0..1410).0.sha256(), TokenRows::all(Arc::clone(&all.store)).sha256());
}
