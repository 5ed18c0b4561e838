"""What keeps `proactor serve` from starting: one line that says what, why and what to do, and an exit status for each."""

import os
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from cli_process import COMMAND

import proactor
import proactor.cli
from platforms import of_unix_sockets
from proactor.cli.exit_codes import ExitCode

MODULES = {
    "app.py": "import proactor\nvalue = 7\nasync def later(connection, data): ...\ndef alone(): ...\ndef echo(connection, data): ...\n"
    "class Plain: ...\nclass Needy(proactor.Handler):\n    def __init__(self, name): ...\n",
    "raises.py": "def f():\n    raise RuntimeError('no\\nway')\nf()\n",
    "broken.py": "def f(:\n",
    "lacks.py": "import not_there_at_all\n",
    "leaves.py": "import sys\nsys.exit(0)\n",
}


@pytest.fixture
def folder(tmp_path):
    for name, source in MODULES.items():
        (tmp_path / name).write_text(source)
    return tmp_path


def one_line(result) -> str:
    assert result.stdout == b""
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("proactor: ")
    return lines[0]


@pytest.mark.parametrize(
    ("target", "code", "words"),
    [
        ("nowhere:handler", ExitCode.MISSING_MODULE, "no module 'nowhere' in .* run proactor where nowhere.py is, or correct the name"),
        ("app.sub:handler", ExitCode.MISSING_MODULE, "no module 'app.sub'"),
        ("app:ecko", ExitCode.MISSING_ATTRIBUTE, "has no 'ecko': it could be one of: .*echo"),
        ("app:value", ExitCode.NOT_A_HANDLER, "app:value is of type int, which cannot be called: a handler is a function that takes"),
        ("app:later", ExitCode.NOT_A_HANDLER, "is an async function"),
        ("app:alone", ExitCode.NOT_A_HANDLER, r"does not take \(connection, data\)"),
        ("app:Plain", ExitCode.NOT_A_HANDLER, "not a subclass of proactor.Handler"),
        ("app:Needy", ExitCode.NOT_A_HANDLER, "name an instance instead"),
        ("raises:f", ExitCode.IMPORT_FAILED, r"RuntimeError: no\\nway \(.*raises.py, line 2\)"),
        ("broken:f", ExitCode.IMPORT_FAILED, r"SyntaxError: .* \(.*broken.py, line 1\)"),
        ("lacks:f", ExitCode.IMPORT_FAILED, "No module named 'not_there_at_all'"),
        ("leaves:f", ExitCode.IMPORT_FAILED, "SystemExit"),
        ("app.py", ExitCode.USAGE, "write module:handler, as in app:echo; did you mean app:handler?"),
        ("./app.py:echo", ExitCode.USAGE, "did you mean app:echo?"),
        ("app.py:echo", ExitCode.MISSING_MODULE, "'app.py:echo' names a file, where a module is wanted: did you mean app:echo?"),
        ("app:", ExitCode.USAGE, "did you mean app:handler?"),
        (":echo", ExitCode.USAGE, "write module:handler"),
        ("", ExitCode.USAGE, "write module:handler"),
    ],
)
def test_a_target_that_cannot_be_served(run, folder, target, code, words):
    result = run("serve", target, "--port", "0", cwd=folder)
    assert re.search(words, one_line(result))
    assert result.returncode == code


def test_a_port_in_use(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--port", str(port))
    assert f"cannot listen on 127.0.0.1:{port}: the port is in use; choose another with --port" in one_line(result)
    assert result.returncode == ExitCode.ADDRESS_IN_USE


def test_two_servers_cannot_share_a_port(serve, run):
    server = serve()
    assert run("serve", "--port", str(server.port)).returncode == ExitCode.ADDRESS_IN_USE


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("no.such.host.invalid", "there is no such host; check the name given as --host"),
        ("fe80::1", "a link-local address needs its zone: append it, as in fe80::1%eth0"),
        ("192.0.2.1", "the address is not this machine's; give one of"),
        ("300.1.2.3", "no such host|not an address"),
        ("2001:db8::1", "the address is not this machine's|IPv6 does not work here"),
        of_unix_sockets("unix:/no/such/directory/socket", "give the path of a file in a directory that exists"),
        ("unix:/" + "x" * 200, "."),
    ],
)
def test_a_bad_address(run, host, words):
    result = run("serve", "--host", host, "--port", "60001")
    assert re.search(words, one_line(result))
    assert result.returncode == ExitCode.BAD_ADDRESS


@pytest.mark.linux("Unix sockets")
def test_a_unix_socket_in_use(serve, run, tmp_path):
    serve("--host", f"unix:{tmp_path}/socket")
    result = run("serve", "--host", f"unix:{tmp_path}/socket")
    assert "in use" in one_line(result) or "exists already" in one_line(result)
    assert result.returncode == ExitCode.ADDRESS_IN_USE


@pytest.mark.linux("privileged ports")
def test_a_privileged_port(run):
    # As root without the capability, or as anybody else.
    drop = ["setpriv", "--bounding-set", "-net_bind_service", "--inh-caps", "-net_bind_service"] if os.getuid() == 0 else []
    if drop and subprocess.run([*drop, "true"], capture_output=True, check=False).returncode:
        pytest.skip("the capability cannot be given up here")
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80:
        pytest.skip("this machine has no privileged ports")
    result = subprocess.run(
        [*drop, *COMMAND, "serve", "--port", "80"], capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=False
    )
    assert re.search(r"not permitted \(a privileged port\); choose a --port of 1024 or above", one_line(result))
    assert result.returncode == ExitCode.NOT_PERMITTED


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "65536"], "argument --port: 65536 is out of range: a whole number from 0 to 65535"),
        (["--port", "http"], "argument --port: 'http' is not a whole number from 0 to 65535"),
        (["--host", ""], "argument --host: it is empty"),
        (["--backlog", "0"], "argument --backlog: 0 is out of range"),
        (["--max-connections", "0"], "argument --max-connections: 0 is out of range: a whole number of at least 1"),
        (["--idle-timeout", "-1"], "argument --idle-timeout: -1 is out of range: seconds, more than 0"),
        (["--idle-timeout", "0"], "argument --idle-timeout: 0 is out of range: seconds, more than 0"),
        (["app:echo", "--raw"], "argument --raw: it is about what is typed at the console server, and app:echo is served here"),
        (["--quiet", "--log-level", "debug"], "argument --quiet: it contradicts --log-level debug; leave one of them out"),
        (["--idle-timeout", "nan"], "argument --idle-timeout: nan is out of range"),
        (["--concurrency", "1.5"], "argument --concurrency: '1.5' is not a whole number"),
        (["--concurrency", "99999999999999999999"], "argument --concurrency: 99999999999999999999 is out of range: a whole number from 1"),
        (["--max-workers", "99999999999999999999"], "argument --max-workers: 99999999999999999999 is out of range: a whole number from 1"),
        (["--max-workers", "none"], "argument --max-workers: 'none' is not a whole number"),
        (["--busy-poll", "50"], "argument --busy-poll: 50 is out of range: seconds, not negative, at most 1; 50e-6 is 50 microseconds"),
        (["--drain", "soon"], "argument --drain: 'soon' is not a number of seconds"),
        (["--log-level", "loud"], "argument --log-level: 'loud' is not one of debug, info, warning, error"),
        (["--framing", "words"], "argument --framing: 'words' is not one of none, lines"),
        (["--unheard-of"], "unrecognized arguments: --unheard-of"),
        (["a:b", "c:d"], "unrecognized arguments: c:d"),
    ],
)
def test_a_wrong_option(capsys, arguments, words):
    with pytest.raises(SystemExit) as end:
        proactor.cli.main(["serve", *arguments])
    assert end.value.code == ExitCode.USAGE
    output, errors = capsys.readouterr()
    assert words in errors
    assert output == ""


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("PROACTOR_PORT", "many", "environment variable PROACTOR_PORT: 'many' is not a whole number"),
        ("PROACTOR_PORT", "tcp://10.0.0.1:80", "unset it: it seems to be Kubernetes'"),
        ("PROACTOR_QUIET", "maybe", "environment variable PROACTOR_QUIET: 'maybe' is neither 1 nor 0"),
    ],
)
def test_a_wrong_environment_variable(run, variable, value, words):
    result = run("serve", env=os.environ | {variable: value})
    assert words in result.stderr.decode()
    assert (result.returncode, result.stdout) == (ExitCode.USAGE, b"")


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["connect", "127.0.0.1:1"]])
@pytest.mark.parametrize(("engine", "words"), [("nope", 'no engine called "nope"'), ("simulated", "the simulated engine is for tests")])
def test_an_engine_without_a_network(run, command, engine, words):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [word.replace(":1", f":{listener.getsockname()[1]}") if word == "127.0.0.1:1" else word for word in command]
        result = run(*command, env=os.environ | {"PROACTOR_ENGINE": engine})
    assert f"environment variable PROACTOR_ENGINE: {'' if engine == 'simulated' else words}" in one_line(result)
    assert words in one_line(result)
    assert result.returncode == ExitCode.USAGE


@pytest.mark.linux("a limit of descriptors (setrlimit)")
def test_too_few_descriptors(run):
    result = subprocess.run(
        ["sh", "-c", 'ulimit -n 8; exec "$@"', "sh", *COMMAND, "serve", "--port", "0"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=30,
        check=False,
    )
    assert "too many open files; raise the limit (ulimit -n)" in one_line(result)
    assert result.returncode == ExitCode.CANNOT_START


NO_THREAD = """
import sys, threading
import proactor.cli
start = threading.Thread.start
def refused(thread):
    if thread.name == {name!r}:
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = refused
sys.exit(proactor.cli.main(["serve", "--port", "0"]))
"""


@pytest.mark.parametrize("name", ["log", "shutdown", "input"])
def test_a_thread_that_cannot_be_started(name):
    result = subprocess.run(
        [sys.executable, "-c", NO_THREAD.format(name=name)], capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=False
    )
    last = result.stderr.decode().splitlines()[-1]
    assert "Traceback" not in result.stderr.decode()
    assert re.fullmatch(r"proactor: cannot listen on 127.0.0.1:0: can't start new thread; raise the limits .*", last)
    assert result.returncode == ExitCode.CANNOT_START


@pytest.mark.linux("a directory that can be removed while it is somebody's current one")
def test_a_directory_that_has_been_removed(folder):
    result = subprocess.run(
        ["sh", "-c", 'mkdir gone && cd gone && rmdir ../gone && exec "$@"', "sh", *COMMAND, "serve", "app:echo", "--port", "0"],
        cwd=folder,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=30,
        check=False,
    )
    assert "the current directory has been removed; change to another one (cd)" in one_line(result)
    assert result.returncode == ExitCode.CANNOT_START


def test_without_a_command_it_says_which_there_are(run):
    result = run()
    assert result.returncode == ExitCode.USAGE
    assert "usage: proactor" in result.stderr.decode()


def exit_statuses(text):
    return set(re.findall(r"^  (\d+(?:\+n)?) +\S", text, re.MULTILINE))


def test_help_lists_every_exit_status_and_option(run):
    text = run("serve", "--help").stdout.decode()
    assert exit_statuses(text) == {str(code.value) for code in ExitCode} | {"128+n"} == exit_statuses(run("--help").stdout.decode())
    options = "host port backlog max-connections idle-timeout concurrency max-workers busy-poll log-level quiet drain raw framing"
    for option in options.split():
        assert f"--{option} " in text
    assert "PROACTOR_IDLE_TIMEOUT" in text
    assert "128+n signal n ended it (130: Ctrl-C); a second, the first gives 0" in " ".join(text.split())


@pytest.mark.parametrize(
    ("command", "own", "others"),
    [
        ("connect", "no connection, or it was reset", "picture"),
        ("read", "a file that is missing", "no connection"),
        ("copy", "a file that is missing", "no connection"),
        ("dispatch", "no connection; the picture cannot be written", "a file that is missing"),
    ],
)
def test_a_commands_help_lists_its_own_exit_statuses_only(run, command, own, others):
    text = run(command, "--help").stdout.decode()
    assert exit_statuses(text) == {"0", "1", "2", "128+n"}
    words = " ".join(text.partition("exit statuses:")[2].split())
    assert "1 output lost; anything not foreseen" in words
    assert own in words
    assert others not in words
    assert "`" not in words


def test_the_documented_table_names_every_exit_status():
    rows = re.findall(r"^\| (\d+) +\| (\w+) ", proactor.cli.__doc__, re.MULTILINE)
    assert rows == [(str(code.value), code.name) for code in ExitCode]


def test_version_is_the_packages(run):
    result = run("--version")
    assert result.returncode == 0
    assert result.stdout.decode().splitlines() == [f"proactor {proactor.__version__}"]


def test_workers_that_cannot_start_end_it_with_one_line(run, application):
    source = """
        import functools
        import proactor

        def initialize():
            raise OSError("no database")

        proactor.ThreadPool = functools.partial(proactor.ThreadPool, initializer=initialize)

        def echo(connection, data):
            connection.send(data)
    """
    result = run("serve", "app:echo", "--port", "0", **application(textwrap.dedent(source)))
    assert result.returncode == ExitCode.CANNOT_START
    last = result.stderr.decode().splitlines()[-1]
    assert last == (
        "proactor: the server has ended: the initializer raised in a worker thread: the pool takes no work; the log has what it raised"
    )
    assert b"OSError: no database" in result.stderr


@pytest.mark.parametrize("call", ["server.shutdown()", "server.close()", "server.pool.shutdown()"])
def test_a_handler_that_ends_its_server_ends_the_command(serve, application, call):
    server = serve("app:end", **application(f"def end(connection, data):\n    connection.server.{call[7:]}\n"))
    client = server.connect()
    client.sendall(b"x")
    assert server.wait() == 0
    assert server.report().startswith("served 1 client, ")
    server.log.wait_for(r"shutting down \(the server has ended\)")
