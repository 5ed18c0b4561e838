"""What files promise on every platform, each in its own way: mechanisms, offsets beyond 4 GiB, descriptors, deletion."""

import ctypes
import os
import stat
import sys

import pytest

import proactor
from platforms import FILE_ENGINES, FILE_MECHANISMS

HIGH = (5 << 30) + 12_345


@pytest.fixture(params=FILE_MECHANISMS, autouse=True)
def engine(request, monkeypatch):
    monkeypatch.setenv("PROACTOR_FILES", request.param)
    return request.param


def make_sparse(descriptor: int) -> None:
    """What is skipped takes no space; on Windows a file has to be told (FSCTL_SET_SPARSE)."""
    if sys.platform == "win32":
        import msvcrt

        count = ctypes.c_ulong()
        handle = ctypes.c_void_p(msvcrt.get_osfhandle(descriptor))
        assert ctypes.windll.kernel32.DeviceIoControl(handle, 0x900C4, None, 0, None, 0, ctypes.byref(count), None)


def test_each_engine_is_the_one_that_was_forced(tmp_path, engine) -> None:
    with proactor.open(tmp_path / "file", "w+b") as file:
        assert file.write_at(0, b"some").result() == 4
        assert file.statistics().engine == engine


def test_bytes_beyond_four_gigabytes_lie_where_they_were_written(tmp_path) -> None:
    with proactor.open(tmp_path / "sparse", "w+b") as file:
        make_sparse(file.fileno())
        places = {HIGH: b"high", HIGH - (1 << 32): b"low ", HIGH + (1 << 33): b"far "}
        for offset, data in places.items():
            assert file.write_at(offset, data).result() == 4
        assert {offset: file.read_at(offset, 4).result() for offset in places} == places
        assert file.size == HIGH + (1 << 33) + 4
        assert list(file.blocks(offset=HIGH, length=6)) == [b"high\0\0"]


def test_the_descriptor_is_one_for_os(tmp_path) -> None:
    with proactor.open(tmp_path / "file", "w+b") as file:
        file.write_at(0, b"a line\nand another\n").result()
        assert stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        os.ftruncate(file.fileno(), 7)
        assert os.read(file.fileno(), 100) == b"a line\n"
        file.sync()
        assert file.read() == b"a line\n"


def test_a_closed_file_can_be_deleted_at_once(tmp_path) -> None:
    path = tmp_path / "file"
    for number in range(50):
        with proactor.open(path, "w+b") as file:
            assert file.write_at(0, bytes(100)).result() == 100
            assert file.read_at(0, 200).result() == bytes(100)
        os.rename(path, tmp_path / f"{number}")
        os.remove(tmp_path / f"{number}")


@pytest.mark.parametrize("other", [name for name in ("io_uring", "overlapped") if name not in FILE_ENGINES])
def test_a_mechanism_of_another_platform_is_refused_with_the_platforms_own(tmp_path, monkeypatch, other) -> None:
    monkeypatch.setenv("PROACTOR_FILES", other)
    with pytest.raises(ValueError, match=rf"must be one of {', '.join(FILE_ENGINES)}, or unset; not \"{other}\", which only \w+ has"):
        proactor.open(tmp_path / "file", "wb")


def test_an_error_has_its_number_and_the_files_name(tmp_path) -> None:
    path = str(tmp_path / "missing" / "file")
    with pytest.raises(FileNotFoundError) as caught:
        proactor.open(path)
    assert caught.value.filename == path
