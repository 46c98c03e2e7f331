//! The embedded store on real files.

use std::fs;

use super::*;
use crate::store::{Compare, WatchEnd};

fn put(key: &str, value: &str) -> Change {
    Change::Put { key: key.to_owned(), value: value.as_bytes().to_vec() }
}

fn compare(key: &str, modified: u64) -> Compare {
    Compare { key: key.to_owned(), modified }
}

async fn run(store: &EmbeddedStore, compares: Vec<Compare>, changes: Vec<Change>) -> Outcome {
    store.txn(Txn { compares, changes }).await.unwrap()
}

#[tokio::test]
async fn what_is_committed_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made/when/absent");
    let store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(store.snapshot().await.unwrap(), Snapshot::default());
    let changes = vec![put("a", "1"), put("b", "2")];
    assert_eq!(run(&store, Vec::new(), changes).await, Outcome::Committed(1));
    let changes = vec![put("b", "3"), Change::Delete { key: "a".into() }];
    assert_eq!(run(&store, Vec::new(), changes).await, Outcome::Committed(2));
    drop(store);
    let snapshot = EmbeddedStore::open(&path).unwrap().snapshot().await.unwrap();
    assert_eq!(snapshot.revision, 2);
    let rows: Vec<_> = snapshot.view.into_iter().collect();
    assert_eq!(rows, [("b".to_owned(), Versioned { value: b"3".to_vec(), modified: 2 })]);
}

#[tokio::test]
async fn a_compare_that_fails_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    let first = vec![compare("a", 0)];
    assert_eq!(run(&store, first.clone(), vec![put("a", "1")]).await, Outcome::Committed(1));
    let before = store.snapshot().await.unwrap();
    assert_eq!(run(&store, first, vec![put("a", "2"), put("b", "2")]).await, Outcome::Conflict);
    let both = vec![compare("a", 1), compare("b", 7)];
    assert_eq!(run(&store, both, vec![put("b", "2")]).await, Outcome::Conflict);
    assert_eq!(store.snapshot().await.unwrap(), before);
    let right = vec![compare("a", 1), compare("b", 0)];
    assert_eq!(run(&store, right, vec![put("b", "2")]).await, Outcome::Committed(2));
}

#[tokio::test]
async fn of_two_writers_with_the_same_condition_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    let tries = (0..8).map(|number| {
        let store = store.clone();
        let changes = vec![put("a", &number.to_string())];
        tokio::spawn(async move { run(&store, vec![compare("a", 0)], changes).await })
    });
    let mut committed = 0;
    for one in tries.collect::<Vec<_>>() {
        committed += i32::from(one.await.unwrap() == Outcome::Committed(1));
    }
    assert_eq!(committed, 1);
}

#[tokio::test]
async fn transactions_out_of_bounds_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    let refused = |change: Change| {
        let txn = Txn { compares: Vec::new(), changes: vec![change] };
        let store = store.clone();
        async move { store.txn(txn).await.unwrap_err() }
    };
    assert!(matches!(refused(put("", "1")).await, StoreError::KeyLength { bytes: 0 }));
    let long = "k".repeat(512);
    assert!(matches!(refused(put(&long, "1")).await, StoreError::KeyLength { bytes: 512 }));
    let long = "v".repeat(256 * 1024 + 1);
    assert!(matches!(refused(put("k", &long)).await, StoreError::ValueLength { .. }));
    let changes = (0..129).map(|number| put(&number.to_string(), "")).collect();
    let many = store.txn(Txn { compares: Vec::new(), changes }).await.unwrap_err();
    assert!(matches!(many, StoreError::TooManyChanges { changes: 129 }));
    assert_eq!(store.snapshot().await.unwrap(), Snapshot::default());
}

#[tokio::test]
async fn a_store_is_open_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    let again = EmbeddedStore::open(&directory.path().join(".")).unwrap_err();
    assert!(matches!(again, StoreError::Locked { .. }), "{again}");
    let peek = EmbeddedStore::peek(directory.path()).unwrap_err();
    assert!(matches!(peek, StoreError::Locked { .. }), "{peek}");
    drop(store);
    assert!(EmbeddedStore::open(directory.path()).is_ok());
}

#[tokio::test]
async fn peeking_reads_and_makes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent");
    assert_eq!(EmbeddedStore::peek(&absent).unwrap(), Snapshot::default());
    assert!(!absent.exists());
    let store = EmbeddedStore::open(directory.path()).unwrap();
    assert_eq!(run(&store, Vec::new(), vec![put("a", "1")]).await, Outcome::Committed(1));
    let snapshot = store.snapshot().await.unwrap();
    drop(store);
    let before = fs::read(directory.path().join("data.mdb")).unwrap();
    assert_eq!(EmbeddedStore::peek(directory.path()).unwrap(), snapshot);
    assert_eq!(fs::read(directory.path().join("data.mdb")).unwrap(), before);
}

#[tokio::test]
async fn damaged_files_are_named_and_never_taken_for_new() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let store = EmbeddedStore::open(path).unwrap();
    let changes = (0..64).map(|number| put(&format!("k{number}"), &"v".repeat(2000))).collect();
    assert_eq!(run(&store, Vec::new(), changes).await, Outcome::Committed(1));
    drop(store);
    let file = path.join("data.mdb");
    let whole = fs::read(&file).unwrap();
    let garbage = vec![b'x'; whole.len()];
    let cut_off = &whole[..5 * 4096];
    for damaged in [&[][..], &whole[..100], cut_off, &garbage] {
        fs::write(&file, damaged).unwrap();
        let bytes = damaged.len();
        let open = EmbeddedStore::open(path).unwrap_err();
        assert!(matches!(open, StoreError::Corrupt { .. }), "{bytes} bytes: {open}");
        let peek = EmbeddedStore::peek(path).unwrap_err();
        assert!(matches!(peek, StoreError::Corrupt { .. }), "{bytes} bytes: {peek}");
    }
    fs::write(&file, &whole).unwrap();
    assert_eq!(EmbeddedStore::open(path).unwrap().snapshot().await.unwrap().view.len(), 64);
}

/// Pages that a transaction takes and gives back are counted but not written: the file must
/// not look cut off after them.
#[tokio::test]
async fn a_store_stays_whole_however_its_size_changes() {
    for seed in 0..4 {
        let directory = tempfile::tempdir().unwrap();
        let mut random = fastrand::Rng::with_seed(seed);
        for revision in 1..25 {
            let store = EmbeddedStore::open(directory.path()).unwrap();
            let value_bytes = random.usize(1..200_000);
            let changes = (0..random.usize(1..128)).map(|_| {
                let key = format!("k{}", random.usize(0..80));
                if random.bool() {
                    put(&key, &"v".repeat(random.usize(0..value_bytes)))
                } else {
                    Change::Delete { key }
                }
            });
            let outcome = run(&store, Vec::new(), changes.collect()).await;
            assert_eq!(outcome, Outcome::Committed(revision));
        }
    }
}

#[test]
fn a_store_of_another_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    let mut txn = store.inner.environment.write_txn().unwrap();
    store.inner.tables.meta.put(&mut txn, FORMAT_KEY, b"2").unwrap();
    txn.commit().unwrap();
    drop(store);
    let error = EmbeddedStore::open(directory.path()).unwrap_err();
    assert!(error.to_string().contains("has format 2, this version reads format 1"), "{error}");
}

#[test]
fn a_path_that_cannot_be_a_directory_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = EmbeddedStore::open(&file).unwrap_err();
    assert!(matches!(error, StoreError::NotWritable { .. }), "{error}");
    assert!(error.to_string().contains("file"), "{error}");
}

#[tokio::test]
async fn a_watch_tells_each_transaction_once_in_order_and_a_key_can_be_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    let mut watch = store.watch(0).await.unwrap();
    for key in ["a", "b"] {
        let _made = run(&store, Vec::new(), vec![put(key, "v")]).await;
    }
    let refused = run(&store, vec![compare("a", 7)], vec![put("c", "v")]).await;
    assert_eq!(refused, Outcome::Conflict);
    for (previous, key) in [(0, "a"), (1, "b")] {
        let told = watch.next().await.unwrap();
        assert_eq!((told.previous, told.revision), (previous, previous + 1));
        assert_eq!(told.changes, [put(key, "v")]);
    }
    let found = store.get("b").await.unwrap();
    assert_eq!(found, Some(Versioned { value: b"v".to_vec(), modified: 2 }));
    assert_eq!(store.get("c").await.unwrap(), None);
}

#[tokio::test]
async fn a_watch_that_missed_something_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    let _made = run(&store, Vec::new(), vec![put("a", "1")]).await;
    let mut late = store.watch(0).await.unwrap();
    assert_eq!(late.next().await.unwrap_err(), WatchEnd::Gap);
    assert_eq!(late.next().await.unwrap_err(), WatchEnd::Gap);
    let mut slow = store.watch(1).await.unwrap();
    for number in 0..300 {
        let _made = run(&store, Vec::new(), vec![put("a", &number.to_string())]).await;
    }
    assert_eq!(slow.next().await.unwrap_err(), WatchEnd::Gap);
    let mut fresh = store.watch(301).await.unwrap();
    drop(store);
    assert_eq!(fresh.next().await.unwrap_err(), WatchEnd::Closed);
}
