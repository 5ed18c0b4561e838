//! The scheduler's decisions, one at a time: no threads, a clock moved by hand, CPU times as given.

#![cfg(not(any(feature = "loom", feature = "shuttle")))]

mod blocks;
mod callers;
mod fresh;
mod lives;
mod monitor;
mod rig;
mod slots;
