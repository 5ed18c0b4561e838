//! Who may run, who leads, who is woken.

use crate::rig::*;

// ---- the cap ----

#[test]
fn no_more_workers_run_than_the_concurrency() {
    let rig = Rig::free(2, 8);
    let [first, second, third] = rig.idle_workers();
    rig.post([1, 2, 3]);
    rig.takes(first, 1);
    rig.takes(second, 2);
    assert_eq!(rig.decide(third), Decision::Park);
    rig.finishes_and_takes(first, 3);
    rig.finishes(first);
    rig.finishes(second);
    assert_eq!(rig.counts().finished, 3);
}

#[test]
fn with_an_interpreter_lock_one_worker_runs() {
    let rig = Rig::locked(4, 8);
    let [first, second] = rig.idle_workers();
    rig.post([1, 2]);
    rig.takes(first, 1);
    assert_eq!(rig.decide(second), Decision::Park);
    rig.post([3]);
    assert_eq!(rig.phase(second), Phase::Parked);
}

#[test]
fn one_worker_leads_and_the_others_park() {
    let rig = Rig::free(4, 8);
    let [first, second] = rig.idle_workers();
    assert_eq!(rig.decide(first), Decision::Lead);
    assert_eq!(rig.decide(second), Decision::Park);
    rig.scheduler.led(first, [1]);
    rig.takes(first, 1);
}

#[test]
fn nobody_leads_without_a_slot() {
    let rig = Rig::locked(4, 8);
    let [first, second] = rig.idle_workers();
    rig.post([1]);
    rig.takes(first, 1);
    assert!(rig.scheduler.nobody_leads());
    assert_eq!(rig.decide(second), Decision::Park);
}

#[test]
fn it_is_short_of_workers_where_a_slot_is_free_for_an_item_and_everybody_is_in_a_handler() {
    let rig = Rig::free(1, 2);
    let [first, second] = rig.idle_workers();
    rig.post([1, 2]);
    rig.takes(first, 1);
    rig.block(first);
    assert!(!rig.scheduler.is_short(), "another one is about to decide");
    rig.takes(second, 2);
    rig.post([3]);
    assert!(!rig.scheduler.is_short(), "it has to wait for the slot");
    rig.block(second);
    assert!(rig.scheduler.is_short());
    rig.unblock(first);
    rig.finishes_and_takes(first, 3);
    assert!(!rig.scheduler.is_short(), "nothing waits");
}

// ---- waking ----

#[test]
fn the_newest_parked_worker_is_woken_first() {
    let rig = Rig::free(4, 8);
    let [leader, oldest, newest] = rig.idle_workers();
    rig.leads(leader);
    rig.parks(oldest);
    rig.parks(newest);
    let wakes = rig.scheduler.post([1]);
    assert_eq!((rig.phase(oldest), rig.phase(newest)), (Phase::Parked, Phase::Woken));
    assert!(wakes.worker.is_some() && !wakes.leader);
}

#[test]
fn each_woken_worker_wakes_the_next_while_items_and_slots_are_left() {
    let rig = Rig::free(3, 3);
    let [first, second, third] = rig.idle_workers();
    rig.leads(first);
    rig.parks(second);
    rig.parks(third);
    let _ = rig.scheduler.post([1, 2, 3]);
    assert_eq!((rig.phase(second), rig.phase(third)), (Phase::Parked, Phase::Woken));
    rig.takes(third, 1);
    assert_eq!(rig.phase(second), Phase::Woken);
    assert_eq!(rig.decide(second), Decision::Take);
    let (work, wakes) = rig.scheduler.pop(second);
    assert_eq!(work, Some(Work::Item(2)));
    assert!(wakes.leader, "nobody is parked: the leader comes for the third item");
}

#[test]
fn with_an_interpreter_lock_one_worker_at_a_time_is_on_its_way() {
    let rig = Rig::locked(4, 8);
    let [blocking, second, third] = rig.idle_workers();
    rig.post([1]);
    rig.takes(blocking, 1);
    rig.parks(second);
    rig.parks(third);
    let _ = rig.scheduler.post([2, 3]);
    assert_eq!(rig.block(blocking), Woke::Worker);
    assert_eq!(rig.decide(third), Decision::Take);
    assert_eq!(rig.post([4]), Woke::Nobody);
    assert_eq!(rig.phase(second), Phase::Parked);
}

#[test]
fn a_worker_about_to_decide_needs_no_waking() {
    let rig = Rig::free(2, 4);
    let [deciding, parked, leader] = rig.idle_workers();
    rig.leads(leader);
    rig.parks(parked);
    assert_eq!(rig.phase(deciding), Phase::Idle);
    assert_eq!(rig.post([1]), Woke::Worker, "there are two slots");
    rig.takes(parked, 1);
    assert_eq!(rig.post([2]), Woke::Nobody);
    rig.takes(deciding, 2);
}

#[test]
fn the_sleeping_leader_is_interrupted_where_nobody_is_parked() {
    for source in ["post", "block", "tick"] {
        let mut rig = Rig::locked(2, 2);
        let [leader, worker] = rig.idle_workers();
        if source == "post" {
            rig.leads(leader);
            assert_eq!(rig.post([1]), Woke::Leader);
            continue;
        }
        rig.leads(leader);
        rig.parks(worker);
        assert_eq!(rig.post([1]), Woke::Worker);
        rig.takes(worker, 1);
        assert_eq!(rig.post([2]), Woke::Nobody, "there is no slot yet");
        if source == "block" {
            assert_eq!(rig.block(worker), Woke::Leader);
        } else {
            rig.tick(MILLISECOND, &[]);
            assert!(rig.tick(MILLISECOND, &[]).wake_leader);
        }
    }
}

#[test]
fn a_tick_wakes_somebody_to_lead_where_a_slot_is_free() {
    let mut rig = Rig::free(2, 2);
    let [computing, parked] = rig.idle_workers();
    rig.leads(computing);
    rig.parks(parked);
    rig.scheduler.led(computing, [1]);
    rig.takes(computing, 1);
    assert!(rig.tick(MILLISECOND, &[MILLISECOND]).wake.is_some());
    assert_eq!(rig.decide(parked), Decision::Lead);
}
