use proptest::prelude::*;

use super::super::hash::Digest;
use super::*;
use ferrotune_kernels::Threads;

fn good() -> Vec<u8> {
    let header = br#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}}"#;
    [&(header.len() as u64).to_le_bytes()[..], header, &[7; 22]].concat()
}

fn open(bytes: &[u8]) -> Result<SafeFile> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    std::fs::write(&path, bytes).unwrap();
    SafeFile::open(&path)
}

fn refusal(header: &str, data: usize) -> String {
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat();
    open(&bytes).err().unwrap_or_else(|| panic!("{header} must be refused")).to_string()
}

#[test]
fn every_truncation_is_an_error() {
    let whole = good();
    for length in 0..whole.len() {
        let message = open(&whole[..length]).err().expect("too short").to_string();
        assert!(message.contains("x.safetensors"), "{message}");
    }
    let file = open(&whole).unwrap();
    assert_eq!(file.f32("b").unwrap().0, [3]);
}

#[test]
fn bad_headers_are_named() {
    for (header, data, word) in [
        ("[]", 0, "JSON"),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 8, "the header describes"),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, 8, "`a`"),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, 4, "`a`"),
        (r#"{"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}"#, 4, "F33"),
        (r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,4]}}"#, 4, "shape"),
        (r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4, "JSON"),
        (r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,4]}}"#, 4, "overflow"),
        (
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            4,
            "overlap",
        ),
        ("", 0, "safetensors"),
    ] {
        let message = refusal(header, data);
        assert!(message.contains(word), "{message} does not say {word}");
    }
    let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    assert!(open(&huge).err().unwrap().to_string().contains("not a safetensors file"));
}

proptest! {
    /// Whatever the bytes are, opening gives a file whose tensors can be read, or an error.
    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((0usize..200, any::<u8>()), 1..8)) {
        let mut bytes = good();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Ok(file) = open(&bytes) {
            for (name, tensor) in file.iter() {
                let values: usize = tensor.shape.iter().product();
                prop_assert_eq!(tensor.bytes.as_slice().len(), values * tensor.dtype.bitsize() / 8);
                let _ = file.f32(name);
            }
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_library(
        tensors in prop::collection::btree_map("[a-z.]{1,8}", prop::collection::vec(any::<u8>(), 0..40), 0..6),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
        // Types of several widths: they decide the order.
        let kind = |v: &[u8]| match v.len() % 4 { 0 => (Dtype::F32, v.len() / 4), 2 => (Dtype::BF16, v.len() / 2), _ => (Dtype::U8, v.len()) };
        let out: Vec<_> = tensors
            .iter()
            .map(|(n, v)| (n.clone(), OutTensor::bytes(kind(v).0, &[kind(v).1], v)))
            .collect();
        let digest = write_hashed(&Threads::new(2).unwrap(), &ours, &out).unwrap();
        let views = tensors.iter().map(|(n, v)| {
            (n, ::safetensors::tensor::TensorView::new(kind(v).0, vec![kind(v).1], v).unwrap())
        });
        let format = HashMap::from([("format".to_string(), "pt".to_string())]);
        ::safetensors::serialize_to_file(views, Some(format), &theirs).unwrap();
        let written = std::fs::read(&ours).unwrap();
        prop_assert_eq!(&written, &std::fs::read(&theirs).unwrap());
        prop_assert_eq!(digest, Digest::of(&written));
        write(&ours, &out).unwrap();
        prop_assert_eq!(written, std::fs::read(&ours).unwrap());
    }

    #[test]
    fn written_tensors_come_back(
        tensors in prop::collection::btree_map("[a-z.]{1,8}", prop::collection::vec(any::<f32>(), 0..40), 0..6),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let out: Vec<_> =
            tensors.iter().map(|(n, v)| (n.clone(), OutTensor::f32(&[v.len()], v))).collect();
        write(&path, &out).unwrap();
        let file = SafeFile::open(&path).unwrap();
        prop_assert_eq!(file.iter().count(), tensors.len());
        for (name, values) in &tensors {
            let (shape, found) = file.f32(name).unwrap();
            prop_assert_eq!(shape, [values.len()]);
            let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&found), bits(values));
        }
    }
}
