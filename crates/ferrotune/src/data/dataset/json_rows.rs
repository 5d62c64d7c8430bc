//! Cuts a text into the JSON of its rows without parsing them, so that each keeps its line.

/// Rows with their lines, from 1: the elements of one array, or the lines that are not blank.
pub(super) fn split(text: &str) -> Vec<(usize, &str)> {
    if text.trim_start().starts_with('[') {
        return elements(text);
    }
    text.lines()
        .enumerate()
        .map(|(i, line)| (i + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty())
        .collect()
}

/// The elements of an array. What is not well formed comes out as an element too, for the parser to complain about.
fn elements(text: &str) -> Vec<(usize, &str)> {
    let mut rows = Vec::new();
    let mut line = 1;
    let mut depth = 0_usize;
    let (mut in_string, mut escaped) = (false, false);
    // Start of the current element and its line.
    let mut start: Option<(usize, usize)> = None;
    for (at, c) in text.char_indices() {
        line += usize::from(c == '\n');
        if in_string {
            in_string = c != '"' || escaped;
            escaped = c == '\\' && !escaped;
            continue;
        }
        match c {
            '[' if depth == 0 && start.is_none() && rows.is_empty() => {
                depth = 1;
                continue;
            }
            ',' | ']' if depth == 1 => {
                if let Some((from, line)) = start.take() {
                    rows.push((line, text[from..at].trim_end()));
                }
                if c == ']' {
                    depth = 0;
                }
                continue;
            }
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            '"' => in_string = true,
            _ => {}
        }
        if start.is_none() && !c.is_whitespace() {
            start = Some((at, line));
        }
    }
    // Neither of these parses: an array that never closes, and text after one that did.
    if depth > 0 {
        rows.extend(start.map(|(from, line)| (line, &text[from..])));
        rows.push((line, ""));
    } else if let Some((_, line)) = start {
        rows.push((line, ","));
    }
    rows
}
