//! Looks at what threads do, many times a second. Owns an open file of `/proc` for each thread that was looked at lately: to read it again takes one microsecond, to open it
//! five. Knows nothing of workers; whoever looks says when that is over.

use std::collections::HashMap;

use super::*;

/// So many files at most. Beyond that all are opened anew.
const FILES: usize = 128;

#[derive(Default)]
pub(super) struct Glances {
    // Guards which file tells of which thread. Held for the length of a read.
    files: Mutex<HashMap<c_int, c_int>>,
}

impl Glances {
    pub(super) fn at(&self, thread: c_int) -> Activity {
        let mut files = self.files.lock();
        if let Some(&file) = files.get(&thread) {
            if let Some(activity) = read_activity(file) {
                return activity;
            }
            // That thread has ended, and another has its number.
            files.remove(&thread);
            release(file.into());
        }
        let Some(file) = open_activity(thread) else { return Activity::Unknown };
        let file = own(file);
        if files.len() == FILES {
            close_all(&mut files); // among them may be those of threads that have ended
        }
        files.insert(thread, file);
        read_activity(file).unwrap_or_default()
    }

    pub(super) fn end(&self) {
        close_all(&mut self.files.lock());
    }
}

fn close_all(files: &mut HashMap<c_int, c_int>) {
    for (_, file) in files.drain() {
        release(file.into());
    }
}
