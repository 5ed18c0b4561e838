"""`proactor.open`: reads and writes at offsets, their futures, blocks in order; by both mechanisms, memory or not."""

import asyncio
import concurrent.futures
import errno
import io
import os
import threading

import pytest

import proactor
from peers import TIMEOUT, eventually, run_python
from platforms import FILE_MECHANISMS, forget_pages

SIZES = [0, 1, 255, 256, 257, 1000, 1024, 100_000, 1_000_003]


@pytest.fixture(params=FILE_MECHANISMS, autouse=True)
def engine(request, monkeypatch):
    monkeypatch.setenv("PROACTOR_FILES", request.param)
    return request.param


def content(size: int) -> bytes:
    return (b"".join(number.to_bytes(4, "little") for number in range(size // 4 + 1)))[:size]


@pytest.fixture
def make(tmp_path):
    """`make(data)` answers the path of a file with it; `cold`: not in memory."""

    def write(data: bytes, *, cold: bool = False):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.data"
        path.write_bytes(data)
        if cold:
            with open(path, "rb") as file:
                forget_pages(file.fileno())
        return path

    return write


# ---- reading ----


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"block_size": 256},
        {"block_size": 257, "depth": 1},
        {"depth": 32},
        {"direct": True},
    ],
    ids=str,
)
def test_what_is_read_is_what_is_there(make, size, options) -> None:
    if options.get("block_size", 10_000) < 300 and size > 100_000:
        size = 100_001
    data = content(size)
    with proactor.open(make(data, cold=True), **options) as file:
        assert file.read() == data
        assert b"".join(file.blocks()) == data
        assert file.read_at(0, size).result() == data
        assert file.read_at(0, size + 10_000).result() == data
        assert file.size == size


def test_offset_and_length_cut_a_piece_out(make) -> None:
    data = content(100_000)
    with proactor.open(make(data), block_size=1000) as file:
        assert file.read(offset=99_990) == data[99_990:]
        assert file.read(offset=123, length=4567) == data[123 : 123 + 4567]
        assert file.read(offset=100_000) == file.read(offset=10**15) == file.read(length=0) == b""
        assert [len(block) for block in file.blocks(offset=1, length=2500)] == [1000, 1000, 500]


def test_requests_in_any_order_and_number_bring_their_own_bytes(make) -> None:
    data = content(1_000_000)
    with proactor.open(make(data, cold=True)) as file:
        requests = [(at, file.read_at(at, 777)) for at in range(999_000, 0, -997)]
        assert all(request.result() == data[at : at + 777] for at, request in requests)


def test_a_buffer_is_filled_as_far_as_the_file_goes(make) -> None:
    data = content(1000)
    for cold, direct in ((False, False), (True, False), (True, True)):
        with proactor.open(make(data, cold=cold), direct=direct) as file:
            buffer = bytearray(b"\xff" * 600)
            assert file.readinto_at(100, memoryview(buffer)[:500]).result() == 500
            assert buffer == data[100:600] + b"\xff" * 100
            assert file.readinto_at(900, buffer).result() == 100
            assert buffer[:100] == data[900:]
            buffer.clear()  # the buffer is its owner's again


def test_beyond_four_gibibytes(tmp_path) -> None:
    path = tmp_path / "sparse"
    with proactor.open(path, "w+b", block_size=1 << 24) as file:
        assert file.write_at(10 << 30, b"the end").result() == 7
        assert file.size == (10 << 30) + 7
        assert file.read_at((10 << 30) - 1, 100).result() == b"\0the end"
        assert file.read_at((4 << 30) + 5, 3).result() == bytes(3)
        assert b"".join(file.blocks(offset=10 << 30)) == b"the end"


def test_memory_is_bounded_by_depth_and_block_size(tmp_path) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 1 << 30)
    program = """
import sys, proactor
from platforms import resident_bytes
with proactor.open(sys.argv[1], block_size=1 << 20, depth=4) as file:
    read = next(file.blocks()) and 0
    before = resident_bytes(peak=True)
    for block in file.blocks():
        read += len(block)
    assert read == 1 << 30
    print(resident_bytes(peak=True) - before)
"""
    run = run_python(program, str(path))
    assert not run.stderr
    assert int(run.stdout) < 16 << 20


def test_a_file_that_shrinks_ends_where_it_ends(make) -> None:
    path = make(content(100_000))
    with proactor.open(path, block_size=1000, depth=4) as file:
        blocks = file.blocks()
        first = next(blocks)
        os.truncate(path, 5500)
        rest = b"".join(blocks)
        assert (first + rest)[:5500] == content(5500)
        assert len(first + rest) <= 5500


def test_a_file_that_grows_is_read_to_its_new_end(make) -> None:
    path = make(content(3000))
    with proactor.open(path, block_size=1000, depth=4) as file:
        blocks = file.blocks()
        first = next(blocks)
        with path.open("ab") as writer:  # three reads are under way: what is there stays as it is
            writer.write(content(10_000)[3000:])
        assert first + b"".join(blocks) == content(10_000)


def test_an_abandoned_iterator_leaves_nothing_under_way(make) -> None:
    with proactor.open(make(content(1_000_000), cold=True), block_size=4096, depth=16) as file:
        blocks = file.blocks()
        next(blocks)
        blocks.close()
        # Nobody waits for what the device is at.
        eventually(lambda: file.statistics().outstanding == 0, "the device is done with what was given up")


# ---- writing ----


@pytest.mark.parametrize("engine", FILE_MECHANISMS)
def test_who_has_the_results_finds_them_counted(tmp_path, monkeypatch, engine) -> None:
    monkeypatch.setenv("PROACTOR_FILES", engine)
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    with proactor.open(path, direct=True) as file:
        for rounds in range(1, 5001):
            requests = [file.read_at(0, 512) for _ in range(2)]
            assert [len(request.result()) for request in requests] == [512, 512]
            statistics = file.statistics()
            assert (statistics.outstanding, statistics.read_bytes) == (0, rounds * 1024)


def test_writes_land_where_they_are_told(tmp_path) -> None:
    with proactor.open(tmp_path / "new", "w+b") as file:
        array = memoryview(bytearray(content(5000)))
        requests = [file.write_at(at, array[at : at + 500]) for at in range(4500, -1, -500)]
        assert [request.result() for request in requests] == [500] * 10
        assert file.write_at(5000, b"").result() == 0
        file.sync()
        file.sync(data_only=True)
        assert file.read() == content(5000)


def test_direct_writes_are_whole_sectors(tmp_path) -> None:
    with proactor.open(tmp_path / "new", "w+b", direct=True) as file:
        assert file.write_at(4096, content(8192)).result() == 8192
        assert file.read() == bytes(4096) + content(8192)
        with pytest.raises(ValueError, match="multiples of 512"):
            file.write_at(1, bytes(512))
        with pytest.raises(ValueError, match="multiples of 512"):
            file.write_at(0, bytes(513))


def test_appending_ignores_the_offset(make) -> None:
    path = make(b"before")
    with proactor.open(path, "ab") as file:
        file.write_at(0, b" and after").result()
    assert path.read_bytes() == b"before and after"


def test_a_lent_buffer_is_held_until_the_request_is_complete(make) -> None:
    with proactor.open(make(content(1 << 20), cold=True), "r+b", direct=True) as file:
        buffer = bytearray(1 << 20)
        requests = [file.readinto_at(0, buffer) for _ in range(8)]
        with pytest.raises(BufferError):
            buffer.clear()
        assert {request.result() for request in requests} == {1 << 20}
        buffer.clear()


# ---- futures ----


def test_the_futures_are_those_of_the_standard_library(make) -> None:
    data = content(400_000)
    with proactor.open(make(data, cold=True), direct=True) as file:
        requests = [file.read_at(at, 4000) for at in range(0, 400_000, 4000)]
        assert all(isinstance(request, concurrent.futures.Future) for request in requests)
        done, waiting = concurrent.futures.wait(requests, TIMEOUT)
        assert not waiting
        assert b"".join(request.result(0) for request in requests) == data
        requests = [file.read_at(at, 4000) for at in range(0, 400_000, 4000)]
        assert {request.result() for request in concurrent.futures.as_completed(requests, TIMEOUT)} == {
            request.result() for request in done
        }
        request = file.read_at(0, 10)
        assert request.exception() is None
        assert request.done()
        assert not request.running()
        assert not request.cancel()
        assert "returned bytes" in repr(request)


def test_done_callbacks_are_called_once_each(make) -> None:
    called = threading.Semaphore(0)
    seen = []

    def note(request) -> None:
        seen.append(request)
        called.release()

    with proactor.open(make(content(400_000), cold=True), direct=True) as file:
        requests = [file.read_at(at, 4000) for at in range(0, 400_000, 4000)]
        for request in requests:
            request.add_done_callback(note)
        requests[0].result()
        requests[0].add_done_callback(note)
        for _ in range(101):
            assert called.acquire(timeout=TIMEOUT)
    assert set(seen) == set(requests)


def test_a_callback_that_raises_is_logged_and_others_are_called(make, caplog) -> None:
    told = threading.Event()
    with proactor.open(make(content(8192), cold=True), direct=True) as file:
        for function in (lambda request: 1 / 0, lambda request: told.set()):
            file.read_at(0, 4096).add_done_callback(function)
        assert told.wait(TIMEOUT)
        # The second may have been complete, and its function called here, before the first one was.
        eventually(lambda: "ZeroDivisionError" in caplog.text, "the first function's error is logged")


def test_a_callback_may_wait_for_other_requests(make) -> None:
    """Even for those that the thread it runs on would have to tell of."""
    brought = []
    told = threading.Event()
    with proactor.open(make(content(400_000), cold=True), direct=True) as file:
        others = []

        def wait_for_others(request) -> None:
            brought.extend(other.result(TIMEOUT) for other in others)
            told.set()

        first = file.read_at(0, 4096)
        others.extend(file.read_at(at, 4096) for at in range(0, 400_000, 4096))
        conditions = [other._condition for other in others]
        first.add_done_callback(wait_for_others)
        assert told.wait(TIMEOUT)
        assert all(conditions)
    assert b"".join(brought) == content(400_000)


def test_asyncio_awaits_them(make) -> None:
    data = content(100_000)

    async def read(file) -> list[bytes]:
        return await asyncio.gather(*(asyncio.wrap_future(file.read_at(at, 1000)) for at in range(0, 100_000, 1000)))

    with proactor.open(make(data, cold=True), direct=True) as file:
        assert b"".join(asyncio.run(read(file))) == data


def test_a_worker_that_waits_for_a_request_frees_its_slot(make, make_pool) -> None:
    data = content(4096)
    pool = make_pool(concurrency=1, max_workers=4)
    with proactor.open(make(data, cold=True), direct=True) as file:
        assert list(pool.map(lambda _: file.read_at(0, 4096).result(), range(100))) == [data] * 100


def test_result_keeps_its_timeout(make) -> None:
    with proactor.open(make(content(4096), cold=True), direct=True) as file:
        request = file.read_at(0, 4096)
        try:
            assert request.result(0) == content(4096)
        except TimeoutError:
            assert request.result() == content(4096)


def test_a_read_past_the_page_cache_that_memory_has_no_room_for_is_refused(make) -> None:
    with proactor.open(make(b"abc"), direct=True) as file, pytest.raises(MemoryError, match="no memory for"):
        file.read_at(0, 2**46)


def test_files_are_not_made_by_hand() -> None:
    for arguments in ((), (3, "name")):
        with pytest.raises(TypeError, match=r"opened by proactor\.open"):
            proactor.File(*arguments)


def test_futures_are_not_made_or_completed_by_hand(make) -> None:
    with pytest.raises(TypeError, match="not by hand"):
        proactor.FileRequest()
    with proactor.open(make(b"x")) as file:
        request = file.read_at(0, 1)
        for forbidden in (lambda: request.set_result(1), lambda: request.set_exception(OSError()), request.set_running_or_notify_cancel):
            with pytest.raises(RuntimeError, match="only"):
                forbidden()


# ---- errors ----


@pytest.mark.linux("a descriptor whose reads fail (a directory's)")
def test_a_failed_read_says_what_where_and_of_which_file(tmp_path) -> None:
    # A directory's descriptor: opening it through open() is refused before.
    with pytest.raises(IsADirectoryError):
        proactor.open(tmp_path)
    path = tmp_path / "file"
    path.touch()
    with proactor.open(path, "r+b") as file:
        descriptor = os.open(tmp_path, os.O_RDONLY)
        try:
            os.dup2(descriptor, file.fileno())
        finally:
            os.close(descriptor)
        request = file.read_at(8192, 4096)
        with pytest.raises(IsADirectoryError, match="reading 4096 bytes at 8192: Is a directory") as caught:
            request.result()
        assert caught.value.errno == errno.EISDIR
        assert caught.value.filename == str(path)
        assert request.exception() is caught.value
        assert file.statistics().failed == 1


@pytest.mark.linux("device files")
def test_a_full_disk_is_told_with_offset() -> None:
    with open("/dev/full", "wb", buffering=0) as probe, pytest.raises(OSError):
        probe.write(b"x")
    with pytest.raises(OSError, match="No space left on device; 0 bytes were copied before") as caught:
        proactor.copy(__file__, "/dev/full")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == "/dev/full"


@pytest.mark.parametrize(
    ("make_call", "error", "text"),
    [
        (lambda file: file.read_at(-1, 1), ValueError, "offset must be a whole number"),
        (lambda file: file.read_at(0, -1), ValueError, "size must be a whole number"),
        (lambda file: file.read_at(2**63, 1), ValueError, "below 2"),
        (lambda file: file.read_at(2**63 - 1, 1), ValueError, "no file reaches"),
        (lambda file: file.read_at("0", 1), TypeError, "offset must be a whole number of bytes, 0 or more; not '0'"),
        (lambda file: file.read_at(None, 1), TypeError, "offset .* not None"),
        (lambda file: file.read_at(0, 1.5), TypeError, "size .* not 1.5"),
        (lambda file: file.read_at(True, 1), TypeError, "offset .* not True"),
        (lambda file: file.read_at(0, 2**50), MemoryError, "no memory for 1125899906842624 bytes"),
        (lambda file: file.readinto_at(0, b"constant"), TypeError, "bytes never change"),
        (lambda file: file.readinto_at(0, 5), TypeError, "writable buffer"),
        (lambda file: file.write_at(0, b"x"), io.UnsupportedOperation, "not open for writing"),
        (lambda file: file.write_at(0, "x"), TypeError, "encode"),
        (lambda file: file.blocks(offset=-1), ValueError, "offset"),
        (lambda file: file.blocks(length=-1), ValueError, "length"),
    ],
)
def test_bad_arguments_are_refused_by_name(make, make_call, error, text) -> None:
    with proactor.open(make(b"abc")) as file, pytest.raises(error, match=text):
        make_call(file)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"mode": "r"}, ValueError, "did you mean rb"),
        ({"mode": "q"}, ValueError, "mode must be one of"),
        ({"mode": 1}, TypeError, "mode must be a string"),
        ({"depth": 0}, ValueError, "depth"),
        ({"block_size": 0}, ValueError, "block_size"),
        ({"block_size": 1 << 40}, ValueError, "block_size"),
        ({"direct": 1}, TypeError, "direct"),
    ],
)
def test_bad_options_are_refused_by_name(make, options, error, text) -> None:
    with pytest.raises(error, match=text):
        proactor.open(make(b""), **options)
    with pytest.raises(FileNotFoundError):
        proactor.open("/nowhere/at/all")


def test_a_closed_file_says_so_and_closing_waits(tmp_path) -> None:
    file = proactor.open(tmp_path / "new", "wb")
    requests = [file.write_at(at, bytes(4096)) for at in range(0, 1 << 20, 4096)]
    file.close()
    file.close()
    assert all(request.done() for request in requests)
    assert file.closed
    assert "closed" in repr(file)
    for call in (lambda: file.write_at(0, b""), lambda: file.blocks(), lambda: file.size, file.sync, file.fileno):
        with pytest.raises(ValueError, match="closed"):
            call()
    assert file.statistics().written_bytes == 1 << 20


def test_a_file_that_was_not_closed_is_warned_of_and_leaks_nothing(make) -> None:
    file = proactor.open(make(content(4096), cold=True), direct=True)
    request = file.read_at(0, 4096)
    with pytest.warns(ResourceWarning, match="unclosed file"):
        del file
    assert request.result() == content(4096)


# ---- pipes and devices ----


@pytest.mark.linux("named pipes of the file system (mkfifo)")
def test_a_pipe_is_read_in_order(tmp_path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    data = content(300_000)
    writer = threading.Thread(target=path.write_bytes, args=(data,))
    writer.start()
    with proactor.open(path, block_size=10_000) as file:
        for call in (lambda: file.read_at(0, 1), lambda: file.size):
            with pytest.raises(io.UnsupportedOperation, match="pipe"):
                call()
        with pytest.raises(ValueError, match="leave offset 0"):
            file.blocks(offset=1)
        assert file.read(length=11) == data[:11]
        assert file.read() == data[11:]
    writer.join(TIMEOUT)


@pytest.mark.linux("device files")
def test_blocks_of_a_device_that_nobody_reads_leave_no_descriptor() -> None:
    with proactor.open("/dev/zero") as file:
        before = len(os.listdir("/proc/self/fd"))
        iterators = [file.blocks() for _ in range(50)]
        del iterators
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.linux("named pipes of the file system (mkfifo)")
def test_a_pipe_that_is_closed_while_it_is_read_keeps_its_number(tmp_path) -> None:
    """Another file under the same number would be read, and be robbed of what was read."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    holder = os.open(path, os.O_RDWR)
    try:
        file = proactor.open(path, block_size=4)
        number = file.fileno()
        blocks = file.blocks()
        os.write(holder, b"ours")
        assert next(blocks) == b"ours"
        file.close()
        other = os.open(os.devnull, os.O_RDONLY)
        try:
            assert other != number
        finally:
            os.close(other)
        os.write(holder, b"more")
        assert next(blocks) == b"more"
        del blocks
        with pytest.raises(OSError):
            os.fstat(number)
    finally:
        os.close(holder)


@pytest.mark.linux("/proc")
def test_a_regular_file_that_is_a_stream_is_read_as_one(monkeypatch, tmp_path) -> None:
    """As some of the kernel's own are: /proc/kmsg, tracing's trace_pipe."""
    path = tmp_path / "stream"
    path.write_bytes(b"something")
    seek = os.lseek

    def refuse(descriptor, offset, whence) -> int:
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(path):
            raise OSError(errno.ESPIPE, os.strerror(errno.ESPIPE))
        return seek(descriptor, offset, whence)

    monkeypatch.setattr(os, "lseek", refuse)
    with proactor.open(path) as file:
        with pytest.raises(io.UnsupportedOperation):
            file.read_at(0, 1)
        assert file.read() == b"something"


@pytest.mark.linux("device files")
def test_a_device_without_an_end_is_read_as_far_as_wanted() -> None:
    with proactor.open("/dev/zero", block_size=1000) as file:
        assert file.read(length=12_345) == bytes(12_345)


@pytest.mark.linux("/proc")
def test_files_without_a_size_are_read_to_their_end() -> None:
    with proactor.open("/proc/self/status", block_size=100) as file:
        assert file.read().startswith(b"Name:")
