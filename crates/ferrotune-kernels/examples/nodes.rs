//! On a machine with several memory nodes: where a new matrix lies, and how often rows are worked on by the node that they
//! lie on: `cargo run --release -p ferrotune-kernels --example nodes -- THREADS`. Reads Linux' `/proc` and `/sys`.
#![allow(clippy::print_stdout)]

use std::fs::read_to_string;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ferrotune_kernels::Device;
use ferrotune_kernels::cpu::{Cpu, Isa};

const ROWS: usize = 16 << 10;
const COLS: usize = 1 << 10;

/// The node of the processor that this thread is on.
fn here() -> usize {
    let stat = read_to_string("/proc/thread-self/stat").unwrap_or_default();
    // The 39th field; the second is a name in brackets.
    let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
    let cpu = after.split(' ').nth(36).unwrap_or("0");
    let link = |node: &usize| PathBuf::from(format!("/sys/devices/system/cpu/cpu{cpu}/node{node}")).exists();
    (0..64).find(link).unwrap_or(0)
}

/// Pages of each node in the mapping that begins before `address`.
fn pages(address: usize) -> String {
    let maps = read_to_string("/proc/self/numa_maps").unwrap_or_default();
    let start = |line: &str| usize::from_str_radix(line.split(' ').next().unwrap_or(""), 16).ok();
    let line = maps.lines().rfind(|line| start(line).is_some_and(|start| start <= address)).unwrap_or("");
    let of_nodes = line.split(' ').filter(|word| {
        word.strip_prefix('N').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    });
    of_nodes.collect::<Vec<_>>().join(" ")
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(4);
    let Ok(cpu) = Cpu::new(threads, Isa::detect()) else { return };
    let matrix = Device::Cpu(cpu.clone()).zeros(ROWS, COLS);
    println!("pages of a new matrix of {ROWS} x {COLS}: {}", pages(matrix.host_f32().as_ptr() as usize));
    let pass = || {
        let nodes = Mutex::new(vec![0; ROWS]);
        cpu.threads().run_ranges(ROWS, 1, |rows| {
            let (node, until) = (here(), Instant::now() + Duration::from_millis(2));
            while Instant::now() < until {
                std::hint::spin_loop();
            }
            if let Ok(mut nodes) = nodes.lock() {
                nodes[rows].fill(node);
            }
        });
        nodes.into_inner().unwrap_or_default()
    };
    let first = pass();
    let mut same = 0;
    for _ in 0..50 {
        same += pass().iter().zip(&first).filter(|(now, first)| now == first).count();
    }
    println!("rows of the first half, by node: {:?}", count(&first[..ROWS / 2]));
    println!("rows of the second half, by node: {:?}", count(&first[ROWS / 2..]));
    println!("rows that the same node works on in later passes: {:.1}%", 2.0 * same as f64 / ROWS as f64);
}

fn count(nodes: &[usize]) -> Vec<(usize, usize)> {
    let mut all = nodes.to_vec();
    all.sort_unstable();
    all.chunk_by(|a, b| a == b).map(|same| (same[0], same.len())).collect()
}
