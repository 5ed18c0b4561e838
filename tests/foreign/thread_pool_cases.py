"""Runs CPython's own thread pool cases against `proactor.ThreadPool`, and writes what became of each, as JSON.

Usage: thread_pool_cases.py DIRECTORY OUTPUT [CASE ...]: where test_concurrent_futures.py lies, and which cases are not to be run. A process
of its own, because the class is put where the standard library has its own.
"""

import concurrent.futures
import concurrent.futures.thread
import importlib
import io
import json
import os
import sys
import unittest

import test
import test.support

import proactor


class ThreadPoolExecutor(proactor.ThreadPool):
    """Called as the standard library's, with the three of its private names that the cases read."""

    @property
    def _max_workers(self):
        return self.max_workers

    @property
    def _threads(self):
        return frozenset(self._workers.alive())

    @property
    def _broken(self):
        return self._has_broken.is_set()


def install(directory):
    """From here on `concurrent.futures.ThreadPoolExecutor` is ours, and `test` has the cases beside what the interpreter brings."""
    concurrent.futures.ThreadPoolExecutor = concurrent.futures.thread.ThreadPoolExecutor = ThreadPoolExecutor
    test.__path__.append(directory)


def main(directory, output, *left_out):
    install(directory)
    test.support.verbose = 0
    cases = importlib.import_module("test.test_concurrent_futures")
    here = os.path.dirname(__file__)
    prepare = f"import sys; sys.path.insert(0, {here!r}); import thread_pool_cases; thread_pool_cases.install({directory!r})\n"
    run_isolated = cases.assert_python_ok

    def assert_python_ok(option, source, **options):
        """The programs that the cases start get our class too."""
        return run_isolated(option, prepare + "if 1:" + source.split(":", 1)[1], **options)

    cases.assert_python_ok = assert_python_ok
    loader = unittest.TestLoader()
    classes = [case for _, case in sorted(vars(cases).items()) if isinstance(case, type) and issubclass(case, unittest.TestCase)]
    found = [test for case in classes if case.__name__.startswith("ThreadPool") for test in loader.loadTestsFromTestCase(case)]
    suite = unittest.TestSuite(test for test in found if name_of(test) not in left_out)
    result = unittest.TextTestRunner(io.StringIO(), resultclass=Result).run(suite)
    with open(output, "w") as file:
        json.dump({name_of(test): result.outcomes.get(name_of(test), "not run") for test in found}, file)


class Result(unittest.TextTestResult):
    """Keeps each case's outcome: "", or why it failed."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.outcomes = {}

    def startTest(self, test):
        super().startTest(test)
        self.outcomes[name_of(test)] = ""

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.outcomes[name_of(test)] = self._exc_info_to_string(error, test)

    addError = addFailure

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.outcomes[name_of(test)] = f"skipped: {reason}"


def name_of(test):
    return ".".join(test.id().split(".")[-2:])


if __name__ == "__main__":
    main(*sys.argv[1:])
