//! The messages of one server that have not come whole yet: how much they take in all, which began first, and which have to go when it is too much. Knows
//! owners as what it was given; ends nobody itself.
//!
//! No message waits for another: a message that waits half-way keeps its memory, and those that wait for each other so never end. So where there is no room
//! somebody has to go, and it is the newest that wants more: the oldest always comes to its end. Unless the oldest has had its time: then it is the oldest, or
//! whoever began messages and left would keep everybody else out.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// For so many nanoseconds a message that has begun is not ended for the sake of newer ones.
pub const RIGHT_OF_WAY: u64 = 30_000_000_000;

/// A message's place in the order of their beginnings; never used again.
pub type Place = u64;

#[derive(Debug)]
pub struct Unfinished<C> {
    bytes: usize,
    by_age: BTreeMap<Place, Message<C>>,
    next: Place,
}

#[derive(Debug)]
struct Message<C> {
    owner: Weak<C>,
    bytes: usize,
    begun: u64,
}

/// Who has to go.
#[derive(Debug)]
pub struct Excess<C> {
    /// Those that have had their time. They are not counted any more.
    pub old: Vec<(Place, Arc<C>)>,
    /// The one that wants more.
    pub newest: bool,
}

impl<C> Default for Unfinished<C> {
    fn default() -> Self {
        Unfinished { bytes: 0, by_age: BTreeMap::new(), next: 0 }
    }
}

impl<C> Unfinished<C> {
    /// A message has begun, at `now`.
    pub fn enter(&mut self, owner: Weak<C>, now: u64) -> Place {
        let place = self.next;
        self.next += 1;
        self.by_age.insert(place, Message { owner, bytes: 0, begun: now });
        place
    }

    /// The message takes `bytes` by now.
    pub fn count(&mut self, place: Place, bytes: usize) {
        if let Some(message) = self.by_age.get_mut(&place) {
            self.bytes = self.bytes - message.bytes + bytes;
            message.bytes = bytes;
        }
    }

    /// The message is whole, or is none any more. Idempotent.
    pub fn leave(&mut self, place: Place) {
        if let Some(message) = self.by_age.remove(&place) {
            self.bytes -= message.bytes;
        }
    }

    /// Whether there is too much, and who has to go then; `place` wants more. One alone may take what its framing lets it.
    pub fn excess(&mut self, limit: usize, place: Place, now: u64) -> Excess<C> {
        let mut excess = Excess { old: Vec::new(), newest: false };
        while self.bytes > limit
            && let Some((&oldest, message)) = self.by_age.first_key_value()
            && oldest != place
        {
            if now.saturating_sub(message.begun) < RIGHT_OF_WAY {
                excess.newest = true;
                break;
            }
            excess.old.extend(message.owner.upgrade().map(|owner| (oldest, owner)));
            self.leave(oldest);
        }
        excess
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn began(unfinished: &mut Unfinished<u8>, owner: &Arc<u8>, bytes: usize, now: u64) -> Place {
        let place = unfinished.enter(Arc::downgrade(owner), now);
        unfinished.count(place, bytes);
        place
    }

    #[test]
    fn the_newest_goes_while_the_oldest_has_its_time_and_the_oldest_afterwards() {
        let owners = [1, 2, 3].map(Arc::new);
        let mut unfinished = Unfinished::default();
        let [first, second, third] = [0, 1, 2].map(|number| began(&mut unfinished, &owners[number], 40, number as u64));
        let excess = unfinished.excess(100, third, RIGHT_OF_WAY - 1);
        assert!(excess.newest && excess.old.is_empty());
        let excess = unfinished.excess(100, first, RIGHT_OF_WAY - 1);
        assert!(!excess.newest && excess.old.is_empty(), "the oldest goes on");
        let excess = unfinished.excess(70, third, RIGHT_OF_WAY + 1);
        assert!(!excess.newest);
        assert_eq!(excess.old, [(first, owners[0].clone()), (second, owners[1].clone())]);
        assert_eq!(unfinished.bytes(), 40);
    }

    #[test]
    fn one_alone_has_no_limit_here_and_what_has_left_is_counted_no_more() {
        let owner = Arc::new(1);
        let mut unfinished = Unfinished::default();
        let place = began(&mut unfinished, &owner, 1000, 0);
        let excess = unfinished.excess(10, place, u64::MAX);
        assert!(!excess.newest && excess.old.is_empty());
        unfinished.leave(place);
        unfinished.leave(place);
        unfinished.count(place, 5);
        assert_eq!(unfinished.bytes(), 0);
    }
}
