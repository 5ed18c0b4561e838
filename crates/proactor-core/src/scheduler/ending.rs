//! How it ends: everybody exits, at once or when everything is done. That includes items that are *expected*: under way at somebody who is neither a worker nor the
//! engine, and who will post each of them once. A drain waits for them.

use super::*;

impl<I> Scheduler<I> {
    /// Everybody exits at the next decision, with `drain` once the queue is empty; running items are finished first.
    /// Answers the parkers of those who wait.
    pub fn close(&self, drain: bool) -> Vec<Arc<Parker>> {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.closing != Closing::Now {
            state.closing = if drain { Closing::Drain } else { Closing::Now };
        }
        let parked = std::mem::take(&mut state.parked);
        let mut parkers = Vec::with_capacity(parked.len());
        for id in parked {
            let worker = state.worker(id);
            worker.phase = Phase::Woken;
            parkers.push(worker.parker.clone());
            state.woken += 1;
        }
        parkers
    }

    /// A worker that exits wakes the next one, which may have parked while there was still something queued.
    pub fn pass_exit_on(&self) -> Option<Arc<Parker>> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let id = state.parked.pop()?;
        state.woken += 1;
        let worker = state.worker(id);
        worker.phase = Phase::Woken;
        Some(worker.parker.clone())
    }

    /// What was never begun, after `close`.
    pub fn take_rest(&self) -> VecDeque<I> {
        std::mem::take(&mut self.state.lock().ready)
    }

    // ---- what is expected ----

    /// An item will come with `post_expected`, or not at all with `unexpect`. Not to be called once a drain has begun.
    pub fn expect(&self) {
        self.state.lock().expected += 1;
    }

    /// As `post`. Once everybody is to exit without a drain the item comes back: nobody would take it.
    pub fn post_expected(&self, item: I) -> Result<Wakes, I> {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.expected -= 1;
        if state.closing == Closing::Now {
            return Err(item);
        }
        state.ready.push_back(item);
        Ok(state.wake_if_useful(self.limits))
    }

    /// What was expected is with a worker, or in the queue, by another way. False: everybody is to exit, and nobody will take it.
    pub fn unexpect(&self) -> bool {
        let mut state = self.state.lock();
        state.expected -= 1;
        state.closing != Closing::Now
    }
}
