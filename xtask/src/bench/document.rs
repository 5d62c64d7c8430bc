//! `docs/benchmarks.md`: what the numbers mean, then a section for each machine and choice of rows.

/// What one run of the suite found.
pub(super) struct Section {
    /// Machine, instruction set and rows: a later run with the same heading takes its place.
    pub(super) heading: String,
    /// Machine, command and tables.
    pub(super) text: String,
}

/// The document with a section new or in place of its predecessor; the other sections stay as they are.
pub(super) fn with_section(document: &str, section: &Section) -> String {
    let new = format!("{}\n\n{}", section.heading, section.text.trim_end());
    let starts: Vec<usize> = document.match_indices("\n## ").map(|(at, _)| at + 1).collect();
    let ends = starts.iter().copied().skip(1).chain([document.len()]);
    let old = starts.iter().zip(ends).map(|(start, end)| document[*start..end].trim_end());
    let mut sections: Vec<&str> = old.collect();
    let same = |text: &&str| text.lines().next() == Some(&section.heading);
    match sections.iter().position(same) {
        Some(at) => sections[at] = &new,
        None => sections.push(&new),
    }
    format!("{}\n{}\n", include_str!("../../bench/preface.md"), sections.join("\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_run_takes_the_place_of_the_same_rows() {
        let section = |heading: &str, text: &str| Section { heading: heading.into(), text: text.into() };
        let one = with_section("", &section("## CPU, avx2: fixed", "- a: 1\n"));
        let two = with_section(&one, &section("## CPU, avx2: mix", "- b: 2\n"));
        let three = with_section(&two, &section("## CPU, avx2: fixed", "- a: 3\n"));
        assert!(one.starts_with("# Benchmarks") && one.ends_with("\n\n## CPU, avx2: fixed\n\n- a: 1\n"));
        assert!(two.starts_with(one.as_str()));
        assert_eq!(three, two.replace("- a: 1", "- a: 3"));
    }
}
