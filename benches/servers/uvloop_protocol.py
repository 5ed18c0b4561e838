"""uvloop, with the Protocol classes of asyncio_protocol.py."""

import asyncio_protocol
import uvloop
import workload

if __name__ == "__main__":
    uvloop.run(asyncio_protocol.serve(workload.parse_arguments(__doc__)))
