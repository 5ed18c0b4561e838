"""Fault 4: more completions than the queue holds. They are never asked for: requests wait outside of the kernel, each completes once.

A queue that is too small loses nothing either: `a_completion_queue_that_overflows_loses_nothing`, in the core's `tests/files_contract`.
"""

import pytest

import proactor
from platforms import FILE_MECHANISMS

pytestmark = pytest.mark.linux("io_uring")


@pytest.mark.parametrize("engine", FILE_MECHANISMS)
def test_many_more_requests_than_the_ring_holds(tmp_path, monkeypatch, engine) -> None:
    monkeypatch.setenv("PROACTOR_FILES", engine)
    count = 20_000
    path = tmp_path / "file"
    path.write_bytes(b"".join(number.to_bytes(4, "little") * 128 for number in range(count)))
    with proactor.open(path, direct=True) as file:
        # Nobody looks at any of them until all are submitted.
        requests = [file.read_at(number * 512, 4) for number in range(count)]
        assert [int.from_bytes(request.result(), "little") for request in requests] == list(range(count))
        statistics = file.statistics()
    assert statistics.requests == count
    assert statistics.outstanding == statistics.failed == 0
    assert statistics.most_outstanding > 128
