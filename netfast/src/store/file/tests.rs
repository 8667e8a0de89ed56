//! The file store, its faults included.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::{
    api::types::{Forward, Intent, Rules},
    rules::ids::Ids,
};

/// A document of that revision with `forwards` forwards.
fn document(revision: u64, forwards: usize) -> Document {
    let forward = |n: usize| Forward {
        mode: "dnat".parse().unwrap(),
        comment: Some("a \"quoted\" ä".to_owned()),
        ..Forward::new(
            format!("f{n}"),
            "tcp".parse().unwrap(),
            format!("192.0.2.1:{}", n + 1).parse().unwrap(),
        )
    };
    let rules = Rules { forwards: (0..forwards).map(forward).collect(), ..Rules::default() };
    let mut ids = Ids::default();
    ids.assign(&rules).unwrap();
    Document::new(Intent { revision, attachments: Vec::new(), rules }, ids)
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_was_saved_is_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStore::new(directory.path().join("not/yet/there"));
    assert_eq!(store.load().unwrap(), None);
    for revision in 1..4 {
        store.save(&document(revision, revision as usize)).unwrap();
        assert_eq!(store.load().unwrap(), Some(document(revision, revision as usize)));
    }
    assert_eq!(names(&store.directory), [FILE]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&store.path()), 0o600);
    assert_eq!(mode(&store.directory), 0o700);
}

#[test]
fn a_damaged_file_is_never_taken_for_an_empty_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStore::new(directory.path());
    store.save(&document(5, 3)).unwrap();
    let whole = fs::read(store.path()).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    for broken in [
        String::new(),
        "\0".repeat(whole.len()),
        text[..text.len() / 2].to_owned(),
        text.replace("\"ids\"", "\"idz\""),
        text.replace("dnat", "dant"),
        "{}".to_owned(),
        "[]".to_owned(),
    ] {
        fs::write(store.path(), &broken).unwrap();
        let error = store.load().unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains(&store.path().display().to_string()), "{message}");
        assert!(message.contains("backup"), "{message}");
    }
    // Cut off anywhere, it is noticed.
    for length in (0..whole.len() - 2).step_by(7) {
        fs::write(store.path(), &whole[..length]).unwrap();
        assert!(store.load().is_err(), "cut off after {length} of {} bytes", whole.len());
    }
}

#[test]
fn another_schema_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStore::new(directory.path());
    fs::write(store.path(), r#"{"schema": 9, "something": "else"}"#).unwrap();
    let error = store.load().unwrap_err();
    assert!(matches!(error, StoreError::Schema { found: 9, .. }), "{error}");
    assert!(error.to_string().contains("netfast export"), "{error}");
}

#[test]
fn a_leftover_of_a_power_cut_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStore::new(directory.path());
    store.save(&document(1, 1)).unwrap();
    fs::write(directory.path().join(TEMPORARY), "{\"schema\": 1, \"inte").unwrap();
    assert_eq!(store.load().unwrap(), Some(document(1, 1)));
    store.save(&document(2, 2)).unwrap();
    assert_eq!(store.load().unwrap(), Some(document(2, 2)));
    assert_eq!(names(directory.path()), [FILE]);
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let in_the_way = directory.path().join("file");
    fs::write(&in_the_way, "").unwrap();
    let error = FileStore::new(in_the_way.join("state")).save(&document(1, 1)).unwrap_err();
    assert!(error.to_string().contains(&in_the_way.display().to_string()), "{error}");
}

/// A tiny tmpfs in a mount namespace of its own thread: really full, and gone with the thread.
#[test]
fn a_full_disk_leaves_the_old_document() {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
        unistd::geteuid,
    };
    if !geteuid().is_root() {
        eprintln!("skipped: mounting a full disk needs root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        let nothing: Option<&str> = None;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
        let store = FileStore::new(&path);
        store.save(&document(1, 10)).unwrap();
        let before = fs::read(store.path()).unwrap();
        let error = store.save(&document(2, 4_000)).unwrap_err();
        assert!(
            matches!(&error, StoreError::Io { source, .. }
            if source.kind() == io::ErrorKind::StorageFull),
            "{error}"
        );
        assert!(error.to_string().contains("free some space"), "{error}");
        assert_eq!(fs::read(store.path()).unwrap(), before);
        assert_eq!(names(&path), [FILE], "the torn file takes no room");
        store.save(&document(3, 20)).unwrap();
        assert_eq!(store.load().unwrap(), Some(document(3, 20)));
    })
    .join()
    .unwrap();
    assert_eq!(names(directory.path()), Vec::<String>::new(), "the mount was private");
}
