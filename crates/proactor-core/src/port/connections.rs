//! What others ask of the port's connections: listen, attach, send, broadcast, close. Safe from any thread.

use super::*;

/// Why bytes were not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum SendError {
    Full,
    Ended(Option<Failure>),
}

/// What a broadcast does with a connection whose queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slow {
    Skip,
    Close,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Broadcast {
    pub sent: usize,
    pub skipped: usize,
    pub closed: usize,
}

impl<U: Upper> Port<U> {
    /// Listens on an adopted handle.
    pub fn listen(&self, handle: Handle, address: String, group: &Arc<Group<U>>) -> io::Result<Arc<Listener<U>>> {
        let listener = {
            let mut table = self.table.lock();
            let token = table.reserve();
            let listener = Arc::new(Listener { address, group: group.clone(), token, handle: Mutex::new(Some(handle.clone())) });
            table.fill(token, Entry::Listener(listener.clone()));
            listener
        };
        let begun = self
            .engine
            .associate(&handle, listener.token)
            .and_then(|()| self.engine.accept(&handle, group.settings.window, &group.settings.options));
        if let Err(error) = begun {
            self.close_listener(&listener);
            return Err(error);
        }
        if self.engine.supports(Feature::PendingAccepts) {
            self.notices.put(Notice::PendingAccepts { address: listener.address.clone(), window: group.settings.window.maximum });
        }
        Ok(listener)
    }

    /// Stops accepting, for good. Idempotent.
    pub fn close_listener(&self, listener: &Listener<U>) {
        let handle = listener.handle.lock().take();
        if let Some(handle) = handle {
            self.engine.close(&handle, Closing::Orderly);
            let entry = self.table.lock().remove(listener.token);
            drop(entry);
        }
    }

    pub(super) fn start_accepting(&self, listener: &Listener<U>) {
        let settings = &listener.group.settings;
        let Some(handle) = listener.handle.lock().clone() else { return };
        if let Err(error) = self.engine.accept(&handle, settings.window, &settings.options) {
            self.notices.put(Notice::AcceptFailed { address: listener.address.clone(), error: error.to_string(), paused: true });
            self.add_timer(self.engine.now() + ACCEPT_AGAIN_AFTER, Timer::AcceptAgain(listener.token));
        }
    }

    /// Takes over a connected socket. On failure no handler is told, and the handle is let go as it is: whoever has a copy of the descriptor has a
    /// living socket.
    pub fn attach(&self, handle: Handle, peer: Address, group: &Arc<Group<U>>) -> io::Result<Arc<Connection<U>>> {
        self.engine.configure(&handle, &group.settings.options);
        let entered = group.enter();
        debug_assert!(entered);
        let mut ready = Vec::new();
        let connection = self.introduce(handle, peer, group, self.engine.now(), &mut ready);
        self.post(ready);
        connection.map_err(|(error, _handle)| error)
    }

    pub fn connections(&self, group: &Arc<Group<U>>) -> Vec<Arc<Connection<U>>> {
        let table = self.table.lock();
        table
            .iter()
            .filter_map(|entry| match entry {
                Entry::Connection(connection) if Arc::ptr_eq(&connection.group, group) => Some(connection.clone()),
                _ => None,
            })
            .collect()
    }

    /// What the group's connections have sent and received, those that are gone included.
    pub fn traffic(&self, group: &Arc<Group<U>>) -> Traffic {
        let mut traffic = group.totals();
        for connection in self.connections(group) {
            traffic.add(connection.traffic());
        }
        traffic
    }

    /// Bytes in the queues of the group's connections.
    pub fn queued(&self, group: &Arc<Group<U>>) -> usize {
        let queues = |connection: &Arc<Connection<U>>| {
            let (inbox, outbox, _) = connection.queues();
            inbox + outbox
        };
        self.connections(group).iter().map(queues).sum()
    }

    pub(super) fn find(&self, token: Token) -> Option<Entry<U>> {
        self.table.lock().get(token).cloned()
    }

    /// Queues bytes. `deferred`: the caller is a worker of this port inside a handler, and they may wait until it ends.
    /// May write: call it with the interpreter released unless `deferred`. Answers true if `flush` must follow.
    pub fn queue(&self, connection: &Arc<Connection<U>>, bytes: Bytes<'_>, deferred: bool) -> Result<bool, SendError> {
        match connection.queue(bytes, deferred, &*self.engine) {
            Queued::Later { first } => {
                if first {
                    self.mark_dirty(connection);
                }
                Ok(false)
            }
            Queued::Flush => Ok(true),
            Queued::Full => Err(SendError::Full),
            Queued::Ended(failure) => Err(SendError::Ended(failure)),
        }
    }

    /// Bytes that the connection's peer has taken in all, those of a pending send included.
    pub fn taken(&self, connection: &Connection<U>) -> u64 {
        connection.taken(&*self.engine)
    }

    /// Writes what the connection has queued.
    pub fn flush(&self, connection: &Arc<Connection<U>>) {
        let mut ready = Vec::new();
        self.flush_into(connection, &mut ready);
        self.post(ready);
    }

    pub(super) fn flush_into(&self, connection: &Arc<Connection<U>>, ready: &mut Vec<Item<U>>) {
        let after = connection.write(&*self.engine);
        self.finish_after(connection, after, ready);
    }

    /// What the connection has queued is written by the next `flush_dirty`.
    pub(super) fn mark_dirty(&self, connection: &Arc<Connection<U>>) {
        self.dirty.lock().push(connection.clone());
        self.has_dirty.store(true, Ordering::Relaxed);
    }

    /// Writes what handlers have left to be written.
    pub fn flush_dirty(&self) {
        if !self.has_dirty.swap(false, Ordering::Relaxed) {
            return;
        }
        let mut batch = std::mem::take(&mut *self.dirty.lock());
        let mut ready = Vec::new();
        for connection in batch.drain(..) {
            self.flush_into(&connection, &mut ready);
        }
        self.post(ready);
        let mut dirty = self.dirty.lock();
        if dirty.is_empty() {
            *dirty = batch; // keeps its memory
        }
    }

    /// Sends the same bytes to all connections of the group but those excluded; waits for nobody. Call it with the interpreter released.
    pub fn broadcast(&self, group: &Arc<Group<U>>, bytes: &SharedBytes, excluded: &[u64], slow: Slow) -> Broadcast {
        let mut result = Broadcast::default();
        for connection in self.connections(group) {
            if excluded.contains(&connection.id) {
                continue;
            }
            match self.queue(&connection, Bytes::Shared(bytes.clone()), false) {
                Ok(flush) => {
                    result.sent += 1;
                    if flush {
                        self.flush(&connection);
                    }
                }
                Err(SendError::Full) if slow == Slow::Close => {
                    result.closed += 1;
                    self.abort(&connection, Failure::Os(TIMED_OUT));
                }
                Err(SendError::Full) => result.skipped += 1,
                Err(SendError::Ended(_)) => {}
            }
        }
        result
    }

    pub fn close_connection(&self, connection: &Arc<Connection<U>>, failure: Option<Failure>, discard: bool) {
        let after = connection.close(failure, discard, &*self.engine);
        self.follow(connection, after);
    }

    pub fn abort(&self, connection: &Arc<Connection<U>>, failure: Failure) {
        let after = connection.abort(failure, &*self.engine);
        self.follow(connection, after);
    }

    pub fn shutdown_write(&self, connection: &Arc<Connection<U>>) -> Result<(), Option<Failure>> {
        let (result, after) = connection.shutdown_write(&*self.engine);
        self.follow(connection, after);
        result
    }

    pub fn pause(&self, connection: &Connection<U>) {
        connection.pause(pause::USER, &*self.engine);
    }

    pub fn resume(&self, connection: &Connection<U>) {
        connection.resume(pause::USER, &*self.engine);
    }

    pub fn next_message(&self, connection: &Connection<U>) -> Next {
        let next = connection.next_message(&*self.engine);
        self.release_held(&connection.group); // a message taken here makes room as well
        next
    }

    /// From now on the group's connections close as soon as their handlers are through and their queues are written.
    pub fn drain(&self, group: &Arc<Group<U>>) {
        group.draining.store(true, Ordering::SeqCst);
        for connection in self.connections(group) {
            let after = connection.drain(&*self.engine);
            self.follow(&connection, after);
        }
    }

    /// Ends the group's connections now, for good; answers how many there were.
    pub fn abort_all(&self, group: &Arc<Group<U>>, failure: &Failure) -> usize {
        group.ended.store(true, Ordering::SeqCst);
        let connections = self.connections(group);
        for connection in &connections {
            self.abort(connection, failure.clone());
        }
        drop(group.take_held());
        connections.len()
    }
}
