//! A panic unwinds, on every platform: the layer above makes an exception of it, and a thread that panics is joined. (On Windows it depends on how the standard library was built.)

use std::panic::{AssertUnwindSafe, catch_unwind};

use proactor_core::sync::Mutex;

#[test]
fn a_panic_is_caught_with_its_text_and_drops_what_it_passes() {
    struct Dropped<'a>(&'a mut bool);
    impl Drop for Dropped<'_> {
        fn drop(&mut self) {
            *self.0 = true;
        }
    }

    let mut dropped = false;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _guard = Dropped(&mut dropped);
        if std::hint::black_box(true) {
            panic!("a bug");
        }
    }));
    assert_eq!(panicked.expect_err("panics").downcast_ref::<&str>(), Some(&"a bug"));
    assert!(dropped);
}

#[test]
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
fn a_threads_panic_is_its_joiners_to_see_and_leaves_locks_usable() {
    let mutex = Mutex::new(1);
    std::thread::scope(|scope| {
        let joined = scope
            .spawn(|| {
                let _guard = mutex.lock();
                let none: Vec<u8> = Vec::new();
                none[std::hint::black_box(0)]
            })
            .join();
        assert!(joined.is_err());
    });
    assert_eq!(*mutex.lock(), 1);
}
