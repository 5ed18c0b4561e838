//! What the suite needs of Windows, and what only Windows has: handles that are overlapped, and handles that cannot be.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{AsHandle, AsRawHandle, FromRawHandle, OwnedHandle};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proactor_core::files::{Access, Action, Cached, File, NAMES, NoMemory, reopen};
use proactor_core::numbers::ECANCELED;
use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_NO_BUFFERING, FILE_FLAG_OVERLAPPED, PIPE_ACCESS_DUPLEX,
};
use windows_sys::Win32::System::IO::DeviceIoControl;
use windows_sys::Win32::System::Pipes::CreateNamedPipeW;

use super::{Counted, SMALL, World, content};

/// ERROR_ACCESS_DENIED, of a file that is open for writing only.
pub const NOT_READABLE: i32 = 5;
/// A mechanism that is not of this platform, and whose it is.
pub const ELSEWHERE: (&str, &str) = ("io_uring", "Linux");

/// Overlapped files are not refused.
pub fn refusal() -> Option<std::io::Error> {
    None
}

const FSCTL_SET_SPARSE: u32 = 0x0009_00c4;

pub fn opened(file: &std::fs::File) -> Arc<File> {
    File::duplicate(file.as_raw_handle()).unwrap().0
}

/// What is skipped takes no space, and is not filled with zeros first.
pub fn make_sparse(file: &std::fs::File) {
    let mut count = 0;
    // SAFETY: neither input nor output; `count` is writable. The handle is not overlapped, so the call waits.
    let done = unsafe {
        let nothing = std::ptr::null_mut();
        DeviceIoControl(file.as_raw_handle(), FSCTL_SET_SPARSE, nothing, 0, nothing, 0, &mut count, std::ptr::null_mut())
    };
    assert_ne!(done, 0, "{}", std::io::Error::last_os_error());
}

fn both(test: fn(&World)) {
    for name in NAMES {
        test(&World::new(name, SMALL, &content(10_000)));
    }
}

/// The request's bytes, how many were transferred, the error's number.
fn done(world: &World, file: &Arc<File>, action: Action, offset: u64, bytes: Vec<u8>) -> (Vec<u8>, usize, Option<i32>) {
    let mut request = world.request(action, offset, bytes);
    request.file = file.clone();
    world.files.submit(request);
    let (_, bytes, transferred, error) = world.next();
    (bytes, transferred, error)
}

#[test]
fn a_handle_that_is_not_overlapped_is_read_and_written_at_offsets_by_threads() {
    both(|world| {
        let file = OpenOptions::new().read(true).write(true).open(&world.path).unwrap();
        let file = File::new(OwnedHandle::from(file), false);
        let mut expected = content(10_000);
        expected[5000..5100].fill(7);
        assert_eq!(done(world, &file, Action::Write, 5000, vec![7; 100]).1, 100);
        assert_eq!(done(world, &file, Action::Read, 4000, vec![0; 9000]).0[..6000], expected[4000..]);
        assert_eq!(done(world, &file, Action::Read, 10_000, vec![0; 10]).1, 0);
        assert_eq!(done(world, &file, Action::Sync { data_only: true }, 0, Vec::new()).2, None);
    });
}

#[test]
fn a_pipe_holds_nothing_up() {
    both(|world| {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let (pipe, access) = File::duplicate(reader.as_raw_handle()).unwrap();
        assert_eq!(access, Access { readable: true, writable: false, direct: false });
        let mut waiting = world.request(Action::Read, 0, vec![0; 5]);
        let id = waiting.id;
        waiting.file = pipe.clone();
        world.files.submit(waiting);
        // With a thread for the pipe's, the file's are read, by the owner or by the other thread.
        for offset in 0..100 {
            assert_eq!(done(world, &world.file, Action::Read, offset, vec![0; 8]).1, 8);
        }
        writer.write_all(b"12345").unwrap();
        let (told, bytes, transferred, error) = world.next();
        assert_eq!((told, bytes.as_slice(), transferred, error), (id, b"12345".as_slice(), 5, None));
        drop(writer);
        let (_, transferred, error) = done(world, &pipe, Action::Read, 0, vec![0; 5]);
        assert_eq!((transferred, error), (0, None), "the end, and no error");
    });
}

#[test]
fn files_are_read_while_every_thread_waits_for_a_pipe() {
    let world = World::new("overlapped", SMALL, &content(10_000));
    let (readers, writers): (Vec<_>, Vec<_>) = (0..SMALL.threads).map(|_| std::io::pipe().unwrap()).unzip();
    for reader in &readers {
        let mut waiting = world.request(Action::Read, 0, vec![0; 5]);
        waiting.file = File::duplicate(reader.as_raw_handle()).unwrap().0;
        world.files.submit(waiting);
    }
    for offset in 0..100 {
        assert_eq!(done(&world, &world.file, Action::Read, offset, vec![0; 8]).1, 8);
    }
    drop(writers);
    for _ in readers {
        assert_eq!(world.next().2, 0);
    }
}

/// A pipe's two ends, the first of them overlapped.
fn named_pipe() -> (Arc<File>, std::fs::File) {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let name = format!("\\\\.\\pipe\\proactor-files-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let wide: Vec<u16> = name.encode_utf16().chain([0]).collect();
    let open = PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | FILE_FLAG_FIRST_PIPE_INSTANCE;
    // SAFETY: the name ends with a zero and lives until the call returns.
    let handle = unsafe { CreateNamedPipeW(wide.as_ptr(), open, 0, 1, 4096, 4096, 0, std::ptr::null()) };
    assert_ne!(handle, INVALID_HANDLE_VALUE, "{}", std::io::Error::last_os_error());
    // SAFETY: it is new, so it is nobody else's.
    let server = unsafe { OwnedHandle::from_raw_handle(handle) };
    let client = OpenOptions::new().read(true).write(true).open(&name).unwrap();
    (File::new(server, false), client)
}

/// What a file does too seldom for a test: the kernel keeps requests for long.
#[test]
fn what_the_kernel_keeps_is_cancelled_or_completes_and_holds_nothing_up() {
    both(|world| {
        let overlapped = world.files.statistics().mechanism == "overlapped";
        let (pipe, mut client) = named_pipe();
        let submit = |length| {
            let mut request = world.request(Action::Read, 0, vec![0; length]);
            let id = request.id;
            request.file = pipe.clone();
            world.files.submit(request);
            id
        };
        let first = submit(5);
        assert_eq!(done(world, &world.file, Action::Read, 0, vec![0; 8]).1, 8);
        client.write_all(b"12").unwrap();
        assert_eq!(done(world, &world.file, Action::Read, 0, vec![0; 8]).1, 8);
        client.write_all(b"345").unwrap();
        let (id, bytes, transferred, error) = world.next();
        assert_eq!((id, bytes.as_slice(), transferred, error), (first, b"12345".as_slice(), 5, None), "it went on after a short read");
        let ids: Vec<u64> = (0..6).map(|_| submit(5)).collect();
        if overlapped {
            // More than fit: four are with the kernel, and two wait.
            ids.iter().for_each(|id| world.files.cancel(*id));
            let mut told: Vec<u64> =
                (0..6).map(|_| world.next()).inspect(|told| assert_eq!(told.3, Some(ECANCELED))).map(|told| told.0).collect();
            told.sort_unstable();
            assert_eq!(told, ids);
            assert_eq!(world.alive.load(Ordering::SeqCst), 0);
        } else {
            client.write_all(&[1; 30]).unwrap();
            assert!((0..6).all(|_| world.next().2 == 5));
        }
        submit(5);
        drop(client);
        let (_, _, transferred, error) = world.next();
        assert_eq!((transferred, error), (0, None), "the end, and no error");
    });
}

#[test]
fn a_close_waits_for_what_the_kernel_keeps() {
    let world = World::new("overlapped", SMALL, &[]);
    let (pipe, mut client) = named_pipe();
    let mut request = world.request(Action::Read, 0, vec![0; 5]);
    request.file = pipe;
    world.files.submit(request);
    std::thread::scope(|scope| {
        let closing = scope.spawn(|| world.files.close());
        // Whatever comes first, the request's memory is not given back before its end.
        client.write_all(b"12345").unwrap();
        closing.join().unwrap();
    });
    assert_eq!(world.told.try_recv().expect("told before the close has ended").1, b"12345");
}

#[test]
fn a_file_that_nobody_may_open_twice_is_read_by_its_own_handle() {
    both(|world| {
        let (path, content) = (world.path.with_extension("alone"), content(1000));
        std::fs::write(&path, &content).unwrap();
        let alone = OpenOptions::new().read(true).share_mode(0).open(&path).unwrap();
        let (file, access) = File::duplicate(alone.as_raw_handle()).unwrap();
        assert_eq!(access, Access { readable: true, writable: false, direct: false });
        assert_eq!(done(world, &file, Action::Read, 500, vec![0; 1000]).0[..500], content[500..]);
        drop((file, alone));
        std::fs::remove_file(&path).unwrap();
    });
}

#[test]
fn the_handle_of_its_own_has_no_more_rights_and_moves_nobodys_position() {
    both(|world| {
        let mut file = OpenOptions::new().read(true).open(&world.path).unwrap();
        let (own, access) = File::duplicate(file.as_raw_handle()).unwrap();
        assert_eq!(access, Access { readable: true, writable: false, direct: false });
        assert_eq!(
            done(world, &own, Action::Write, 0, vec![1]).2,
            Some(5),
            "ERROR_ACCESS_DENIED, also where the permissions would allow it"
        );
        assert_eq!(done(world, &own, Action::Read, 3000, vec![0; 10]).1, 10);
        let mut first = [0; 20];
        file.read_exact(&mut first).unwrap();
        assert_eq!(first, content(20)[..]);
        drop(file);
        assert_eq!(done(world, &own, Action::Read, 0, vec![0; 10]).1, 10, "it outlives the other");
    });
}

#[test]
fn what_is_appended_goes_to_the_end_whatever_its_offset() {
    both(|world| {
        let file = OpenOptions::new().write(true).open(&world.path).unwrap();
        let file = File::new(reopen(file.as_handle(), false, true).unwrap(), false);
        for number in 1..=3 {
            assert_eq!(done(world, &file, Action::Write, 0, vec![number; 10]).1, 10);
        }
        let written = std::fs::read(&world.path).unwrap();
        assert_eq!(written[..10_000], content(10_000));
        assert_eq!(written[10_000..], [[1; 10], [2; 10], [3; 10]].concat());
    });
}

/// A block at a multiple of 4096.
#[repr(align(4096))]
struct Aligned([u8; 8192]);

#[test]
fn past_the_cache_whole_blocks_are_read_up_to_the_end() {
    both(|world| {
        let buffered = OpenOptions::new().read(true).open(&world.path).unwrap();
        let direct = reopen(buffered.as_handle(), true, false).unwrap();
        let (_, access) = File::duplicate(direct.as_raw_handle()).unwrap();
        assert!(access.direct, "it is known of a handle");
        let by_hand = OpenOptions::new().read(true).custom_flags(FILE_FLAG_NO_BUFFERING).open(&world.path).unwrap();
        assert!(File::duplicate(by_hand.as_raw_handle()).unwrap().1.direct);
        let mut request = world.request(Action::Read, 4096, Vec::new());
        request.file = File::new(direct, true);
        request.memory = Box::new(Whole(Box::new(Aligned([0; 8192]))));
        world.files.submit(request);
        assert_eq!(world.next().2, 10_000 - 4096);
    });
}

struct Whole(Box<Aligned>);

// SAFETY: the box owns its bytes and does not move them.
unsafe impl proactor_core::files::Memory for Whole {
    fn start(&self) -> *mut u8 {
        self.0.0.as_ptr().cast_mut()
    }

    fn length(&self) -> usize {
        self.0.0.len()
    }

    fn as_any_mut(&mut self) -> &mut dyn std::any::Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any + Send> {
        self
    }
}

#[test]
fn a_number_that_is_no_handle_is_refused_with_its_error() {
    let error = File::duplicate(0x0dea_dbe0 as *mut _).err().expect("nothing is open there");
    assert_eq!(error.raw_os_error(), Some(6), "ERROR_INVALID_HANDLE");
}

#[test]
fn an_offset_that_no_file_reaches_is_an_error() {
    both(|world| assert!(done(world, &world.file, Action::Read, u64::MAX, vec![0; 1]).2.is_some()));
}

#[test]
fn a_sync_waits_apart_and_completes() {
    both(|world| {
        for _ in 0..50 {
            let mut request = world.request(Action::Sync { data_only: false }, 0, Vec::new());
            request.memory = Box::new(NoMemory);
            world.files.submit(request);
            world.submit(Action::Write, 0, vec![1; 100]);
        }
        for _ in 0..100 {
            assert_eq!(world.next().3, None);
        }
    });
}

#[test]
fn nothing_is_said_to_be_in_memory() {
    let world = World::new("threads", SMALL, &content(100));
    let mut memory = Counted::new(vec![0; 10], &world.alive);
    assert_eq!(world.file.read_cached_into(&mut *memory, 0), Cached::Part(0));
}
