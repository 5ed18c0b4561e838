//! Files that the network sends by itself. It reads them as anybody would, before it takes its lock.

use super::*;

/// So much is read at a time.
const BLOCK_SIZE: usize = 64 * 1024;

impl Simulated {
    pub(super) fn send_a_file(&self, handle: &Handle, source: &dyn Source, offset: u64, length: u64) -> FileSubmission {
        let number = handle.state::<Held>().socket;
        let mut sent = 0;
        let unsupported = |sent| FileSubmission::Failed { error: io::ErrorKind::Unsupported.into(), sent };
        while sent < length {
            let wanted = usize::try_from(length - sent).map_or(BLOCK_SIZE, |left| left.min(BLOCK_SIZE));
            let mut block = vec![0; wanted];
            let count = match source.read_at(&mut block, offset + sent) {
                Ok(0) => break,
                Ok(count) => count,
                Err(_) => return unsupported(sent),
            };
            let mut data = Outgoing::new();
            data.push_copy(&block[..count]);
            let mut unsent = Unsent { data, sent: 0, address: None };
            let mut state = self.network.state.lock();
            if state.attempt(Fault::SendFile).is_err() {
                return unsupported(sent);
            }
            assert!(state.stream(number).unsent.is_none(), "one send at a time may be pending on a handle");
            let result = state.transmit(number, &mut unsent);
            self.network.happened.notify_all();
            sent += unsent.sent as u64;
            match result {
                Ok(()) if unsent.data.is_empty() => {}
                Ok(()) => {
                    // Nothing is left to be sent of it, so it completes as soon as there is room.
                    state.stream(number).unsent = Some(Unsent { data: Outgoing::new(), sent: 0, address: None });
                    self.network.list(&mut state, number);
                    return FileSubmission::Pending { bytes: sent };
                }
                Err(error) => {
                    self.network.list(&mut state, number);
                    return FileSubmission::Failed { error, sent };
                }
            }
        }
        FileSubmission::Done { bytes: sent }
    }
}
