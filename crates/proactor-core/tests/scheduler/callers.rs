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
