//! What the bytes of a message are, so that every byte that comes back can be checked.
//!
//! The bytes depend on the connection and on the position in its stream: a byte that is lost, doubled, reordered or sent to the wrong
//! connection is seen. Messages that ask the handler for something begin with a header; plain echo traffic has none.

/// Header: one byte of command, then the microseconds to sleep as a little-endian u32. `workload.py` reads the same.
pub const HEADER: usize = 5;
pub const SLEEP: u8 = 1;
pub const BROADCAST: u8 = 2;
const ECHO: u8 = 0;

/// The largest piece `Pattern::bytes` gives at once.
pub const PIECE: usize = 1 << 16;
/// A prime, so that no power-of-two size repeats itself after one message.
const PERIOD: u64 = 65_521;
/// Each connection's stream begins elsewhere in the table (the period is prime, so no two of 65,521 begin at the same place).
const CONNECTION_STRIDE: u64 = 7_919;

pub struct Pattern {
    table: Box<[u8]>,
}

impl Pattern {
    pub fn new() -> Self {
        let mut random = 0x9E37_79B9_7F4A_7C15;
        let period: Vec<u8> = (0..PERIOD).map(|_| next_random(&mut random) as u8).collect();
        // One piece longer than the period: a piece is contiguous wherever it begins.
        Self { table: period.iter().copied().cycle().take(PERIOD as usize + PIECE).collect() }
    }

    /// The bytes of `connection`'s stream from `position` on: `length`, but at most `PIECE`.
    pub fn bytes(&self, connection: usize, position: u64, length: usize) -> &[u8] {
        let begin = ((connection as u64 * CONNECTION_STRIDE + position) % PERIOD) as usize;
        &self.table[begin..begin + length.min(PIECE)]
    }
}

/// Writes a message with a header; `sleep_microseconds` 0 asks for a plain echo.
pub fn write_message(frame: &mut Vec<u8>, pattern: &Pattern, connection: usize, position: u64, size: usize, sleep_microseconds: u32) {
    frame.clear();
    frame.extend_from_slice(pattern.bytes(connection, position, size));
    frame[0] = if sleep_microseconds == 0 { ECHO } else { SLEEP };
    frame[1..HEADER].copy_from_slice(&sleep_microseconds.to_le_bytes());
}

/// splitmix64: the same numbers in every run.
pub fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut value = *state;
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_continue_each_other() {
        let pattern = Pattern::new();
        for position in [0, 1, 1000, 65_520, 65_521, 1 << 40] {
            let whole = pattern.bytes(3, position, 300);
            assert_eq!(whole[100..], *pattern.bytes(3, position + 100, 200));
        }
    }

    #[test]
    fn streams_of_ten_thousand_connections_differ() {
        let pattern = Pattern::new();
        let mut seen: Vec<&[u8]> = (0..10_000).map(|connection| pattern.bytes(connection, 0, 64)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 10_000);
    }
}
