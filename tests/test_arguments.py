"""Wrong arguments: the error names the parameter and says what to write; nothing has happened by then."""

import math
import re
import socket
from queue import SimpleQueue

import pytest

import proactor
from peers import TIMEOUT, Recorder, echo, eventually
from platforms import ENGINES

NUMBERS = ["x", b"1", 1.5, math.nan, math.inf, True, [], (1,), object()]
HUGE = 2**70


@pytest.mark.parametrize("value", [*NUMBERS, HUGE, 0, -1], ids=repr)
@pytest.mark.parametrize("name", ["backlog", "max_connections", "receive_limit", "send_limit", "total_limit"])
def test_whole_numbers_of_serve(name, value) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be a whole number.*at least 1.*{'' if value is HUGE else 'not '}"):
        proactor.serve(echo, ("127.0.0.1", 0), **{name: value})


@pytest.mark.parametrize("value", ["x", b"1", True, [], object(), math.nan, 0, -1, -HUGE, -math.inf], ids=repr)
@pytest.mark.parametrize("name", ["idle_timeout", "send_timeout", "timeout"])
def test_seconds(name, value) -> None:
    text = f"^{name} must be a number of seconds, more than 0, or None for no limit; not"
    with pytest.raises((TypeError, ValueError), match=text):
        proactor.connect(("127.0.0.1", 1), echo, **{name: value})
    if name != "timeout":
        with pytest.raises((TypeError, ValueError), match=text):
            proactor.serve(echo, ("127.0.0.1", 0), **{name: value})


@pytest.mark.parametrize("value", [math.inf, HUGE, 1e300, 10**400], ids=["inf", "2**70", "1e300", "10**400"])
def test_a_time_beyond_all_times_is_no_limit(serve, value) -> None:
    server = serve(echo, idle_timeout=value, send_timeout=value)
    handler = Recorder()
    proactor.connect(server.address, handler, timeout=value, idle_timeout=value, send_timeout=value).close()
    handler.wait_closed()
    assert server.shutdown(value).completed


@pytest.mark.parametrize("value", ["x", math.nan, -1, True], ids=repr)
def test_a_wrong_time_for_shutdown_leaves_the_server_as_it_is(serve, connect, value) -> None:
    server = serve()
    with pytest.raises((TypeError, ValueError), match=r"^timeout must be a number of seconds, 0 or more, or None for no limit; not"):
        server.shutdown(value)
    client = connect(server)
    client.sendall(b"x")
    assert client.recv(1) == b"x", "it still accepts"


@pytest.mark.parametrize("name", ["keepalive", "no_delay", "reuse_port"])
@pytest.mark.parametrize("value", [1, 0, None, "yes", object()], ids=repr)
def test_flags(name, value) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be True or False, not"):
        proactor.serve(echo, ("127.0.0.1", 0), **{name: value})


@pytest.mark.parametrize("value", ["x", 5, [], object(), proactor.ThreadPool], ids=repr)
def test_a_pool(value) -> None:
    with pytest.raises(TypeError, match=r"^pool must be a proactor\.ThreadPool, or None for .*; not"):
        proactor.serve(echo, ("127.0.0.1", 0), pool=value)
    with pytest.raises(TypeError, match=r"^pool must be a proactor\.ThreadPool, or None for .*; not"):
        proactor.connect(("127.0.0.1", 1), echo, pool=value)


@pytest.mark.parametrize("value", [None, 5, "ab", (1,), (1, 2, 3), ("a", "b"), (1.5, 2), (0, 1), (3, 2), (1, HUGE)], ids=repr)
def test_the_window_of_accepts(value) -> None:
    with pytest.raises((TypeError, ValueError), match="accepts must be "):
        proactor.serve(echo, ("127.0.0.1", 0), accepts=value)


@pytest.mark.parametrize("make", [proactor.Lines, proactor.LengthPrefixed], ids=["Lines", "LengthPrefixed"])
@pytest.mark.parametrize("value", [*NUMBERS, None, HUGE, 0, -1], ids=repr)
def test_the_limit_of_a_framing(make, value) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{make.__name__}\(limit=\.\.\.\) must be a whole number of bytes, at least 1"):
        make(limit=value)


@pytest.mark.parametrize("value", [None, "x", b"x", 5, [None], [49], (1,)], ids=repr)
def test_whom_a_broadcast_leaves_out(serve, value) -> None:
    with pytest.raises(TypeError, match=r"exclude takes connections, as in exclude=\[connection\], not .*the connections themselves"):
        serve().broadcast(b"x", exclude=value)


def test_one_connection_to_leave_out_belongs_into_a_list(serve, connect) -> None:
    server = serve()
    connect(server)
    eventually(lambda: server.connections, "it is connected")
    [connection] = server.connections
    with pytest.raises(TypeError, match="put the one connection into a list"):
        server.broadcast(b"x", exclude=connection)
    assert server.broadcast(b"x", exclude={connection}).sent == 0
    assert server.broadcast(b"x", exclude=iter([connection])).sent == 0


@pytest.mark.parametrize("value", ["x", 1, None, ValueError], ids=repr)
def test_what_a_connection_fails_with(serve, connect, value) -> None:
    handler = Recorder()
    client = connect(serve(handler))
    handler.wait_for_count("connected", 1)
    with pytest.raises(TypeError, match="fail takes an exception"):
        handler.connections[0].fail(value)
    handler.connections[0].fail(error := ValueError("right"))
    assert handler.wait_closed() == [error]
    assert client.recv(1) == b""


def test_an_engine_that_there_is_not() -> None:
    with pytest.raises(ValueError, match=f'no engine called "x" on this platform; choose one of: {", ".join(ENGINES)}'):
        proactor.ThreadPool(engine="x")


@pytest.mark.parametrize("value", [*NUMBERS, HUGE, 0, -1, -HUGE], ids=repr)
@pytest.mark.parametrize("name", ["max_workers", "concurrency", "queue_limit"])
def test_whole_numbers_of_a_pool(name, value) -> None:
    # The standard library's tests know its words for this one.
    least = "greater than 0" if name == "max_workers" and value in (0, -1, -HUGE) else "a whole number.*at least 1"
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be {least}.*{'' if value is HUGE else 'not '}"):
        proactor.ThreadPool(**{name: value})


@pytest.mark.parametrize("value", ["x", b"1", True, [], object(), math.nan, -1, -HUGE, -math.inf], ids=repr)
@pytest.mark.parametrize("name", ["idle_seconds", "busy_poll", "slow_handler_seconds"])
def test_seconds_of_a_pool(name, value) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be a number of seconds, .*; not"):
        proactor.ThreadPool(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("thread_name_prefix", None, "must be a string"),
        ("thread_name_prefix", b"x", "must be a string"),
        ("thread_name_prefix", 5, "must be a string"),
        ("initializer", 5, "must be a callable"),
        ("initializer", "x", "must be a callable"),
        ("initargs", None, "must be a tuple"),
        ("initargs", "ab", "must be a tuple"),
        ("initargs", 5, "must be a tuple"),
        ("initargs", {1: 2}, "must be a tuple"),
        ("queue_policy", None, 'must be "block", "raise" or "run"'),
        ("queue_policy", "wait", 'must be "block", "raise" or "run"'),
        ("queue_policy", [], 'must be "block", "raise" or "run"'),
        ("copy_context", 1, "must be True or False"),
        ("copy_context", None, "must be True or False"),
        ("slow_handler_seconds", 0, "must be a number of seconds, more than 0, or None for no watchdog"),
        ("busy_poll", math.inf, "must be a number of seconds, 0 or more and at most"),
        ("busy_poll", None, "must be a number of seconds, 0 or more;"),
    ],
)
def test_the_other_arguments_of_a_pool(name, value, rule) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{name} {rule}.*not "):
        proactor.ThreadPool(**{name: value})


def test_what_a_pool_takes(make_pool) -> None:
    told = []
    pool = make_pool(idle_seconds=math.inf, slow_handler_seconds=math.inf, busy_poll=0, initializer=told.append, initargs=["a list"])
    assert pool.submit(int).result(20) == 0
    assert "a list" in told
    make_pool(idle_seconds=None).shutdown(timeout=HUGE)


def test_a_pool_that_could_not_be_made_has_a_repr() -> None:
    pool = proactor.ThreadPool.__new__(proactor.ThreadPool)
    with pytest.raises(ValueError, match="max_workers"):
        pool.__init__(max_workers=0)
    assert repr(pool) == "<ThreadPool that could not be made>"


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"wait": 1}, "wait must be True or False"),
        ({"wait": None}, "wait must be True or False"),
        ({"cancel_futures": "no"}, "cancel_futures must be True or False"),
        *(
            ({"timeout": value}, "timeout must be a number of seconds, 0 or more, or None for no limit")
            for value in ("x", math.nan, -1, True)
        ),
    ],
    ids=repr,
)
def test_a_wrong_argument_of_shutdown_leaves_the_pool_as_it_is(make_pool, arguments, rule) -> None:
    pool = make_pool()
    with pytest.raises((TypeError, ValueError), match=f"^{rule}; not|^{rule}, not"):
        pool.shutdown(**arguments)
    assert pool.submit(int).result(20) == 0, "it still takes work"


@pytest.mark.parametrize("value", ["x", None, True, [], math.nan, math.inf, -1, -0.5, HUGE, -HUGE], ids=repr)
@pytest.mark.parametrize("name", ["call_after", "call_every"])
def test_the_seconds_of_a_timer(make_pool, name, value) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^seconds must be a number of seconds, .*not "):
        getattr(make_pool(), name)(value, int)


@pytest.mark.parametrize("value", [*NUMBERS, 0, -1], ids=repr)
@pytest.mark.parametrize("name", ["chunksize", "buffersize"])
def test_the_numbers_of_a_map(make_pool, name, value) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be a whole number, at least 1.*not "):
        make_pool().map(str, [1], **{name: value})


@pytest.mark.parametrize("value", ["x", b"1", True, [], math.nan, -1, object()], ids=repr)
def test_how_long_to_wait(serve, connect, make_port, value) -> None:
    rule = r"^timeout must be a number of seconds, 0 or more, or None for no limit; not "
    with pytest.raises((TypeError, ValueError), match=rule):
        proactor.Event().wait(value)
    with pytest.raises((TypeError, ValueError), match=rule):
        make_port().get(value)
    raised: SimpleQueue[BaseException] = SimpleQueue()

    def handler(connection, data):
        try:
            connection.receive(timeout=value)
        except BaseException as error:
            raised.put(error)

    connect(serve(handler)).sendall(b"x")
    with pytest.raises((TypeError, ValueError), match=rule):
        raise raised.get(timeout=TIMEOUT)


@pytest.mark.parametrize("value", [math.inf, HUGE, 1e19, 1e300, 10**400], ids=["inf", "2**70", "1e19", "1e300", "10**400"])
def test_waiting_beyond_all_times_is_waiting_without_limit(make_pool, make_port, make_file, serve, connect, value) -> None:
    event = proactor.Event()
    pool, port, file = make_pool(), make_port(), make_file()
    pool.submit(event.set)
    assert event.wait(value)
    assert pool.submit(int).result(value) == 0
    assert list(pool.map(str, [1], timeout=value)) == ["1"]
    assert file.read_at(0, 1).result(value) == b"x"
    port.post()
    assert port.get(value) is not None

    def handler(connection, data):
        connection.send(connection.receive(timeout=value))

    client = connect(serve(handler, framing=proactor.Lines()))
    client.sendall(b"1\n2\n")
    assert client.recv(1) == b"2"


@pytest.mark.parametrize("value", ["x", b"1", True, [], math.nan, object()], ids=repr)
def test_how_long_to_wait_for_a_future(make_pool, make_file, value) -> None:
    """They are the standard library's: of one that has ended no time is asked, and a negative time is none."""
    pool, file = make_pool(concurrency=1), make_file()
    held = proactor.Event()
    waiting = pool.submit(held.wait, TIMEOUT)
    rule = r"^timeout must be a number of seconds, or None for no limit; not "

    def wait_in_a_call() -> None:
        with pytest.raises((TypeError, ValueError), match=rule):
            waiting.result(value)

    futures = [waiting.result, waiting.exception, file.read_at(0, 10).result, file.read_at(0, 10).exception]
    try:
        for wait in [*futures, lambda value: pool.map(str, [1], timeout=value)]:
            with pytest.raises((TypeError, ValueError), match=rule):
                wait(value)
        pool.submit(wait_in_a_call).result(TIMEOUT)
        with pytest.raises(TimeoutError):
            waiting.result(-1)
        with pytest.raises(TimeoutError):
            waiting.result(-math.inf)
    finally:
        held.set()


WHOLE = "must be a whole number of bytes"
NAMED = [
    # What is called, and what the error says: the argument or the function, and what it got or is to get.
    ("connection.send(5)", "send takes a bytes-like object .*, not int"),
    ("connection.send('x')", "send takes bytes, not str: encode"),
    ("connection.try_send(None)", "send takes a bytes-like object .*, not NoneType"),
    ("connection.send_file(5)", "send_file takes a path or an open file, .*, not 5"),
    ("connection.send_file(name, 'x')", f"^offset {WHOLE}.*not 'x'"),
    ("connection.send_file(name, 0, True)", f"^length {WHOLE}.*not True"),
    ("connection.send_file(name, timeout='x')", "^timeout must be a number of seconds.*not 'x'"),
    ("connection.fail(5)", "fail takes an exception.* not 5"),
    ("server.broadcast(5)", "send takes a bytes-like object .*, not int"),
    ("server.broadcast(b'x', slow=5)", '^slow must be "skip" or "close", not 5'),
    ("server.broadcast(b'x', exclude=5)", "^exclude takes connections.*not 5"),
    ("server.shutdown('x')", "^timeout must be a number of seconds.*not 'x'"),
    ("pool.shutdown(timeout='x')", "^timeout must be a number of seconds.*not 'x'"),
    ("pool.call_after(1, 5)", "^fn must be a callable, not int"),
    ("pool.call_every(1, None)", "^fn must be a callable, not NoneType"),
    ("pool.call_when(5.5, print)", "^float cannot be waited for"),
    ("pool.call_when(event, 5)", "^fn must be a callable, not int"),
    ("pool.associate(5, print)", "^int: a bare descriptor has no owner"),
    ("pool.associate(unused, 5)", "^fn must be a callable that takes a completion, not int"),
    ("port.associate(5, None)", "^int: a bare descriptor has no owner"),
    ("proactor.CompletionPort('x')", "^concurrency must be a whole number, .*not 'x'"),
    ("proactor.CompletionPort(engine=5)", "^engine must be the name of one, .*not 5"),
    ("proactor.ThreadPool(engine=5)", "^engine must be the name of one, .*not 5"),
    ("stream.receive('x')", f"^limit {WHOLE}, not 'x'"),
    ("stream.receive(True)", f"^limit {WHOLE}, not True"),
    ("stream.receive_into(5)", "receive_into takes a writable bytes-like object, .*, not int"),
    ("stream.send(5)", "send takes a bytes-like object .*, not int"),
    ("datagrams.receive_from('x')", f"^limit {WHOLE}, not 'x'"),
    ("datagrams.send_to('x', ('127.0.0.1', 9))", "send takes bytes, not str: encode"),
    ("datagrams.send_to(b'x', 5)", "^5 is no address"),
    ("handle.read('x', 0)", f"^size {WHOLE}, 0 or more; not 'x'"),
    ("handle.read(1, True)", f"^offset {WHOLE}, 0 or more; not True"),
    ("handle.read_into(5, 0)", "read_into fills a writable buffer .*, not int"),
    ("handle.write('x', 0)", "write takes a bytes-like object, not str: encode"),
    ("handle.sync(1)", "^data_only must be True or False, not 1"),
    ("file.sync('x')", "^data_only must be True or False, not 'x'"),
    ("file.sync(data_only=None)", "^data_only must be True or False, not None"),
    ("file.read_at('x', 1)", f"^offset {WHOLE}, 0 or more; not 'x'"),
    ("file.read_at(0, 'x')", f"^size {WHOLE}, 0 or more; not 'x'"),
    ("file.readinto_at(0, 5)", "readinto_at fills a writable buffer .*, not int"),
    ("file.write_at(0, 'x')", "write_at takes a bytes-like object, not str: encode"),
    ("proactor.open(5.5)", "^path must be a path .*, not 5.5"),
    ("proactor.open(5)", "^path must be a path .*, not 5"),
    ("proactor.open(name, 5)", "^mode must be a string .*, not 5"),
    ("proactor.open(name, depth='x')", "^depth must be a whole number of requests, .*not 'x'"),
    ("proactor.open(name, block_size=True)", f"^block_size {WHOLE}, .*not True"),
    ("proactor.open(name, direct='x')", "^direct must be True or False, not 'x'"),
    ("proactor.copy(None, name)", "^source must be a path .*, not None"),
    ("proactor.copy(name, 5)", "^target must be a path .*, not 5"),
    ("proactor.copy(name, name + '2', depth='x')", "^depth must be a whole number of requests, .*not 'x'"),
    ("proactor.copy(name, name + '2', progress=5)", "^progress must be a function of two numbers.*not 5"),
    ("proactor.serve(5, ('127.0.0.1', 0))", "^5 cannot be called: a handler is"),
    ("proactor.serve(echo, 5)", "^an address is a string, .*, not int"),
    ("proactor.serve(echo, ('127.0.0.1', 0), framing=5)", "^framing must be .*, not 5"),
    ("proactor.connect(5, echo)", "^an address is a string, .*, not int"),
    ("proactor.Lines().encode(5)", "^a message is bytes, not int"),
]


@pytest.fixture
def make_file(tmp_path):
    """`make_file()` answers an open file of 100 bytes."""
    files = []

    def make() -> proactor.File:
        path = tmp_path / "file"
        path.write_bytes(b"x" * 100)
        files.append(proactor.open(path, "r+b"))
        return files[-1]

    yield make
    for file in files:
        file.close()


def test_what_is_of_the_wrong_type_is_named(serve, make_pool, make_port, make_file, tmp_path) -> None:
    """All public functions; the words of each are those of the function or the argument, never those of a conversion."""
    pool, port, file, server = make_pool(), make_port(), make_file(), serve()
    handler = Recorder()
    connection = proactor.connect(server.address, handler, pool=pool)
    ours, theirs = socket.socketpair()
    unused = socket.socket()
    associated = make_file()
    with ours, theirs, unused:
        names = {
            "proactor": proactor,
            "echo": echo,
            "pool": pool,
            "port": port,
            "file": file,
            "server": server,
            "connection": connection,
            "event": proactor.Event(),
            "unused": unused,
            "name": str(tmp_path / "file"),
            "stream": pool.associate(ours, print),
            "datagrams": pool.associate(socket.socket(type=socket.SOCK_DGRAM), print),
            "handle": pool.associate(associated, print),
        }
        wrong = []
        for call, text in NAMED:
            try:
                eval(call, names)
                wrong.append(f"{call} was taken")
            except (TypeError, ValueError) as error:
                if not re.search(text, str(error)):
                    wrong.append(f"{call}: {error}")
        assert wrong == []
    connection.close()
    handler.wait_closed()


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        *(
            ({"timeout": value}, "timeout must be a number of seconds, 0 or more, or None for no limit;")
            for value in ("x", math.nan, -1, True)
        ),
        ({"writable": 1}, "writable must be True or False,"),
        ({"repeat": None}, "repeat must be True or False,"),
    ],
    ids=repr,
)
def test_the_arguments_of_a_wait(make_pool, arguments, rule) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{rule} not"):
        make_pool().call_when(proactor.Event(), print, **arguments)
