//! SHA-256 of files and of what is written, in one place.

use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};

pub use ferrotune_hub::hash::{Digest, hex};
use ferrotune_kernels::Threads;
use sha2::{Digest as _, Sha256};

/// Parts that are written and hashed at the same time are at least so long.
const CHUNK: usize = 1 << 20;

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
    use std::fs::File;

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
