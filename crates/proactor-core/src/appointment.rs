//! A call that waits for something: for a time (once or again and again), for something to be signalled, or for whichever of the two comes first. Owns the call
//! and the one transition that time, signal and cancellation race for. Knows no clock, no engine and no queue: the port arms it and does what follows.
//!
//! ```text
//!              arm              occur (time or signal)          begin
//!   New ──▶ Armed ───────────────────▶ Queued ───────────────────────────▶ Running
//!    │       │  ▲                        │                                  │    │
//!    │       │  └────────────────────────┼──── finish, if it repeats ───────┘    │ finish
//!    │       │ cancel                    │ cancel                                ▼
//!    └───────┴───────────────────────────┴──────────────────────────────▶ Cancelled, or Over
//! ```
//! A timer that comes once takes the short way, from `Armed` to `Over` in its `begin`. Nothing but time brings it about, so whoever takes it from among the
//! timers queues it as it is, without its lock.
//!
//! Whoever makes the transition does what follows from it: `occur` answers true once an arming, and what is still armed is taken back by its caller; `cancel` says
//! true if the function will not be started (again); the call leaves with whoever ends it, and is dropped outside the lock, by a caller that may.

use crate::sync::Mutex;
use crate::timer::{ArmedTimer, TimerId};

/// What brought it about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its time has come, or run out.
    Time,
    Signal,
}

/// A place among those who wait for an event; the first comes first.
pub type Place = std::num::NonZeroU64;

/// What is armed, to be taken back when something else was faster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Armed {
    pub timer: Option<TimerId>,
    /// Its place among those who wait for an event.
    pub place: Option<Place>,
}

/// What came of an attempt to arm.
#[derive(Debug, PartialEq, Eq)]
pub enum Arming<E> {
    Armed(Armed),
    /// It is signalled already: nothing is armed.
    Signalled,
    Refused(E),
}

/// What the one who has armed it does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<C, E> {
    /// Waits.
    Nothing,
    /// Goes to the ready queue at once.
    Queue,
    /// Is over. With the call, unless somebody else has it, and why it was refused, if it was.
    Over(Option<C>, Option<E>),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Cancelled<C> {
    /// The function will not be started (again).
    pub prevented: bool,
    /// Something was cancelled that had not been before: it is pending no longer.
    pub first: bool,
    pub call: Option<C>,
    pub armed: Option<Armed>,
}

/// `S` is what it waits for besides time.
// In this order, because the leader looks at `timer` and `kind` of many at a time: that brings both lines of the cache that one lies in.
#[repr(C)]
pub struct Appointment<C, S> {
    pub source: S,
    /// Which of the timers is this one's. Taken back under the lock of `state`.
    timer: ArmedTimer,
    // Guards the transition, the call and what is armed. Arming takes the locks of timers, events and the engine under it, and none of them takes it.
    state: Mutex<State<C>>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A timer that comes once.
    Once,
    Periodic,
    Wait,
    RepeatedWait,
}

struct State<C> {
    phase: Phase,
    call: Option<C>,
    /// Most have none, and are to be small.
    extra: Option<Box<Extra>>,
}

enum Extra {
    /// Of a periodic timer.
    Ticks(Ticks),
    /// Of a wait for an event, while it is armed.
    Place(Place),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    Armed,
    Queued(Cause),
    /// `stopped`: cancelled, and does not begin again.
    Running {
        stopped: bool,
    },
    Over,
    Cancelled,
}

/// The phase of a periodic timer: ticks are due at `deadline` and whole intervals after it, however late each is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks {
    /// Nanoseconds between two ticks.
    pub interval: u64,
    /// When the tick that is armed, queued or running was due.
    pub deadline: u64,
    /// Ticks that came while an earlier one was queued or running.
    pub missed: u64,
}

impl Ticks {
    /// On to the next tick that is due at `now` or later; those before it were missed.
    pub fn advance(&mut self, now: u64) {
        let late = now.saturating_sub(self.deadline).saturating_sub(1) / self.interval;
        self.missed += late;
        self.deadline = self.deadline.saturating_add((late + 1).saturating_mul(self.interval));
    }
}

impl<C, S> Appointment<C, S> {
    /// A timer, armed: its caller adds it to the timers before anybody else knows of it. `deadline` is when its first tick is due, `interval` what lies between
    /// two; 0 for one that comes once.
    pub fn timer(source: S, deadline: u64, interval: u64, call: C) -> Self {
        let extra = (interval > 0).then(|| Box::new(Extra::Ticks(Ticks { interval, deadline, missed: 0 })));
        let kind = if interval > 0 { Kind::Periodic } else { Kind::Once };
        Self::new(source, kind, State { phase: Phase::Armed, call: Some(call), extra })
    }

    pub fn wait(source: S, repeats: bool, call: C) -> Self {
        let kind = if repeats { Kind::RepeatedWait } else { Kind::Wait };
        Self::new(source, kind, State { phase: Phase::New, call: Some(call), extra: None })
    }

    fn new(source: S, kind: Kind, state: State<C>) -> Self {
        Appointment { source, timer: ArmedTimer::default(), state: Mutex::new(state), kind }
    }

    /// Under the lock of the timers, by whoever has added it there: so that nobody finds it among them and takes it for one that was taken back.
    pub fn added(&self, timer: TimerId) {
        self.timer.set(Some(timer));
    }

    /// Whether it waits for that timer. For whoever finds it among the timers, without its lock: a yes may be out of date.
    pub fn waits_for(&self, timer: TimerId) -> bool {
        self.timer.is(timer)
    }

    /// The first arming of a wait. `arm` is not called if it was cancelled meanwhile.
    pub fn begin_waiting<E>(&self, arm: impl FnOnce() -> Arming<E>) -> Next<C, E> {
        let mut state = self.state.lock();
        if state.phase != Phase::New {
            return Next::Over(None, None);
        }
        self.armed(&mut state, arm())
    }

    /// Its time has come, or what it waits for is signalled. With what was armed, if it goes to the ready queue: the caller puts it there.
    ///
    /// `timer`: which one has run out. Whoever took it from among the others comes here later: by then it may be of an arming that is past, and this one's time
    /// not out. (A signal is of use whenever it comes: the event may have been cleared since, and nobody would tell of it again.)
    pub fn occur(&self, cause: Cause, timer: Option<TimerId>) -> Option<Armed> {
        debug_assert!(!self.is_once(), "it is queued as it is");
        let mut state = self.state.lock();
        if state.phase != Phase::Armed || timer.is_some_and(|timer| !self.timer.is(timer)) {
            return None;
        }
        state.phase = Phase::Queued(cause);
        Some(self.disarm(&mut state))
    }

    /// A worker has taken it from the ready queue: the function runs next, unless this answers None. `copy` makes a further call of one that repeats.
    pub fn begin(&self, copy: impl FnOnce(&C) -> C) -> Option<(Cause, C)> {
        let mut state = self.state.lock();
        let cause = match state.phase {
            Phase::Queued(cause) => cause,
            Phase::Armed if self.is_once() => Cause::Time,
            _ => return None,
        };
        state.phase = if self.is_once() { Phase::Over } else { Phase::Running { stopped: false } };
        let call = if self.repeats() { state.call.as_ref().map(copy) } else { state.call.take() };
        Some((cause, call.expect("the call stays until it is over")))
    }

    /// The function has returned; not for a timer that comes once. Arms it again if it repeats; `arm` gets the time of the next tick, if it is periodic.
    pub fn finish<E>(&self, now: impl FnOnce() -> u64, arm: impl FnOnce(Option<u64>) -> Arming<E>) -> Next<C, E> {
        let mut state = self.state.lock();
        let Phase::Running { stopped } = state.phase else { unreachable!("it was not begun") };
        if !self.repeats() || stopped {
            state.phase = if stopped { Phase::Cancelled } else { Phase::Over };
            return Next::Over(None, None);
        }
        let deadline = if let Some(Extra::Ticks(ticks)) = state.extra.as_deref_mut() {
            ticks.advance(now());
            Some(ticks.deadline)
        } else {
            None
        };
        self.armed(&mut state, arm(deadline))
    }

    /// The function is not started (again) once this has answered that it is prevented.
    pub fn cancel(&self) -> Cancelled<C> {
        let mut state = self.state.lock();
        let stopped = match state.phase {
            Phase::New | Phase::Armed | Phase::Queued(_) => Phase::Cancelled,
            Phase::Running { stopped: false } if self.repeats() => Phase::Running { stopped: true },
            Phase::Running { stopped } => return Cancelled { prevented: stopped, first: false, call: None, armed: None },
            phase @ (Phase::Over | Phase::Cancelled) => {
                return Cancelled { prevented: phase == Phase::Cancelled, first: false, call: None, armed: None };
            }
        };
        let armed = (state.phase == Phase::Armed).then(|| self.disarm(&mut state));
        state.phase = stopped;
        Cancelled { prevented: true, first: true, call: state.call.take(), armed }
    }

    /// As `cancel`, if it has not been queued yet: what has come about is still run. Of a timer that comes once its caller knows that: he has taken it back.
    pub fn cancel_armed(&self) -> Option<Cancelled<C>> {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::New | Phase::Armed) {
            return None;
        }
        let armed = (state.phase == Phase::Armed).then(|| self.disarm(&mut state));
        state.phase = Phase::Cancelled;
        Some(Cancelled { prevented: true, first: true, call: state.call.take(), armed })
    }

    pub fn is_once(&self) -> bool {
        self.kind == Kind::Once
    }

    pub fn repeats(&self) -> bool {
        matches!(self.kind, Kind::Periodic | Kind::RepeatedWait)
    }

    /// Whether the function will be started (again), unless somebody cancels.
    pub fn is_pending(&self) -> bool {
        match self.state.lock().phase {
            Phase::New | Phase::Armed | Phase::Queued(_) => true,
            Phase::Running { stopped } => self.repeats() && !stopped,
            Phase::Over | Phase::Cancelled => false,
        }
    }

    /// Whether it was cancelled before it was over.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Cancelled | Phase::Running { stopped: true })
    }

    /// Of a periodic timer.
    pub fn ticks(&self) -> Option<Ticks> {
        if let Some(Extra::Ticks(ticks)) = self.state.lock().extra.as_deref() { Some(*ticks) } else { None }
    }

    /// What came of arming it.
    fn armed<E>(&self, state: &mut State<C>, arming: Arming<E>) -> Next<C, E> {
        match arming {
            Arming::Armed(armed) => {
                state.phase = Phase::Armed;
                if let Some(place) = armed.place {
                    state.extra = Some(Box::new(Extra::Place(place)));
                }
                self.timer.set(armed.timer); // of a wait without a time-out: none
                Next::Nothing
            }
            Arming::Signalled => {
                state.phase = Phase::Queued(Cause::Signal);
                self.timer.set(None);
                Next::Queue
            }
            Arming::Refused(error) => {
                state.phase = Phase::Cancelled;
                self.timer.set(None);
                Next::Over(state.call.take(), Some(error))
            }
        }
    }

    fn disarm(&self, state: &mut State<C>) -> Armed {
        let place = if let Some(Extra::Place(place)) = state.extra.as_deref() { Some(*place) } else { None };
        if place.is_some() {
            state.extra = None;
        }
        Armed { timer: self.timer.take(), place }
    }
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn armed<E>() -> Arming<E> {
        Arming::Armed(Armed::default())
    }

    fn armed_again<E>(_: Option<u64>) -> Arming<E> {
        armed()
    }

    fn nothing(_: &&'static str) -> &'static str {
        unreachable!("it comes once")
    }

    #[test]
    fn a_cancelled_one_gives_its_call_back_once_and_never_begins() {
        let wait = Appointment::wait((), false, "call");
        assert_eq!(wait.begin_waiting(armed::<()>), Next::Nothing);
        assert!(wait.occur(Cause::Time, None).is_some() && wait.occur(Cause::Signal, None).is_none());
        assert_eq!(wait.cancel(), Cancelled { prevented: true, first: true, call: Some("call"), armed: None });
        let timer = Appointment::timer((), 10, 0, "call");
        assert_eq!(timer.cancel(), Cancelled { prevented: true, first: true, call: Some("call"), armed: Some(Armed::default()) });
        for appointment in [wait, timer] {
            assert_eq!(appointment.cancel(), Cancelled { prevented: true, first: false, call: None, armed: None });
            assert_eq!(appointment.begin(nothing), None);
            assert!(appointment.is_cancelled() && !appointment.is_pending());
        }
    }

    #[test]
    fn a_running_one_is_cancelled_only_if_it_would_come_again() {
        let once = Appointment::timer((), 10, 0, "call");
        assert_eq!(once.begin(nothing), Some((Cause::Time, "call")));
        assert!(!once.cancel().prevented && !once.is_pending() && !once.is_cancelled());
        assert_eq!(once.begin(nothing), None);

        let wait = Appointment::wait((), false, "call");
        assert_eq!(wait.begin_waiting(armed::<()>), Next::Nothing);
        assert!(wait.occur(Cause::Time, None).is_some());
        assert_eq!(wait.begin(nothing), Some((Cause::Time, "call")));
        assert!(!wait.cancel().prevented && !wait.is_pending());
        assert_eq!(wait.finish(|| 0, armed_again::<()>), Next::Over(None, None));
        assert!(!wait.cancel().prevented && !wait.is_cancelled());

        let again = Appointment::wait((), true, "call");
        assert_eq!(again.begin_waiting(|| Arming::<()>::Signalled), Next::Queue);
        assert_eq!(again.begin(|call| *call), Some((Cause::Signal, "call")));
        assert!(again.is_pending());
        assert_eq!(again.cancel().call, Some("call"));
        assert_eq!(again.finish(|| 0, |_| -> Arming<()> { unreachable!("it was stopped") }), Next::Over(None, None));
        assert!(again.cancel().prevented && again.is_cancelled());
    }

    #[test]
    fn one_that_cannot_be_armed_gives_its_call_back() {
        let wait = Appointment::wait((), false, "call");
        assert_eq!(wait.begin_waiting(|| Arming::Refused("why")), Next::Over(Some("call"), Some("why")));
        assert!(!wait.is_pending());
        let late = Appointment::wait((), false, "call");
        assert!(late.cancel_armed().is_some());
        assert_eq!(late.begin_waiting(|| -> Arming<()> { unreachable!("it was cancelled") }), Next::Over(None, None));
    }

    #[test]
    fn a_time_that_is_out_is_not_that_of_a_later_arming() {
        let mut ids = crate::timer::tests::ids();
        let mut armed = || Armed { timer: ids.next(), place: None };
        let (first, second) = (armed(), armed());
        let wait = Appointment::wait((), true, "call");
        assert_eq!(wait.begin_waiting(|| Arming::<()>::Armed(first)), Next::Nothing);
        // Its time runs out, and whoever has taken the timer is held up.
        assert_eq!(wait.occur(Cause::Signal, None), Some(first));
        assert_eq!(wait.begin(|call| *call), Some((Cause::Signal, "call")));
        assert_eq!(wait.finish(|| 0, |_| Arming::<()>::Armed(second)), Next::Nothing);
        assert_eq!(wait.occur(Cause::Time, first.timer), None);
        assert_eq!(wait.occur(Cause::Time, second.timer), Some(second));
    }

    proptest! {
        #[test]
        fn a_periodic_timer_keeps_its_phase_and_accounts_for_every_tick(
            interval in 1u64..1_000, waits in prop::collection::vec(0u64..10_000, 1..50)
        ) {
            let mut ticks = Ticks { interval, deadline: 500 + interval, missed: 0 };
            let mut now = 0;
            let mut runs = 0;
            for wait in waits {
                now = ticks.deadline.max(now) + wait;
                runs += 1;
                ticks.advance(now);
                prop_assert!(ticks.deadline >= now && ticks.deadline < now + interval.max(1) + 1);
                prop_assert_eq!((ticks.deadline - 500) % interval, 0);
                prop_assert_eq!(runs + ticks.missed, (ticks.deadline - 500) / interval - 1);
            }
        }
    }
}
