"""The exceptions: what they are, so that users may catch them by what they mean."""

import pytest

import proactor
from proactor import errors


def test_all_of_them_are_proactor_errors() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, errors.ProactorError), name
        assert kind.__doc__, name


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.ConnectionEnded, ConnectionError),
        (errors.MessageTooLong, ValueError),
        (errors.MessageTruncated, EOFError),
        (errors.PoolHung, RuntimeError),
    ],
)
def test_each_is_also_what_the_standard_library_would_raise(kind, builtin) -> None:
    assert issubclass(kind, builtin)


def test_the_public_names_are_there() -> None:
    for name in proactor.__all__:
        assert getattr(proactor, name) is not None
    assert proactor.errors is errors
    assert proactor.__version__.count(".") == 2
