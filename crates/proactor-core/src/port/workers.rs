//! The port's own workers: how one takes its next task, and what it does while there is none.

use super::*;

/// So many messages are received, or sent, in less time than a thread that waits for the interpreter needs to wake up.
const LITTLE: usize = 8;

impl<U: Upper> Port<U> {
    /// The calling thread becomes a worker.
    pub fn worker(&self) -> Worker<U> {
        let (id, parker) = self.scheduler.register(self.engine.thread_clock());
        Worker { id, parker, current: None, appointment: None, association: None, file: None }
    }

    /// Finishes what the worker had, and waits for its next task; None: it is to exit. `with` makes something of a connection's public object, `copy` a further
    /// call for one that is repeated. Called, and returns, with the interpreter held.
    pub fn next<R>(
        &self,
        worker: &mut Worker<U>,
        interpreter: &impl Interpreter,
        with: impl Fn(Option<&U::Connection>) -> R,
        copy: impl Fn(&U::Call) -> U::Call,
    ) -> Option<Task<U, R>> {
        let mut again = None;
        if let Some(connection) = worker.current.take() {
            again = self.end(connection);
        } else if let Some(appointment) = worker.appointment.take() {
            again = self.end_appointment(appointment);
        } else if let Some(association) = worker.association.take() {
            again = association.finish().then_some(Item::Association(association));
        } else if let Some(file) = worker.file.take() {
            again = file.finish().then_some(Item::File(file));
        }
        if self.flush_now.load(Ordering::Relaxed) && self.has_dirty.load(Ordering::Relaxed) {
            // With the interpreter held: where handlers block others want it, and to get it back would cost more than the send.
            self.flush_dirty();
        }
        let mut work = self.finish_and_pop(worker.id, again);
        loop {
            match work {
                Some(Work::StartWorker) => return Some(Task::StartWorker),
                Some(Work::Item(Item::Call(call))) => return Some(Task::Call(call)),
                Some(Work::Item(Item::Appointment(appointment))) => {
                    if let Some((told, call)) = self.begin(&appointment, &copy) {
                        worker.appointment = (!appointment.is_once()).then_some(appointment);
                        return Some(Task::Appointment(told, call));
                    }
                    work = self.finish_and_pop(worker.id, None);
                }
                Some(Work::Item(Item::Connection(connection))) => {
                    let (begun, after) = connection.begin(&*self.engine, &with);
                    self.follow(&connection, after);
                    if let Some((event, made)) = begun {
                        worker.current = Some(connection);
                        return Some(Task::Event(event, made));
                    }
                    let again = self.end(connection);
                    work = self.finish_and_pop(worker.id, again);
                }
                Some(Work::Item(Item::Association(association))) => {
                    let completed = association.begin();
                    if let Some(completed) = completed {
                        worker.association = Some(association);
                        return Some(Task::Completion(completed));
                    }
                    let again = association.finish().then_some(Item::Association(association));
                    work = self.finish_and_pop(worker.id, again);
                }
                Some(Work::Item(Item::File(file))) => {
                    if let Some(completed) = file.begin() {
                        worker.file = Some(file);
                        return Some(Task::FileCompletion(completed));
                    }
                    let again = file.finish().then_some(Item::File(file));
                    work = self.finish_and_pop(worker.id, again);
                }
                None => {
                    if interpreter.flush_first() && self.has_dirty.load(Ordering::Relaxed) {
                        interpreter.detached(|| self.flush_dirty());
                    }
                    let (id, parker) = (worker.id, &worker.parker);
                    let decision = self.decide_after_a_brief_look(id);
                    if decision != Some(Decision::Take) && !interpreter.detached(|| self.find_work(id, parker, decision)) {
                        return None;
                    }
                    let wakes;
                    (work, wakes) = self.scheduler.pop(worker.id);
                    self.wake(wakes);
                }
            }
        }
    }

    pub(super) fn finish_and_pop(&self, id: WorkerId, again: Option<Item<U>>) -> Option<Work<Item<U>>> {
        self.look_at_fresh(Some(id));
        let (work, wakes) = self.scheduler.finish_and_pop(id, again);
        self.wake(wakes);
        work
    }

    /// What the worker does next; None: it is to be decided with the interpreter let go of. Called with the interpreter held, and a look that will be
    /// short is taken with it. Who waits for the interpreter could not take it in so little time, and asks for it only after a while (CPython: 5 ms) in
    /// which nobody let go of it: let go of it for a moment in every millisecond, and they would get it by chance alone.
    pub(super) fn decide_after_a_brief_look(&self, id: WorkerId) -> Option<Decision> {
        if self.ending.load(Ordering::Acquire) {
            return None;
        }
        self.look_at_fresh(Some(id));
        match self.scheduler.decide(id) {
            Decision::Look if self.is_quiet() => {
                self.look(id, Decision::Look);
                self.look_at_fresh(Some(id));
                Some(self.scheduler.decide(id))
            }
            decision => Some(decision),
        }
    }

    /// Little was received when somebody last looked, and little waits to be written.
    fn is_quiet(&self) -> bool {
        self.last_turn.load(Ordering::Relaxed) <= LITTLE && (!self.has_dirty.load(Ordering::Relaxed) || self.dirty.lock().len() <= LITTLE)
    }

    /// As leader.
    pub(super) fn look(&self, id: WorkerId, decision: Decision) {
        let mut turn = self.lead(decision == Decision::Lead);
        self.scheduler.led(id, turn.ready.drain(..));
    }

    pub(super) fn decide(&self, id: WorkerId) -> Decision {
        if self.ending.load(Ordering::Acquire) {
            self.flush_dirty(); // while this worker is still there to take what it makes ready
        }
        self.look_at_fresh(Some(id));
        self.scheduler.decide(id)
    }

    /// Leads or parks until there is something to take; false: exit.
    fn find_work(&self, id: WorkerId, parker: &Parker, mut decided: Option<Decision>) -> bool {
        loop {
            match decided.take().unwrap_or_else(|| self.decide(id)) {
                Decision::Take => return true,
                Decision::Exit => {
                    if let Some(parker) = self.scheduler.pass_exit_on() {
                        parker.unpark();
                    }
                    return false;
                }
                decision @ (Decision::Lead | Decision::Look) => self.look(id, decision),
                Decision::Park => {
                    // The leader may be asleep already: nobody else would come to write what this worker's handlers have sent.
                    self.flush_dirty();
                    match self.idle {
                        None => parker.park(),
                        Some(idle) => {
                            while !parker.park_for(idle) {
                                if self.scheduler.retire(id) {
                                    return false;
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
