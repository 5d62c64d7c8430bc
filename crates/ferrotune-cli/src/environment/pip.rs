//! The user's settings of `pip`: where packages come from.
//!
//! Configuration files from the most general to the most special, then environment variables. Of a file, the sections
//! of the commands that fetch packages go before `[global]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The index that `pip` uses if nothing is set.
const STANDARD_INDEX: &str = "https://pypi.org/simple";

/// Sections, from the weakest.
const SECTIONS: [&str; 3] = ["global", "download", "install"];

/// What matters here of `pip`'s settings.
#[derive(Debug, Default, PartialEq)]
pub struct Pip {
    pub indexes: Vec<String>,
    pub find_links: Vec<String>,
    pub cert: Option<String>,
    pub proxy: Option<String>,
    pub timeout: Option<f64>,
}

impl Pip {
    /// Reads files and variables; `get` gives variables that are not empty.
    pub fn read(get: &dyn Fn(&str) -> Option<String>, home: Option<&Path>) -> Self {
        let mut values = BTreeMap::new();
        for path in files(get, home) {
            if let Ok(text) = std::fs::read_to_string(path) {
                values.extend(settings(&text));
            }
        }
        for key in ["index-url", "extra-index-url", "find-links", "no-index", "cert", "proxy", "timeout"] {
            // `timeout` has the name of its long form there.
            let names = match key {
                "timeout" => ["PIP_TIMEOUT".to_string(), "PIP_DEFAULT_TIMEOUT".to_string()].to_vec(),
                _ => vec![format!("PIP_{}", key.to_ascii_uppercase().replace('-', "_"))],
            };
            if let Some(value) = names.iter().find_map(|name| get(name)) {
                values.insert(key.to_string(), value);
            }
        }
        Self::from(&values)
    }

    fn from(values: &BTreeMap<String, String>) -> Self {
        let one = |key: &str| values.get(key).map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
        let many = |key: &str| -> Vec<String> {
            values.get(key).map(|v| v.split_whitespace().map(str::to_string).collect()).unwrap_or_default()
        };
        let no_index = one("no-index")
            .is_some_and(|v| matches!(v.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"));
        let mut indexes = Vec::new();
        if !no_index {
            indexes.push(one("index-url").unwrap_or_else(|| STANDARD_INDEX.to_string()));
            indexes.extend(many("extra-index-url"));
        }
        Pip {
            indexes,
            find_links: many("find-links"),
            cert: one("cert"),
            proxy: one("proxy"),
            timeout: one("timeout").and_then(|v| v.parse().ok()).filter(|v: &f64| v.is_finite()),
        }
    }
}

/// Configuration files, from the weakest.
fn files(get: &dyn Fn(&str) -> Option<String>, home: Option<&Path>) -> Vec<PathBuf> {
    let own = get("PIP_CONFIG_FILE");
    if own.as_deref() == Some("/dev/null") || own.as_deref() == Some("nul") {
        return Vec::new();
    }
    let mut files = Vec::new();
    let mut add = |folder: Option<PathBuf>, name: &str| files.extend(folder.map(|f| f.join(name)));
    if cfg!(windows) {
        add(get("PROGRAMDATA").map(PathBuf::from), "pip/pip.ini");
        add(home.map(Path::to_path_buf), "pip/pip.ini");
        add(get("APPDATA").map(PathBuf::from), "pip/pip.ini");
        add(get("VIRTUAL_ENV").map(PathBuf::from), "pip.ini");
    } else {
        if cfg!(target_os = "macos") {
            add(Some(PathBuf::from("/Library/Application Support")), "pip/pip.conf");
        }
        for folder in get("XDG_CONFIG_DIRS").as_deref().unwrap_or("/etc/xdg").split(':') {
            add(Some(PathBuf::from(folder)), "pip/pip.conf");
        }
        add(Some(PathBuf::from("/etc")), "pip.conf");
        add(home.map(Path::to_path_buf), ".pip/pip.conf");
        if cfg!(target_os = "macos") {
            add(home.map(|h| h.join("Library/Application Support")), "pip/pip.conf");
        }
        let config = get("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| home.map(|h| h.join(".config")));
        add(config, "pip/pip.conf");
        add(get("VIRTUAL_ENV").map(PathBuf::from), "pip.conf");
    }
    files.extend(own.map(PathBuf::from));
    files
}

/// The settings of one file, by key with dashes; indented lines go on with the value above.
fn settings(text: &str) -> BTreeMap<String, String> {
    let mut sections: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let (mut section, mut key) = (String::new(), None::<String>);
    for line in text.lines() {
        let content = line.trim();
        if content.is_empty() || content.starts_with(['#', ';']) {
            continue;
        }
        let values = sections.entry(section.clone()).or_default();
        if line.starts_with([' ', '\t'])
            && let Some(key) = &key
        {
            let value = values.entry(key.clone()).or_default();
            value.push('\n');
            value.push_str(content);
            continue;
        }
        if let Some(name) = content.strip_prefix('[').and_then(|c| c.strip_suffix(']')) {
            (section, key) = (name.trim().to_ascii_lowercase(), None);
            continue;
        }
        if let Some((name, value)) = content.split_once(['=', ':']) {
            let name = name.trim().to_ascii_lowercase().replace('_', "-");
            values.insert(name.clone(), value.trim().to_string());
            key = Some(name);
        }
    }
    SECTIONS.iter().filter_map(|name| sections.remove(*name)).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dir: &Path, user: &str, variables: &[(&str, &str)]) -> Pip {
        let folder = dir.join(".config/pip");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("pip.conf"), user).unwrap();
        let get = |name: &str| variables.iter().find(|p| p.0 == name).map(|p| p.1.to_string());
        Pip::read(&get, Some(dir))
    }

    #[test]
    fn files_and_variables() {
        let dir = tempfile::tempdir().unwrap();
        let conf = "[global]\nindex-url = https://u:p@a/simple\ncert: /c.pem\n\
                    ; no\nextra_index_url =\n  https://b/simple\n  # no\n  https://c/simple\n\
                    [install]\nfind-links = ~/wheels /w\ntimeout = 7\n[list]\nindex-url = https://no/\n";
        let pip = read(dir.path(), conf, &[]);
        assert_eq!(pip.indexes, ["https://u:p@a/simple", "https://b/simple", "https://c/simple"]);
        assert_eq!(pip.find_links, ["~/wheels", "/w"]);
        assert_eq!((pip.cert.as_deref(), pip.timeout), (Some("/c.pem"), Some(7.0)));
        let pip = read(
            dir.path(),
            conf,
            &[("PIP_INDEX_URL", "https://d/"), ("PIP_EXTRA_INDEX_URL", "https://e/ https://f/")],
        );
        assert_eq!(pip.indexes, ["https://d/", "https://e/", "https://f/"]);
        assert_eq!(read(dir.path(), conf, &[("PIP_NO_INDEX", "1")]).indexes, Vec::<String>::new());
        let own = dir.path().join("own.conf");
        std::fs::write(&own, "[download]\nindex-url=https://g/\n[global]\nindex-url=https://h/\n").unwrap();
        let pip = read(dir.path(), conf, &[("PIP_CONFIG_FILE", own.to_str().unwrap())]);
        assert_eq!(pip.indexes[0], "https://g/");
        let pip = read(dir.path(), conf, &[("PIP_CONFIG_FILE", "/dev/null")]);
        assert_eq!(pip, Pip { indexes: vec![STANDARD_INDEX.to_string()], ..Pip::default() });
    }
}
