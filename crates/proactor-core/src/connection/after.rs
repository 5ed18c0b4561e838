//! What a change of a connection leaves to be done once its lock is released.

use super::*;
use crate::unfinished::Place;

/// What must follow a transition, once the lock is released. Small, because there are several a message; what is rare is apart.
#[must_use]
pub(crate) struct After<U: Upper> {
    /// Put the connection into the ready queue.
    pub schedule: bool,
    /// Write what is queued.
    pub flush: bool,
    pub(super) waiter: Option<Arc<Waiter>>,
    rare: Option<Box<Rare<U>>>,
}

pub(crate) struct Rare<U: Upper> {
    /// The handle was closed, or is left to the port: count what went over it.
    pub closed: Option<Traffic>,
    /// The handle is left to the port: what the peer still sends is to be read and dropped before it is closed.
    pub lingers: bool,
    /// Nothing will ever happen to it again: how many messages it has handled since it closed.
    pub gone: Option<u64>,
    /// It waits for its queue to empty: close it anyway after `send_timeout`.
    pub linger: bool,
    // Dropped by the caller, outside the lock: they may hold Python objects.
    pub(super) outgoing: Option<Outgoing>,
    pub(super) files: Option<Box<files::Files>>,
    pub(super) events: Vec<Event>,
    pub(super) upper: Option<U::Connection>,
    pub handle: Option<Handle>,
    /// Connections whose unfinished messages have to go for this one's.
    pub crowded_out: Vec<(Place, Arc<Connection<U>>)>,
}

impl<U: Upper> Default for After<U> {
    fn default() -> Self {
        After { schedule: false, flush: false, waiter: None, rare: None }
    }
}

impl<U: Upper> After<U> {
    /// Nothing follows, as mostly.
    #[inline]
    pub fn is_nothing(&self) -> bool {
        !self.schedule && !self.flush && self.waiter.is_none() && self.rare.is_none()
    }

    /// The connection goes to the ready queue, and that is all.
    #[inline]
    pub fn only_schedules(&self) -> bool {
        self.schedule && !self.flush && self.waiter.is_none() && self.rare.is_none()
    }

    /// Wakes whoever waits for the connection to change, and answers what is rare.
    pub fn notify(&mut self) -> Option<Box<Rare<U>>> {
        if let Some(waiter) = self.waiter.take() {
            waiter.notify();
        }
        self.rare.take()
    }

    pub(super) fn rare(&mut self) -> &mut Rare<U> {
        self.rare.get_or_insert_with(|| {
            Box::new(Rare {
                closed: None,
                lingers: false,
                gone: None,
                linger: false,
                outgoing: None,
                files: None,
                events: Vec::new(),
                upper: None,
                handle: None,
                crowded_out: Vec::new(),
            })
        })
    }
}
