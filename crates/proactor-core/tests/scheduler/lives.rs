//! How workers come and go.

use crate::rig::*;

// ---- starting ----

#[test]
fn the_first_worker_starts_a_spare_unless_there_may_be_only_one() {
    for (max_workers, expected) in [(2, Decision::Take), (1, Decision::Lead)] {
        let rig = Rig::locked(1, max_workers);
        let first = rig.register();
        assert_eq!(rig.decide(first), expected);
        if max_workers == 2 {
            assert_eq!(rig.scheduler.pop(first).0, Some(Work::StartWorker));
            rig.finishes(first);
            assert_eq!(rig.decide(first), Decision::Lead, "one start is enough");
        }
    }
}

#[test]
fn the_last_spare_that_is_released_starts_another_before_its_item() {
    let rig = Rig::locked(1, 3);
    let [blocking, spare] = rig.idle_workers();
    rig.post([1, 2]);
    rig.takes(blocking, 1);
    rig.parks(spare);
    rig.block(blocking);
    assert_eq!(rig.decide(spare), Decision::Take);
    assert_eq!(rig.scheduler.pop(spare).0, Some(Work::StartWorker));
    rig.finishes_and_takes(spare, 2);
}

#[test]
fn a_worker_that_nobody_could_take_over_from_starts_another_first() {
    let rig = Rig::free(2, 4);
    let [first, second] = rig.idle_workers();
    rig.post([1, 2]);
    rig.takes(first, 1);
    assert_eq!(rig.decide(second), Decision::Take);
    assert_eq!(rig.scheduler.pop(second).0, Some(Work::StartWorker));
    rig.finishes_and_takes(second, 2);
    // The new worker takes an item at once: it is the next that nobody could take over from.
    rig.block(first);
    let third = rig.register();
    rig.post([3]);
    assert_eq!(rig.decide(third), Decision::Take);
    assert_eq!(rig.scheduler.pop(third).0, Some(Work::StartWorker));
    rig.finishes_and_takes(third, 3);
    // And so on, to the limit.
    rig.block(second);
    let fourth = rig.register();
    rig.post([4]);
    rig.takes(fourth, 4);
}

#[test]
fn a_start_that_failed_is_tried_again_after_a_second() {
    let mut rig = Rig::locked(1, 2);
    let first = rig.register();
    assert_eq!(rig.decide(first), Decision::Take);
    assert_eq!(rig.scheduler.pop(first).0, Some(Work::StartWorker));
    rig.scheduler.start_failed();
    rig.finishes(first);
    rig.post([1, 2, 3]);
    rig.takes(first, 1);
    rig.verdict_of_tick();
    rig.finishes_and_takes(first, 2);
    rig.now += SECOND;
    rig.verdict_of_tick();
    assert_eq!(rig.finish(first), Some(Work::StartWorker));
}

// ---- retiring ----

#[test]
fn the_oldest_parked_worker_retires_and_never_the_last_spare() {
    let rig = Rig::locked(1, 8);
    let [leader, oldest, newest] = rig.idle_workers();
    rig.leads(leader);
    rig.parks(oldest);
    rig.parks(newest);
    assert!(!rig.scheduler.retire(newest));
    assert!(rig.scheduler.retire(oldest));
    assert!(!rig.scheduler.retire(newest));
    assert_eq!((rig.counts().workers, rig.counts().retired), (2, 1));
}

#[test]
fn a_worker_that_was_woken_does_not_retire() {
    let rig = Rig::free(3, 8);
    let [leader, oldest, newest] = rig.idle_workers();
    rig.leads(leader);
    rig.parks(oldest);
    rig.parks(newest);
    rig.post([1, 2]);
    assert!(!rig.scheduler.retire(newest));
    rig.post([3]);
    assert!(!rig.scheduler.retire(oldest));
}

// ---- ending ----

#[test]
fn a_worker_that_ends_outside_the_protocol_leaves_the_books_in_order() {
    let phases = [
        Phase::New,
        Phase::Idle,
        Phase::Parked,
        Phase::Woken,
        Phase::Leading,
        Phase::Attaching,
        Phase::Running,
        Phase::Blocked,
        Phase::Relieved,
    ];
    for phase in phases {
        let mut rig = Rig::locked(2, 2);
        let [other] = rig.idle_workers();
        let worker = rig.register();
        if phase == Phase::Idle {
            rig.finishes(worker);
        }
        match phase {
            Phase::Away => unreachable!("for callers' threads"),
            Phase::New | Phase::Idle => {}
            Phase::Leading => rig.leads(worker),
            Phase::Parked | Phase::Woken => {
                rig.leads(other);
                rig.parks(worker);
                if phase == Phase::Woken {
                    rig.post([1]);
                }
            }
            Phase::Attaching | Phase::Running | Phase::Blocked | Phase::Relieved => {
                rig.post([1]);
                assert_eq!(rig.decide(worker), Decision::Take);
                if phase != Phase::Attaching {
                    let _ = rig.scheduler.pop(worker);
                }
                if phase == Phase::Blocked {
                    rig.block(worker);
                } else if phase == Phase::Relieved {
                    rig.tick(MILLISECOND, &[]);
                    rig.tick(MILLISECOND, &[]);
                }
            }
        }
        assert_eq!(rig.phase(worker), phase);
        let _ = rig.scheduler.abandon(worker);
        rig.scheduler.check();
        assert_eq!((rig.counts().workers, rig.counts().running, rig.counts().blocked), (1, 0, 0), "{phase:?}");
    }
}

#[test]
fn a_handler_that_never_said_its_block_was_over_ends_like_any_other() {
    let rig = Rig::locked(1, 2);
    let [worker] = rig.idle_workers();
    rig.post([1, 2]);
    rig.takes(worker, 1);
    rig.block(worker);
    rig.finishes(worker);
    rig.takes(worker, 2);
}

#[test]
fn a_drain_lets_workers_go_when_the_queue_is_empty_and_a_close_at_once() {
    for drain in [true, false] {
        let rig = Rig::locked(1, 4);
        let [running, parked, waiting] = rig.idle_workers();
        rig.post([1, 2]);
        rig.takes(running, 1);
        rig.parks(parked);
        assert_eq!(rig.scheduler.close(drain).len(), 1);
        if drain {
            assert_eq!(rig.decide(parked), Decision::Park, "it is needed if the runner blocks");
            assert_eq!(rig.finish(running), Some(Work::Item(2)));
            assert_eq!(rig.decide(waiting), Decision::Exit);
            assert!(rig.scheduler.pass_exit_on().is_some());
        } else {
            assert_eq!(rig.decide(waiting), Decision::Exit);
        }
        assert_eq!(rig.decide(parked), Decision::Exit);
        rig.finishes(running);
        assert_eq!(rig.decide(running), Decision::Exit);
        assert_eq!(rig.scheduler.take_rest().len(), usize::from(!drain));
        assert_eq!(rig.counts().workers, 0);
    }
}

#[test]
fn a_drain_waits_for_what_is_expected() {
    let rig = Rig::locked(1, 4);
    let [first, second] = rig.idle_workers();
    rig.leads(first);
    rig.parks(second);
    for _ in 0..3 {
        rig.scheduler.expect();
    }
    assert_eq!(rig.scheduler.close(true).len(), 1);
    rig.scheduler.led(first, []);
    assert_eq!(rig.decide(first), Decision::Park, "nobody sleeps in a poll, where no exit is passed on to");
    assert_eq!(rig.decide(second), Decision::Park);
    assert_eq!(rig.woke(rig.scheduler.post_expected(1).unwrap()), Woke::Worker);
    rig.takes(second, 1);
    assert!(rig.scheduler.unexpect(), "it came by another way");
    rig.finishes(second);
    assert_eq!(rig.decide(second), Decision::Park, "one is still to come");
    assert_eq!(rig.woke(rig.scheduler.post_expected(2).unwrap()), Woke::Worker);
    rig.takes(second, 2);
    rig.finishes(second);
    assert_eq!(rig.decide(second), Decision::Exit);
    assert!(rig.scheduler.pass_exit_on().is_some());
    assert_eq!(rig.decide(first), Decision::Exit);
}

#[test]
fn what_is_expected_comes_back_once_nobody_will_take_it() {
    let rig = Rig::callers(2);
    rig.scheduler.expect();
    rig.scheduler.expect();
    assert!(rig.scheduler.close(false).is_empty());
    assert_eq!(rig.scheduler.post_expected(1).err(), Some(1));
    assert!(!rig.scheduler.unexpect());
    assert!(rig.scheduler.take_rest().is_empty());
}

#[test]
fn a_drain_waits_for_what_the_monitor_brings() {
    let mut rig = Rig::locked(1, 1);
    let [only] = rig.idle_workers();
    rig.post([1]);
    rig.takes(only, 1);
    rig.tick(MILLISECOND, &[]);
    assert!(rig.tick(MILLISECOND, &[]).lead);
    assert!(rig.scheduler.close(true).is_empty());
    rig.finishes(only);
    rig.parks(only);
    assert_eq!(rig.woke(rig.scheduler.monitor_led([2])), Woke::Worker);
    rig.takes(only, 2);
    rig.finishes(only);
    assert_eq!(rig.decide(only), Decision::Exit);
    assert!(rig.scheduler.take_rest().is_empty());
}
