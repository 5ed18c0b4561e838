//! Mutex, condition variable and atomics from `std`, or from a model checker (features `loom` and `shuttle`).
//!
//! Everything that the scheduler and the port synchronise with comes from here, so that a model checker sees every step.
//! `Arc` is always `std`'s: its counts carry no protocol of ours.

use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Duration;

#[cfg(feature = "loom")]
use loom::sync as implementation;
#[cfg(all(feature = "shuttle", not(feature = "loom")))]
use shuttle::sync as implementation;
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
use std::sync as implementation;

pub use implementation::atomic;

/// The threads that the core itself starts. (loom's models start none.)
#[cfg(all(feature = "shuttle", not(feature = "loom")))]
pub use shuttle::thread;
#[cfg(not(all(feature = "shuttle", not(feature = "loom"))))]
pub use std::thread;

/// A mutex without poisoning: a panic in here is reported as an exception, and the process goes on.
#[derive(Debug, Default)]
pub struct Mutex<T>(implementation::Mutex<T>);

pub struct MutexGuard<'a, T>(implementation::MutexGuard<'a, T>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        Mutex(implementation::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

#[derive(Debug, Default)]
pub struct Condvar(implementation::Condvar);

impl Condvar {
    pub fn new() -> Self {
        Condvar(implementation::Condvar::new())
    }

    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        MutexGuard(self.0.wait(guard.0).unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits at most `timeout`; says whether the time ran out.
    pub fn wait_for<'a, T>(&self, guard: MutexGuard<'a, T>, timeout: Duration) -> (MutexGuard<'a, T>, bool) {
        let (guard, result) = self.0.wait_timeout(guard.0, timeout).unwrap_or_else(PoisonError::into_inner);
        (MutexGuard(guard), result.timed_out())
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}
