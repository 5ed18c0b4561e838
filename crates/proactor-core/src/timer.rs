//! Deadlines and what to do at them, ordered. Knows no clock and no thread: the port gives it the time, and locks it.
//!
//! The values lie in a map by id, their deadlines apart, in order (`deadlines.rs`). Cancelling removes the value and leaves its deadline, stale; stale
//! deadlines are dropped when somebody looks at the earliest, and all at once when they are more than half.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroU64;

use crate::deadlines::{Deadlines, shrink};

/// Names one timer for ever: ids are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId(NonZeroU64);

/// Pending timers. Adding and taking cost O(log n), cancelling O(1) amortised; memory follows the number pending, down as well as up.
#[derive(Debug)]
pub struct Timers<T> {
    values: HashMap<TimerId, T, BuildHasherDefault<Spread>>,
    /// Every id in `values` is here exactly once, others at most once.
    deadlines: Deadlines,
    /// Empty; the memory of a batch.
    due: Vec<TimerId>,
    next: NonZeroU64,
}

/// Ids are counted, by nobody but us: a multiplication spreads them over the map well enough.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, _: &[u8]) {
        unreachable!("ids are hashed as what they are");
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9E37_79B9_7F4A_7C15); // 2^64 by the golden ratio
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl<T> Timers<T> {
    #[expect(clippy::new_without_default, reason = "taking the timers and leaving new ones would use their ids again; see `clear`")]
    pub fn new() -> Self {
        Timers { values: HashMap::default(), deadlines: Deadlines::default(), due: Vec::new(), next: NonZeroU64::MIN }
    }

    /// Adds a timer that is due at `deadline`, in nanoseconds of the engine's clock.
    pub fn add(&mut self, deadline: u64, value: T) -> TimerId {
        let id = TimerId(self.next);
        self.next = self.next.checked_add(1).expect("2^64 timers take five hundred years");
        self.values.insert(id, value);
        self.deadlines.push((deadline, id));
        id
    }

    /// The value, exactly once, if the timer is still pending: never after it was taken or cancelled.
    pub fn cancel(&mut self, id: TimerId) -> Option<T> {
        let value = self.values.remove(&id)?;
        if self.deadlines.len() > 2 * self.values.len() {
            self.deadlines.retain(|id| self.values.contains_key(&id));
        }
        // A stale one that is the earliest stays until somebody looks: popping it costs more than all the rest.
        self.shrink();
        Some(value)
    }

    /// When the earliest pending timer is due.
    pub fn next_deadline(&mut self) -> Option<u64> {
        while let Some((deadline, id)) = self.deadlines.peek() {
            if self.values.contains_key(&id) {
                return Some(deadline);
            }
            self.deadlines.pop();
        }
        None
    }

    /// Removes the timers that are due at `now`, in the order of their deadlines and, of one deadline, of their adding. Looks at so many deadlines at
    /// most, stale ones included.
    pub fn take_due(&mut self, now: u64, most: usize, taken: &mut Vec<(TimerId, T)>) {
        // First the deadlines, then the values: each value is a miss of the cache, and so the processor waits for several at a time.
        while self.due.len() < most && self.deadlines.peek().is_some_and(|(deadline, _)| deadline <= now) {
            let Some((_, id)) = self.deadlines.pop() else { break };
            self.due.push(id);
        }
        for id in self.due.drain(..) {
            taken.extend(self.values.remove(&id).map(|value| (id, value))); // not there: cancelled
        }
        self.shrink();
    }

    /// Cancels those that `unwanted` picks. The values are the caller's to drop, outside its lock.
    pub fn take_those(&mut self, mut unwanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let taken = self.values.extract_if(|_, value| unwanted(value)).map(|(_, value)| value).collect();
        self.deadlines.retain(|id| self.values.contains_key(&id));
        self.shrink();
        taken
    }

    /// Cancels everything. The values are the caller's to drop, outside its lock.
    pub fn clear(&mut self) -> Vec<T> {
        self.deadlines = Deadlines::default();
        std::mem::take(&mut self.values).into_values().collect()
    }

    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// After a removal.
    fn shrink(&mut self) {
        shrink(self.values.len(), self.values.capacity(), |least| self.values.shrink_to(least));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn take_first<T>(timers: &mut Timers<T>, now: u64) -> Option<T> {
        let mut taken = Vec::new();
        timers.take_due(now, 1, &mut taken);
        taken.pop().map(|(_, value)| value)
    }

    fn take_all<T>(timers: &mut Timers<T>, now: u64) -> Vec<T> {
        let mut taken = Vec::new();
        timers.take_due(now, usize::MAX, &mut taken);
        taken.into_iter().map(|(_, value)| value).collect()
    }

    #[test]
    fn timers_come_in_the_order_of_deadlines_and_of_adding_among_equals() {
        let mut timers = Timers::new();
        for (deadline, value) in [(30, "c"), (10, "a"), (20, "b1"), (20, "b2"), (20, "b3")] {
            timers.add(deadline, value);
        }
        assert_eq!(timers.next_deadline(), Some(10));
        assert_eq!(take_first(&mut timers, 9), None);
        assert_eq!(take_first(&mut timers, 20), Some("a"));
        assert_eq!(take_all(&mut timers, 20), ["b1", "b2", "b3"]);
        assert_eq!(timers.next_deadline(), Some(30));
        assert_eq!(take_first(&mut timers, u64::MAX), Some("c"));
        assert_eq!((timers.next_deadline(), take_first(&mut timers, u64::MAX)), (None, None));
    }

    #[test]
    fn a_timer_is_cancelled_once_and_never_after_it_was_taken() {
        let mut timers = Timers::new();
        let first = timers.add(1, "first");
        let second = timers.add(2, "second");
        assert_eq!(timers.cancel(second), Some("second"));
        assert_eq!(timers.cancel(second), None);
        assert_eq!(take_all(&mut timers, 5), ["first"]);
        assert_eq!(timers.cancel(first), None);
        let third = timers.add(1, "third");
        assert!(third != first && third != second);
        assert_eq!((timers.cancel(first), timers.cancel(second)), (None, None));
        assert_eq!(timers.len(), 1);
    }

    #[test]
    fn the_next_deadline_passes_over_cancelled_timers() {
        let mut timers = Timers::new();
        let ids: Vec<_> = (0..10).map(|deadline| timers.add(deadline, deadline)).collect();
        for id in &ids[..7] {
            timers.cancel(*id);
        }
        assert_eq!(timers.next_deadline(), Some(7));
    }

    #[test]
    fn clearing_answers_the_values_and_keeps_old_ids_dead() {
        let mut timers = Timers::new();
        let old = timers.add(1, "old");
        assert_eq!(timers.clear(), ["old"]);
        timers.add(1, "new");
        assert_eq!(timers.cancel(old), None);
        assert_eq!((timers.len(), timers.is_empty()), (1, false));
    }

    #[test]
    fn memory_follows_the_number_pending() {
        let mut timers = Timers::new();
        let ids: Vec<_> = (0..100_000u64).map(|number| timers.add(number % 977, number)).collect();
        for (number, id) in ids.iter().enumerate() {
            if number % 1000 != 0 {
                assert!(timers.cancel(*id).is_some());
            }
        }
        assert_eq!(timers.len(), 100);
        assert!(timers.deadlines.len() <= 200);
        assert!(timers.deadlines.capacity() <= 1000 && timers.values.capacity() <= 1000);
        while !timers.is_empty() {
            take_first(&mut timers, u64::MAX);
        }
        let left = (timers.deadlines.capacity(), timers.values.capacity());
        assert!(left.0 <= 256 && left.1 <= 64, "{left:?}");
    }

    #[test]
    fn restarting_a_timer_again_and_again_keeps_the_heap_small() {
        let mut timers = Timers::new();
        for deadline in 0..20 {
            timers.add(deadline, ());
        }
        let mut id = timers.add(1000, ());
        for deadline in 1001..100_000 {
            timers.cancel(id).unwrap();
            id = timers.add(deadline, ());
            assert!(timers.deadlines.len() <= 2 * timers.len() + 1);
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
            let mut timers = Timers::new();
            let mut model = BTreeMap::new();
            let mut added = Vec::new();
            for step in steps {
                match step {
                    Step::Add(deadline) => {
                        let number = added.len();
                        added.push((deadline, timers.add(deadline, number)));
                        model.insert((deadline, number), ());
                    }
                    Step::Cancel(index) if !added.is_empty() => {
                        let number = index.index(added.len());
                        let (deadline, id) = added[number];
                        let expected = model.remove(&(deadline, number)).map(|()| number);
                        prop_assert_eq!(timers.cancel(id), expected);
                    }
                    Step::Cancel(_) => {}
                    Step::Pop(now) => {
                        let earliest = model.first_key_value().map(|(key, ())| *key).filter(|(deadline, _)| *deadline <= now);
                        let expected = earliest.map(|(_, number)| number);
                        if let Some(key) = earliest {
                            model.remove(&key);
                        }
                        prop_assert_eq!(take_first(&mut timers, now), expected);
                    }
                    Step::Clear => {
                        let mut values = timers.clear();
                        values.sort_unstable();
                        let mut expected: Vec<_> = std::mem::take(&mut model).into_keys().map(|(_, number)| number).collect();
                        expected.sort_unstable();
                        prop_assert_eq!(values, expected);
                    }
                }
                prop_assert_eq!(timers.len(), model.len());
                prop_assert_eq!(timers.is_empty(), model.is_empty());
                prop_assert_eq!(timers.next_deadline(), model.first_key_value().map(|((deadline, _), ())| *deadline));
            }
        }
    }
}
