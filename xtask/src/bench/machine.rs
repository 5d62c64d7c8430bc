//! What the numbers were measured on.

use std::path::Path;
use std::process::Command;

use ferrotune_kernels::cpu::Isa;

use crate::shared::python::output;

/// The value of `key` in a text of lines `key : value`.
fn field(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|l| l.split(':').next().is_some_and(|k| k.trim() == key))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

/// The processor's name; virtual machines often call several by one, so its family and model too.
fn processor(text: &str) -> Option<String> {
    let name = field(text, "model name")?;
    Some(match (field(text, "cpu family"), field(text, "model")) {
        (Some(family), Some(model)) => format!("{name} (family {family}, model {model})"),
        _ => name,
    })
}

/// What a command prints, or that it is not known.
fn says(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    let text = output(command.args(arguments).current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))));
    text.map_or("unknown".into(), |t| t.trim().to_string())
}

/// Names and values: processor, memory, system, versions.
pub(super) fn describe(threads: usize, isa: Isa) -> Vec<(&'static str, String)> {
    let file = |path| std::fs::read_to_string(path).unwrap_or_default();
    let unknown = || "unknown".to_string();
    let memory = field(&file("/proc/meminfo"), "MemTotal")
        .and_then(|t| t.split(' ').next()?.parse::<f64>().ok())
        .map_or(unknown(), |kib| format!("{:.0} GiB", kib / 1024.0 / 1024.0));
    let cores = std::thread::available_parallelism().map_or(unknown(), |n| n.to_string());
    vec![
        ("CPU", processor(&file("/proc/cpuinfo")).unwrap_or_else(unknown)),
        ("cores", format!("{cores}, {threads} threads used")),
        ("instruction set", isa.name().to_string()),
        ("memory", memory),
        ("system", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
        (
            "ferrotune",
            format!("{} {}", env!("CARGO_PKG_VERSION"), says("git", &["rev-parse", "--short", "HEAD"])),
        ),
        ("compiler", says("rustc", &["--version"])),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 17\nmodel name\t: AMD EPYC: 9\nMemTotal:  8000 kB\n";
        assert_eq!(field(text, "model name"), Some("AMD EPYC: 9".into()));
        assert_eq!(field(text, "MemTotal"), Some("8000 kB".into()));
        assert_eq!(field(text, "name"), None);
        assert_eq!(processor(text), Some("AMD EPYC: 9".into()));
        let text = format!("cpu family\t: 25\n{text}");
        assert_eq!(processor(&text), Some("AMD EPYC: 9 (family 25, model 17)".into()));
    }
}
