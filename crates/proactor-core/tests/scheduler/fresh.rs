//! Extra runners are for items that block: no more may compute at once than the concurrency, whatever the allowance.

use crate::rig::*;
use proactor_core::scheduler::LOOKS_A_TICK;

#[test]
fn beside_an_item_that_nobody_has_seen_blocked_none_is_begun_in_an_extra_slot() {
    for activity in [Activity::Running, Activity::Interpreter] {
        let (rig, first) = Rig::with_extra_runners();
        let second = rig.idle_worker();
        assert_eq!(rig.looks_at_fresh(None, activity), 1);
        assert_ne!(rig.decide(second), Decision::Take, "{activity:?}");
        assert_eq!(rig.counts().running, 1);
        rig.finishes_and_takes(first, 5);
    }
}

#[test]
fn beside_one_that_was_seen_blocked_the_next_is_begun() {
    let (rig, _first) = Rig::with_extra_runners();
    let [second, third] = rig.idle_workers();
    assert_eq!(rig.looks_at_fresh(None, Activity::Waiting), 1);
    rig.takes(second, 5);
    assert_ne!(rig.decide(third), Decision::Take, "now the second one's is fresh");
}

#[test]
fn where_the_platform_does_not_tell_the_clock_of_a_blocked_one_stands_still_between_two_looks() {
    for (used, begun) in [(MICROSECOND, true), (20 * MICROSECOND, false)] {
        let (mut rig, _first) = Rig::with_extra_runners();
        let second = rig.idle_worker();
        rig.looks_at_fresh(None, Activity::Unknown);
        rig.now += 10 * MICROSECOND;
        rig.looks_at_fresh(None, Activity::Unknown);
        rig.now += 10 * MICROSECOND; // 20 since the first look: enough to tell
        rig.cpu[0] += used;
        assert_eq!(rig.counts().running, 1);
        rig.looks_at_fresh(None, Activity::Unknown);
        assert_eq!(rig.decide(second) == Decision::Take, begun);
    }
}

#[test]
fn an_item_that_ends_or_blocks_is_not_fresh_any_more() {
    let (rig, first) = Rig::with_extra_runners();
    let second = rig.idle_worker();
    rig.finishes_and_takes(first, 5);
    assert_ne!(rig.decide(second), Decision::Take, "the first has taken another one");

    let (rig, first) = Rig::with_extra_runners();
    let second = rig.idle_worker();
    rig.block(first);
    rig.takes(second, 5);

    let (rig, first) = Rig::with_extra_runners();
    let second = rig.idle_worker();
    let _ = rig.scheduler.abandon(first);
    rig.takes(second, 5);
}

#[test]
fn nobody_is_looked_at_by_whoever_is_about_to_finish_the_only_fresh_item_or_has_nothing_to_begin() {
    let (rig, first) = Rig::with_extra_runners();
    assert_eq!(rig.looks_at_fresh(Some(first), Activity::Running), 0);
    let rig = Rig::locked(1, 16);
    let only = rig.idle_worker();
    rig.post([1]);
    rig.takes(only, 1);
    assert_eq!(rig.looks_at_fresh(None, Activity::Running), 0, "nothing waits");
}

#[test]
fn who_looks_without_taking_anything_wakes_whoever_may() {
    let (rig, _first) = Rig::with_extra_runners();
    let [leader, parked] = rig.idle_workers();
    assert_eq!(rig.decide(leader), Decision::Lead);
    rig.parks(parked);
    assert_eq!(rig.post([101]), Woke::Nobody, "one is fresh");
    rig.looks_at_fresh(None, Activity::Waiting);
    let wakes = rig.scheduler.wake_next();
    assert_eq!(rig.woke(wakes), Woke::Worker);
    rig.takes(parked, 5);
}

#[test]
fn an_idle_port_has_no_extra_runners_to_look_out_for() {
    let (mut rig, first) = Rig::with_extra_runners();
    for item in 5..=100 {
        rig.finishes_and_takes(first, item);
    }
    rig.finishes(first);
    rig.parks_or_leads(first);
    let mut last = rig.tick(MILLISECOND, &[]);
    assert!(last.eager);
    while last.again.is_some() {
        last = rig.tick(MILLISECOND, &[]);
    }
    assert!(!last.eager, "its monitor sleeps, and what the looks keep open would stay");
}

#[test]
fn the_monitor_relieves_nobody_unseen_where_the_platform_tells() {
    let mut rig = Rig::free(1, 4);
    let [first, second] = rig.idle_workers();
    rig.post(1..=10);
    rig.takes(first, 1);
    rig.activity[0] = Activity::Running; // pushed off its processor, perhaps
    rig.tick(MILLISECOND, &[]);
    rig.tick(MILLISECOND, &[]);
    rig.sample();
    rig.samples.iter_mut().for_each(|sample| (sample.looked, sample.activity) = (false, Activity::Unknown));
    rig.judge(MILLISECOND);
    assert_eq!((rig.phase(first), rig.counts().running), (Phase::Running, 1));
    rig.activity[0] = Activity::Waiting;
    rig.tick(MILLISECOND, &[]);
    assert_eq!(rig.phase(first), Phase::Relieved);
    rig.takes(second, 2);
}

#[test]
fn each_of_many_runners_is_looked_at_in_turn() {
    let mut rig = Rig::free(20, 64);
    rig.cpu = vec![0; 64];
    rig.activity = vec![Activity::Unknown; 64];
    let all: [WorkerId; 20] = rig.idle_workers();
    rig.post(1..=100);
    for (worker, item) in all.into_iter().zip(1..) {
        rig.takes(worker, item);
    }
    let mut first_eight = Vec::new();
    for _ in 0..3 {
        rig.scheduler.observe(&mut rig.samples);
        first_eight.extend(rig.samples[..LOOKS_A_TICK].iter().map(|sample| sample.clock.0));
    }
    first_eight.sort_unstable();
    first_eight.dedup();
    assert_eq!(first_eight, (0..20).collect::<Vec<_>>());
}

#[test]
fn each_of_many_fresh_ones_is_looked_at_in_turn() {
    let mut rig = Rig::locked(8, 64);
    rig.cpu = vec![0; 64];
    rig.activity = vec![Activity::Unknown; 64];
    let first = rig.idle_worker();
    rig.post(1..=200);
    rig.takes(first, 1);
    let mut item = 2;
    while rig.counts().allowance < 16 {
        rig.tick(MILLISECOND, &[200 * MICROSECOND]);
        rig.finishes_and_takes(first, item);
        item += 1;
    }
    let others: [WorkerId; 8] = rig.idle_workers();
    for (worker, next) in others[..7].iter().zip(item..) {
        rig.takes(*worker, next);
    }
    assert_ne!(rig.decide(others[7]), Decision::Take, "eight are fresh");
    let mut seen = Vec::new();
    for _ in 0..2 {
        let samples = rig.scheduler.fresh(None);
        seen.extend(samples.iter().map(|sample| sample.clock.0));
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..8).collect::<Vec<_>>());
}
