//! What is due at a time, the earliest first.
//!
//! One heap of all of them would cost a miss of the cache on most levels of every pop. So they lie in runs that are sorted once and read from one end, and
//! only the run's heads, and the newest deadlines, which are no run yet, are heaps: both fit into the first caches while a hundred thousand are pending.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use crate::timer::TimerId;

/// Ordered by deadline, and by adding among equals.
#[derive(Debug)]
pub struct Due<T> {
    pub deadline: u64,
    pub id: TimerId,
    pub value: T,
}

/// Pushing and popping cost O(log n); memory follows how many there are, down as well as up.
#[derive(Debug)]
pub struct Deadlines<T> {
    /// The newest, fewer than `RUN`.
    recent: BinaryHeap<Reverse<Due<T>>>,
    runs: BinaryHeap<Run<T>>,
    length: usize,
}

#[derive(Debug)]
struct Run<T> {
    earliest: Due<T>,
    /// The others, the next one last.
    rest: Vec<Reverse<Due<T>>>,
}

/// A run begins with so many; to sort them takes some 20 us.
const RUN: usize = 1024;
/// One with fewer is taken apart. The pops that made it so small have paid for that, and late deadlines do not leave a run each behind.
const SMALL_RUN: usize = RUN / 16;
/// Room for this many is kept.
const SMALL: usize = 64;

impl<T> Default for Deadlines<T> {
    fn default() -> Self {
        Deadlines { recent: BinaryHeap::new(), runs: BinaryHeap::new(), length: 0 }
    }
}

impl<T> Deadlines<T> {
    pub fn push(&mut self, due: Due<T>) {
        self.length += 1;
        self.insert(due);
    }

    pub fn peek(&self) -> Option<&Due<T>> {
        match (self.recent.peek(), self.runs.peek()) {
            (Some(Reverse(recent)), Some(run)) => Some(recent.min(&run.earliest)),
            (Some(Reverse(recent)), None) => Some(recent),
            (None, run) => run.map(|run| &run.earliest),
        }
    }

    pub fn pop(&mut self) -> Option<Due<T>> {
        let recent = self.recent.peek();
        if self.runs.peek().is_none_or(|run| recent.is_some_and(|Reverse(recent)| *recent < run.earliest)) {
            return self.pop_recent();
        }
        let mut run = self.runs.peek_mut()?;
        self.length -= 1;
        if run.rest.len() >= SMALL_RUN {
            let Reverse(next) = run.rest.pop().expect("it is not small");
            let earliest = std::mem::replace(&mut run.earliest, next);
            shrink(run.rest.len(), run.rest.capacity(), |least| run.rest.shrink_to(least));
            return Some(earliest);
        }
        let Run { earliest, rest } = PeekMut::pop(run);
        shrink(self.runs.len(), self.runs.capacity(), |least| self.runs.shrink_to(least));
        rest.into_iter().for_each(|Reverse(due)| self.insert(due));
        Some(earliest)
    }

    /// Keeps those that `wanted` picks; the values of the others go to `others`.
    pub fn retain(&mut self, mut wanted: impl FnMut(&Due<T>) -> bool, others: &mut Vec<T>) {
        let mut recent = std::mem::take(&mut self.recent).into_vec();
        take_others(&mut recent, &mut wanted, others);
        self.recent = recent.into();
        shrink(self.recent.len(), self.recent.capacity(), |least| self.recent.shrink_to(least));
        for Run { earliest, mut rest } in std::mem::take(&mut self.runs) {
            rest.push(Reverse(earliest));
            take_others(&mut rest, &mut wanted, others);
            if rest.len() <= SMALL_RUN {
                rest.into_iter().for_each(|Reverse(due)| self.insert(due));
            } else {
                self.add_run(rest);
            }
        }
        self.length = self.recent.len() + self.runs.iter().map(|run| run.rest.len() + 1).sum::<usize>();
    }

    pub fn len(&self) -> usize {
        self.length
    }

    fn insert(&mut self, due: Due<T>) {
        self.recent.push(Reverse(due));
        if self.recent.len() == RUN {
            let mut run = std::mem::replace(&mut self.recent, BinaryHeap::with_capacity(SMALL)).into_vec();
            run.sort_unstable();
            self.add_run(run);
        }
    }

    /// `run` is sorted, and not empty.
    fn add_run(&mut self, mut run: Vec<Reverse<Due<T>>>) {
        let Reverse(earliest) = run.pop().expect("a run is not empty");
        shrink(run.len(), run.capacity(), |least| run.shrink_to(least));
        self.runs.push(Run { earliest, rest: run });
    }

    fn pop_recent(&mut self) -> Option<Due<T>> {
        let Reverse(due) = self.recent.pop()?;
        self.length -= 1;
        shrink(self.recent.len(), self.recent.capacity(), |least| self.recent.shrink_to(least));
        Some(due)
    }

    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.recent.capacity() + self.runs.capacity() + self.runs.iter().map(|run| run.rest.capacity()).sum::<usize>()
    }
}

fn take_others<T>(from: &mut Vec<Reverse<Due<T>>>, wanted: &mut impl FnMut(&Due<T>) -> bool, others: &mut Vec<T>) {
    others.extend(from.extract_if(.., |Reverse(due)| !wanted(due)).map(|Reverse(due)| due.value));
}

/// After a removal: no memory for four times what is there. Halving keeps the cost of shrinking amortised.
pub fn shrink(length: usize, capacity: usize, shrink_to: impl FnOnce(usize)) {
    if capacity > SMALL && capacity > 4 * length {
        shrink_to(2 * length);
    }
}

impl<T> Ord for Due<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.deadline, self.id).cmp(&(other.deadline, other.id))
    }
}

impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Due<T> {}

// The heap has the greatest first: that is the run with the earliest deadline.
impl<T> Ord for Run<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.earliest.cmp(&self.earliest)
    }
}

impl<T> PartialOrd for Run<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Run<T> {
    fn eq(&self, other: &Self) -> bool {
        self.earliest == other.earliest
    }
}

impl<T> Eq for Run<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timer::tests::ids;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[derive(Clone, Debug)]
    enum Step {
        /// So many, each so far from the one before.
        Push(u64, u64),
        Pop(usize),
        /// Keeps one of so many.
        Retain(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        prop::collection::vec(
            prop_oneof![
                3 => (0u64..3000, 0u64..100_000).prop_map(|(count, stride)| Step::Push(count, stride)),
                3 => (0usize..3000).prop_map(Step::Pop),
                1 => (1u64..50).prop_map(Step::Retain),
            ],
            1..12,
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn deadlines_behave_as_an_ordered_set_and_take_memory_for_what_is_there(steps in steps()) {
            let (mut deadlines, mut model, mut ids) = (Deadlines::default(), BTreeSet::new(), ids());
            let key = |due: &Due<TimerId>| {
                assert_eq!(due.value, due.id, "the value of another");
                (due.deadline, due.id)
            };
            for step in steps {
                match step {
                    Step::Push(count, stride) => {
                        for number in 0..count {
                            let (deadline, id) = (number * stride % 100_003, ids.next().expect("there are enough"));
                            deadlines.push(Due { deadline, id, value: id });
                            model.insert((deadline, id));
                        }
                    }
                    Step::Pop(count) => {
                        for _ in 0..count {
                            prop_assert_eq!(deadlines.peek().map(key), model.first().copied());
                            prop_assert_eq!(deadlines.pop().as_ref().map(key), model.pop_first());
                        }
                    }
                    Step::Retain(one_of) => {
                        let kept: BTreeSet<_> = model.iter().map(|(_, id)| *id).step_by(one_of as usize).collect();
                        let mut others = Vec::new();
                        deadlines.retain(|due| kept.contains(&due.id), &mut others);
                        let mut expected: Vec<_> = model.iter().map(|(_, id)| *id).filter(|id| !kept.contains(id)).collect();
                        others.sort_unstable();
                        expected.sort_unstable();
                        prop_assert_eq!(others, expected);
                        model.retain(|(_, id)| kept.contains(id));
                    }
                }
                prop_assert_eq!(deadlines.len(), model.len());
                prop_assert!(deadlines.capacity() <= 4 * model.len() + 4 * SMALL, "{} for {}", deadlines.capacity(), model.len());
            }
            while let Some(due) = model.pop_first() {
                prop_assert_eq!(deadlines.pop().as_ref().map(key), Some(due));
            }
            prop_assert!(deadlines.pop().is_none() && deadlines.peek().is_none() && deadlines.len() == 0);
        }
    }

    #[test]
    fn late_deadlines_among_many_that_come_and_go_keep_no_run_each() {
        let (mut deadlines, mut ids) = (Deadlines::default(), ids());
        for round in 0..1000 {
            for number in 0..1000 {
                let deadline = if number == 0 { u64::MAX - round } else { round };
                deadlines.push(Due { deadline, id: ids.next().expect("there are enough"), value: () });
            }
            for _ in 1..1000 {
                assert_eq!(deadlines.pop().map(|due| due.deadline), Some(round));
            }
        }
        assert_eq!(deadlines.len(), 1000);
        assert!(deadlines.capacity() <= 4000 && deadlines.runs.len() <= 1000 / SMALL_RUN);
    }
}
