"""`proactor serve`: starts a server, waits for a reason to stop, drains it, reports. Owns the order of these steps."""

import argparse
import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import proactor
from proactor.cli.console import Console
from proactor.cli.console_server import ConsoleServer
from proactor.cli.exit_codes import ExitCode
from proactor.cli.log import LEVELS, LogWriter, logging_to_standard_error
from proactor.cli.options import Help, Options, one_of, seconds, text, whole_number
from proactor.cli.output import OutputLost, write_result
from proactor.cli.signals import StopRequests, end_process
from proactor.cli.start import THREADS_LIMIT, address_of, make_pool, show_address, start_server, starting
from proactor.cli.target import load_handler
from proactor.cli.text import counted

SEND_LIMIT = 4 * 1024 * 1024
"""Bytes the console server queues for a client: several of the longest lines the console sends in one piece."""

SPARE_SECONDS = 5.0
"""How much longer than the drain the shutdown as a whole may take before the process is ended."""

logger = logging.getLogger("proactor.serve")


def add_parser(commands: Any, epilog: str) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "serve",
        help="serve a handler, or the console",
        description="Serves MODULE:HANDLER, a function that takes (connection, data) or a proactor.Handler, found from the current "
        "directory. Without it: the console server, which logs what clients send and sends them what is typed.",
        epilog=epilog,
        formatter_class=Help,
    )
    parser.add_argument("target", nargs="?", metavar="MODULE:HANDLER", help="what to serve, as in app:echo (default: the console server)")
    options = Options(parser)
    options.add(
        "--host", text, "127.0.0.1", metavar="HOST", meaning="address to listen on; 0.0.0.0 or :: lets everybody in; unix:/path, pipe:name"
    )
    options.add("--port", whole_number(0, 65535), 60001, metavar="PORT", meaning="TCP port; 0 takes a free one")
    options.add("--backlog", whole_number(1, 2**31 - 1), 4096, metavar="N", meaning="connects the kernel may hold until they are accepted")
    options.add(
        "--max-connections", whole_number(1), None, shown="no limit", metavar="N", meaning="clients at a time; more are accepted and closed"
    )
    options.add(
        "--idle-timeout", seconds(zero=False), None, metavar="SECONDS", meaning="close a client that sent and took nothing for so long"
    )
    options.add(
        "--concurrency",
        whole_number(1, THREADS_LIMIT),
        None,
        shown="the processors it may use",
        metavar="N",
        meaning="handlers that may run, not counting blocked ones, at once",
    )
    options.add(
        "--max-workers",
        whole_number(1, THREADS_LIMIT),
        None,
        shown="64 for each that may run, up to 512",
        metavar="N",
        meaning="worker threads, blocked ones included",
    )
    busy_hint = "; 50e-6 is 50 microseconds"
    options.add(
        "--busy-poll",
        seconds(maximum=1.0, unit_hint=busy_hint),
        0.0,
        metavar="SECONDS",
        meaning="spin so long before sleeping: lower latency",
    )
    options.add(
        "--framing", one_of("none", "lines"), "none", metavar="none|lines", meaning="what a handler gets at a time: chunks or lines"
    )
    options.add("--drain", seconds(), 10.0, metavar="SECONDS", meaning="how long the shutdown may take")
    options.add("--log-level", one_of(*LEVELS), "info", metavar="LEVEL", meaning=f"the least that is logged: {', '.join(LEVELS)}")
    options.add_switch("--quiet", meaning="log only warnings and errors, whatever PROACTOR_LOG_LEVEL says")
    options.add_switch("--raw", meaning="the console server sends what is typed without a line break")
    parser.set_defaults(run=run, options=options)


def run(options: argparse.Namespace) -> int:
    """Serves until a reason to stop comes, then drains. The exit status: 0 after an orderly shutdown."""
    _check_combination(options)
    level = "warning" if options.quiet and options.log_level in ("debug", "info") else options.log_level
    address = address_of(options.host, options.port)
    with contextlib.ExitStack() as ending:
        with starting(address):
            writer = ending.enter_context(logging_to_standard_error(level))
            stop = StopRequests()
        handler = load_handler(options.target) if options.target is not None else ConsoleServer()
        if isinstance(handler, ConsoleServer):
            ending.callback(handler.close)
        with starting(address):
            console = Console(stop, writer, raw=options.raw, talks=isinstance(handler, ConsoleServer))
            drain = Drain(stop)
        ending.callback(drain.end)
        with stop.handling_signals():
            pool = make_pool(
                address, options.max_workers, thread_name_prefix="worker", concurrency=options.concurrency, busy_poll=options.busy_poll
            )
            try:
                server = _start(handler, address, options, pool)
                logger.info("listening on %s", show_address(server.address))
                with starting(address), _closed_if_it_fails(server):
                    console.start(server)
            except BaseException:
                pool.shutdown(wait=False)
                raise
            return _serve(server, pool, handler, console, drain, stop, writer, options)


def _check_combination(options: argparse.Namespace) -> None:
    """Options that would have no effect are mistakes; from the environment they may be there for another server."""
    if "raw" in options.given and options.target is not None:
        options.options.error(
            f"argument --raw: it is about what is typed at the console server, and {options.target} is served here; leave it out"
        )
    if {"quiet", "log_level"} <= options.given and options.log_level in ("debug", "info"):
        options.options.error(f"argument --quiet: it contradicts --log-level {options.log_level}; leave one of them out")


def _start(handler: Any, address: Any, options: argparse.Namespace, pool: proactor.ThreadPool) -> proactor.Server:
    more: dict[str, Any] = {"send_limit": SEND_LIMIT} if isinstance(handler, ConsoleServer) else {}
    if options.framing == "lines":
        more["framing"] = proactor.Lines()
    return start_server(
        handler,
        address,
        pool=pool,
        backlog=options.backlog,
        max_connections=options.max_connections,
        idle_timeout=options.idle_timeout,
        **more,
    )


def _serve(
    server: proactor.Server,
    pool: proactor.ThreadPool,
    handler: Any,
    console: Console,
    drain: "Drain",
    stop: StopRequests,
    writer: LogWriter,
    options: argparse.Namespace,
) -> int:
    reason = stop.wait()
    console.stop()
    logger.info("shutting down (%s), for at most %g seconds", reason, options.drain)
    if isinstance(handler, ConsoleServer):
        handler.stopping = True
    report = drain.run(server, pool, options.drain)
    if report is None:
        logger.error("the shutdown did not finish: ending the process")
    elif report.running:
        logger.warning("ending the process: these handlers did not return: %s", ", ".join(report.running))
    writer.flush()
    status = _print_report(server, report, console.skipped)
    if report is None or report.running:
        writer.flush()
        end_process(status)
    return status


@contextlib.contextmanager
def _closed_if_it_fails(server: proactor.Server) -> Iterator[None]:
    try:
        yield
    except BaseException:
        server.close()
        raise


class Drain:
    """Shuts down on a thread of its own, so that the main thread still hears a second signal.

    The thread is there before the server listens: when the shutdown is asked for, the process may not get another one.
    """

    def __init__(self, stop: StopRequests) -> None:
        self._stop = stop
        self._asked = threading.Event()
        self._finished = threading.Event()
        self._work: tuple[proactor.Server, proactor.ThreadPool, float] | None = None
        self._report: proactor.ShutdownReport | None = None
        self._thread = threading.Thread(target=self._shut_down, name="shutdown", daemon=True)
        self._thread.start()

    def run(self, server: proactor.Server, pool: proactor.ThreadPool, seconds: float) -> proactor.ShutdownReport | None:
        """Main thread only, once. None: it took too long."""
        self._work = server, pool, seconds
        self._asked.set()
        self._stop.wakeup.wait_until(self._finished.is_set, seconds + SPARE_SECONDS)
        return self._report

    def end(self) -> None:
        """For a server that never listened. After `run` it does nothing."""
        if self._work is None:
            self._asked.set()
            self._thread.join()

    def _shut_down(self) -> None:
        self._asked.wait()
        if self._work is None:
            return
        server, pool, seconds = self._work
        try:
            report = server.shutdown(seconds)
            if not report.running:
                pool.shutdown(wait=True)
            self._report = report
        except Exception:
            logger.exception("the shutdown failed")
        finally:
            self._finished.set()
            self._stop.wakeup.wake()


def _print_report(server: proactor.Server, report: proactor.ShutdownReport | None, skipped: int) -> ExitCode:
    """The one line that is the command's result, on standard output; the log has it where that cannot be written."""
    if report is not None:
        served, sent, dropped = report.served, report.sent, report.dropped
    else:
        counters = server.statistics()
        served, sent, dropped = counters.accepted, counters.sent_bytes, counters.dropped_bytes
    late = f", skipped {counted(skipped, 'broadcast')} to slow clients" if skipped else ""
    result = f"served {counted(served, 'client')}, sent {counted(sent, 'byte')}, dropped {counted(dropped, 'byte')}{late}"
    try:
        write_result(f"{result}\n")
    except BrokenPipeError:
        pass  # Nobody wants to know.
    except OutputLost as error:
        logger.error("%s: %s", error, result)
        return ExitCode.FAILED
    return ExitCode.OK
