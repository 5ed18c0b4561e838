"""An associated handle on the simulated network, against a model: whatever is submitted, cancelled, closed, and done by the peer."""

import errno
from collections import deque
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import proactor
from proactor.testing import Network

SHUT_DOWN = getattr(errno, "WSAESHUTDOWN", errno.EPIPE)
"""How the platform says that a stream was shut down for sending."""

Told = tuple[proactor.Operation, Any, int | None]


@dataclass
class Receive:
    operation: proactor.Operation
    limit: int
    memory: "Memory | None" = None


@dataclass
class Memory:
    """What is received into, between canaries, and what it must hold."""

    given: bytearray
    expected: bytearray


@dataclass
class Send:
    operation: proactor.Operation
    data: bytes
    sent: int = 0


@dataclass
class Shutdown:
    operation: proactor.Operation


@dataclass
class Connect:
    operation: proactor.Operation


Write = Send | Shutdown | Connect
CANARY = b"\xcc" * 8


class OneHandle(RuleBasedStateMachine):
    """The well-behaved network: a receive takes what has come, a send what fits into the peer's window; every step comes to rest."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()
        self.told: list[Told] = []
        self.expected: list[Told] = []
        self.receives: deque[Receive] = deque()
        self.sends: deque[Write] = deque()
        self.memories: list[Memory] = []
        # What the peer has sent, and what a receive has left of it; what has reached the peer, and how much of that is (may be) unread.
        self.incoming = self.kept = b""
        self.arrived = b""
        self.unread = 0
        self.window = 1 << 30
        self.finished = self.is_reset = self.closed = self.shut = self.linked = False
        self.answer: bool | None = None

    def tell(self, completion: proactor.Completion) -> None:
        error = completion.error
        assert completion.handle is self.handle
        self.told.append((completion.operation, completion.value, None if error is None else error.errno))

    def teardown(self) -> None:
        self.network.close()
        self.end()
        assert self.told == self.expected
        assert self.handle.closed

    # ---- what happens ----

    @initialize(window=st.integers(1, 40), linked=st.booleans())
    def begin(self, window: int, linked: bool) -> None:
        self.linked = linked
        one, self.peer = self.network.pair() if linked else self.network.socket()
        self.handle = self.network.pool.associate(one, self.tell)
        self.window = window
        self.peer.set_window(window)

    @precondition(lambda self: not self.closed)
    @rule(limit=st.integers(1, 12))
    def receive(self, limit: int) -> None:
        self.receives.append(Receive(self.handle.receive(limit), limit))
        self.settle()

    @precondition(lambda self: not self.closed)
    @rule(limit=st.integers(1, 12))
    def receive_into(self, limit: int) -> None:
        memory = Memory(bytearray(CANARY + bytes(limit) + CANARY), bytearray(CANARY + bytes(limit) + CANARY))
        self.memories.append(memory)
        operation = self.handle.receive_into(memoryview(memory.given)[8 : 8 + limit])
        self.receives.append(Receive(operation, limit, memory))
        self.settle()

    @precondition(lambda self: not self.closed)
    @rule(length=st.integers(0, 60), pieces=st.integers(1, 3))
    def send(self, length: int, pieces: int) -> None:
        data = bytes(number % 251 for number in range(length))
        size = length // pieces + 1
        gathered = [bytearray(data[start : start + size]) for start in range(0, length, size)]
        self.sends.append(Send(self.handle.send(gathered if pieces > 1 else bytearray(data)), data))
        self.settle()

    @precondition(lambda self: not self.closed)
    @rule(chance=st.integers(0, 2))
    def shutdown(self, chance: int) -> None:
        if chance == 0:
            self.sends.append(Shutdown(self.handle.shutdown()))
            self.settle()

    @precondition(lambda self: not self.closed)
    @rule()
    def connect(self) -> None:
        self.sends.append(Connect(self.handle.connect(("192.0.2.9", 80))))
        self.settle()

    @precondition(lambda self: not self.closed and not self.linked and self.sends and isinstance(self.sends[0], Connect))
    @rule(answer=st.booleans())
    def peer_answers(self, answer: bool) -> None:
        assert self.peer.is_asked
        self.answer = answer
        if answer:
            self.peer.accept()
        else:
            self.peer.refuse(errno.ECONNREFUSED)
        self.settle()

    @precondition(lambda self: not self.finished and not self.is_reset and self.linked)
    @rule(data=st.binary(min_size=1, max_size=30))
    def peer_sends(self, data: bytes) -> None:
        self.peer.send(data)
        if not self.closed:
            self.incoming += data
        self.settle()

    @precondition(lambda self: not self.finished and self.linked)
    @rule()
    def peer_finishes(self) -> None:
        self.peer.finish()
        self.finished = True
        self.settle()

    @precondition(lambda self: not self.closed)
    @rule()
    def peer_reads(self) -> None:
        assert self.peer.receive(self.unread) == self.arrived[len(self.arrived) - self.unread :]
        self.unread = 0
        self.settle()

    @precondition(lambda self: not self.closed)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        pending: list[Receive | Write] = [*self.receives, *self.sends]
        if not pending:
            return
        one = data.draw(st.sampled_from(pending))
        assert one.operation.cancel()
        assert not one.operation.cancel()
        (self.receives if isinstance(one, Receive) else self.sends).remove(one)  # type: ignore[arg-type]
        self.cancelled(one)
        if isinstance(one, Connect):
            self.attempt_over(errno.ECANCELED, self.expected)
        self.settle()

    @precondition(lambda self: not self.closed)
    @rule()
    def cancel_all(self) -> None:
        assert self.handle.cancel() == len(self.receives) + len(self.sends)
        self.end()
        self.settle()

    @rule(chance=st.integers(0, 3))
    def close(self, chance: int) -> None:
        if chance == 0:
            self.handle.close()
            self.end()
            self.closed = True
            self.incoming = self.kept = b""
            self.settle()

    # ---- the model ----

    def end(self) -> None:
        """Whatever is pending is cancelled: the send that the network has first, then the others in their order."""
        sending = [self.sends.popleft()] if self.sends else []
        for one in (*sending, *self.receives, *self.sends):
            self.cancelled(one)
        self.receives.clear()
        self.sends.clear()

    def attempt_over(self, number: int, told: list[Told]) -> None:
        """Receives wait only for as long as there is an attempt to come."""
        if not self.linked and not any(isinstance(one, Connect) for one in self.sends):
            told += [(one.operation, None, number) for one in self.receives]
            self.receives.clear()

    def cancelled(self, one: Receive | Write) -> None:
        self.expected.append((one.operation, one.sent if isinstance(one, Send) else None, errno.ECANCELED))

    def settle(self) -> None:
        self.network.settle()
        sent: list[Told] = []
        received: list[Told] = []
        while self.sends:
            one = self.sends[0]
            if isinstance(one, Connect):
                if self.linked:
                    sent.append((self.sends.popleft().operation, None, errno.EISCONN))
                elif self.answer is None:
                    break
                else:
                    self.linked, self.answer = self.answer, None
                    sent.append((self.sends.popleft().operation, None, None if self.linked else errno.ECONNREFUSED))
                    self.attempt_over(errno.ECONNREFUSED, sent)
                continue
            if not self.linked or (self.shut and isinstance(one, Send)):
                number = SHUT_DOWN if self.linked else errno.ENOTCONN
                sent.append((self.sends.popleft().operation, 0 if isinstance(one, Send) else None, number))
                continue
            if isinstance(one, Shutdown):
                self.shut = True
                sent.append((self.sends.popleft().operation, None, None))
                continue
            count = min(len(one.data) - one.sent, self.window - self.unread)
            self.arrived += one.data[one.sent : one.sent + count]
            one.sent += count
            self.unread += count
            if one.sent < len(one.data):
                break
            sent.append((self.sends.popleft().operation, len(one.data), None))
        if not self.linked and not any(isinstance(one, Connect) for one in self.sends):
            received += [(one.operation, None, errno.ENOTCONN) for one in self.receives]
            self.receives.clear()
        while self.receives and (self.kept or self.incoming or self.finished):
            receive = self.receives.popleft()
            if not self.kept:  # only then is more asked for
                self.kept, self.incoming = self.incoming, b""
            data, self.kept = self.kept[: receive.limit], self.kept[receive.limit :]
            if receive.memory is None:
                received.append((receive.operation, data, None))
            else:
                receive.memory.expected[8 : 8 + len(data)] = data
                received.append((receive.operation, len(data), None))
        # One step completes operations of one kind, but for what the end of a cancelled send lets go on.
        assert not (sent and received)
        self.expected += sent + received

    @invariant()
    def each_operation_was_told_once_and_in_order(self) -> None:
        assert [(str(operation), *rest) for operation, *rest in self.told] == [
            (str(operation), *rest) for operation, *rest in self.expected
        ]

    @invariant()
    def memory_holds_what_was_received_and_nothing_else(self) -> None:
        assert all(memory.given == memory.expected for memory in self.memories)
        assert self.peer.ended is (self.shut or self.closed)

    @invariant()
    def the_statistics_count_what_is_pending(self) -> None:
        numbers = self.handle.statistics()
        assert (numbers.receives, numbers.sends) == (len(self.receives), len(self.sends))
        assert numbers.completed == len(self.expected)
        assert numbers.untold == 0
        assert numbers.open is not self.closed
        assert numbers.sent_bytes + sum(one.sent for one in self.sends if isinstance(one, Send)) == len(self.arrived)
        pool = self.network.pool.statistics()
        assert (pool.handles, pool.operations) == (int(not self.closed), len(self.receives) + len(self.sends))


TestOneHandle = OneHandle.TestCase
TestOneHandle.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
