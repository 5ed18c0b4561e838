"""What may be a handler: everything else is refused when it is given, with what to write instead, and nothing is left open."""

import functools

import pytest

import proactor
from peers import RecordingEcho, echo, read_exactly
from proactor.connection import Connection


async def asynchronous(connection, data):
    connection.send(data)


def generator(connection, data):
    yield connection.send(data)


class AsyncCall:
    async def __call__(self, connection, data): ...


class AsyncMethod(proactor.Handler):
    async def received(self, connection, data): ...


class TooFew(proactor.Handler):
    def received(self, connection): ...


class TooManyForClosed(proactor.Handler):
    def closed(self, connection, error, more): ...


class NeedsArgument(proactor.Handler):
    def __init__(self, value): ...

    def received(self, connection, data): ...


class Misspelt(proactor.Handler):
    def recieved(self, connection, data): ...


class OtherName(proactor.Handler):
    def on_connect(self, connection): ...


class EmptyInstance(proactor.Handler):
    def __init__(self) -> None:
        self.something = 1


WRONG = {
    "an async function": (asynchronous, "async function.*plain function"),
    "a partial of one": (functools.partial(asynchronous, data=b""), "async function"),
    "an object with an async call": (AsyncCall(), "async function"),
    "a handler with an async method": (AsyncMethod, r"AsyncMethod\.received is an async function"),
    "an instance of it": (AsyncMethod(), r"AsyncMethod\.received is an async function"),
    "a generator function": (generator, "generator function.*without yield"),
    "a function of nothing": (lambda: None, r"does not take \(connection, data\)"),
    "a function of one": (lambda connection: None, r"does not take \(connection, data\)"),
    "a function of three": (lambda connection, data, more: None, r"does not take \(connection, data\)"),
    "a built-in class": (int, "not a subclass of proactor.Handler"),
    "a connection's class": (Connection, "not a subclass of proactor.Handler"),
    "a method with too few": (TooFew, r"TooFew\.received does not take \(connection, data\): write def received\(self, connection, data\)"),
    "a method with too many": (TooManyForClosed(), r"TooManyForClosed\.closed does not take \(connection, error\)"),
    "a class that needs arguments": (NeedsArgument, "needs arguments to be made"),
    "Handler itself": (proactor.Handler, "overrides none of proactor.Handler's methods"),
    "an instance of Handler itself": (proactor.Handler(), "overrides none"),
    "a misspelt method": (Misspelt, "is recieved meant to be received"),
    "another library's name": (OtherName, "is on_connect meant to be connected"),
    "an instance without methods": (EmptyInstance, "overrides none"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_serve_is_refused_when_it_is_given(name) -> None:
    handler, text = WRONG[name]
    with pytest.raises(TypeError, match=text):
        proactor.serve(handler, ("127.0.0.1", 0))
    with pytest.raises(TypeError, match=text):
        proactor.connect(("127.0.0.1", 1), handler)


class Static(proactor.Handler):
    @staticmethod
    def received(connection, data):
        connection.send(data)


class OfTheClass(proactor.Handler):
    @classmethod
    def received(cls, connection, data):
        connection.send(data)


class FromInit(proactor.Handler):
    def __init__(self) -> None:
        self.received = echo


class Any_(proactor.Handler):
    def received(self, *arguments):
        arguments[0].send(arguments[1])


RIGHT = {
    "a partial": functools.partial(lambda more, connection, data: connection.send(data), 1),
    "defaults": lambda connection, data, more=1: connection.send(data),
    "any arguments": lambda *arguments: arguments[0].send(arguments[1]),
    "a method of C": proactor.Connection.send,
    "a static method": Static,
    "a class method": OfTheClass,
    "a method from __init__": FromInit,
    "its instance": FromInit(),
    "a method of any arguments": Any_,
    "a subclass of a handler": type("Sub", (RecordingEcho,), {}),
}


@pytest.mark.parametrize("name", RIGHT)
def test_everything_that_can_be_called_right_serves(serve, connect, name) -> None:
    client = connect(serve(RIGHT[name]))
    client.sendall(b"hello")
    assert read_exactly(client, 5) == b"hello"


def test_of_a_class_one_instance_is_made_for_all_clients(serve, connect) -> None:
    made = []

    class Counting(proactor.Handler):
        def __init__(self) -> None:
            made.append(self)

        def received(self, connection, data):
            connection.send(data)

    server = serve(Counting)
    for _ in range(3):
        client = connect(server)
        client.sendall(b"x")
        assert read_exactly(client, 1) == b"x"
    assert len(made) == 1


@pytest.mark.parametrize("handler", [proactor.Handler, proactor.Handler()])
def test_the_base_class_itself_is_no_handler(handler):
    with pytest.raises(TypeError, match="so nothing would happen: write a subclass"):
        proactor.serve(handler, ("127.0.0.1", 0))
