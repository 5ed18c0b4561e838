//! Running a scenario over many seeds.

use super::*;

pub fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One execution a seed, so that a seed is all that a replay needs.
pub fn over_seeds(scenario: fn(u64)) {
    if let Some(seed) = number("PROACTOR_SEED") {
        println!("{:#?}", Plan::new(seed));
        return execute(scenario, seed);
    }
    let first = number("PROACTOR_FIRST_SEED").unwrap_or(1);
    for seed in first..first + number("SHUTTLE_ITERATIONS").unwrap_or(500) {
        execute(scenario, seed);
    }
}

pub fn execute(scenario: fn(u64), seed: u64) {
    let _named = Named(seed);
    let mut config = Config::new();
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(MOST_STEPS);
    Runner::new(RandomScheduler::new_from_seed(seed, 1), config).run(move || scenario(seed));
}

/// A scenario takes some thousands.
pub const MOST_STEPS: usize = 1_000_000;
pub const MOST_TURNS: usize = 20_000;

pub struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("seed {seed} failed. Again: PROACTOR_SEED={seed} cargo test -p proactor-core --features shuttle --test shuttle_port");
        }
    }
}
