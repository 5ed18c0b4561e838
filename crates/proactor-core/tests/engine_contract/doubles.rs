//! What tests put in the place of the layers above: bytes that count their drops, buffers that are counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use proactor_core::buffer::{BufferSource, LargeBuffer, RECEIVE_SIZE, SharedBytes};

/// Bytes that count how often they are dropped, and are unreadable afterwards.
pub struct Canary {
    bytes: Vec<u8>,
    alive: AtomicBool,
    pub dropped: Arc<AtomicUsize>,
}

impl Canary {
    pub fn shared(bytes: &[u8], dropped: &Arc<AtomicUsize>) -> SharedBytes {
        Arc::new(Canary { bytes: bytes.to_vec(), alive: AtomicBool::new(true), dropped: Arc::clone(dropped) })
    }
}

impl AsRef<[u8]> for Canary {
    fn as_ref(&self) -> &[u8] {
        assert!(self.alive.load(Ordering::SeqCst));
        &self.bytes
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        assert!(self.alive.swap(false, Ordering::SeqCst));
        self.bytes.fill(0xDD);
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

/// A source without large buffers.
pub fn nothing_prepared() -> Arc<dyn BufferSource> {
    Arc::new(proactor_core::buffer::NoLargeBuffers)
}

/// Large buffers that are counted.
#[derive(Default)]
pub struct CountedBuffers {
    pub taken: AtomicUsize,
    pub dropped: Arc<AtomicUsize>,
    pub empty: AtomicBool,
}

impl BufferSource for CountedBuffers {
    fn take(&self) -> Option<Box<dyn LargeBuffer>> {
        if self.empty.load(Ordering::SeqCst) {
            return None;
        }
        self.taken.fetch_add(1, Ordering::SeqCst);
        Some(Box::new(CountedBuffer { memory: vec![0; RECEIVE_SIZE], dropped: Arc::clone(&self.dropped) }))
    }
}

pub struct CountedBuffer {
    memory: Vec<u8>,
    pub dropped: Arc<AtomicUsize>,
}

impl LargeBuffer for CountedBuffer {
    fn memory(&mut self) -> &mut [u8] {
        &mut self.memory
    }

    fn filled(&self, length: usize) -> &[u8] {
        &self.memory[..length]
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

impl Drop for CountedBuffer {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}
