//! What is supervised by default, on chats in the formats of many families, and what is refused.

use ferrotune::data::chat_template::{ChatTemplate, Clock, RenderOptions};
use ferrotune::data::dataset::{Chat, Dataset, Example, ReadOptions};
use ferrotune::data::tokenize::{PrepareOptions, Preparer, Problem, preview};
use ferrotune::data::tokenizer::{Tokenizer, TokenizerSettings};
use ferrotune::data::train_row::{IGNORE, TrainRow};
use ferrotune::error::Error;
use ferrotune::run_config::{DataOptions, Overlong, Supervise, Truncation};
use ferrotune_kernels::Threads;
use serde_json::{Value, json};
use std::path::Path;

fn fixture(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The golden byte-level tokenizer with more special tokens, and the settings of a family.
fn tokenizer_with(added: &[&str], special_tokens: &Value) -> Tokenizer {
    tokenizer_from(added, special_tokens, |_| {})
}

fn tokenizer_from(added: &[&str], special_tokens: &Value, change: impl Fn(&mut Value)) -> Tokenizer {
    let mut json = fixture("models/llama3_rope/model/tokenizer.json");
    let known = json["added_tokens"].as_array().unwrap().clone();
    for (i, token) in added.iter().enumerate() {
        if known.iter().any(|k| k["content"] == **token) {
            continue;
        }
        let entry = json!({"id": 320 + i, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                           "normalized": false, "special": true});
        json["added_tokens"].as_array_mut().unwrap().push(entry);
    }
    change(&mut json);
    let settings = TokenizerSettings::from_config(special_tokens);
    Tokenizer::new(json.to_string().as_bytes(), settings, "tokenizer.json").unwrap()
}

fn chatml() -> Tokenizer {
    tokenizer_with(&[], &json!({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}))
}

fn parse(source: &str, special_tokens: &Value) -> ChatTemplate {
    let map = special_tokens.as_object().cloned().unwrap_or_default();
    ChatTemplate::parse(source, map).unwrap().with_clock(Clock { unix_seconds: 0 })
}

fn default_options() -> PrepareOptions {
    PrepareOptions::from(&DataOptions { max_length: 4096, ..DataOptions::default() })
}

fn chat(messages: Value) -> Example {
    let messages = messages.as_array().unwrap().clone();
    Example::Chat(Chat { messages, ..Chat::default() })
}

/// The only row that an example becomes.
fn one(preparer: &Preparer<'_>, example: &Example) -> Result<TrainRow, Problem> {
    let mut made = preparer.rows(example)?;
    assert_eq!(made.rows.len(), 1);
    Ok(made.rows.remove(0))
}

/// The text of each unbroken run of supervised tokens.
fn supervised(row: &TrainRow, tokenizer: &Tokenizer) -> Vec<String> {
    let runs = row.labels.split(|&label| label == IGNORE).filter(|run| !run.is_empty());
    runs.map(|run| tokenizer.decode(&run.iter().map(|&id| id as u32).collect::<Vec<_>>(), false).unwrap())
        .collect()
}

const SPECIAL: [&str; 12] = [
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<bos>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|end|>",
    "<|endoftext|>",
    "<|assistant|>",
];

const QUESTION: &str = "What?";

/// An empty thought is trained where the row has it, and a real one always.
#[test]
fn thoughts_of_the_row_are_supervised_and_those_of_the_template_are_not() {
    let fixture = fixture("chat_templates/qwen3.json");
    let tokenizer = tokenizer_with(&SPECIAL, &fixture["special_tokens"]);
    let template = parse(fixture["template"].as_str().unwrap(), &fixture["special_tokens"]);
    let preparer = Preparer::new(&tokenizer, Some(&template), default_options());
    for (answer, expected) in [
        (json!({"content": "one"}), "one<|im_end|>"),
        (json!({"content": "<think>\n\n</think>\n\none"}), "<think>\n\n</think>\n\none<|im_end|>"),
        (json!({"content": "<think>\nhm\n</think>\n\none"}), "<think>\nhm\n</think>\n\none<|im_end|>"),
        (json!({"content": "one", "reasoning_content": "hm"}), "<think>\nhm\n</think>\n\none<|im_end|>"),
    ] {
        let mut message = answer.clone();
        message["role"] = json!("assistant");
        let made = preparer.rows(&chat(json!([{"role": "user", "content": QUESTION}, message]))).unwrap();
        assert_eq!(supervised(&made.rows[0], &tokenizer), [expected], "{answer}");
    }
}

/// One line a family: template, its end of turn, what is supervised of a chat with the answers `one` and `two`.
#[test]
fn answers_with_their_end_of_turn_are_supervised_and_nothing_else() {
    for (name, expected) in [
        ("chatml", ["one<|im_end|>", "two<|im_end|>"]),
        ("llama3", ["one<|eot_id|>", "two<|eot_id|>"]),
        ("mistral", [" one</s>", " two</s>"]),
        ("mistral_old", [" one</s>", " two</s>"]),
        ("gemma", ["one<end_of_turn>", "two<end_of_turn>"]),
        ("gemma_strict", ["one<end_of_turn>", "two<end_of_turn>"]),
        ("phi3", ["one<|end|>", "two<|end|>"]),
        ("zephyr", ["one</s>", "two</s>"]),
        // The template writes an empty thought before the last answer, which is not to be learnt. It is gone when more
        // follows, so each answer has a row of its own.
        ("qwen3", ["one<|im_end|>", "two<|im_end|>"]),
    ] {
        let fixture = fixture(&format!("chat_templates/{name}.json"));
        let tokenizer = tokenizer_with(&SPECIAL, &fixture["special_tokens"]);
        let source = fixture["template"].as_str().unwrap();
        let row = chat(json!([
            {"role": "user", "content": QUESTION}, {"role": "assistant", "content": "one"},
            {"role": "user", "content": QUESTION}, {"role": "assistant", "content": "two"},
        ]));
        // With the template's generation marks, if it has any, and without them.
        let unmarked = source.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "");
        let unmarked = unmarked.replace("{% generation %}", "").replace("{% endgeneration %}", "");
        for source in [source, unmarked.as_str()] {
            let template = parse(source, &fixture["special_tokens"]);
            let preparer = Preparer::new(&tokenizer, Some(&template), default_options());
            let made = preparer.rows(&row).unwrap_or_else(|problem| panic!("{name}: {problem:?}"));
            assert_eq!(made.rows.len(), if name == "qwen3" { 2 } else { 1 }, "{name}");
            assert!(made.left_out.is_empty(), "{name}: {:?}", made.left_out);
            // The templates that end a whole chat with EOS do not have it supervised.
            let found: Vec<String> = made.rows.iter().flat_map(|row| supervised(row, &tokenizer)).collect();
            assert_eq!(found, expected, "{name}");
            let ends: Vec<String> =
                preparer.stop_ids().iter().map(|&id| tokenizer.token(id).unwrap()).collect();
            assert!(ends.iter().any(|end| expected[0].ends_with(end)), "{name} {ends:?}");
            assert!(ends.len() <= 2, "{name} {ends:?}");
            // Tokens are those of the whole text, tokenized once.
            let messages = [
                json!({"role": "user", "content": QUESTION}),
                json!({"role": "assistant", "content": "one"}),
                json!({"role": "user", "content": QUESTION}),
                json!({"role": "assistant", "content": "two"}),
            ];
            let text = template.render(&messages, None, &RenderOptions::default()).unwrap().text;
            let last = made.rows.last().unwrap();
            assert_eq!(last.input_ids, tokenizer.encode(&text).unwrap().ids, "{name}");
        }
    }
}

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
                      {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

#[test]
fn roles_system_prompts_and_the_first_message() {
    let tokenizer = chatml();
    let template = parse(CHATML, &json!({}));
    let run = |options: PrepareOptions, messages: Value| {
        let row = one(&Preparer::new(&tokenizer, Some(&template), options), &chat(messages)).unwrap();
        (supervised(&row, &tokenizer), tokenizer.decode(&row.input_ids, false).unwrap())
    };
    // An assistant's message at the start, two in a row, a tool's message between.
    let (found, _) = run(
        default_options(),
        json!([
            {"role": "assistant", "content": "hello"}, {"role": "assistant", "content": "again"},
            {"role": "tool", "content": "42"}, {"role": "assistant", "content": "done"}, {"role": "user", "content": "x"},
        ]),
    );
    assert_eq!(found, ["hello<|im_end|>", "again<|im_end|>", "done<|im_end|>"]);

    let system = PrepareOptions { system: Some("be brief".to_string()), ..default_options() };
    let (_, text) =
        run(system.clone(), json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]));
    assert!(text.starts_with("<|im_start|>system\nbe brief<|im_end|>\n"), "{text}");
    let (_, text) =
        run(system, json!([{"role": "system", "content": "own"}, {"role": "assistant", "content": "y"}]));
    assert!(text.starts_with("<|im_start|>system\nown<|im_end|>\n"), "{text}");

    let all = PrepareOptions { masks: Supervise::All.into(), ..default_options() };
    let (found, text) =
        run(all, json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]));
    assert_eq!(found, [text]);
}

#[test]
fn prompt_messages_are_context() {
    let tokenizer = chatml();
    let template = parse(CHATML, &json!({}));
    let messages = vec![
        json!({"role": "user", "content": "a"}),
        json!({"role": "assistant", "content": "b"}),
        json!({"role": "user", "content": "c"}),
        json!({"role": "assistant", "content": "d"}),
    ];
    for system in [None, Some("s".to_string())] {
        let example =
            Example::Chat(Chat { messages: messages.clone(), prompt_messages: 3, ..Chat::default() });
        let options = PrepareOptions { system, ..default_options() };
        let row = one(&Preparer::new(&tokenizer, Some(&template), options), &example).unwrap();
        assert_eq!(supervised(&row, &tokenizer), ["d<|im_end|>"]);
    }
}

#[test]
fn a_content_that_holds_the_end_of_turn_token_is_supervised_to_its_own_end() {
    let tokenizer = chatml();
    let template = parse(CHATML, &json!({}));
    let preparer = Preparer::new(&tokenizer, Some(&template), default_options());
    let row = one(
        &preparer,
        &chat(json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b<|im_end|>c"}])),
    );
    assert_eq!(supervised(&row.unwrap(), &tokenizer), ["b<|im_end|>c<|im_end|>"]);
}

#[test]
fn a_generation_block_without_the_end_of_turn_is_extended_by_it() {
    let tokenizer = chatml();
    let source = "{% for m in messages %}<|im_start|>{{ m.role }}\n\
                  {% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}\
                  {% endif %}<|im_end|>\n{% endfor %}";
    let template = parse(source, &json!({}));
    let preparer = Preparer::new(&tokenizer, Some(&template), default_options());
    let row = one(
        &preparer,
        &chat(json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])),
    )
    .unwrap();
    assert_eq!(supervised(&row, &tokenizer), ["b<|im_end|>"]);
}

/// Templates of reasoning models, and of models with more than one token at the end of a turn.
#[test]
fn headers_with_an_open_thought_and_several_end_tokens() {
    let chat = chat(json!([
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"},
    ]));
    let body = |answer: &str, header: &str| {
        format!(
            "{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n{{% if m.role == 'assistant' %}}{answer}{{% else %}}\
             {{{{ m.content }}}}<|im_end|>\n{{% endif %}}{{% endfor %}}\
             {{% if add_generation_prompt %}}<|im_start|>assistant\n{header}{{% endif %}}"
        )
    };
    let content = "{{ m.content }}<|im_end|>\n";
    for (source, expected) in [
        // The header opens a thought; answers that are there already have none, or an empty one.
        (body(content, "<think>\n"), ["b<|im_end|>", "d<|im_end|>"]),
        (
            body(&format!("<think></think>{content}"), "<think>\n"),
            ["</think>b<|im_end|>", "</think>d<|im_end|>"],
        ),
        (body("{{ m.content }}<|end|><|eot_id|>\n", ""), ["b<|end|><|eot_id|>", "d<|end|><|eot_id|>"]),
        // Another token at the end of the chat than in its middle.
        (
            body("{{ m.content }}{{ '<|end|>' if not loop.last else '<|eot_id|>' }}\n", ""),
            ["b<|end|>", "d<|eot_id|>"],
        ),
        // The next header follows at once and is no part of the turn.
        (body("{{ m.content }}<|im_end|>", ""), ["b<|im_end|>", "d<|im_end|>"]),
        // A generation block that reaches over the line break.
        (
            body(&format!("{{% generation %}}{content}{{% endgeneration %}}"), ""),
            ["b<|im_end|>", "d<|im_end|>"],
        ),
    ] {
        let tokenizer = tokenizer_with(&SPECIAL, &json!({"eos_token": "</s>"}));
        let template = parse(&source, &json!({}));
        let preparer = Preparer::new(&tokenizer, Some(&template), default_options());
        let row = one(&preparer, &chat).unwrap_or_else(|problem| panic!("{source}: {problem:?}"));
        assert_eq!(supervised(&row, &tokenizer), expected, "{source}");
    }
}

#[test]
fn chats_that_cannot_be_supervised_are_refused_with_a_reason() {
    let tokenizer = chatml();
    let refusal = |source: &str, messages: Value| {
        let template = parse(source, &json!({"bos_token": "<s>"}));
        let preparer = Preparer::new(&tokenizer, Some(&template), default_options());
        preparer.rows(&chat(messages)).expect_err(source)
    };
    let two = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    // Not even the header of an answer is the same.
    let other = "{% for m in messages %}\n{{ m.role }}: {{ m.content }}{% endfor %}{% if add_generation_prompt %}\nBot>{% endif %}";
    let problem = refusal(other, two.clone());
    assert!(
        problem.text.contains("message 1: the chat template writes the messages before it differently"),
        "{problem:?}"
    );
    assert!(problem.hint.unwrap().contains("data.supervise=all"));
    let problem = refusal(&("<s>{{ bos_token }}".to_string() + CHATML), two.clone());
    assert!(problem.text.contains("two BOS"), "{problem:?}");

    let problem = refusal("{{ raise_exception('never') }}", two.clone());
    assert!(problem.text.contains("never"), "{problem:?}");

    let none = Preparer::new(&tokenizer, None, default_options()).rows(&chat(two)).unwrap_err();
    assert!(none.text.contains("no chat template"), "{none:?}");
}

/// A prompt that changes as soon as its answer follows is trained as it is served.
#[test]
fn answers_follow_the_prompt_that_is_written_for_them() {
    let tokenizer = chatml();
    let messages = json!([
        {"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"},
    ]);
    let rendered = |source: &str| {
        let template = parse(source, &json!({"bos_token": "<s>", "eos_token": "</s>"}));
        let preparer = Preparer::new(&tokenizer, Some(&template), default_options());
        let made = preparer.rows(&chat(messages.clone())).unwrap_or_else(|p| panic!("{source}: {p:?}"));
        assert!(made.left_out.is_empty(), "{source}: {:?}", made.left_out);
        let show =
            |row: &TrainRow| (tokenizer.decode(&row.input_ids, false).unwrap(), supervised(row, &tokenizer));
        made.rows.iter().map(show).collect::<Vec<_>>()
    };
    let row = |text: &str, answer: &str| (text.to_string(), vec![answer.to_string()]);
    // The system text goes before the question, but only as long as that is the last message.
    let moving = "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {% if loop.last and messages[0].role == 'system' %}\
                  {{ messages[0].content + '\n\n' }}{% endif %}{{ m.content }}[/INST]{% elif m.role == 'assistant' %} {{ m.content }}</s>{% endif %}{% endfor %}";
    assert_eq!(
        rendered(moving),
        [
            row("<s>[INST] s\n\na[/INST] b</s>", " b</s>"),
            row("<s>[INST] a[/INST] b</s>[INST] s\n\nc[/INST] d</s>", " d</s>"),
        ]
    );
    // The first letter says how many messages there are.
    let counting = "{{ messages | length }}".to_string() + CHATML;
    let found = rendered(&counting);
    assert!(
        found[0].0.starts_with("2<|im_start|>system") && found[1].0.starts_with("4<|im_start|>system"),
        "{found:?}"
    );
    assert_eq!(
        (&found[0].1, &found[1].1),
        (&vec!["b<|im_end|>".to_string()], &vec!["d<|im_end|>".to_string()])
    );
}

/// Text, completion: BOS once, EOS once.
#[test]
fn texts_get_bos_and_eos_exactly_once() {
    let special = json!({"bos_token": "<s>", "eos_token": "</s>"});
    let processor = |json: &mut Value| {
        json["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        });
        // A length that someone else once cut to must not cut here.
        json["truncation"] =
            json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    };
    let text = |tokenizer: &Tokenizer, text: &str| {
        let row = one(&Preparer::new(tokenizer, None, default_options()), &Example::Text(text.to_string()))
            .unwrap();
        tokenizer.decode(&row.input_ids, false).unwrap()
    };
    let with_processor = tokenizer_from(&[], &special, processor);
    assert_eq!(text(&with_processor, "the dog"), "<s>the dog</s>");
    assert_eq!(text(&with_processor, "<s>the dog</s>"), "<s>the dog</s>");
    let plain = tokenizer_with(&[], &special);
    assert_eq!(text(&plain, "the dog"), "the dog</s>");
    let mut asked = special.clone();
    asked["add_bos_token"] = json!(true);
    assert_eq!(text(&tokenizer_with(&[], &asked), "the dog"), "<s>the dog</s>");
    asked["add_bos_token"] = json!(false);
    assert_eq!(text(&tokenizer_from(&[], &asked, processor), "the dog"), "the dog</s>");

    let example = Example::Completion { prompt: "the dog".to_string(), completion: " rests".to_string() };
    let row = one(&Preparer::new(&with_processor, None, default_options()), &example).unwrap();
    assert_eq!(supervised(&row, &with_processor), [" rests</s>"]);
    assert_eq!(row.labels[0], IGNORE);
}

fn dataset(rows: &[Value]) -> Dataset {
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let mut dataset = Dataset::default();
    let template = parse(CHATML, &json!({}));
    let options = ReadOptions { template: Some(&template), ..ReadOptions::default() };
    dataset.add(Path::new("rows.jsonl"), text.as_bytes(), options).unwrap();
    dataset
}

#[test]
fn the_report_counts_what_was_cut_and_left_out() {
    let tokenizer = chatml();
    let template = parse(CHATML, &json!({}));
    let long = "the dog rests in the sun ".repeat(8);
    let row = |user: &str, assistant: &str| json!({"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]});
    let data = dataset(&[
        row("a", "b"),
        row("a", &long),
        row(&long, "b"),
        json!({"messages": [{"role": "user", "content": "only a question"}]}),
    ]);
    let options = PrepareOptions { max_length: Some(40), ..default_options() };
    let (rows, report) =
        Preparer::new(&tokenizer, Some(&template), options.clone()).prepare(&Threads::one(), &data).unwrap();
    assert_eq!((report.rows, report.kept, rows.len()), (4, 2, 2));
    assert_eq!((report.truncated, report.lost_terminators), (2, 2));
    assert_eq!((report.dropped_unsupervised, report.dropped_overlong), (2, 0));
    assert_eq!(report.rows_with_terminator, 1);
    assert_eq!(report.longest, 40);
    let rows = rows.to_vec().unwrap();
    assert_eq!(report.tokens, rows.iter().map(TrainRow::len).sum::<usize>());
    assert_eq!(report.label_tokens, rows.iter().map(TrainRow::label_tokens).sum::<usize>());
    assert_eq!(report.warnings().len(), 3);

    let drop = PrepareOptions { overlong: Overlong::Drop, ..options.clone() };
    let (_, report) =
        Preparer::new(&tokenizer, Some(&template), drop).prepare(&Threads::one(), &data).unwrap();
    assert_eq!(
        (report.kept, report.dropped_overlong, report.dropped_unsupervised, report.truncated),
        (1, 2, 1, 0)
    );

    let keep_end = PrepareOptions { truncation: Truncation::KeepEnd, ..options };
    let (rows, report) =
        Preparer::new(&tokenizer, Some(&template), keep_end).prepare(&Threads::one(), &data).unwrap();
    assert_eq!((report.kept, report.truncated, report.lost_terminators), (3, 2, 0));
    assert_eq!(supervised(&rows.row(2).unwrap(), &tokenizer), ["b<|im_end|>"]);
}

#[test]
fn a_data_set_that_trains_nothing_is_an_error() {
    let tokenizer = chatml();
    let template = parse(CHATML, &json!({}));
    let question = json!({"messages": [{"role": "user", "content": "a question and no answer"}]});
    let run = |options: PrepareOptions, rows: &[Value]| {
        Preparer::new(&tokenizer, Some(&template), options)
            .prepare(&Threads::one(), &dataset(rows))
            .expect_err("accepted")
    };
    let error = run(default_options(), std::slice::from_ref(&question));
    assert!(error.to_string().contains("no supervised token is left in any of 1 rows"), "{error}");
    assert!(error.hint().unwrap().contains("role assistant"));
    let answer =
        json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
    let short = PrepareOptions { max_length: Some(4), ..default_options() };
    assert!(run(short.clone(), std::slice::from_ref(&answer)).hint().unwrap().contains("keep_end"));
    let drop = PrepareOptions { overlong: Overlong::Drop, ..short };
    assert!(run(drop, &[answer]).hint().unwrap().contains("raise it"));
}

#[test]
fn errors_of_rows_name_file_and_line() {
    let tokenizer = chatml();
    let data = dataset(&[json!({"input_ids": [1, 2], "labels": [1, 2]}), json!({"input_ids": [1, 999]})]);
    let options = PrepareOptions { vocab_size: Some(320), ..default_options() };
    let error = Preparer::new(&tokenizer, None, options).prepare(&Threads::one(), &data).unwrap_err();
    assert!(matches!(&error, Error::Data { line: 2, .. }), "{error}");
    assert!(error.to_string().contains("rows.jsonl:2: token 999 is outside"), "{error}");
}

#[test]
fn a_warning_says_when_nothing_trains_the_end() {
    let tokenizer = chatml();
    let source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    let template = parse(source, &json!({}));
    let preparer = Preparer::new(&tokenizer, Some(&template), default_options());
    assert_eq!(preparer.stop_ids(), [2]);
    let data = dataset(&[
        json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b c"}]}),
    ]);
    let (rows, report) = preparer.prepare(&Threads::one(), &data).unwrap();
    assert!(supervised(&rows.row(0).unwrap(), &tokenizer)[0].ends_with("b c"));
    assert!(report.warnings()[0].contains("will not learn to stop"), "{:?}", report.warnings());
}

#[test]
fn a_preview_shows_every_character_once() {
    let tokenizer = chatml();
    let template = parse(CHATML, &json!({}));
    let preparer = Preparer::new(&tokenizer, Some(&template), default_options());
    let row = one(
        &preparer,
        &chat(json!([{"role": "user", "content": "é 👩‍🚀"}, {"role": "assistant", "content": "👍 ok"}])),
    )
    .unwrap();
    let pieces = preview(&row, &tokenizer).unwrap();
    let whole: String = pieces.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(whole, tokenizer.decode(&row.input_ids, false).unwrap());
    let coloured: String = pieces.iter().filter(|(_, on)| *on).map(|(text, _)| text.as_str()).collect();
    assert_eq!(coloured, "👍 ok<|im_end|>");
    assert!(pieces.iter().all(|(text, _)| !text.contains('\u{fffd}')));
}

#[test]
fn settings_are_read_from_both_forms_of_the_configuration() {
    let config = json!({
        "bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>", "add_bos_token": false, "unk_token": null,
        "chat_template": [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "yes"}],
    });
    let mut settings = TokenizerSettings::from_config(&config);
    settings.add_special_tokens(&json!({"eos_token": "other", "pad_token": {"content": "<pad>"}}));
    assert_eq!(settings.chat_template.as_deref(), Some("yes"));
    assert_eq!(settings.tool_template.as_deref(), Some("tools"));
    assert_eq!(settings.add_bos, Some(false));
    assert_eq!(
        json!(settings.special_tokens),
        json!({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"})
    );
}

/// Tokenizers that write a space before a word but not at the start of a text: the stream must not lose it.
#[test]
fn streams_keep_the_space_after_the_prompt() {
    let json = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "truncation": null, "padding": null,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "model": {"type": "WordLevel", "vocab": {"▁a": 0, "▁dog": 1, "▁rests": 2, "<unk>": 3}, "unk_token": "<unk>"},
    });
    let tokenizer = Tokenizer::new(json.to_string().as_bytes(), TokenizerSettings::default(), "t").unwrap();
    let prompt = tokenizer.encode("a dog").unwrap().ids;
    assert_eq!(prompt, [0, 1]);
    let mut stream = tokenizer.stream(&prompt, true);
    assert_eq!(stream.push(2).unwrap(), " rests");
    assert_eq!(stream.push(1).unwrap(), " dog");
    assert_eq!(stream.finish().unwrap(), "");
    assert_eq!(tokenizer.stream(&[], true).push(2).unwrap(), "rests");
}

#[test]
fn a_stream_does_not_wait_for_bytes_that_are_no_character() {
    let tokenizer = chatml();
    // The first byte of a four-byte character, again and again.
    let byte = tokenizer.encode("👍").unwrap().ids[0];
    let mut stream = tokenizer.stream(&[], false);
    let pieces: Vec<String> = (0..20).map(|_| stream.push(byte).unwrap()).collect();
    assert!(pieces[..4].iter().all(String::is_empty) && pieces.concat().chars().count() >= 16, "{pieces:?}");
}
