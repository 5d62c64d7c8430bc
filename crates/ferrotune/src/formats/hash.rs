//! SHA-256 of files and of what is written, in one place.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use ferrotune_kernels::Threads;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Error, Result};

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// Length and SHA-256 of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of the content in hexadecimal, as `sha256sum` prints it.
    pub sha256: String,
}

impl Digest {
    /// The digest of bytes in memory.
    pub fn of(content: &[u8]) -> Self {
        Digest { bytes: content.len() as u64, sha256: hex(&Sha256::digest(content)) }
    }

    /// Reads the whole file. It is read, not mapped, so nothing of it stays in this process's memory.
    pub fn of_file(path: &Path) -> Result<Self> {
        let refused = |e| Error::io(path, e);
        let mut file = File::open(path).map_err(refused)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        let mut bytes = 0;
        loop {
            let n = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(refused(e)),
            };
            hash.update(&buffer[..n]);
            bytes += n as u64;
        }
        Ok(Digest { bytes, sha256: hex(&hash.finalize()) })
    }
}

/// Hexadecimal digits of a hash.
pub(crate) fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Passes bytes on and hashes them on their way.
pub(crate) struct Hashing<'a, W> {
    threads: &'a Threads,
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<'a, W: Write> Hashing<'a, W> {
    pub(crate) fn new(threads: &'a Threads, inner: W) -> Self {
        Hashing { threads, inner, hash: Sha256::new(), bytes: 0 }
    }

    /// Writes out what is buffered below, and gives the digest of all that went through.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        self.inner.flush()?;
        Ok(Digest { bytes: self.bytes, sha256: hex(&self.hash.finalize()) })
    }
}

/// What is done with a part at the same time.
enum Half {
    Write,
    Hash,
}

impl<W: Write + Send> Write for Hashing<'_, W> {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(content)?;
        self.hash.update(&content[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn write_all(&mut self, content: &[u8]) -> io::Result<()> {
        if content.len() < CHUNK {
            self.inner.write_all(content)?;
            self.hash.update(content);
        } else {
            // To hash takes about as long as to write, so long parts take the time of one of them.
            let (inner, hash) = (Mutex::new(&mut self.inner), Mutex::new(&mut self.hash));
            let write = || inner.lock().unwrap_or_else(PoisonError::into_inner).write_all(content);
            let done = self.threads.map(&[Half::Write, Half::Hash], |half| match half {
                Half::Write => write(),
                Half::Hash => {
                    hash.lock().unwrap_or_else(PoisonError::into_inner).update(content);
                    Ok(())
                }
            });
            done.into_iter().collect::<io::Result<()>>()?;
        }
        self.bytes += content.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Hashes what is read through it.
pub(crate) struct HashingReader<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        HashingReader { inner, hash: Sha256::new(), bytes: 0 }
    }

    /// Reads what is left, and gives the digest of everything.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(Digest { bytes: self.bytes, sha256: hex(&self.hash.finalize()) })
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_what_is_read_and_what_is_in_memory_have_one_digest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let content: Vec<u8> = (0..3 * CHUNK + 17).map(|i| (i * 7 / 3) as u8).collect();
        let threads = Threads::new(2).unwrap();
        let mut out = Hashing::new(&threads, File::create(&path).unwrap());
        // Short parts, and one that is long.
        let (short, long) = content.split_at(CHUNK / 2);
        short.chunks(1000).for_each(|part| out.write_all(part).unwrap());
        out.write_all(long).unwrap();
        let written = out.finish().unwrap();
        assert_eq!(written, Digest::of_file(&path).unwrap());
        assert_eq!(written, Digest::of(&content));
        assert_eq!(written.bytes, content.len() as u64);
        // The test vector of FIPS 180-4.
        assert_eq!(
            Digest::of(b"abc").sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
