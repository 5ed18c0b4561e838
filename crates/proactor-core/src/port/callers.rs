//! The port's threads where they are their callers' (`Limits::CALLERS`): a seat for each, what it takes, and how it waits. What a thread has taken counts as
//! running until it comes again, calls `release`, or gives its seat back.

use std::time::Instant;

use super::*;

/// One thread's place at one port, for as long as the thread lives. Belongs to that thread, but for its end.
pub struct Seat {
    id: WorkerId,
    parker: Arc<Parker>,
}

/// What a thread takes.
pub enum Taken<U: Upper> {
    Call(U::Call),
    Completion(Completed<U>),
    FileCompletion(FileCompleted<U>),
}

/// How a thread waits, and where its wait stands.
pub struct Waiting {
    /// Real time.
    deadline: Option<Instant>,
    /// It comes back this often, to look for itself.
    slice: Option<Duration>,
    /// It is on the stack of the parked, or has been woken from it.
    parked: bool,
    /// It has given up since, and comes again.
    away: bool,
    /// What it does first.
    decided: Option<Decision>,
}

/// What a wait has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Waited {
    /// There is something, and a slot for it: attach to the interpreter, then `take`.
    Take,
    TimedOut,
    /// Its slice of time is over: it may `wait` on, or `give_up`.
    Slice,
    /// The port is closed.
    Closed,
}

impl Waiting {
    /// `slice`: the thread has something else to look for.
    pub fn new(timeout: Option<Duration>, slice: Option<Duration>) -> Self {
        // A deadline beyond all clocks is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Waiting { deadline, slice, parked: false, away: false, decided: None }
    }

    /// How long to sleep at most.
    fn patience(&self) -> Option<Duration> {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        left.into_iter().chain(self.slice).min()
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

impl<U: Upper> Port<U> {
    /// The calling thread gets a seat, and has nothing yet.
    pub fn seat(&self) -> Seat {
        let (id, parker) = self.scheduler.register(self.engine.thread_clock());
        Seat { id, parker }
    }

    /// Finishes what the thread had, and takes the next item if it may run on with one. With the interpreter held; None: `wait`.
    pub fn take_next(&self, seat: &Seat) -> Option<Taken<U>> {
        let work = self.finish_and_pop(seat.id, None);
        self.open(seat, work)
    }

    /// Before the first `wait`, with the interpreter held. True: as for `Waited::Take`.
    pub fn may_take_at_once(&self, seat: &Seat, waiting: &mut Waiting) -> bool {
        waiting.decided = self.decide_after_a_brief_look(seat.id);
        waiting.decided.take_if(|decided| *decided == Decision::Take).is_some()
    }

    /// What `Waited::Take` promised. None: somebody else was faster; `wait` on.
    pub fn take(&self, seat: &Seat) -> Option<Taken<U>> {
        let (work, wakes) = self.scheduler.pop(seat.id);
        self.wake(wakes);
        self.open(seat, work)
    }

    fn open(&self, seat: &Seat, mut work: Option<Work<Item<U>>>) -> Option<Taken<U>> {
        loop {
            match work? {
                Work::Item(Item::Call(call)) => return Some(Taken::Call(call)),
                Work::Item(Item::Association(association)) => {
                    if let Some(completed) = association.begin() {
                        return Some(Taken::Completion(completed));
                    }
                    // The port is closing: its completions were taken away.
                }
                Work::Item(Item::File(file)) => {
                    if let Some(completed) = file.begin() {
                        return Some(Taken::FileCompletion(completed));
                    }
                }
                Work::Item(Item::Connection(_) | Item::Appointment(_)) | Work::StartWorker => unreachable!("for workers of the port's own"),
            }
            work = self.finish_and_pop(seat.id, None);
        }
    }

    /// Leads or parks until there is something to take. With the interpreter released.
    pub fn wait(&self, seat: &Seat, waiting: &mut Waiting) -> Waited {
        if std::mem::take(&mut waiting.away) {
            let none = self.finish_and_pop(seat.id, None);
            debug_assert!(none.is_none(), "who was away decides first");
        }
        loop {
            if !waiting.parked {
                match waiting.decided.take().unwrap_or_else(|| self.decide(seat.id)) {
                    Decision::Take => return Waited::Take,
                    Decision::Exit => return self.closed(),
                    decision @ (Decision::Lead | Decision::Look) => {
                        let may_wait = decision == Decision::Lead;
                        let mut turn = self.lead_within(may_wait, waiting.patience());
                        let nothing = may_wait && turn.ready.is_empty();
                        self.scheduler.led(seat.id, turn.ready.drain(..));
                        drop(turn);
                        if nothing && waiting.is_over() {
                            return self.wait_no_longer(seat);
                        }
                        if nothing && waiting.slice.is_some() {
                            // Whatever it looks for may keep it for long: it does not keep the role meanwhile.
                            self.give_up(seat, waiting);
                            return Waited::Slice;
                        }
                        continue;
                    }
                    Decision::Park => waiting.parked = true,
                }
            }
            let woken = match waiting.patience() {
                None => {
                    seat.parker.park();
                    true
                }
                Some(patience) => seat.parker.park_for(patience),
            };
            if woken {
                waiting.parked = false;
            } else if waiting.is_over() {
                waiting.parked = false;
                if !self.scheduler.stop_parking(seat.id) {
                    seat.parker.park(); // the permit is there, or on its way
                }
                return self.wait_no_longer(seat);
            } else if waiting.slice.is_some() {
                return Waited::Slice; // it stays where it is among those who wait
            }
        }
    }

    /// The last look of a thread whose time is out.
    fn wait_no_longer(&self, seat: &Seat) -> Waited {
        match self.scheduler.decide_or_give_up(seat.id) {
            Ok(Decision::Take) => Waited::Take,
            Ok(Decision::Look) => {
                self.look(seat.id, Decision::Look);
                self.wait_no_longer(seat)
            }
            Ok(_) => self.closed(),
            Err(wakes) => {
                self.wake(wakes);
                Waited::TimedOut
            }
        }
    }

    fn closed(&self) -> Waited {
        if let Some(parker) = self.scheduler.pass_exit_on() {
            parker.unpark();
        }
        Waited::Closed
    }

    /// Instead of waiting on: what was meant for it goes to somebody else.
    pub fn give_up(&self, seat: &Seat, waiting: &mut Waiting) {
        waiting.parked = false;
        waiting.away = true;
        let (woken, wakes) = self.scheduler.give_up(seat.id);
        if woken {
            seat.parker.park(); // the permit is there, or on its way
        }
        self.wake(wakes);
    }

    /// The thread is done with what it took, and does not come for more now.
    pub fn release(&self, seat: &Seat) {
        let wakes = self.scheduler.release(seat.id);
        self.wake(wakes);
    }

    /// The thread has something, and is about to block; `unblock_seat` follows.
    pub fn block_seat(&self, seat: &Seat) {
        self.block(seat.id);
    }

    pub fn unblock_seat(&self, seat: &Seat) {
        self.unblock(seat.id);
    }

    /// The thread has ended, or will not come any more.
    pub fn leave_seat(&self, seat: &Seat) {
        self.release(seat);
        let wakes = self.scheduler.abandon(seat.id);
        self.wake(wakes);
    }
}
