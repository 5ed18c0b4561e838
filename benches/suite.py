"""What is measured, against whom, and what is promised: servers, workloads, floors. Data only."""

from __future__ import annotations

from dataclasses import dataclass

PINNED = "pinned"  # The server on one CPU, the generator on another.
BOTH = "both"  # The server may use both CPUs, the generator's too.

# Threads for blocking calls, for every peer that needs them: more than any workload has sleepers at a time.
EXECUTOR = ("--executor", "64")


@dataclass(frozen=True)
class Server:
    """`program` is a file in servers/; None for the bare epoll server and for what executors.py, timers.py and port.py measure."""

    name: str
    program: str | None
    options: tuple[str, ...] = ()


SERVERS = {
    server.name: server
    for server in (
        Server("proactor", "proactor_server.py"),
        Server("proactor-busy-poll", "proactor_server.py", ("--busy-poll", "50e-6")),
        Server("epoll", None),
        Server("uvloop", "uvloop_protocol.py"),
        Server("asyncio", "asyncio_protocol.py"),
        Server("uvloop-executor", "uvloop_protocol.py", EXECUTOR),
        Server("asyncio-executor", "asyncio_protocol.py", EXECUTOR),
        Server("threads", "threading_tcp_server.py"),
        Server("gevent", "gevent_stream.py", EXECUTOR),
        Server("trio", "trio_stream.py", EXECUTOR),
        # No servers but executors: for workloads whose generator is executors.py.
        Server("pool", None, ("proactor",)),
        Server("pool-threads", None, ("threads",)),
        Server("pool-threads-8", None, ("threads", "--workers", "8")),
        Server("pool-threads-32", None, ("threads", "--workers", "32")),
        Server("to-thread", None, ("to_thread",)),
        # The port itself, with threads of one's own.
        Server("port", "completion_port.py"),
        Server("selectors-executor", "selectors_executor.py"),
        # For port.py.
        Server("port-packets", None, ("proactor",)),
        Server("simple-queue", None, ("SimpleQueue",)),
        # For timers.py.
        Server("pool-timers", None, ("proactor",)),
        Server("asyncio-timers", None, ("asyncio",)),
        # For files.py.
        *(Server(f"files-{kind}", None, (kind,)) for kind in ("proactor", "threads", "aiofiles", "fio", "cp", "shutil")),
    )
}

PEERS = ("uvloop", "asyncio", "threads", "gevent", "trio")
PLAIN = ("proactor", "epoll", *PEERS)
BLOCKING = ("proactor", "threads", "uvloop", "asyncio", "uvloop-executor", "asyncio-executor", "gevent", "trio")


@dataclass(frozen=True)
class Column:
    """`metric` names a number of the generator's report; a dot goes into a nested object."""

    header: str
    metric: str
    format: str = "{:,.0f}"


CPU = (
    Column("user us/msg", "server_user_us", "{:.2f}"),
    Column("sys us/msg", "server_system_us", "{:.2f}"),
    Column("generator", "generator_load", "{:.0%}"),
)


def latency(group: str = "") -> tuple[Column, ...]:
    return (
        Column("p50 us", f"{group}p50_us"),
        Column("p99 us", f"{group}p99_us"),
        Column("p99.9 us", f"{group}p999_us"),
    )


RATE = Column("per second", "rate")
LOAD_COLUMNS = (RATE, *latency(), *CPU)
EXECUTOR_COLUMNS = (RATE, Column("p50 us", "p50_us"), Column("p99 us", "p99_us"))


@dataclass(frozen=True)
class Workload:
    name: str
    title: str
    servers: tuple[str, ...]
    # The servers' --mode.
    mode: str
    # The generator's subcommand and options; --address, --seconds, --warmup and --server-pids are added. "takeover" is made of two loads.
    generator: tuple[str, ...]
    tables: tuple[str, ...] = (PINNED, BOTH)
    columns: tuple[Column, ...] = LOAD_COLUMNS
    # The server that the ratio column divides by; the ratio is of the first column.
    reference: str = "uvloop"


def load(connections: int, size: int = 64, *options: str) -> tuple[str, ...]:
    return ("load", "--connections", str(connections), "--size", str(size), *options)


def sleepers(connections: int, milliseconds: float, *options: str) -> tuple[str, ...]:
    return load(connections, 64, "--sleep-ms", str(milliseconds), *options)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("64Bx50", "64 B, 50 connections", PLAIN, "echo", load(50)),
        Workload("64Bx1000", "64 B, 1,000 connections", PLAIN, "echo", load(1000)),
        Workload("depth16", "64 B, 50 connections, 16 messages in flight on each", PLAIN, "echo", load(50, 64, "--depth", "16")),
        Workload("64Bx1", "64 B, 1 connection", ("proactor", "proactor-busy-poll", *PLAIN[1:]), "echo", load(1)),
        Workload("64KiBx50", "64 KiB, 50 connections", PLAIN, "echo", load(50, 65536)),
        Workload("work6us", "64 B, 50 connections, 6 us of Python work in the handler", ("proactor", *PEERS), "work", load(50)),
        Workload("connect", "connect, send 64 B, receive, close; 50 at a time", PLAIN, "echo", ("connect", "--connections", "50")),
        Workload(
            "sleep1percent",
            "1 % of requests sleep 10 ms, 50 connections (latency: the other 99 %)",
            BLOCKING,
            "command",
            sleepers(50, 10, "--sleepers-share", "0.01"),
            tables=(BOTH,),
            columns=(RATE, *latency("ordinary."), Column("sleepers p99 us", "sleepers.p99_us"), *CPU),
        ),
        *(
            Workload(
                f"block{milliseconds}ms",
                f"every request blocks {milliseconds} ms, 50 connections",
                BLOCKING,
                "command",
                sleepers(50, milliseconds, "--sleepers-share", "1"),
                tables=(BOTH,),
                reference="threads",
            )
            for milliseconds in (0.3, 2)
        ),
        Workload(
            "takeover",
            "from a handler's falling asleep for 10 ms to the next handler call, 50 busy connections",
            ("proactor", "threads", "uvloop-executor", "uvloop"),
            "takeover",
            ("takeover", "--connections", "51"),
            tables=(BOTH,),
            columns=(
                Column("median us", "median_us"),
                Column("p99 us", "p99_us"),
                Column("max us", "max_us"),
                Column("first median us", "first_median_us"),
                Column("first max us", "first_max_us"),
                Column("times", "count"),
            ),
            reference="threads",
        ),
        Workload(
            "sleepers5",
            "five connections whose handlers sleep 1 s again and again; latency of 50 others",
            ("proactor", "threads", "uvloop-executor", "asyncio-executor", "gevent", "trio"),
            "command",
            sleepers(55, 1000, "--sleeping-connections", "5"),
            columns=(RATE, *latency("ordinary."), Column("max us", "ordinary.max_us"), *CPU),
            reference="uvloop-executor",
        ),
        Workload(
            "idle",
            "10,000 idle connections",
            PLAIN,
            "echo",
            ("idle", "--connections", "10000"),
            tables=(PINNED,),
            columns=(
                Column("bytes/connection", "bytes_per_connection"),
                Column("idle CPU %", "idle_cpu_percent", "{:.2f}"),
                Column("opened per second", "opening_rate"),
            ),
        ),
        Workload(
            "broadcast",
            "64 B to each of 5,000 clients (rate: deliveries)",
            ("proactor", *PEERS),
            "broadcast",
            ("broadcast", "--connections", "5000"),
            columns=(RATE, Column("rounds/s", "rounds_per_second", "{:.1f}"), *latency(), *CPU),
            reference="asyncio",
        ),
        *(
            Workload(
                f"submit{workers}",
                f"no-op calls, {workers} workers (latency: from submit to start, one at a time)",
                ("pool", "pool-threads"),
                "",
                ("executor", "submit", "--workers", str(workers)),
                tables=(BOTH,),
                columns=EXECUTOR_COLUMNS,
                reference="pool-threads",
            )
            for workers in (1, 2, 4, 8)
        ),
        Workload(
            "map",
            "map over 100,000 small items",
            ("pool", "pool-threads"),
            "",
            ("executor", "map"),
            tables=(BOTH,),
            columns=(RATE,),
            reference="pool-threads",
        ),
        Workload(
            "mixed",
            "10,000 calls at once, 1 % sleep 10 ms (latency: from submit to end of the others)",
            ("pool", "pool-threads-8", "pool-threads-32", "to-thread"),
            "",
            ("executor", "mixed"),
            tables=(BOTH,),
            columns=(Column("seconds", "seconds", "{:.3f}"), *EXECUTOR_COLUMNS),
            reference="pool-threads-32",
        ),
        Workload(
            "port64Bx50",
            "64 B, 50 connections, on the completion port itself with four threads",
            ("port", "selectors-executor"),
            "echo",
            load(50),
            reference="selectors-executor",
        ),
        Workload(
            "packets",
            "packets posted and got, in one thread",
            ("port-packets", "simple-queue"),
            "",
            ("packets",),
            tables=(BOTH,),
            columns=(RATE, Column("2 to 2 threads", "threads_rate")),
            reference="simple-queue",
        ),
        Workload(
            "timers",
            "100,000 timers (processor time for each)",
            ("pool-timers", "asyncio-timers"),
            "",
            ("timers",),
            tables=(BOTH,),
            columns=(
                Column("add and call us", "call_us", "{:.2f}"),
                Column("add us", "add_us", "{:.2f}"),
                Column("cancel us", "cancel_us", "{:.2f}"),
            ),
            reference="asyncio-timers",
        ),
        *(
            Workload(name, title, tuple(f"files-{kind}" for kind in kinds), "", ("files", name), (BOTH,), (RATE,), f"files-{kinds[1]}")
            for name, title, *kinds in (
                ("cached", "4 KiB reads of a file in memory, one after the other", "proactor", "threads", "aiofiles"),
                ("direct1", "4 KiB reads past the page cache, one at a time", "proactor", "fio"),
                ("direct4", "4 KiB reads past the page cache, 4 at a time", "proactor", "fio"),
                ("direct32", "4 KiB reads past the page cache, 32 at a time", "proactor", "fio"),
                ("copy", "copying 1 GiB that is in memory (rate: MiB)", "proactor", "cp", "shutil"),
            )
        ),
    )
}


@dataclass(frozen=True)
class Floor:
    """A promise about proactor: its figure or, with `against`, the ratio to the best of these servers in the same round."""

    workload: str
    table: str
    metric: str
    against: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None
    server: str = "proactor"


def at_least(workload: str, table: str, ratio: float, *against: str, server: str = "proactor") -> Floor:
    return Floor(workload, table, "rate", against, at_least=ratio, server=server)


FLOORS = (
    at_least("64Bx50", PINNED, 1.08, "uvloop"),
    at_least("64Bx50", PINNED, 0.95, "epoll"),
    Floor("64Bx50", PINNED, "server_user_us", at_most=0.5),
    at_least("64Bx1000", PINNED, 1.1, "uvloop"),
    at_least("depth16", PINNED, 1.03, "uvloop"),
    at_least("64Bx1", PINNED, 0.97, "uvloop"),
    at_least("64Bx1", PINNED, 2.0, "uvloop", server="proactor-busy-poll"),
    at_least("64KiBx50", PINNED, 1.05, "uvloop", "asyncio"),
    at_least("work6us", PINNED, 1.05, "uvloop"),
    at_least("work6us", BOTH, 1.2, "uvloop"),
    at_least("connect", PINNED, 1.0, "uvloop"),
    at_least("connect", PINNED, 3.0, "threads"),
    at_least("sleep1percent", BOTH, 10.0, "asyncio", "uvloop"),
    at_least("sleep1percent", BOTH, 1.1, "uvloop-executor"),
    at_least("sleep1percent", BOTH, 1.1, "threads"),
    at_least("block0.3ms", BOTH, 1.0, "threads"),
    Floor("block0.3ms", BOTH, "p99_us", ("threads",), at_most=1.0),
    at_least("block2ms", BOTH, 1.0, "threads"),
    Floor("block2ms", BOTH, "p99_us", ("threads",), at_most=1.0),
    Floor("takeover", BOTH, "first_median_us", at_most=3000),
    Floor("takeover", BOTH, "median_us", at_most=300),
    Floor("takeover", BOTH, "p99_us", at_most=600),
    Floor("sleepers5", PINNED, "ordinary.p99_us", at_most=3000),
    Floor("idle", PINNED, "bytes_per_connection", at_most=700),
    # 0 % to the printed digit.
    Floor("idle", PINNED, "idle_cpu_percent", at_most=0.049),
    at_least("broadcast", PINNED, 1.5, "asyncio"),
    *(at_least(f"submit{workers}", BOTH, 4.0, "pool-threads", server="pool") for workers in (1, 2, 4, 8)),
    *(Floor(f"submit{workers}", BOTH, "p50_us", ("pool-threads",), at_most=1.0, server="pool") for workers in (1, 2, 4, 8)),
    at_least("map", BOTH, 4.0, "pool-threads", server="pool"),
    Floor("mixed", BOTH, "seconds", ("pool-threads-8", "pool-threads-32", "to-thread"), at_most=1.0, server="pool"),
    at_least("port64Bx50", PINNED, 1.0, "selectors-executor", server="port"),
    Floor("timers", BOTH, "call_us", ("asyncio-timers",), at_most=0.3, server="pool-timers"),
    Floor("timers", BOTH, "cancel_us", ("asyncio-timers",), at_most=1.0, server="pool-timers"),
    at_least("cached", BOTH, 4.0, "files-threads", server="files-proactor"),
    at_least("cached", BOTH, 20.0, "files-aiofiles", server="files-proactor"),
    *(at_least(f"direct{depth}", BOTH, 0.85, "files-fio", server="files-proactor") for depth in (1, 4, 32)),
    at_least("copy", BOTH, 0.9, "files-cp", "files-shutil", server="files-proactor"),
    Floor("mixed", BOTH, "p99_us", ("pool-threads-8", "pool-threads-32", "to-thread"), at_most=1.0, server="pool"),
)

# A floor that nobody measures is a mistake.
for floor in FLOORS:
    assert floor.table in WORKLOADS[floor.workload].tables, floor
    assert {floor.server, *floor.against} <= set(WORKLOADS[floor.workload].servers), floor
