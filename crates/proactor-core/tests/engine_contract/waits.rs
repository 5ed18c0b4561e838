//! The part of the suite that is about waits: for what tests make ready and unready (on Linux an eventfd).

use proactor_core::engine::{Closing, Handle, Interest};

use crate::worlds::{Bench, World};

pub fn a_wait_completes_once_and_again_only_when_asked<W: World>(mut bench: Bench<W>) {
    let (descriptor, set_ready) = bench.world.object();
    let (handle, token) = watch(&mut bench, descriptor);
    bench.engine().wait(&handle, Interest::Readable).expect("waits");
    bench.settle();
    assert_eq!(bench.record(token).signalled, 0);
    assert!(!bench.engine().is_ready(&handle, Interest::Readable));
    for round in 1..=3 {
        set_ready(true);
        bench.until("the wait completes", |bench| bench.record(token).signalled == round);
        assert!(bench.engine().is_ready(&handle, Interest::Readable));
        bench.settle();
        assert_eq!(bench.record(token).signalled, round, "a wait completes once");
        set_ready(false);
        bench.engine().wait(&handle, Interest::Readable).expect("waits again");
        bench.settle();
        assert_eq!(bench.record(token).signalled, round, "it is not ready any more");
    }
}

pub fn a_wait_for_what_is_ready_already_completes<W: World>(mut bench: Bench<W>) {
    let (descriptor, set_ready) = bench.world.object();
    let (handle, token) = watch(&mut bench, descriptor);
    set_ready(true);
    for round in 1..=3 {
        bench.engine().wait(&handle, Interest::Readable).expect("waits");
        bench.until("the wait completes", |bench| bench.record(token).signalled == round);
    }
}

pub fn a_wait_outlives_its_owners_descriptor<W: World>(mut bench: Bench<W>) {
    let (descriptor, set_ready) = bench.world.object();
    let (handle, token) = watch(&mut bench, descriptor);
    bench.engine().wait(&handle, Interest::Readable).expect("waits");
    bench.world.close_descriptor(descriptor);
    set_ready(true);
    bench.until("the wait completes", |bench| bench.record(token).signalled == 1);
}

pub fn a_closed_wait_brings_nothing_although_its_object_becomes_ready<W: World>(mut bench: Bench<W>) {
    for _ in 0..10 {
        let (descriptor, set_ready) = bench.world.object();
        let (handle, token) = watch(&mut bench, descriptor);
        let (other, other_token) = watch(&mut bench, descriptor);
        for handle in [&handle, &other] {
            bench.engine().wait(handle, Interest::Readable).expect("waits");
        }
        bench.engine().close(&handle, Closing::Orderly);
        bench.engine().close(&handle, Closing::Orderly);
        bench.free(token);
        drop(handle);
        set_ready(true);
        bench.until("the other wait completes", |bench| bench.record(other_token).signalled == 1);
        assert!(bench.stale.is_empty(), "a completion after close: {:?}", bench.stale);
        bench.settle();
        bench.engine().close(&other, Closing::Orderly);
        assert!(bench.engine().wait(&other, Interest::Readable).is_err(), "a closed handle is not waited for");
        bench.free(other_token);
    }
}

pub fn each_of_five_hundred_waits_for_one_object_completes_once<W: World>(mut bench: Bench<W>) {
    let (descriptor, set_ready) = bench.world.object();
    let waits: Vec<_> = (0..500).map(|_| watch(&mut bench, descriptor)).collect();
    for (handle, _) in &waits {
        bench.engine().wait(handle, Interest::Readable).expect("waits");
    }
    set_ready(true);
    bench.until("all complete", |bench| waits.iter().all(|(_, token)| bench.record(*token).signalled == 1));
    bench.settle();
    assert!(waits.iter().all(|(_, token)| bench.record(*token).signalled == 1));
}

fn watch<W: World>(bench: &mut Bench<W>, descriptor: i64) -> (Handle, proactor_core::completion::Token) {
    let handle = bench.engine().watch(descriptor).expect("copies the descriptor");
    let token = bench.token();
    bench.engine().associate(&handle, token).expect("associates the copy");
    (handle, token)
}

#[cfg(target_os = "linux")]
mod on_linux {
    use std::io::ErrorKind;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::worlds::EpollWorld;

    #[test]
    fn a_file_is_refused_with_what_to_do_instead() {
        let mut bench = Bench::<EpollWorld>::new(0, crate::doubles::nothing_prepared());
        let file = std::fs::File::open("/proc/self/exe").expect("opens");
        let (handle, _) = watch(&mut bench, file.as_raw_fd().into());
        let error = bench.engine().wait(&handle, Interest::Readable).expect_err("is refused");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("always ready: read it in a call of its own"), "{error}");
    }

    #[test]
    fn writing_is_waited_for_apart_from_reading() {
        let mut bench = Bench::<EpollWorld>::new(0, crate::doubles::nothing_prepared());
        let (ours, _peer) = UnixStream::pair().expect("a pair");
        let (reads, read_token) = watch(&mut bench, ours.as_raw_fd().into());
        let (writes, write_token) = watch(&mut bench, ours.as_raw_fd().into());
        bench.engine().wait(&reads, Interest::Readable).expect("waits");
        bench.engine().wait(&writes, Interest::Writable).expect("waits");
        bench.until("it can be written to", |bench| bench.record(write_token).signalled == 1);
        assert_eq!(bench.record(read_token).signalled, 0);
    }
}
