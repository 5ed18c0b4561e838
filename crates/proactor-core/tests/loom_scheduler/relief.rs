//! Relief and return: the monitor takes a worker's slot, and counts it again, while its item ends.

use super::*;

/// The first item stands still until the second was handled; nobody says `block`.
/// Caught: a relief that does not free the slot; a relieved worker that gives it back a second time.
#[test]
fn a_worker_that_stands_still_is_relieved() {
    explore(|| {
        let pool = Pool::new(with_interpreter_lock(1, 2));
        let handler = |pool: &Pool, _me, item| {
            if item == 1 {
                pool.tell(|story| story.begun = true);
                pool.wait_until_handled(2);
            }
        };
        let workers = [pool.start_with(handler), pool.start_with(handler)];
        pool.post(1);
        pool.wait_until(|story| story.begun);
        let mut monitor = Monitor::new(&pool);
        monitor.tick();
        pool.engine.arrive(2);
        monitor.tick();
        pool.wait_for(&[1, 2]);
        pool.end(workers);
    });
}

/// The tick that would relieve the worker meets its return.
/// Caught: a relieved worker that gives its slot back a second time; a relief of a worker that has finished its item meanwhile.
#[test]
fn the_slots_are_right_after_a_relief_that_meets_the_return() {
    explore_a_return(|pool, monitor| {
        pool.tell(|story| story.going = true);
        monitor.tick();
    });
}

/// The tick that would count a relieved worker again meets the end of its item.
/// Caught: a worker that is counted again after it has finished.
#[test]
fn the_slots_are_right_after_a_relieved_worker_was_seen_again() {
    explore_a_return(|pool, monitor| {
        monitor.tick();
        pool.tell(|story| story.going = true);
        monitor.cpu = TICK;
        monitor.tick();
    });
}

/// The worker of the first item stands still, and was seen once; `meet` lets it go on. Then the slots are right, and a second item is handled.
fn explore_a_return(meet: fn(&Pool, &mut Monitor)) {
    explore_less(move || {
        let pool = Pool::new(limits(1, 2));
        let workers = [pool.start_with(begin_one_and_wait), pool.start_with(begin_one_and_wait)];
        pool.post(1);
        pool.wait_until(|story| story.begun);
        let mut monitor = Monitor::new(&pool);
        monitor.tick();
        meet(&pool, &mut monitor);
        pool.scheduler.check();
        pool.post(2);
        pool.wait_for(&[1, 2]);
        pool.end(workers);
    });
}
