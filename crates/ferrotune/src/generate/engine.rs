//! Decoding of one or many sequences over a key/value cache.

use ferrotune_kernels::Tensor;

use super::sampler::Sampling;
use crate::Result;
use crate::model::kv_cache::KvCache;
use crate::model::{Decoder, Pass};

/// Prompt tokens that go through the model at a time; bounds the activations of a prefill.
const PREFILL: usize = 512;

/// When a sequence ends.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Most new tokens.
    pub max_new: usize,
    /// Tokens that end it; they are not part of the result.
    pub ids: Vec<u32>,
}

/// A model with the caches of some sequences.
pub struct Engine<'m> {
    model: &'m Decoder,
    cache: KvCache,
}

impl<'m> Engine<'m> {
    /// Room for `sequences` sequences of `capacity` tokens.
    pub fn new(model: &'m Decoder, pass: &Pass<'_>, sequences: usize, capacity: usize) -> Self {
        Engine { model, cache: model.cache(pass.dev, pass, sequences, capacity) }
    }

    /// Tokens that sequence `i` holds.
    pub fn len(&self, i: usize) -> usize {
        self.cache.len(i)
    }

    /// Whether no sequence holds a token.
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty()
    }

    /// Most tokens of a sequence.
    pub fn capacity(&self) -> usize {
        self.cache.capacity()
    }

    /// Forgets what sequence `i` holds from token `len` on, and gives what it holds then: maybe less, as
    /// [`KvCache::truncate`] says.
    pub fn truncate(&mut self, i: usize, len: usize) -> usize {
        self.cache.truncate(i, len)
    }

    /// Appends tokens to sequences and gives the logits after the last token of each, `[news, V]`.
    pub fn extend(&mut self, pass: &Pass<'_>, news: &[(usize, &[u32])]) -> Result<Tensor> {
        let lengths: Vec<(usize, usize)> = news.iter().map(|(i, t)| (*i, t.len())).collect();
        let ids: Vec<u32> = news.iter().flat_map(|(_, t)| t.iter().copied()).collect();
        let slots = self.cache.reserve(&lengths)?;
        let x = self.model.forward_cached(pass, &ids, &slots, &mut self.cache)?;
        let last: Vec<u32> = slots.segments.iter().map(|s| (s.q_start + s.q_len - 1) as u32).collect();
        self.model.logits(pass, &x, &last)
    }

    /// Appends a long run of tokens to one sequence piece by piece.
    pub fn prefill(&mut self, pass: &Pass<'_>, sequence: usize, tokens: &[u32]) -> Result<Tensor> {
        let mut pieces = tokens.chunks(PREFILL).peekable();
        while let Some(piece) = pieces.next() {
            if pieces.peek().is_none() {
                return self.extend(pass, &[(sequence, piece)]);
            }
            self.extend(pass, &[(sequence, piece)])?;
        }
        Ok(pass.dev.zeros(1, self.model.arch.vocab))
    }

    /// Goes on with sequence 0 after `logits`; `on_token` sees each token as it is chosen and may end the sequence
    /// by returning false.
    pub fn stream(
        &mut self,
        pass: &Pass<'_>,
        mut logits: Tensor,
        sampling: Sampling,
        stop: &Stop,
        mut on_token: impl FnMut(u32) -> bool,
    ) -> Result<Vec<u32>> {
        let mut out = Vec::new();
        while out.len() < stop.max_new {
            let token = sampling.choose(logits.host_f32(), 0, self.len(0));
            if stop.ids.contains(&token) {
                break;
            }
            out.push(token);
            if !on_token(token) || out.len() == stop.max_new || self.len(0) + 1 >= self.capacity() {
                break;
            }
            logits = self.extend(pass, &[(0, &[token])])?;
        }
        Ok(out)
    }
}

/// The continuation of every prompt, `batch` of them at a time.
pub(crate) fn complete(
    model: &Decoder,
    pass: &Pass<'_>,
    prompts: &[Vec<u32>],
    batch: usize,
    sampling: Sampling,
    stop: &Stop,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Vec<u32>>> {
    let mut all = Vec::with_capacity(prompts.len());
    for (b, prompts) in prompts.chunks(batch.max(1)).enumerate() {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let mut engine = Engine::new(model, pass, prompts.len(), longest + stop.max_new);
        let news: Vec<(usize, &[u32])> = prompts.iter().map(Vec::as_slice).enumerate().collect();
        let vocab = model.arch.vocab;
        let mut outs = vec![Vec::new(); prompts.len()];
        let mut logits = engine.extend(pass, &news)?;
        let mut active: Vec<usize> = (0..prompts.len()).collect();
        loop {
            let mut next: Vec<(usize, u32)> = Vec::new();
            for (row, &i) in active.iter().enumerate() {
                let token =
                    sampling.choose(&logits.host_f32()[row * vocab..][..vocab], b * batch + i, engine.len(i));
                if !stop.ids.contains(&token) {
                    outs[i].push(token);
                    if outs[i].len() < stop.max_new {
                        next.push((i, token));
                    }
                }
            }
            if next.is_empty() {
                break;
            }
            let tokens: Vec<(usize, [u32; 1])> = next.iter().map(|(i, t)| (*i, [*t])).collect();
            let news: Vec<(usize, &[u32])> = tokens.iter().map(|(i, t)| (*i, t.as_slice())).collect();
            logits = engine.extend(pass, &news)?;
            active = next.into_iter().map(|(i, _)| i).collect();
        }
        all.append(&mut outs);
        progress(all.len());
    }
    Ok(all)
}
