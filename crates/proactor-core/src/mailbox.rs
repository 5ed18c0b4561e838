//! What waits for one connection's handler, and whether a worker is to come for it. Guarded by whoever owns it; knows nothing of connections.
//!
//! ```text
//!   Idle ──push──▶ Scheduled (once in the ready queue, or with one worker) ──finish, nothing left──▶ Idle
//!                     └──────────────finish, more left: to the end of the ready queue──────────────┘
//! ```

use std::collections::VecDeque;

/// The first entry lives inline, the rest apart: a connection that waits is small, and so is one that is handled as fast as it talks.
pub struct Mailbox<E> {
    first: Option<E>,
    #[expect(clippy::box_collection, reason = "rarely there: eight bytes instead of 32 in every connection")]
    rest: Option<Box<VecDeque<E>>>,
    scheduled: bool,
}

impl<E> Default for Mailbox<E> {
    fn default() -> Self {
        Mailbox { first: None, rest: None, scheduled: false }
    }
}

impl<E> Mailbox<E> {
    /// Appends an entry; true if the caller must put the owner into the ready queue.
    #[must_use]
    pub fn push(&mut self, entry: E) -> bool {
        if self.first.is_none() {
            self.first = Some(entry);
        } else {
            self.rest.get_or_insert_default().push_back(entry);
        }
        !std::mem::replace(&mut self.scheduled, true)
    }

    pub fn peek(&self) -> Option<&E> {
        self.first.as_ref()
    }

    pub fn take(&mut self) -> Option<E> {
        let entry = self.first.take();
        if let Some(rest) = &mut self.rest {
            self.first = rest.pop_front();
            if self.first.is_none() {
                self.rest = None;
            }
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
        usize::from(self.first.is_some()) + self.rest.as_ref().map_or(0, |rest| rest.len())
    }

    /// Keeps the entries that `keep` wants, and answers the others.
    pub fn split_off(&mut self, mut keep: impl FnMut(&E) -> bool) -> Vec<E> {
        let mut dropped = Vec::new();
        let entries: Vec<E> = self.first.take().into_iter().chain(self.rest.take().into_iter().flat_map(|rest| *rest)).collect();
        for entry in entries {
            if !keep(&entry) {
                dropped.push(entry);
            } else if self.first.is_none() {
                self.first = Some(entry);
            } else {
                self.rest.get_or_insert_default().push_back(entry);
            }
        }
        dropped
    }
}
