//! What a seed decides: the pool, the server, what each client does and how it all ends.

use super::*;

// ---- the scenario ----

/// What a seed decides.
#[derive(Clone, Debug)]
pub struct Plan {
    pub limits: Limits,
    /// The monitor ticks, and the clock moves.
    pub ticks: bool,
    pub busy_poll: u64,
    pub settings: Settings,
    pub clients: Vec<Script>,
    /// Calls posted besides.
    pub calls: usize,
    /// Timers and waits, in turn.
    pub appointments: usize,
    pub faulty: bool,
    pub finale: Finale,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finale {
    /// Everybody has its answers; then the group drains, then the workers.
    Drain,
    /// The group drains in the middle of everything.
    DrainEarly,
    AbortAll,
    /// The port closes over whatever is going on.
    Close,
}

/// What a plan allows its scripts.
#[derive(Clone, Copy)]
pub struct Traits {
    pub ticks: bool,
    pub stands_still: bool,
    pub well_behaved: bool,
    pub small: bool,
    pub lines: bool,
}

#[derive(Clone)]
pub struct Script {
    pub accepted: bool,
    pub chunks: Vec<Vec<u8>>,
    pub ending: Ending,
    /// How many bytes come through before the client takes them.
    pub window: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Stays,
    Finishes,
    Resets,
    /// The handler of the last message raises.
    HandlerRaises,
}

/// What a handler does with a message, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    Echo,
    /// Says that it blocks, and does for a moment.
    Block,
    /// Stands still, without a word, until the scenario lets it go on.
    StandStill,
    /// Reads on by itself, once.
    ReceiveOn,
    /// Says that it blocks, and waits until the client has its answer.
    AwaitAnswer,
    /// Stands still, without a word, until the client has the answers to all messages before this one.
    AwaitAnswersBefore,
    Raise,
}

pub const ECHO: u8 = b'e';
pub const BLOCK: u8 = b'b';
pub const STAND_STILL: u8 = b's';
pub const RECEIVE_ON: u8 = b'r';
pub const AWAIT_ANSWER: u8 = b'a';
pub const AWAIT_ANSWERS_BEFORE: u8 = b'w';
pub const RAISE: u8 = b'x';

impl Plan {
    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let ticks = random.chance(2);
        let concurrency = 1 + random.below(2);
        let limits = Limits { concurrency, max_workers: 1 + random.below(4), interpreter_lock: random.chance(2) };
        let framing = random.chance(3).then_some(Framing::Lines { limit: 64 });
        let faulty = random.chance(8);
        let finale = match random.below(8) {
            0 => Finale::DrainEarly,
            1 => Finale::AbortAll,
            2 => Finale::Close,
            _ => Finale::Drain,
        };
        // One connection's full inbox then stops the others, so nobody may stand still for the others' sake.
        let tight = ticks && random.chance(3);
        let small = ticks && random.chance(2);
        let settings = Settings {
            wants: Wants { connected: random.chance(2), ended: random.chance(2), closed: true, sent: random.chance(2) },
            receive_limit: if random.chance(2) { 100 } else { 1 << 20 },
            send_limit: if small { 40 } else { 1 << 20 },
            total_limit: if tight { 400 } else { 1 << 20 },
            send_timeout: None,
            idle_timeout: None,
            max_connections: None,
            framing,
            options: SocketOptions { no_delay: true, keep_alive: false },
            window: AcceptWindow { minimum: 1, maximum: 2 },
        };
        let clients = 1 + random.below(3);
        let mut still = 0;
        let clients = (0..clients)
            .map(|_| {
                let stands_still = ticks && !tight;
                let traits = Traits { ticks, stands_still, well_behaved: Plan::is_well_behaved(seed), small, lines: framing.is_some() };
                Script::new(&mut random, traits, &limits, &mut still)
            })
            .collect();
        let mut plan = Plan {
            limits,
            ticks,
            busy_poll: if ticks && random.chance(3) { 1_500_000 } else { 0 },
            settings,
            clients,
            calls: random.below(3),
            appointments: 0,
            faulty,
            finale,
        };
        plan.appointments = random.below(4); // drawn last, so that a seed's scenario is otherwise what it was
        plan.faulty &= !plan.awaits_answers();
        plan
    }
}

impl Plan {
    /// The engine's seed 0: what is sent is taken at once.
    pub fn is_well_behaved(seed: u64) -> bool {
        seed.is_multiple_of(4)
    }

    /// A connection that fails is never answered.
    pub fn awaits_answers(&self) -> bool {
        self.clients.iter().any(|script| script.data().iter().any(|byte| [AWAIT_ANSWER, AWAIT_ANSWERS_BEFORE].contains(byte)))
    }

    /// A handler may need another worker.
    pub fn needs_workers(&self) -> bool {
        self.clients.iter().any(|script| script.data().iter().any(|byte| [STAND_STILL, AWAIT_ANSWER].contains(byte)))
    }
}

impl Script {
    pub fn new(random: &mut Random, traits: Traits, limits: &Limits, still: &mut usize) -> Self {
        let Traits { ticks, stands_still, well_behaved, small, lines } = traits;
        let ending = match random.below(6) {
            0 => Ending::Stays,
            1 => Ending::Resets,
            2 => Ending::HandlerRaises,
            _ => Ending::Finishes,
        };
        let messages = 1 + random.below(4);
        let mut chunks: Vec<Vec<u8>> = Vec::new();
        for number in 0..messages {
            let last = number + 1 == messages;
            let first = match random.below(8) {
                _ if last && ending == Ending::HandlerRaises => RAISE,
                0 => BLOCK,
                // Somebody must be left to serve the others.
                1 if stands_still && *still + 1 < limits.max_workers => {
                    *still += 1;
                    STAND_STILL
                }
                // Reading on needs something to come, or the end; and somebody to bring it. (In a drain, the end.)
                2 if stands_still && ending == Ending::Finishes && (*still + 1 < limits.max_workers || limits.max_workers == 1) => {
                    *still += 1;
                    RECEIVE_ON
                }
                // Where nothing ticks somebody must be left to write what the network did not take at once.
                3 if ending != Ending::Resets && (ticks || well_behaved || *still + 1 < limits.max_workers) => {
                    *still += 1;
                    AWAIT_ANSWER
                }
                4 if ending != Ending::Resets && ticks => AWAIT_ANSWERS_BEFORE,
                _ => ECHO,
            };
            let mut message = vec![first];
            message.extend((0..random.below(20)).map(|_| b'0' + random.below(10) as u8));
            if lines {
                message.push(b'\n');
            }
            // A chunk may hold several messages.
            match chunks.last_mut() {
                Some(chunk) if random.chance(3) => chunk.append(&mut message),
                _ => chunks.push(message),
            }
        }
        Script { accepted: random.chance(2), chunks, ending, window: if small && random.chance(2) { 8 } else { usize::MAX } }
    }

    pub fn data(&self) -> Vec<u8> {
        self.chunks.concat()
    }
}
