//! The scenario's timers and waits: made, made to come, or cancelled.

use super::*;

/// What waits are for.
type Signals = (Signal, Arc<ManualResetEvent<Layer>>);

impl Scenario {
    /// What waits for time, an object and an event, in turn; the clock only moves where there are ticks.
    pub fn make_appointments(&self) -> (Vec<Arc<Appointment<Layer>>>, Signals) {
        let (descriptor, signal) = self.engine.object();
        let event = Arc::new(ManualResetEvent::default());
        let begin = |number: usize| {
            let time = if self.plan.ticks { self.below(3_000_000) as u64 } else { 0 };
            let timeout = (self.plan.ticks && self.chance(2)).then_some(time);
            let made = match number % 3 {
                0 => self.port.call_after(time, 0, number).ok(),
                1 => self.port.call_when(Waitable::Descriptor(descriptor, Interest::Readable), timeout, false, number).ok(),
                _ => self.port.call_when(Waitable::Event(event.clone()), timeout, false, number).ok(),
            };
            made.expect("the port is open")
        };
        ((0..self.plan.appointments).map(begin).collect(), (signal, event))
    }

    /// Makes all of them come, or cancels them; waits for those that must come. Answers how many were prevented.
    pub fn keep_appointments(&self, appointments: &[Arc<Appointment<Layer>>], (signal, event): &Signals) -> usize {
        signal.set(true);
        event.set();
        let cancelled = appointments.iter().filter(|_| self.chance(4));
        let prevented = cancelled.filter(|appointment| self.port.cancel(appointment).0).count();
        if self.plan.finale == Finale::Drain {
            self.let_go();
            let mut came = self.came.lock();
            while *came + prevented < appointments.len() {
                came = self.has_come.wait(came);
            }
            assert_eq!(self.port.pending(), (0, 0));
        }
        prevented
    }
}
