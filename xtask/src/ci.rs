//! `cargo xtask ci`: everything that must hold before a change lands. Needs the Rust toolchain; fetches its two checking
//! tools if they are missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Why the checks ended.
type Stop = String;

/// Runs all checks, the quick ones first; prints what each is and ends at the first that fails.
#[allow(clippy::print_stdout, clippy::print_stderr)]
pub fn run(tools: Option<PathBuf>) -> bool {
    match checks(tools) {
        Ok(()) => {
            println!("\n== all checks passed");
            true
        }
        Err(stop) => {
            eprintln!("\n{stop}");
            false
        }
    }
}

fn checks(tools: Option<PathBuf>) -> Result<(), Stop> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::env::set_current_dir(&root).map_err(|e| format!("{}: {e}", root.display()))?;

    step("format");
    cargo("fmt --all --check")?;
    step("clippy");
    cargo("clippy --workspace --all-targets -- -D warnings")?;

    step("the package that compares products with other crates");
    cargo("fmt --manifest-path xtask/rivals/Cargo.toml --check")?;
    cargo(
        "clippy --manifest-path xtask/rivals/Cargo.toml --target-dir target/rivals --locked -- -D warnings",
    )?;

    step("tests (the README's command)");
    cargo("test --workspace")?;

    step("examples");
    examples()?;

    step("documentation");
    let mut doc = command("doc --workspace --no-deps --quiet");
    doc.env("RUSTDOCFLAGS", "-D warnings");
    status(doc)?;

    step("packages");
    cargo("package --workspace --exclude xtask --no-verify --allow-dirty --quiet")?;

    let tools = tools.unwrap_or_else(|| root.join("target/tools"));
    step("spelling");
    status(Command::new(tool("typos", "typos-cli", &tools)?))?;

    let deny = tool("cargo-deny", "cargo-deny", &tools)?;
    step("dependencies: licences, bans, sources");
    let mut check = Command::new(&deny);
    check.args(["--all-features", "check", "licenses", "bans", "sources"]);
    status(check)?;
    step("dependencies: advisories");
    advisories(&deny)
}

#[allow(clippy::print_stdout)]
fn step(name: &str) {
    println!("\n== {name}");
}

fn command(args: &str) -> Command {
    // The cargo that runs this task, whatever stands first in the search path.
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args.split(' '));
    command
}

fn cargo(args: &str) -> Result<(), Stop> {
    status(command(args))
}

fn status(mut command: Command) -> Result<(), Stop> {
    let status = command.status().map_err(|e| format!("{command:?}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}")) }
}

/// Runs every example of the library beside the program's built-in model; the last one reads what the first one wrote.
fn examples() -> Result<(), Stop> {
    cargo("build --quiet --workspace --examples")?;
    let here = std::env::current_dir().map_err(|e| e.to_string())?;
    let target = here.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
    let model = here.join("crates/ferrotune-cli/builtin").display().to_string();
    let folder = target.join("examples");
    // What an earlier run wrote would be in the way.
    let _ = std::fs::remove_dir_all(&folder);
    let table = folder.join("questions.csv");
    let rows = "What is an asset?;Something owned.\nWhat is a debt?;Something owed.\n";
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(table, rows))
        .map_err(|e| format!("{}: {e}", folder.display()))?;
    for (name, rest) in [
        ("lora_in_memory", &[][..]),
        ("row_source", &["questions.csv"]),
        ("custom_loop", &[]),
        ("many_adapters", &["Who keeps the key?", "adapter"]),
    ] {
        let mut example = Command::new(target.join("debug/examples").join(name));
        example.current_dir(&folder).arg(&model).args(rest);
        status(example)?;
    }
    Ok(())
}

/// A tool of the search path, or the one that is installed for these checks.
fn tool(name: &str, package: &str, folder: &Path) -> Result<PathBuf, Stop> {
    let works = |path: &Path| {
        let quiet = Command::new(path).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        quiet.is_ok_and(|status| status.success())
    };
    let own = folder.join("bin").join(name);
    if let Some(found) = [Path::new(name), &own].into_iter().find(|path| works(path)) {
        return Ok(found.to_path_buf());
    }
    step(&format!("install {package}"));
    let mut install = command("install --quiet --locked --root");
    install.arg(folder).arg(package);
    status(install)?;
    Ok(own)
}

/// Known faults of dependencies. The database is a git repository; where it cannot be reached that is said, and the other
/// checks stand.
#[allow(clippy::print_stdout, clippy::print_stderr)]
fn advisories(deny: &Path) -> Result<(), Stop> {
    let found = Command::new(deny).args(["check", "advisories"]).output().map_err(|e| e.to_string())?;
    if found.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&found.stderr).to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let unreachable = has(&[
        "failed to fetch",
        "failed to clone",
        "failed to open",
        "unable to",
        "could not resolve",
        "timed out",
        "advisory database",
    ]);
    let fault =
        has(&["error[vulnerability", "error[unmaintained", "error[unsound", "error[yanked", "error[notice"]);
    if unreachable && !fault {
        println!("the advisory database cannot be reached: not checked");
        return Ok(());
    }
    eprint!("{text}");
    Err("cargo deny check advisories failed".into())
}
