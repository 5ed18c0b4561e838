//! Threads that are their callers': they give up, go away and come back, and what was meant for them goes to somebody else.

use crate::rig::*;

fn gives_up(rig: &Rig, thread: WorkerId) -> Woke {
    match rig.scheduler.decide_or_give_up(thread) {
        Ok(decision) => panic!("it goes on: {decision:?}"),
        Err(wakes) => rig.woke(wakes),
    }
}

#[test]
fn none_is_started_however_many_are_missing() {
    let rig = Rig::callers(1);
    let [only] = rig.idle_workers();
    rig.post([1, 2]);
    rig.takes(only, 1);
    rig.block(only);
    rig.post([3]);
    assert_eq!(rig.counts().workers, 1);
    rig.unblock(only);
    rig.finishes_and_takes(only, 2);
}

#[test]
fn one_whose_time_is_out_leaves_the_stack_and_nobody_wakes_it() {
    let rig = Rig::callers(2);
    let [leader, other, newest] = rig.idle_workers();
    rig.leads(leader);
    rig.parks(other);
    rig.parks(newest);
    assert!(rig.scheduler.stop_parking(newest));
    assert_eq!(gives_up(&rig, newest), Woke::Nobody, "somebody leads");
    assert_eq!(rig.phase(newest), Phase::Away);
    assert_eq!(rig.post([1]), Woke::Worker);
    assert_eq!(rig.phase(other), Phase::Woken);
}

#[test]
fn one_that_is_woken_as_its_time_runs_out_takes_the_item() {
    let rig = Rig::callers(1);
    let [leader, parked] = rig.idle_workers();
    rig.leads(leader);
    rig.parks(parked);
    rig.post([1]);
    assert!(!rig.scheduler.stop_parking(parked), "its permit is on its way");
    assert_eq!(rig.scheduler.decide_or_give_up(parked).ok(), Some(Decision::Take));
    assert_eq!(rig.scheduler.pop(parked).0, Some(Work::Item(1)));
}

#[test]
fn one_that_is_interrupted_hands_its_wake_up_on() {
    let rig = Rig::callers(1);
    let [leader, other, interrupted] = rig.idle_workers();
    rig.leads(leader);
    rig.parks(other);
    rig.parks(interrupted);
    rig.post([1]);
    let (woken, wakes) = rig.scheduler.give_up(interrupted);
    assert!(woken);
    assert_eq!(rig.woke(wakes), Woke::Worker);
    rig.takes(other, 1);
}

#[test]
fn one_that_is_interrupted_before_it_takes_hands_its_slot_on() {
    let rig = Rig::callers(1);
    let [interrupted, other] = rig.idle_workers();
    rig.post([1]);
    assert_eq!(rig.decide(interrupted), Decision::Take);
    rig.parks(other);
    let (woken, wakes) = rig.scheduler.give_up(interrupted);
    assert!(!woken);
    assert_eq!(rig.woke(wakes), Woke::Worker);
    rig.takes(other, 1);
}

#[test]
fn a_leader_whose_time_is_out_hands_the_role_over() {
    let rig = Rig::callers(1);
    let [leader, parked] = rig.idle_workers();
    rig.leads(leader);
    rig.parks(parked);
    rig.scheduler.led(leader, []);
    assert_eq!(gives_up(&rig, leader), Woke::Worker);
    rig.leads(parked);
}

#[test]
fn what_the_last_poll_brought_is_taken_by_whoever_brought_it() {
    let rig = Rig::callers(1);
    let [leader] = rig.idle_workers();
    rig.leads(leader);
    rig.scheduler.led(leader, [1]);
    assert_eq!(rig.scheduler.decide_or_give_up(leader).ok(), Some(Decision::Take));
}

#[test]
fn a_release_frees_the_slot_and_the_thread_comes_back() {
    let rig = Rig::callers(1);
    let [first, second] = rig.idle_workers();
    rig.post([1, 2]);
    rig.takes(first, 1);
    rig.parks(second);
    let wakes = rig.scheduler.release(first);
    assert_eq!(rig.woke(wakes), Woke::Worker);
    assert_eq!((rig.phase(first), rig.counts().running, rig.counts().finished), (Phase::Away, 0, 1));
    let wakes = rig.scheduler.release(first);
    assert_eq!(rig.woke(wakes), Woke::Nobody, "once is enough");
    rig.takes(second, 2);
    rig.finishes(first);
    rig.parks(first);
}

#[test]
fn a_relieved_or_blocked_one_that_releases_gives_no_slot_back() {
    let rig = Rig::callers(1);
    let [first, second] = rig.idle_workers();
    rig.post([1, 2]);
    rig.takes(first, 1);
    rig.block(first);
    rig.takes(second, 2);
    let wakes = rig.scheduler.release(first);
    assert_eq!(rig.woke(wakes), Woke::Nobody);
    assert_eq!((rig.counts().running, rig.counts().blocked), (1, 0));
}

#[test]
fn the_monitor_leads_while_somebody_is_at_work_and_rests_when_all_are_away() {
    let mut rig = Rig::callers(1);
    let [thread] = rig.idle_workers();
    rig.post([1]);
    rig.takes(thread, 1);
    rig.tick(MILLISECOND, &[MILLISECOND]);
    let verdict = rig.tick(MILLISECOND, &[MILLISECOND]);
    assert!(verdict.lead, "the only thread computes");
    let _ = rig.scheduler.monitor_led([]);
    let _ = rig.scheduler.release(thread);
    let mut ticks = 0;
    loop {
        let verdict = rig.tick(MILLISECOND, &[]);
        assert!(!verdict.lead, "nobody is at work, so nobody is kept from coming");
        ticks += 1;
        if verdict.again.is_none() {
            break;
        }
        assert!(ticks < 100, "the monitor goes to sleep");
    }
}

#[test]
fn after_a_close_everybody_is_told_and_keeps_his_seat() {
    let rig = Rig::callers(1);
    let [leader, parked] = rig.idle_workers();
    rig.leads(leader);
    rig.parks(parked);
    assert_eq!(rig.scheduler.close(false).len(), 1);
    assert_eq!(rig.decide(parked), Decision::Exit);
    rig.scheduler.led(leader, []);
    assert_eq!(rig.decide(leader), Decision::Exit);
    assert_eq!((rig.phase(leader), rig.phase(parked)), (Phase::Away, Phase::Away));
    rig.finishes(parked);
    assert_eq!(rig.decide(parked), Decision::Exit, "as often as it asks");
    let _ = rig.scheduler.abandon(leader);
    assert_eq!(rig.counts().workers, 1);
}

/// How often the monitor ticks in so much time.
fn ticks_within(rig: &mut Rig, time: u64, used: u64) -> u64 {
    let (end, mut pause, mut ticks) = (rig.now + time, MILLISECOND, 0);
    while rig.now < end {
        let verdict = rig.tick(pause, &[pause * used / 100]);
        if verdict.lead {
            let _ = rig.scheduler.monitor_led([]);
        }
        pause = verdict.again.expect("somebody is at work").as_nanos() as u64;
        ticks += 1;
    }
    ticks
}

#[test]
fn while_all_are_at_work_and_nobody_waits_the_monitor_takes_its_time() {
    for used in [0, 100] {
        let mut rig = Rig::callers(1);
        let [only] = rig.idle_workers();
        rig.post([1]);
        rig.takes(only, 1);
        let ticks = ticks_within(&mut rig, SECOND, used);
        assert!((100..160).contains(&ticks), "{ticks}"); // eight milliseconds each, after the first twenty
        assert_eq!(rig.post([2]), Woke::Nobody, "there is nobody to take it");
        assert!(ticks_within(&mut rig, SECOND, used) < 160);
    }
}

#[test]
fn whoever_comes_meanwhile_makes_it_quick_again() {
    let mut rig = Rig::callers(1);
    let [blocked, other] = rig.idle_workers();
    rig.post([1]);
    rig.takes(blocked, 1);
    let _ = rig.scheduler.give_up(other);
    ticks_within(&mut rig, SECOND, 100);
    rig.post([2]);
    let (work, wakes) = rig.scheduler.finish_and_pop(other, None);
    assert!(work.is_none() && wakes.monitor, "who has the slot may be blocked by now");
    rig.parks(other);
    let verdict = rig.tick(MILLISECOND, &[]);
    assert!(verdict.wake.is_some() && verdict.again.is_some_and(|again| again.as_nanos() as u64 <= MILLISECOND));
    assert_eq!(rig.phase(blocked), Phase::Relieved);
}

#[test]
fn what_the_monitor_finds_makes_it_quick_again() {
    let mut rig = Rig::callers(1);
    let [only] = rig.idle_workers();
    rig.post([1]);
    rig.takes(only, 1);
    ticks_within(&mut rig, SECOND, 100);
    let pauses: Vec<u64> = (0..3)
        .map(|number| {
            let verdict = rig.tick(MILLISECOND, &[MILLISECOND]);
            assert!(verdict.lead);
            let _ = rig.scheduler.monitor_led((number == 0).then_some(2));
            verdict.again.expect("somebody is at work").as_nanos() as u64
        })
        .collect();
    assert_eq!(pauses, [8 * MILLISECOND, MILLISECOND, MILLISECOND]);
}
