//! `chat`: a conversation with a cache, streamed; adapters are switched beside the one base in memory.

use std::io::BufRead;
use std::path::Path;
use std::process::ExitCode;

use ferrotune::generate::{Engine, Stop};
use ferrotune::lora::Adapter;
use ferrotune::{Error, Result};
use serde_json::{Value, json};

use super::device;
use super::generate::sampling;
use super::open::{Loaded, open_to_answer};
use crate::args::{Args, ChatArgs};
use crate::report::Report;

const HELP: &str =
    "/adapter FOLDER  use this adapter   /base  the base alone   /reset  start over   /quit  leave";

pub fn run(args: &Args, a: &ChatArgs, report: &Report) -> Result<ExitCode> {
    let mut loaded = open_to_answer(args, &a.model, device(args, None)?, a.context, report)?;
    let mut adapter = loaded.adapter.take();
    let mut messages = loaded.opening(a.system.as_deref());
    let mut cached: Vec<u32> = Vec::new();
    let mut engine = Engine::new(&loaded.model, &loaded.pass(None), 1, a.context);
    report.say(HELP);
    report.prompt();
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|e| Error::io("standard input", e))?;
        let line = line.trim();
        match line.split_once(' ').unwrap_or((line, "")) {
            ("", _) => {}
            ("/quit" | "/exit", _) => break,
            ("/help", _) => report.say(HELP),
            ("/reset", _) => messages = loaded.opening(a.system.as_deref()),
            ("/base", _) => switch(&mut adapter, None, &mut cached, report),
            ("/adapter", folder) => match load(&loaded, folder.trim(), report) {
                Ok(new) => switch(&mut adapter, Some(new), &mut cached, report),
                // The conversation goes on with what it had.
                Err(e) => report.error(&e),
            },
            (word, _) if word.starts_with('/') => report.say(format!("{word} is not a command. {HELP}")),
            _ => {
                messages.push(json!({"role": "user", "content": line}));
                match answer(&loaded, adapter.as_ref(), &mut engine, &mut cached, &messages, a, report) {
                    Ok(answer) => messages.push(json!({"role": "assistant", "content": answer})),
                    Err(e) => {
                        report.error(&e);
                        messages.pop();
                    }
                }
            }
        }
        report.prompt();
    }
    report.done(&json!({"messages": messages}));
    Ok(ExitCode::SUCCESS)
}

fn load(loaded: &Loaded, folder: &str, report: &Report) -> Result<Adapter> {
    super::open::further_adapter(loaded, Path::new(folder), report)
}

/// Keys and values depend on the adapter, so the cache starts over.
fn switch(slot: &mut Option<Adapter>, new: Option<Adapter>, cached: &mut Vec<u32>, report: &Report) {
    report.say(if new.is_some() { "adapter in use" } else { "base alone" });
    *slot = new;
    cached.clear();
}

/// Streams the answer to the last message; only tokens that the cache does not hold go through the model.
fn answer(
    loaded: &Loaded,
    adapter: Option<&Adapter>,
    engine: &mut Engine<'_>,
    cached: &mut Vec<u32>,
    messages: &[Value],
    a: &ChatArgs,
    report: &Report,
) -> Result<String> {
    let ids = loaded.base.prompt(messages)?;
    if ids.len() + 1 >= a.context {
        let problem = format!("the conversation has {} tokens, --context allows {}", ids.len(), a.context);
        return Err(Error::train(problem).with_hint("start over with /reset, or raise --context"));
    }
    // At least one token must go through, to have logits.
    let shared = cached.iter().zip(&ids).take_while(|(a, b)| a == b).count().min(ids.len() - 1);
    let shared = engine.truncate(0, shared);
    let pass = loaded.pass(adapter);
    let logits = engine.prefill(&pass, 0, &ids[shared..])?;
    let stop = Stop { max_new: a.sampling.max_new_tokens, ids: loaded.base.stop_ids()? };
    let mut stream = loaded.base.tokenizer.stream(&ids, true);
    let mut text = String::new();
    let tokens = engine.stream(&pass, logits, sampling(&a.sampling, &loaded.base)?, &stop, |token| {
        let piece = stream.push(token).unwrap_or_default();
        report.stream(&piece);
        text.push_str(&piece);
        true
    })?;
    let rest = stream.finish()?;
    report.stream(&rest);
    report.stream("\n");
    text.push_str(&rest);
    *cached = ids;
    cached.extend(tokens);
    cached.truncate(engine.len(0));
    Ok(text.trim().to_string())
}
