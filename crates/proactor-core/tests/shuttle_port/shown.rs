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
