//! Which descriptors are ours: the child of a fork closes them, and may take no lock.

use super::*;

/// Every descriptor that the engines of this process own. std's atomics: only the child of a fork reads it, and no other thread exists there.
pub(super) static OWNED: DescriptorSet = DescriptorSet::new();

/// The process that `OWNED` speaks of; 0 before there is any.
pub(super) static OWNER: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(0);

/// In the child of a fork, before anything else: closes what the parent's engines own here, once for all of them. A descriptor that another thread was
/// just opening or closing at the moment of the fork may be missed, and stays open (until exec).
pub(super) fn leave_parent_behind() {
    // SAFETY: no pointers are passed.
    let process = unsafe { libc::getpid() };
    let owner = OWNER.swap(process, Ordering::Relaxed);
    if owner != 0 && owner != process {
        super::super::handle::count_fork();
        OWNED.drain(close);
    }
}

/// Notes that the engines own a descriptor from here on.
pub(super) fn own(descriptor: c_int) -> c_int {
    OWNED.insert(descriptor);
    descriptor
}

/// Closes a descriptor that the engines own.
pub(super) fn release(descriptor: i64) {
    // In this order: once it is closed, another thread may get the same number.
    OWNED.remove(descriptor as c_int);
    close(descriptor as c_int);
}

/// While it lives, the engine's own descriptors stay open.
pub(super) struct Using<'a>(pub(super) &'a AtomicU32);

impl Drop for Using<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A set of descriptors that can be read without a lock. A segment comes into being with the first descriptor in it, and stays.
pub(super) struct DescriptorSet([OnceLock<Box<[std::sync::atomic::AtomicU64]>>; 256]);

impl DescriptorSet {
    /// 8 KiB for 65,536 descriptors, so that the set ends at 16 million; Linux' highest limit is usually one million.
    const WORDS: usize = 1024;

    const fn new() -> Self {
        DescriptorSet([const { OnceLock::new() }; 256])
    }

    pub(super) fn insert(&self, descriptor: c_int) {
        let (segment, word, bit) = Self::place(descriptor);
        if let Some(segment) = self.0.get(segment) {
            let words = segment.get_or_init(|| (0..Self::WORDS).map(|_| std::sync::atomic::AtomicU64::new(0)).collect());
            words[word].fetch_or(bit, Ordering::Relaxed);
        }
    }

    pub(super) fn remove(&self, descriptor: c_int) {
        let (segment, word, bit) = Self::place(descriptor);
        if let Some(words) = self.0.get(segment).and_then(OnceLock::get) {
            words[word].fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Empties the set, and calls `visit` with each descriptor.
    pub(super) fn drain(&self, visit: fn(c_int)) {
        for (number, segment) in self.0.iter().enumerate() {
            for (index, word) in segment.get().into_iter().flat_map(|words| words.iter().enumerate()) {
                let mut bits = word.swap(0, Ordering::Relaxed);
                while bits != 0 {
                    visit(((number * Self::WORDS + index) * 64 + bits.trailing_zeros() as usize) as c_int);
                    bits &= bits - 1;
                }
            }
        }
    }

    /// Segment, word and bit of a descriptor.
    pub(super) fn place(descriptor: c_int) -> (usize, usize, u64) {
        let descriptor = descriptor as usize;
        (descriptor / 64 / Self::WORDS, descriptor / 64 % Self::WORDS, 1 << (descriptor % 64))
    }
}
