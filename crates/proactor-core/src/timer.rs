//! Deadlines and what to do at them, ordered. Knows no clock and no thread: the port gives it the time, and locks it.
//!
//! The values lie with their deadlines, in order (`deadlines.rs`), and are found by nobody but time. Who cancels one says so in the value, and its place here stays,
//! stale. Stale ones are dropped when they are the earliest, and all at once when they are more than half.

use std::num::NonZeroU64;

use crate::deadlines::{Deadlines, Due};
use crate::sync::atomic::{AtomicU64, Ordering};

/// Names one timer for ever: ids are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId(NonZeroU64);

/// What is to be done at a time.
pub trait Timed {
    /// False: it was cancelled, and nobody wants it at the time of that timer.
    fn is_wanted_at(&self, timer: TimerId) -> bool;
}

/// Timers. Adding and taking cost O(log n), cancelling O(1) amortised; memory follows the number pending, down as well as up.
#[derive(Debug)]
pub struct Timers<T> {
    deadlines: Deadlines<T>,
    /// How many were cancelled since all the stale ones were dropped. Some of them were taken since, or had been taken before: so it is never too small.
    cancelled: usize,
    next: NonZeroU64,
}

impl<T: Timed> Timers<T> {
    #[expect(clippy::new_without_default, reason = "taking the timers and leaving new ones would use their ids again; see `take_those`")]
    pub fn new() -> Self {
        Timers { deadlines: Deadlines::default(), cancelled: 0, next: NonZeroU64::MIN }
    }

    /// Adds a timer that is due at `deadline`, in nanoseconds of the engine's clock.
    pub fn add(&mut self, deadline: u64, value: T) -> TimerId {
        let id = TimerId(self.next);
        self.next = self.next.checked_add(1).expect("2^64 timers take five hundred years");
        self.deadlines.push(Due { deadline, id, value });
        id
    }

    /// One that was added is wanted no longer, and says so. Answers those that are dropped for it, to be let go outside the caller's lock.
    pub fn cancelled(&mut self) -> Vec<T> {
        let mut stale = Vec::new();
        self.cancelled += 1;
        self.tidy_up(&mut stale);
        stale
    }

    fn tidy_up(&mut self, stale: &mut Vec<T>) {
        if self.cancelled * 2 > self.deadlines.len() {
            self.cancelled = 0;
            self.deadlines.retain(|due| due.value.is_wanted_at(due.id), stale);
        }
    }

    /// When the earliest timer is due, which may be a stale one's.
    pub fn earliest(&self) -> Option<u64> {
        self.deadlines.peek().map(|due| due.deadline)
    }

    /// When the earliest timer is due that somebody wants. The stale ones that are dropped go to `stale`, to be let go outside the caller's lock.
    pub fn next_deadline(&mut self, stale: &mut Vec<T>) -> Option<u64> {
        self.tidy_up(stale);
        while let Some(due) = self.deadlines.peek() {
            if due.value.is_wanted_at(due.id) {
                return Some(due.deadline);
            }
            stale.extend(self.deadlines.pop().map(|due| due.value));
        }
        None
    }

    /// Removes the timers that are due at `now`, in the order of their deadlines and, of one deadline, of their adding; so many at most. There are stale ones among
    /// them: no value is looked at here, because each is a miss of the cache, which the caller can take without a lock.
    pub fn take_due(&mut self, now: u64, most: usize, taken: &mut Vec<Due<T>>) {
        let most = taken.len() + most;
        while taken.len() < most && self.earliest().is_some_and(|deadline| deadline <= now) {
            taken.extend(self.deadlines.pop());
        }
    }

    /// Removes those that `unwanted` picks, stale ones included. They are the caller's to let go, outside its lock.
    pub fn take_those(&mut self, mut unwanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        self.deadlines.retain(|due| !unwanted(&due.value), &mut taken);
        taken
    }
}

/// Which timer somebody waits for: written under his lock or under that of the timers, and read by whoever has either. A look under the other one may be out of date.
#[derive(Debug, Default)]
pub struct ArmedTimer(AtomicU64);

impl ArmedTimer {
    pub fn set(&self, timer: Option<TimerId>) {
        self.0.store(timer.map_or(0, |timer| timer.0.get()), Ordering::Relaxed);
    }

    pub fn take(&self) -> Option<TimerId> {
        let timer = NonZeroU64::new(self.0.load(Ordering::Relaxed)).map(TimerId);
        self.set(None);
        timer
    }

    pub fn is(&self, timer: TimerId) -> bool {
        self.0.load(Ordering::Relaxed) == timer.0.get()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::collections::BTreeMap;
    use std::rc::Rc;

    /// Ids, the lowest first.
    pub fn ids() -> impl Iterator<Item = TimerId> {
        (1..).map(|number| TimerId(NonZeroU64::new(number).expect("it is not 0")))
    }

    /// A number, wanted until it is cancelled.
    #[derive(Clone)]
    struct Value(u64, Rc<Cell<bool>>);

    impl Timed for Value {
        fn is_wanted_at(&self, _: TimerId) -> bool {
            self.1.get()
        }
    }

    /// Timers, and all the values that were ever added.
    struct Cancellable {
        timers: Timers<Value>,
        values: Vec<Value>,
    }

    impl Cancellable {
        fn new() -> Self {
            Cancellable { timers: Timers::new(), values: Vec::new() }
        }

        /// Answers the value, which is how many were added before.
        fn add(&mut self, deadline: u64) -> u64 {
            let value = Value(self.values.len() as u64, Rc::new(Cell::new(true)));
            self.timers.add(deadline, value.clone());
            self.values.push(value);
            self.values.len() as u64 - 1
        }

        /// Whether it was still to come.
        fn cancel(&mut self, value: u64) -> bool {
            let wanted = self.values[value as usize].1.replace(false);
            if wanted {
                self.timers.cancelled();
            }
            wanted
        }

        fn take(&mut self, now: u64, most: usize) -> Vec<u64> {
            let mut taken = Vec::new();
            self.timers.take_due(now, most, &mut taken);
            taken.into_iter().filter(|due| due.value.1.replace(false)).map(|due| due.value.0).collect()
        }

        fn take_first(&mut self, now: u64) -> Option<u64> {
            self.next_deadline(); // drops the stale ones before it
            self.take(now, 1).pop()
        }

        fn next_deadline(&mut self) -> Option<u64> {
            self.timers.next_deadline(&mut Vec::new())
        }

        fn length(&self) -> usize {
            self.timers.deadlines.len()
        }
    }

    #[test]
    fn timers_come_in_the_order_of_deadlines_and_of_adding_among_equals() {
        let mut timers = Cancellable::new();
        for deadline in [30, 10, 20, 20, 20] {
            timers.add(deadline);
        }
        assert_eq!(timers.next_deadline(), Some(10));
        assert_eq!(timers.take_first(9), None);
        assert_eq!(timers.take_first(20), Some(1));
        assert_eq!(timers.take(20, usize::MAX), [2, 3, 4]);
        assert_eq!(timers.next_deadline(), Some(30));
        assert_eq!(timers.take_first(u64::MAX), Some(0));
        assert_eq!((timers.next_deadline(), timers.take_first(u64::MAX)), (None, None));
    }

    #[test]
    fn no_more_are_taken_than_asked_for() {
        let mut timers = Cancellable::new();
        for deadline in 0..5 {
            timers.add(deadline);
        }
        let mut taken = Vec::new();
        timers.timers.take_due(9, 2, &mut taken);
        timers.timers.take_due(9, 1, &mut taken);
        assert_eq!(taken.iter().map(|due| due.deadline).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn the_next_deadline_passes_over_cancelled_timers() {
        let mut timers = Cancellable::new();
        let all: Vec<_> = (0..10).map(|deadline| timers.add(deadline)).collect();
        for value in &all[..4] {
            timers.cancel(*value);
        }
        assert_eq!((timers.timers.earliest(), timers.length()), (Some(0), 10));
        assert_eq!((timers.next_deadline(), timers.length()), (Some(4), 6));
    }

    #[test]
    fn what_is_dropped_is_the_callers_to_let_go() {
        let mut timers = Timers::new();
        let mut values = Vec::new();
        for number in 0..4 {
            values.push(Value(number, Rc::new(Cell::new(true))));
            timers.add(number, values[number as usize].clone());
        }
        let cancel = |number: usize, timers: &mut Timers<Value>| {
            values[number].1.set(false);
            timers.cancelled().into_iter().map(|value| value.0).collect::<Vec<_>>()
        };
        assert_eq!((cancel(0, &mut timers), cancel(3, &mut timers)), (vec![], vec![]));
        let mut dropped = cancel(2, &mut timers);
        dropped.sort_unstable();
        assert_eq!(dropped, [0, 2, 3]);
        assert_eq!(timers.take_those(|value| value.0 == 1).len(), 1);
        assert_eq!(timers.earliest(), None);
    }

    #[test]
    fn memory_follows_the_number_pending() {
        let mut timers = Cancellable::new();
        let all: Vec<_> = (0..100_000).map(|number| timers.add(number % 977)).collect();
        for value in &all {
            if value % 1000 != 0 {
                assert!(timers.cancel(*value));
            }
        }
        assert!(timers.length() <= 200);
        assert!(timers.timers.deadlines.capacity() <= 1000);
        while timers.next_deadline().is_some() {
            timers.take_first(u64::MAX);
        }
        let left = timers.timers.deadlines.capacity();
        assert!(left <= 256, "{left}");
    }

    #[test]
    fn restarting_a_timer_again_and_again_keeps_the_heap_small() {
        let mut timers = Cancellable::new();
        for deadline in 0..20 {
            timers.add(deadline);
        }
        let mut value = timers.add(1000);
        for deadline in 1001..100_000 {
            assert!(timers.cancel(value));
            value = timers.add(deadline);
            assert!(timers.length() <= 2 * 21 + 1);
        }
    }

    #[test]
    fn what_was_cancelled_after_it_was_taken_keeps_nothing_else() {
        let mut timers = Cancellable::new();
        let mut taken = Vec::new();
        for round in 0..1000 {
            let value = timers.add(round);
            timers.timers.take_due(round, 1, &mut taken);
            assert!(timers.cancel(value)); // as of one that is in the ready queue
            assert_eq!(timers.length(), 0);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(u64),
        Cancel(prop::sample::Index),
        Pop(u64),
        Clear,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        prop::collection::vec(
            prop_oneof![
                40 => (0u64..50).prop_map(Step::Add),
                30 => any::<prop::sample::Index>().prop_map(Step::Cancel),
                30 => (0u64..50).prop_map(Step::Pop),
                1 => Just(Step::Clear),
            ],
            1..400,
        )
    }

    proptest! {
        #[test]
        fn timers_behave_as_an_ordered_map(steps in steps()) {
            let mut timers = Cancellable::new();
            let mut model = BTreeMap::new();
            let mut deadlines = Vec::new();
            for step in steps {
                match step {
                    Step::Add(deadline) => {
                        deadlines.push(deadline);
                        model.insert((deadline, timers.add(deadline)), ());
                    }
                    Step::Cancel(index) if !deadlines.is_empty() => {
                        let number = index.index(deadlines.len());
                        let expected = model.remove(&(deadlines[number], number as u64)).is_some();
                        prop_assert_eq!(timers.cancel(number as u64), expected);
                    }
                    Step::Cancel(_) => {}
                    Step::Pop(now) => {
                        let earliest = model.first_key_value().map(|(key, ())| *key).filter(|(deadline, _)| *deadline <= now);
                        let expected = earliest.map(|(_, number)| number);
                        if let Some(key) = earliest {
                            model.remove(&key);
                        }
                        prop_assert_eq!(timers.take_first(now), expected);
                    }
                    Step::Clear => {
                        let taken = timers.timers.take_those(|_| true);
                        let mut values: Vec<_> = taken.into_iter().filter(|value| value.1.replace(false)).map(|value| value.0).collect();
                        values.sort_unstable();
                        let mut expected: Vec<_> = std::mem::take(&mut model).into_keys().map(|(_, number)| number).collect();
                        expected.sort_unstable();
                        prop_assert_eq!(values, expected);
                    }
                }
                prop_assert!(timers.length() >= model.len() && timers.length() <= 2 * model.len() + 1, "{} for {}", timers.length(), model.len());
                prop_assert_eq!(timers.next_deadline(), model.first_key_value().map(|((deadline, _), ())| *deadline));
            }
        }
    }
}
