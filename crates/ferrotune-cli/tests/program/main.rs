//! The program as a user runs it: the built binary in a folder of its own, judged by exit code, output and files.

// Everything that a sibling module uses is `pub`, as in the binary itself.
#![allow(unreachable_pub)]

mod bad_input;
mod cache;
mod combine;
mod faults;
mod helper;
mod no_memory;
mod plan;
mod prefixes;
mod quantize;
mod quickstart;
mod resume;
mod run_folder;
mod settings;
mod streams;
mod train;
mod variants;
