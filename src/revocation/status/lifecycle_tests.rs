//! What indices do over their lives: assigned, stored, read after a restart or a crash, and free again.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Duration;

use super::super::tokens::TokenKey;
use super::handle::{StatusLists, TokenStatus};
use super::list::Filtered;
use super::storage::load;
use super::subject::NewSubject;
use super::table::{AssignError, StatusIndex, Table};
use super::{CAPACITIES, LONGEST_TOKEN, MAX_INDICES};
use crate::agents::MatchTag;
use crate::clock::{Clock, Timestamp};

const HOUR: Duration = Duration::from_secs(3600);

fn subject<'a>(kid: &'a str, audiences: &'a [&'a str]) -> NewSubject<'a> {
    NewSubject {
        spiffe_id: "spiffe://example.org/host/x/agent/a",
        audiences,
        kid,
        invocation: Some("0123456789abcdef0123456789abcdef"),
        epoch: 3,
        match_tag: MatchTag::from_bytes([1, 2, 3, 4]).unwrap(),
    }
}

fn assign(lists: &StatusLists, tenant: Option<&str>, jti: &str, expires: Timestamp) -> StatusIndex {
    let subject = subject("kid", &["https://a.example", "https://b.example"]);
    lists.assign(&TokenStatus { tenant, subject, jti, expires }).unwrap()
}

fn lists(dir: &Path, clock: &Clock) -> StatusLists {
    StatusLists::new(dir, clock.clone(), false, Duration::from_secs(300))
}

/// The indices of a list with the keys of their tokens.
fn entries(lists: &StatusLists, number: u32) -> BTreeMap<u32, TokenKey> {
    let list = lists.snapshot(number).unwrap();
    list.chunks().flatten().map(|entry| (entry.index, entry.key)).collect()
}

fn clock() -> Clock {
    Clock::manual(Timestamp::from_secs(1_800_000_000))
}

#[test]
fn no_two_tokens_have_an_index_and_a_list_that_is_half_full_gets_a_larger_one_beside_it() {
    let clock = clock();
    let lists = StatusLists::of_test(clock.clone());
    let expires = clock.now().after(HOUR);
    let half = CAPACITIES[0] as usize / 2;
    let assigned: Vec<StatusIndex> =
        (0..half + 10).map(|n| assign(&lists, None, &format!("jti-{n}"), expires)).collect();
    let different: HashSet<(u32, u32)> = assigned.iter().map(|one| (one.list, one.index)).collect();
    assert_eq!(different.len(), half + 10);
    let numbers = lists.numbers(None).unwrap();
    assert_eq!(numbers.len(), 2);
    let (first, second) = (assigned[0].list, assigned[half].list);
    assert_eq!((entries(&lists, first).len(), entries(&lists, second).len()), (half, 10));
    assert_eq!(lists.snapshot(second).unwrap().capacity, CAPACITIES[1]);
    assert_eq!(entries(&lists, second)[&assigned[half].index], TokenKey::of_jti(&format!("jti-{half}")));
    let above = assigned[..half].iter().filter(|one| one.index >= CAPACITIES[0] / 2).count();
    assert!((half / 3..2 * half / 3).contains(&above), "{above} of {half} indices are in the upper half");

    assign(&lists, Some("acme"), "other", expires);
    let others = lists.numbers(Some("acme")).unwrap();
    assert!(others.len() == 1 && !numbers.contains(&others[0]));
    assert_eq!(lists.lookup(Some("acme"), first), Some(None));
    // The snapshots above have all tokens.
    assert_eq!(lists.lookup(None, second), Some(Some(u64::MAX)));
    assign(&lists, None, "late", expires);
    assert_eq!(lists.lookup(None, second), Some(Some(3)));
    assert_eq!((lists.report().lists, lists.report().tokens), (3, half + 12));
}

#[tokio::test]
async fn an_index_is_free_again_only_when_its_token_has_expired_by_a_clock_that_cannot_be_set_back() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let lists = lists(dir.path(), &clock);
    lists.open().await.unwrap();
    let first = assign(&lists, None, "a", clock.now().after(HOUR));
    let second = assign(&lists, None, "b", clock.now().after(HOUR * 48));
    // The first save begins to observe the clock.
    lists.save(false).await.unwrap();
    // The clock is a day ahead for a moment.
    clock.set(clock.now().after(HOUR * 24));
    lists.save(false).await.unwrap();
    assert_eq!(lists.report().tokens, 2);
    clock.advance(HOUR);
    lists.save(false).await.unwrap();
    assert_eq!(entries(&lists, first.list).keys().collect::<Vec<_>>(), [&second.index]);
    assert_eq!(load(&dir.path().join("status-lists.db"), clock.now()).unwrap().table.count(), 1);
}

#[tokio::test]
async fn a_daemon_that_ended_knows_its_tokens_and_goes_on_with_its_lists() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let first = lists(dir.path(), &clock);
    first.open().await.unwrap();
    assert!(!dir.path().join("status-lists.db").exists());
    let expires = clock.now().after(HOUR);
    let own: Vec<StatusIndex> = (0..2000).map(|n| assign(&first, None, &n.to_string(), expires)).collect();
    first.save(false).await.unwrap();
    let last = assign(&first, Some("acme"), "last", expires);
    first.save(true).await.unwrap();

    let second = lists(dir.path(), &clock);
    assert!(second.lookup(None, own[0].list).is_none(), "not read yet");
    let subject = subject("kid", &["https://a.example"]);
    let token = TokenStatus { tenant: None, subject, jti: "x", expires };
    assert!(matches!(second.assign(&token), Err(AssignError::NotLoaded(_))));
    second.open().await.unwrap();
    let snapshot = second.snapshot(own[0].list).unwrap();
    assert!(!snapshot.has_unknown_tokens);
    let entry = snapshot.chunks().flatten().find(|entry| entry.index == own[7].index).unwrap();
    assert_eq!(entry.key, TokenKey::of_jti("7"));
    assert_eq!(entry.subject.agent(), "a");
    assert_eq!(entry.subject.audiences().collect::<Vec<_>>(), ["https://a.example", "https://b.example"]);
    assert_eq!((entry.subject.kid(), entry.subject.epoch()), ("kid", 3));
    assert_eq!(entries(&second, own[0].list), entries(&first, own[0].list));
    assert_eq!(entries(&second, last.list).len(), 1);
    assert_eq!(assign(&second, None, "next", expires).list, own[0].list);
    assert_eq!(second.report().problem, None);
}

#[tokio::test]
async fn after_a_crash_the_lists_of_before_get_no_tokens_until_all_of_theirs_have_expired() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let first = lists(dir.path(), &clock);
    first.open().await.unwrap();
    let expires = clock.now().after(HOUR);
    let known = assign(&first, None, "known", expires);
    first.save(false).await.unwrap();
    assign(&first, None, "unknown", expires);
    drop(first);

    let second = lists(dir.path(), &clock);
    second.open().await.unwrap();
    let list = second.snapshot(known.list).unwrap();
    assert!(list.has_unknown_tokens);
    assert_eq!(entries(&second, known.list).len(), 1);
    assert_ne!(assign(&second, None, "next", expires).list, known.list);
    assert!(second.report().problem.unwrap().contains("ended unexpectedly"));
    second.save(true).await.unwrap();

    // A clean end does not make the tokens of before known.
    let third = lists(dir.path(), &clock);
    third.open().await.unwrap();
    assert!(third.snapshot(known.list).unwrap().has_unknown_tokens);
    third.save(false).await.unwrap();
    clock.advance(LONGEST_TOKEN + Duration::from_secs(1));
    third.save(false).await.unwrap();
    assert!(third.snapshot(known.list).is_none());
    assert_eq!(third.report().lists, 1, "the open list stays");
    assert_eq!(third.report().problem, None);
}

#[tokio::test]
async fn a_damaged_database_is_moved_away_and_its_lists_are_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let path = dir.path().join("status-lists.db");
    std::fs::write(&path, [7; 5000]).unwrap();
    let lists = lists(dir.path(), &clock);
    lists.open().await.unwrap();
    assert!(!path.exists());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assign(&lists, None, "a", clock.now().after(HOUR));
    lists.save(true).await.unwrap();
    assert_eq!(lists.report().problem, None);
}

#[tokio::test]
async fn what_cannot_be_stored_is_stored_later() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let clock = clock();
    let lists = lists(&state, &clock);
    lists.open().await.unwrap();
    let index = assign(&lists, None, "a", clock.now().after(HOUR));
    lists.save(false).await.unwrap_err();
    assert!(lists.report().problem.unwrap().contains("not stored"));
    std::fs::create_dir(&state).unwrap();
    lists.save(true).await.unwrap();
    assert_eq!(lists.report().problem, None);
    let second = self::lists(&state, &clock);
    second.open().await.unwrap();
    assert_eq!(entries(&second, index.list).keys().collect::<Vec<_>>(), [&index.index]);
}

/// One issuer cannot take the indices that others need; what it gets is free again when it has expired.
#[test]
fn an_issuer_has_at_most_half_of_all_indices_and_is_refused_then() {
    let mut table = Table::default();
    let (now, subject) = (Timestamp::from_secs(1_800_000_000), subject("kid", &["https://a.example"]));
    let key = TokenKey::of_jti("x");
    let assign = |table: &mut Table, tenant, expires| table.assign(tenant, &subject, key, expires);
    for _ in 0..MAX_INDICES / 2 {
        assign(&mut table, None, now).unwrap();
    }
    assert_eq!(assign(&mut table, None, now), Err(AssignError::Exhausted));
    assert_eq!(table.exhausted(), [None]);
    assign(&mut table, Some("acme"), now.after(HOUR)).unwrap();
    let filtered: BTreeMap<u32, Filtered> =
        table.lists().map(|list| (list.number, Filtered::of(list.shared_chunks(), now.as_secs()))).collect();
    table.forget(now, filtered);
    assert_eq!((table.count(), table.lists().count(), table.subject_count()), (1, 2, 1));
    assert!(table.exhausted().is_empty());
    assign(&mut table, None, now).unwrap();
}
