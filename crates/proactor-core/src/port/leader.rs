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
        let mut stale = Vec::new();
        let mut due = self.timers.lock();
        let next = due.timers.next_deadline(&mut stale).map(|deadline| deadline.max(due.rest_until));
        due.leader_until = next.unwrap_or(u64::MAX);
        drop(due);
        drop(stale);
        next.map(|deadline| Duration::from_nanos(deadline.saturating_sub(now)))
    }

    pub(super) fn add_timer(&self, deadline: u64, timer: Timer<U>) {
        let mut due = self.timers.lock();
        due.timers.add(deadline, timer);
        self.tell_leader(due, deadline);
    }

    /// A timer was added: a leader that sleeps beyond it is interrupted, once.
    pub(super) fn tell_leader(&self, mut due: MutexGuard<'_, Due<U>>, deadline: u64) {
        if deadline < due.rest_until {
            due.rest_until = 0; // it is urgent
        }
        if deadline < due.leader_until {
            due.leader_until = deadline;
            drop(due);
            self.engine.wake();
        }
    }

    pub(super) fn fire_due(&self, now: u64, ready: &mut Vec<Item<U>>) {
        let mut batch = {
            let mut due = self.timers.lock();
            if now < due.rest_until || due.timers.earliest().is_none_or(|deadline| deadline > now) {
                return;
            }
            let mut batch = std::mem::take(&mut due.batch);
            due.timers.take_due(now, TIMERS_A_TURN, &mut batch);
            due.rest_until = if (DENSE..TIMERS_A_TURN).contains(&batch.len()) { now + due.rest } else { 0 };
            batch
        };
        for deadlines::Due { id, value, .. } in batch.drain(..) {
            match value {
                // Each is a miss of the cache. Without a lock in between, the processor waits for several at a time.
                Timer::Call(appointment) if !appointment.waits_for(id) => drop(appointment), // cancelled
                Timer::Call(appointment) if appointment.is_once() => ready.push(Item::Appointment(appointment)),
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
                Timer::Discard(discarded) => self.check_lingering(discarded.0, discarded.1, now),
                Timer::Linger(lingering) => {
                    let (token, taken_before) = *lingering;
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
            self.add_timer(now + limit, Timer::Linger(Box::new((connection.token, taken))));
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

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use super::*;
    use crate::engine::simulated::Simulated;

    struct Layer;

    impl Upper for Layer {
        type Connection = ();
        type Group = ();
        type Call = usize;
        type Operation = ();
    }

    /// As on an engine where time passes by itself. At its time 0.
    fn port() -> Arc<Port<Layer>> {
        let limits = Limits { concurrency: 1, max_workers: 1, interpreter_lock: false };
        let port = Port::new(Arc::new(Simulated::open(0)), limits, None, 0);
        assert_eq!(port.timers.lock().rest, 0, "where time stands still nobody may rest");
        port.timers.lock().rest = REST;
        port
    }

    /// Timers that are due at these times, numbered on.
    fn add(port: &Port<Layer>, from: usize, deadlines: impl IntoIterator<Item = u64>) {
        let begun = port.engine.now();
        for (number, deadline) in (from..).zip(deadlines) {
            assert!(port.call_after(deadline - begun, 0, number).is_ok());
        }
    }

    fn taken(port: &Port<Layer>, now: u64) -> Vec<usize> {
        let mut ready = Vec::new();
        port.fire_due(now, &mut ready);
        let call = |item| if let Item::Appointment(appointment) = item { port.begin(&appointment, |call| *call) } else { None };
        ready.into_iter().filter_map(call).map(|(_, number)| number).collect()
    }

    #[test]
    fn a_leader_rests_among_dense_timers_and_then_takes_all_that_came_due() {
        let port = port();
        let start = port.engine.now();
        add(&port, 0, (0..DENSE as u64).map(|number| start + number));
        add(&port, DENSE, [start + 20, start + 30, start + 2 * REST]);
        let first = start + DENSE as u64;
        assert_eq!(taken(&port, first), (0..DENSE).collect::<Vec<_>>());
        assert_eq!(taken(&port, start + 25), [], "it rests");
        assert_eq!(port.until_next_timer(start + 25), Some(Duration::from_nanos(first + REST - (start + 25))));
        assert_eq!(taken(&port, first + REST), [DENSE, DENSE + 1]);
        // These were few: the next one is waited for to the point.
        assert_eq!(port.until_next_timer(first + REST), Some(Duration::from_nanos(start + 2 * REST - (first + REST))));
    }

    #[test]
    fn a_timer_that_is_added_for_a_time_within_the_rest_ends_it() {
        let port = port();
        let start = port.engine.now();
        add(&port, 0, std::iter::repeat_n(start, DENSE));
        add(&port, DENSE, [start + 20]);
        assert_eq!(taken(&port, start).len(), DENSE);
        assert_eq!(port.until_next_timer(start), Some(Duration::from_nanos(REST)));
        add(&port, 100, [start + REST]);
        assert_eq!(taken(&port, start + 20), [], "that one is not early");
        add(&port, 200, [start + 30]);
        assert_eq!(port.until_next_timer(start + 10), Some(Duration::from_nanos(10)));
        assert_eq!(taken(&port, start + 30), [DENSE, 200]);
    }

    #[test]
    fn a_rest_is_short_beside_the_shortest_interval_and_none_follows_a_turn_that_left_some() {
        let port = port();
        let start = port.engine.now();
        let periodic = port.call_after(1_000_000, 100_000, 0).expect("it is open");
        assert!(port.call_after(1_000_000, 500_000, 0).is_ok());
        add(&port, 0, std::iter::repeat_n(start, DENSE));
        add(&port, DENSE, [start + 20]);
        assert_eq!(taken(&port, start).len(), DENSE);
        assert_eq!(port.until_next_timer(start), Some(Duration::from_nanos(25_000)));
        assert!(port.cancel(&periodic).0);
        add(&port, 0, std::iter::repeat_n(start, TIMERS_A_TURN + 1));
        assert_eq!(taken(&port, start).len(), TIMERS_A_TURN);
        assert_eq!(taken(&port, start).len(), 1);
    }
}
