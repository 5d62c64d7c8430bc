//! Every case of `testdata/golden/chat_templates`: exact text, exact generation spans, an error where one is expected.

use ferrotune::data::chat_template::{ChatTemplate, Clock, RenderOptions, Rendered};
use ferrotune::error::Error;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/chat_templates")
}

fn fixture(name: &str) -> Value {
    let text = std::fs::read_to_string(folder().join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn render(template: &ChatTemplate, case: &Value) -> Result<Rendered, Error> {
    let options = RenderOptions {
        add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap_or(false),
        continue_final_message: case["continue_final_message"].as_bool().unwrap_or(false),
        kwargs: object(&case["kwargs"]),
    };
    let tools = case["tools"].as_array().map(Vec::as_slice);
    template.render(case["messages"].as_array().unwrap(), tools, &options)
}

/// What is wrong with one case, if anything.
fn problem(fixture: &Value, template: &ChatTemplate, case: &Value) -> Option<String> {
    match (render(template, case), case.get("error")) {
        (Ok(rendered), None) => {
            let expected = case["rendered"].as_str().unwrap();
            if rendered.text != expected {
                return Some(format!("\n  found    {:?}\n  expected {expected:?}", rendered.text));
            }
            let spans: Vec<Vec<usize>> = rendered
                .assistant_spans
                .iter()
                .map(|s| [s.start, s.end].iter().map(|&at| rendered.text[..at].chars().count()).collect())
                .collect();
            let expected = &case["assistant_spans"];
            let same = *expected == serde_json::json!(spans);
            (fixture["has_generation"] == true && !expected.is_null() && !same)
                .then(|| format!("spans {spans:?}, expected {expected}"))
        }
        (Ok(rendered), Some(error)) => Some(format!("rendered {:?}, expected {error}", rendered.text)),
        (Err(error), None) => Some(format!("{error}")),
        (Err(found), Some(expected)) => {
            let message = expected["message"].as_str().unwrap();
            let raised = expected["type"] == "TemplateError";
            (raised && !matches!(&found, Error::Template { problem, .. } if problem == message))
                .then(|| format!("{found}, expected the message {message:?}"))
        }
    }
}

#[test]
fn all_golden_cases_render_exactly() {
    let mut failures = Vec::new();
    let mut cases = 0;
    let mut files: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !["unparsable.json", "language.json"].contains(&name.as_str()))
        .collect();
    files.sort();
    for name in &files {
        let fixture = fixture(name);
        assert_eq!(fixture["now"], "2025-03-04T15:06:07");
        let clock = Clock { unix_seconds: 1_741_100_767 };
        let source = fixture["template"].as_str().unwrap();
        let template = match ChatTemplate::parse(source, object(&fixture["special_tokens"])) {
            Ok(template) => template.with_clock(clock),
            Err(error) => {
                failures.push(format!("{name}: {error}"));
                continue;
            }
        };
        assert_eq!(fixture["has_generation"], template.has_generation(), "{name}");
        for case in fixture["cases"].as_array().unwrap() {
            cases += 1;
            if let Some(problem) = problem(&fixture, &template, case) {
                failures.push(format!("{name} {}: {problem}", case["id"]));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {cases}:\n{}", failures.len(), failures.join("\n"));
    assert_eq!((files.len(), cases), (14, 603));
}

/// One small template for each filter, test, method, operator, statement and way to control whitespace.
#[test]
fn the_language_is_that_of_pythons_jinja() {
    let fixture = fixture("language.json");
    let (messages, tools) = (fixture["messages"].as_array().unwrap(), fixture["tools"].as_array().unwrap());
    let options = RenderOptions { kwargs: object(&fixture["kwargs"]), ..RenderOptions::prompt(true) };
    let render = |source: &str| {
        let template = ChatTemplate::parse(source, object(&fixture["special_tokens"]))?;
        template.with_clock(Clock { unix_seconds: 1_741_100_767 }).render(messages, Some(tools), &options)
    };
    let mut failures = Vec::new();
    let cases = fixture["cases"].as_array().unwrap();
    for case in cases {
        let source = case["template"].as_str().unwrap();
        let found = render(source).map(|rendered| rendered.text);
        if found.as_deref().ok() != case["rendered"].as_str() {
            failures.push(format!("{source:?}: {found:?}, expected {} {}", case["rendered"], case["error"]));
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
    assert!(cases.len() > 4000);
}

#[test]
fn templates_that_are_not_jinja_are_refused() {
    let fixture = fixture("unparsable.json");
    for case in fixture["cases"].as_array().unwrap() {
        let found = ChatTemplate::parse(case["template"].as_str().unwrap(), Map::new());
        assert!(matches!(found, Err(Error::Template { .. })), "{}", case["id"]);
    }
}

/// Rendering ends, with an error or a text, whatever the template does.
#[test]
fn hostile_templates_end() {
    let chain = |link: &str| format!("{{{{ 1{} }}}}", link.repeat(50_000));
    let chains =
        [".a", "|upper", " + 1", " ~ 1", " and 1", " if 1", "[1]", " is none", " == 1", "()"].map(chain);
    let deep = format!("{{{{ {}1{} }}}}", "[".repeat(5000), "]".repeat(5000));
    let sources = [
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x={}) %}{% for i in range(90000) %}{% set ns.x = {'a': ns.x} %}{% endfor %}{{ ns.x | tojson }}",
        "{% set ns = namespace(x='a') %}{% for i in range(90) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{{ 'a' * 99999999 ~ 'a' * 99999999 ~ 'a' * 99999999 }}",
        "{{ messages | tojson(indent=99999999999) }}",
        "{{ '%99999999999d' % 3 }}{{ '{:99999999999}'.format(3) }}",
        "{{ '{:{}}'.format(3, 99999999999) }}{{ '{0:{1}}'.format(3, 99999999999) }}",
        "{{ '%*d' % (99999999999, 3) }}{{ '%.99999999999f' | format(3.5) }}",
        "{{ '{:.99999999999f}'.format(3.5) }}",
        "{{ 'a'.center(99999999999) }}{{ 'a' | center(99999999999) }}{{ 'a' | indent(99999999999) }}",
        "{{ [0] * 99999999999 }}{{ [[0] * 9999999] * 9999999 }}",
        "{{ 9 ** 9 ** 9 ** 9 }}{{ 2 ** 127 * 2 }}{{ 9.9 ** 999999 }}",
        "{{ 'aaaa'.replace('', 'b' * 1000000).replace('', 'b' * 1000000) }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x == [ns.x] }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{% set ns.y = ns %}{{ ns }}{{ ns | tojson }}{{ [ns] | join }}",
        "{% set ns = namespace() %}{% set ns.x = [{'a': ns}] %}{{ ns == ns.x }}",
        "{% set a = [1, 2] %}{% set b = [a, a, a, a] %}{% set a = [b, b, b, b] %}{{ a }}",
        "{% for a in range(99999) %}{{ messages | tojson }}{% endfor %}",
        "{{ 1 % 0 }}",
        "{{ (-170141183460469231731687303715884105728) % -1 }}",
        "{% include 'chat_template' %}",
        "{% import 'chat_template' as t %}{{ t }}",
        "{% extends 'chat_template' %}",
        "{{ strftime_now('%') }}{{ strftime_now(3) }}",
        "{% set ns=namespace(x=1) %}{% for i in range(99999) %}{% set ns.x = ns.x ~ 'aaaaaaaaaaaaaaaaaaaa' %}{% endfor %}",
        "{% set d=dict.fromkeys(range(99999)) %}{% for i in range(99999) %}{{ d[i] }}{% endfor %}",
        "{{ (range(99999)|list + range(99999)|list)|unique|list|length }}",
        "{% set x = 'é'*30000000 %}{% for i in range(99999) %}{{ x|length ~ x[5] ~ x.count('b') }}{% endfor %}",
        "{% set x = range(99999)|list %}{% for i in range(99999) %}{{ x.index(99998) }}{% endfor %}",
        "{% macro f(n) %}{% for i in [1] %}{% if n %}{{ [f(n - 1)|upper ~ 'a']|join }}{% endif %}{% endfor %}{% endmacro %}{{ f(900) }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{{",
        "{{ ) }}",
        "{% raw %}",
        "{# open",
        deep.as_str(),
    ];
    for source in sources.into_iter().chain(chains.iter().map(String::as_str)) {
        if let Ok(template) = ChatTemplate::parse(source, Map::new()) {
            let _ = template.render(
                &[serde_json::json!({"role": "user", "content": "x"})],
                None,
                &RenderOptions::default(),
            );
        }
    }
}

fn text_of(source: &str, content: &str) -> Rendered {
    let template = ChatTemplate::parse(source, Map::new()).unwrap();
    let message = serde_json::json!({"role": "user", "content": content, "name": null});
    template.render(&[message], None, &RenderOptions::default()).unwrap()
}

fn spans_of(rendered: &Rendered) -> Vec<(usize, usize)> {
    rendered.assistant_spans.iter().map(|span| (span.start, span.end)).collect()
}

/// What the fixtures do not reach and templates of real models do.
#[test]
fn details_of_python_jinja() {
    for (source, expected) in [
        ("{% if true %}\r\na\r\n{% endif %}b\r", "a\nb"),
        (
            "{{ none is iterable }} {{ 'a' is sequence }} {{ messages is sequence }} {{ true is number }}",
            "False True True True",
        ),
        ("{{ none is iterable and (none | length) > 0 }}", "False"),
        ("{% for x in [1] %}{% continue %}{% else %}else{% endfor %}", "else"),
        (
            "{% for x in [1, 2] %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% else %}else{% endfor %}",
            "2",
        ),
        (
            "{{ 5 % 3 }} {{ -5 % 3 }} {{ 5.5 % 2 }} {{ '%s|%5.2f|%%' % ([1], 2) }} {{ 2 * 7 % 4 }}",
            "2 1 1.5 [1]| 2.00|% 2",
        ),
        ("{{ 1 < 2 < 3 }} {{ not 2 < 1 }} {{ 'a' < 'b' }} {{ [1] < [2] }}", "True True True True"),
        (
            "{{ 'a-b-c'.rsplit('-', 1) }} {{ 'x.y'.partition('.') }} {{ 'pre_x'.removeprefix('pre_') }}",
            "['a-b', 'c'] ('x', '.', 'y') x",
        ),
        ("{{ true % 2 }} {{ 5 % true }} {{ [missing] }}{{ missing }}", "1 0 [Undefined]"),
        ("{{ messages[0] }}", "{'role': 'user', 'content': 'hi'}"),
        ("{{ 1e16 ~ 0.00001 ~ none ~ true ~ missing }}", "1e+161e-05NoneTrue"),
    ] {
        assert_eq!(text_of(source, "hi").text, expected, "{source}");
    }
}

#[test]
fn generation_blocks_see_and_change_what_is_around_them() {
    let source = "{% set ns = namespace(n=0) %}{% for m in messages %}{%- generation -%}\n {{ m.content }}{% set ns.n = ns.n + loop.index %}\
                  {% set inner = 1 %} {%- endgeneration -%} \n{% endfor %}{{ ns.n }}{{ inner }}";
    let rendered = text_of(source, "hi");
    assert_eq!((rendered.text.as_str(), spans_of(&rendered)), ("hi1", vec![(0, 2)]));
    let source = "{% macro m(x) %}{% generation %}{{ x }}{% endgeneration %}!{% endmacro %}{{ m('é') }}{{ m('') }}{{ m('b') }}";
    let rendered = text_of(source, "");
    assert_eq!((rendered.text.as_str(), spans_of(&rendered)), ("é!!b!", vec![(0, 2), (4, 5)]));
}

#[test]
fn noncharacters_in_a_chat_are_text() {
    let source = "<{% generation %}{{ messages[0].content }}{% endgeneration %}>";
    let rendered = text_of(source, "\u{fdd0}a\u{fdd3}");
    assert_eq!(rendered.text, "<\u{fdd0}a\u{fdd3}>");
    assert_eq!(spans_of(&rendered), [(1, rendered.text.len() - 1)]);
    let all: String = (0xfdd0..0xfdf0_u32).filter_map(char::from_u32).collect();
    let rendered = text_of(source, &all);
    assert_eq!(rendered.text, format!("<{all}>"));
    assert_eq!(spans_of(&rendered), [(1, 1 + all.len())]);
}

/// A value that grows with every turn of a loop is stopped, by its size, before anything has to walk or drop it.
#[test]
fn values_that_nest_or_double_without_end_are_refused() {
    for source in [
        "{% set ns = namespace(x=[]) %}{% for i in range(200) %}{% set ns.x = [ns.x] %}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for i in range(20) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.x = {'a': ns} %}",
    ] {
        let template = ChatTemplate::parse(source, Map::new()).unwrap();
        let message = serde_json::json!({"role": "user", "content": "x"});
        let error =
            template.render(&[message], None, &RenderOptions::default()).expect_err(source).to_string();
        assert!(error.contains("kept in a namespace"), "{error}");
    }
}
