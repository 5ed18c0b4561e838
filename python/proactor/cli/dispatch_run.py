"""Runs a scene: a completion port, plain threads that wait on it, and who feeds it. Owns these threads; knows nothing of what is shown."""

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import proactor
from proactor import pipes
from proactor.cli.dispatch_record import Recording, Work
from proactor.cli.dispatch_scene import Scene

LOOK_SECONDS = 0.004
"""How often the port is asked for its statistics, which is what the summary compares the record with."""

START_SECONDS = 5.0
"""How long the threads may take until all of them wait."""

RECEIVE_LIMIT = 64 * 1024

POSTED, FROM_PEER = "posted", "peer"


class Run:
    """One run. One thread: `start`, then wait until `finished()`, then `end`. `woken` is called, on any thread, when it is finished."""

    def __init__(self, scene: Scene, peer: socket.socket | pipes.End | None, woken: Callable[[], None]) -> None:
        self.scene = scene
        self.recording = Recording(scene.workers, scene.concurrency)
        self.statistics: Any = None
        self.failure: BaseException | None = None
        self._woken = woken
        self._finished = threading.Event()
        self._ending = threading.Event()
        self._handled = threading.Semaphore(0)  # Counts handlers that have returned, for a patient scene's feeder.
        self._threads: list[threading.Thread] = []
        self._port = proactor.CompletionPort(concurrency=scene.concurrency)
        try:
            self._handle = None if peer is None else self._port.associate(peer, FROM_PEER)
        except BaseException:
            self._port.close()
            raise

    def start(self) -> None:
        """Starts the workers one after the other, so that number 1 has waited longest, and then feeds the port."""
        try:
            for worker in range(1, self.scene.workers + 1):
                self._start(self._work, worker, name=f"worker-{worker}")
                self._until_waiting(worker)
            self.recording.begin()
            self._start(self._look, name="statistics")
            if self._handle is not None:
                self._handle.receive(RECEIVE_LIMIT)
            else:
                self._start(self._feed, name="feeder")
        except BaseException:
            self.end()
            raise

    def finished(self) -> bool:
        """Everything that was to be handled is, or a worker failed."""
        return self._finished.is_set()

    def stop(self) -> None:
        """Feeds no more, and closes the port: handlers that run may return, what is queued is left. Does not block."""
        if not self._ending.is_set():
            self._ending.set()
            self._handled.release(self.scene.burst)  # The feeder may wait for what nobody handles any more.
            self.statistics = self._port.statistics()
            self.recording.look(self.statistics)
            self._port.close()

    def stopped(self) -> bool:
        """All threads have ended."""
        return not any(thread.is_alive() for thread in self._threads)

    def end(self) -> None:
        """Stops, and waits until all threads have ended. Raises what one of them raised."""
        self.stop()
        for thread in self._threads:
            thread.join()
        if self.failure is not None:
            raise self.failure

    def _start(self, function: Callable[..., None], *arguments: Any, name: str) -> None:
        thread = threading.Thread(target=self._guarded, args=(function, *arguments), name=name)
        thread.start()
        self._threads.append(thread)

    def _guarded(self, function: Callable[..., None], *arguments: Any) -> None:
        """What a thread raises belongs to the command's main thread."""
        try:
            function(*arguments)
        except BaseException as error:
            self.failure = error
            self._finish()  # The main thread then stops all of them.

    def _until_waiting(self, number: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self._port.statistics().waiting < number and time.monotonic() < deadline and self.failure is None:
            time.sleep(0.0005)

    def _work(self, worker: int) -> None:
        """What a thread of the article's does: waits on the port, and handles what it is given."""
        self.recording.waits(worker)
        for completion in self._port:
            at = self.recording.now()
            if self._ending.is_set():
                return  # What was queued when the run was to end is left, and the summary says so.
            work = self._taken(worker, completion, at)
            if work is not None:
                self._handle_one(work)
            self.recording.waits(worker)
            if self.scene.patient:
                self._handled.release()
            if self.recording.finished() >= self.scene.count:
                self._finish()

    def _taken(self, worker: int, completion: Any, at: float) -> Work | None:
        """None: it is not work, but the peer's end."""
        if self._handle is None:
            number, posted = completion.value
            return self.recording.took(worker, at=at, number=number, posted=posted, size=None)
        if completion.error is not None or not completion.value:
            reason = "the peer ended the connection" if completion.error is None else f"the connection broke: {completion.error}"
            self.recording.note(reason)
            self._finish()
            return None
        work = self.recording.took(worker, at=at, number=None, posted=None, size=len(completion.value))
        if work.number < self.scene.count and not self._ending.is_set():
            self._handle.receive(RECEIVE_LIMIT)  # So that the next message can find another worker while this one is handled.
        return work

    def _handle_one(self, work: Work) -> None:
        """The handler. Its computing is done in Python, with the interpreter's lock where there is one: that is what is to be seen."""
        began = time.thread_time()
        seconds = self.scene.handler_ms / 1000
        if self.scene.blocks(work.number):
            self.recording.blocks(work)
            time.sleep(seconds)
            self.recording.unblocked(work)
        else:
            while time.thread_time() - began < seconds:
                pass
        self.recording.ended(work, time.thread_time() - began)

    def _feed(self) -> None:
        """Posts the completions, `burst` at a time. Late ones do not delay those after them, unless the scene is patient."""
        scene = self.scene
        interval = scene.burst / scene.rate
        for number in range(1, scene.count + 1):
            bursts, position = divmod(number - 1, scene.burst)
            if position == 0:
                due = bursts * interval
                if scene.patient and number > 1:
                    for _ in range(scene.burst):
                        self._handled.acquire()
                    due = max(due, self.recording.now() + interval / 2)
                left = due - self.recording.now()
                if left > 0:
                    self._ending.wait(left)
            if self._ending.is_set():
                return
            posted = self.recording.posts()
            self._port.post(POSTED, (number, posted))

    def _look(self) -> None:
        while not self._ending.wait(LOOK_SECONDS):
            self.recording.look(self._port.statistics())

    def _finish(self) -> None:
        self._finished.set()
        self._woken()
