//! Why a connection ended, as a value that can be kept and told more than once.

use std::fmt;
use std::io;

/// The reason a connection ended with; `None` in its place means an orderly end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The kernel's error number, as in `errno` (or `WSAGetLastError`).
    Os(i32),
    /// Nothing was received for the idle timeout.
    Idle,
    /// A message was longer than the framing's limit, in bytes.
    MessageTooLong { limit: usize },
    /// The handler raised; whoever called it keeps the exception.
    Handler,
    /// Too many messages of the server had come in part, `limit` bytes of them, and this one had to go for others.
    CrowdedOut { limit: usize },
    /// The peer ended in the middle of a length-prefixed message, so many bytes short.
    Truncated { missing: usize },
    /// A file that was being sent became shorter, and lacked so many bytes.
    FileEnded { missing: u64 },
}

impl From<&io::Error> for Failure {
    fn from(error: &io::Error) -> Self {
        Failure::Os(error.raw_os_error().unwrap_or(5)) // 5: EIO, an input or output error
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::from(&error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Os(number) => write!(formatter, "{}", io::Error::from_raw_os_error(*number)),
            Failure::Idle => write!(formatter, "nothing received for idle_timeout"),
            Failure::MessageTooLong { limit } => write!(formatter, "a message is longer than the limit of {limit} bytes"),
            Failure::CrowdedOut { limit } => {
                write!(
                    formatter,
                    "messages that have come in part take more than {limit} bytes, half of total_limit: this one had to go for others"
                )
            }
            Failure::Handler => write!(formatter, "the handler raised an exception"),
            Failure::FileEnded { missing } => {
                write!(formatter, "a file became shorter while it was sent: {missing} bytes of it were missing")
            }
            Failure::Truncated { missing } => write!(formatter, "the peer ended {missing} bytes before the end of its message"),
        }
    }
}
