//! The user's environment as values: caches, hub, package index, proxies, certificates. The only place that reads
//! environment variables and the configuration files of other tools.

mod netrc;
mod pip;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ferrotune::fetch::hub::HubSettings;
use ferrotune::fetch::index::IndexSettings;
use ferrotune::fetch::net::NetSettings;

/// A variable by its name; empty values count as absent.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Everything that downloads need to know.
pub struct Environment {
    /// The cache folder of the program.
    pub cache: PathBuf,
    /// The hub and its cache.
    pub hub: HubSettings,
    /// The same for data sets.
    pub data_sets: HubSettings,
    /// The package index as `pip` is set up.
    pub index: IndexSettings,
}

impl Environment {
    /// Reads the process's environment; `offline` is the option.
    pub fn read(offline: bool) -> Self {
        Self::from(&|name| std::env::var(name).ok(), offline)
    }

    /// The cache folder of the program alone, without reading anything else.
    pub fn cache_folder() -> PathBuf {
        cache(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// The user's home folder.
    pub fn home_folder() -> Option<PathBuf> {
        home(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from(lookup: Lookup, offline: bool) -> Self {
        let get = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let first = |names: &[&str]| names.iter().find_map(|name| get(name));
        let flag = |name: &str| {
            get(name).is_some_and(|v| matches!(v.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"))
        };
        let home = home(&get);
        let caches = caches(&get, home.as_deref());
        let place = |name: &str| get(name).map(|value| expanded(&value, home.as_deref()));

        let hf_home = place("HF_HOME").unwrap_or_else(|| caches.join("huggingface"));
        let hub_cache = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].iter().find_map(|name| place(name));
        let token_file = place("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        let token = first(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
            .or_else(|| std::fs::read_to_string(token_file).ok())
            .map(|token| token.trim().to_string())
            .filter(|token| !token.is_empty());

        let every = first(&["all_proxy", "ALL_PROXY"]);
        let list = first(&["no_proxy", "NO_PROXY"]).unwrap_or_default();
        let net = NetSettings {
            ca_file: ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"].iter().find_map(|n| place(n)),
            http_proxy: first(&["http_proxy", "HTTP_PROXY"]).or_else(|| every.clone()),
            https_proxy: first(&["https_proxy", "HTTPS_PROXY"]).or(every),
            no_proxy: list.split(',').map(|s| s.trim().to_string()).filter(|s| !s.is_empty()).collect(),
            ..NetSettings::default()
        };
        let hub = HubSettings {
            endpoint: get("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_string()),
            cache_dir: hub_cache.unwrap_or_else(|| hf_home.join("hub")),
            token,
            offline: offline || flag("HF_HUB_OFFLINE") || flag("TRANSFORMERS_OFFLINE"),
            net: net.clone(),
        };
        let data_sets = HubSettings { offline: hub.offline || flag("HF_DATASETS_OFFLINE"), ..hub.clone() };
        let pip = pip::Pip::read(&get, home.as_deref());
        let mut index_net = net;
        if let Some(cert) = &pip.cert {
            index_net.ca_file = Some(expanded(cert, home.as_deref()));
        }
        if let Some(proxy) = &pip.proxy {
            index_net.http_proxy = Some(proxy.clone());
            index_net.https_proxy = Some(proxy.clone());
        }
        if let Some(seconds) = pip.timeout {
            index_net.read_timeout = Duration::from_secs_f64(seconds.clamp(1.0, 3600.0));
        }
        let netrc = place("NETRC").or_else(|| home.as_ref().map(|h| h.join(".netrc")));
        let logins = netrc.and_then(|path| std::fs::read_to_string(path).ok());
        let index = IndexSettings {
            indexes: pip.indexes,
            find_links: pip.find_links.iter().map(|p| with_home(p, home.as_deref())).collect(),
            logins: logins.map(|text| netrc::parse(&text)).unwrap_or_default(),
            net: index_net,
        };
        Environment { cache: cache(&get), hub, data_sets, index }
    }
}

/// The folder for the caches of all programs.
fn caches(get: Lookup, home: Option<&Path>) -> PathBuf {
    let own = get("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| home.map(|h| h.join(".cache")));
    own.unwrap_or_else(std::env::temp_dir)
}

/// This program's folder.
fn cache(get: Lookup) -> PathBuf {
    let home = home(get);
    let own = get("FERROTUNE_CACHE").map(|value| expanded(&value, home.as_deref()));
    own.unwrap_or_else(|| caches(get, home.as_deref()).join("ferrotune"))
}

fn home(get: Lookup) -> Option<PathBuf> {
    ["HOME", "USERPROFILE"].iter().find_map(|name| get(name)).map(PathBuf::from)
}

/// `~/x` below the home folder.
fn with_home(text: &str, home: Option<&Path>) -> String {
    match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest).display().to_string(),
        _ => text.to_string(),
    }
}

fn expanded(text: &str, home: Option<&Path>) -> PathBuf {
    PathBuf::from(with_home(text, home))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        let pairs: Vec<(String, String)> =
            pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Environment::from(&move |name| pairs.iter().find(|p| p.0 == name).map(|p| p.1.clone()), false)
    }

    #[test]
    fn folders_follow_the_conventions() {
        let e = environment(&[("HOME", "/h"), ("PIP_CONFIG_FILE", "/dev/null")]);
        assert_eq!(e.cache, Path::new("/h/.cache/ferrotune"));
        assert_eq!(e.hub.cache_dir, Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(e.hub.endpoint, "https://huggingface.co");
        assert!(!e.hub.offline);
        let e = environment(&[
            ("HOME", "/h"),
            ("XDG_CACHE_HOME", "/x"),
            ("HF_HUB_OFFLINE", "1"),
            ("PIP_CONFIG_FILE", "/dev/null"),
        ]);
        assert!(e.data_sets.offline);
        assert_eq!(e.cache, Path::new("/x/ferrotune"));
        assert_eq!(e.hub.cache_dir, Path::new("/x/huggingface/hub"));
        assert!(e.hub.offline);
        let e = environment(&[
            ("HOME", "/h"),
            ("HF_HOME", "~/hf"),
            ("FERROTUNE_CACHE", "/f"),
            ("HF_TOKEN", " t\n"),
            ("HF_DATASETS_OFFLINE", "1"),
        ]);
        assert!(e.data_sets.offline && !e.hub.offline);
        assert_eq!(e.cache, Path::new("/f"));
        assert_eq!(e.hub.cache_dir, Path::new("/h/hf/hub"));
        assert_eq!(e.hub.token.as_deref(), Some("t"));
    }

    #[test]
    fn proxies_and_certificates() {
        let e = environment(&[
            ("https_proxy", "http://p:1"),
            ("NO_PROXY", "localhost, .corp"),
            ("SSL_CERT_FILE", "/a.pem"),
            ("PIP_CERT", "/b.pem"),
            ("PIP_PROXY", "http://q:2"),
            ("PIP_CONFIG_FILE", "/dev/null"),
        ]);
        assert_eq!(e.hub.net.ca_file.as_deref(), Some(Path::new("/a.pem")));
        assert_eq!(e.index.net.ca_file.as_deref(), Some(Path::new("/b.pem")));
        assert_eq!(e.hub.net.https_proxy.as_deref(), Some("http://p:1"));
        assert_eq!(e.hub.net.http_proxy, None);
        assert_eq!(e.index.net.https_proxy.as_deref(), Some("http://q:2"));
        assert_eq!(e.hub.net.no_proxy, ["localhost", ".corp"]);
    }
}
