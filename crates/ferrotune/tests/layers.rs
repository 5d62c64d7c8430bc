//! The order of the library's rooms, read from the source: `lib.rs` lists them from the lowest to the highest, and none
//! imports one that stands behind it. No library reads the environment or prints. Who may touch the disk is held by clippy
//! (`clippy.toml`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The rooms in the order of `lib.rs`.
fn rooms() -> Vec<String> {
    let text = fs::read_to_string(source().join("lib.rs")).expect("lib.rs");
    let name = |line: &str| {
        let line = line.trim().trim_start_matches("pub ").strip_prefix("mod ")?;
        Some(line.trim_end_matches(';').to_string())
    };
    text.lines().filter_map(name).collect()
}

/// Every source file of the library by its path below `src`, without comments and tests.
fn code() -> BTreeMap<String, String> {
    let all = code_of(&source());
    assert!(all.len() > 100, "{} files", all.len());
    all
}

/// Every source file below `root`.
fn code_of(root: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, folder: &Path, all: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(root, &path, all);
                continue;
            }
            let name = path.strip_prefix(root).expect("below src").to_string_lossy().replace('\\', "/");
            if name.contains("tests") || name == "lib.rs" {
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source file");
            let lines: String = text
                .lines()
                .map(|line| format!("{}\n", line.split("//").next().unwrap_or_default()))
                .collect();
            let without_tests = lines.split("\nmod tests {").next().unwrap_or_default();
            all.insert(name, without_tests.to_string());
        }
    }
    let mut all = BTreeMap::new();
    walk(root, root, &mut all);
    all
}

fn room_of(file: &str) -> &str {
    file.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

/// Names that follow `crate::`, those of a group too.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let word =
            |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        match rest.strip_prefix('{') {
            None => found.push(word(rest)),
            Some(group) => {
                let group = group.split("};").next().unwrap_or_default();
                found.extend(group.split([',', '{']).map(|part| word(part.trim())));
            }
        }
    }
    found
}

#[test]
fn no_room_imports_one_above_it() {
    let rooms = rooms();
    let rank = |name: &str| rooms.iter().position(|room| room == name);
    let mut upward = Vec::new();
    let mut seen = 0;
    for (file, text) in code() {
        let own = rank(room_of(&file)).unwrap_or_else(|| panic!("lib.rs does not list the room of {file}"));
        for name in imports(&text) {
            let Some(other) = rank(&name) else { continue };
            seen += 1;
            if other > own {
                upward.push(format!("{file} imports {name}"));
            }
        }
    }
    assert!(seen > 200, "{seen} imports were found");
    assert!(upward.is_empty(), "{upward:#?}");
}

#[test]
fn libraries_read_no_environment_and_print_nothing() {
    let mut wrong = Vec::new();
    for name in ["ferrotune", "ferrotune-hub", "ferrotune-kernels"] {
        let code = code_of(&source().join("../..").join(name).join("src"));
        assert!(code.len() > 5, "{name} has {} files", code.len());
        let found = code.iter().filter(|(_, text)| reads_or_prints(text));
        wrong.extend(found.map(|(file, _)| format!("{name}/src/{file}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn reads_or_prints(text: &str) -> bool {
    ["env::var", "env::args", "println!", "eprintln!", "print!(", "process::exit"]
        .iter()
        .any(|w| text.contains(w))
}
