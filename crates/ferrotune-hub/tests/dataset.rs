//! Data sets of a hub, over real connections to servers of the test.

#[path = "server/data_hub.rs"]
mod data_hub;
mod server;
#[path = "server/settings.rs"]
mod settings;

use std::fs;

use data_hub::{DataHub, Files, Tricks, files};
use ferrotune_hub::dataset::{DatasetId, Snapshot};
use ferrotune_hub::hub::HubSettings;
use ferrotune_hub::net::Progress;
use ferrotune_hub::{Error, Result};
use server::{Answer, Server, nowhere, sha256};
use settings::settings;

const ID: &str = "acme/rows";

fn id(revision: Option<&str>) -> DatasetId {
    DatasetId::new(ID, revision).unwrap()
}

fn quiet(_: Progress) {}

fn some_files() -> Files {
    files([
        ("README.md", b"text"),
        ("data/a b.jsonl", b"{}"),
        ("data/x.parquet", &[7; 5000]),
        ("data/y.parquet", &[8; 10]),
        ("z.csv", b"a\n1\n"),
    ])
}

#[track_caller]
fn refused<T>(result: Result<T>, words: &[&str]) {
    let error = result.err().expect("refused");
    let text = format!("{error} {}", error.hint().unwrap_or_default());
    assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
    assert!(!text.contains("s3cret"), "{text}");
}

#[test]
fn single_files_come_into_the_shared_layout() {
    let dir = tempfile::tempdir().unwrap();
    let hub = DataHub::start(ID, some_files(), Tricks { token: Some("t".into()), ..Tricks::default() });
    let mut settings = settings(&hub.server.url, dir.path());
    settings.token = Some("t".into());
    let mut snapshot = Snapshot::open(&id(None), &settings, &mut quiet).unwrap();
    assert!(snapshot.is_listed());
    // Three pages, without folders.
    assert_eq!(snapshot.files(), some_files().into_keys().collect::<Vec<_>>());
    let root = dir.path().join("datasets--acme--rows");
    for name in ["data/a b.jsonl", "data/x.parquet"] {
        let path = snapshot.bring(name, &mut quiet).unwrap();
        assert_eq!(path, root.join("snapshots").join(snapshot.commit()).join(name));
        assert_eq!(fs::read(path).unwrap(), some_files()[name]);
    }
    assert!(root.join("blobs").join(sha256(&[7; 5000])).is_file());
    assert!(!root.join("refs").exists(), "not before all is here");
    snapshot.keep().unwrap();
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), snapshot.commit());
    // The list is that of huggingface_hub 2.
    let list: serde_json::Value =
        serde_json::from_slice(&fs::read(root.join(format!("trees/{}.json", snapshot.commit()))).unwrap())
            .unwrap();
    assert_eq!(list["format_version"], 1);
    let expected = serde_json::json!({
        "size": 5000, "blob_id": &sha256(&[7; 5000])[..40], "lfs_sha256": sha256(&[7; 5000]), "lfs_size": 5000
    });
    assert_eq!(list["files"]["data/x.parquet"], expected);
    // The token is the hub's and not the storage host's.
    assert!(hub.storage.asked().iter().all(|a| a.header("authorization").is_none()));

    let before = hub.server.asked().len();
    let mut again = Snapshot::open(&id(None), &settings, &mut quiet).unwrap();
    again.bring("data/x.parquet", &mut quiet).unwrap();
    assert_eq!(hub.server.asked().len(), before, "what is in the cache is asked of nobody");
    again.bring("z.csv", &mut quiet).unwrap();
    assert!(hub.server.asked().len() > before, "what is not is brought");
}

#[test]
fn offline_and_unreachable_hubs() {
    let dir = tempfile::tempdir().unwrap();
    let hub = DataHub::start(ID, some_files(), Tricks::default());
    let online = settings(&hub.server.url, dir.path());
    let offline = HubSettings { offline: true, ..online.clone() };
    refused(Snapshot::open(&id(None), &offline, &mut quiet), &[ID, "--offline", "cache"]);
    assert!(hub.server.asked().is_empty());
    let mut snapshot = Snapshot::open(&id(None), &online, &mut quiet).unwrap();
    snapshot.bring("z.csv", &mut quiet).unwrap();
    snapshot.keep().unwrap();
    for settings in [&offline, &settings(&nowhere(), dir.path())] {
        let mut again = Snapshot::open(&id(None), settings, &mut quiet).unwrap();
        again.bring("z.csv", &mut quiet).unwrap();
        refused(again.bring("data/x.parquet", &mut quiet), &[]);
    }
    // What another program left, without a list: the files that are there, and whether they are all is not known.
    fs::remove_dir_all(dir.path().join("datasets--acme--rows/trees")).unwrap();
    let mut said = String::new();
    let unreachable = settings(&nowhere(), dir.path());
    let found = Snapshot::open(&id(None), &unreachable, &mut |p| {
        if let Progress::Message(text) = p {
            said.push_str(text);
        }
    })
    .unwrap();
    assert_eq!((found.files(), found.is_listed()), (&["z.csv".to_string()][..], false));
    assert!(said.contains("using what is in the cache"), "{said}");
    // With the hub there, the list is asked for again.
    assert_eq!(Snapshot::open(&id(None), &online, &mut quiet).unwrap().files().len(), 5);
    refused(Snapshot::open(&id(Some("v2")), &unreachable, &mut quiet), &[ID]);
}

#[test]
fn revisions_are_commits_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let hub = DataHub::start(ID, some_files(), Tricks::default());
    let settings = settings(&hub.server.url, dir.path());
    let second = hub.set("refs/convert/parquet", files([("z.csv", b"other")]));
    let mut branch = Snapshot::open(&id(Some("refs/convert/parquet")), &settings, &mut quiet).unwrap();
    assert_eq!(branch.commit(), second);
    assert_eq!(fs::read(branch.bring("z.csv", &mut quiet).unwrap()).unwrap(), b"other");
    branch.keep().unwrap();
    let root = dir.path().join("datasets--acme--rows");
    assert_eq!(fs::read_to_string(root.join("refs/refs/convert/parquet")).unwrap(), second);
    let mut main = Snapshot::open(&id(None), &settings, &mut quiet).unwrap();
    assert_eq!(fs::read(main.bring("z.csv", &mut quiet).unwrap()).unwrap(), b"a\n1\n");
    // A commit is its own revision.
    let mut named = Snapshot::open(&id(Some(&second)), &settings, &mut quiet).unwrap();
    assert_eq!(fs::read(named.bring("z.csv", &mut quiet).unwrap()).unwrap(), b"other");
    refused(Snapshot::open(&id(Some("v9")), &settings, &mut quiet), &["no revision `v9`"]);
}

#[test]
fn what_a_hostile_hub_says_stays_outside() {
    let dir = tempfile::tempdir().unwrap();
    let hub = DataHub::start(
        ID,
        files([("../x", b"evil"), ("a/../../x", b"evil"), ("C:x", b"evil")]),
        Tricks::default(),
    );
    let cache = dir.path().join("cache");
    let online = settings(&hub.server.url, &cache);
    let mut snapshot = Snapshot::open(&id(None), &online, &mut quiet).unwrap();
    for name in ["../x", "a/../../x", "C:x", "/x", ""] {
        refused(snapshot.bring(name, &mut quiet), &[&format!("`{name}`"), "cache"]);
    }
    assert_eq!(hub.contents(), 0);
    // A list that goes on elsewhere does not take the token along.
    let thief = Server::start(|_| Answer::new(200, "[]"));
    let next = Some(format!("{}/more", thief.url));
    let hub = DataHub::start(ID, some_files(), Tricks { next, ..Tricks::default() });
    let online =
        HubSettings { token: Some("t".into()), ..settings(&hub.server.url, &dir.path().join("other")) };
    refused(Snapshot::open(&id(None), &online, &mut quiet), &["another host"]);
    assert!(thief.asked().is_empty());
}

#[test]
fn refusals_are_about_data_sets() {
    let dir = tempfile::tempdir().unwrap();
    let ask = |tricks: Tricks| {
        let hub = DataHub::start(ID, some_files(), tricks);
        let settings = settings(&hub.server.url, dir.path());
        Snapshot::open(&id(None), &settings, &mut quiet).and_then(|mut s| s.bring("z.csv", &mut quiet))
    };
    let refuse = |status, code| Tricks { refuse: Some((status, code)), ..Tricks::default() };
    refused(ask(refuse(404, "RepoNotFound")), &["no such data set", "HF_TOKEN", "/datasets/acme/rows"]);
    refused(ask(refuse(401, "")), &["no such data set", "(401, asked with no token)"]);
    refused(ask(refuse(403, "")), &["refuses (403", "may read the data set"]);
    refused(
        ask(Tricks { gated: true, ..Tricks::default() }),
        &["the data set is gated", "/datasets/acme/rows, then set HF_TOKEN"],
    );
    let error = ask(refuse(500, "")).unwrap_err();
    assert!(matches!(error, Error::Network { .. }) && error.to_string().contains("500"), "{error}");
}
