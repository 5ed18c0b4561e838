"""Files on a completion port and on a pool: operations at offsets, each with one completion; by both of the files' mechanisms."""

import array
import collections
import errno
import gc
import gzip
import io
import os
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import proactor
from peers import TIMEOUT, Told, eventually
from platforms import FILE_MECHANISMS, forget_pages, resident_bytes

MakePool = Callable[..., proactor.ThreadPool]
MakePort = Callable[..., proactor.CompletionPort]
Start = Callable[..., threading.Thread]

BLOCK = 4096


@pytest.fixture(params=FILE_MECHANISMS, autouse=True)
def mechanism(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PROACTOR_FILES", request.param)
    return str(request.param)


def content(size: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in range(size // 4 + 1))[:size]


def make_cold(path: Path) -> None:
    """What is in the page cache of the file is dropped, as far as the file system does that."""
    with open(path, "rb") as file:
        forget_pages(file.fileno())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(content(1_000_003))
    make_cold(path)
    return path


@pytest.fixture
def port(make_port: MakePort) -> proactor.CompletionPort:
    return make_port()


def value(port: proactor.CompletionPort) -> Any:
    """The next completion's, which is none of an error."""
    completion = port.get(TIMEOUT)
    assert completion.error is None
    return completion.value


def wait_for_dropped(port: proactor.CompletionPort, count: int) -> None:
    eventually(lambda: port.statistics().dropped == count, "everything is counted as dropped")


# ---- operations ----


def test_a_read_completes_with_what_is_there_and_less_at_the_end(port: proactor.CompletionPort, path: Path) -> None:
    data = content(1_000_003)
    with proactor.open(path) as file:
        handle = port.associate(file, "the file")
        operation = handle.read(1000, 5000)
        completion = port.get(TIMEOUT)
        assert completion.operation is operation
        assert (completion.key, completion.handle, completion.error) == ("the file", handle, None)
        assert completion.value == data[5000:6000]
        assert (operation.kind, operation.offset, operation.pending, operation.handle) == ("read", 5000, False, handle)
        for size, offset in ((10, 1_000_000), (10, 1_000_003), (10, 2**62), (0, 0), (2_000_000, 0)):
            handle.read(size, offset)
            assert value(port) == data[offset : offset + size]
        handle.read(offset=1, size=2)
        assert value(port) == data[1:3]


@pytest.mark.parametrize("make", [bytearray, lambda size: memoryview(bytearray(size)), lambda size: array.array("B", bytes(size))], ids=str)
def test_a_read_into_fills_memory_as_far_as_the_file_goes(port: proactor.CompletionPort, path: Path, make: Callable[[int], Any]) -> None:
    data = content(1_000_003)
    with proactor.open(path) as file:
        handle = port.associate(file)
        memory = make(8000)
        handle.read_into(memory, 996_000)
        assert value(port) == 4003
        assert bytes(memory) == data[996_000:] + bytes(8000 - 4003)


def test_what_is_written_is_there_when_the_write_completes(port: proactor.CompletionPort, path: Path) -> None:
    with proactor.open(path, "r+b") as file:
        handle = port.associate(file)
        for data in (b"bytes", bytearray(b"more of it"), memoryview(b"x" * 300_000)[::1], b""):
            operation = handle.write(data, 2_000_000)
            assert value(port) == len(data)
            assert (operation.kind, operation.offset) == ("write", 2_000_000)
            assert path.read_bytes()[2_000_000 : 2_000_000 + len(data)] == bytes(data)
        assert path.read_bytes()[1_000_003:2_000_000] == bytes(2_000_000 - 1_000_003)
        for data_only in (False, True):
            operation = handle.sync(data_only)
            assert value(port) is None
            assert (operation.kind, operation.offset) == ("sync", None)


def test_operations_in_any_number_each_complete_once_with_their_own_bytes(port: proactor.CompletionPort, path: Path) -> None:
    data = content(1_000_003)
    with proactor.open(path) as file:
        handle = port.associate(file)
        operations = {handle.read(777, offset) for offset in range(0, 1_000_000, 997)}
        completions = [port.get(TIMEOUT) for _ in operations]
        assert {completion.operation for completion in completions} == operations
        for completion in completions:
            offset = completion.operation.offset
            assert completion.value == data[offset : offset + 777]
        with pytest.raises(TimeoutError):
            port.get(0)
        snapshot = handle.statistics()
        assert (snapshot.open, snapshot.receives, snapshot.completed, snapshot.untold) == (True, 0, len(operations), 0)
        assert snapshot.received_bytes == sum(len(completion.value) for completion in completions)


def test_what_is_in_memory_is_complete_at_once_as_an_item_in_the_queue(port: proactor.CompletionPort, path: Path) -> None:
    path.read_bytes()
    with proactor.open(path) as file:
        handle = port.associate(file)
        port.post("before")
        operation = handle.read(BLOCK, 0)
        port.post("after")
        if operation.pending:
            pytest.skip("the file system cannot tell what is in memory")
        assert port.statistics().queued == 3
        assert [port.get(0).key for _ in range(3)] == ["before", None, "after"]


def test_a_file_beyond_4_gib_has_64_bit_offsets(port: proactor.CompletionPort, tmp_path: Path) -> None:
    with proactor.open(tmp_path / "sparse", "w+b") as file:
        handle = port.associate(file)
        handle.write(b"far away", 10 * 2**30)
        assert value(port) == 8
        handle.read(100, 10 * 2**30 - 2)
        assert value(port) == b"\0\0far away"


def test_reads_past_the_page_cache_begin_and_end_anywhere(port: proactor.CompletionPort, path: Path) -> None:
    data = content(1_000_003)
    try:
        file = proactor.open(path, "r+b", direct=True)
    except OSError:
        pytest.skip("the file system does not support O_DIRECT")
    with file:
        handle = port.associate(file)
        handle.read(1001, 4095)
        assert value(port) == data[4095 : 4095 + 1001]
        memory = bytearray(5000)
        handle.read_into(memory, 999_999)
        assert value(port) == 4
        assert memory[:5] == data[999_999:] + b"\0"
        with pytest.raises(ValueError, match="multiples of 512"):
            handle.write(b"x", 0)
        handle.write(b"x" * BLOCK, BLOCK)
        assert value(port) == BLOCK
        assert path.read_bytes()[BLOCK : 2 * BLOCK] == b"x" * BLOCK


def test_each_completion_reaches_one_of_many_threads(port: proactor.CompletionPort, path: Path, start: Start) -> None:
    data = content(1_000_003)
    got: collections.Counter[proactor.Operation] = collections.Counter()
    lock = threading.Lock()
    wrong = []

    def work() -> None:
        for completion in port:
            if completion.key == "stop":
                return
            offset = completion.operation.offset
            with lock:
                got[completion.operation] += 1
                if completion.value != data[offset : offset + BLOCK]:
                    wrong.append(completion)

    threads = [start(work) for _ in range(4)]
    with proactor.open(path) as file:
        handle = port.associate(file, "file")
        operations = [handle.read(BLOCK, number * 97 % 900_000) for number in range(3000)]
        eventually(lambda: len(got) == len(operations), "every read is told")
        for _ in threads:
            port.post("stop")
        for thread in threads:
            thread.join(TIMEOUT)
    assert set(got) == set(operations)
    assert set(got.values()) == {1}
    assert not wrong


# ---- errors ----


@pytest.mark.linux("device files")
def test_an_error_tells_the_file_and_the_offset(port: proactor.CompletionPort) -> None:
    try:
        full = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115  # closed below
    except OSError:
        pytest.skip("there is no /dev/full")
    with full, pytest.raises(ValueError, match="/dev/full"):
        port.associate(full)
    with open("/proc/self/mem", "rb", buffering=0) as memory:  # nothing is mapped at 0
        handle = port.associate(memory)
        for submit in (lambda: handle.read(100, 0), lambda: handle.read_into(bytearray(100), 0)):
            submit()
            error = port.get(TIMEOUT).error
            assert isinstance(error, OSError)
            assert (error.errno, error.filename) == (errno.EIO, "/proc/self/mem")
            assert "reading 100 bytes at 0: " in str(error)
        assert handle.statistics().failed == 2


def test_what_a_file_cannot_do_is_refused_by_name(port: proactor.CompletionPort, path: Path, pair: Callable[[], Any]) -> None:
    with proactor.open(path) as file, open(path, "ab") as only_written:
        handle = port.associate(file)
        for name, arguments in {
            "receive": (),
            "receive_into": (bytearray(1),),
            "send": (b"x",),
            "accept": (),
            "shutdown": (),
            "connect": (("127.0.0.1", 1),),
            "receive_from": (),
            "send_to": (b"x", ("127.0.0.1", 1)),
        }.items():
            with pytest.raises(ValueError, match=rf"^{name}: a file is no socket; use read"):
                getattr(handle, name)(*arguments)
        with pytest.raises(io.UnsupportedOperation, match="write: the file is not open for writing"):
            handle.write(b"x", 0)
        with pytest.raises(io.UnsupportedOperation, match="read: the file is not open for reading"):
            port.associate(only_written).read(1, 0)
    ours, _ = pair()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        for one, instead in ((ours, "receive"), (listener, "accept"), (datagrams, "receive_from")):
            handle = port.associate(one)
            for submit in (lambda h: h.read(1, 0), lambda h: h.read_into(bytearray(1), 0), lambda h: h.write(b"", 0), lambda h: h.sync()):
                with pytest.raises(ValueError, match=rf"^\w+: a (listening )?socket has no offsets; use {instead}"):
                    submit(handle)
    assert port.statistics().operations == 0


def test_wrong_arguments_are_told_at_once(port: proactor.CompletionPort, path: Path) -> None:
    with proactor.open(path, "r+b") as file:
        handle = port.associate(file)
        calls: list[tuple[type[Exception], str, Callable[[], object]]] = [
            (ValueError, "size must be", lambda: handle.read(-1, 0)),
            (ValueError, "offset must be", lambda: handle.read(1, -1)),
            (ValueError, "2\\*\\*63", lambda: handle.read(1, 2**63 - 1)),
            (ValueError, "2\\*\\*63", lambda: handle.write(b"x", 2**64)),
            (TypeError, "size must be a whole number", lambda: handle.read("1", 0)),  # type: ignore[arg-type]
            (TypeError, "read_into .* bytearray", lambda: handle.read_into(b"constant", 0)),
            (TypeError, "write .* str", lambda: handle.write("text", 0)),
            (ValueError, "contiguous", lambda: handle.write(memoryview(b"abcd")[::2], 0)),
        ]
        for kind, match, call in calls:
            with pytest.raises(kind, match=match):
                call()
        assert handle.statistics().completed == handle.statistics().receives == handle.statistics().sends == 0


# ---- what can be associated, and whose it is ----


def test_any_binary_file_can_be_associated_and_stays_its_owners(port: proactor.CompletionPort, tmp_path: Path) -> None:
    path = tmp_path / "data"
    with (
        open(path, "w+b") as buffered,
        open(path, "r+b", buffering=0) as raw,
        proactor.open(path, "r+b") as ours,
        tempfile.NamedTemporaryFile() as temporary,
    ):
        buffered.write(b"was in the buffer")
        for file in (buffered, raw, ours, temporary):
            handle = port.associate(file)
            assert handle.fileno() != file.fileno()
            handle.read(6, 0)
            assert value(port) == (b"" if file is temporary else b"was in")
            handle.close()
            assert handle.fileno() == -1
            assert not file.closed
        assert buffered.tell() == 17
        assert ours.read_at(0, 3).result() == b"was"


def test_the_handle_goes_on_when_the_file_object_is_closed(port: proactor.CompletionPort, path: Path) -> None:
    with proactor.open(path) as file:
        handle = port.associate(file)
    handle.read(4, 4)
    assert value(port) == content(8)[4:]
    assert handle.closed is False


@pytest.mark.parametrize("opened_with", [proactor.open, open], ids=["ours", "builtin"])
def test_a_file_object_has_one_handle_at_a_time(
    port: proactor.CompletionPort, make_port: MakePort, make_pool: MakePool, path: Path, opened_with: Any
) -> None:
    other, pool = make_port(), make_pool()
    with opened_with(path, "rb") as file, proactor.open(path) as once_more:
        handle = port.associate(file)
        for associate in (lambda: port.associate(file), lambda: other.associate(file), lambda: pool.associate(file, print)):
            with pytest.raises(ValueError, match="associated already"):
                associate()
        with pytest.raises(ValueError, match="associated already"):
            other.associate(handle)  # type: ignore[arg-type]
        other.associate(once_more)
        handle.close()
        second = other.associate(file)
        second.read(4, 0)
        assert value(other) == content(4)
        del second
        pool.associate(file, print).close()


def test_what_is_no_file_says_why(port: proactor.CompletionPort, path: Path) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe, open(writing, "wb"), open(path) as text, open(os.devnull, "rb") as device:
        ours, theirs = socket.socketpair()
        with ours, theirs, ours.makefile("rb") as of_a_socket, gzip.open(path) as zipped:
            closed = proactor.open(path)
            closed.close()
            wrong: list[tuple[Any, type[Exception], str]] = [
                (pipe, ValueError, "no offsets: call_when"),
                (device, ValueError, f"{os.devnull}.* no offsets"),
                (of_a_socket, ValueError, "associate the socket itself"),
                (text, TypeError, "binary mode"),
                (zipped, TypeError, "GzipFile has other bytes than the file below it"),
                (io.BytesIO(), TypeError, "no descriptor"),
                (io.StringIO(), TypeError, "binary mode"),
                (pipe.fileno(), TypeError, "os.fdopen"),
                (str(path), TypeError, "proactor.open"),
                (closed, ValueError, "closed"),
            ]
            for file, kind, match in wrong:
                with pytest.raises(kind, match=match):
                    port.associate(file)
        assert port.statistics().handles == 0
        if os.environ["PROACTOR_FILES"] == "threads":
            os.environ["PROACTOR_FILES"] = "carrier pigeons"  # the fixture sets it back
            with open(path, "rb") as file, pytest.raises(ValueError, match="PROACTOR_FILES must be one of"):
                port.associate(file)


def test_memory_is_lent_until_the_completion(port: proactor.CompletionPort, path: Path) -> None:
    with proactor.open(path, "r+b") as file:
        handle = port.associate(file)
        memory = bytearray(b"x" * 5_000_000)
        operation = handle.write(memory, 0)
        if operation.pending:
            with pytest.raises(BufferError):
                memory.clear()
        assert value(port) == 5_000_000
        memory.clear()


# ---- on a pool ----


def test_a_pool_tells_a_files_completions_one_at_a_time(make_pool: MakePool, path: Path) -> None:
    data = content(1_000_003)
    busy, told = threading.Lock(), Told()

    def tell(completion: proactor.Completion) -> None:
        assert busy.acquire(blocking=False), "two at a time"
        told(completion)
        busy.release()

    pool = make_pool(concurrency=4)
    with proactor.open(path, "r+b") as file:
        handle = pool.associate(file, tell)
        operations = [handle.read(BLOCK, number * 999) for number in range(900)]
        completions = [told.next() for _ in operations]
        assert {completion.operation for completion in completions} == set(operations)
        assert all(completion.value == data[(at := completion.operation.offset) : at + BLOCK] for completion in completions)
        assert completions[0].key is None
        handle.write(b"written", 0)
        assert told.value() == 7
        handle.sync()
        assert told.value() is None
        assert pool.statistics().handles == 1


@pytest.mark.timeout(60)
def test_a_shutdown_waits_for_what_the_kernel_is_at_and_tells_all_of_it(path: Path) -> None:
    for _ in range(5):
        told = Told()
        pool = proactor.ThreadPool()
        with proactor.open(path, "r+b") as file:
            handle = pool.associate(file, told)
            data = bytes(4_000_000)
            operations = [handle.write(data, number * len(data)) for number in range(20)]
            assert pool.shutdown().completed
            assert handle.closed
            assert told.queue.qsize() == len(operations)
            completions = [told.next() for _ in operations]
        assert {completion.operation for completion in completions} == set(operations)
        for completion in completions:
            if completion.error is None:
                assert completion.value == len(data)
            else:
                assert isinstance(completion.error, OSError)
                assert completion.error.errno == errno.ECANCELED
                assert completion.error.filename == str(path)
        with pytest.raises(OSError, match="closed"):
            handle.read(1, 0)


# ---- the end ----


def test_a_cancelled_operation_completes_once_and_says_where_it_was(port: proactor.CompletionPort, path: Path) -> None:
    with proactor.open(path, "r+b") as file:
        handle = port.associate(file, "k")
        data = bytes(1_000_000)
        operations = [handle.write(data, 0) for _ in range(300)]
        assert 0 <= handle.cancel() <= 300
        assert operations[0].cancel() in (True, False)
        completions = [port.get(TIMEOUT) for _ in operations]
        assert {completion.operation for completion in completions} == set(operations)
        for completion in completions:
            if completion.error is not None:
                assert isinstance(completion.error, OSError)
                assert completion.error.errno == errno.ECANCELED
                assert "writing 1000000 bytes at 0" in str(completion.error)
                assert completion.value < len(data)
        assert not operations[0].cancel()
        assert handle.cancel() == 0
        snapshot = handle.statistics()
        assert snapshot.cancelled == snapshot.failed == sum(completion.error is not None for completion in completions)
        handle.read(4, 0)
        assert value(port) == bytes(4)


def test_a_close_in_flight_loses_nothing(port: proactor.CompletionPort, path: Path) -> None:
    with proactor.open(path, "r+b") as file:
        handle = port.associate(file)
        operations = [handle.write(bytes(2_000_000), 0) for _ in range(200)]
        handle.close()
        handle.close()
        assert handle.closed
        with pytest.raises(OSError, match="closed"):
            handle.write(b"x", 0)
        assert {port.get(TIMEOUT).operation for _ in operations} == set(operations)
        with pytest.raises(TimeoutError):
            port.get(0)


def test_a_port_that_closes_counts_what_it_drops_and_frees_no_memory_too_early(path: Path) -> None:
    for _ in range(10):
        port = proactor.CompletionPort()
        with proactor.open(path, "r+b") as file:
            handle = port.associate(file)
            memories = [bytearray(1_000_000) for _ in range(50)]
            operations = [handle.read_into(memory, 0) for memory in memories[::2]] + [handle.write(memory, 0) for memory in memories[1::2]]
            port.close()
            assert handle.closed
            wait_for_dropped(port, len(operations))
            assert not any(operation.pending for operation in operations)
            for memory in memories:
                memory.clear()  # nobody holds it


@pytest.mark.parametrize("end", ["close", "nobody holds the port"])
def test_memory_of_what_is_complete_and_was_never_got_is_given_back_with_the_port(path: Path, end: str) -> None:
    with proactor.open(path, "rb") as file:
        port = proactor.CompletionPort()
        handle = port.associate(file)
        memory = bytearray(100)
        operation = handle.read_into(memory, 0)
        eventually(lambda: not operation.pending, "it is complete")
        with pytest.raises(BufferError):
            memory.clear()
        if end == "close":
            port.close()
        else:
            del port
            gc.collect()
        memory.clear()


def test_a_handle_that_nobody_holds_closes_by_itself(port: proactor.CompletionPort, path: Path) -> None:
    with open(path, "rb") as file:
        port.associate(file).read(4, 0)
        assert value(port) == content(4)
        eventually(lambda: port.statistics().handles == 0, "the handle is closed")


def test_the_end_of_the_ports_last_reference_ends_everything(path: Path) -> None:
    with open(path, "rb") as file:
        for _ in range(20):
            port = proactor.CompletionPort()
            handle = port.associate(file)
            for offset in range(0, 1_000_000, 50_000):
                handle.read(BLOCK, offset)
            del port
            eventually(lambda handle=handle: handle.closed, "the handle is closed")


@pytest.mark.linux("fork")
def test_the_child_of_a_fork_is_told_so_and_has_no_descriptor(make_pool: MakePool, path: Path) -> None:
    told = Told()
    with proactor.open(path, "r+b") as file:
        handle = make_pool().associate(file, told)
        operation = handle.write(bytes(10_000_000), 0)
        descriptor = handle.fileno()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.fstat(descriptor)
            except OSError:
                code = 0
            try:
                calls = (lambda: handle.read(1, 0), handle.sync, handle.cancel, handle.close, handle.statistics, operation.cancel)
                for call in calls:
                    try:
                        call()
                    except RuntimeError as error:
                        code = code if "fork" in str(error) else 2
                    else:
                        code = 3
                repr((handle, operation))
                del handle, operation
                with open(path, "rb") as again, proactor.CompletionPort() as port:
                    port.associate(again).read(1, 0)
                    if port.get(TIMEOUT).error is not None:
                        code = 4
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert told.value() == 10_000_000
        handle.read(4, 0)
        assert told.value() == bytes(4)


def test_what_is_pending_when_the_program_ends_is_told(program: Callable[..., Any], tmp_path: Path) -> None:
    running = program(
        "import sys, proactor\n"
        "told = []\n"
        "pool = proactor.ThreadPool()\n"
        "file = open(sys.argv[1], 'wb')\n"
        "handle = pool.associate(file, lambda completion: print('told', flush=True))\n"
        "for number in range(3):\n"
        "    handle.write(bytes(1_000_000), number)\n",
        str(tmp_path / "written"),
    )
    assert [running.line() for _ in range(3)] == ["told"] * 3
    assert running.wait() == 0
    assert running.errors() == ""


def test_memory_stays_where_it_is_over_many_operations(port: proactor.CompletionPort, path: Path) -> None:
    def some() -> None:
        with proactor.open(path, "r+b") as file:
            handle = port.associate(file)
            memory = bytearray(100_000)
            for number in range(200):
                handle.read(100_000, number)
                handle.read_into(memory, number)
                handle.write(b"x" * 10, number)
                if number % 10 == 9:
                    handle.cancel()
                for _ in range(3):
                    port.get(TIMEOUT)

    some()
    before = resident_bytes()
    for _ in range(10):
        some()
    assert resident_bytes() - before < 10_000_000


def test_a_file_and_its_raw_file_are_one_descriptor_which_has_one_handle(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"data")
    with open(path, "rb") as file, proactor.CompletionPort() as port, proactor.CompletionPort() as other:
        handle = port.associate(file)
        with pytest.raises(ValueError, match="associated already, by another object"):
            other.associate(file.raw)
        handle.close()
        other.associate(file.raw).close()
