//! How a failing seed is shown.

use super::*;

impl std::fmt::Debug for Script {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let chunks: Vec<_> = self.chunks.iter().map(|chunk| String::from_utf8_lossy(chunk)).collect();
        let Script { accepted, ending, window, .. } = self;
        write!(formatter, "{chunks:?}, {ending:?}, accepted: {accepted}, window: {window}")
    }
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let connections: Vec<_> = self.port.connections(&self.group).iter().map(|one| (index(one), one.life(), one.queues())).collect();
        formatter
            .debug_struct("Scenario")
            .field("counts", &self.port.scheduler.counts())
            .field("group", &(self.group.live(), &self.group.queued))
            .field("connections", &connections)
            .field("logs", &self.logs)
            .finish()
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "in handler: {}, {:?}", self.in_handler.load(Ordering::SeqCst), lock(&self.state))
    }
}

impl std::fmt::Debug for Story {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (received, queued) = (String::from_utf8_lossy(&self.received), String::from_utf8_lossy(&self.queued));
        let Story { connected, told_sent, ended, closed, after_the_end, .. } = self;
        write!(
            formatter,
            "received {received:?}, queued {queued:?}, told sent {told_sent}, connected {connected}, ended {ended}, closed {closed:?}, after {after_the_end}"
        )
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Client {} sent {} chunks, got {:?}", self.number, self.sent, String::from_utf8_lossy(&self.arrived))
    }
}

impl Client {
    /// True while there is something left to do, or to wait for.
    fn step(&mut self, scenario: &Scenario) -> bool {
        if self.take() {
            scenario.logs[self.number].answered(self.arrived.len());
        }
        if self.sent < self.script.chunks.len() {
            if scenario.chance(2) {
                self.peer.send(&self.script.chunks[self.sent]);
                self.sent += 1;
            }
            return true;
        }
        if !self.ended {
            match self.script.ending {
                Ending::Finishes => self.peer.finish(),
                Ending::Resets => self.peer.reset(),
                Ending::Stays | Ending::HandlerRaises => {}
            }
            self.ended = true;
            return true;
        }
        let over = !lock(&scenario.logs[self.number].state).closed.is_empty();
        !over && (self.script.ending != Ending::Stays || self.arrived.len() < self.script.data().len())
    }

    /// Whether somebody else's handler may still need its own time before those that stand still go on.
    fn may_wait_for_others(&self, scenario: &Scenario) -> bool {
        let stands_still = self.script.data().contains(&STAND_STILL);
        let over = !lock(&scenario.logs[self.number].state).closed.is_empty();
        !stands_still && !over && (self.script.ending != Ending::Stays || self.arrived.len() < self.script.data().len())
    }

    fn take(&mut self) -> bool {
        let bytes = self.peer.received();
        self.arrived.extend(&bytes);
        !bytes.is_empty()
    }
}

/// Connections are told apart by their peers' addresses.
fn address(number: usize) -> Address {
    Address::Internet(SocketAddr::from((Ipv4Addr::LOCALHOST, 1000 + number as u16)))
}
