//! Files that Windows sends by itself: what is not every engine's.

use proactor_core::engine::{Closing, FileSubmission};

use crate::files::file_of;
use crate::iocp::IocpWorld;
use crate::worlds::{Bench, pattern, run};

const LENGTH: u64 = 8 << 20;

/// Client editions of Windows, of which Wine is one, send two at a time in the whole system.
#[test]
fn peers_that_do_not_read_keep_no_other_file_from_being_sent() {
    run::<IocpWorld>(|mut bench: Bench<IocpWorld>| {
        let (file, _owners) = file_of(&pattern(LENGTH as usize));
        let stuck: Vec<_> = (0..2).map(|_| bench.connect_narrow()).collect();
        for connection in &stuck {
            loop {
                let told = bench.record(connection.token).sent.len();
                assert!(matches!(bench.engine().send_file(&connection.handle, &*file, 0, LENGTH), FileSubmission::Pending { bytes: 0 }));
                bench.settle();
                if bench.record(connection.token).sent.len() == told {
                    break;
                }
            }
        }
        let other = bench.connect();
        match bench.engine().send_file(&other.handle, &*file, 0, 1000) {
            FileSubmission::Pending { .. } => {} // a server
            FileSubmission::Failed { error, sent: 0 } => assert_eq!(error.kind(), std::io::ErrorKind::Unsupported),
            other => panic!("{other:?}"),
        }
        bench.engine().close(&stuck[0].handle, Closing::Abort);
        let mut submission = None;
        bench.until("there is a place", |bench| {
            let taken = bench.engine().send_file(&other.handle, &*file, 0, 1000);
            let pending = matches!(taken, FileSubmission::Pending { .. });
            submission = Some(taken);
            pending || !bench.record(other.token).sent.is_empty()
        });
        bench.until("it is sent", |bench| bench.record(other.token).sent == [1000]);
    });
}

/// How many it was is nobody's to say for certain; none would mean that the connection is as it was.
#[test]
fn a_piece_that_is_given_up_has_sent_something() {
    run::<IocpWorld>(|mut bench: Bench<IocpWorld>| {
        let (file, _owners) = file_of(&pattern(LENGTH as usize));
        let connection = bench.connect_narrow();
        let mut told = 0;
        loop {
            assert!(matches!(bench.engine().send_file(&connection.handle, &*file, 0, LENGTH), FileSubmission::Pending { bytes: 0 }));
            bench.settle();
            if bench.record(connection.token).sent.len() == told {
                break;
            }
            told += 1;
        }
        assert_eq!(bench.engine().cancel_send(&connection.handle), None, "its packet says what became of it");
        bench.until("it is over", |bench| bench.record(connection.token).sent.len() > told);
        let sent = bench.record(connection.token).sent[told];
        assert!((1..LENGTH as usize).contains(&sent), "{sent}");
        assert_eq!(bench.engine().taken(&connection.handle), sent);
        assert!(matches!(bench.engine().send_file(&connection.handle, &*file, 0, 10), FileSubmission::Pending { .. }));
    });
}
