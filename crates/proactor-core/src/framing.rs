//! Splits a stream of bytes into messages. Knows the wire formats; knows nothing of connections.
//!
//! The cost is linear in the bytes, however they are cut: a line's bytes are searched once, when they arrive, and what is kept never holds a line end.
//! What is kept belongs to the one unfinished message, so between messages a framer owns no memory.

use crate::error::Failure;

/// How the peer marks where a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A message ends with `\n`; one `\r` before it belongs to the line end. `limit` counts the message without its line end, in bytes.
    Lines { limit: usize },
    /// A message follows its length, an unsigned big-endian number of 1, 2, 4 or 8 `bytes`. `limit` counts the message without the prefix, in bytes.
    LengthPrefixed { bytes: usize, limit: usize },
}

/// One peer's stream. Every message that is emitted is within the limit; after a failure nothing is emitted any more.
#[derive(Debug)]
pub struct Framer {
    framing: Framing,
    /// The bytes so far of a message that is not whole, without its prefix.
    partial: Vec<u8>,
    prefix: Prefix,
    failure: Option<Failure>,
}

/// The length before a message: complete when `filled` is what the framing asks for.
#[derive(Debug, Default)]
struct Prefix {
    value: u64,
    filled: usize,
}

impl Framer {
    /// # Panics
    /// Where the prefix is not 1, 2, 4 or 8 bytes.
    pub fn new(framing: Framing) -> Self {
        if let Framing::LengthPrefixed { bytes, .. } = framing {
            assert!(matches!(bytes, 1 | 2 | 4 | 8), "a length prefix has 1, 2, 4 or 8 bytes, not {bytes}");
        }
        Framer { framing, partial: Vec::new(), prefix: Prefix::default(), failure: None }
    }

    /// Takes the next bytes of the stream and emits each message that they complete.
    ///
    /// # Errors
    /// `MessageTooLong` as soon as it is certain, after the messages before it were emitted; from then on it is the answer to everything.
    pub fn push(&mut self, bytes: &[u8], emit: &mut impl FnMut(Box<[u8]>)) -> Result<(), Failure> {
        self.answer_as_before()?;
        let result = match self.framing {
            Framing::Lines { limit } => self.push_lines(bytes, limit, emit),
            Framing::LengthPrefixed { bytes: prefix_bytes, limit } => self.push_length_prefixed(bytes, prefix_bytes, limit, emit),
        };
        self.remember(result)
    }

    /// The peer has ended: a last line without its line end is a message too.
    ///
    /// # Errors
    /// `Truncated` in the middle of a length-prefixed message (inside the prefix: what the prefix lacks, as its message's length is unknown);
    /// `MessageTooLong` as from `push`.
    pub fn finish(&mut self, emit: &mut impl FnMut(Box<[u8]>)) -> Result<(), Failure> {
        self.answer_as_before()?;
        let result = match self.framing {
            // Without a `\n` a last `\r` is not part of a line end.
            Framing::Lines { limit } if self.partial.len() > limit => Err(Failure::MessageTooLong { limit }),
            Framing::Lines { .. } => {
                if !self.partial.is_empty() {
                    emit(std::mem::take(&mut self.partial).into_boxed_slice());
                }
                Ok(())
            }
            Framing::LengthPrefixed { bytes, .. } => match self.prefix.filled {
                0 => Ok(()),
                filled if filled < bytes => Err(Failure::Truncated { missing: bytes - filled }),
                _ => Err(Failure::Truncated { missing: self.prefix.value as usize - self.partial.len() }),
            },
        };
        self.remember(result)
    }

    /// Bytes taken that belong to no emitted message yet; 0 after a failure.
    pub fn buffered(&self) -> usize {
        self.prefix.filled + self.partial.len()
    }

    fn push_lines(&mut self, mut bytes: &[u8], limit: usize, emit: &mut impl FnMut(Box<[u8]>)) -> Result<(), Failure> {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let line = &bytes[..end];
            bytes = &bytes[end + 1..];
            self.check_line(line, limit)?;
            if self.partial.is_empty() {
                emit(line.strip_suffix(b"\r").unwrap_or(line).into());
            } else {
                self.keep(line, limit.saturating_add(1));
                let mut line = std::mem::take(&mut self.partial);
                line.pop_if(|last| *last == b'\r');
                emit(line.into_boxed_slice());
            }
        }
        self.check_line(bytes, limit)?;
        self.keep(bytes, limit.saturating_add(1));
        Ok(())
    }

    /// Is the line that is kept, with `more` after it, within the limit? Its last `\r` may turn out to belong to the line end.
    fn check_line(&self, more: &[u8], limit: usize) -> Result<(), Failure> {
        let length = self.partial.len() + more.len();
        let last = more.last().or(self.partial.last());
        if length - usize::from(last == Some(&b'\r')) > limit { Err(Failure::MessageTooLong { limit }) } else { Ok(()) }
    }

    fn push_length_prefixed(
        &mut self,
        mut bytes: &[u8],
        prefix_bytes: usize,
        limit: usize,
        emit: &mut impl FnMut(Box<[u8]>),
    ) -> Result<(), Failure> {
        loop {
            while self.prefix.filled < prefix_bytes {
                let Some((byte, after)) = bytes.split_first() else { return Ok(()) };
                bytes = after;
                self.prefix.value = self.prefix.value << 8 | u64::from(*byte);
                self.prefix.filled += 1;
            }
            let Some(length) = usize::try_from(self.prefix.value).ok().filter(|length| *length <= limit) else {
                return Err(Failure::MessageTooLong { limit });
            };
            let missing = length - self.partial.len();
            if bytes.len() < missing {
                self.keep(bytes, length);
                return Ok(());
            }
            let (message, after) = bytes.split_at(missing);
            bytes = after;
            self.prefix = Prefix::default();
            if self.partial.is_empty() {
                emit(message.into());
            } else {
                self.keep(message, length);
                emit(std::mem::take(&mut self.partial).into_boxed_slice());
            }
        }
    }

    /// Appends to the unfinished message. Memory doubles with what really came, up to `most`: a prefix that promises much costs nothing.
    fn keep(&mut self, bytes: &[u8], most: usize) {
        let needed = self.partial.len() + bytes.len();
        if needed > self.partial.capacity() {
            let capacity = self.partial.capacity().saturating_mul(2).min(most).max(needed);
            self.partial.reserve_exact(capacity - self.partial.len());
        }
        self.partial.extend_from_slice(bytes);
    }

    fn answer_as_before(&self) -> Result<(), Failure> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    fn remember(&mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        if let Err(failure) = &result {
            self.failure = Some(failure.clone());
            self.partial = Vec::new();
            self.prefix = Prefix::default();
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a framer made of a stream: the messages, and how it ended.
    type Outcome = (Vec<Vec<u8>>, Result<(), Failure>);

    /// Feeds the chunks, then the end, checking the bound on memory at each step.
    fn run<'a>(framing: Framing, chunks: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
        let bound = match framing {
            Framing::Lines { limit } => limit.saturating_add(1),
            Framing::LengthPrefixed { bytes, limit } => limit.saturating_add(bytes),
        };
        let mut framer = Framer::new(framing);
        let mut messages = Vec::new();
        let mut emit = |message: Box<[u8]>| messages.push(message.into_vec());
        let mut result = Ok(());
        for chunk in chunks {
            result = framer.push(chunk, &mut emit);
            assert!(framer.buffered() <= bound && framer.partial.capacity() <= bound);
            if result.is_err() {
                break;
            }
        }
        let end = framer.finish(&mut emit);
        let result = result.and_then(|()| end.clone());
        assert_eq!(end, result, "a failure stays the answer");
        (messages, result)
    }

    fn lines(limit: usize, chunks: &[&str]) -> (Vec<String>, Result<(), Failure>) {
        let (messages, result) = run(Framing::Lines { limit }, chunks.iter().map(|chunk| chunk.as_bytes()));
        (messages.into_iter().map(|message| String::from_utf8(message).unwrap()).collect(), result)
    }

    fn prefixed(bytes: usize, limit: usize, stream: &[u8]) -> Outcome {
        run(Framing::LengthPrefixed { bytes, limit }, stream.chunks(1))
    }

    #[test]
    fn lines_come_without_their_line_end_in_any_chunking() {
        assert_eq!(lines(9, &["one\ntwo\r\n\n\r\n"]).0, ["one", "two", "", ""]);
        assert_eq!(lines(9, &["on", "e", "\ntwo\r", "\n", "\n\r", "\n"]).0, ["one", "two", "", ""]);
    }

    #[test]
    fn only_one_carriage_return_belongs_to_the_line_end() {
        assert_eq!(lines(9, &["a\r\r\nb\rc\n"]).0, ["a\r", "b\rc"]);
    }

    #[test]
    fn the_last_line_needs_no_line_end() {
        assert_eq!(lines(9, &["one\nlast"]), (vec!["one".into(), "last".into()], Ok(())));
        assert_eq!(lines(9, &["last\r"]).0, ["last\r"]);
        assert_eq!(lines(9, &["one\n"]).0, ["one"]);
    }

    #[test]
    fn a_line_of_the_limit_passes_and_one_more_byte_fails_after_the_lines_before_it() {
        let too_long = Err(Failure::MessageTooLong { limit: 3 });
        assert_eq!(lines(3, &["abc\nabc\r\n"]).0, ["abc", "abc"]);
        assert_eq!(lines(3, &["abc\r", "\n"]).0, ["abc"]);
        assert_eq!(lines(3, &["ok\nabcd\nnever\n"]), (vec!["ok".into()], too_long.clone()));
        assert_eq!(lines(3, &["ok\nabc", "d"]), (vec!["ok".into()], too_long.clone()));
        assert_eq!(lines(3, &["abc\r", "d"]), (vec![], too_long.clone()));
        assert_eq!(lines(3, &["abc\r"]), (vec![], too_long));
    }

    #[test]
    fn length_prefixed_messages_come_without_their_prefix() {
        for bytes in [1, 2, 4, 8] {
            let mut stream = Vec::new();
            for message in [&b"one"[..], b"", b"three"] {
                stream.extend_from_slice(&(message.len() as u64).to_be_bytes()[8 - bytes..]);
                stream.extend_from_slice(message);
            }
            let expected = vec![b"one".to_vec(), vec![], b"three".to_vec()];
            assert_eq!(prefixed(bytes, 5, &stream), (expected, Ok(())));
        }
    }

    #[test]
    fn a_lying_prefix_fails_at_once_and_one_within_the_limit_costs_no_memory() {
        let mut framer = Framer::new(Framing::LengthPrefixed { bytes: 8, limit: 1 << 40 });
        framer.push(&(1u64 << 40).to_be_bytes(), &mut |_| unreachable!()).unwrap();
        framer.push(b"little", &mut |_| unreachable!()).unwrap();
        assert!(framer.partial.capacity() < 100);
        assert_eq!(framer.buffered(), 14);
        assert_eq!(framer.finish(&mut |_| unreachable!()), Err(Failure::Truncated { missing: (1 << 40) - 6 }));

        let mut framer = Framer::new(Framing::LengthPrefixed { bytes: 8, limit: 100 });
        let too_long = Err(Failure::MessageTooLong { limit: 100 });
        assert_eq!(framer.push(&u64::MAX.to_be_bytes(), &mut |_| unreachable!()), too_long);
        assert_eq!(framer.push(b"more", &mut |_| unreachable!()), too_long);
        assert_eq!(framer.buffered(), 0);
    }

    #[test]
    fn an_end_inside_a_length_prefixed_message_says_what_is_missing() {
        assert_eq!(prefixed(2, 9, &[0, 1, b'a', 0, 3, b'b']).1, Err(Failure::Truncated { missing: 2 }));
        assert_eq!(prefixed(4, 9, &[0]).1, Err(Failure::Truncated { missing: 3 }));
        assert_eq!(prefixed(1, 9, &[]).1, Ok(()));
    }

    #[test]
    fn between_messages_nothing_is_held() {
        let mut framer = Framer::new(Framing::Lines { limit: 1000 });
        framer.push(&[b'x'; 1000], &mut |_| unreachable!()).unwrap();
        framer.push(b"\n", &mut |message| assert_eq!(message.len(), 1000)).unwrap();
        assert_eq!((framer.buffered(), framer.partial.capacity()), (0, 0));
    }

    #[test]
    #[should_panic(expected = "1, 2, 4 or 8 bytes, not 3")]
    fn a_prefix_of_three_bytes_is_a_programmer_error() {
        Framer::new(Framing::LengthPrefixed { bytes: 3, limit: 9 });
    }

    /// What the whole stream should give, worked out the plain way.
    fn expected_lines(stream: &[u8], limit: usize) -> Outcome {
        let mut messages = Vec::new();
        let mut parts: Vec<&[u8]> = stream.split(|byte| *byte == b'\n').collect();
        let last = parts.pop().unwrap();
        for line in parts.into_iter().map(|line| line.strip_suffix(b"\r").unwrap_or(line)).chain((!last.is_empty()).then_some(last)) {
            if line.len() > limit {
                return (messages, Err(Failure::MessageTooLong { limit }));
            }
            messages.push(line.to_vec());
        }
        (messages, Ok(()))
    }

    fn expected_length_prefixed(mut stream: &[u8], bytes: usize, limit: usize) -> Outcome {
        let mut messages = Vec::new();
        while !stream.is_empty() {
            let Some((prefix, rest)) = stream.split_at_checked(bytes) else {
                return (messages, Err(Failure::Truncated { missing: bytes - stream.len() }));
            };
            let length = prefix.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            if length > limit {
                return (messages, Err(Failure::MessageTooLong { limit }));
            }
            let Some((message, rest)) = rest.split_at_checked(length) else {
                return (messages, Err(Failure::Truncated { missing: length - rest.len() }));
            };
            messages.push(message.to_vec());
            stream = rest;
        }
        (messages, Ok(()))
    }

    /// Cuts the stream at the given places (modulo its length).
    fn cut<'a>(stream: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
        let mut ends: Vec<usize> = places.iter().map(|place| place.index(stream.len() + 1)).collect();
        ends.push(stream.len());
        ends.sort_unstable();
        let mut start = 0;
        ends.into_iter().map(|end| &stream[std::mem::replace(&mut start, end)..end]).collect()
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_the_chunks(
            stream in prop::collection::vec(prop_oneof![3 => Just(b'a'), 1 => Just(b'\r'), 1 => Just(b'\n'), 1 => any::<u8>()], 0..200),
            limit in 0usize..12,
            places in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            prop_assert_eq!(run(Framing::Lines { limit }, cut(&stream, &places)), expected_lines(&stream, limit));
        }

        #[test]
        fn length_prefixed_messages_do_not_depend_on_the_chunks(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..12),
            bytes in prop::sample::select(vec![1usize, 2, 4, 8]),
            limit in 0usize..24,
            lost in 0usize..10,
            places in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let mut stream = Vec::new();
            for message in &messages {
                stream.extend_from_slice(&(message.len() as u64).to_be_bytes()[8 - bytes..]);
                stream.extend_from_slice(message);
            }
            stream.truncate(stream.len().saturating_sub(lost));
            let outcome = run(Framing::LengthPrefixed { bytes, limit }, cut(&stream, &places));
            prop_assert_eq!(&outcome, &expected_length_prefixed(&stream, bytes, limit));
            if lost == 0 && limit >= 20 {
                prop_assert_eq!(outcome, (messages, Ok(())));
            }
        }

        #[test]
        fn any_bytes_at_all_are_survived(stream in prop::collection::vec(any::<u8>(), 0..400), bytes in prop::sample::select(vec![1usize, 2, 4, 8])) {
            prop_assert_eq!(prefixed(bytes, 64, &stream), expected_length_prefixed(&stream, bytes, 64));
        }
    }
}
