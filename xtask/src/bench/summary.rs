//! The beginning of `docs/benchmarks.md`: one table for each kind of CPU, and a plot of it, from the sections below.

use crate::picture::{Bar, bars};

/// A training run beside the peer, as a section has it.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    run: String,
    speed: String,
    megabytes: String,
    peer_speed: String,
    peer_megabytes: String,
    speed_ratio: f64,
    memory_ratio: String,
}

/// What was measured on one kind of CPU.
#[derive(Debug, PartialEq)]
pub(super) struct Kind {
    /// CPU and instruction set.
    name: String,
    entries: Vec<Entry>,
}

impl Kind {
    /// Name of the plot's file.
    fn file(&self) -> String {
        let mut name: String = self
            .name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        while name.contains("--") {
            name = name.replace("--", "-");
        }
        format!("benchmarks-{}.svg", name.trim_matches('-'))
    }

    /// The plot's file and content.
    pub(super) fn plot(&self) -> (String, String) {
        let bar = |e: &Entry| Bar {
            name: e.run.clone(),
            value: e.speed_ratio,
            label: format!("{:.1} x, {} of {} tokens/s", e.speed_ratio, e.speed, e.peer_speed),
        };
        let title = format!("Speed over the peer's fastest setting: {}", self.name);
        (self.file(), bars(&title, &self.entries.iter().map(bar).collect::<Vec<_>>(), 1.0))
    }

    fn text(&self) -> String {
        let row = |e: &Entry| {
            format!(
                "| {} | {} tokens/s, {} MB | {} tokens/s, {} MB | {:.2} | {} |\n",
                e.run, e.speed, e.megabytes, e.peer_speed, e.peer_megabytes, e.speed_ratio, e.memory_ratio
            )
        };
        format!(
            "## {}\n\n| run | ferrotune | peer | speed ratio | memory ratio |\n|---|---|---|---|---|\n{}\n![]({})\n",
            self.name,
            self.entries.iter().map(row).collect::<String>(),
            self.file()
        )
    }
}

/// The kinds of CPU of the sections, in their order. A later section of the same run counts.
pub(super) fn kinds(sections: &[&str]) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::new();
    for section in sections {
        let heading = section.lines().next().unwrap_or_default().trim_start_matches("## ");
        let Some((name, _)) = heading.rsplit_once(": ") else { continue };
        for entry in section.lines().filter_map(entry) {
            let at = kinds.iter().position(|kind| kind.name == name).unwrap_or_else(|| {
                kinds.push(Kind { name: name.to_string(), entries: Vec::new() });
                kinds.len() - 1
            });
            let entries = &mut kinds[at].entries;
            match entries.iter_mut().find(|e| e.run == entry.run) {
                Some(old) => *old = entry,
                None => entries.push(entry),
            }
        }
    }
    kinds
}

/// A row of a training table that has a peer.
fn entry(line: &str) -> Option<Entry> {
    let cells: Vec<&str> =
        line.trim().strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
    let [run, speed, _, _, megabytes, _, _, peer_speed, peer_megabytes, speed_ratio, memory_ratio] =
        cells[..]
    else {
        return None;
    };
    let number = |cell: &str| cell.split(' ').next().unwrap_or_default().to_string();
    Some(Entry {
        run: run.into(),
        speed: speed.into(),
        megabytes: megabytes.into(),
        peer_speed: number(peer_speed),
        peer_megabytes: number(peer_megabytes),
        speed_ratio: speed_ratio.parse().ok()?,
        memory_ratio: memory_ratio.into(),
    })
}

/// The tables and the links to the plots.
pub(super) fn text(kinds: &[Kind]) -> String {
    kinds.iter().map(Kind::text).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTION: &str = "## CPU A, avx2: fixed\n\n- a: 1\n\n\
        | run  | tokens/s | spread | step s | MB | GFLOP/s | of peak | peer tokens/s | peer MB | speed ratio | memory ratio |\n\
        | ---- | -------- | ------ | ------ | -- | ------- | ------- | ------------- | ------- | ----------- | ------------ |\n\
        | lora | 183      | 18%    | 6.02   | 90 | 109     | 70%     | 108 (f32)     | 99 (x)  | 1.69        | 0.37         |\n\
        | solo | 183      | 18%    | 6.02   | 90 | 109     | 70%     | -             | -       | -           | -            |\n";

    #[test]
    fn rows_with_a_peer_are_taken_by_kind_of_cpu() {
        let later = SECTION.replace("| 183 ", "| 200 ").replace(": fixed", ": again");
        let other = SECTION.replace("CPU A", "CPU B");
        let found = kinds(&[SECTION, &later, &other]);
        assert_eq!(
            found.iter().map(|k| (k.name.as_str(), k.entries.len())).collect::<Vec<_>>(),
            [("CPU A, avx2", 1), ("CPU B, avx2", 1)]
        );
        assert_eq!(
            (found[0].entries[0].speed.as_str(), found[0].entries[0].peer_speed.as_str()),
            ("200", "108")
        );
        let text = text(&found);
        assert!(
            text.contains("| lora | 200 tokens/s, 90 MB | 108 tokens/s, 99 MB | 1.69 | 0.37 |"),
            "{text}"
        );
        assert!(text.contains("![](benchmarks-cpu-a-avx2.svg)"), "{text}");
        assert!(found[0].plot().1.contains("1.7 x, 200 of 108 tokens/s"));
    }
}
