//! Who comes back from a block, and what short blocks earn.

use crate::rig::*;

// ---- who comes back from a block ----

/// `first` was relieved and is back in its handler, and `second` has taken its place.
fn rig_with_one_back(rig: &mut Rig) -> [WorkerId; 2] {
    let [first, second] = rig.idle_workers();
    rig.post(1..=100);
    rig.takes(first, 1);
    rig.tick(MILLISECOND, &[]);
    rig.activity[0] = Activity::Waiting;
    rig.tick(MILLISECOND, &[]);
    rig.takes(second, 2);
    rig.tick(MILLISECOND, &[0, MILLISECOND / 4]);
    assert_eq!((rig.phase(first), rig.counts().running), (Phase::Relieved, 1), "it waits on");
    rig.activity[0] = Activity::Unknown;
    [first, second]
}

#[test]
fn a_relieved_worker_that_computes_again_is_counted_and_the_next_to_finish_parks() {
    let mut rig = Rig::free(1, 4);
    let [back, other] = rig_with_one_back(&mut rig);
    rig.tick(MILLISECOND, &[MILLISECOND, MILLISECOND]);
    assert_eq!((rig.phase(back), rig.counts().running, rig.counts().blocked), (Phase::Running, 2, 0));
    rig.finishes(other);
    rig.parks(other);
    rig.finishes_and_takes(back, 3);
    assert_eq!(rig.counts().running, 1);
}

#[test]
fn a_relieved_worker_that_was_seen_ready_for_a_processor_or_the_interpreter_is_counted_and_one_that_waits_is_not() {
    for (activity, counted) in
        [(Activity::Running, true), (Activity::Interpreter, true), (Activity::Waiting, false), (Activity::Lock(1), false)]
    {
        let mut rig = Rig::locked(2, 4);
        let [back, _other] = rig_with_one_back(&mut rig);
        rig.activity[0] = activity;
        rig.tick(MILLISECOND, &[10 * MICROSECOND, MILLISECOND]);
        assert_eq!(rig.phase(back) == Phase::Running, counted, "{activity:?}");
    }
}

#[test]
fn a_worker_that_is_back_may_block_again_and_is_relieved_again() {
    let mut rig = Rig::free(1, 4);
    let [back, _other] = rig_with_one_back(&mut rig);
    rig.tick(MILLISECOND, &[MILLISECOND, MILLISECOND]);
    rig.activity[0] = Activity::Waiting;
    rig.tick(MILLISECOND, &[0, MILLISECOND]);
    assert_eq!((rig.phase(back), rig.counts().running, rig.counts().compensations), (Phase::Relieved, 1, 2));
}

#[test]
fn whoever_gets_the_interpreter_after_another_came_back_takes_nothing() {
    let mut rig = Rig::free(1, 4);
    let [back, on_its_way] = rig.idle_workers();
    rig.post(1..=100);
    rig.takes(back, 1);
    rig.tick(MILLISECOND, &[]);
    rig.activity[0] = Activity::Waiting;
    rig.tick(MILLISECOND, &[]);
    assert_eq!(rig.decide(on_its_way), Decision::Take);
    rig.activity[0] = Activity::Running;
    rig.tick(MILLISECOND, &[MILLISECOND]);
    assert_eq!(rig.counts().running, 2);
    assert_eq!(rig.scheduler.pop(on_its_way).0, None);
    rig.parks(on_its_way);
    assert_eq!(rig.finish(back), Some(Work::StartWorker), "nobody was left to take over");
}

#[test]
fn all_of_many_that_were_relieved_have_their_turn() {
    let mut rig = Rig::free(1, 64);
    rig.cpu = vec![0; 64];
    rig.activity = vec![Activity::Unknown; 64];
    let all: [WorkerId; 40] = rig.idle_workers();
    rig.post(1..=100);
    for (index, worker) in all.into_iter().enumerate() {
        rig.takes(worker, index as u32 + 1);
        rig.tick(MILLISECOND, &[]);
        rig.activity[index] = Activity::Waiting;
        rig.tick(MILLISECOND, &[]);
        assert_eq!(rig.phase(worker), Phase::Relieved);
    }
    rig.activity.fill(Activity::Running);
    let mut seen = Vec::new();
    for _ in 0..3 {
        rig.tick(MILLISECOND, &[MICROSECOND; 64]);
        seen.push(rig.counts().running);
    }
    assert_eq!(seen, [16, 32, 40]);
}

#[test]
fn the_monitor_comes_by_now_and_then_while_all_who_are_in_handlers_are_blocked() {
    let (mut rig, _, leader) = with_one_relieved();
    rig.leads(leader);
    let pauses: Vec<_> = (0..40).map(|_| rig.tick(MILLISECOND, &[]).again.expect("somebody may come back").as_millis()).collect();
    assert_eq!(pauses.last(), Some(&50));
    rig.activity[0] = Activity::Running;
    let again = rig.tick(50 * MILLISECOND, &[MICROSECOND]).again;
    assert_eq!((rig.counts().running, again.map(|pause| pause.as_millis() < 2)), (1, Some(true)));
    // Who takes something wakes it before its time.
    rig.activity[0] = Activity::Waiting;
    while rig.tick(MILLISECOND, &[]).again.is_some_and(|pause| pause.as_millis() < 50) {}
    rig.scheduler.led(leader, [2]);
    assert_eq!(rig.decide(leader), Decision::Take);
    assert!(rig.scheduler.pop(leader).1.monitor);
}

/// And another that is idle.
fn with_one_relieved() -> (Rig, WorkerId, WorkerId) {
    let mut rig = Rig::free(1, 4);
    let [relieved, other] = rig.idle_workers();
    rig.post([1]);
    rig.takes(relieved, 1);
    rig.tick(MILLISECOND, &[]);
    rig.activity[0] = Activity::Waiting;
    rig.tick(MILLISECOND, &[]);
    assert_eq!(rig.phase(relieved), Phase::Relieved);
    (rig, relieved, other)
}

/// It was relieved in one wait, and says that it blocks in the next: nobody takes it for one that is back, whatever it waits for.
#[test]
fn a_relieved_worker_that_says_that_it_blocks_is_not_looked_at_any_more() {
    let (mut rig, blocked, _) = with_one_relieved();
    drop(rig.scheduler.block(blocked));
    rig.activity[0] = Activity::Interpreter;
    rig.tick(MILLISECOND, &[MICROSECOND]);
    assert_eq!((rig.phase(blocked), rig.counts().running, rig.counts().compensations), (Phase::Blocked, 0, 1));
    drop(rig.scheduler.unblock(blocked));
    assert_eq!((rig.phase(blocked), rig.counts().running), (Phase::Running, 1));
}

// ---- short blocks ----

#[test]
fn runners_that_mostly_wait_earn_extra_runners_while_work_waits() {
    let mut rig = Rig::locked(1, 16);
    let [first] = rig.idle_workers();
    rig.post(1..=100);
    rig.takes(first, 1);
    let mut allowances = Vec::new();
    for item in 2..9 {
        rig.tick(MILLISECOND, &[200 * MICROSECOND]);
        rig.finishes_and_takes(first, item);
        allowances.push(rig.counts().allowance);
    }
    assert_eq!(allowances, [1, 2, 3, 5, 9, 17, 17]);
    assert_eq!(rig.counts().compensations, 0);
}

/// Relieves the worker, which has an item and was seen with it, and lets it come back and finish `after` nanoseconds later.
fn blocks_for(rig: &mut Rig, worker: WorkerId, after: u64) {
    rig.activity[0] = Activity::Waiting;
    rig.tick(MILLISECOND, &[]);
    assert_eq!(rig.phase(worker), Phase::Relieved);
    rig.activity[0] = Activity::Unknown;
    rig.tick(after, &[]);
    rig.finishes(worker);
}

/// Takes the item, after a look for more if one is due.
fn comes_for(rig: &Rig, worker: WorkerId, item: u32) {
    if rig.scheduler.is_look_due() {
        assert_eq!(rig.decide(worker), Decision::Look);
        rig.scheduler.led(worker, []);
    }
    rig.takes(worker, item);
}

#[test]
fn a_short_block_earns_an_extra_runner_where_most_items_block_and_a_long_one_none() {
    for (blocked_for, others, earned) in [(MILLISECOND, 0, 1), (MILLISECOND, 1, 1), (MILLISECOND, 2, 0), (6 * MILLISECOND, 0, 0)] {
        let mut rig = Rig::locked(1, 16);
        let [first, second] = rig.idle_workers();
        rig.post(1..=100);
        rig.takes(first, 1);
        rig.tick(MILLISECOND, &[MILLISECOND / 4]);
        blocks_for(&mut rig, first, blocked_for);
        rig.takes(second, 2);
        for item in 0..others {
            rig.finishes_and_takes(second, 3 + item);
        }
        rig.tick(MILLISECOND, &[]);
        assert_eq!(rig.counts().allowance, 1 + earned, "blocked for {blocked_for} ns, and {others} others were finished");
    }
}

#[test]
fn no_block_earns_an_extra_runner_for_a_while_after_an_item_computed() {
    let mut rig = Rig::locked(1, 16);
    let [first, second] = rig.idle_workers();
    rig.post(1..=100);
    rig.takes(first, 1);
    rig.tick(MILLISECOND, &[]);
    blocks_for(&mut rig, first, MILLISECOND);
    rig.takes(second, 2);
    rig.tick(MILLISECOND, &[]);
    assert_eq!(rig.counts().allowance, 2);
    // Half a millisecond in one item, seen from tick to tick.
    rig.tick(450 * MICROSECOND, &[0, 300 * MICROSECOND]);
    assert_eq!(rig.counts().allowance, 2);
    rig.tick(450 * MICROSECOND, &[0, 300 * MICROSECOND]);
    assert_eq!(rig.counts().allowance, 1, "it computes");
    rig.finishes_and_takes(second, 3);
    for (item, wait, allowance) in [(4, 0, 1), (5, 100 * MILLISECOND, 2)] {
        rig.now += wait;
        rig.tick(MILLISECOND, &[]);
        rig.activity[1] = Activity::Waiting;
        rig.tick(MILLISECOND, &[]);
        rig.activity[1] = Activity::Unknown;
        rig.finishes(second);
        comes_for(&rig, second, item);
        rig.tick(MILLISECOND, &[]);
        assert_eq!(rig.counts().allowance, allowance, "item {item}");
    }
}

#[test]
fn suspects_are_not_looked_at_while_slots_that_blocks_have_earned_are_left() {
    let mut rig = Rig::locked(1, 16);
    let [first, second] = rig.idle_workers();
    rig.post(1..=100);
    rig.takes(first, 1);
    assert!(rig.scheduler.observe(&mut Vec::new()), "the only slot is taken");
    rig.tick(MILLISECOND, &[]);
    blocks_for(&mut rig, first, MILLISECOND);
    rig.tick(MILLISECOND, &[]);
    assert_eq!(rig.counts().allowance, 2);
    assert!(!rig.scheduler.observe(&mut Vec::new()), "two slots are free");
    comes_for(&rig, second, 2);
    assert!(!rig.scheduler.observe(&mut Vec::new()), "one is");
    assert_eq!(rig.looks_at_fresh(None, Activity::Waiting), 1);
    rig.takes(first, 3);
    assert!(rig.scheduler.observe(&mut Vec::new()), "none is");
}

#[test]
fn extra_runners_stay_where_nobody_was_looked_at_because_slots_are_left() {
    let mut rig = Rig::locked(2, 16);
    let [first, second] = rig.idle_workers();
    rig.post(1..=100);
    for item in 1..=2 {
        rig.takes(first, item);
        rig.tick(MILLISECOND, &[]);
        blocks_for(&mut rig, first, MILLISECOND);
    }
    rig.tick(MILLISECOND, &[]);
    let earned = rig.counts().allowance;
    assert!(earned > 2, "two came back from short blocks");

    // One waits long for the interpreter, so that standing still proves nothing.
    comes_for(&rig, first, 3);
    assert_eq!(rig.decide(second), Decision::Take);
    rig.activity[0] = Activity::Unknown;
    for item in 4..9 {
        assert!(!rig.scheduler.observe(&mut Vec::new()), "a slot is left");
        rig.tick(MILLISECOND, &[200 * MICROSECOND]);
        rig.finishes_and_takes(first, item);
        assert_eq!(rig.counts().allowance, earned, "nor are there more of them: {:?}", rig.counts());
    }
    assert_eq!(rig.phase(second), Phase::Attaching);
}

#[test]
fn extra_runners_go_when_the_handlers_compute_or_nothing_waits() {
    let mut rig = Rig::locked(1, 16);
    let [first] = rig.idle_workers();
    rig.post(1..=100);
    rig.takes(first, 1);
    let mut item = 2;
    let mut tick = |rig: &mut Rig, used| {
        rig.tick(MILLISECOND, &[used]);
        rig.finishes_and_takes(first, item);
        item += 1;
        rig.counts().allowance
    };
    for _ in 0..4 {
        tick(&mut rig, 200 * MICROSECOND);
    }
    assert_eq!(tick(&mut rig, 200 * MICROSECOND), 9);
    assert_eq!(tick(&mut rig, MILLISECOND), 5);
    assert_eq!(tick(&mut rig, MILLISECOND), 3);
    // Neither: they are reduced now and then, to see whether they are missed.
    let after_a_while: Vec<_> = (0..205).map(|_| tick_steadily(&mut rig, first)).collect();
    assert_eq!((after_a_while[0], after_a_while[101], after_a_while[204]), (3, 2, 1));

    fn tick_steadily(rig: &mut Rig, worker: WorkerId) -> usize {
        rig.post([0]);
        rig.tick(MILLISECOND, &[700 * MICROSECOND]);
        rig.finish(worker);
        rig.counts().allowance
    }
}

#[test]
fn a_block_that_was_said_earns_no_extra_runner() {
    let mut rig = Rig::locked(1, 16);
    let [first] = rig.idle_workers();
    rig.post(1..=100);
    rig.takes(first, 1);
    rig.tick(MILLISECOND, &[]);
    for item in 2..20 {
        rig.block(first);
        rig.now += 10 * MILLISECOND;
        rig.unblock(first);
        rig.tick(MILLISECOND, &[100 * MICROSECOND]);
        rig.finishes_and_takes(first, item);
    }
    assert_eq!(rig.counts().allowance, 1);
}
