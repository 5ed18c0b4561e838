//! A read's memory, where no kernel writes into it.

use std::any::Any;

use proactor_core::files::Memory;

pub const LENGTH: usize = 512;

pub struct Bytes(pub [u8; LENGTH]);

// SAFETY: the bytes lie in the box that the request has of it, and do not move.
unsafe impl Memory for Bytes {
    fn start(&self) -> *mut u8 {
        self.0.as_ptr().cast_mut()
    }

    fn length(&self) -> usize {
        LENGTH
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}
