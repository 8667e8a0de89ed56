//! What was saved is loaded, however it was written.

use std::fs;

use super::*;
use crate::{
    api::types::{FilterAction, Intent, Rules},
    store::{Store as _, StoreError, file::FileStore},
};

fn rule(number: usize) -> Arc<FilterRule> {
    let comment = Some(format!("number {number}"));
    let vlan = Some((number % 4000) as u16);
    Arc::new(FilterRule { action: FilterAction::Drop, vlan, comment, ..FilterRule::default() })
}

fn document(revision: u64, filters: Vec<Arc<FilterRule>>, before: Option<&Document>) -> Document {
    let rules = Rules { filters: filters.into(), ..Rules::default() };
    let mut ids = before.map(|before| before.ids.clone()).unwrap_or_default();
    ids.assign(&rules).unwrap();
    Document::new(Intent { revision, attachments: Vec::new(), rules }, ids)
}

fn load(directory: &Path) -> Result<Option<Document>, StoreError> {
    FileStore::new(directory).load()
}

/// A store with a large document and two changes of it behind, and the three documents.
fn changed(directory: &Path) -> (FileStore, [Document; 3]) {
    let store = FileStore::new(directory);
    let mut rules: Vec<_> = (0..LARGE).map(rule).collect();
    let first = document(1, rules.clone(), None);
    store.save(&first).unwrap();
    assert!(!directory.join("intent.journal").exists());
    rules.insert(500, rule(7000));
    let second = document(2, rules.clone(), Some(&first));
    store.save(&second).unwrap();
    rules.remove(20);
    let third = document(3, rules, Some(&second));
    store.save(&third).unwrap();
    (store, [first, second, third])
}

#[test]
fn small_changes_of_a_large_document_are_appended() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("intent.journal");
    let (store, [.., third]) = changed(directory.path());
    let whole = fs::read(store.path()).unwrap();
    assert_eq!(3, fs::read_to_string(&path).unwrap().lines().count());
    assert_eq!(load(directory.path()).unwrap(), Some(third.clone()));
    // A rule that moves over all others is told as that.
    let mut rules = third.intent.rules.filters.to_vec();
    let moved = rules.remove(3);
    rules.push(moved);
    let third = document(4, rules, Some(&third));
    store.save(&third).unwrap();
    let journal = fs::read_to_string(&path).unwrap();
    assert_eq!(4, journal.lines().count());
    assert!(journal.lines().last().unwrap().len() < 1000);
    assert_eq!(load(directory.path()).unwrap(), Some(third.clone()));
    // A large change is a document of its own, and the journal is gone.
    let next = document(5, (5000..5000 + 5 * LARGE).map(rule).collect(), Some(&third));
    store.save(&next).unwrap();
    assert_ne!(whole, fs::read(store.path()).unwrap());
    assert!(!path.exists());
    assert_eq!(load(directory.path()).unwrap(), Some(next.clone()));
    // So is what becomes small.
    let small = document(6, vec![rule(1)], Some(&next));
    store.save(&small).unwrap();
    assert!(!path.exists());
    assert_eq!(load(directory.path()).unwrap(), Some(small));
}

#[test]
fn any_changes_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStore::new(directory.path());
    let mut rules: Vec<_> = (0..LARGE + 50).map(rule).collect();
    let mut present = document(1, rules.clone(), None);
    store.save(&present).unwrap();
    let mut number = 88_172_645_463_325_252_u64;
    let mut below = |limit: usize| {
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        (number >> 11) as usize % limit
    };
    for revision in 2..MOST as u64 + 60 {
        let at = below(rules.len());
        match below(4) {
            0 if rules.len() > LARGE => drop(rules.remove(at)),
            1 => {
                let moved = rules.remove(at);
                rules.insert(below(rules.len() + 1), moved);
            }
            2 => rules[at] = rule(10_000 + revision as usize),
            _ => rules.insert(at, rule(20_000 + revision as usize)),
        }
        present = document(revision, rules.clone(), Some(&present));
        store.save(&present).unwrap();
        if revision.is_multiple_of(37) {
            assert_eq!(load(directory.path()).unwrap().as_ref(), Some(&present));
        }
    }
    assert_eq!(load(directory.path()).unwrap(), Some(present));
    let lines = fs::read_to_string(directory.path().join("intent.journal")).unwrap().lines().count();
    assert!(lines < 100, "written as a whole in between: {lines}");
}

#[test]
fn what_a_power_cut_leaves_is_the_last_acknowledged_change() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("intent.journal");
    let (_store, [first, second, third]) = changed(directory.path());
    let journal = fs::read(&path).unwrap();
    let lines: Vec<usize> = (0..journal.len()).filter(|at| journal[*at] == b'\n').map(|at| at + 1).collect();
    for length in (0..journal.len()).step_by(11).chain(lines.iter().copied()) {
        fs::write(&path, &journal[..length]).unwrap();
        let expected = match lines.iter().filter(|end| **end <= length).count() {
            0 | 1 => &first,
            2 => &second,
            _ => &third,
        };
        assert_eq!(load(directory.path()).unwrap().as_ref(), Some(expected), "{length} bytes");
        // Blocks that were never written.
        let mut zeros = journal[..length].to_vec();
        zeros.resize(journal.len() + 4096, 0);
        fs::write(&path, &zeros).unwrap();
        assert_eq!(load(directory.path()).unwrap().as_ref(), Some(expected), "{length} bytes");
    }
}

#[test]
fn a_damaged_journal_is_told_and_one_of_another_document_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("intent.journal");
    let (store, [first, ..]) = changed(directory.path());
    let journal = fs::read_to_string(&path).unwrap();
    for broken in
        [journal.replace("number 7000", "number 7001"), journal.replace("\"continues\"", "\"contains\"")]
    {
        fs::write(&path, broken).unwrap();
        let error = load(directory.path()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("intent.journal"), "{error}");
    }
    // The document is put back from a backup.
    fs::write(&path, &journal).unwrap();
    let text = fs::read_to_string(store.path()).unwrap();
    fs::write(store.path(), text + "\n").unwrap();
    assert_eq!(load(directory.path()).unwrap(), Some(first));
}

#[test]
fn a_change_that_cannot_be_written_leaves_the_one_before() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("intent.journal");
    let (_, [first, second, third]) = changed(directory.path());
    let other = tempfile::tempdir().unwrap();
    let store = FileStore::new(other.path());
    store.save(&first).unwrap();
    // Something is in the way of the journal: a directory that is not empty.
    fs::create_dir_all(other.path().join("intent.journal/x")).unwrap();
    let error = store.save(&second).unwrap_err();
    assert!(error.to_string().contains("intent.journal"), "{error}");
    fs::remove_dir_all(other.path().join("intent.journal")).unwrap();
    assert_eq!(load(other.path()).unwrap(), Some(first));
    // The next one is written as a whole.
    store.save(&third).unwrap();
    assert!(!other.path().join("intent.journal").exists());
    assert_eq!(load(other.path()).unwrap(), Some(third));
    assert!(path.exists());
}
