"""A listening and a datagram socket on the simulated network, each against a model."""

import errno
from collections import deque
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import proactor
from proactor.testing import Network

Told = tuple[proactor.Operation, Any, int | None]


class OneSocket(RuleBasedStateMachine):
    """What both have in common: operations that are told in an order that is known."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()
        self.told: list[Told] = []
        self.expected: list[Told] = []
        self.handle: proactor.Handle
        self.closed = False
        # (operation, limit or None), (operation, bytes, address)
        self.reads: deque[tuple[proactor.Operation, int]] = deque()
        self.sends: deque[tuple[proactor.Operation, bytes]] = deque()

    def tell(self, completion: proactor.Completion) -> None:
        error, value = completion.error, completion.value
        if completion.operation.kind == "accept" and error is None:
            value = value[1]
        self.told.append((completion.operation, value, None if error is None else error.errno))

    def teardown(self) -> None:
        self.network.close()
        self.end()
        assert self.told == self.expected

    def settle(self) -> None:
        raise NotImplementedError

    @precondition(lambda self: not self.closed)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        operations = [one[0] for one in (*self.reads, *self.sends)]
        if not operations:
            return
        operation = data.draw(st.sampled_from(operations))
        assert operation.cancel()
        assert not operation.cancel()
        self.expected.append((operation, 0 if operation.kind == "send_to" else None, errno.ECANCELED))
        self.reads = deque(one for one in self.reads if one[0] is not operation)
        self.sends = deque(one for one in self.sends if one[0] is not operation)
        self.settle()

    @rule(chance=st.integers(0, 4))
    def close(self, chance: int) -> None:
        if chance == 0:
            self.handle.close()
            self.end()
            self.closed = True
            self.network.settle()

    def end(self) -> None:
        sending = [self.sends.popleft()] if self.sends else []
        self.expected += [(operation, 0, errno.ECANCELED) for operation, _ in sending]
        self.expected += [(operation, None, errno.ECANCELED) for operation, _ in self.reads]
        self.expected += [(operation, 0, errno.ECANCELED) for operation, _ in self.sends]
        self.reads.clear()
        self.sends.clear()

    @invariant()
    def each_operation_was_told_once_and_in_order(self) -> None:
        assert self.told == self.expected


class OneListener(OneSocket):
    """Clients wait in the backlog until somebody accepts them."""

    def __init__(self) -> None:
        super().__init__()
        listener = self.network.listener()
        self.number = listener.fileno()
        self.handle = self.network.pool.associate(listener, self.tell)
        self.clients: deque[tuple[str, int]] = deque()
        self.next_port = 10_000
        self.faults: deque[tuple[int, bool]] = deque()

    @precondition(lambda self: not self.closed)
    @rule()
    def accept(self) -> None:
        self.reads.append((self.handle.accept(), 0))
        self.settle()

    @precondition(lambda self: not self.closed)
    @rule()
    def connect(self) -> None:
        self.network.connect_to(self.number)
        self.clients.append(("192.0.2.2", self.next_port))
        self.next_port += 1
        self.settle()

    @precondition(lambda self: not self.closed)
    @rule(lasts=st.booleans())
    def fail(self, lasts: bool) -> None:
        """`lasts`: the client stays in the backlog."""
        number = errno.EMFILE if lasts else errno.ECONNABORTED
        self.network.fail_next("accept_paused" if lasts else "accept", number)
        self.faults.append((number, lasts))

    def settle(self) -> None:
        self.network.settle()
        while self.reads and self.clients:
            operation, _ = self.reads.popleft()
            if self.faults:
                number, lasts = self.faults.popleft()
                if not lasts:
                    self.clients.popleft()
                self.expected.append((operation, None, number))
            else:
                self.expected.append((operation, self.clients.popleft(), None))


class OneDatagramSocket(OneSocket):
    """Datagrams come in order; as many leave as others have room for."""

    def __init__(self) -> None:
        super().__init__()
        one, self.others = self.network.datagrams()
        self.handle = self.network.pool.associate(one, self.tell)
        self.incoming: deque[bytes | int] = deque()
        self.arrived: list[tuple[bytes, str | None]] = []
        self.room = 0

    @initialize(room=st.integers(1, 3))
    def limit(self, room: int) -> None:
        self.room = room
        self.others.set_room(room)

    @precondition(lambda self: not self.closed)
    @rule(limit=st.integers(1, 8))
    def receive_from(self, limit: int) -> None:
        self.reads.append((self.handle.receive_from(limit), limit))
        self.settle()

    @precondition(lambda self: not self.closed)
    @rule(data=st.binary(max_size=12))
    def somebody_sends(self, data: bytes) -> None:
        self.others.send(data, "192.0.2.7:53")
        self.incoming.append(data)
        self.settle()

    @precondition(lambda self: not self.closed)
    @rule()
    def receiving_fails(self) -> None:
        self.others.fail(errno.ECONNREFUSED)
        self.incoming.append(errno.ECONNREFUSED)
        self.settle()

    @precondition(lambda self: not self.closed)
    @rule(data=st.binary(max_size=12), pieces=st.booleans())
    def send_to(self, data: bytes, pieces: bool) -> None:
        self.sends.append((self.handle.send_to([data[:3], data[3:]] if pieces else data, ("192.0.2.7", 53)), data))
        self.settle()

    @rule()
    def somebody_receives(self) -> None:
        assert self.others.received() == self.arrived
        self.arrived.clear()
        if not self.closed:
            self.settle()

    def settle(self) -> None:
        self.network.settle()
        while self.sends and len(self.arrived) < self.room:
            operation, data = self.sends.popleft()
            self.arrived.append((data, "192.0.2.7:53"))
            self.expected.append((operation, len(data), None))
        while self.reads and self.incoming:
            operation, limit = self.reads.popleft()
            came = self.incoming.popleft()
            if isinstance(came, int):
                self.expected.append((operation, None, came))
            else:
                self.expected.append((operation, (came[:limit], ("192.0.2.7", 53)), errno.EMSGSIZE if len(came) > limit else None))


TestOneListener = OneListener.TestCase
TestOneDatagramSocket = OneDatagramSocket.TestCase
TestOneListener.settings = TestOneDatagramSocket.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
