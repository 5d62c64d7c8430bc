//! One HTTP client for the hub and the package index: certificates, proxies, redirects, errors without secrets.
//!
//! No environment variable is read here; the program fills [`NetSettings`]. Redirects are followed by hand, since the
//! hub describes a file in the headers of the redirect and not in those of the answer behind it, and since a secret
//! goes to the host that it is for and to no other.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use ureq::http::{HeaderMap, Method, Request as HttpRequest};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Proxy};
use url::Url;

use crate::{Error, Result};

/// Most redirects of one request.
const REDIRECTS: usize = 10;

/// What happens during a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// Something worth a line.
    Message(&'a str),
    /// A file grows.
    Bytes {
        /// The file's name.
        file: &'a str,
        /// Bytes that are here.
        done: u64,
        /// Bytes of the whole file, if the server says.
        total: Option<u64>,
    },
    /// A file is whole, checked and in its place.
    Done {
        /// The file's name.
        file: &'a str,
        /// Its length.
        bytes: u64,
    },
}

/// Receives what happens during a download.
pub type OnProgress<'a> = dyn FnMut(Progress<'_>) + 'a;

/// How hosts are reached.
#[derive(Clone)]
pub struct NetSettings {
    /// File of trusted certificates (PEM) in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Proxy for `http://` addresses; user and password may be in it.
    pub http_proxy: Option<String>,
    /// Proxy for `https://` addresses.
    pub https_proxy: Option<String>,
    /// Hosts that are reached without a proxy: names, `.suffixes`, `*` for all.
    pub no_proxy: Vec<String>,
    /// Time for finding and connecting to a host.
    pub connect_timeout: Duration,
    /// Time that a host may be silent.
    pub read_timeout: Duration,
    /// Attempts in a row that may bring nothing before a download is given up.
    pub retries: u32,
    /// Pause before the first new attempt; it doubles each time.
    pub retry_pause: Duration,
}

impl Default for NetSettings {
    fn default() -> Self {
        NetSettings {
            ca_file: None,
            http_proxy: None,
            https_proxy: None,
            no_proxy: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(30),
            retries: 4,
            retry_pause: Duration::from_millis(500),
        }
    }
}

/// The client.
pub(crate) struct Client {
    direct: Agent,
    http: Option<Agent>,
    https: Option<Agent>,
    no_proxy: Vec<String>,
    connect_timeout: Duration,
    pub(crate) retries: u32,
    retry_pause: Duration,
}

/// What is asked for.
pub(crate) struct Request<'a> {
    /// The address, without user and password.
    pub(crate) url: &'a str,
    /// Value of the `Authorization` header, for the host of `url` only.
    pub(crate) authorization: Option<&'a str>,
    /// Other headers.
    pub(crate) headers: &'a [(&'a str, &'a str)],
}

/// An answer, whatever its status.
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Address after redirects.
    pub(crate) url: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body up to `limit` bytes.
    pub(crate) fn read(mut self, limit: u64) -> Result<Vec<u8>> {
        let read = self.body.with_config().limit(limit).read_to_vec();
        read.map_err(|e| failure(&self.url, &e, None))
    }
}

impl Client {
    pub(crate) fn new(settings: &NetSettings) -> Result<Self> {
        let roots = roots(settings.ca_file.as_deref())?;
        let agent = |proxy: Option<Proxy>| {
            let config = Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .proxy(proxy)
                .tls_config(TlsConfig::builder().root_certs(roots.clone()).build())
                .user_agent(concat!("ferrotune/", env!("CARGO_PKG_VERSION")))
                .accept_encoding("identity")
                .timeout_resolve(Some(settings.connect_timeout))
                .timeout_connect(Some(settings.connect_timeout))
                .timeout_recv_response(Some(settings.read_timeout))
                .timeout_per_read(Some(settings.read_timeout));
            Agent::new_with_config(config.build())
        };
        let proxied = |address: &Option<String>| -> Result<Option<Agent>> {
            let Some(address) = address.as_deref().filter(|a| !a.is_empty()) else { return Ok(None) };
            let proxy = Proxy::new(address).map_err(|e| {
                let problem = format!("not usable as a proxy: {e}");
                network(&split_credentials(address).0, problem)
                    .with_hint("a proxy looks like http://host:port; see HTTPS_PROXY, HTTP_PROXY, NO_PROXY")
            })?;
            Ok(Some(agent(Some(proxy))))
        };
        Ok(Client {
            http: proxied(&settings.http_proxy)?,
            https: proxied(&settings.https_proxy)?,
            direct: agent(None),
            no_proxy: settings.no_proxy.clone(),
            connect_timeout: settings.connect_timeout,
            retries: settings.retries,
            retry_pause: settings.retry_pause,
        })
    }

    /// GET, following redirects anywhere.
    pub(crate) fn get(&self, request: &Request) -> Result<Reply> {
        self.send(&Method::GET, request, |_, _, _| true)
    }

    /// HEAD, following redirects only on the same host and only until one describes the file: the redirect to where
    /// the content lies is itself the answer.
    pub(crate) fn head(&self, request: &Request) -> Result<Reply> {
        let described = |headers: &HeaderMap| headers.contains_key("x-linked-etag");
        self.send(&Method::HEAD, request, |headers, from, to| !described(headers) && same_origin(from, to))
    }

    /// Repeats a request of a host that was already reached while it has a bad moment.
    pub(crate) fn patiently(&self, mut ask: impl FnMut(&Self) -> Result<Reply>) -> Result<Reply> {
        let mut failures = 0;
        loop {
            let reply = ask(self);
            let again = reply.as_ref().map_or(true, |r| busy(r.status));
            if !again || failures == self.retries {
                return reply;
            }
            failures += 1;
            self.pause(failures);
        }
    }

    /// Waits after so many failures in a row.
    pub(crate) fn pause(&self, failures: u32) {
        std::thread::sleep(self.retry_pause * 2u32.pow(failures.clamp(1, 7) - 1));
    }

    fn send(
        &self,
        method: &Method,
        request: &Request,
        follow: impl Fn(&HeaderMap, &str, &str) -> bool,
    ) -> Result<Reply> {
        let mut url = request.url.to_string();
        for _ in 0..=REDIRECTS {
            let secret = request.authorization.filter(|_| same_origin(request.url, &url));
            let mut http = HttpRequest::builder().method(method).uri(&url);
            for (name, value) in request.headers {
                http = http.header(*name, *value);
            }
            if let Some(value) = secret {
                http = http.header("authorization", value);
            }
            let http = http.body(()).map_err(|e| network(&url, format!("not a usable address: {e}")))?;
            let answer =
                self.agent(&url).run(http).map_err(|e| failure(&url, &e, Some(self.connect_timeout)))?;
            let (parts, body) = answer.into_parts();
            let location = parts.headers.get("location").and_then(|v| v.to_str().ok());
            if let Some(location) = location.filter(|_| parts.status.is_redirection()) {
                let next = join(&url, location);
                if follow(&parts.headers, &url, &next) {
                    if url.starts_with("https://") && !next.starts_with("https://") {
                        let problem = format!("redirects to the unprotected {}", public(&next));
                        return Err(network(&url, problem));
                    }
                    url = next;
                    continue;
                }
            }
            return Ok(Reply { status: parts.status.as_u16(), url, headers: parts.headers, body });
        }
        Err(network(request.url, format!("more than {REDIRECTS} redirects")))
    }

    fn agent(&self, url: &str) -> &Agent {
        let proxied = if url.starts_with("https://") { &self.https } else { &self.http };
        proxied.as_ref().filter(|_| !bypassed(&host(url), &self.no_proxy)).unwrap_or(&self.direct)
    }
}

/// Whether a status means that the same request may work later.
pub(crate) fn busy(status: u16) -> bool {
    status == 429 || (500..600).contains(&status)
}

/// Whether `host` is reached without a proxy.
fn bypassed(host: &str, list: &[String]) -> bool {
    let host = host.to_ascii_lowercase();
    list.iter().any(|entry| {
        let entry = entry.trim().to_ascii_lowercase();
        let entry =
            entry.split_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(&*entry, |p| p.0);
        let suffix = entry.trim_start_matches('*').trim_start_matches('.');
        entry == "*" || (!suffix.is_empty() && (host == suffix || host.ends_with(&format!(".{suffix}"))))
    })
}

/// Certificates of the file, else those that the system trusts, else Mozilla's.
fn roots(file: Option<&Path>) -> Result<RootCerts> {
    if let Some(path) = file {
        let pem = fs::read(path).map_err(|e| Error::io(path, e))?;
        let found = certificates(&pem);
        if found.is_empty() {
            return Err(Error::file(path, "no certificate in it").with_hint("a PEM file is needed"));
        }
        return Ok(found.into());
    }
    let system = rustls_native_certs::load_native_certs().certs;
    let system: Vec<_> = system.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    Ok(if system.is_empty() { RootCerts::WebPki } else { system.into() })
}

fn certificates(pem: &[u8]) -> Vec<Certificate<'static>> {
    let items = parse_pem(pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    items.collect()
}

/// An error about an address; what could be secret in it is left out.
pub(crate) fn network(url: &str, problem: impl Into<String>) -> Error {
    Error::Network { url: public(url), problem: problem.into(), hint: None }
}

fn failure(url: &str, error: &ureq::Error, connect: Option<Duration>) -> Error {
    use ureq::{Error as E, Timeout};
    let text = error.to_string();
    let unknown = || {
        network(url, "the host's name is not known")
            .with_hint("is there a network? Behind a proxy, set HTTPS_PROXY")
    };
    match error {
        E::HostNotFound => unknown(),
        E::Timeout(Timeout::Connect | Timeout::Resolve) => {
            let seconds = connect.unwrap_or_default().as_secs_f32();
            network(url, format!("no connection within {seconds} s"))
                .with_hint("is there a network? Behind a proxy, set HTTPS_PROXY")
        }
        E::Rustls(_) | E::Tls(_) => network(url, format!("no secure connection: {text}"))
            .with_hint("behind a company's proxy, set SSL_CERT_FILE to its certificates (a PEM file)"),
        // rustls reports a refused certificate through the stream that it wraps.
        E::Io(e) if text.contains("ertificate") => network(url, format!("no secure connection: {e}"))
            .with_hint("behind a company's proxy, set SSL_CERT_FILE to its certificates (a PEM file)"),
        E::Io(_) if text.contains("lookup address") => unknown(),
        E::Io(e) => network(url, e.to_string()),
        _ => network(url, text),
    }
}

/// An address for people: no user, password, query or fragment (storage hosts sign with the query).
pub(crate) fn public(url: &str) -> String {
    let clean = split_credentials(url).0;
    clean.split(['?', '#']).next().unwrap_or_default().to_string()
}

/// `https://user:password@host/x` as the address without them and the header value that they make.
pub(crate) fn split_credentials(address: &str) -> (String, Option<String>) {
    let (Ok(mut url), true) = (Url::parse(address), address.contains('@')) else {
        return (address.to_string(), None);
    };
    let text = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
    let (user, password) = (text(url.username()), text(url.password().unwrap_or_default()));
    if user.is_empty() && password.is_empty() {
        return (address.to_string(), None);
    }
    // An address without a host has neither.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    (url.to_string(), Some(basic(&user, &password)))
}

/// Value of an `Authorization` header.
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

pub(crate) fn same_origin(a: &str, b: &str) -> bool {
    match (Url::parse(a), Url::parse(b)) {
        (Ok(a), Ok(b)) => a.origin() == b.origin(),
        _ => false,
    }
}

/// The host of an address without port.
pub(crate) fn host(url: &str) -> String {
    Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_string)).unwrap_or_default()
}

/// The address that a link in the page at `base` leads to.
pub(crate) fn join(base: &str, link: &str) -> String {
    Url::parse(base).and_then(|base| base.join(link)).map_or_else(|_| link.to_string(), String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_leave_addresses() {
        let (url, header) = split_credentials("https://me:p%40ss@host:8443/simple/?x=1");
        assert_eq!(url, "https://host:8443/simple/?x=1");
        assert_eq!(header.as_deref(), Some("Basic bWU6cEBzcw=="));
        assert_eq!(public("https://t0k@host/a/b?Signature=abc#f"), "https://host/a/b");
        assert_eq!(split_credentials("https://host/a@b").1, None);
    }

    #[test]
    fn links_lead_on() {
        let page = "https://host:1/simple/llm/?page=2";
        for (link, expected) in [
            ("https://cdn/x", "https://cdn/x"),
            ("//cdn/x", "https://cdn/x"),
            ("/files/x#sha256=1", "https://host:1/files/x#sha256=1"),
            ("x.whl", "https://host:1/simple/llm/x.whl"),
            ("../../files/./x.whl", "https://host:1/files/x.whl"),
            ("../../../../x", "https://host:1/x"),
            ("..", "https://host:1/simple/"),
            ("", "https://host:1/simple/llm/?page=2"),
        ] {
            assert_eq!(join(page, link), expected, "{link}");
        }
        assert_eq!(join("http://h", "x"), "http://h/x");
    }

    #[test]
    fn hosts_without_proxy() {
        let list = [".corp.example".to_string(), "localhost:80".into(), "*.lan".into()];
        for (host, expected) in [
            ("a.corp.example", true),
            ("corp.example", true),
            ("acorp.example", false),
            ("LOCALHOST", true),
            ("x.lan", true),
            ("lan.org", false),
        ] {
            assert_eq!(bypassed(host, &list), expected, "{host}");
        }
        assert!(bypassed("any", &["*".to_string()]));
        assert_eq!(host("https://[::1]:8080/x"), "[::1]");
        assert_eq!(host("http://a.b/x:y"), "a.b");
    }
}
