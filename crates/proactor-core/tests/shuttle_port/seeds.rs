//! Running a scenario over many seeds: for all the tests with shuttle.

use std::sync::PoisonError;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use crate::random::number;

/// A scenario takes some thousands.
const MOST_STEPS: usize = 1_000_000;

/// One execution a seed, so that a seed is all that a replay needs: that of PROACTOR_SEED, else `times` as many as SHUTTLE_ITERATIONS says.
/// `stubborn`: also by a schedule that lets a thread stand still for long, which chance alone hardly does.
pub fn over_seeds(test: &str, times: u64, stubborn: bool, scenario: fn(u64)) {
    if let Some(seed) = number("PROACTOR_SEED") {
        return execute(test, stubborn, scenario, seed);
    }
    let first = number("PROACTOR_FIRST_SEED").unwrap_or(1);
    for seed in first..first + number("SHUTTLE_ITERATIONS").unwrap_or(500) * times {
        execute(test, stubborn, scenario, seed);
    }
}

fn execute(test: &str, stubborn: bool, scenario: fn(u64), seed: u64) {
    let _named = Named { test, seed };
    let mut config = Config::new();
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(MOST_STEPS);
    Runner::new(RandomScheduler::new_from_seed(seed, 1), config.clone()).run(move || scenario(seed));
    if stubborn {
        Runner::new(PctScheduler::new_from_seed(seed, 3, 5), config).run(move || scenario(seed));
    }
}

struct Named<'a> {
    test: &'a str,
    seed: u64,
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Named { test, seed } = self;
            eprintln!("seed {seed} failed. Again: PROACTOR_SEED={seed} cargo test -p proactor-core --features shuttle --test {test}");
        }
    }
}

/// Of std's: for what only the test looks at.
pub fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
