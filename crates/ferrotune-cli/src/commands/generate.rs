//! `generate`: one prompt, one continuation, streamed.

use std::io::Read;
use std::process::ExitCode;
use std::time::Instant;

use ferrotune::base::BaseModel;
use ferrotune::generate::{Engine, Sampling, Stop};
use ferrotune::merge::merge_in_place;
use ferrotune::{Error, Result};
use serde_json::json;

use super::device;
use super::open::open_to_answer;
use crate::args::{Args, GenerateArgs, SamplingArgs};
use crate::report::Report;

/// Room for the prompt.
const CONTEXT: usize = 4096;

pub fn run(args: &Args, a: &GenerateArgs, report: &Report) -> Result<ExitCode> {
    let prompt = match &a.prompt {
        Some(text) => text.clone(),
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(|e| Error::io("standard input", e))?;
            text
        }
    };
    let positions = CONTEXT + a.sampling.max_new_tokens;
    let mut loaded = open_to_answer(args, &a.model, device(args, None)?, positions, report)?;
    if a.merged {
        let adapter = loaded.adapter.take().ok_or_else(|| {
            Error::config("--merged", "there is no adapter to merge").with_hint("give an adapter folder")
        })?;
        merge_in_place(&loaded.dev, &mut loaded.model, &adapter)?;
    }
    let ids = if a.raw || loaded.base.template.is_none() {
        let mut ids = loaded.base.tokenizer.prefix().to_vec();
        ids.extend(loaded.base.tokenizer.encode(&prompt)?.ids);
        ids
    } else {
        let mut messages = loaded.opening(a.system.as_deref());
        messages.push(json!({"role": "user", "content": prompt}));
        loaded.base.prompt(&messages)?
    };
    if ids.is_empty() || ids.len() > CONTEXT {
        let problem = format!("{} tokens, between 1 and {CONTEXT} are possible", ids.len());
        return Err(Error::config("--prompt", problem));
    }
    let sampling = sampling(&a.sampling, &loaded.base)?;
    let stop = Stop { max_new: a.sampling.max_new_tokens, ids: loaded.base.stop_ids()? };
    let pass = loaded.own_pass();
    let start = Instant::now();
    let mut engine = Engine::new(&loaded.model, &pass, 1, ids.len() + a.sampling.max_new_tokens);
    let logits = engine.prefill(&pass, 0, &ids)?;
    let prefill = start.elapsed().as_secs_f64();
    let mut stream = loaded.base.tokenizer.stream(&ids, true);
    let mut text = String::new();
    let mut failed = None;
    let tokens = engine.stream(&pass, logits, sampling, &stop, |token| match stream.push(token) {
        Ok(piece) => {
            report.stream(&piece);
            text.push_str(&piece);
            true
        }
        Err(e) => {
            failed = Some(e);
            false
        }
    })?;
    if let Some(e) = failed {
        return Err(e);
    }
    let rest = stream.finish()?;
    report.stream(&rest);
    report.stream("\n");
    text.push_str(&rest);
    let seconds = start.elapsed().as_secs_f64() - prefill;
    report.done(&json!({
        "text": text, "tokens": tokens.len(), "prompt_tokens": ids.len(), "prefill_seconds": prefill,
        "tokens_per_second": tokens.len() as f64 / seconds.max(1e-9),
    }));
    Ok(ExitCode::SUCCESS)
}

/// The options, and where they are silent the model's own suggestions.
pub fn sampling(a: &SamplingArgs, base: &BaseModel) -> Result<Sampling> {
    let own = base.checkpoint.generation_config()?;
    let samples = own.do_sample == Some(true);
    let suggested = own.temperature.filter(|_| samples).map_or(0.0, |t| t as f32);
    Ok(Sampling {
        temperature: a.temperature.unwrap_or(suggested),
        top_k: a.top_k.or(own.top_k).unwrap_or(0),
        top_p: a.top_p.or(own.top_p.map(|p| p as f32)).unwrap_or(1.0),
        seed: a.seed,
    })
}
