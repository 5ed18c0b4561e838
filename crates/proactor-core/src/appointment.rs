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
//! Whoever makes the transition does what follows from it: `occur` answers true once an arming, and what is still armed is taken back by its caller; `cancel` says
//! true if the function will not be started (again); the call leaves with whoever ends it, and is dropped outside the lock, by a caller that may.

use crate::sync::Mutex;
use crate::timer::TimerId;

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
pub struct Appointment<C, S> {
    pub source: S,
    /// Nanoseconds between two ticks; 0: it is no periodic timer.
    pub interval: u64,
    repeats: bool,
    // Guards the transition, the call and what is armed. Arming takes the locks of timers, events and the engine under it, and none of them takes it.
    state: Mutex<State<C>>,
}

struct State<C> {
    phase: Phase,
    call: Option<C>,
    armed: Armed,
    ticks: Ticks,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks {
    /// When the tick that is armed, queued or running was due.
    pub deadline: u64,
    /// Ticks that came while an earlier one was queued or running.
    pub missed: u64,
}

impl Ticks {
    /// On to the next tick that is due at `now` or later; those before it were missed.
    pub fn advance(&mut self, interval: u64, now: u64) {
        let late = now.saturating_sub(self.deadline).saturating_sub(1) / interval;
        self.missed += late;
        self.deadline = self.deadline.saturating_add((late + 1).saturating_mul(interval));
    }
}

impl<C, S> Appointment<C, S> {
    /// A timer: `deadline` is when its first tick is due, `interval` what lies between two; 0 for one that comes once.
    pub fn timer(source: S, deadline: u64, interval: u64, call: C) -> Self {
        Self::new(source, interval, interval > 0, Ticks { deadline, missed: 0 }, call)
    }

    pub fn wait(source: S, repeats: bool, call: C) -> Self {
        Self::new(source, 0, repeats, Ticks::default(), call)
    }

    fn new(source: S, interval: u64, repeats: bool, ticks: Ticks, call: C) -> Self {
        let state = State { phase: Phase::New, call: Some(call), armed: Armed::default(), ticks };
        Appointment { source, interval, repeats, state: Mutex::new(state) }
    }

    /// The first arming. `arm` gets the time of the first tick, and is not called if it was cancelled meanwhile.
    pub fn begin_waiting<E>(&self, arm: impl FnOnce(u64) -> Arming<E>) -> Next<C, E> {
        let mut state = self.state.lock();
        if state.phase != Phase::New {
            return Next::Over(None, None);
        }
        state.arm(arm)
    }

    /// Its time has come, or what it waits for is signalled. With what was armed, if it goes to the ready queue: the caller puts it there.
    ///
    /// `timer`: which one has run out. Whoever took it from among the others comes here later: by then it may be of an arming that is past, and this one's time
    /// not out. (A signal is of use whenever it comes: the event may have been cleared since, and nobody would tell of it again.)
    pub fn occur(&self, cause: Cause, timer: Option<TimerId>) -> Option<Armed> {
        let mut state = self.state.lock();
        if state.phase != Phase::Armed || (timer.is_some() && timer != state.armed.timer) {
            return None;
        }
        state.phase = Phase::Queued(cause);
        Some(std::mem::take(&mut state.armed))
    }

    /// A worker has taken it from the ready queue: the function runs next, unless this answers None. `copy` makes a further call of one that repeats.
    pub fn begin(&self, copy: impl FnOnce(&C) -> C) -> Option<(Cause, C)> {
        let mut state = self.state.lock();
        let Phase::Queued(cause) = state.phase else { return None };
        state.phase = Phase::Running { stopped: false };
        let call = if self.repeats { state.call.as_ref().map(copy) } else { state.call.take() };
        Some((cause, call.expect("the call stays until it is over")))
    }

    /// The function has returned. Arms it again if it repeats; `arm` gets the time of the next tick.
    pub fn finish<E>(&self, now: impl FnOnce() -> u64, arm: impl FnOnce(u64) -> Arming<E>) -> Next<C, E> {
        let mut state = self.state.lock();
        let Phase::Running { stopped } = state.phase else { unreachable!("it was not begun") };
        if !self.repeats || stopped {
            state.phase = if stopped { Phase::Cancelled } else { Phase::Over };
            return Next::Over(None, None);
        }
        if self.interval > 0 {
            state.ticks.advance(self.interval, now());
        }
        state.arm(arm)
    }

    /// The function is not started (again) once this has answered that it is prevented.
    pub fn cancel(&self) -> Cancelled<C> {
        let mut state = self.state.lock();
        let stopped = match state.phase {
            Phase::New | Phase::Armed | Phase::Queued(_) => Phase::Cancelled,
            Phase::Running { stopped: false } if self.repeats => Phase::Running { stopped: true },
            Phase::Running { stopped } => return Cancelled { prevented: stopped, first: false, call: None, armed: None },
            phase @ (Phase::Over | Phase::Cancelled) => {
                return Cancelled { prevented: phase == Phase::Cancelled, first: false, call: None, armed: None };
            }
        };
        let was_armed = state.phase == Phase::Armed;
        state.phase = stopped;
        let armed = std::mem::take(&mut state.armed);
        Cancelled { prevented: true, first: true, call: state.call.take(), armed: was_armed.then_some(armed) }
    }

    /// As `cancel`, if it has not been queued yet: what has come about is still run.
    pub fn cancel_armed(&self) -> Option<Cancelled<C>> {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::New | Phase::Armed) {
            return None;
        }
        let armed = (state.phase == Phase::Armed).then(|| std::mem::take(&mut state.armed));
        state.phase = Phase::Cancelled;
        Some(Cancelled { prevented: true, first: true, call: state.call.take(), armed })
    }

    pub fn repeats(&self) -> bool {
        self.repeats
    }

    /// Whether the function will be started (again), unless somebody cancels.
    pub fn is_pending(&self) -> bool {
        match self.state.lock().phase {
            Phase::New | Phase::Armed | Phase::Queued(_) => true,
            Phase::Running { stopped } => self.repeats && !stopped,
            Phase::Over | Phase::Cancelled => false,
        }
    }

    /// Whether it was cancelled before it was over.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Cancelled | Phase::Running { stopped: true })
    }

    pub fn ticks(&self) -> Ticks {
        self.state.lock().ticks
    }
}

impl<C> State<C> {
    fn arm<E>(&mut self, arm: impl FnOnce(u64) -> Arming<E>) -> Next<C, E> {
        match arm(self.ticks.deadline) {
            Arming::Armed(armed) => {
                self.phase = Phase::Armed;
                self.armed = armed;
                Next::Nothing
            }
            Arming::Signalled => {
                self.phase = Phase::Queued(Cause::Signal);
                Next::Queue
            }
            Arming::Refused(error) => {
                self.phase = Phase::Cancelled;
                Next::Over(self.call.take(), Some(error))
            }
        }
    }
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn armed<E>(_: u64) -> Arming<E> {
        Arming::Armed(Armed::default())
    }

    fn nothing(_: &&'static str) -> &'static str {
        unreachable!("it comes once")
    }

    #[test]
    fn a_cancelled_one_gives_its_call_back_once_and_never_begins() {
        let timer = Appointment::timer((), 10, 0, "call");
        assert_eq!(timer.begin_waiting(armed::<()>), Next::Nothing);
        assert!(timer.occur(Cause::Time, None).is_some() && timer.occur(Cause::Signal, None).is_none());
        assert_eq!(timer.cancel(), Cancelled { prevented: true, first: true, call: Some("call"), armed: None });
        assert_eq!(timer.cancel(), Cancelled { prevented: true, first: false, call: None, armed: None });
        assert_eq!(timer.begin(nothing), None);
        assert!(timer.is_cancelled() && !timer.is_pending());
    }

    #[test]
    fn a_running_one_is_cancelled_only_if_it_would_come_again() {
        let once = Appointment::timer((), 10, 0, "call");
        assert_eq!(once.begin_waiting(armed::<()>), Next::Nothing);
        assert!(once.occur(Cause::Time, None).is_some());
        assert_eq!(once.begin(nothing), Some((Cause::Time, "call")));
        assert!(!once.cancel().prevented && !once.is_pending());
        assert_eq!(once.finish(|| 0, armed::<()>), Next::Over(None, None));
        assert!(!once.cancel().prevented && !once.is_cancelled());

        let again = Appointment::wait((), true, "call");
        assert_eq!(again.begin_waiting(|_| Arming::<()>::Signalled), Next::Queue);
        assert_eq!(again.begin(|call| *call), Some((Cause::Signal, "call")));
        assert!(again.is_pending());
        assert_eq!(again.cancel().call, Some("call"));
        assert_eq!(again.finish(|| 0, |_| -> Arming<()> { unreachable!("it was stopped") }), Next::Over(None, None));
        assert!(again.cancel().prevented && again.is_cancelled());
    }

    #[test]
    fn one_that_cannot_be_armed_gives_its_call_back() {
        let wait = Appointment::wait((), false, "call");
        assert_eq!(wait.begin_waiting(|_| Arming::Refused("why")), Next::Over(Some("call"), Some("why")));
        assert!(!wait.is_pending());
        let late = Appointment::wait((), false, "call");
        assert!(late.cancel_armed().is_some());
        assert_eq!(late.begin_waiting(|_| -> Arming<()> { unreachable!("it was cancelled") }), Next::Over(None, None));
    }

    #[test]
    fn a_time_that_is_out_is_not_that_of_a_later_arming() {
        let mut timers = crate::timer::Timers::new();
        let mut due = Vec::new();
        let wait = Appointment::wait((), true, "call");
        let first = Armed { timer: Some(timers.add(10, ())), place: None };
        assert_eq!(wait.begin_waiting(|_| Arming::<()>::Armed(first)), Next::Nothing);
        timers.take_due(10, 1, &mut due); // and whoever has taken it is held up
        assert_eq!(due, [(first.timer.expect("it was added"), ())]);
        assert_eq!(wait.occur(Cause::Signal, None), Some(first));
        assert_eq!(wait.begin(|call| *call), Some((Cause::Signal, "call")));
        let second = Armed { timer: Some(timers.add(20, ())), place: None };
        assert_eq!(wait.finish(|| 0, |_| Arming::<()>::Armed(second)), Next::Nothing);
        assert_eq!(wait.occur(Cause::Time, first.timer), None);
        assert_eq!(wait.occur(Cause::Time, second.timer), Some(second));
    }

    proptest! {
        #[test]
        fn a_periodic_timer_keeps_its_phase_and_accounts_for_every_tick(
            interval in 1u64..1_000, waits in prop::collection::vec(0u64..10_000, 1..50)
        ) {
            let mut ticks = Ticks { deadline: 500 + interval, missed: 0 };
            let mut now = 0;
            let mut runs = 0;
            for wait in waits {
                now = ticks.deadline.max(now) + wait;
                runs += 1;
                ticks.advance(interval, now);
                prop_assert!(ticks.deadline >= now && ticks.deadline < now + interval.max(1) + 1);
                prop_assert_eq!((ticks.deadline - 500) % interval, 0);
                prop_assert_eq!(runs + ticks.missed, (ticks.deadline - 500) / interval - 1);
            }
        }
    }
}
