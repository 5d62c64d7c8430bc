//! Pictures for the documentation, as SVG: a terminal with a transcript, and bars.

use std::path::Path;

/// Height of a line of text, and width of a character of the monospace font.
const LINE: f64 = 17.0;
const CHARACTER: f64 = 7.8;

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn document(width: f64, height: f64, title: &str, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" role=\"img\" aria-label=\"{title}\">\n{body}</svg>\n",
        title = escaped(title)
    )
}

/// Colours of a terminal's text: a command, plain text, and what the codes 32 (green) and 2 (dim) ask for.
const GREEN: &str = "#98c379";
const PLAIN: &str = "#d7dae0";
const DIM: &str = "#8b929e";

/// A terminal that shows a command and what it printed. Lines of more than `columns` characters are cut. The program's
/// colours stay.
pub fn terminal(command: &str, transcript: &str, columns: usize) -> String {
    let mut colour = PLAIN;
    let printed = transcript.lines().map(|line| cut(spans(line, &mut colour), columns));
    let command_line = vec![(GREEN, format!("$ {command}"))];
    let lines: Vec<Vec<(&str, String)>> = [command_line].into_iter().chain(printed).collect();
    let (width, height) = (columns as f64 * CHARACTER + 32.0, lines.len() as f64 * LINE + 52.0);
    let mut body = format!(
        "<rect width=\"{width:.0}\" height=\"{height:.0}\" rx=\"8\" fill=\"#1e2127\"/>\n\
         <circle cx=\"18\" cy=\"16\" r=\"5\" fill=\"#e06c75\"/><circle cx=\"36\" cy=\"16\" r=\"5\" fill=\"#e5c07b\"/>\
         <circle cx=\"54\" cy=\"16\" r=\"5\" fill=\"#98c379\"/>\n\
         <g font-family=\"ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace\" font-size=\"13\" \
         xml:space=\"preserve\">\n"
    );
    for (i, line) in lines.iter().enumerate() {
        let y = 46.0 + i as f64 * LINE;
        let (first, rest) = match line.split_first() {
            Some(((colour, text), rest)) => ((*colour, text.as_str()), rest),
            None => ((PLAIN, ""), &[][..]),
        };
        body += &format!("<text x=\"16\" y=\"{y:.0}\" fill=\"{}\">{}", first.0, escaped(first.1));
        for (colour, text) in rest {
            body += &format!("<tspan fill=\"{colour}\">{}</tspan>", escaped(text));
        }
        body += "</text>\n";
    }
    document(width, height, command, &(body + "</g>\n"))
}

/// The parts of a line by colour. A colour holds until the next code, on later lines too.
fn spans(line: &str, colour: &mut &'static str) -> Vec<(&'static str, String)> {
    let mut parts = line.split("\u{1b}[");
    let mut spans = vec![(*colour, parts.next().unwrap_or_default().to_string())];
    for part in parts {
        let (code, text) = part.split_once('m').unwrap_or(("", part));
        *colour = match code {
            "32" => GREEN,
            "2" => DIM,
            _ => PLAIN,
        };
        spans.push((*colour, text.to_string()));
    }
    spans.retain(|(_, text)| !text.is_empty());
    spans
}

fn cut(spans: Vec<(&'static str, String)>, columns: usize) -> Vec<(&'static str, String)> {
    if spans.iter().map(|(_, text)| text.chars().count()).sum::<usize>() <= columns {
        return spans;
    }
    let mut room = columns - 1;
    let mut kept: Vec<(&str, String)> = Vec::new();
    for (colour, text) in spans {
        let text: String = text.chars().take(room).collect();
        room -= text.chars().count();
        kept.push((colour, text));
    }
    kept.retain(|(_, text)| !text.is_empty());
    kept.last_mut().into_iter().for_each(|(_, text)| text.push('…'));
    kept
}

/// A bar of a chart.
pub struct Bar {
    /// What it stands for.
    pub name: String,
    /// Its length, from 0.
    pub value: f64,
    /// What is written behind it.
    pub label: String,
}

/// Horizontal bars under a title, with a line at `mark`.
pub fn bars(title: &str, bars: &[Bar], mark: f64) -> String {
    const NAMES: f64 = 190.0;
    const SPAN: f64 = 360.0;
    let most = bars.iter().map(|bar| bar.value).fold(mark, f64::max);
    let (width, height) = (NAMES + SPAN + 190.0, bars.len() as f64 * 26.0 + 52.0);
    let mut body = format!(
        "<rect width=\"{width:.0}\" height=\"{height:.0}\" fill=\"#ffffff\"/>\n\
         <g font-family=\"system-ui,'Segoe UI','DejaVu Sans',sans-serif\" font-size=\"13\" fill=\"#24292f\">\n\
         <text x=\"10\" y=\"22\" font-weight=\"600\">{}</text>\n",
        escaped(title)
    );
    for (i, bar) in bars.iter().enumerate() {
        let y = 38.0 + i as f64 * 26.0;
        let length = SPAN * bar.value / most;
        body += &format!(
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{NAMES:.0}\" y=\"{y:.0}\" width=\"{length:.1}\" height=\"18\" rx=\"2\" fill=\"#3b6fb6\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\">{}</text>\n",
            NAMES - 8.0,
            y + 13.0,
            escaped(&bar.name),
            NAMES + length + 6.0,
            y + 13.0,
            escaped(&bar.label),
        );
    }
    let x = NAMES + SPAN * mark / most;
    body += &format!(
        "<line x1=\"{x:.1}\" y1=\"32\" x2=\"{x:.1}\" y2=\"{:.0}\" stroke=\"#24292f\" stroke-dasharray=\"3 3\"/>\n</g>\n",
        height - 12.0
    );
    document(width, height, title, &body)
}

/// Characters of a line of the terminal.
const COLUMNS: usize = 108;

/// The terminals of the README: the command, and the name of the picture and of the transcript beside it.
const TERMINALS: [(&str, &str); 2] =
    [("ferrotune quickstart", "quickstart"), ("ferrotune preview recipe-chatbot/run.yaml -n 2", "preview")];

/// Writes the terminals of the README from their transcripts.
pub fn write(docs: &Path) -> std::io::Result<()> {
    for (command, name) in TERMINALS {
        let transcript = std::fs::read_to_string(docs.join(name).with_extension("txt"))?;
        std::fs::write(docs.join(name).with_extension("svg"), terminal(command, &transcript, COLUMNS))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pictures_show_the_transcripts() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        for (command, name) in TERMINALS {
            let text =
                |extension| std::fs::read_to_string(docs.join(name).with_extension(extension)).unwrap();
            let made = terminal(command, &text("txt"), COLUMNS);
            assert!(made == text("svg"), "docs/{name}.svg is not as `cargo xtask docs` writes it");
        }
    }

    #[test]
    fn colours_of_the_program_stay() {
        let svg = terminal("x", "\u{1b}[2ma\nb\u{1b}[0m\u{1b}[32mcdef\u{1b}[0mg", 5);
        let shown = |text: &str| svg.contains(text);
        assert!(shown(&format!("fill=\"{DIM}\">a</text>")), "{svg}");
        assert!(shown(&format!("fill=\"{DIM}\">b<tspan fill=\"{GREEN}\">cde…</tspan>")), "{svg}");
        assert!(!shown(">g") && !shown("\u{1b}"), "{svg}");
    }

    #[test]
    fn text_is_escaped_and_cut() {
        let svg = terminal("ferrotune quickstart", "a <b> & c\n0123456789abcdef", 12);
        assert!(svg.contains("a &lt;b&gt; &amp; c") && svg.contains("0123456789a…"), "{svg}");
        assert_eq!(svg.matches("<text").count(), 3);
    }

    #[test]
    fn the_longest_bar_has_the_whole_span() {
        let bar = |value: f64| Bar { name: "x".into(), value, label: format!("{value} x") };
        let svg = bars("speed", &[bar(1.0), bar(4.0)], 1.0);
        assert!(svg.contains("width=\"90.0\"") && svg.contains("width=\"360.0\""), "{svg}");
    }
}
