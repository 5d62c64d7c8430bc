//! Programming languages by the names of their files, and how a comment is written in each.

/// A language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Language {
    /// What stands around a comment of one line; nothing behind it in most languages.
    comment: (&'static str, &'static str),
    /// Whether it is prose or data, whose lines may be of any length.
    pub(crate) is_prose: bool,
}

const fn code(open: &'static str, close: &'static str) -> Language {
    Language { comment: (open, close), is_prose: false }
}

const fn prose(open: &'static str, close: &'static str) -> Language {
    Language { comment: (open, close), is_prose: true }
}

/// Languages with the endings of their files.
const ENDINGS: &[(Language, &[&str])] = &[
    (
        code("//", ""),
        &[
            "c",
            "h",
            "cc",
            "cpp",
            "cxx",
            "c++",
            "hh",
            "hpp",
            "hxx",
            "inl",
            "m",
            "mm",
            "cu",
            "cuh",
            "cs",
            "java",
            "kt",
            "kts",
            "scala",
            "sc",
            "groovy",
            "gradle",
            "go",
            "rs",
            "swift",
            "dart",
            "js",
            "jsx",
            "mjs",
            "cjs",
            "ts",
            "tsx",
            "mts",
            "cts",
            "zig",
            "v",
            "sv",
            "svh",
            "vh",
            "proto",
            "thrift",
            "php",
            "sol",
            "fs",
            "fsx",
            "fsi",
            "d",
            "pas",
            "pp",
            "dpr",
            "scss",
            "less",
            "glsl",
            "vert",
            "frag",
            "comp",
            "hlsl",
            "wgsl",
            "metal",
            "ino",
            "odin",
            "jsonnet",
            "libsonnet",
            "qml",
            "gd",
            "hx",
            "vala",
            "cairo",
            "move",
            "bicep",
            "cue",
        ],
    ),
    (
        code("#", ""),
        &[
            "py",
            "pyi",
            "pyx",
            "pxd",
            "rb",
            "rake",
            "gemspec",
            "pl",
            "pm",
            "t",
            "sh",
            "bash",
            "zsh",
            "fish",
            "ksh",
            "ps1",
            "psm1",
            "psd1",
            "r",
            "jl",
            "nim",
            "nims",
            "cr",
            "ex",
            "exs",
            "tcl",
            "awk",
            "sed",
            "mk",
            "mak",
            "cmake",
            "tf",
            "tfvars",
            "hcl",
            "nix",
            "graphql",
            "gql",
            "coffee",
            "bzl",
            "star",
            "raku",
            "rakumod",
            "rego",
            "dockerfile",
            "just",
        ],
    ),
    (prose("#", ""), &["yaml", "yml", "toml", "ini", "cfg", "conf", "properties"]),
    (
        code("--", ""),
        &["sql", "lua", "hs", "lhs", "elm", "ada", "adb", "ads", "vhd", "vhdl", "purs", "agda", "idr"],
    ),
    (
        code(";", ""),
        &[
            "lisp", "lsp", "cl", "el", "clj", "cljs", "cljc", "edn", "scm", "ss", "rkt", "s", "asm", "nasm",
            "ll",
        ],
    ),
    (code("%", ""), &["erl", "hrl", "pro", "prolog", "matlab"]),
    (prose("%", ""), &["tex", "sty", "cls", "bib"]),
    (code("!", ""), &["f", "for", "f90", "f95", "f03", "f08"]),
    (code("'", ""), &["vb", "vbs", "bas"]),
    (code("\"", ""), &["vim"]),
    (code("REM", ""), &["bat", "cmd"]),
    (code("(*", "*)"), &["ml", "mli", "mll", "mly", "sml", "thy"]),
    (code("/*", "*/"), &["css", "y", "l", "ld", "lds"]),
    (code("<!--", "-->"), &["vue", "svelte", "astro", "xsl", "xslt", "xaml"]),
    (prose("<!--", "-->"), &["html", "htm", "xhtml", "md", "markdown", "mdx"]),
    (prose("..", ""), &["rst"]),
    (code("{#", "#}"), &["jinja", "jinja2", "j2"]),
    (code("<%#", "%>"), &["erb"]),
];

/// Languages with whole names of files.
const NAMES: &[(Language, &[&str])] = &[(
    code("#", ""),
    &[
        "makefile",
        "gnumakefile",
        "dockerfile",
        "containerfile",
        "cmakelists.txt",
        "rakefile",
        "gemfile",
        "vagrantfile",
        "podfile",
        "brewfile",
        "justfile",
        "build",
        "workspace",
        "meson.build",
        "meson_options.txt",
        "sconstruct",
        "sconscript",
        "snakefile",
        "procfile",
        "tiltfile",
    ],
)];

impl Language {
    /// The language of a file by its name; none if it is not known as source.
    pub(crate) fn of(name: &str) -> Option<Language> {
        let name = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
        let with = |table: &[(Language, &[&str])], word: &str| {
            table.iter().find(|(_, words)| words.contains(&word)).map(|(language, _)| *language)
        };
        with(NAMES, &name).or_else(|| with(ENDINGS, name.rsplit_once('.')?.1))
    }

    /// A line that says something as a comment, without its end.
    pub(crate) fn comment(self, text: &str) -> String {
        let (open, close) = self.comment;
        format!("{open} {text} {close}").trim_end().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_ending_or_name() {
        let comment = |name: &str| Language::of(name).map(|language| language.comment("a/b"));
        assert_eq!(comment("src/main.RS").as_deref(), Some("// a/b"));
        assert_eq!(comment("x.py").as_deref(), Some("# a/b"));
        assert_eq!(comment("deep/Makefile").as_deref(), Some("# a/b"));
        assert_eq!(comment("page.html").as_deref(), Some("<!-- a/b -->"));
        assert_eq!(comment("q.sql").as_deref(), Some("-- a/b"));
        for other in ["photo.png", "rows.jsonl", "package.json", "LICENSE", "notes.txt", "py"] {
            assert_eq!(comment(other), None, "{other}");
        }
    }
}
