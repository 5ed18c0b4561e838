"""Waits for many processes at once, without a thread for each: starts some, and says how each ended."""

import subprocess
import sys
import threading
import time

import proactor

PROGRAM = "import sys, time; time.sleep(float(sys.argv[1])); sys.exit(int(sys.argv[2]))"


def ended(signalled: bool, process: subprocess.Popen[bytes], began: float) -> None:
    if not signalled:
        process.kill()
        process.wait()
    print(f"{time.monotonic() - began:.1f} s: process {process.pid}", f"ended with {process.returncode}" if signalled else "took too long")
    left.release()


if __name__ == "__main__":
    left = threading.Semaphore(0)
    with proactor.ThreadPool() as pool:
        processes = [subprocess.Popen([sys.executable, "-c", PROGRAM, str(status / 10), str(status)]) for status in range(8)]
        for process in processes:
            pool.call_when(process, ended, process, time.monotonic(), timeout=5)
        for _ in processes:
            left.acquire()
