//! Whether a file's reads are worth trying at once, as far as those that were tried tell. Knows no file.

use std::sync::atomic::{AtomicU32, Ordering};

/// After so many refusals in a row only a few are tried: the file system has to wait for each, or had to for a while (for what was written and is not on the disk yet).
const UNREADY: u32 = 32;
/// Then one of so many.
const ONE_OF: u32 = 64;
const NEVER: u32 = u32::MAX;

#[derive(Default)]
pub struct Promptness {
    /// So many reads in a row were refused, up to `UNREADY`; or `NEVER`.
    refused: AtomicU32,
    /// So many were asked about since then.
    asked: AtomicU32,
}

impl Promptness {
    /// Whether the next read is to be tried; each question counts.
    pub fn may_try(&self) -> bool {
        match self.refused.load(Ordering::Relaxed) {
            ..UNREADY => true,
            NEVER => false,
            _ => self.asked.fetch_add(1, Ordering::Relaxed) % ONE_OF == ONE_OF - 1,
        }
    }

    /// What became of one that was tried.
    pub fn tell(&self, begun_at_once: bool) {
        let next = |refused| match (begun_at_once, refused) {
            (_, NEVER) | (true, 0) | (false, UNREADY) => None,
            (true, _) => Some(0),
            (false, refused) => Some(refused + 1),
        };
        // An Err: it stays as it is.
        let _ = self.refused.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// None can be read so.
    pub fn never(&self) {
        self.refused.store(NEVER, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_many_refusals_in_a_row_a_few_are_tried_until_one_is_not_refused() {
        let promptness = Promptness::default();
        (1..UNREADY).for_each(|_| promptness.tell(false));
        promptness.tell(true);
        (1..UNREADY).for_each(|_| promptness.tell(false));
        assert!(promptness.may_try(), "not so many in a row");
        promptness.tell(false);
        for _ in 0..3 {
            assert_eq!((0..ONE_OF).filter(|_| promptness.may_try()).count(), 1);
            promptness.tell(false);
        }
        promptness.tell(true);
        assert!((0..ONE_OF).all(|_| promptness.may_try()));
    }

    #[test]
    fn never_is_never() {
        let promptness = Promptness::default();
        promptness.never();
        promptness.tell(true);
        promptness.tell(false);
        assert!((0..2 * ONE_OF).all(|_| !promptness.may_try()));
    }
}
