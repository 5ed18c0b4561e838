//! Slots with generations: a token finds what it was made for, or nothing.

use crate::completion::Token;

pub struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

struct Slot<T> {
    generation: u32,
    entry: Option<T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Table<T> {
    /// A token for an entry that `fill` brings.
    pub fn reserve(&mut self) -> Token {
        if let Some(slot) = self.free.pop() {
            return Token { slot, generation: self.slots[slot as usize].generation };
        }
        let slot = u32::try_from(self.slots.len()).expect("fewer than four billion handles");
        self.slots.push(Slot { generation: 0, entry: None });
        Token { slot, generation: 0 }
    }

    pub fn fill(&mut self, token: Token, entry: T) {
        let slot = &mut self.slots[token.slot as usize];
        debug_assert!(slot.generation == token.generation && slot.entry.is_none());
        slot.entry = Some(entry);
    }

    pub fn get(&self, token: Token) -> Option<&T> {
        let slot = self.slots.get(token.slot as usize)?;
        if slot.generation == token.generation { slot.entry.as_ref() } else { None }
    }

    /// Puts another entry into the token's slot, and answers the one that was there; without one nothing changes, and the new one comes back.
    pub fn replace(&mut self, token: Token, entry: T) -> Result<T, T> {
        match self.slots.get_mut(token.slot as usize) {
            Some(Slot { generation, entry: Some(old) }) if *generation == token.generation => Ok(std::mem::replace(old, entry)),
            _ => Err(entry),
        }
    }

    /// Frees the slot; the token finds nothing from now on.
    pub fn remove(&mut self, token: Token) -> Option<T> {
        let slot = self.slots.get_mut(token.slot as usize)?;
        if slot.generation != token.generation {
            return None;
        }
        let entry = slot.entry.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(token.slot);
        Some(entry)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.entry.as_ref())
    }
}
