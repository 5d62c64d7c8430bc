//! `docs/benchmarks.md`: a table and a plot for each kind of CPU, what the numbers mean, then a section for each machine and
//! choice of rows.

use std::path::Path;

use super::summary;

/// What one run of the suite found.
pub(super) struct Section {
    /// Machine, instruction set and rows: a later run with the same heading takes its place.
    pub(super) heading: String,
    /// Machine, command and tables.
    pub(super) text: String,
}

/// Heading of the sections, which stand behind the summary.
const ALL: &str = "# All measurements";

/// The document with a section new or in place of its predecessor, and its plots by the names of their files.
pub(super) fn with_section(document: &str, section: Option<&Section>) -> (String, Vec<(String, String)>) {
    let old = document.split_once(ALL).map_or("", |(_, sections)| sections);
    let starts: Vec<usize> = old.match_indices("\n## ").map(|(at, _)| at + 1).collect();
    let ends = starts.iter().copied().skip(1).chain([old.len()]);
    let mut sections: Vec<String> =
        starts.iter().zip(ends).map(|(start, end)| old[*start..end].trim_end().to_string()).collect();
    if let Some(section) = section {
        let new = format!("{}\n\n{}", section.heading, section.text.trim_end());
        match sections.iter_mut().find(|text| text.lines().next() == Some(&section.heading)) {
            Some(old) => *old = new,
            None => sections.push(new),
        }
    }
    let kinds = summary::kinds(&sections.iter().map(String::as_str).collect::<Vec<_>>());
    let text = format!(
        "{}\n{}\n{}\n{ALL}\n\n{}\n",
        include_str!("../../bench/preface.md"),
        summary::text(&kinds),
        include_str!("../../bench/words.md"),
        sections.join("\n\n")
    );
    (text, kinds.iter().map(summary::Kind::plot).collect())
}

/// Writes the document and its plots.
pub(super) fn write(docs: &Path, section: Option<&Section>) -> std::io::Result<()> {
    let page = docs.join("benchmarks.md");
    let (text, plots) = with_section(&std::fs::read_to_string(&page).unwrap_or_default(), section);
    std::fs::write(page, text)?;
    plots.iter().try_for_each(|(name, svg)| std::fs::write(docs.join(name), svg))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_run_takes_the_place_of_the_same_rows() {
        let section = |heading: &str, text: &str| Section { heading: heading.into(), text: text.into() };
        let one = with_section("", Some(&section("## CPU, avx2: fixed", "- a: 1\n"))).0;
        let two = with_section(&one, Some(&section("## CPU, avx2: mix", "- b: 2\n"))).0;
        let three = with_section(&two, Some(&section("## CPU, avx2: fixed", "- a: 3\n"))).0;
        assert!(one.starts_with("# Benchmarks") && one.ends_with("\n\n## CPU, avx2: fixed\n\n- a: 1\n"));
        assert!(two.starts_with(one.trim_end()));
        assert_eq!(three, two.replace("- a: 1", "- a: 3"));
    }

    #[test]
    fn the_page_and_its_plots_are_current() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let page = std::fs::read_to_string(docs.join("benchmarks.md")).unwrap();
        let (text, plots) = with_section(&page, None);
        assert!(text == page, "docs/benchmarks.md is not as `cargo xtask docs` writes it");
        assert!(!plots.is_empty());
        for (name, svg) in plots {
            assert!(std::fs::read_to_string(docs.join(&name)).unwrap() == svg, "{name} is not current");
        }
    }
}
