//! The port's associated handles: associating, submitting, what came back, closing. What happens to an operation stands in `association.rs`.
//!
//! An association stands in the port's table from its beginning until it is closed. Locks: its own, and under it, one at a time, those of engine and scheduler.

use super::*;
use crate::association::{self, Came, OperationId, Request};

pub type Association<U> = association::Association<<U as Upper>::Operation>;

/// A completion that became ready is in the queue before anybody else can act on the association; whom to wake is done after its lock is released.
struct Queued<'a, U: Upper> {
    port: &'a Port<U>,
    association: &'a Arc<Association<U>>,
    wakes: Vec<Wakes>,
}

impl<U: Upper> Queued<'_, U> {
    fn post(&mut self) {
        self.wakes.push(self.port.scheduler.post([Item::Association(self.association.clone())]));
    }

    fn wake(&mut self) {
        for wakes in self.wakes.drain(..) {
            self.port.wake_after_post(wakes);
        }
    }
}

impl<U: Upper> Port<U> {
    /// Binds an adopted socket to this port. `connected`: a stream that is.
    ///
    /// # Errors
    /// The workers are about to exit, or the engine refuses; the handle is closed.
    pub fn associate(&self, handle: Handle, connected: bool) -> Result<Arc<Association<U>>, Refusal> {
        let association = {
            let mut table = self.table.lock();
            if self.ending.load(Ordering::Acquire) {
                drop(table);
                return Err(Refusal::Closed);
            }
            let token = table.reserve();
            let association = Association::<U>::new(handle.clone(), token, connected);
            let callers = self.scheduler.limits().are_callers();
            let association = Arc::new(if callers { association.tell_each() } else { association });
            table.fill(token, Entry::Association(association.clone()));
            association
        };
        self.handles.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.engine.associate(&handle, association.token) {
            self.close_association(&association);
            return Err(Refusal::Engine(error));
        }
        if !association.numbers().open {
            self.engine.close(&handle, Closing::Orderly); // closed before it was associated: nothing of it may stay
        }
        Ok(association)
    }

    /// Submits an operation. One that writes makes system calls: call it with the interpreter released.
    ///
    /// # Errors
    /// The handle is closed; the operation and its bytes come back.
    pub fn submit(
        &self,
        association: &Arc<Association<U>>,
        id: OperationId,
        request: Request,
        operation: U::Operation,
    ) -> Result<(), (U::Operation, Request)> {
        let writes = request.writes();
        let mut queued = self.queued_for(association);
        let result = association.submit(id, request, operation, &*self.engine, || queued.post());
        if writes && result.is_ok() {
            association.pump(&*self.engine, || queued.post());
        }
        queued.wake();
        result
    }

    /// Whether the operation was pending, and is asked to end early. Call it with the interpreter released, as those below.
    pub fn cancel_operation(&self, association: &Arc<Association<U>>, id: OperationId) -> bool {
        let mut queued = self.queued_for(association);
        let pending = association.cancel(id, &*self.engine, || queued.post());
        if pending {
            association.pump(&*self.engine, || queued.post());
        }
        queued.wake();
        pending
    }

    /// As `cancel_operation`, for all that are pending; how many there were.
    pub fn cancel_operations(&self, association: &Arc<Association<U>>) -> usize {
        let mut queued = self.queued_for(association);
        let count = association.cancel_all(&*self.engine, || queued.post());
        association.pump(&*self.engine, || queued.post()); // what was submitted meanwhile
        queued.wake();
        count
    }

    /// Closes the handle; what is pending completes with `CANCELED`. Idempotent. What was completed is in the ready queue when this returns, whoever did it.
    pub fn close_association(&self, association: &Arc<Association<U>>) {
        let mut queued = self.queued_for(association);
        let (first, _dropped) = association.close(&*self.engine, || queued.post());
        queued.wake();
        if first {
            let entry = self.table.lock().remove(association.token);
            drop(entry);
            self.handles.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Handles that are open, and operations that are pending.
    pub fn associated(&self) -> (usize, usize) {
        let handles = self.handles.load(Ordering::Relaxed);
        if handles == 0 {
            return (0, 0);
        }
        let pending: usize = self.associations().iter().map(|association| association.pending()).sum();
        let of_files: usize = self.files().iter().map(|file| file.pending()).sum();
        (handles, pending + of_files)
    }

    /// Closes all, once `ending` is set: none is associated after it.
    pub(super) fn close_associations(&self) {
        for association in self.associations() {
            self.close_association(&association);
        }
    }

    pub(super) fn dispatch_association(&self, association: Arc<Association<U>>, outcome: Outcome, ready: &mut Vec<Item<U>>) {
        // The leader will be there to take what it makes ready.
        if association.came_back(outcome, &*self.engine, || ready.push(Item::Association(association.clone()))) {
            association.pump(&*self.engine, || ready.push(Item::Association(association.clone())));
        }
    }

    fn associations(&self) -> Vec<Arc<Association<U>>> {
        let table = self.table.lock();
        table.iter().filter_map(|entry| if let Entry::Association(one) = entry { Some(one.clone()) } else { None }).collect()
    }

    fn queued_for<'a>(&'a self, association: &'a Arc<Association<U>>) -> Queued<'a, U> {
        Queued { port: self, association, wakes: Vec::new() }
    }
}

/// What a worker is to tell of an operation.
pub type Completed<U> = (<U as Upper>::Operation, Came);
