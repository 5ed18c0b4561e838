"""The article's overlapped file reader, on a completion port: four reads are under way; whichever completes is issued at the next offset.

`python port_reader.py FILE > COPY`; without an argument it reads a file that it has made, and says how that went.
"""

import sys
import tempfile
from typing import BinaryIO

import proactor

DEPTH, BLOCK = 4, 256  # requests under way, and bytes a request
AHEAD = 2 * DEPTH  # blocks that may be under way or wait for their turn: more would pile up behind a read that hangs


def copy(source: BinaryIO, target: BinaryIO) -> int:
    """Writes the bytes of `source` to `target`, in order; how many there were."""
    blocks: dict[int, bytes] = {}  # those that came before their turn, by their offset
    turn = total = 0
    with proactor.CompletionPort() as port:
        file = port.associate(source, key="the file")
        for number in range(DEPTH):
            file.read(BLOCK, number * BLOCK)
        offset, pending, ended = DEPTH * BLOCK, DEPTH, False
        while pending:
            completion = port.get()  # any of the four
            pending -= 1
            if completion.error is not None:
                raise completion.error
            blocks[completion.operation.offset] = completion.value
            ended = ended or len(completion.value) < BLOCK
            while (block := blocks.pop(turn, None)) is not None:
                target.write(block)
                turn, total = turn + BLOCK, total + len(block)
            while not ended and pending < DEPTH and offset - turn < AHEAD * BLOCK:  # the file goes on: so do the requests
                file.read(BLOCK, offset)
                offset, pending = offset + BLOCK, pending + 1
    return total


if __name__ == "__main__":
    if len(sys.argv) > 1:
        try:
            with open(sys.argv[1], "rb") as source:
                copy(source, sys.stdout.buffer)
        except OSError as error:
            sys.exit(f"{sys.argv[0]}: {error}")
    else:
        for size in (0, 1, 255, 256, 257, 1000, 1024, 100_000, 1_000_003):
            data = b"".join(number.to_bytes(4, "little") for number in range(size // 4 + 1))[:size]
            with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
                source.write(data)
                count = copy(source, target)
                target.seek(0)
                if (count, target.read()) != (size, data):
                    sys.exit(f"{count} bytes of {size}, or other bytes, were read")
            print(f"{size} bytes, exactly", flush=True)
