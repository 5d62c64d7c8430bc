//! The peer of decoding: llama.cpp, through llama-cpp-python.

use std::path::Path;

use serde_json::json;

use super::ours::{NEW_TOKENS, PROMPT};
use crate::golden::Failure;
use crate::shared::python::{Python, number};

/// Tokens per second of greedy decoding of a GGUF file, in a process of its own.
pub(super) fn decode(interpreter: &Path, gguf: &Path, threads: usize, work: &Path) -> Result<f64, Failure> {
    let out = work.join("llama");
    std::fs::create_dir_all(&out)?;
    let job =
        json!({"out": out, "gguf": gguf, "threads": threads, "prompt": PROMPT, "new_tokens": NEW_TOKENS});
    number(&Python::named(interpreter).script("bench/llama.py", &out, &job)?, "tokens_per_second")
}
