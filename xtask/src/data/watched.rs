//! A process, its time and its memory.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::golden::Failure;

/// How often a process is looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// What a process took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    pub(super) seconds: f64,
    /// Largest resident memory, as far as the system says it.
    pub(super) peak_bytes: Option<u64>,
}

/// Runs a command to its end; its standard output, and what it took.
pub(super) fn run(command: &mut Command) -> Result<(String, Took), Failure> {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let drain = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let read = pipe.map(|mut pipe| pipe.read_to_end(&mut text));
            read.transpose().map(|_| String::from_utf8_lossy(&text).into_owned())
        })
    };
    let out = drain(child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let err = drain(child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let mut peak_bytes = None;
    let status = loop {
        peak_bytes = peak(&child).or(peak_bytes);
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(PAUSE);
    };
    let seconds = start.elapsed().as_secs_f64();
    let text = |thread: std::thread::JoinHandle<std::io::Result<String>>| match thread.join() {
        Ok(text) => Ok::<_, Failure>(text?),
        Err(_) => Err(Failure("a pipe could not be read".into())),
    };
    let (out, err) = (text(out)?, text(err)?);
    if !status.success() {
        return Err(Failure(format!("{command:?}: {status}: {}", err.lines().last().unwrap_or_default())));
    }
    Ok((out, Took { seconds, peak_bytes }))
}

/// The highest resident memory of a running process; Linux alone says it of another process.
fn peak(child: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| 1024 * kib)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn output_time_and_memory_are_the_process_own() {
        let (text, took) =
            run(Command::new("sh").args(["-c", "echo out; sleep 0.2"])).map_err(|f| f.0).unwrap();
        assert_eq!(text, "out\n");
        assert!(took.seconds >= 0.2 && took.peak_bytes.unwrap() > 100_000, "{took:?}");
        let failed = run(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        assert!(failed.0.contains("why"), "{}", failed.0);
    }
}
