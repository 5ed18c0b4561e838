"""Wrong arguments: the error names the parameter and says what to write; nothing has happened by then."""

import math

import pytest

import proactor
from peers import Recorder, echo, eventually

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
    with pytest.raises(ValueError, match=r'no engine called "x" on this platform; choose one of: epoll, simulated'):
        proactor.ThreadPool(engine="x")
