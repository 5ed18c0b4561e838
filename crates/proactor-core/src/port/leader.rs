//! The leader's turn: write, wait, receive, dispatch; and the timers. Runs with the interpreter released.

use super::*;
use crate::appointment::Cause;

impl<U: Upper> Port<U> {
    /// One turn of the leader: write, wait, receive, dispatch. Answers what became ready.
    pub(super) fn lead(&self, may_wait: bool) -> MutexGuard<'_, Turn<U>> {
        self.lead_within(may_wait, None)
    }

    /// `patience`: for how much real time it waits at most.
    pub(super) fn lead_within(&self, may_wait: bool, patience: Option<Duration>) -> MutexGuard<'_, Turn<U>> {
        self.flush_dirty();
        let mut turn = self.turn.lock();
        let Turn { ready, completions, found } = &mut *turn;
        let now = self.engine.now();
        self.fire_due(now, ready);
        let timeout = if may_wait && ready.is_empty() { self.until_next_timer(now) } else { Some(Duration::ZERO) };
        if let Err(error) = self.poll(timeout, patience, completions) {
            self.notices.put(Notice::EngineFailed { error: error.to_string() });
            let rest = self.monitor.lock();
            let _rested = self.monitor_woken.wait_for(rest, REST_AFTER_FAILURE);
        }
        self.last_turn.store(completions.len(), Ordering::Relaxed);
        self.dispatch(completions, found, ready);
        turn
    }

    pub(super) fn poll(&self, timeout: Option<Duration>, patience: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        if self.busy_poll > 0 && timeout != Some(Duration::ZERO) {
            let end = self.engine.now() + self.busy_poll;
            loop {
                self.engine.poll(Some(Duration::ZERO), completions)?;
                if !completions.is_empty() || self.scheduler.has_ready() {
                    return Ok(());
                }
                if self.engine.now() >= end {
                    break;
                }
            }
        }
        match patience {
            None => self.engine.poll(timeout, completions),
            Some(patience) => self.engine.poll_patiently(timeout, patience, completions),
        }
    }

    pub(super) fn until_next_timer(&self, now: u64) -> Option<Duration> {
        let mut due = self.timers.lock();
        let next = due.timers.next_deadline();
        due.leader_until = next.unwrap_or(u64::MAX);
        next.map(|deadline| Duration::from_nanos(deadline.saturating_sub(now)))
    }

    pub(super) fn add_timer(&self, deadline: u64, timer: Timer<U>) {
        let mut due = self.timers.lock();
        due.timers.add(deadline, timer);
        self.tell_leader(due, deadline);
    }

    /// A timer was added: a leader that sleeps beyond it is interrupted, once.
    pub(super) fn tell_leader(&self, mut due: MutexGuard<'_, Due<U>>, deadline: u64) {
        if deadline < due.leader_until {
            due.leader_until = deadline;
            drop(due);
            self.engine.wake();
        }
    }

    pub(super) fn fire_due(&self, now: u64, ready: &mut Vec<Item<U>>) {
        let mut batch = {
            let mut due = self.timers.lock();
            if due.timers.next_deadline().is_none_or(|deadline| deadline > now) {
                return;
            }
            let mut batch = std::mem::take(&mut due.batch);
            due.timers.take_due(now, TIMERS_A_TURN, &mut batch);
            batch
        };
        for (id, timer) in batch.drain(..) {
            match timer {
                Timer::Call(appointment) => self.time_has_come(id, appointment, ready),
                Timer::Idle(token) => {
                    if let Some(Entry::Connection(connection)) = self.find(token) {
                        self.check_idle(&connection, now, ready);
                    }
                }
                Timer::AcceptAgain(token) => {
                    if let Some(Entry::Listener(listener)) = self.find(token) {
                        self.start_accepting(&listener);
                    }
                }
                Timer::Discard(token, dropped_before) => self.check_lingering(token, dropped_before, now),
                Timer::Linger(token, taken_before) => {
                    if let Some(Entry::Connection(connection)) = self.find(token) {
                        self.check_linger(&connection, taken_before, now, ready);
                    }
                }
            }
        }
        self.timers.lock().batch = batch;
    }

    fn check_linger(&self, connection: &Arc<Connection<U>>, taken_before: u64, now: u64, ready: &mut Vec<Item<U>>) {
        let Some(limit) = connection.group.settings.send_timeout else { return };
        let taken = connection.taken(&*self.engine);
        if taken > taken_before {
            self.add_timer(now + limit, Timer::Linger(connection.token, taken));
        } else {
            let after = connection.abort(Failure::Os(TIMED_OUT), &*self.engine);
            self.follow_into(connection, after, ready);
        }
    }

    pub(super) fn check_idle(&self, connection: &Arc<Connection<U>>, now: u64, ready: &mut Vec<Item<U>>) {
        let (Some(limit), Some(idle)) = (connection.group.settings.idle_timeout, connection.idle_for(now, &*self.engine)) else { return };
        if idle < limit {
            self.add_timer(now + limit - idle, Timer::Idle(connection.token));
        } else {
            let after = connection.close(Some(Failure::Idle), false, &*self.engine);
            self.follow_into(connection, after, ready);
        }
    }

    pub(super) fn dispatch(
        &self,
        completions: &mut Vec<Completion>,
        found: &mut Vec<(Option<Entry<U>>, Outcome)>,
        ready: &mut Vec<Item<U>>,
    ) {
        if completions.is_empty() {
            return;
        }
        let now = self.engine.now();
        // One look at the table a batch. A token whose generation has passed finds nothing: its completion is of a closed handle.
        {
            let table = self.table.lock();
            for completion in completions.drain(..) {
                found.push((table.get(completion.token).cloned(), completion.outcome));
            }
        }
        for (entry, outcome) in found.drain(..) {
            match entry {
                Some(Entry::Connection(connection)) => self.dispatch_connection(connection, outcome, now, ready),
                Some(Entry::Listener(listener)) => self.dispatch_listener(&listener, outcome, now, ready),
                Some(Entry::Wait(wait)) => self.occurred(wait, Cause::Signal, None, ready),
                Some(Entry::Lingering(lingering)) => self.dispatch_lingering(&lingering, outcome),
                Some(Entry::Association(association)) => self.dispatch_association(association, outcome, ready),
                Some(Entry::File(_)) | None => drop(outcome),
            }
        }
    }

    pub(super) fn dispatch_connection(&self, connection: Arc<Connection<U>>, outcome: Outcome, now: u64, ready: &mut Vec<Item<U>>) {
        let engine = &*self.engine;
        let after = match outcome {
            Outcome::Received(bytes) => connection.received(bytes, now, engine),
            Outcome::Ended => connection.peer_ended(engine),
            Outcome::HungUp => connection.peer_hung_up(engine),
            Outcome::ReceiveFailed(error) => connection.failed(error.into(), engine),
            Outcome::Sent { bytes } => connection.sent(bytes, now, engine),
            Outcome::SendFailed { error, sent, .. } => connection.send_failed(error.into(), sent, engine),
            _ => unreachable!("a connection accepts nothing, and is connected"),
        };
        if after.only_schedules() && !connection.group.is_holding() {
            ready.push(Item::Connection(connection));
        } else {
            self.follow_into(&connection, after, ready);
        }
    }

    pub(super) fn dispatch_listener(&self, listener: &Arc<Listener<U>>, outcome: Outcome, now: u64, ready: &mut Vec<Item<U>>) {
        match outcome {
            Outcome::Accepted { handle, peer } => {
                if self.is_hung() || !listener.group.enter() {
                    listener.group.refused.fetch_add(1, Ordering::Relaxed);
                    return; // dropping the handle closes it
                }
                listener.group.accepted.fetch_add(1, Ordering::Relaxed);
                if let Err((error, handle)) = self.introduce(handle, peer, &listener.group, now, ready) {
                    self.engine.close(&handle, Closing::Abort); // its peer is not to take it for served
                    listener.group.accept_errors.fetch_add(1, Ordering::Relaxed);
                    self.notices.put(Notice::AcceptFailed { address: listener.address.clone(), error: error.to_string(), paused: false });
                }
            }
            Outcome::AcceptFailed { error, pause } => {
                listener.group.accept_errors.fetch_add(1, Ordering::Relaxed);
                self.notices.put(Notice::AcceptFailed { address: listener.address.clone(), error: error.to_string(), paused: pause });
                if pause {
                    self.end_all_lingering(); // what they hold may be just what is missing
                    self.add_timer(now + ACCEPT_AGAIN_AFTER, Timer::AcceptAgain(listener.token));
                }
            }
            _ => unreachable!("a listener only accepts"),
        }
    }

    /// A new connection, counted in its group already.
    pub(super) fn introduce(
        &self,
        handle: Handle,
        peer: Address,
        group: &Arc<Group<U>>,
        now: u64,
        ready: &mut Vec<Item<U>>,
    ) -> Result<Arc<Connection<U>>, (io::Error, Handle)> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let connection = {
            let mut table = self.table.lock();
            let token = table.reserve();
            let connection = Connection::new(id, peer, group.clone(), handle.clone(), token, now);
            if group.settings.wants.connected {
                connection.connected(); // before anybody can find it and close it
            }
            table.fill(token, Entry::Connection(connection.clone()));
            connection
        };
        let associated = self.engine.associate(&handle, connection.token);
        if let Err(error) = &associated
            && let Some(after) = connection.never_was(Failure::from(error), &*self.engine)
        {
            self.follow_into(&connection, after, ready);
        } else if group.settings.wants.connected {
            ready.push(Item::Connection(connection.clone()));
        }
        if let Err(error) = associated {
            return Err((error, handle));
        }
        if connection.life() == Life::Closed {
            self.engine.close(&handle, Closing::Orderly); // closed before it was associated: nothing of it may stay
        }
        if let Some(limit) = group.settings.idle_timeout {
            self.add_timer(now + limit, Timer::Idle(connection.token));
        }
        if group.ended.load(Ordering::SeqCst) {
            // It was not in the table yet when the others were ended.
            let after = connection.abort(Failure::Os(ABORTED), &*self.engine);
            self.follow_into(&connection, after, ready);
        } else if group.draining.load(Ordering::SeqCst) {
            let after = connection.drain(&*self.engine);
            self.follow_into(&connection, after, ready);
        } else {
            connection.begin_receiving(&*self.engine);
        }
        Ok(connection)
    }
}
