//! Whether a template writes everything that a row says.
//!
//! A chat of the same build is rendered with a word of its own in the place of each piece: what such a word does not
//! come out for, the template leaves out. Few builds make up most data sets, so that is done once for each. The texts
//! themselves are looked for too, as a template may decide by them.

use super::reasoning::thought;
use super::spans::{Carrier, Chat};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

/// A piece of a row that a template may leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Piece {
    /// The system message at the start.
    SystemText,
    /// A system message further on.
    LaterSystemText,
    /// The functions that the model may call.
    Tools,
    /// A message of the user.
    UserText,
    /// Text of the assistant.
    Answer,
    /// Name or arguments of a function that the assistant calls.
    ToolCall,
    /// What a function answered.
    ToolResult,
    /// A message of another role.
    OtherText,
    /// What the assistant thought before an answer that is trained.
    Thought,
}

impl Piece {
    /// All of them.
    pub(super) const ALL: &[Piece] = &[
        Piece::SystemText,
        Piece::LaterSystemText,
        Piece::Tools,
        Piece::UserText,
        Piece::Answer,
        Piece::ToolCall,
        Piece::ToolResult,
        Piece::OtherText,
        Piece::Thought,
    ];

    /// The piece in the words of a warning.
    pub fn words(self) -> &'static str {
        match self {
            Piece::SystemText => "the system text",
            Piece::LaterSystemText => "a system text after the start",
            Piece::Tools => "the tools",
            Piece::UserText => "a message of the user",
            Piece::Answer => "an answer, or a part of it",
            Piece::ToolCall => "a tool call, or a part of it",
            Piece::ToolResult => "the result of a tool",
            Piece::OtherText => "a message",
            Piece::Thought => "the thought (reasoning) of an answer that is trained",
        }
    }

    fn of(message: &Value, index: usize) -> Piece {
        match message["role"].as_str().unwrap_or_default() {
            "system" | "developer" if index == 0 => Piece::SystemText,
            "system" | "developer" => Piece::LaterSystemText,
            "user" => Piece::UserText,
            "assistant" => Piece::Answer,
            "tool" => Piece::ToolResult,
            _ => Piece::OtherText,
        }
    }
}

/// What is left out of chats of the builds that were met already.
#[derive(Debug, Default)]
pub(super) struct Known {
    builds: Mutex<HashMap<String, Arc<BTreeSet<Piece>>>>,
}

/// Builds that are remembered at most.
const BUILDS: usize = 10_000;

/// What the rows of a chat do not say of it. Thoughts are not looked for here.
pub(super) fn left_out(chat: &Chat<'_>, carriers: &[Carrier], known: &Known) -> BTreeSet<Piece> {
    let build = build(chat, carriers);
    let found = known.builds.lock().ok().and_then(|builds| builds.get(&build).cloned());
    let by_build = found.unwrap_or_else(|| {
        let found = Arc::new(probed(chat, carriers).unwrap_or_default());
        if let Ok(mut builds) = known.builds.lock()
            && builds.len() < BUILDS
        {
            builds.insert(build, Arc::clone(&found));
        }
        found
    });
    let mut left_out = by_build.as_ref().clone();
    for (i, message) in chat.messages.iter().enumerate() {
        let piece = Piece::of(message, i);
        if !left_out.contains(&piece) && !texts(message).iter().all(|text| written(carriers, text)) {
            left_out.insert(piece);
        }
    }
    left_out
}

/// What decides which pieces a template writes, unless it reads the texts.
fn build(chat: &Chat<'_>, carriers: &[Carrier]) -> String {
    let mut build = format!("{:?} {}", chat.tools.map(<[Value]>::len), json!(chat.kwargs));
    for carrier in carriers {
        build += &format!(" {}{}", carrier.upto, carrier.joined);
    }
    for message in chat.messages {
        let calls = message["tool_calls"].as_array().map_or(0, Vec::len);
        let content = match &message["content"] {
            Value::Array(parts) => format!("p{}", parts.len()),
            Value::String(text) if text.is_empty() => "e".to_string(),
            Value::String(text) if text.contains("</think>") => "t".to_string(),
            Value::String(_) => "s".to_string(),
            _ => "-".to_string(),
        };
        let thought = thought(message).is_some();
        build += &format!(" {} {content} {calls} {thought}", message["role"].as_str().unwrap_or_default());
    }
    build
}

/// The texts of a message without the thought.
fn texts(message: &Value) -> Vec<&str> {
    match &message["content"] {
        Value::String(text) => vec![text.rsplit_once("</think>").map_or(text.as_str(), |(_, rest)| rest)],
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => Vec::new(),
    }
}

/// Whether a text stands in one of the renderings, as it is or as JSON or line by line.
fn written(carriers: &[Carrier], text: &str) -> bool {
    let text = text.trim();
    let inside = |piece: &str| carriers.iter().rev().any(|carrier| carrier.rendered.text.contains(piece));
    if inside(text) {
        return true;
    }
    let escaped = json!(text).to_string();
    inside(&escaped[1..escaped.len() - 1]) || text.lines().all(|line| inside(line.trim()))
}

/// What is left out of a chat of the same build with a word for each piece; `None` if the template refuses it.
fn probed(chat: &Chat<'_>, carriers: &[Carrier]) -> Option<BTreeSet<Piece>> {
    let mut asked: Vec<(Piece, String)> = Vec::new();
    let mut messages = chat.messages.to_vec();
    for (i, message) in messages.iter_mut().enumerate() {
        let piece = Piece::of(message, i);
        let mut ask = |piece, kind: &str| {
            let word = format!("Qprobe{}{kind}{i}x", asked.len());
            asked.push((piece, word.clone()));
            word
        };
        match &mut message["content"] {
            Value::String(text) if !text.trim().is_empty() => {
                let word = ask(piece, "t");
                *text =
                    if text.contains("</think>") { format!("<think>\nx\n</think>\n\n{word}") } else { word };
            }
            Value::Array(parts) => {
                for part in parts.iter_mut().filter(|part| part["text"].is_string()) {
                    part["text"] = json!(ask(piece, "p"));
                }
            }
            _ => {}
        }
        for call in message["tool_calls"].as_array_mut().into_iter().flatten() {
            let function = &mut call["function"];
            function["name"] = json!(ask(Piece::ToolCall, "c"));
            let has_some = |arguments: &Value| arguments.as_object().is_some_and(|given| !given.is_empty());
            if function["arguments"].is_string() {
                function["arguments"] = json!(ask(Piece::ToolCall, "a"));
            } else if has_some(&function["arguments"]) {
                function["arguments"] = json!({"town": ask(Piece::ToolCall, "a")});
            }
        }
        drop_nulls(message);
    }
    let tools = chat.tools.map(|tools| {
        let word = "Qprobetool";
        asked.push((Piece::Tools, word.to_string()));
        vec![tool(&tools[0], word)]
    });
    let render =
        |(upto, prompt): (usize, bool)| chat.render_others(&messages[..upto], tools.as_deref(), prompt).ok();
    // Of a prompt and its answer both parts count.
    let prompts = carriers.iter().filter(|carrier| carrier.joined).map(|carrier| (carrier.upto - 1, true));
    let wholes = carriers.iter().map(|carrier| (carrier.upto, false));
    let texts = wholes.chain(prompts).map(render).collect::<Option<Vec<_>>>()?;
    let missing = asked.into_iter().filter(|(_, word)| !texts.iter().any(|r| r.text.contains(word.as_str())));
    Some(missing.map(|(piece, _)| piece).collect())
}

/// Reading a field of a JSON object to change it makes the field; what was not there goes again.
fn drop_nulls(message: &mut Value) {
    if let Value::Object(fields) = message {
        fields.retain(|_, value| !value.is_null());
    }
}

/// The description of a tool under another name.
fn tool(like: &Value, name: &str) -> Value {
    let mut tool = like.clone();
    match tool.get_mut("function") {
        Some(function @ Value::Object(_)) => function["name"] = json!(name),
        _ => tool["name"] = json!(name),
    }
    tool
}
