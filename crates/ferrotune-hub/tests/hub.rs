//! Downloads from a hub, over real connections to servers of the test.

mod server;
#[path = "server/settings.rs"]
mod settings;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferrotune_hub::hub::{self, HubId, HubSettings, cached, fetch_config};
use ferrotune_hub::net::{OnProgress, Progress};
use ferrotune_hub::{Error, Result};
use server::{COMMIT, Hub, HubTricks, nowhere, proxy, sha256};
use settings::settings;

const ID: &str = "acme/tiny-llama";

fn model_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/models/llama3_rope/model")
}

fn files() -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(model_folder()).unwrap().map(|e| e.unwrap().path());
    let mut files: BTreeMap<_, _> = entries
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_string(), fs::read(&path).unwrap()))
        .collect();
    files.insert("README.md".into(), b"not needed".to_vec());
    files.insert("onnx/model.onnx".into(), b"not needed".to_vec());
    files
}

/// Files beside the weights that are taken if the model has them.
const BESIDE: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "not-there.json",
];

/// Brings a model, whatever its architecture.
fn fetch(id: &HubId, settings: &HubSettings, on: &mut OnProgress) -> Result<PathBuf> {
    hub::fetch(id, settings, &BESIDE, |_| Ok(()), on)
}

fn id() -> HubId {
    HubId::parse(ID).unwrap()
}

fn quiet(_: Progress) {}

fn hint(error: &Error) -> String {
    error.hint().unwrap_or_default().to_string()
}

/// All regular files below a folder, with their content.
fn whole(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => found.extend(whole(&entry.path())),
            _ => found.push(entry.path()),
        }
    }
    found
}

#[test]
fn a_model_is_brought_into_the_shared_layout() {
    let dir = tempfile::tempdir().unwrap();
    let tricks = HubTricks { token: Some("t0ken".into()), ..HubTricks::default() };
    let hub = Hub::start(ID, files(), tricks);
    let mut settings = settings(&hub.server.url, dir.path());
    settings.token = Some("t0ken".into());
    assert_eq!(cached(&id(), &settings), None);
    let mut done = Vec::new();
    let path = fetch(&id(), &settings, &mut |p| {
        if let Progress::Done { file, bytes } = p {
            done.push((file.to_string(), bytes));
        }
    })
    .unwrap();
    let root = dir.path().join("models--acme--tiny-llama");
    assert_eq!(path, root.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    for entry in fs::read_dir(model_folder()).unwrap() {
        let original = entry.unwrap().path();
        let copy = path.join(original.file_name().unwrap());
        assert_eq!(fs::read(&original).unwrap(), fs::read(copy).unwrap(), "{}", original.display());
    }
    let weights = fs::read(model_folder().join("model.safetensors")).unwrap();
    assert!(root.join("blobs").join(sha256(&weights)).is_file());
    assert!(done.contains(&("model.safetensors".into(), weights.len() as u64)));
    assert!(!path.join("README.md").exists() && !path.join("onnx").exists());
    // The token is the hub's and not the storage host's.
    assert!(hub.storage.asked().iter().all(|a| a.header("authorization").is_none()));

    let before = hub.server.asked().len();
    assert_eq!(fetch(&id(), &settings, &mut quiet).unwrap(), path);
    assert_eq!(cached(&id(), &settings), Some(path));
    assert_eq!(hub.server.asked().len(), before, "a cached model asks nobody");
}

#[test]
fn the_configuration_comes_alone() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(ID, files(), HubTricks::default());
    let settings = settings(&hub.server.url, dir.path());
    let path = fetch_config(&id(), &settings, &mut quiet).unwrap();
    assert_eq!(fs::read(&path).unwrap(), files()["config.json"]);
    let beside = fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(beside, 1, "nothing else is brought");
    assert_eq!(cached(&id(), &settings), None, "the model is not here");
    let offline = HubSettings { offline: true, ..settings.clone() };
    let refused = fetch_config(&id(), &offline, &mut quiet).unwrap_err();
    assert!(hint(&refused).contains("--offline"), "{refused}");
    let folder = fetch(&id(), &settings, &mut quiet).unwrap();
    assert_eq!(fetch_config(&id(), &offline, &mut quiet).unwrap(), folder.join("config.json"));
}

#[test]
fn a_cut_connection_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(ID, files(), HubTricks { cut: Some((2, 100_000)), ..HubTricks::default() });
    let path = fetch(&id(), &settings(&hub.server.url, dir.path()), &mut quiet).unwrap();
    let ranges: Vec<_> = hub.storage.asked().iter().map(|a| a.header("range").map(str::to_string)).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".into()), Some("bytes=200000-".into())]);
    assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), files()["model.safetensors"]);
}

#[test]
fn an_interrupted_download_is_never_taken_for_whole_and_goes_on_later() {
    let dir = tempfile::tempdir().unwrap();
    let cut = HubTricks { cut: Some((usize::MAX, 0)), ..HubTricks::default() };
    let hub = Hub::start(ID, files(), cut);
    let weights = files()["model.safetensors"].clone();
    // What an earlier process that was killed left behind.
    let blobs = dir.path().join("models--acme--tiny-llama/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let partial = blobs.join(format!("{}.part", sha256(&weights)));
    fs::write(&partial, &weights[..1234]).unwrap();
    let settings_cut = settings(&hub.server.url, dir.path());
    let error = fetch(&id(), &settings_cut, &mut quiet).unwrap_err();
    assert!(error.to_string().contains("cut after 1234 of 511328 bytes"), "{error}");
    assert!(!error.to_string().contains("s3cret"), "{error}");
    assert_eq!(cached(&id(), &settings_cut), None);
    assert!(!dir.path().join("models--acme--tiny-llama/refs/main").exists());
    assert_eq!(fs::read(&partial).unwrap(), &weights[..1234]);

    let hub = Hub::start(ID, files(), HubTricks::default());
    let path = fetch(&id(), &settings(&hub.server.url, dir.path()), &mut quiet).unwrap();
    assert_eq!(hub.storage.asked()[0].header("range"), Some("bytes=1234-"));
    assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), weights);
    assert!(!partial.exists());
}

#[test]
fn bytes_of_an_earlier_attempt_that_are_wrong_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(ID, files(), HubTricks::default());
    let weights = files()["model.safetensors"].clone();
    let blobs = dir.path().join("models--acme--tiny-llama/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{}.part", sha256(&weights))), vec![7; 5000]).unwrap();
    let path = fetch(&id(), &settings(&hub.server.url, dir.path()), &mut quiet).unwrap();
    assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), weights);
}

#[test]
fn a_server_without_ranges_starts_over() {
    let dir = tempfile::tempdir().unwrap();
    let tricks = HubTricks { cut: Some((1, 100_000)), no_ranges: true, ..HubTricks::default() };
    let hub = Hub::start(ID, files(), tricks);
    let path = fetch(&id(), &settings(&hub.server.url, dir.path()), &mut quiet).unwrap();
    assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), files()["model.safetensors"]);
    // One that never comes further is given up.
    let dir = tempfile::tempdir().unwrap();
    let tricks = HubTricks { cut: Some((usize::MAX, 100_000)), no_ranges: true, ..HubTricks::default() };
    let hub = Hub::start(ID, files(), tricks);
    assert!(fetch(&id(), &settings(&hub.server.url, dir.path()), &mut quiet).is_err());
    assert_eq!(hub.storage.asked().len(), 3);
}

#[test]
fn another_content_than_announced_is_refused_and_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut wrong = files()["model.safetensors"].clone();
    *wrong.last_mut().unwrap() ^= 1;
    let hub = Hub::start(ID, files(), HubTricks { instead: Some(wrong), ..HubTricks::default() });
    let settings = settings(&hub.server.url, dir.path());
    let error = fetch(&id(), &settings, &mut quiet).unwrap_err();
    assert!(error.to_string().contains("SHA-256"), "{error}");
    assert!(whole(dir.path()).iter().all(|p| fs::metadata(p).is_ok_and(|m| m.len() < 100_000)));
    assert_eq!(cached(&id(), &settings), None);
    // Shorter than announced.
    let hub = Hub::start(ID, files(), HubTricks { instead: Some(vec![0; 10]), ..HubTricks::default() });
    let error = fetch(&id(), &self::settings(&hub.server.url, dir.path()), &mut quiet).unwrap_err();
    assert!(error.to_string().contains("offers 10 bytes, 511328"), "{error}");
}

#[test]
fn refusals_name_the_model_and_what_helps() {
    let dir = tempfile::tempdir().unwrap();
    let ask = |tricks: HubTricks, token: Option<&str>| {
        let hub = Hub::start(ID, files(), tricks);
        let mut settings = settings(&hub.server.url, dir.path());
        settings.token = token.map(str::to_string);
        fetch(&id(), &settings, &mut quiet).unwrap_err()
    };
    let refused = |status, code| HubTricks { refuse: Some((status, code)), ..HubTricks::default() };
    let error = ask(refused(404, "RepoNotFound"), None);
    assert!(error.to_string().contains(ID) && error.to_string().contains("no such model"), "{error}");
    assert!(hint(&error).contains("spelling") && hint(&error).contains("HF_TOKEN"));
    let error = ask(HubTricks { token: Some("good".into()), ..HubTricks::default() }, Some("bad-t0ken"));
    assert!(error.to_string().contains("(401, asked with the token that is set)"), "{error}");
    assert!(!format!("{error} {}", hint(&error)).contains("bad-t0ken"));
    let error = ask(refused(403, "GatedRepo"), None);
    assert!(error.to_string().contains("gated") && hint(&error).contains(&format!("/{ID}")), "{error}");
    let error = ask(refused(404, "RevisionNotFound"), None);
    assert!(error.to_string().contains("no revision `main`"), "{error}");
    let error = ask(refused(500, ""), None);
    assert!(error.to_string().contains("500"), "{error}");
    assert!(whole(dir.path()).is_empty());
}

#[test]
fn offline_uses_the_cache_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(ID, files(), HubTricks::default());
    let mut offline = settings(&hub.server.url, dir.path());
    offline.offline = true;
    let error = fetch(&id(), &offline, &mut quiet).unwrap_err();
    assert!(error.to_string().contains(ID) && hint(&error).contains("--offline"), "{error}");
    assert!(hub.server.asked().is_empty());
    let path = fetch(&id(), &settings(&hub.server.url, dir.path()), &mut quiet).unwrap();
    assert_eq!(fetch(&id(), &offline, &mut quiet).unwrap(), path);
    // A shard less, and the snapshot is no model.
    fs::remove_file(path.join("model.safetensors")).unwrap();
    assert!(fetch(&id(), &offline, &mut quiet).is_err());
}

#[test]
fn a_snapshot_without_tokenizer_files_is_completed_if_the_hub_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(ID, files(), HubTricks::default());
    let path = fetch(&id(), &settings(&hub.server.url, dir.path()), &mut quiet).unwrap();
    fs::remove_file(path.join("tokenizer_config.json")).unwrap();
    let mut said = String::new();
    let unreachable = settings(&nowhere(), dir.path());
    let found = fetch(&id(), &unreachable, &mut |p| {
        if let Progress::Message(text) = p {
            said.push_str(text);
        }
    });
    assert_eq!(found.unwrap(), path);
    assert!(said.contains("using what is in the cache"), "{said}");
    fetch(&id(), &settings(&hub.server.url, dir.path()), &mut quiet).unwrap();
    assert!(path.join("tokenizer_config.json").is_file());
}

#[test]
fn shards_and_gguf_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut sharded = files();
    let weights = sharded.remove("model.safetensors").unwrap();
    let shard = "model-00001-of-00001.safetensors";
    sharded.insert(shard.into(), weights);
    let names = BTreeMap::from([("a", shard), ("b", shard)]);
    sharded.insert(
        "model.safetensors.index.json".into(),
        serde_json::json!({"metadata": {}, "weight_map": names}).to_string().into_bytes(),
    );
    let hub = Hub::start(ID, sharded, HubTricks::default());
    let path = fetch(&id(), &settings(&hub.server.url, dir.path()), &mut quiet).unwrap();
    assert_eq!(fs::read(path.join(shard)).unwrap(), files()["model.safetensors"]);

    let dir = tempfile::tempdir().unwrap();
    let only = BTreeMap::from([("sub/x.Q4_0.gguf".to_string(), b"GGUF...".to_vec())]);
    let hub = Hub::start(ID, only, HubTricks::default());
    let settings = settings(&hub.server.url, dir.path());
    let error = fetch(&id(), &settings, &mut quiet).unwrap_err();
    assert!(hint(&error).contains("acme/tiny-llama/sub/x.Q4_0.gguf"), "{error} {}", hint(&error));
    let file = HubId::parse("acme/tiny-llama/sub/x.Q4_0.gguf").unwrap();
    let path = fetch(&file, &settings, &mut quiet).unwrap();
    assert!(path.ends_with("sub/x.Q4_0.gguf"));
    assert_eq!(fs::read(&path).unwrap(), b"GGUF...");
    assert_eq!(cached(&file, &settings), Some(path));
}

#[test]
fn a_model_that_is_not_accepted_ends_before_its_weights() {
    #[derive(Debug)]
    enum Mine {
        Theirs(Error),
        Refused(Vec<u8>),
    }
    impl From<Error> for Mine {
        fn from(error: Error) -> Self {
            Mine::Theirs(error)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(ID, files(), HubTricks::default());
    let refuse = |config: &Path| Err(Mine::Refused(fs::read(config).unwrap()));
    let settings = settings(&hub.server.url, dir.path());
    let error = hub::fetch(&id(), &settings, &BESIDE, refuse, &mut quiet).unwrap_err();
    assert!(matches!(&error, Mine::Refused(config) if *config == files()["config.json"]), "{error:?}");
    assert!(hub.storage.asked().is_empty());
    assert_eq!(cached(&id(), &settings), None);
    // The errors of the download are the caller's too.
    let unreachable = self::settings(&nowhere(), dir.path());
    let error = hub::fetch(&id(), &unreachable, &BESIDE, refuse, &mut quiet).unwrap_err();
    assert!(matches!(error, Mine::Theirs(Error::Network { .. })), "{error:?}");
}

#[test]
fn an_unreachable_hub_is_quickly_known() {
    let dir = tempfile::tempdir().unwrap();
    let start = std::time::Instant::now();
    let error = fetch(&id(), &settings(&nowhere(), dir.path()), &mut quiet).unwrap_err();
    assert!(matches!(error, Error::Network { .. }) && error.to_string().contains(ID), "{error}");
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[test]
fn proxies_are_used_but_for_some_hosts() {
    let hub = Hub::start(ID, files(), HubTricks::default());
    // me:s3cret
    let (address, log) = proxy("bWU6czNjcmV0");
    let dir = tempfile::tempdir().unwrap();
    let mut proxied = settings(&hub.server.url, dir.path());
    proxied.net.http_proxy = Some(format!("http://me:s3cret@{address}"));
    fetch(&id(), &proxied, &mut quiet).unwrap();
    assert!(!log.lock().unwrap().is_empty());
    let dir = tempfile::tempdir().unwrap();
    proxied.cache_dir = dir.path().into();
    proxied.net.http_proxy = Some(format!("http://me:wr0ng@{address}"));
    let error = fetch(&id(), &proxied, &mut quiet).unwrap_err();
    assert!(!format!("{error} {}", hint(&error)).contains("wr0ng"), "{error}");
    let before = log.lock().unwrap().len();
    proxied.net.no_proxy = vec!["127.0.0.1".into()];
    fetch(&id(), &proxied, &mut quiet).unwrap();
    assert_eq!(log.lock().unwrap().len(), before);
}

#[test]
fn a_mirror_that_stores_the_content_itself() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(ID, files(), HubTricks { same_host: true, ..HubTricks::default() });
    let path = fetch(&id(), &settings(&hub.server.url, dir.path()), &mut quiet).unwrap();
    assert!(hub.storage.asked().is_empty());
    // Known by its hash all the same.
    let weights = fs::read(path.join("model.safetensors")).unwrap();
    assert!(dir.path().join("models--acme--tiny-llama/blobs").join(sha256(&weights)).is_file());
}

#[test]
fn several_at_once_share_one_download() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(ID, files(), HubTricks::default());
    let settings = settings(&hub.server.url, dir.path());
    let run = || fetch(&id(), &settings, &mut quiet).unwrap();
    let paths: Vec<PathBuf> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    for path in paths {
        assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), files()["model.safetensors"]);
    }
    assert_eq!(hub.storage.asked().len(), 1);
}

#[test]
fn a_blob_of_another_length_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(ID, files(), HubTricks::default());
    let weights = files()["model.safetensors"].clone();
    let blobs = dir.path().join("models--acme--tiny-llama/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(sha256(&weights)), &weights[..10]).unwrap();
    let path = fetch(&id(), &settings(&hub.server.url, dir.path()), &mut quiet).unwrap();
    assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), weights);
}
