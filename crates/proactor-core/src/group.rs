//! What connections of one server share: handlers, limits, counters. Knows how many there are, not who they are.

use std::sync::Arc;
use std::time::Duration;

use crate::connection::Connection;
use crate::engine::{AcceptWindow, SocketOptions};
use crate::framing::Framing;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::unfinished::Unfinished;

/// What the layer above keeps with our objects.
pub trait Upper: 'static {
    /// With a connection: its public object.
    type Connection: Send + Sync;
    /// With a group: its handlers.
    type Group: Release + Send + Sync;
    /// A posted call.
    type Call: Send;
    /// With an operation on an associated handle.
    type Operation: Send;
}

/// What can let go of what it holds.
pub trait Release {
    /// Nothing will be asked of it any more.
    fn release(&self) {}
}

impl Release for () {}

/// Which events the handler wants; the others are dealt with in here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wants {
    pub connected: bool,
    /// Without it the peer's end flushes and closes.
    pub ended: bool,
    pub closed: bool,
    pub sent: bool,
}

/// Limits in bytes, times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Settings {
    pub wants: Wants,
    pub receive_limit: usize,
    pub send_limit: usize,
    pub total_limit: usize,
    pub send_timeout: Option<u64>,
    pub idle_timeout: Option<u64>,
    pub max_connections: Option<usize>,
    pub framing: Option<Framing>,
    pub options: SocketOptions,
    pub window: AcceptWindow,
}

/// Connections tell their group how much they hold in steps of so many bytes: what small messages come and go with touches nothing that all share.
const ACCOUNTING_STEP: usize = 4096;

/// The connections of one server, or a connection of one's own: they share handlers, limits and counters.
pub struct Group<U: Upper> {
    pub upper: U::Group,
    pub settings: Settings,
    /// Bytes in the queues of all its connections, to within an accounting step each.
    pub queued: AtomicUsize,
    pub(crate) accounting_step: usize,
    pub draining: AtomicBool,
    /// Its connections were ended all at once: one that was just being introduced is ended as well.
    pub ended: AtomicBool,
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
    pub accept_errors: AtomicU64,
    /// Connections that ended because unfinished messages took too much.
    pub crowded_out: AtomicU64,
    // Guards the messages that have not come whole. Taken under a connection's lock; nothing is taken under it.
    pub(crate) unfinished: Mutex<Unfinished<Connection<U>>>,
    // Guards the count of connections that are not gone, and the totals of those that are.
    census: Mutex<Census>,
    emptied: Condvar,
    // Guards the connections that stopped receiving because of `total_limit`.
    held: Mutex<Vec<Arc<Connection<U>>>>,
    holding: AtomicBool,
    /// How often a connection was held, for tests. std's atomic: the model checkers need not see it.
    pub holds: std::sync::atomic::AtomicU64,
}

#[derive(Default)]
struct Census {
    live: usize,
    /// Those of them that are not closed yet: their traffic is not in the totals.
    open: usize,
    /// No connection will come any more.
    retired: bool,
    totals: Traffic,
    /// Bytes counted as dropped that the kernel had just taken.
    sent_after_all: u64,
}

/// Bytes and messages, of a connection or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub received: u64,
    pub sent: u64,
    /// Accepted by `send`, never taken by the kernel.
    pub dropped: u64,
    /// Calls of the `received` handler.
    pub messages: u64,
}

impl Traffic {
    pub fn add(&mut self, other: Traffic) {
        self.received += other.received;
        self.sent += other.sent;
        self.dropped += other.dropped;
        self.messages += other.messages;
    }
}

impl<U: Upper> Group<U> {
    pub fn new(upper: U::Group, settings: Settings) -> Arc<Self> {
        // A small limit is to be kept too.
        let accounting_step = (settings.total_limit / 64).clamp(1, ACCOUNTING_STEP);
        Arc::new(Group {
            upper,
            accounting_step,
            settings,
            queued: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            accept_errors: AtomicU64::new(0),
            crowded_out: AtomicU64::new(0),
            unfinished: Mutex::new(Unfinished::default()),
            census: Mutex::new(Census::default()),
            emptied: Condvar::new(),
            held: Mutex::new(Vec::new()),
            holding: AtomicBool::new(false),
            holds: std::sync::atomic::AtomicU64::new(0),
        })
    }

    pub fn live(&self) -> usize {
        self.census.lock().live
    }

    /// The traffic of the connections that are closed.
    pub fn totals(&self) -> Traffic {
        let census = self.census.lock();
        let mut totals = census.totals;
        totals.dropped = totals.dropped.saturating_sub(census.sent_after_all); // less, while whoever closed one is about to count it
        totals
    }

    /// Counts one connection in, unless there are `max_connections` already.
    pub(crate) fn enter(&self) -> bool {
        let mut census = self.census.lock();
        if census.retired || self.settings.max_connections.is_some_and(|most| census.live >= most) {
            return false;
        }
        census.live += 1;
        census.open += 1;
        true
    }

    /// A connection has closed; its handlers may still run.
    pub(crate) fn count_closed(&self, traffic: Traffic) {
        let mut census = self.census.lock();
        census.open -= 1;
        census.totals.add(traffic);
        drop(census);
        self.emptied.notify_all();
    }

    /// The kernel had taken so many bytes more of a connection that has closed. `dropped`: of those that are counted as dropped, or are just about to be.
    pub(crate) fn count_late(&self, sent: u64, dropped: bool) {
        let mut census = self.census.lock();
        census.totals.sent += sent;
        if dropped {
            census.sent_after_all += sent;
        }
    }

    /// `messages`: how many its handlers have seen since it closed.
    pub(crate) fn leave(&self, messages: u64) {
        let mut census = self.census.lock();
        census.live -= 1;
        census.totals.messages += messages;
        let over = census.retired && census.live == 0;
        drop(census);
        self.emptied.notify_all();
        if over {
            self.upper.release();
        }
    }

    /// No connection will come any more: the handlers are let go with the last one that is there.
    pub fn retire(&self) {
        let mut census = self.census.lock();
        census.retired = true;
        let over = census.live == 0;
        drop(census);
        if over {
            self.upper.release();
        }
    }

    /// Waits until at most `but` connections are left; false when `timeout` ran out first.
    pub fn wait_empty(&self, but: usize, timeout: Option<Duration>) -> bool {
        // The worker that saw the last of a connection may be faster than the thread that closed it, and is about to count its traffic.
        self.wait_until(|census| census.live <= but && census.open <= but, timeout)
    }

    /// Waits until every connection is closed, whether or not its handlers have returned; false when `timeout` ran out first.
    pub fn wait_closed(&self, timeout: Option<Duration>) -> bool {
        self.wait_until(|census| census.open == 0, timeout)
    }

    fn wait_until(&self, done: impl Fn(&Census) -> bool, timeout: Option<Duration>) -> bool {
        let mut census = self.census.lock();
        let Some(mut left) = timeout else {
            while !done(&census) {
                census = self.emptied.wait(census);
            }
            return true;
        };
        // Whole waits are subtracted by what a clock of `std` says: this is a caller's time-out, not the port's.
        while !done(&census) {
            let before = std::time::Instant::now();
            let (guard, timed_out) = self.emptied.wait_for(census, left);
            census = guard;
            left = left.saturating_sub(before.elapsed());
            if timed_out || left.is_zero() {
                return done(&census);
            }
        }
        true
    }

    /// Some connections had to stop receiving because of `total_limit`.
    pub(crate) fn is_holding(&self) -> bool {
        self.holding.load(Ordering::SeqCst)
    }

    /// Room in the group's queues again: those that had to stop receiving.
    pub(crate) fn take_held(&self) -> Vec<Arc<Connection<U>>> {
        // Whoever holds looks at `queued` afterwards, whoever makes room looks at `holding` afterwards: one of them sees the other.
        if self.is_holding() && self.queued.load(Ordering::SeqCst) <= self.settings.total_limit / 4 * 3 {
            let mut held = self.held.lock();
            self.holding.store(false, Ordering::SeqCst);
            return std::mem::take(&mut held);
        }
        Vec::new()
    }

    pub(crate) fn hold(&self, connection: Arc<Connection<U>>) {
        let mut held = self.held.lock();
        held.push(connection);
        self.holds.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.holding.store(true, Ordering::SeqCst);
    }
}
