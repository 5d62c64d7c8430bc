//! Text becomes batches: rows are read, rendered with the model's chat template, tokenized, packed and ordered.

pub mod dataset;

pub mod chat_template;

pub mod tokenizer;

pub mod tokenize;

pub mod pack;

pub mod loader;

pub mod random;
