use super::*;
use serde_json::{Map, json};

const TEMPLATE: &str = "{% for m in messages %}{% if m.role == 'critic' %}!{% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}";

fn read(text: &str) -> Result<Dataset> {
    read_as(text, DataFormat::Auto, true)
}

fn read_as(text: &str, format: DataFormat, has_template: bool) -> Result<Dataset> {
    let mut dataset = Dataset::default();
    let template = has_template.then(|| ChatTemplate::parse(TEMPLATE, Map::new()).unwrap());
    let options = ReadOptions { format, template: template.as_ref(), ..ReadOptions::default() };
    dataset.add(Path::new("rows.jsonl"), text.as_bytes(), options)?;
    match dataset.bad.error(&dataset.files, dataset.len(), None) {
        Some(error) => Err(error),
        None => Ok(dataset),
    }
}

fn first(text: &str) -> Example {
    read(text).unwrap().rows[0].example.clone()
}

#[test]
fn lines_blank_lines_bom_and_crlf() {
    let text = "\u{feff}{\"text\": \"a\"}\r\n\r\n  {\"text\": \"b\"}\n\n";
    let dataset = read(text).unwrap();
    let lines: Vec<usize> = dataset.rows.iter().map(|r| r.line).collect();
    assert_eq!(lines, [1, 3]);
    assert_eq!(dataset.rows[1].example, Example::Text("b".to_string()));
}

#[test]
fn files_are_known_by_their_hash() {
    let dataset = read("{\"text\": \"a\"}\n").unwrap();
    let file = &dataset.files[0];
    assert_eq!(file.path, Path::new("rows.jsonl"));
    assert_eq!(file.sha256, "7c24616314d4c7ddcc755cd2cb42baf4e49ac41b1492fa02c30adc34e1cb2e5d");
}

#[test]
fn an_array_keeps_the_lines_of_its_elements() {
    let text = "[\n  {\"text\": \"a [,] \\\" b\"},\n  {\"text\":\n \"c\"}\n]\n";
    let dataset = read(text).unwrap();
    let rows: Vec<(usize, Example)> = dataset.rows.into_iter().map(|r| (r.line, r.example)).collect();
    assert_eq!(rows, [(2, Example::Text("a [,] \" b".to_string())), (3, Example::Text("c".to_string()))]);
}

#[test]
fn every_shape_is_recognised() {
    let user = json!({"role": "user", "content": "q"});
    let assistant = json!({"role": "assistant", "content": "a"});
    let chat = |messages: Vec<Value>, prompt_messages| {
        Example::Chat(Chat { messages, prompt_messages, ..Chat::default() })
    };
    let both = vec![user.clone(), assistant.clone()];
    let cases = [
        (json!({"messages": both, "id": 3}), chat(both.clone(), 0)),
        (
            json!({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}),
            chat(both.clone(), 0),
        ),
        (json!({"prompt": [user], "completion": [assistant]}), chat(both.clone(), 1)),
        (json!({"instruction": "q", "input": "", "output": "a"}), chat(both.clone(), 0)),
        (
            json!({"instruction": "q", "input": "i", "output": "a"}),
            chat(vec![json!({"role": "user", "content": "q\n\ni"}), assistant.clone()], 0),
        ),
        (
            json!({"prompt": "p", "completion": " c"}),
            Example::Completion { prompt: "p".to_string(), completion: " c".to_string() },
        ),
        (
            json!({"input_ids": [1, 2], "labels": [-100, 2]}),
            Example::Tokens { input_ids: vec![1, 2], labels: vec![-100, 2] },
        ),
        (json!({"input_ids": [1, 2]}), Example::Tokens { input_ids: vec![1, 2], labels: vec![1, 2] }),
        (json!({"text": "t"}), Example::Text("t".to_string())),
    ];
    for (row, expected) in cases {
        assert_eq!(first(&row.to_string()), expected, "{row}");
    }
}

#[test]
fn chats_keep_tools_system_and_template_variables() {
    let row = json!({
        "conversations": [{"from": "human", "value": "q"}],
        "system": "s",
        "tools": "[{\"name\": \"f\"}]",
        "chat_template_kwargs": {"enable_thinking": false},
    });
    let Example::Chat(Chat { messages, tools, extra, .. }) = first(&row.to_string()) else {
        panic!("no chat")
    };
    assert_eq!(messages[0], json!({"role": "system", "content": "s"}));
    assert_eq!(tools, Some(vec![json!({"name": "f"})]));
    assert_eq!(extra["enable_thinking"], false);
}

#[test]
fn instructions_without_a_template_become_a_prompt() {
    let row = json!({"instruction": "q", "input": "i", "output": "a"}).to_string();
    let dataset = read_as(&row, DataFormat::Auto, false).unwrap();
    let expected = Example::Completion {
        prompt: "### Instruction:\nq\n\n### Input:\ni\n\n### Response:\n".to_string(),
        completion: "a".to_string(),
    };
    assert_eq!(dataset.rows[0].example, expected);
}

#[test]
fn refusals_name_file_line_and_what_was_found() {
    for (text, message) in [
        ("", "rows.jsonl:0: there are no rows"),
        ("[]", "rows.jsonl:0: there are no rows"),
        (
            "{\"text\": \"a\"}\n{\"text\": ",
            "rows.jsonl:2: not valid JSON: the text ends in the middle of a value at column",
        ),
        ("[{\"text\": \"a\"},\n{\"text\": \n\n ]", "rows.jsonl:4: not valid JSON: there is no value"),
        ("[{\"text\": \"a\"}\n", "rows.jsonl:2: not valid JSON: the text ends"),
        ("[{\"text\": \"a\"}]\n{\"text\": \"b\"}", "rows.jsonl:2: not valid JSON: there is no value"),
        ("3", "rows.jsonl:1: found a number, expected an object"),
        ("{}", "rows.jsonl:1: no known shape: found an empty object"),
        ("{\"notes\": \"a\", \"id\": 1}", "rows.jsonl:1: no known shape: found `notes`, `id`"),
        ("{\"text\": \"a\"}\n{\"txt\": \"b\"}", "rows.jsonl:2: no known shape: found `txt`"),
        ("{\"text\": \"\"}", "rows.jsonl:1: `text` is empty"),
        ("{\"text\": 7}", "rows.jsonl:1: `text` is a number, expected text"),
        ("{\"prompt\": \"a\", \"completion\": []}", "must both be text or both be lists"),
        ("{\"messages\": \"a\"}", "rows.jsonl:1: `messages` is text but not JSON"),
        ("{\"messages\": []}", "rows.jsonl:1: `messages` is empty"),
        ("{\"messages\": [{\"role\": \"user\"}]}", "messages[0]: no `content`: found `role`"),
        ("{\"messages\": [{\"content\": \"a\"}]}", "messages[0]: no `role`: found `content`"),
        ("{\"messages\": [{\"role\": \"user\", \"content\": 3}]}", "messages[0]: `content` is a number"),
        ("{\"messages\": [\"a\"]}", "messages[0]: found text, expected a message"),
        ("{\"input_ids\": [1, -2]}", "input_ids[1] is -2, not a token id"),
        ("{\"input_ids\": [1, 2], \"labels\": [1]}", "1 labels for 2 tokens"),
        ("{\"input_ids\": [1], \"labels\": [-5]}", "labels[0] is -5, expected a token id or -100"),
        ("{\"input_ids\": []}", "`input_ids` is empty"),
    ] {
        let error = read(text).expect_err(text).to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
    let mut dataset = Dataset::default();
    let bytes = b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}";
    let error = dataset.add(Path::new("x"), bytes, ReadOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "x:2: the text is not UTF-8");
    let missing = Dataset::read(&["no/such.jsonl"], ReadOptions::default()).unwrap_err();
    assert!(missing.to_string().contains("no/such.jsonl"));
}

#[test]
fn the_asked_format_wins_over_the_looks() {
    let both = "{\"text\": \"a\", \"prompt\": \"p\", \"completion\": \"c\"}";
    assert!(matches!(first(both), Example::Completion { .. }));
    let dataset = read_as(both, DataFormat::Text, true).unwrap();
    assert_eq!(dataset.rows[0].example, Example::Text("a".to_string()));
}
