//! What waits for one connection's handler, and whether a worker is to come for it. Guarded by whoever owns it; knows nothing of connections.
//!
//! ```text
//!   Idle ──push──▶ Scheduled (once in the ready queue, or with one worker) ──finish, nothing left──▶ Idle
//!                     └──────────────finish, more left: to the end of the ready queue──────────────┘
//! ```

use std::collections::VecDeque;

/// The first entry lives inline: a connection that waits allocates nothing.
pub struct Mailbox<E> {
    first: Option<E>,
    rest: VecDeque<E>,
    scheduled: bool,
}

impl<E> Default for Mailbox<E> {
    fn default() -> Self {
        Mailbox { first: None, rest: VecDeque::new(), scheduled: false }
    }
}

impl<E> Mailbox<E> {
    /// Appends an entry; true if the caller must put the owner into the ready queue.
    #[must_use]
    pub fn push(&mut self, entry: E) -> bool {
        if self.first.is_none() {
            self.first = Some(entry);
        } else {
            self.rest.push_back(entry);
        }
        !std::mem::replace(&mut self.scheduled, true)
    }

    pub fn peek(&self) -> Option<&E> {
        self.first.as_ref()
    }

    pub fn take(&mut self) -> Option<E> {
        let entry = self.first.take();
        self.first = self.rest.pop_front();
        if self.rest.is_empty() && self.rest.capacity() > 16 {
            self.rest = VecDeque::new();
        }
        entry
    }

    /// The worker is done with one entry; true if it must put the owner into the ready queue again.
    #[must_use]
    pub fn finish(&mut self) -> bool {
        debug_assert!(self.scheduled);
        self.scheduled = self.first.is_some();
        self.scheduled
    }

    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// In the ready queue, or with a worker.
    pub fn is_scheduled(&self) -> bool {
        self.scheduled
    }

    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// Keeps the entries that `keep` wants, and answers the others.
    pub fn split_off(&mut self, mut keep: impl FnMut(&E) -> bool) -> Vec<E> {
        let mut dropped = Vec::new();
        let entries: Vec<E> = self.first.take().into_iter().chain(std::mem::take(&mut self.rest)).collect();
        for entry in entries {
            if !keep(&entry) {
                dropped.push(entry);
            } else if self.first.is_none() {
                self.first = Some(entry);
            } else {
                self.rest.push_back(entry);
            }
        }
        dropped
    }
}
