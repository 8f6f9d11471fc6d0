use std::os::unix::fs::PermissionsExt as _;

use model::alert::AlertEvent;
use tempfile::TempDir;

use super::*;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn folder() -> TempDir {
    TempDir::new().expect("a temporary folder")
}

fn alert(number: u128, len: usize) -> Alert {
    let events = vec![AlertEvent { timestamp: "x".repeat(len), ..AlertEvent::default() }];
    Alert { uuid: Uuid::from_u128(number).to_string(), message: format!("{number}"), events, ..Alert::default() }
}

fn open(folder: &TempDir) -> Spool {
    let (spool, losses) = Spool::open(folder.path(), LEAST).expect("it is ours");
    assert_eq!(losses, Vec::<String>::new());
    spool
}

fn add(spool: &mut Spool, numbers: impl IntoIterator<Item = u128>) {
    let alerts: Vec<Alert> = numbers.into_iter().map(|number| alert(number, 0)).collect();
    spool.add(&alerts, NOW).expect("room on the disk");
}

/// What waits, as far as it is handed out at once.
fn waiting(spool: &mut Spool) -> Vec<String> {
    spool.oldest(1000, 1 << 20).into_iter().map(|(_, alert)| alert.message).collect()
}

fn segments_in(folder: &TempDir) -> usize {
    segments(folder.path()).expect("it is there").len()
}

#[test]
fn what_waits_is_there_after_an_end_and_what_was_sent_is_not() {
    let folder = folder();
    let mut spool = open(&folder);
    assert!(spool.is_empty());
    add(&mut spool, 1..6);
    let batch: Vec<u64> = spool.oldest(2, 1 << 20).iter().map(|(number, _)| *number).collect();
    spool.finish(batch[1], 1).expect("room on the disk");
    assert!(spool.withdraw(&Uuid::from_u128(4).to_string()).expect("room on the disk"));
    assert!(!spool.withdraw(&Uuid::from_u128(1).to_string()).expect("room on the disk"), "it was sent");
    assert!(!spool.withdraw("no identity").expect("room on the disk"));
    for _ in 0..3 {
        assert_eq!(waiting(&mut spool), ["3", "5"]);
        let counts = Counts { delivered: 1, refused: 1, dropped: 0 };
        assert_eq!((spool.report().counts, spool.report().since), (counts, Some(NOW)));
        // As after a sudden end: nothing is said to the one before.
        spool = open(&folder);
    }
    add(&mut spool, [6]);
    assert_eq!(waiting(&mut spool), ["3", "5", "6"], "numbers go on");
}

#[test]
fn an_alert_that_is_made_again_is_known_until_a_mark_covers_it() {
    let folder = folder();
    let mut spool = open(&folder);
    add(&mut spool, 1..4);
    let covered = spool.next();
    spool.finish(covered, 0).expect("room on the disk");
    spool = open(&folder);
    add(&mut spool, 1..5);
    assert_eq!(waiting(&mut spool), ["4"], "the journal makes alerts again that were sent");
    spool.cover(covered);
    add(&mut spool, [1]);
    assert_eq!(waiting(&mut spool), ["4", "1"], "what no mark can make again is new");
    assert_eq!(segments_in(&folder), 1, "nothing of it is kept");
}

#[test]
fn the_limit_holds_and_the_oldest_are_dropped() {
    let folder = folder();
    let mut spool = open(&folder);
    let size = 1000;
    for number in 1..=500 {
        spool.add(&[alert(number, size)], NOW).expect("room on the disk");
        let disk: u64 = segments(folder.path())
            .expect("it is there")
            .into_iter()
            .map(|first| fs::metadata(path(folder.path(), first)).expect("it is there").len())
            .sum();
        assert_eq!(disk, spool.report().bytes);
        assert!(disk <= LEAST, "{disk} bytes after {number} alerts");
    }
    let report = spool.report();
    assert_eq!(report.waiting + report.counts.dropped, 500);
    assert!(report.waiting > 30, "most of the room is used: {report:?}");
    let left = waiting(&mut spool);
    assert_eq!(left.last().map(String::as_str), Some("500"), "the newest stay");
    spool.add(&[alert(501, LEAST as usize)], NOW).expect("it is dropped");
    assert_eq!(spool.report().counts.dropped, report.counts.dropped + 1, "it would never fit");
    assert_eq!(waiting(&mut open(&folder)), left);
    let counts = open(&folder).report().counts;
    assert!(counts.dropped >= report.counts.dropped, "counts go on: {counts:?}");
}

/// Wherever the end came, each alert is there whole or not at all, in order.
#[test]
fn a_sudden_end_costs_at_most_what_was_being_written() {
    let folder = folder();
    let mut spool = open(&folder);
    add(&mut spool, 1..4);
    let file = path(folder.path(), 1);
    let bytes = fs::read(&file).expect("it was written");
    for len in 0..=bytes.len() {
        let other = TempDir::new().expect("a temporary folder");
        fs::write(path(other.path(), 1), &bytes[..len]).expect("room on the disk");
        let left = waiting(&mut open(&other));
        assert_eq!(left, ["1", "2", "3"][..left.len()], "cut after {len} bytes");
        assert_eq!(left.len() == 3, len == bytes.len(), "cut after {len} bytes");
    }
    let mut bad = bytes.clone();
    let middle = bytes.len() / 2;
    bad[middle] ^= 1;
    fs::write(&file, bad).expect("room on the disk");
    let (mut spool, losses) = Spool::open(folder.path(), LEAST).expect("it is ours");
    assert!(losses[0].contains("damaged from byte"), "{losses:?}");
    assert_eq!(waiting(&mut spool), ["1"]);
}

#[test]
fn a_newer_segment_is_refused_and_nothing_is_touched() {
    let folder = folder();
    add(&mut open(&folder), 1..3);
    let newer = path(folder.path(), 77);
    fs::write(&newer, "cordon spool 2\nwhatever it says").expect("room on the disk");
    let before = segments_in(&folder);
    let error = Spool::open(folder.path(), LEAST).expect_err("it is newer");
    assert!(error.to_string().contains("written by a newer cordon"), "{error}");
    assert_eq!(segments_in(&folder), before);
    assert_eq!(fs::read_to_string(&newer).expect("it is there"), "cordon spool 2\nwhatever it says");
}

#[test]
fn nobody_else_may_read_what_waits_and_large_batches_are_cut() {
    let folder = folder();
    let mut spool = open(&folder);
    spool.add(&[alert(1, 2000), alert(2, 2000), alert(3, 2000)], NOW).expect("room on the disk");
    let mode = fs::metadata(path(folder.path(), 1)).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(spool.oldest(10, 3000).len(), 1);
    assert_eq!(spool.oldest(10, 5000).len(), 2);
    assert_eq!(spool.oldest(10, 1).len(), 1, "one is always handed out");
    fs::remove_file(path(folder.path(), 1)).expect("it was written");
    assert_eq!(spool.oldest(10, 7000).len(), 0, "somebody deleted it");
    assert_eq!(spool.report().counts.dropped, 3);
}
