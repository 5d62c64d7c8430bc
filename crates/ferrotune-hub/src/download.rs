//! One file from a server: resumed after a cut, checked, and in its place only when it is whole.
//!
//! Bytes go to a partial file that no reader looks at. Length and, where it is known, SHA-256 are checked before the
//! partial file is synced and renamed. A partial file that is left behind by an interruption is gone on with.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::files::sync_folder;
use crate::hash::Digest;
use crate::net::{Client, OnProgress, Progress, Reply, Request, busy, network, public};
use crate::{Error, Result};

const BUFFER: usize = 256 << 10;

/// What is downloaded.
pub(crate) struct Wanted<'a> {
    pub(crate) url: &'a str,
    pub(crate) authorization: Option<&'a str>,
    /// The name for people.
    pub(crate) name: &'a str,
    /// Length, if it is known beforehand.
    pub(crate) size: Option<u64>,
    /// SHA-256 in hexadecimal digits, if it is known.
    pub(crate) sha256: Option<&'a str>,
    /// Whether bytes of an earlier attempt are surely of the same file.
    pub(crate) resumable: bool,
}

/// Why one attempt ended.
enum Attempt {
    Whole,
    /// The connection broke after so many bytes of the file.
    Broken(Error, u64),
}

/// Downloads to `target`, which must not be there, through the file `partial` on the same disk.
pub(crate) fn download(
    client: &Client,
    wanted: &Wanted,
    target: &Path,
    partial: &Path,
    on: &mut OnProgress,
) -> Result<()> {
    for path in [target, partial] {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
    }
    let Some(mut file) = claim(partial, target, on)? else { return Ok(()) };
    if !wanted.resumable {
        file.set_len(0).map_err(|e| Error::io(partial, e))?;
    }
    let mut inherited = length(&file, partial)? > 0;
    loop {
        complete(client, wanted, &mut file, partial, on)?;
        let Err(error) = check(wanted, &mut file, partial) else { break };
        file.set_len(0).map_err(|e| Error::io(partial, e))?;
        // The bytes of an earlier interrupted run may be what is wrong; they are not believed twice.
        if !std::mem::take(&mut inherited) {
            // Removed before the lock ends, so that nobody goes on with it.
            let _ = fs::remove_file(partial);
            return Err(error);
        }
        on(Progress::Message(&format!("{}: what was here is not usable; starting over", wanted.name)));
    }
    let bytes = length(&file, partial)?;
    file.sync_all().map_err(|e| Error::io(partial, e))?;
    fs::rename(partial, target).map_err(|e| Error::io(target, e))?;
    sync_folder(target);
    on(Progress::Done { file: wanted.name, bytes });
    Ok(())
}

/// Opens the partial file for this process alone; `None` if another one has meanwhile brought the target.
fn claim(partial: &Path, target: &Path, on: &mut OnProgress) -> Result<Option<File>> {
    loop {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(partial);
        let file = file.map_err(|e| Error::io(partial, e))?;
        match file.try_lock() {
            // A file system without locks: two processes at once would be caught by the checks.
            Ok(()) | Err(TryLockError::Error(_)) => {}
            Err(TryLockError::WouldBlock) => {
                let target = target.display();
                on(Progress::Message(&format!("waiting for another process that downloads {target}")));
                file.lock().map_err(|e| Error::io(partial, e))?;
            }
        }
        // While this process waited or came, another may have finished, or given up and removed what is open here.
        if target.is_file() {
            return Ok(None);
        }
        if !partial.is_file() {
            continue;
        }
        return Ok(Some(file));
    }
}

/// Requests until the file has all its bytes; gives up after some attempts in a row that brought nothing.
fn complete(
    client: &Client,
    wanted: &Wanted,
    file: &mut File,
    partial: &Path,
    on: &mut OnProgress,
) -> Result<()> {
    let (mut failures, mut best) = (0, length(file, partial)?);
    loop {
        match attempt(client, wanted, file, partial, on)? {
            Attempt::Whole => return Ok(()),
            Attempt::Broken(error, have) => {
                // A server that starts over each time and never comes further is not progress.
                failures = if have > best { 1 } else { failures + 1 };
                best = best.max(have);
                if failures > client.retries {
                    return Err(error);
                }
                on(Progress::Message(&format!("{error}; trying again")));
                client.pause(failures);
                if !wanted.resumable {
                    file.set_len(0).map_err(|e| Error::io(partial, e))?;
                }
            }
        }
    }
}

fn attempt(
    client: &Client,
    wanted: &Wanted,
    file: &mut File,
    partial: &Path,
    on: &mut OnProgress,
) -> Result<Attempt> {
    let io = |e| Error::io(partial, e);
    let mut have = length(file, partial)?;
    if wanted.size.is_some_and(|size| have > size) {
        file.set_len(0).map_err(io)?;
        have = 0;
    }
    if wanted.size == Some(have) && have > 0 {
        return Ok(Attempt::Whole);
    }
    let range = format!("bytes={have}-");
    let headers = [("range", range.as_str())];
    let request = Request {
        url: wanted.url,
        authorization: wanted.authorization,
        headers: if have > 0 { &headers } else { &[] },
    };
    let reply = match client.get(&request) {
        Ok(reply) => reply,
        Err(error) => return Ok(Attempt::Broken(error, 0)),
    };
    let total = match reply.status {
        206 => {
            let (start, total) = content_range(&reply);
            if start != Some(have) {
                file.set_len(0).map_err(io)?;
                let problem = "the server sent another part than was asked for";
                return Ok(Attempt::Broken(network(wanted.url, problem), 0));
            }
            total
        }
        200 => {
            file.set_len(0).map_err(io)?;
            have = 0;
            reply.body.content_length()
        }
        416 => {
            if content_range(&reply).1 == Some(have) {
                return Ok(Attempt::Whole);
            }
            file.set_len(0).map_err(io)?;
            let problem = "the server's file is shorter than what is here";
            return Ok(Attempt::Broken(network(wanted.url, problem), 0));
        }
        status if busy(status) => {
            let problem = format!("the server answers {status}");
            return Ok(Attempt::Broken(network(wanted.url, problem), 0));
        }
        status => return Err(status_error(wanted.url, status)),
    };
    if let (Some(size), Some(total)) = (wanted.size, total)
        && size != total
    {
        let problem = format!("the server offers {total} bytes, {size} were announced");
        return Err(network(wanted.url, problem));
    }
    let chunked =
        reply.header("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().contains("chunked"));
    let total = wanted.size.or(total);
    if total.is_none() && !chunked {
        return Err(network(
            wanted.url,
            "the server does not say how long the file is, so it cannot be checked",
        ));
    }
    file.seek(SeekFrom::Start(have)).map_err(io)?;
    let mut body = reply.body.into_with_config().limit(u64::MAX).reader();
    let mut buffer = vec![0; BUFFER];
    loop {
        on(Progress::Bytes { file: wanted.name, done: have, total });
        let read = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Ok(Attempt::Broken(cut(wanted, have, total, &e.to_string()), have)),
        };
        file.write_all(&buffer[..read]).map_err(io)?;
        have += read as u64;
        if total.is_some_and(|total| have > total) {
            file.set_len(0).map_err(io)?;
            return Err(network(wanted.url, "the server sends more than it announced"));
        }
    }
    if total.is_some_and(|total| have < total) {
        return Ok(Attempt::Broken(cut(wanted, have, total, "the connection ended"), have));
    }
    Ok(Attempt::Whole)
}

fn cut(wanted: &Wanted, have: u64, total: Option<u64>, why: &str) -> Error {
    let total = total.map_or_else(|| "an unknown number of".to_string(), |t| t.to_string());
    let error = network(wanted.url, format!("cut after {have} of {total} bytes ({why})"));
    if wanted.resumable {
        error.with_hint("start again; the download goes on where it stopped")
    } else {
        error.with_hint("start again")
    }
}

/// `bytes 5-9/10` and `bytes */10`.
fn content_range(reply: &Reply) -> (Option<u64>, Option<u64>) {
    let Some(value) = reply.header("content-range") else { return (None, None) };
    let Some((range, total)) = value.trim_start_matches("bytes").trim().split_once('/') else {
        return (None, None);
    };
    let start = range.split_once('-').and_then(|(start, _)| start.trim().parse().ok());
    (start, total.trim().parse().ok())
}

/// Length and hash; the file has all bytes that the server sent.
fn check(wanted: &Wanted, file: &mut File, partial: &Path) -> Result<()> {
    if let Some(size) = wanted.size {
        let have = length(file, partial)?;
        if have != size {
            return Err(network(wanted.url, format!("{have} bytes instead of {size}")));
        }
    }
    let Some(expected) = wanted.sha256 else { return Ok(()) };
    let found = Digest::of_file(partial)?.sha256;
    if !found.eq_ignore_ascii_case(expected) {
        let problem = format!("the content has SHA-256 {found}, expected is {expected}; it was not kept");
        return Err(network(wanted.url, problem)
            .with_hint("the server or something on the way changed the file; try another source"));
    }
    Ok(())
}

fn length(file: &File, path: &Path) -> Result<u64> {
    Ok(file.metadata().map_err(|e| Error::io(path, e))?.len())
}

/// A status that ends a request.
pub(crate) fn status_error(url: &str, status: u16) -> Error {
    let problem = match status {
        401 => "the server asks for a login (401)".to_string(),
        403 => "the server refuses (403)".to_string(),
        404 | 410 => format!("not there ({status})"),
        _ => format!("the server answers {status}"),
    };
    Error::Network { url: public(url), problem, hint: None }
}

/// `path` with `.part` appended.
pub(crate) fn partial_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".part");
    PathBuf::from(name)
}
