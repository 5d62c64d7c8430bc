//! What layers keep of sequences in generation.

use ferrotune_kernels::ops::attention::Segment;
use ferrotune_kernels::{Device, Precision, Tensor};

use super::mixer::Cached;
use crate::{Error, Result};

/// What one layer keeps.
#[derive(Debug)]
pub enum LayerCache {
    /// Keys (after the rotation) and values of every token, `[sequences * capacity, G * head_dim]`; a sequence has `capacity`
    /// rows of its own.
    Keys {
        /// Keys.
        k: Tensor,
        /// Values.
        v: Tensor,
    },
    /// What a recurrence carries from one token to the next: tensors with as many rows for every sequence, zeros where it
    /// begins.
    States(Vec<Tensor>),
    /// What two mixers of a layer keep.
    Both(Box<[LayerCache; 2]>),
}

impl LayerCache {
    /// Keys and values of this width.
    pub(crate) fn keys(dev: &Device, precision: Precision, rows: usize, width: usize) -> Self {
        let make = || dev.uninit(rows, width, precision.saved());
        LayerCache::Keys { k: make(), v: make() }
    }

    /// Makes the states of sequence `i` of so many those before it begins; whether there are any.
    fn restart(&mut self, i: usize, sequences: usize) -> bool {
        match self {
            LayerCache::Keys { .. } => return false,
            LayerCache::States(states) => {
                for state in states {
                    let n = state.len() / sequences;
                    state.host_f32_mut()[i * n..(i + 1) * n].fill(0.0);
                }
            }
            LayerCache::Both(both) => {
                return both.each_mut().map(|c| c.restart(i, sequences)).contains(&true);
            }
        }
        true
    }
}

/// The `N` states of a layer that keeps them, and the sequence of each segment.
pub(super) fn states<const N: usize>(cache: Option<Cached<'_>>) -> Option<([&mut Tensor; N], &[usize])> {
    let (LayerCache::States(states), slots) = cache? else { return None };
    let states: Vec<&mut Tensor> = states.iter_mut().collect();
    let states = states.try_into().unwrap_or_else(|_| unreachable!("a layer makes the states that it reads"));
    Some((states, &slots.sequences))
}

/// The caches of all layers, and how much of them is filled.
#[derive(Debug)]
pub struct KvCache {
    /// One cache for each layer.
    pub layers: Vec<LayerCache>,
    lengths: Vec<usize>,
    capacity: usize,
}

/// Where the next tokens of some sequences go.
#[derive(Debug)]
pub struct Slots {
    /// Position of each token in its sequence.
    pub positions: Vec<u32>,
    /// Row of the cache for each token.
    pub rows: Vec<u32>,
    /// Sequence of each segment.
    pub sequences: Vec<usize>,
    /// Attention from the new tokens to the whole sequence.
    pub segments: Vec<Segment>,
}

impl KvCache {
    /// Room for `sequences` sequences of at most `capacity` tokens.
    pub fn new(layers: Vec<LayerCache>, sequences: usize, capacity: usize) -> Self {
        KvCache { layers, lengths: vec![0; sequences], capacity }
    }

    /// Tokens that sequence `i` holds.
    pub fn len(&self, i: usize) -> usize {
        self.lengths[i]
    }

    /// Whether no sequence holds a token.
    pub fn is_empty(&self) -> bool {
        self.lengths.iter().all(|n| *n == 0)
    }

    /// Most tokens of a sequence.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets what sequence `i` holds from token `len` on, and gives what it holds then: nothing, where a layer has a state,
    /// which cannot go back.
    pub fn truncate(&mut self, i: usize, len: usize) -> usize {
        if len >= self.lengths[i] {
            return self.lengths[i];
        }
        let sequences = self.lengths.len();
        self.lengths[i] = len;
        for layer in &mut self.layers {
            if layer.restart(i, sequences) {
                self.lengths[i] = 0;
            }
        }
        self.lengths[i]
    }

    /// Reserves the next `n` tokens of every listed `(sequence, n)`.
    pub(crate) fn reserve(&mut self, news: &[(usize, usize)]) -> Result<Slots> {
        let sequences = news.iter().map(|(i, _)| *i).collect();
        let mut slots = Slots { positions: Vec::new(), rows: Vec::new(), sequences, segments: Vec::new() };
        for &(i, n) in news {
            let (start, end) = (self.lengths[i], self.lengths[i] + n);
            if end > self.capacity {
                let problem = format!("the context is full: {end} tokens of {}", self.capacity);
                return Err(Error::train(problem).with_hint("ask for fewer new tokens or a longer context"));
            }
            let base = i * self.capacity;
            let q_start = slots.rows.len();
            slots.positions.extend(start as u32..end as u32);
            slots.rows.extend((base + start) as u32..(base + end) as u32);
            slots.segments.push(Segment { q_start, q_len: n, k_start: base, k_len: end, parent: None });
            self.lengths[i] = end;
        }
        Ok(slots)
    }
}
