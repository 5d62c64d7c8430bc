//! What of a model's files is in memory. A test of its own process: others would map the same files.
#![cfg(target_os = "linux")]

use std::path::Path;

use ferrotune::Device;
use ferrotune::formats::Checkpoint;
use ferrotune::formats::quantized::{Blocks, QuantKind, Quantized};
use ferrotune::load::{BaseStorage, load};

/// KiB of a mapped file that are in this process's memory.
fn resident(path: &Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let name = path.display().to_string();
    let mut lines = maps.lines().skip_while(|line| !line.ends_with(&name));
    let line = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// A file of a network is looked at all over; what is used where it lies comes back when it is used.
#[test]
fn nothing_of_a_file_stays_when_a_network_was_made() {
    let options = Quantized::new(QuantKind::Nf4, Blocks { block: 64, double: true }).unwrap().unwrap();
    let dev = Device::reference();
    for model in ["llama3_rope", "mixtral"] {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/models");
        let source = source.join(model).join("model");
        // Other tests map the original.
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(source).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        let weights = folder.path().join("model.safetensors");
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        for form in [BaseStorage::AsStored, BaseStorage::Quantized(options), BaseStorage::Trained] {
            let network = load(&dev, &checkpoint, form, 8).unwrap();
            assert_eq!(resident(&weights), 0, "{model} {form:?}");
            drop(network);
        }
    }
}
