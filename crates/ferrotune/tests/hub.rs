//! What is brought from a hub opens as a model; the downloads themselves are tested in `ferrotune-hub`.

#[path = "../../ferrotune-hub/tests/server/mod.rs"]
mod server;
#[path = "../../ferrotune-hub/tests/server/settings.rs"]
mod settings;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ferrotune::Error;
use ferrotune::fetch::hub::{HubId, fetch, fetch_config};
use ferrotune::formats::Checkpoint;
use server::{Hub, HubTricks, nowhere};
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
    for name in ["LICENSE", "additional_chat_templates/tool_use.jinja", "README.md", "onnx/model.onnx"] {
        files.insert(name.into(), name.into());
    }
    files
}

fn id() -> HubId {
    HubId::parse(ID).unwrap()
}

#[test]
fn what_is_brought_opens() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(ID, files(), HubTricks::default());
    let path = fetch(&id(), &settings(&hub.server.url, dir.path()), &mut |_| {}).unwrap();
    Checkpoint::open(&path).unwrap();
    for (name, content) in files() {
        let taken = fs::read(path.join(&name)).ok();
        let needed = !["README.md", "onnx/model.onnx"].contains(&name.as_str());
        assert_eq!(taken, needed.then_some(content), "{name}");
    }

    let dir = tempfile::tempdir().unwrap();
    let mut sharded = files();
    let weights = sharded.remove("model.safetensors").unwrap();
    sharded.insert("model-00001-of-00001.safetensors".into(), weights);
    let names: BTreeMap<_, _> = Checkpoint::open(&model_folder())
        .unwrap()
        .names()
        .into_iter()
        .map(|n| (n, "model-00001-of-00001.safetensors"))
        .collect();
    sharded.insert(
        "model.safetensors.index.json".into(),
        serde_json::json!({"metadata": {}, "weight_map": names}).to_string().into_bytes(),
    );
    let hub = Hub::start(ID, sharded, HubTricks::default());
    let path = fetch(&id(), &settings(&hub.server.url, dir.path()), &mut |_| {}).unwrap();
    Checkpoint::open(&path).unwrap();
}

#[test]
fn an_unsupported_architecture_is_refused_before_its_weights() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = files();
    files.insert("config.json".into(), br#"{"model_type": "bert", "architectures": ["BertModel"]}"#.to_vec());
    let hub = Hub::start(ID, files, HubTricks::default());
    let settings = settings(&hub.server.url, dir.path());
    let error = fetch(&id(), &settings, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("bert"), "{error}");
    assert!(hub.storage.asked().is_empty());
}

#[test]
fn errors_of_downloads_keep_their_words_and_hints() {
    use ferrotune_hub::Error as Hub;
    let own = Hub::file("a/b", "another file").with_hint("try again");
    let text = own.to_string();
    let error = Error::from(own);
    assert!(matches!(error, Error::File { .. }));
    assert_eq!((error.to_string(), error.hint().as_deref()), (text, Some("try again")));

    let own = Hub::io("a/b", std::io::ErrorKind::StorageFull.into());
    let text = own.to_string();
    let error = Error::from(own);
    assert_eq!(error.to_string(), text);
    assert!(error.hint().is_some_and(|hint| hint.contains("make room")));

    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(&nowhere(), dir.path());
    // What was not said where the error arose is said by this library.
    let error = fetch_config(&id(), &settings, &mut |_| {}).unwrap_err();
    assert!(matches!(&error, Error::Network { url, .. } if url.contains(ID)), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("connection")), "{error}");
    settings.offline = true;
    let error = fetch_config(&id(), &settings, &mut |_| {}).unwrap_err();
    assert!(error.hint().is_some_and(|hint| hint.contains("--offline")), "{error}");
}
