"""`proactor.copy`: what arrives, holes, progress, what is refused; by the kernel and by requests."""

import errno
import os
import shutil
import threading

import pytest

import proactor
from peers import TIMEOUT
from platforms import LINUX
from proactor import copying


@pytest.fixture(params=[pytest.param("kernel", marks=pytest.mark.linux("copy_file_range(2)")), "requests"])
def method(request, monkeypatch):
    if request.param == "requests":

        def refuse(*arguments) -> int:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    monkeypatch.setattr(copying._Copying, "_clone", lambda *arguments: False)
    return request.param


def content(size: int) -> bytes:
    return (b"".join(number.to_bytes(4, "little") for number in range(size // 4 + 1)))[:size]


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 1000, 1024, 100_000, 1_000_003])
def test_the_target_is_the_source(tmp_path, method, size) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(content(size))
    source.chmod(0o640)
    target.write_bytes(b"something older, and longer than some of the sources")
    report = proactor.copy(source, target, block_size=1000, depth=3)
    assert target.read_bytes() == content(size)
    assert report.copied == size
    assert report.method == (method if size else "requests")
    made = tmp_path / "made"
    proactor.copy(os.fsencode(source), str(made))
    if LINUX:
        assert made.stat().st_mode & 0o777 == 0o640
    assert source.read_bytes() == content(size)


def test_holes_stay_holes(tmp_path, method) -> None:
    """Where the kernel copies. Requests write the zeros that they have read."""
    source, target = tmp_path / "source", tmp_path / "target"
    length = (3 << 30) if method == "kernel" else (3 << 20)
    with open(source, "wb") as file:
        file.write(b"begin")
        file.seek(length // 3)
        file.write(b"middle")
        file.truncate(length)
    report = proactor.copy(source, target)
    assert target.stat().st_size == report.copied == length
    if method == "kernel":
        assert report.holes > length // 3 * 2 - (1 << 20)
        assert target.stat().st_blocks * 512 < 1 << 20
    with open(target, "rb") as file:
        assert file.read(6) == b"begin\0"
        file.seek(length // 3 - 1)
        assert file.read(8) == b"\0middle\0"
        file.seek(length - 3)
        assert file.read() == bytes(3)


@pytest.mark.linux("permissions of Unix")
@pytest.mark.parametrize("mode", [0o444, 0o400, 0o755, 0o000])
def test_a_new_target_has_the_permissions_of_the_source(tmp_path, mode) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"content")
    source.chmod(mode)
    try:
        proactor.copy(source, target)
    except PermissionError:
        assert not mode & 0o400
        return
    umask = os.umask(0o077)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == mode & ~umask
    assert source.stat().st_mode & 0o777 == mode
    target.chmod(0o600)
    assert target.read_bytes() == b"content"


@pytest.mark.linux("/proc")
def test_a_source_that_cannot_be_read_leaves_the_target_as_it_was(tmp_path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    with pytest.raises(OSError, match="Input/output error; 0 bytes were copied before") as caught:
        proactor.copy("/proc/self/mem", target)
    assert caught.value.errno == errno.EIO
    assert caught.value.filename == "/proc/self/mem"
    assert target.read_bytes() == b"precious"


def test_a_new_target_is_not_cut(tmp_path, monkeypatch) -> None:
    """Some file systems write what was cut to nothing out to the disk when it is closed, and copying took twice as long."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(content(100_000))
    opened = []
    original = os.open

    def note(path, flags, *arguments) -> int:
        opened.append((os.fspath(path), flags))
        return original(path, flags, *arguments)

    def refuse(*arguments) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(os, "open", note)
    monkeypatch.setattr(os, "ftruncate", refuse)
    proactor.copy(source, target)
    assert [flags & os.O_TRUNC for path, flags in opened if path == str(target)] == [0]
    assert target.read_bytes() == content(100_000)


def test_progress_is_told_now_and_then_and_at_the_end(tmp_path, method, monkeypatch) -> None:
    monkeypatch.setattr(copying, "_PROGRESS_EVERY", 0.0)
    monkeypatch.setattr(copying, "_CHUNK", 100_000)
    source = tmp_path / "source"
    source.write_bytes(content(1_000_000))
    told = []
    proactor.copy(source, tmp_path / "target", block_size=100_000, progress=lambda *numbers: told.append((*numbers, threading.get_ident())))
    assert [copied for copied, *_ in told] == [*range(100_000, 1_000_001, 100_000), 1_000_000]
    assert {total for _, total, _ in told} == {1_000_000}
    assert {thread for *_, thread in told} == {threading.get_ident()}


def test_what_progress_raises_ends_the_copying(tmp_path, method, monkeypatch) -> None:
    monkeypatch.setattr(copying, "_PROGRESS_EVERY", 0.0)
    source = tmp_path / "source"
    source.write_bytes(content(1_000_000))
    with pytest.raises(ZeroDivisionError):
        proactor.copy(source, tmp_path / "target", block_size=1000, progress=lambda copied, total: 1 / 0)


@pytest.mark.parametrize("name", ["source", "hard", pytest.param("soft", marks=pytest.mark.linux("symbolic links for everybody"))])
def test_the_same_file_is_refused_whatever_its_name(tmp_path, name) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"precious")
    if name == "hard":
        os.link(source, tmp_path / name)
    elif name == "soft":
        os.symlink(source, tmp_path / name)
    with pytest.raises(shutil.SameFileError, match="are the same file"):
        proactor.copy(source, tmp_path / name)
    assert source.read_bytes() == b"precious"


def test_what_cannot_be_opened_is_named_and_nothing_is_touched(tmp_path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    target.write_bytes(b"older")
    with pytest.raises(FileNotFoundError) as caught:
        proactor.copy(source, target)
    assert caught.value.filename == str(source)
    assert target.read_bytes() == b"older"
    source.write_bytes(b"new")
    for bad in (tmp_path, tmp_path / "nowhere" / "target"):
        with pytest.raises(OSError) as caught:
            proactor.copy(source, bad)
        assert caught.value.filename == str(bad)
    assert source.read_bytes() == b"new"
    with pytest.raises(TypeError, match="progress must be a function"):
        proactor.copy(source, target, progress=5)
    assert target.read_bytes() == b"older"


@pytest.mark.linux("named pipes of the file system (mkfifo)")
def test_from_a_pipe_and_to_a_pipe(tmp_path) -> None:
    data, path = content(500_000), tmp_path / "fifo"
    source, target = tmp_path / "source", tmp_path / "target"
    os.mkfifo(path)
    source.write_bytes(data)
    into = threading.Thread(target=proactor.copy, args=(source, path))
    into.start()
    totals = []
    report = proactor.copy(path, target, progress=lambda copied, total: totals.append(total))
    into.join(TIMEOUT)
    assert target.read_bytes() == data
    assert report.copied == 500_000
    assert set(totals) == {None}


@pytest.mark.linux("/proc")
def test_a_file_without_a_size_is_copied_whole(tmp_path) -> None:
    report = proactor.copy("/proc/self/mounts", tmp_path / "target")
    assert report.copied == (tmp_path / "target").stat().st_size > 0
