"""The table of docs/completion-port.md: it has each call of the article, and what it names instead can be called so."""

import ast
import inspect
import re
from pathlib import Path

import proactor

PAGE = Path(__file__).parents[2] / "docs" / "completion-port.md"

# The article's overlapped file reader, its client on a completion port, and its server on the thread pool; with what its text names.
READER = "CreateFile CreateEvent CloseHandle GetFileSizeEx ReadFile WaitForMultipleObjects GetOverlappedResult ResetEvent"
CLIENT = "CreateIoCompletionPort GetQueuedCompletionStatus GetSystemInfo Sleep"
SERVER = """
    WSAStartup WSACleanup WSAGetLastError GetLastError socket bind listen setsockopt htonl htons ntohs WSAIoctl closesocket
    AcceptEx GetAcceptExSockaddrs DisconnectEx WSARecv WSASend CancelIoEx CreateThreadpoolIo StartThreadpoolIo CancelThreadpoolIo
    WaitForThreadpoolIoCallbacks CloseThreadpoolIo InitializeCriticalSection EnterCriticalSection LeaveCriticalSection
    InterlockedAdd InterlockedExchange WSA_IO_PENDING WSA_OPERATION_ABORTED SO_UPDATE_ACCEPT_CONTEXT SIO_GET_EXTENSION_FUNCTION_POINTER
"""

OWNERS = {
    "proactor": proactor,
    "port": proactor.CompletionPort,
    "handle": proactor.Handle,
    "operation": proactor.Operation,
    "completion": proactor.Completion,
    "file": proactor.File,
    "pool": proactor.ThreadPool,
    "connection": proactor.Connection,
}


def rows() -> list[tuple[str, str]]:
    table = PAGE.read_text("utf-8").split("## From Win32")[1].split("|---|---|")[1]
    return [(row[0], row[1]) for row in (line.strip("| ").split(" | ", 1) for line in table.splitlines() if line.startswith("|"))]


def test_each_call_of_the_article_is_in_the_table() -> None:
    named = {name for left, _ in rows() for span in re.findall(r"`([^`]+)`", left) for name in re.findall(r"\w+", span)}
    assert sorted(set(f"{READER} {CLIENT} {SERVER}".split()) - named) == []


def test_what_the_table_names_exists_and_takes_those_arguments() -> None:
    checked = []
    for span in (span for _, right in rows() for span in re.findall(r"`([^`]+)`", right)):
        try:
            tree = ast.parse(span.replace("..., ", ""))
        except SyntaxError:
            continue  # the head of a loop, say
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in OWNERS:
                assert hasattr(OWNERS[node.value.id], node.attr), span
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                function = getattr(OWNERS.get(node.func.value.id), node.func.attr, None)
                if function is not None:
                    taken = inspect.signature(function).parameters
                    assert {keyword.arg for keyword in node.keywords} <= set(taken), span
                    assert len(node.args) <= len(taken), span
                    checked.append(span)
    assert len(checked) > 15
