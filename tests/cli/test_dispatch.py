"""`proactor dispatch` as a process: the three scenes, a peer's messages, the picture, the live view, Ctrl-C, wrong arguments."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import uuid
import xml.etree.ElementTree as ElementTree

import pytest
from cli_process import COMMAND, TIMEOUT, Lines, reset

import proactor

ESCAPE = b"\x1b"


@pytest.fixture
def dispatch(run):
    """`dispatch(*arguments)` answers the record that `--json` prints."""

    def dispatched(*arguments, **options):
        result = run("dispatch", *arguments, "--json", **options)
        assert (result.returncode, result.stderr) == (0, b""), result
        assert ESCAPE not in result.stdout
        return json.loads(result.stdout)

    return dispatched


def assert_consistent(record):
    """What holds whatever the scene: each completion was taken once, by one worker, after it was posted; and the port counted the same."""
    works = record["completions"]
    assert sorted(work["number"] for work in works) == list(range(1, len(works) + 1))
    for work in works:
        assert work["taken"] <= work["begun"] <= work["ended"]
        assert work["posted"] is None or work["posted"] <= work["taken"]
        assert work["waiting_since"] <= work["taken"]
        assert all(work["begun"] <= start <= end <= work["ended"] for start, end in work["blocked"])
    by_worker = {}
    for work in works:
        by_worker.setdefault(work["worker"], []).append(work)
    for mine in by_worker.values():
        assert all(one["ended"] <= other["taken"] for one, other in itertools.pairwise(mine)), "a worker handles one at a time"
    assert record["facts"]["handled"] == len(works)
    assert record["facts"]["compensations"] == record["statistics"]["compensations"]
    assert record["looks"] > 0


def test_calm_one_worker_does_everything(dispatch):
    record = dispatch("calm")
    assert_consistent(record)
    facts = record["facts"]
    assert (facts["choices"], facts["out_of_turn"], facts["most_in_handlers"]) == (8, [], 1)
    assert facts["by_worker"] == {"4": 8}, "the last of four that began to wait"
    assert record["summary"][0] == "8 of 8 completions handled by worker 4: the last to wait is the first released."


def test_busy_the_cap_is_never_exceeded(dispatch):
    record = dispatch("busy")
    assert_consistent(record)
    facts = record["facts"]
    assert (facts["handled"], facts["blocked_seconds"], facts["out_of_turn"]) == (12, 0, [])
    assert facts["most_running"] <= 2
    assert max(sample["running"] for sample in record["samples"]) <= 2
    assert max(sample["queued"] for sample in record["samples"]) > 2, "more were there than may run"


def test_blocked_others_are_released_above_the_concurrency(dispatch):
    record = dispatch("blocked")
    assert_consistent(record)
    facts = record["facts"]
    assert facts["handled"] == 12
    assert facts["most_in_handlers"] > 2
    assert len(facts["by_worker"]) > 2
    assert facts["compensations"] > 0
    assert facts["seconds"] < 12 * 0.25 / 2, "two at a time would take longer"
    assert max(sample["blocked"] for sample in record["samples"]) > 0, "the port saw it itself"


def test_one_of_two_kinds_of_handlers_sleeps(dispatch):
    record = dispatch("--count", "10", "--burst", "10", "--handler-ms", "5", "--mix", "0.3", "--workers", "3", "--concurrency", "1")
    assert_consistent(record)
    assert sorted(work["number"] for work in record["completions"] if work["blocked"]) == [4, 7, 10]


@pytest.mark.linux("there the monitor sees who waits and who has come back (/proc)")
def test_the_cap_holds_where_some_sleep_and_others_compute(dispatch):
    """A sleeper's long block earns no slot for one more that computes."""
    record = dispatch("--workers", "8", "--concurrency", "1", "--count", "30", "--burst", "30", "--handler-ms", "50", "--mix", "0.5")
    assert_consistent(record)
    facts = record["facts"]
    assert facts["above_cap_unexplained_seconds"] < 0.05 * facts["seconds"], record["summary"]
    assert facts["compensations"] > 0


def test_options_change_the_preset_and_so_does_the_environment(dispatch):
    record = dispatch("busy", "--count", "3", "--handler-ms", "1", env={"PROACTOR_WORKERS": "2", "PROACTOR_COUNT": "99"})
    scene = record["scene"]
    assert (scene["name"], scene["count"], scene["workers"], scene["concurrency"], scene["burst"]) == ("busy", 3, 2, 2, 12)
    assert record["facts"]["handled"] == 3
    blocking = {"PROACTOR_DISPATCH_BLOCK": "1", "PROACTOR_RATE": "5"}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        peer = threading.Thread(target=lambda: listener.accept()[0].close())
        peer.start()
        scene = dispatch("--connect", address, "--compute", env=blocking)["scene"]
        peer.join()
    assert scene["blocking_share"] == 0, "the command line comes before the environment"


def test_without_a_terminal_there_is_the_summary_only(run):
    result = run("dispatch", "--count", "2", "--rate", "1000", "--handler-ms", "1")
    assert (result.returncode, result.stderr) == (0, b"")
    assert ESCAPE not in result.stdout
    lines = result.stdout.decode().splitlines()
    assert lines[0].startswith("2 of 2 completions handled by ")
    assert 4 <= len(lines) <= 5


def test_the_picture_is_well_formed_and_has_a_lane_for_each_worker(run, tmp_path):
    result = run("dispatch", "busy", "--count", "4", "--handler-ms", "2", "--workers", "5", "--svg", "out.svg", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, b"")
    root = ElementTree.parse(tmp_path / "out.svg").getroot()
    rectangles = list(root.iter("{http://www.w3.org/2000/svg}rect"))
    assert [one.get("data-worker") for one in rectangles if one.get("data-worker")] == ["1", "2", "3", "4", "5"]
    description = root.find("{http://www.w3.org/2000/svg}desc").text
    assert result.stdout.decode().split() == description.split(), "the picture says what the command says"


def test_a_picture_that_cannot_be_written_is_said_in_one_line(run, tmp_path):
    result = run("dispatch", "--count", "1", "--handler-ms", "0", "--svg", "no/such/directory.svg", cwd=tmp_path)
    assert result.returncode == 1
    assert re.fullmatch(rb"proactor: cannot write the picture to no/such/directory.svg: No such file.*\n", result.stderr)
    assert result.stdout.startswith(b"1 of 1 completion handled"), "what was seen is not lost"


class Peer:
    """The article's server, as far as its client sees it."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(TIMEOUT)
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.client = None

    def start(self, *arguments):
        self.process = subprocess.Popen(
            [*COMMAND, "dispatch", "--connect", self.address, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.output, self.errors = Lines(self.process.stdout), Lines(self.process.stderr)
        self.client, _ = self.listener.accept()

    def result(self):
        """The exit status, and the lines of both streams."""
        return self.process.wait(TIMEOUT), self.output.all(), self.errors.all()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.result()
        for one in (self.client, self.listener, self.process.stdout, self.process.stderr):
            one.close()


@pytest.fixture
def peer():
    one = Peer()
    yield one
    one.close()


def test_each_message_of_a_peer_is_a_completion(peer):
    peer.start("--handler-ms", "1", "--json")
    peer.client.sendall(b"hello")
    peer.client.close()
    status, output, errors = peer.result()
    assert (status, errors) == (0, [])
    record = json.loads("\n".join(output))
    assert_consistent(record)
    assert [(work["size"], work["posted"]) for work in record["completions"]] == [(5, None)]
    assert "The peer ended the connection." in record["summary"]


class Greeter(proactor.Handler):
    def connected(self, connection):
        connection.send(b"hello")
        connection.close()


@pytest.mark.skipif(sys.platform != "win32", reason="Windows has named pipes")
def test_a_peer_may_be_at_a_named_pipe(dispatch):
    address = f"pipe:proactor-test-{uuid.uuid4()}"
    with proactor.serve(Greeter(), address):
        record = dispatch("--connect", address, "--handler-ms", "1")
    assert_consistent(record)
    assert sum(work["size"] for work in record["completions"]) == 5
    assert "The peer ended the connection." in record["summary"]


def test_after_as_many_messages_as_were_asked_for_it_ends(peer):
    peer.start("--count", "1", "--handler-ms", "1")
    peer.client.sendall(b"one")
    status, output, errors = peer.result()
    assert (status, errors) == (0, [])
    assert output[0].startswith("1 of 1 completion handled by worker ")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["lively"], 2, "invalid choice: 'lively'"),
        (["--workers", "0"], 2, "argument --workers: 0 is out of range: a whole number from 1 to 64, please"),
        (["--rate", "0"], 2, "argument --rate: 0 is out of range: completions a second, from 0.001 to 1e+06"),
        (["--mix", "2"], 2, "argument --mix: 2 is out of range: a share, from 0 to 1"),
        (["--handler-ms", "nan"], 2, "argument --handler-ms: nan is out of range: milliseconds"),
        (["--handler-ms", "soon"], 2, "argument --handler-ms: 'soon' is not a number: milliseconds"),
        (["--block", "--compute"], 2, "arguments --block and --compute contradict each other"),
        (["--compute", "--mix", "0.5"], 2, "arguments --compute and --mix contradict each other"),
        (["--connect", "127.0.0.1:1", "--rate", "5"], 2, "argument --rate: with --connect the peer decides"),
        (["--connect", "nowhere"], 2, "--connect: 'nowhere' is no address: write HOST:PORT"),
    ],
)
def test_bad_arguments_are_refused_by_name(run, arguments, status, message):
    result = run("dispatch", *arguments)
    assert result.returncode == status
    assert message in result.stderr.decode()
    assert result.stdout == b""
    assert b"Traceback" not in result.stderr


def test_an_engine_that_does_not_exist_is_said_in_one_line(run):
    result = run("dispatch", "calm", env={"PROACTOR_ENGINE": "steam"})
    assert result.returncode == 2
    assert re.fullmatch(r'proactor: environment variable PROACTOR_ENGINE: no engine called "steam".*\n', result.stderr.decode())


@pytest.mark.linux("a limit of threads (setrlimit)")
def test_threads_that_cannot_be_started_are_said_in_one_line(run):
    # Each thread takes a gibibyte of addresses for its stack, and all are used up before the last one.
    limited = "import os, resource, sys; " + "".join(
        f"resource.setrlimit(resource.RLIMIT_{name}, (2**{power}, 2**{power})); " for name, power in (("STACK", 30), ("AS", 34))
    )
    script = limited + "os.execv(sys.executable, [sys.executable, '-m', 'proactor', *sys.argv[1:]])"
    arguments = [sys.executable, "-c", script, "dispatch", "--workers", "64", "--count", "1"]
    result = subprocess.run(arguments, capture_output=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL)
    assert result.returncode == 1
    assert re.fullmatch(r"proactor: cannot start 64 workers: can't start new thread; choose fewer .*\n", result.stderr.decode())


def test_nobody_to_connect_to_is_said_in_one_line(run):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # Nobody listens there, and nobody else will.
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        result = run("dispatch", "--connect", address)
    assert result.returncode == 1
    assert result.stderr.decode() == f"proactor: cannot connect to {address}: Connection refused; is a server running there?\n"


# At a terminal.


def test_the_live_view_shows_lanes_releases_and_counters_and_leaves_the_summary(terminal):
    one = terminal("dispatch", "blocked")
    one.wait_for(r"^proactor dispatch blocked  6 workers, concurrency 2; the handlers sleep 250 ms each")
    one.wait_for(r"^worker 6 .*\u2571{3}")
    one.wait_for(r"^completion \d+ to worker \d, ")
    assert one.wait() == 0
    one.wait_for(r"^12 of 12 completions handled by \d workers")
    screen = one.screen.text()
    assert [line.split()[1] for line in screen.splitlines() if line.startswith("worker ")] == ["1", "2", "3", "4", "5", "6"]
    assert re.search(r"^newest first: \d+ of \d+   ran at once: at most \d, cap 2   compensations: [1-9]", screen, re.MULTILINE)
    assert one.raw.rstrip().endswith(b".")
    assert one.raw.rindex(b"\x1b[?25h") > one.raw.rindex(b"\x1b[?25l"), "the cursor is shown again"
    assert one.settings_now() == one.settings


def test_nothing_is_cut_off_at_eighty_columns(terminal):
    one = terminal("dispatch", "blocked", columns=80)
    assert one.wait() == 0
    one.wait_for(r"compensations?\)\.\s*\Z")
    lines = [line.rstrip() for line in one.screen.text().splitlines()]
    assert max(len(line) for line in lines) <= 80
    events = [line for line in lines if re.match(r"(completion )?\d+ to worker", line)]
    assert events
    assert all(re.search(r"(ms after( it was posted)?|the last to wait|that waited|queued|later|less long)$", line) for line in events), (
        events
    )
    summary = lines[next(index for index, line in enumerate(lines) if line.startswith("12 of 12 completions handled by")) :]
    assert len([line for line in summary if line]) > 5, "the sentences are wrapped"


def test_ctrl_c_waits_for_the_handlers_that_run_and_leaves_the_rest(terminal):
    one = terminal("dispatch", "--workers", "1", "--concurrency", "1", "--count", "5", "--burst", "5", "--handler-ms", "1000")
    one.wait_for(r"^worker 1 .*\u2571")
    one.type("\x03")
    one.wait_for(r"^Interrupted: 1 of 5 completions handled by worker 1; 4 never taken\.$")
    assert one.wait() == 0


def test_a_peer_that_resets_is_said(terminal):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = terminal("dispatch", "--connect", f"127.0.0.1:{listener.getsockname()[1]}")
        client, _ = listener.accept()
        one.wait_for(r"^worker 1 .*\u00b7")
        reset(client)
        one.wait_for(r"^0 of 0 completions handled\.\nThe connection broke: .*reset")
        assert one.wait() == 0


def test_ctrl_c_ends_a_run_that_waits_for_a_peer(terminal):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = terminal("dispatch", "--connect", f"127.0.0.1:{listener.getsockname()[1]}")
        one.wait_for(r"^worker 1 .*\u00b7")
        one.type("\x03")
        one.wait_for(r"^Interrupted: 0 of 0 completions handled\.$")
        assert one.wait() == 0


def test_ctrl_c_ends_a_scene_that_waits_for_a_handler_before_it_posts_more(terminal):
    one = terminal("dispatch", "calm", "--burst", "3", "--block", "--handler-ms", "500", "--workers", "1", "--concurrency", "1")
    one.wait_for(r"^worker 1 .*\u2571")
    one.type("\x03")
    one.wait_for(r"^Interrupted: 1 of 3 completions handled by worker 1; 2 never taken\.$")
    assert one.wait() == 0


def test_a_second_ctrl_c_ends_at_once_and_shows_the_cursor(terminal):
    one = terminal("dispatch", "--count", "1", "--handler-ms", "3600000")
    one.wait_for(r"^worker \d .*\u2571")
    one.type("\x03")
    one.wait_for("^waiting for the handlers that run; Ctrl-C once more ends at once")
    one.type("\x03")
    assert one.wait() == 128 + signal.SIGINT
    one.wait_for("SIGINT during the shutdown: ended at once")
    assert one.raw.rindex(b"\x1b[?25h") > one.raw.rindex(b"\x1b[?25l")
    assert one.settings_now() == one.settings


@pytest.mark.parametrize("options", [{"env": {"TERM": "dumb"}}, {"arguments": ("--quiet",)}, {"arguments": ("--json",)}])
def test_no_live_view_is_drawn_where_it_cannot_or_should_not_be(terminal, options):
    one = terminal("dispatch", "--count", "1", "--handler-ms", "1", *options.pop("arguments", ()), **options)
    assert one.wait() == 0
    one.wait_for("1 of 1 completion handled by worker")
    assert ESCAPE not in one.raw


def test_the_variable_that_is_a_size_elsewhere_is_none_of_its_switches(run):
    result = run("dispatch", "calm", "--count", "1", env=os.environ | {"PROACTOR_BLOCK": "4K"})
    assert result.returncode == 0, result.stderr
    assert "PROACTOR_DISPATCH_BLOCK" in run("dispatch", "--help").stdout.decode()


@pytest.mark.parametrize("command", [["connect", "[fe80::1]:80"], ["dispatch", "--connect", "[fe80::1]:80"]])
def test_a_link_local_address_without_its_zone(run, command):
    result = run(*command)
    assert "a link-local address needs its zone: append it, as in fe80::1%eth0" in result.stderr.decode()
    assert result.returncode == 1


@pytest.mark.parametrize(("engine", "command"), [("nope", ["dispatch"]), ("simulated", ["dispatch", "--connect", "127.0.0.1:1"])])
def test_an_engine_that_there_is_not(run, engine, command):
    result = run(*command, env=os.environ | {"PROACTOR_ENGINE": engine})
    assert result.stderr.decode().startswith("proactor: environment variable PROACTOR_ENGINE: ")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
