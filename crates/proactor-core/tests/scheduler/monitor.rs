//! What a tick decides.

use crate::rig::*;

// ---- who is blocked ----

#[test]
fn a_worker_that_says_it_blocks_frees_its_slot_at_once() {
    let rig = Rig::locked(1, 4);
    let [blocking, other] = rig.idle_workers();
    rig.post([1]);
    rig.takes(blocking, 1);
    rig.parks(other);
    assert_eq!(rig.block(blocking), Woke::Worker, "to lead");
    assert_eq!((rig.counts().running, rig.counts().blocked), (0, 1));
    rig.leads_after_starting_a_spare(other);
}

#[test]
fn a_worker_that_comes_back_runs_on_and_the_surplus_ends_with_the_first_finished_item() {
    let rig = Rig::locked(1, 2);
    let [blocking, other] = rig.idle_workers();
    rig.post([1, 2, 3]);
    rig.takes(blocking, 1);
    rig.block(blocking);
    rig.takes(other, 2);
    rig.unblock(blocking);
    assert_eq!(rig.counts().running, 2);
    rig.finishes(other);
    assert_eq!(rig.counts().running, 1);
    assert_eq!(rig.decide(other), Decision::Park);
    rig.finishes_and_takes(blocking, 3);
}

#[test]
fn a_worker_that_stood_still_for_a_tick_is_relieved() {
    let mut rig = Rig::locked(1, 2);
    let [still, other] = rig.idle_workers();
    rig.post([1]);
    rig.takes(still, 1);
    rig.parks(other);
    rig.tick(MILLISECOND, &[]);
    assert_eq!(rig.phase(still), Phase::Running, "the first look finds out nothing");
    assert!(rig.tick(MILLISECOND, &[50 * MICROSECOND]).wake.is_some());
    assert_eq!((rig.phase(still), rig.counts().running, rig.counts().compensations), (Phase::Relieved, 0, 1));
    rig.post([2]);
    rig.takes(other, 2);
    // It finds itself relieved when it comes back: neither block nor its end touch a slot.
    rig.block(still);
    rig.unblock(still);
    rig.finishes(still);
    assert_eq!(rig.counts().running, 1);
    assert_eq!(rig.decide(still), Decision::Park);
}

#[test]
fn a_worker_that_begins_something_else_meanwhile_is_not_relieved() {
    let mut rig = Rig::free(1, 2);
    let [worker] = rig.idle_workers();
    rig.post([1, 2, 3, 4]);
    rig.takes(worker, 1);
    for item in 2..=4 {
        rig.tick(MILLISECOND, &[]);
        rig.finishes_and_takes(worker, item);
    }
    rig.sample();
    rig.finishes(worker);
    rig.judge(MILLISECOND);
    assert_eq!((rig.phase(worker), rig.counts().compensations), (Phase::Idle, 0));
}

#[test]
fn a_worker_that_computes_keeps_its_slot_and_lets_one_more_run_below_the_cap() {
    let mut rig = Rig::locked(2, 4);
    let [computing, other, third] = rig.idle_workers();
    rig.post([1, 2, 3]);
    rig.takes(computing, 1);
    rig.parks(third);
    rig.parks(other);
    rig.tick(MILLISECOND, &[MILLISECOND]);
    assert!(rig.tick(MILLISECOND, &[MILLISECOND]).wake.is_some());
    assert_eq!((rig.counts().allowance, rig.counts().hand_overs, rig.counts().compensations), (2, 1, 0));
    rig.takes(other, 2);
    rig.tick(MILLISECOND, &[MILLISECOND]);
    rig.tick(MILLISECOND, &[MILLISECOND, MILLISECOND]);
    assert_eq!((rig.counts().allowance, rig.phase(third)), (2, Phase::Parked), "the cap");
    // When the first is through, one is enough again.
    rig.finishes_and_takes(computing, 3);
    rig.tick(MILLISECOND, &[MILLISECOND, MILLISECOND]);
    rig.finishes(other);
    rig.tick(MILLISECOND, &[MILLISECOND]);
    rig.finishes(computing);
    rig.tick(MILLISECOND, &[]);
    assert_eq!(rig.counts().allowance, 1);
}

#[test]
fn a_cap_of_one_holds_however_long_the_handler_computes() {
    let mut rig = Rig::locked(1, 4);
    let [computing, other] = rig.idle_workers();
    rig.post([1, 2]);
    rig.takes(computing, 1);
    rig.parks(other);
    for _ in 0..100 {
        assert!(rig.tick(MILLISECOND, &[MILLISECOND]).wake.is_none());
    }
    assert_eq!((rig.counts().allowance, rig.counts().compensations), (1, 0));
}

#[test]
fn under_contention_for_the_interpreter_standing_still_proves_nothing_for_fifty_milliseconds() {
    let mut rig = Rig::locked(2, 4);
    let [still, attaching, third] = rig.idle_workers();
    rig.post([1, 2, 3]);
    rig.takes(still, 1);
    rig.parks(third);
    rig.parks(attaching);
    rig.tick(MILLISECOND, &[]);
    rig.tick(MILLISECOND, &[]);
    assert_eq!(rig.phase(still), Phase::Relieved);
    // The next one waits for the interpreter, for more than a millisecond, and then stands still as well.
    assert_eq!(rig.decide(attaching), Decision::Take);
    rig.tick(MILLISECOND, &[]);
    rig.tick(MILLISECOND, &[]);
    assert_eq!(rig.phase(third), Phase::Parked, "no other is released until it has attached");
    let _ = rig.scheduler.pop(attaching);
    let mut stood = 0;
    while rig.phase(attaching) == Phase::Running {
        rig.tick(MILLISECOND, &[]);
        stood += 1;
    }
    assert_eq!(stood, 51);
}

#[test]
fn a_runner_that_computes_makes_the_others_standing_still_prove_nothing() {
    let mut rig = Rig::locked(2, 4);
    let [computing, still] = rig.idle_workers();
    rig.post([1, 2]);
    rig.takes(computing, 1);
    rig.parks(still);
    rig.tick(MILLISECOND, &[MILLISECOND]);
    rig.tick(MILLISECOND, &[MILLISECOND]);
    rig.takes(still, 2);
    for _ in 0..10 {
        rig.tick(MILLISECOND, &[MILLISECOND]);
    }
    assert_eq!(rig.phase(still), Phase::Running);
}

#[test]
fn two_short_waits_for_the_interpreter_are_not_taken_for_a_long_one() {
    let mut rig = Rig::locked(1, 4);
    let [worker, still] = rig.idle_workers();
    for item in 1..=3 {
        rig.post([item]);
        if item == 3 {
            assert_eq!(rig.decide(worker), Decision::Look, "nobody has led all the while");
            rig.scheduler.led(worker, []);
        }
        assert_eq!(rig.decide(worker), Decision::Take);
        rig.tick(MILLISECOND, &[]);
        assert_eq!(rig.scheduler.pop(worker).0, Some(Work::Item(item)));
        rig.finishes(worker);
    }
    rig.post([4]);
    rig.takes(still, 4);
    rig.tick(MILLISECOND, &[]);
    rig.tick(MILLISECOND, &[]);
    assert_eq!(rig.phase(still), Phase::Relieved);
}

#[test]
fn a_worker_seen_waiting_for_something_else_than_the_interpreter_is_relieved_even_under_contention() {
    let mut rig = Rig::locked(2, 4);
    let [computing, waiting] = rig.idle_workers();
    rig.post([1, 2]);
    rig.takes(computing, 1);
    rig.parks(waiting);
    rig.tick(MILLISECOND, &[MILLISECOND]);
    rig.tick(MILLISECOND, &[MILLISECOND]);
    rig.takes(waiting, 2);
    rig.tick(MILLISECOND, &[MILLISECOND]);
    rig.activity[1] = Activity::Waiting;
    rig.tick(MILLISECOND, &[MILLISECOND]);
    assert_eq!((rig.phase(computing), rig.phase(waiting)), (Phase::Running, Phase::Relieved));
}

#[test]
fn a_worker_seen_waiting_for_the_interpreter_is_never_relieved() {
    let mut rig = Rig::locked(2, 4);
    let [first, _spare] = rig.idle_workers();
    rig.post(1..=2);
    rig.takes(first, 1);
    rig.activity[0] = Activity::Interpreter;
    for _ in 0..200 {
        rig.tick(MILLISECOND, &[]);
    }
    assert_eq!((rig.phase(first), rig.counts().allowance), (Phase::Running, 1), "another would only wait behind it");
}

#[test]
fn a_worker_that_gets_no_processor_is_not_relieved() {
    let mut rig = Rig::free(1, 4);
    let [worker] = rig.idle_workers();
    rig.post([1]);
    rig.takes(worker, 1);
    rig.activity[0] = Activity::Running;
    for _ in 0..10 {
        rig.tick(MILLISECOND, &[]);
    }
    assert_eq!(rig.phase(worker), Phase::Running);
}

#[test]
fn the_tick_is_fast_for_a_while_after_somebody_was_seen_blocked() {
    let mut rig = Rig::free(1, 1);
    let [still] = rig.idle_workers();
    rig.post([1]);
    rig.takes(still, 1);
    let interval = |verdict: Verdict| verdict.again.unwrap().as_nanos() as u64;
    assert_eq!(interval(rig.tick(MILLISECOND, &[])), MILLISECOND);
    assert_eq!(interval(rig.tick(MILLISECOND, &[])), 100 * MICROSECOND);
    assert_eq!(interval(rig.tick(99 * MILLISECOND, &[])), 100 * MICROSECOND);
    assert_eq!(interval(rig.tick(MILLISECOND, &[])), MILLISECOND);
}

#[test]
fn a_sample_of_a_worker_that_is_gone_is_not_taken_for_its_successor() {
    let mut rig = Rig::free(1, 2);
    let [gone] = rig.idle_workers();
    rig.post([1, 2]);
    rig.takes(gone, 1);
    rig.tick(MILLISECOND, &[]);
    rig.sample();
    let _ = rig.scheduler.abandon(gone);
    let successor = rig.register();
    assert_eq!(successor, gone, "the number is used again");
    rig.takes(successor, 2);
    rig.judge(MILLISECOND);
    rig.tick(MILLISECOND, &[]);
    assert_eq!(rig.phase(successor), Phase::Running, "one look is not enough");
}

// ---- the monitor as the last resort ----

#[test]
fn the_monitor_leads_when_every_worker_is_in_its_handler() {
    let mut rig = Rig::locked(1, 1);
    let [only] = rig.idle_workers();
    rig.post([1]);
    rig.takes(only, 1);
    assert!(!rig.tick(MILLISECOND, &[]).lead, "it may have just begun");
    assert!(rig.tick(MILLISECOND, &[]).lead);
    assert_eq!(rig.counts().monitor_leads, 1);
    // It comes back meanwhile, and parks because somebody leads.
    rig.finishes(only);
    assert_eq!(rig.decide(only), Decision::Park);
    let wakes = rig.scheduler.monitor_led([]);
    assert!(wakes.worker.is_some());
    assert_eq!(rig.decide(only), Decision::Lead);
}

#[test]
fn the_monitor_leads_while_a_computation_holds_the_only_slot() {
    let mut rig = Rig::free(1, 4);
    let [computing, parked] = rig.idle_workers();
    rig.post([1]);
    rig.takes(computing, 1);
    rig.parks(parked);
    rig.tick(MILLISECOND, &[MILLISECOND]);
    let verdict = rig.tick(MILLISECOND, &[MILLISECOND]);
    assert!(verdict.lead && verdict.wake.is_none());
    assert_eq!(rig.woke(rig.scheduler.monitor_led([2])), Woke::Nobody);
    rig.finishes_and_takes(computing, 2);
}

#[test]
fn the_monitor_does_not_lead_while_a_worker_is_on_its_way() {
    let mut rig = Rig::locked(1, 2);
    let [still, idle] = rig.idle_workers();
    rig.post([1]);
    rig.takes(still, 1);
    for _ in 0..3 {
        assert!(!rig.tick(MILLISECOND, &[]).lead);
    }
    rig.leads(idle);
    assert!(!rig.tick(MILLISECOND, &[]).lead);
}

#[test]
fn the_monitor_leads_while_the_only_worker_free_waits_long_for_the_interpreter() {
    let mut rig = Rig::locked(1, 1);
    let [attaching] = rig.idle_workers();
    rig.post([1]);
    assert_eq!(rig.decide(attaching), Decision::Take);
    assert!(!rig.tick(MILLISECOND, &[]).lead);
    assert!(rig.tick(MILLISECOND, &[]).lead);
}

#[test]
fn the_monitor_sleeps_when_nobody_was_in_a_handler_for_twenty_ticks_and_is_woken_by_the_next_item() {
    let mut rig = Rig::locked(1, 2);
    let [leader, other] = rig.idle_workers();
    rig.leads(leader);
    rig.parks(other);
    let ticks = std::iter::repeat_with(|| rig.tick(MILLISECOND, &[])).take_while(|verdict| verdict.again.is_some()).count();
    assert_eq!(ticks, 19);
    rig.scheduler.led(leader, [1]);
    assert_eq!(rig.decide(leader), Decision::Take);
    assert!(rig.scheduler.pop(leader).1.monitor);
    rig.finishes(leader);
}

#[test]
fn the_monitor_is_woken_by_a_worker_that_comes_back_from_its_block() {
    let mut rig = Rig::locked(1, 2);
    let [blocking, leader] = rig.idle_workers();
    rig.post([1]);
    rig.takes(blocking, 1);
    rig.block(blocking);
    rig.leads(leader);
    while rig.tick(MILLISECOND, &[]).again.is_some() {}
    assert!(rig.scheduler.unblock(blocking).monitor);
}

// ---- a pool that stands still ----

#[test]
fn a_pool_stands_still_when_every_worker_has_been_in_its_handler_for_a_second() {
    let mut rig = Rig::locked(1, 2);
    let [first, second] = rig.idle_workers();
    rig.post([1, 2]);
    rig.takes(first, 1);
    rig.block(first);
    rig.takes(second, 2);
    assert_eq!(rig.verdict_of_tick().still_for, None);
    rig.now += SECOND;
    assert!(rig.verdict_of_tick().still_for.is_some_and(|time| time >= SECOND));
    assert!(rig.scheduler.is_still());
    rig.finishes(second);
    assert!(!rig.scheduler.is_still(), "without another tick");
    assert_eq!(rig.verdict_of_tick().still_for, None);
}

#[test]
fn a_pool_that_may_still_grow_or_has_a_worker_to_spare_does_not_stand_still() {
    for (workers, max_workers) in [(1, 2), (2, 2)] {
        let mut rig = Rig::free(1, max_workers);
        let [first] = rig.idle_workers();
        rig.post([1]);
        rig.takes(first, 1);
        if workers == 2 {
            let spare = rig.idle_worker();
            rig.parks(spare);
        }
        rig.verdict_of_tick();
        rig.now += 2 * SECOND;
        assert_eq!(rig.verdict_of_tick().still_for, None);
    }
}

// ---- a queue that never empties ----

#[test]
fn a_worker_that_finds_work_for_a_whole_tick_looks_for_more_before_it_goes_on() {
    let mut rig = Rig::locked(1, 2);
    let [worker, spare] = rig.idle_workers();
    rig.leads(worker);
    rig.parks(spare);
    rig.scheduler.led(worker, [1, 2, 3, 4, 5]);
    rig.takes(worker, 1);
    rig.finishes_and_takes(worker, 2);
    rig.tick(MILLISECOND, &[MILLISECOND]);
    rig.finishes_and_takes(worker, 3); // somebody has led since the tick before
    rig.tick(MILLISECOND, &[MILLISECOND]);
    assert_eq!(rig.finish_only(worker), None);
    assert_eq!(rig.decide(worker), Decision::Look);
    rig.scheduler.led(worker, [6]);
    rig.takes(worker, 4);
    rig.finishes_and_takes(worker, 5);
    rig.finishes_and_takes(worker, 6);
}

#[test]
fn of_two_runners_one_looks_for_more() {
    let mut rig = Rig::free(2, 2);
    let [first, second] = rig.idle_workers();
    rig.post([1, 2, 3, 4, 5]);
    rig.takes(first, 1);
    rig.takes(second, 2);
    rig.finishes_and_takes(first, 3);
    rig.tick(MILLISECOND, &[MILLISECOND, MILLISECOND]);
    assert_eq!(rig.finish_only(first), None);
    assert_eq!(rig.decide(first), Decision::Look);
    rig.finishes_and_takes(second, 4);
    rig.scheduler.led(first, []);
    rig.takes(first, 5);
}

#[test]
fn where_the_queue_has_emptied_meanwhile_the_next_leader_waits() {
    let mut rig = Rig::locked(1, 2);
    let [worker] = rig.idle_workers();
    rig.post([1, 2, 3]);
    rig.takes(worker, 1);
    rig.finishes_and_takes(worker, 2);
    rig.tick(MILLISECOND, &[MILLISECOND]);
    assert_eq!(rig.scheduler.take_rest().len(), 1);
    assert_eq!(rig.finish_only(worker), None);
    rig.leads(worker);
    rig.scheduler.led(worker, [4, 5]);
    rig.takes(worker, 4);
    rig.finishes_and_takes(worker, 5);
}

#[test]
fn a_worker_whose_first_decision_is_to_look_may_look_again() {
    let mut rig = Rig::callers(2);
    let [busy, looking] = rig.idle_workers();
    rig.post([1, 2, 3, 4, 5]);
    rig.takes(busy, 1);
    rig.finishes_and_takes(busy, 2);
    rig.tick(MILLISECOND, &[MILLISECOND]);
    assert_eq!(rig.decide(looking), Decision::Look);
    rig.scheduler.led(looking, []);
    rig.finishes_and_takes(busy, 3);
    rig.tick(MILLISECOND, &[MILLISECOND]);
    rig.finishes_and_takes(busy, 4);
    rig.tick(MILLISECOND, &[MILLISECOND]);
    assert_eq!(rig.decide(looking), Decision::Look);
}
