//! Package indexes: where a file of a project is, by the simple API in JSON (PEP 691) or HTML (PEP 503).

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::Result;
use crate::download::status_error;
use crate::net::{Client, NetSettings, Reply, Request, basic, host, join, network, split_credentials};

/// Most bytes of an index page.
const PAGE_LIMIT: u64 = 32 << 20;

const ACCEPT: &str =
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";

/// Where packages are looked for, as the user's `pip` is set up.
#[derive(Clone, Default)]
pub struct IndexSettings {
    /// Index addresses in order; user and password may be in them.
    pub indexes: Vec<String>,
    /// Folders, pages with links, or files that come before the indexes.
    pub find_links: Vec<String>,
    /// Logins by host, as in a `.netrc`, for addresses that have none of their own.
    pub logins: Vec<Login>,
    /// How hosts are reached.
    pub net: NetSettings,
}

impl IndexSettings {
    /// The same settings without anything that needs a network.
    #[must_use]
    pub fn local_only(&self) -> Self {
        let local = |place: &&String| !place.contains("://") || place.starts_with("file://");
        IndexSettings {
            indexes: Vec::new(),
            find_links: self.find_links.iter().filter(local).cloned().collect(),
            ..self.clone()
        }
    }
}

/// A login of a host.
#[derive(Clone)]
pub struct Login {
    /// The host; `None` stands for every host.
    pub host: Option<String>,
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
}

/// Where a file is.
pub(crate) enum Location {
    Local(PathBuf),
    Remote { url: String, authorization: Option<String>, sha256: Option<String> },
}

/// Looks for `file` of `project` at one place of [`IndexSettings::find_links`]; `None` if it is not there.
pub(crate) fn in_links(
    place: &str,
    file: &str,
    settings: &IndexSettings,
    client: &Client,
) -> Result<Option<Location>> {
    let local = match place.strip_prefix("file://") {
        Some(path) => Some(PathBuf::from(percent_decode_str(path).decode_utf8_lossy().as_ref())),
        None if place.contains("://") => None,
        None => Some(PathBuf::from(place)),
    };
    if let Some(path) = local {
        let named = path.file_name().is_some_and(|name| name == file);
        let path = if named { path } else { path.join(file) };
        return Ok(path.is_file().then_some(Location::Local(path)));
    }
    let (url, own) = split_credentials(place);
    if last_segment(&url) == file {
        let authorization = own.or_else(|| login(&url, settings));
        return Ok(Some(Location::Remote { url, authorization, sha256: None }));
    }
    in_page(&url, own, file, settings, client)
}

/// Looks for `file` of `project` in one index; `None` if the index has the project but not the file.
pub(crate) fn in_index(
    index: &str,
    project: &str,
    file: &str,
    settings: &IndexSettings,
    client: &Client,
) -> Result<Option<Location>> {
    let (index, own) = split_credentials(index);
    let page = format!("{}/{project}/", index.trim_end_matches('/'));
    in_page(&page, own, file, settings, client)
}

fn in_page(
    url: &str,
    own: Option<String>,
    file: &str,
    settings: &IndexSettings,
    client: &Client,
) -> Result<Option<Location>> {
    let authorization = own.or_else(|| login(url, settings));
    let request = Request { url, authorization: authorization.as_deref(), headers: &[("accept", ACCEPT)] };
    let reply = client.get(&request)?;
    if reply.status != 200 {
        let error = status_error(url, reply.status);
        return Err(match reply.status {
            401 | 403 => error.with_hint("give pip a user and password for it (index-url, .netrc)"),
            _ => error,
        });
    }
    let Some((link, sha256)) = find(reply, file)? else { return Ok(None) };
    let (link, in_link) = split_credentials(&link);
    let same_host = host(&link).eq_ignore_ascii_case(&host(url));
    let authorization = in_link.or(authorization.filter(|_| same_host)).or_else(|| login(&link, settings));
    Ok(Some(Location::Remote { url: link, authorization, sha256 }))
}

fn login(url: &str, settings: &IndexSettings) -> Option<String> {
    let host = host(url);
    let of_host =
        settings.logins.iter().find(|l| l.host.as_deref().is_some_and(|h| h.eq_ignore_ascii_case(&host)));
    let found = of_host.or_else(|| settings.logins.iter().find(|l| l.host.is_none()))?;
    Some(basic(&found.user, &found.password))
}

/// The absolute address of `file` in a page and the SHA-256 that the page gives for it.
fn find(reply: Reply, file: &str) -> Result<Option<(String, Option<String>)>> {
    let page = reply.url.clone();
    let json = reply.header("content-type").is_some_and(|t| t.contains("json"));
    let text = reply.read(PAGE_LIMIT)?;
    let found = if json {
        let json: Value = serde_json::from_slice(&text)
            .map_err(|e| network(&page, format!("not the JSON of a package index: {e}")))?;
        json_link(&json, file)
    } else {
        html_link(&String::from_utf8_lossy(&text), file)
    };
    Ok(found.map(|(link, sha256)| (join(&page, &link), sha256)))
}

fn json_link(json: &Value, file: &str) -> Option<(String, Option<String>)> {
    let files = json.get("files")?.as_array()?;
    let entry = files.iter().find(|f| f.get("filename").and_then(Value::as_str) == Some(file))?;
    let sha256 = entry.get("hashes").and_then(|h| h.get("sha256")?.as_str()).map(str::to_string);
    Some((entry.get("url")?.as_str()?.to_string(), sha256))
}

fn html_link(html: &str, file: &str) -> Option<(String, Option<String>)> {
    let links = html.match_indices('<').filter_map(|(i, _)| {
        let tag = &html[i + 1..];
        let tag = tag.strip_prefix(['a', 'A']).filter(|t| t.starts_with(char::is_whitespace))?;
        let at = find_attribute(tag, "href")?;
        let value = tag[at..].trim_start();
        let value = match value.chars().next()? {
            quote @ ('"' | '\'') => value[1..].split(quote).next()?,
            _ => value.split(|c: char| c.is_whitespace() || c == '>').next()?,
        };
        Some(unescaped(value.trim()))
    });
    let mut links = links.filter(|link| last_segment(link) == file);
    let link = links.next()?;
    let (address, fragment) = link.split_once('#').map_or((&*link, ""), |(a, f)| (a, f));
    let sha256 = fragment.split('&').find_map(|part| part.strip_prefix("sha256=")).map(str::to_string);
    Some((address.to_string(), sha256))
}

/// Where the value of an attribute starts in the text of a tag.
fn find_attribute(tag: &str, name: &str) -> Option<usize> {
    // Only the opening tag itself; a `>` in a quoted value before the attribute is not expected of an index.
    let tag = &tag[..tag.find('>').unwrap_or(tag.len())];
    let lower = tag.to_ascii_lowercase();
    let mut from = 0;
    while let Some(i) = lower[from..].find(name).map(|i| i + from) {
        let after = &lower[i + name.len()..];
        let rest = after.trim_start();
        if lower[..i].ends_with(|c: char| c.is_whitespace() || c == '"' || c == '\'') && rest.starts_with('=')
        {
            return Some(i + name.len() + (after.len() - rest.len()) + 1);
        }
        from = i + name.len();
    }
    None
}

fn unescaped(text: &str) -> String {
    let mut out = text.to_string();
    for (entity, character) in [
        ("&#43;", "+"),
        ("&#x2B;", "+"),
        ("&#38;", "&"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&amp;", "&"),
    ] {
        out = out.replace(entity, character);
    }
    out
}

/// The file name in an address, decoded.
fn last_segment(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    percent_decode_str(name).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_html_pages() {
        let html = r#"<!DOCTYPE html><html><body><h1>Links for x</h1>
            <a href="other-1.whl#sha256=00">other-1.whl</a><br/>
            <A data-href="no" data-requires-python="&gt;=3.9" HREF = '../../p/x%2B1-py3.whl?a=1&amp;b=2#sha256=ab&amp;egg=x'>x+1-py3.whl</A>
            <a href=y-1.whl>y</a></body></html>"#;
        assert_eq!(
            html_link(html, "x+1-py3.whl"),
            Some(("../../p/x%2B1-py3.whl?a=1&b=2".into(), Some("ab".into())))
        );
        assert_eq!(html_link(html, "y-1.whl"), Some(("y-1.whl".into(), None)));
        assert_eq!(html_link(html, "z-1.whl"), None);
        for broken in ["<a href", "<a href=", "<a href=\"", "<a", "<", "<a href=\"é"] {
            assert_eq!(html_link(broken, "z"), None);
        }
    }
}
