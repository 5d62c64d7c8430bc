//! Pages for a browser: one file each, with everything in it, that asks for nothing from anywhere.

use ferrotune::units::human;
use ferrotune::{Error, Result};
use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use serde::Serialize;

use crate::report::grouped;

/// The frame of all pages: style, light and dark.
const FRAME: &str = include_str!("frame.html");

/// A page's own template.
pub const DATA: &str = include_str!("data.html");

/// Writes a page. Texts are escaped; what a data set says can never become markup.
pub fn render(template: &'static str, values: impl Serialize) -> Result<String> {
    let failed = |e: minijinja::Error| Error::train(format!("a page cannot be written: {e}"));
    let mut pages = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    pages.set_syntax(syntax.map_err(failed)?);
    pages.add_filter("grouped", |number: usize| grouped(number));
    pages.add_filter("quoted", |text: String| format!("{text:?}"));
    pages.add_filter("bytes", |bytes: u64| human(bytes));
    pages.add_template("frame.html", FRAME).map_err(failed)?;
    pages.add_template("page.html", template).map_err(failed)?;
    pages.get_template("page.html").and_then(|page| page.render(Serde(values))).map_err(failed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_data_says_never_becomes_markup() {
        let page = render(
            "{% extends \"frame.html\" %}{% block body %}{{ text }}{% endblock %}",
            json!({"title": "<b>", "text": "<script>x</script>"}),
        )
        .unwrap();
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script>x"));
        assert!(page.contains("<title>&lt;b&gt;"));
        assert!(render("{{", json!({})).is_err());
    }
}
