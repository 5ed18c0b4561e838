//! The core of proactor: a completion port with its scheduler, engines, connections and timers. No Python in here.

pub mod appointment;
pub mod association;
pub mod buffer;
pub mod completion;
pub mod connection;
mod deadlines;
pub mod engine;
pub mod error;
pub mod files;
pub mod framing;
pub mod group;
pub mod mailbox;
pub mod notices;
pub mod numbers;
pub mod port;
pub mod scheduler;
pub mod source;
pub mod sync;
mod table;
pub mod timer;
mod unfinished;
pub mod waiter;
