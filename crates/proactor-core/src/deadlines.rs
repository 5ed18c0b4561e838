//! Deadlines, the earliest first. Knows numbers only; what is due at them is the timers'.
//!
//! One heap of all of them would cost a miss of the cache on most levels of every pop. So they lie in runs that are sorted once and read from one end, and
//! only the run's heads, and the newest deadlines, which are no run yet, are heaps: both fit into the first caches while a hundred thousand are pending.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use crate::timer::TimerId;

pub type Due = (u64, TimerId);

/// Pushing and popping cost O(log n); memory follows how many there are, down as well as up.
#[derive(Debug, Default)]
pub struct Deadlines {
    /// The newest, fewer than `RUN`.
    recent: BinaryHeap<Reverse<Due>>,
    runs: BinaryHeap<Run>,
    length: usize,
}

#[derive(Debug)]
struct Run {
    earliest: Due,
    /// The others, the next one last.
    rest: Vec<Reverse<Due>>,
}

/// A run begins with so many; to sort them takes some 20 us.
const RUN: usize = 1024;
/// One with fewer is taken apart. The pops that made it so small have paid for that, and late deadlines do not leave a run each behind.
const SMALL_RUN: usize = RUN / 16;
/// Room for this many is kept.
const SMALL: usize = 64;

impl Deadlines {
    pub fn push(&mut self, due: Due) {
        self.length += 1;
        self.insert(due);
    }

    pub fn peek(&self) -> Option<Due> {
        match (self.recent.peek(), self.runs.peek()) {
            (Some(Reverse(recent)), Some(run)) => Some(run.earliest.min(*recent)),
            (Some(Reverse(recent)), None) => Some(*recent),
            (None, run) => run.map(|run| run.earliest),
        }
    }

    pub fn pop(&mut self) -> Option<Due> {
        let recent = self.recent.peek();
        if self.runs.peek().is_none_or(|run| recent.is_some_and(|Reverse(recent)| *recent < run.earliest)) {
            return self.pop_recent();
        }
        let mut run = self.runs.peek_mut()?;
        self.length -= 1;
        let earliest = run.earliest;
        if run.rest.len() >= SMALL_RUN {
            let Reverse(next) = run.rest.pop().expect("it is not small");
            run.earliest = next;
            shrink(run.rest.len(), run.rest.capacity(), |least| run.rest.shrink_to(least));
        } else {
            let run = PeekMut::pop(run);
            shrink(self.runs.len(), self.runs.capacity(), |least| self.runs.shrink_to(least));
            run.rest.into_iter().for_each(|Reverse(due)| self.insert(due));
        }
        Some(earliest)
    }

    /// Keeps those that `wanted` picks.
    pub fn retain(&mut self, mut wanted: impl FnMut(TimerId) -> bool) {
        self.recent.retain(|Reverse((_, id))| wanted(*id));
        shrink(self.recent.len(), self.recent.capacity(), |least| self.recent.shrink_to(least));
        for Run { earliest, mut rest } in std::mem::take(&mut self.runs) {
            rest.push(Reverse(earliest));
            rest.retain(|Reverse((_, id))| wanted(*id));
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

    fn insert(&mut self, due: Due) {
        self.recent.push(Reverse(due));
        if self.recent.len() == RUN {
            let mut run = std::mem::replace(&mut self.recent, BinaryHeap::with_capacity(SMALL)).into_vec();
            run.sort_unstable();
            self.add_run(run);
        }
    }

    /// `run` is sorted, and not empty.
    fn add_run(&mut self, mut run: Vec<Reverse<Due>>) {
        let Reverse(earliest) = run.pop().expect("a run is not empty");
        shrink(run.len(), run.capacity(), |least| run.shrink_to(least));
        self.runs.push(Run { earliest, rest: run });
    }

    fn pop_recent(&mut self) -> Option<Due> {
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

/// After a removal: no memory for four times what is there. Halving keeps the cost of shrinking amortised.
pub fn shrink(length: usize, capacity: usize, shrink_to: impl FnOnce(usize)) {
    if capacity > SMALL && capacity > 4 * length {
        shrink_to(2 * length);
    }
}

// The heap has the greatest first: that is the run with the earliest deadline.
impl Ord for Run {
    fn cmp(&self, other: &Self) -> Ordering {
        other.earliest.cmp(&self.earliest)
    }
}

impl PartialOrd for Run {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Run {
    fn eq(&self, other: &Self) -> bool {
        self.earliest == other.earliest
    }
}

impl Eq for Run {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timer::Timers;
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
            let (mut deadlines, mut model, mut ids) = (Deadlines::default(), BTreeSet::new(), Timers::new());
            let mut id_of_next = || ids.add(0, ());
            for step in steps {
                match step {
                    Step::Push(count, stride) => {
                        for number in 0..count {
                            let due = (number * stride % 100_003, id_of_next());
                            deadlines.push(due);
                            model.insert(due);
                        }
                    }
                    Step::Pop(count) => {
                        for _ in 0..count {
                            prop_assert_eq!(deadlines.peek(), model.first().copied());
                            prop_assert_eq!(deadlines.pop(), model.pop_first());
                        }
                    }
                    Step::Retain(one_of) => {
                        let kept: BTreeSet<_> = model.iter().map(|(_, id)| *id).step_by(one_of as usize).collect();
                        deadlines.retain(|id| kept.contains(&id));
                        model.retain(|(_, id)| kept.contains(id));
                    }
                }
                prop_assert_eq!(deadlines.len(), model.len());
                prop_assert!(deadlines.capacity() <= 4 * model.len() + 4 * SMALL, "{} for {}", deadlines.capacity(), model.len());
            }
            while let Some(due) = model.pop_first() {
                prop_assert_eq!(deadlines.pop(), Some(due));
            }
            prop_assert_eq!((deadlines.pop(), deadlines.peek(), deadlines.len()), (None, None, 0));
        }
    }

    #[test]
    fn late_deadlines_among_many_that_come_and_go_keep_no_run_each() {
        let (mut deadlines, mut ids) = (Deadlines::default(), Timers::new());
        for round in 0..1000 {
            for number in 0..1000 {
                let deadline = if number == 0 { u64::MAX - round } else { round };
                deadlines.push((deadline, ids.add(0, ())));
            }
            for _ in 1..1000 {
                assert_eq!(deadlines.pop().map(|(deadline, _)| deadline), Some(round));
            }
        }
        assert_eq!(deadlines.len(), 1000);
        assert!(deadlines.capacity() <= 4000 && deadlines.runs.len() <= 1000 / SMALL_RUN);
    }
}
