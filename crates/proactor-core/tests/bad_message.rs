//! A message that cannot be read ends its connection; those before it are handled and answered first, however the bytes were cut on their way.
//!
//! One thread is the only worker, so each seed of the simulated engine gives the same run again.

#![cfg(not(any(feature = "loom", feature = "shuttle")))]

use std::sync::Arc;

use proactor_core::connection::{Bytes, Connection, Event, Next};
use proactor_core::engine::simulated::{Peer, Simulated};
use proactor_core::engine::{AcceptWindow, Address, Engine, Kind, SocketOptions};
use proactor_core::error::Failure;
use proactor_core::framing::Framing;
use proactor_core::group::{Group, Settings, Upper, Wants};
use proactor_core::port::{Interpreter, Port, Task};
use proactor_core::scheduler::Limits;

const LINES: Framing = Framing::Lines { limit: 4 };
const TOO_LONG: Failure = Failure::MessageTooLong { limit: 4 };
const SEEDS: std::ops::Range<u64> = 0..100;

#[test]
fn messages_before_one_that_is_too_long_are_handled_and_answered_in_any_chunking() {
    for seed in SEEDS {
        let mut world = World::new(seed, LINES);
        world.peer.send(b"a\nb\nc\ntoolong\nd\n");
        world.run(echo);
        assert_eq!(world.story, (vec!["a", "b", "c"].into_iter().map(String::from).collect(), vec![Some(TOO_LONG)]), "seed {seed}");
        assert_eq!(world.peer.received(), b"a|b|c|", "seed {seed}");
    }
}

#[test]
fn an_end_inside_a_message_takes_effect_after_the_messages_before_it() {
    for seed in SEEDS {
        let mut world = World::new(seed, Framing::LengthPrefixed { bytes: 1, limit: 9 });
        world.peer.send(b"\x01a\x01b\x05c");
        world.peer.finish();
        world.run(echo);
        assert_eq!(world.story.0, ["a", "b"], "seed {seed}");
        assert_eq!(world.story.1, [Some(Failure::Truncated { missing: 4 })], "seed {seed}");
        assert_eq!(world.peer.received(), b"a|b|", "seed {seed}");
    }
}

#[test]
fn a_handler_that_reads_on_gets_the_messages_and_then_the_failure() {
    for seed in SEEDS {
        let mut world = World::new(seed, LINES);
        world.peer.send(b"a\nb\nc\ntoolong\n");
        world.run(|port, connection, message| {
            echo(port, connection, message);
            loop {
                match port.next_message(connection) {
                    Next::Message(message) => echo(port, connection, message.as_slice()),
                    Next::Failed(failure) => return assert_eq!(failure, TOO_LONG),
                    Next::End => panic!("no orderly end"),
                    Next::Wait(..) => return, // cut here: the rest comes to the handler
                }
            }
        });
        assert_eq!(world.story.1, [Some(TOO_LONG)], "seed {seed}");
        assert_eq!(world.peer.received(), b"a|b|c|", "seed {seed}");
    }
}

#[test]
fn a_handler_that_closes_before_the_bad_message_ends_the_connection_in_order() {
    let mut world = World::new(0, LINES);
    world.peer.send(b"a\nb\ntoolong\n");
    world.run(|port, connection, message| {
        echo(port, connection, message);
        port.close_connection(connection, None, true);
    });
    assert_eq!(world.story, (vec!["a".into()], vec![None]));
    assert_eq!(world.peer.received(), b"a|");
}

#[test]
fn a_handler_that_fails_before_the_bad_message_is_what_ended_the_connection() {
    let mut world = World::new(0, LINES);
    world.peer.send(b"a\nb\ntoolong\n");
    world.run(|port, connection, _| port.close_connection(connection, Some(Failure::Handler), true));
    assert_eq!(world.story, (vec!["a".into()], vec![Some(Failure::Handler)]));
}

#[test]
fn an_abort_before_the_bad_message_is_what_ended_the_connection() {
    let mut world = World::new(0, LINES);
    world.peer.send(b"a\nb\ntoolong\n");
    world.run(|port, connection, _| port.abort(connection, Failure::Os(103)));
    assert_eq!(world.story, (vec!["a".into()], vec![Some(Failure::Os(103))]));
}

#[test]
fn a_drain_while_messages_wait_before_the_bad_one_still_answers_them() {
    let mut world = World::new(0, LINES);
    world.peer.send(b"a\nb\ntoolong\n");
    world.run(|port, connection, message| {
        echo(port, connection, message);
        port.drain(&connection.group);
    });
    assert_eq!(world.story, (vec!["a".into(), "b".into()], vec![Some(TOO_LONG)]));
    assert_eq!(world.peer.received(), b"a|b|");
}

#[test]
fn pausing_and_resuming_meanwhile_receives_nothing_more() {
    let mut world = World::new(0, LINES);
    world.peer.send(b"a\nb\ntoolong\n");
    world.run(|port, connection, message| {
        echo(port, connection, message);
        port.pause(connection);
        port.resume(connection);
    });
    assert_eq!(world.story, (vec!["a".into(), "b".into()], vec![Some(TOO_LONG)]));
}

// ---- the world ----

struct Layer;

impl Upper for Layer {
    type Connection = ();
    type Group = ();
    type Call = ();
    type Operation = ();
}

struct World {
    port: Arc<Port<Layer>>,
    peer: Peer,
    /// What was received, and how it was closed.
    story: (Vec<String>, Vec<Option<Failure>>),
}

impl World {
    fn new(seed: u64, framing: Framing) -> Self {
        let engine = Arc::new(Simulated::open(seed));
        let port = Port::new(engine.clone(), Limits { concurrency: 1, max_workers: 1, interpreter_lock: false }, None, 0);
        let settings = Settings {
            wants: Wants { connected: false, ended: true, closed: true, sent: false },
            receive_limit: 1 << 20,
            send_limit: 1 << 20,
            total_limit: 1 << 20,
            send_timeout: None,
            idle_timeout: None,
            max_connections: None,
            framing: Some(framing),
            options: SocketOptions { no_delay: true, keep_alive: false },
            window: AcceptWindow { minimum: 1, maximum: 2 },
        };
        let (descriptor, peer) = engine.pair();
        let handle = engine.adopt(descriptor, Kind::Tcp).unwrap();
        port.attach(handle, Address::Unix(None), &Group::new((), settings)).unwrap();
        World { port, peer, story: Default::default() }
    }

    /// Works until the connection is closed.
    fn run(&mut self, mut received: impl FnMut(&Port<Layer>, &Arc<Connection<Layer>>, &[u8])) {
        let mut worker = self.port.worker();
        while let Some(task) = self.port.next(&mut worker, &Lockless, |_| (), |call| *call) {
            let Task::Event(event, ()) = task else { continue };
            let connection = worker.current.clone().unwrap();
            assert!(self.story.1.is_empty(), "nothing is told after the end");
            match event {
                Event::Received(bytes) => {
                    self.story.0.push(String::from_utf8(bytes.as_slice().to_vec()).unwrap());
                    received(&self.port, &connection, bytes.as_slice());
                }
                Event::Closed(failure) => {
                    self.story.1.push(failure);
                    self.port.finish();
                }
                event => panic!("{event:?} was not to come"),
            }
        }
        self.port.close();
    }
}

fn echo(port: &Port<Layer>, connection: &Arc<Connection<Layer>>, message: &[u8]) {
    let answer = [message, b"|"].concat();
    assert!(!port.queue(connection, Bytes::Copy(&answer), true).expect("the connection is open"), "it is written when the handler ends");
}

/// There is no interpreter here.
struct Lockless;

impl Interpreter for Lockless {
    fn detached<R: Send>(&self, wait: impl FnOnce() -> R + Send) -> R {
        wait()
    }
}
