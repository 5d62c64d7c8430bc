//! The program as a user runs it: the built binary in a folder of its own, judged by exit code, output and files.

// Everything that a sibling module uses is `pub`, as in the binary itself.
#![allow(unreachable_pub)]

mod bad_input;
mod bad_rows;
mod cache;
mod code;
mod columns;
mod combine;
mod config;
mod containers;
mod data_files;
#[path = "../../../ferrotune-hub/tests/server/data_hub.rs"]
mod data_hub;
mod data_report;
mod data_sets;
mod eval_rows;
mod exports;
mod faults;
mod forms;
mod gguf_words;
mod helper;
mod init_adapter;
mod mapped_pages;
mod never_silent;
mod no_memory;
mod packed_experts;
mod peft_folders;
mod plan;
mod prefixes;
mod quantize;
mod quickstart;
mod reasoning;
mod recipes;
mod resume;
mod rows;
mod run_folder;
mod run_paths;
mod same_numbers;
#[path = "../../../ferrotune-hub/tests/server/mod.rs"]
mod server;
mod settings;
mod sources;
mod streams;
mod template_choice;
mod template_variables;
mod templates;
mod threads;
mod tokens_cache;
mod train;
mod variants;
mod wrappers;
