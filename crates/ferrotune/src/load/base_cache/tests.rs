use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use ferrotune_kernels::quant::nf4::Scales;
use ferrotune_kernels::quant::{FourBit, Int8Rows};
use ferrotune_kernels::{Device, Threads, Weight};

use super::*;
use crate::formats::quantized::{Blocks, QuantKind, Quantized};
use crate::load::{BaseStorage, load, load_cached};
use crate::model::parts::Base;

/// More than the tests write.
const DEFAULT_LIMIT: u64 = 64 << 30;

fn nf4() -> BaseStorage {
    quantized(QuantKind::Nf4, 64, true)
}

fn int8() -> BaseStorage {
    quantized(QuantKind::Int8, 64, true)
}

fn quantized(kind: QuantKind, block: usize, double: bool) -> BaseStorage {
    BaseStorage::Quantized(Quantized::new(kind, Blocks { block, double }).unwrap().unwrap())
}

fn golden(name: &str) -> Checkpoint {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(name);
    Checkpoint::open(&path).unwrap()
}

/// Everything that a weight is stored as.
fn bytes(weight: &Weight) -> Vec<Vec<u8>> {
    let floats = |v: &[f32]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    match (weight.format::<FourBit>(), weight.format::<Int8Rows>()) {
        (Some(bits), _) => {
            let mut all = vec![bits.packed().to_vec(), floats(bits.code()), vec![bits.block().ilog2() as u8]];
            match bits.scales() {
                Scales::Plain(scales) => all.push(floats(scales)),
                Scales::Nested { codes, absmax, map, offset, block } => {
                    all.extend([codes.as_slice().to_vec(), floats(absmax), floats(&map[..])]);
                    all.push(floats(&[*offset, *block as f32]));
                }
            }
            all
        }
        (None, Some(rows)) => vec![rows.codes().to_vec(), floats(rows.absmax())],
        (None, None) => panic!("{weight:?} is not quantized"),
    }
}

type Linears = Vec<(String, usize, usize, Vec<Vec<u8>>)>;

/// What is quantized, by a cache or without.
fn linears(
    checkpoint: &Checkpoint,
    form: impl Into<BaseForm>,
    cache: Option<&BaseCache>,
) -> (Linears, Vec<String>) {
    let (form, mut notes) = (form.into(), Vec::new());
    let dev = Device::reference();
    let (model, _) = match cache {
        Some(_) => load_cached(&dev, checkpoint, form, 8, cache, &mut |note| notes.push(note)).unwrap(),
        None => load(&dev, checkpoint, form, 8).unwrap(),
    };
    let of = |name: &str, base: &Base| match base {
        Base::Frozen(w) => (name.to_string(), w.rows(), w.cols(), bytes(w)),
        Base::Trained(_) => panic!("{name} is trained"),
    };
    let in_layer = |name: &str| {
        name.starts_with("model.layers.") && !name.ends_with(".gate") && !name.ends_with(".router")
    };
    let mut found = Vec::new();
    for l in model.linears() {
        let storage = if in_layer(&l.name) { form.linears } else { form.tables };
        if storage.quantized_name().is_some() && (in_layer(&l.name) || l.name == "lm_head") {
            found.push(of(&l.name, &l.base));
        }
    }
    if form.tables.quantized_name().is_some() {
        found.push(of("model.embed_tokens", &model.embed));
    }
    (found, notes)
}

fn file_of(folder: &Path) -> PathBuf {
    let all = list(folder).unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].path.clone()
}

#[test]
fn every_linear_is_the_same_made_kept_and_read() {
    let storages: [BaseForm; 7] = [
        nf4().into(),
        quantized(QuantKind::Nf4, 256, false).into(),
        quantized(QuantKind::Fp4, 64, true).into(),
        int8().into(),
        BaseForm { linears: nf4(), tables: nf4() },
        BaseForm { linears: nf4(), tables: int8() },
        BaseForm { linears: BaseStorage::AsStored, tables: nf4() },
    ];
    for name in [
        "models/llama3_rope/model",
        "models/phi3/model",
        "models/qwen3_moe/model",
        "gguf/llama_tied/model.gguf",
    ] {
        let checkpoint = golden(name);
        let dir = tempfile::tempdir().unwrap();
        for (i, storage) in storages.into_iter().enumerate() {
            let expected = linears(&checkpoint, storage, None).0;
            let least = if storage.linears == BaseStorage::AsStored { 1 } else { 8 };
            assert!(expected.len() >= least, "{name}");
            for time in ["made", "read"] {
                let cache = BaseCache::new(dir.path(), DEFAULT_LIMIT);
                let (found, notes) = linears(&checkpoint, storage, Some(&cache));
                assert!(found == expected, "{name} {storage:?} {time}");
                assert_eq!(notes, [""; 0]);
                drop(cache);
                assert_eq!(list(dir.path()).unwrap().len(), i + 1, "{name} {storage:?} {time}");
            }
        }
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), storages.len(), "nothing half-written is left: {names:?}");
    }
}

#[test]
fn a_killed_program_is_gone_on_with() {
    let checkpoint = golden("models/llama3_rope/model");
    let whole = tempfile::tempdir().unwrap();
    let cache = BaseCache::new(whole.path(), DEFAULT_LIMIT);
    linears(&checkpoint, nf4(), Some(&cache));
    cache.flush();
    let file = file_of(whole.path());
    let expected = std::fs::read(&file).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let cache = BaseCache::new(dir.path(), DEFAULT_LIMIT);
    let quantized = linears(&checkpoint, nf4(), None).0;
    let count = quantized.len();
    let weight = |i: usize| {
        let (name, rows, cols, _) = &quantized[i];
        (
            name.clone(),
            nf4()
                .convert(&Threads::one(), checkpoint.weight(&format!("{name}.weight"), *rows, *cols).unwrap())
                .unwrap(),
        )
    };
    let hidden = |ending: &str| {
        let name = file.file_name().unwrap().to_str().unwrap();
        dir.path().join(format!(".{name}{ending}"))
    };
    // A program that is killed does not clean up.
    let killed = |linears: usize| {
        let mut writer =
            cache.entry(&Threads::one(), &checkpoint, nf4()).unwrap().unwrap().create(count).unwrap();
        for i in 0..linears {
            let (name, weight) = weight(i);
            if !writer.has(&name) {
                writer.add(&name, &weight);
            }
        }
        let (data, log) =
            (std::fs::read(hidden(".tmp")).unwrap(), std::fs::read(hidden(".log.tmp")).unwrap());
        drop(writer);
        (data, log)
    };
    let (data, log) = killed(5);
    let put_back = |data: &[u8], log: &[u8]| {
        std::fs::write(hidden(".tmp"), data).unwrap();
        std::fs::write(hidden(".log.tmp"), log).unwrap();
    };
    let there = || {
        let writer =
            cache.entry(&Threads::one(), &checkpoint, nf4()).unwrap().unwrap().create(count).unwrap();
        (0..count).filter(|i| writer.has(&quantized[*i].0)).count()
    };
    put_back(&data, &log);
    assert_eq!(there(), 5);
    put_back(&data, &log[..log.len() - 1]);
    assert_eq!(there(), 4, "a line without an end");
    put_back(&data[..data.len() - 1], &log);
    assert_eq!(there(), 4, "bytes that never came to the disk");
    let mut wrong = data.clone();
    let last = wrong.len() - 100;
    wrong[last] ^= 1;
    put_back(&wrong, &log);
    assert_eq!(there(), 4, "other bytes");
    put_back(&data, b"nonsense\n");
    assert_eq!(there(), 0);
    assert!(!hidden(".tmp").exists() && !hidden(".log.tmp").exists(), "one that ends by itself cleans up");

    put_back(&data, &log);
    let other = {
        let first = cache.entry(&Threads::one(), &checkpoint, nf4()).unwrap().unwrap().create(count).unwrap();
        assert!(first.has(&quantized[0].0));
        let second =
            cache.entry(&Threads::one(), &checkpoint, nf4()).unwrap().unwrap().create(count).unwrap();
        second.has(&quantized[0].0)
    };
    assert!(!other, "two programs do not write one file");
    for (data, log) in [(&data, &log), (&wrong, &log)] {
        put_back(data, log);
        linears(&checkpoint, nf4(), Some(&cache));
        cache.flush();
        assert!(
            std::fs::read(file_of(dir.path())).unwrap() == expected,
            "the file of one that was not killed"
        );
        assert!(!hidden(".tmp").exists() && !hidden(".log.tmp").exists());
        clear(dir.path()).unwrap();
    }
}

#[test]
fn a_kept_base_is_read_and_not_made_again() {
    let (checkpoint, dir) = (golden("models/llama3_rope/model"), tempfile::tempdir().unwrap());
    let cache = BaseCache::new(dir.path(), DEFAULT_LIMIT);
    let entry = cache.entry(&Threads::one(), &checkpoint, nf4()).unwrap().unwrap();
    let mut writer = entry.create(1).unwrap();
    let name = "model.layers.1.mlp.up_proj";
    let (expected, _) = linears(&checkpoint, nf4(), None);
    let (_, rows, cols, right) = expected.iter().find(|l| l.0 == name).unwrap();
    let zeros =
        nf4().convert(&Threads::one(), Weight::from_f32(*rows, *cols, &vec![0.0; rows * cols])).unwrap();
    writer.add(name, &zeros);
    entry.finish(writer).unwrap();
    cache.flush();
    let (found, notes) = linears(&checkpoint, nf4(), Some(&cache));
    assert_eq!(notes, [""; 0]);
    for (found, expected) in found.iter().zip(&expected) {
        // What the file lacks comes from the model.
        assert_eq!(found == expected, found.0 != name, "{}", found.0);
        assert!(found.0 != name || found.3 == bytes(&zeros) && found.3 != *right);
    }
}

#[test]
fn tensors_stand_in_the_order_of_layers_and_on_their_places() {
    let (checkpoint, dir) = (golden("models/llama3_rope/model"), tempfile::tempdir().unwrap());
    drop(linears(&checkpoint, nf4(), Some(&BaseCache::new(dir.path(), DEFAULT_LIMIT))));
    let file = std::fs::read(file_of(dir.path())).unwrap();
    let room = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&file[8..8 + room]).unwrap();
    let mut starts = Vec::new();
    for (name, about) in header.iter().filter(|(n, _)| !n.starts_with("pad.") && *n != "__metadata__") {
        let start = 8 + room + about["data_offsets"][0].as_u64().unwrap() as usize;
        assert_eq!(start % 64, 0, "{name}");
        if name.ends_with(".weight") {
            assert_eq!(start % 4096, 0, "{name}");
            starts.push((start, name.clone()));
        }
    }
    let order: Vec<&str> = starts.iter().map(|(_, n)| n.trim_end_matches(".weight")).collect();
    let expected = linears(&checkpoint, nf4(), None).0;
    assert_eq!(order, expected.iter().map(|l| l.0.as_str()).collect::<Vec<_>>());
    assert!(starts.is_sorted());
}

#[test]
fn a_damaged_or_foreign_file_is_told_and_made_again() {
    let (checkpoint, dir) = (golden("models/llama3_rope/model"), tempfile::tempdir().unwrap());
    let cache = BaseCache::new(dir.path(), DEFAULT_LIMIT);
    let (expected, _) = linears(&checkpoint, nf4(), Some(&cache));
    cache.flush();
    let path = file_of(dir.path());
    let whole = std::fs::read(&path).unwrap();
    let room = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let other = tempfile::tempdir().unwrap();
    drop(linears(&checkpoint, int8(), Some(&BaseCache::new(other.path(), DEFAULT_LIMIT))));
    let foreign = std::fs::read(file_of(other.path())).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let damaged = [
        whole[..whole.len() - 1].to_vec(),
        whole[..room / 2].to_vec(),
        Vec::new(),
        flipped(8 + room + 5),
        flipped(8 + 60),
        flipped(whole.len() - 1),
        foreign,
    ];
    for (i, bytes) in damaged.iter().enumerate() {
        std::fs::write(&path, bytes).unwrap();
        let (found, notes) = linears(&checkpoint, nf4(), Some(&cache));
        assert!(found == expected, "{i}");
        assert!(notes.len() == 1 && notes[0].contains("made again"), "{i}: {notes:?}");
        cache.flush();
        assert!(std::fs::read(&path).unwrap() == whole, "{i}");
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_told_and_the_model_loads() {
    let (checkpoint, dir) = (golden("models/llama3_rope/model"), tempfile::tempdir().unwrap());
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let (found, notes) =
        linears(&checkpoint, nf4(), Some(&BaseCache::new(&file.join("bases"), DEFAULT_LIMIT)));
    assert!(found == linears(&checkpoint, nf4(), None).0);
    assert!(notes.len() == 1 && notes[0].contains("not kept"), "{notes:?}");
}

#[test]
fn runs_that_start_together_all_have_the_base() {
    let (checkpoint, dir) = (golden("models/llama3_rope/model"), tempfile::tempdir().unwrap());
    let expected = linears(&checkpoint, nf4(), None).0;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let cache = BaseCache::new(dir.path(), DEFAULT_LIMIT);
                    let (found, notes) = linears(&checkpoint, nf4(), Some(&cache));
                    assert!(found == expected);
                    assert_eq!(notes, [""; 0]);
                }
            });
        }
    });
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn another_base_or_storage_is_another_entry() {
    let dir = tempfile::tempdir().unwrap();
    let cache = BaseCache::new(dir.path(), DEFAULT_LIMIT);
    let source = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden("models/llama3_rope/model").path()).unwrap().flatten() {
        std::fs::copy(entry.path(), source.path().join(entry.file_name())).unwrap();
    }
    let of = |checkpoint: &Checkpoint, form: BaseForm| {
        cache.entry(&Threads::one(), checkpoint, form).unwrap().map(|e| e.path)
    };
    let path = |storage: BaseStorage| of(&Checkpoint::open(source.path()).unwrap(), storage.into());
    let mut seen = vec![path(nf4())];
    let mut differs = |found: Option<PathBuf>| {
        assert!(found.is_some() && !seen.contains(&found), "{found:?}");
        seen.push(found);
    };
    differs(path(quantized(QuantKind::Nf4, 128, true)));
    differs(path(quantized(QuantKind::Nf4, 64, false)));
    differs(path(quantized(QuantKind::Fp4, 64, true)));
    differs(path(int8()));
    let checkpoint = Checkpoint::open(source.path()).unwrap();
    let tables = |tables| of(&checkpoint, BaseForm { linears: nf4(), tables });
    differs(tables(nf4()));
    differs(tables(int8()));
    differs(of(&golden("models/mistral/model"), nf4().into()));
    // One byte in the middle, under the same size and time of change.
    let weights = source.path().join("model.safetensors");
    let modified = std::fs::metadata(&weights).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(&weights).unwrap();
    let middle = bytes.len() / 2 + 3;
    bytes[middle] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    File::options().write(true).open(&weights).unwrap().set_modified(modified).unwrap();
    differs(path(nf4()));
    assert_eq!(path(BaseStorage::AsStored), None, "nothing to keep");
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let (checkpoint, dir) = (golden("models/llama3_rope/model"), tempfile::tempdir().unwrap());
    let keep = |storage: BaseStorage, limit| {
        drop(linears(&checkpoint, storage, Some(&BaseCache::new(dir.path(), limit))))
    };
    let age = |path: &Path, hours: u64| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(3600 * hours)).unwrap();
    };
    let storages = || list(dir.path()).unwrap().into_iter().map(|k| k.storage).collect::<Vec<_>>();
    keep(nf4(), DEFAULT_LIMIT);
    age(&list(dir.path()).unwrap()[0].path, 3);
    keep(quantized(QuantKind::Fp4, 64, true), DEFAULT_LIMIT);
    age(&list(dir.path()).unwrap()[0].path, 2);
    // Used again, nf4() is the newer of the two.
    keep(nf4(), DEFAULT_LIMIT);
    assert_eq!(storages(), ["nf4, blocks of 64, double", "fp4, blocks of 64, double"]);
    let left = dir.path().join(".x.safetensors.1-0.tmp");
    std::fs::write(&left, "x").unwrap();
    let two = list(dir.path()).unwrap().iter().map(|k| k.bytes).sum::<u64>() * 3 / 2;
    keep(int8(), two);
    assert_eq!(storages(), ["int8", "nf4, blocks of 64, double"]);
    assert!(left.exists(), "another run may be writing it");
    age(&left, 25);
    keep(quantized(QuantKind::Fp4, 64, true), 1);
    assert_eq!(storages(), ["fp4, blocks of 64, double"], "the newest stays whatever its size");
    assert!(!left.exists());
    std::fs::write(dir.path().join("odd.safetensors"), "x").unwrap();
    assert_eq!(list(dir.path()).unwrap()[0].base, "");
    assert!(clear(dir.path()).unwrap() > 1);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert_eq!(list(&dir.path().join("nowhere")).unwrap(), []);
}
