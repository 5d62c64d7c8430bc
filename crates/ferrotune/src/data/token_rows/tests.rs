use std::fs;

use proptest::prelude::*;

use super::cache::Parts;
use super::*;

fn row(ids: &[u32], labels: &[i32], goes_on: bool) -> TrainRow {
    TrainRow { input_ids: ids.to_vec(), labels: labels.to_vec(), goes_on }
}

fn any_row() -> impl Strategy<Value = TrainRow> {
    let own = proptest::collection::vec((0..1_000_000_u32, any::<bool>()), 0..60);
    // Labels of one's own, and ids that leave no room for the mark.
    let free = proptest::collection::vec((any::<u32>(), -100..50_000_i32), 0..20);
    let of = |pairs: Vec<(u32, i32)>, goes_on| {
        let (input_ids, labels) = pairs.into_iter().unzip();
        TrainRow { input_ids, labels, goes_on }
    };
    let label = |(id, on): (u32, bool)| (id, if on { id as i32 } else { IGNORE });
    let own = own.prop_map(move |pairs| pairs.into_iter().map(label).collect::<Vec<_>>());
    (prop_oneof![own, free], any::<bool>()).prop_map(move |(pairs, goes_on)| of(pairs, goes_on))
}

proptest! {
    #[test]
    fn rows_come_back_from_memory_and_from_a_file(rows in proptest::collection::vec(any_row(), 0..40)) {
        let folder = tempfile::tempdir().unwrap();
        let cache = TokenCache::new(folder.path(), 1 << 30);
        let mut writer = RowWriter::noting(vec![7]);
        for (i, row) in rows.iter().enumerate() {
            if i == rows.len() / 2 {
                let (file, path) = cache.begin().unwrap();
                writer.move_to(file, &path).unwrap();
            }
            writer.push(row).unwrap();
        }
        let mut store = writer.finish().unwrap();
        let in_memory: TokenRows = rows.clone().into();
        prop_assert_eq!(&store.sha256, &in_memory.sha256());
        let parts = Parts { examples: vec![1, 2, 3], about: b"{}".to_vec() };
        cache.keep("key", &mut store, &parts);
        let metas = store.rows.clone();
        let written = TokenRows::all(Arc::new(store));
        prop_assert_eq!(written.to_vec().unwrap(), rows.clone());
        prop_assert_eq!(in_memory.to_vec().unwrap(), rows.clone());
        if !rows.is_empty() {
            let (read, its_parts) = cache.open("key").unwrap();
            prop_assert_eq!((&read.rows, its_parts), (&metas, parts));
            prop_assert_eq!(TokenRows::all(Arc::new(read)).to_vec().unwrap(), rows);
        }
    }
}

#[test]
fn a_writer_that_is_given_up_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let cache = TokenCache::new(folder.path(), 1 << 30);
    for cache in [cache.clone(), cache.unnamed()] {
        let mut writer = RowWriter::in_memory();
        let (file, path) = cache.begin().unwrap();
        writer.move_to(file, &path).unwrap();
        writer.push(&row(&[1, 2], &[1, 2], false)).unwrap();
        drop(writer);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_file_that_is_not_whole_is_none_and_a_damaged_row_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let cache = TokenCache::new(folder.path(), 1 << 30);
    let mut writer = RowWriter::noting(vec![2]);
    let (file, path) = cache.begin().unwrap();
    writer.move_to(file, &path).unwrap();
    for i in 0..10 {
        writer.push(&row(&[1, i, 2], &[IGNORE, i as i32, 2], i % 2 == 1)).unwrap();
    }
    let mut store = writer.finish().unwrap();
    cache.keep("key", &mut store, &Parts { examples: Vec::new(), about: Vec::new() });
    assert_eq!(store.taught(), [2]);
    assert!(store.rows()[3].ends() && store.rows()[3].label_tokens() == 2);
    let path = cache.list().unwrap()[0].path.clone();
    let whole = fs::read(&path).unwrap();
    let words = 10 * 4 * 4;
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        match cache.open("key") {
            None => assert!(at >= words, "{at}"),
            Some((store, _)) => {
                assert!(at < words, "{at}");
                let rows = TokenRows::all(Arc::new(store));
                let damaged: Vec<bool> = (0..10).map(|i| rows.row(i).is_err()).collect();
                assert_eq!(damaged.iter().position(|is| *is), Some(at / 16), "{at}");
                assert_eq!(damaged.iter().filter(|is| **is).count(), 1);
                assert!(rows.row(at / 16).unwrap_err().hint().unwrap().contains("cache --clear"));
            }
        }
        fs::write(&path, &whole[..at]).unwrap();
        assert!(cache.open("key").is_none(), "cut at {at}");
    }
    fs::write(&path, &whole).unwrap();
    assert!(cache.open("key").is_some() && cache.open("other").is_none());
}
