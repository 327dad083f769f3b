"""Signals to end, which hold until what must not be cut in two is whole."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time

import pytest

from integrations import ending

from .processes import BASE_DIR, PYTHON

BLOCK = """
import signal, sys, time
from integrations import ending
{before}
with ending.holding():
    print("within", flush=True)
    while not ending.told():
        time.sleep(0.01)
    time.sleep({seconds})
    print("whole", flush=True)
print("after", flush=True)
"""


def start(before="", seconds=0.2):
    process = subprocess.Popen(
        [PYTHON, "-c", BLOCK.format(before=before, seconds=seconds)],
        cwd=BASE_DIR,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    assert process.stdout.readline() == "within\n"
    return process


@pytest.mark.parametrize("number", ending.SIGNALS)
def test_a_signal_ends_the_process_once_the_block_is_over(number):
    process = start()
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert out == "whole\n"
    assert process.returncode == -number
    assert ("KeyboardInterrupt" in err) == (number == signal.SIGINT)


def test_the_handler_that_was_there_before_is_called_and_there_again():
    process = start("signal.signal(signal.SIGTERM, lambda *_: print('handled', flush=True))")
    process.terminate()
    assert process.communicate(timeout=20)[0] == "whole\nhandled\nafter\n"
    assert process.returncode == 0


def test_what_is_ignored_stays_ignored():
    process = start("signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM


def test_a_signal_that_comes_twice_at_once_is_one():
    process = start()
    process.send_signal(signal.SIGHUP)
    process.terminate()
    assert process.communicate(timeout=20)[0] == "whole\n"


def test_a_signal_that_comes_again_later_is_not_held_back():
    process = start(seconds=60)
    process.terminate()
    time.sleep(ending.AGAIN + 0.2)
    process.terminate()
    assert process.communicate(timeout=20)[0] == ""
    assert process.returncode == -signal.SIGTERM


@pytest.fixture
def ends():
    """What a handler of the process's own has been told."""
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, before)
    assert not ending.told()


def test_a_process_that_lives_on_is_not_told_any_more(ends):
    with ending.holding():
        os.kill(os.getpid(), signal.SIGTERM)
        assert ending.wait(20)
        assert not ends
    assert ends == [signal.SIGTERM]


def test_a_block_within_another_changes_nothing(ends):
    with ending.holding():
        with ending.holding():
            os.kill(os.getpid(), signal.SIGTERM)
            assert ending.wait(20)
        assert ending.told()
        assert not ends
    assert ends == [signal.SIGTERM]


def test_a_block_in_a_thread_leaves_the_signals_alone(ends):
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with ending.holding():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_server_that_listens_is_told_for_good():
    script = """
import os, signal
from integrations import ending
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
ending.listen()
with ending.holding():
    os.kill(os.getpid(), signal.SIGTERM)
print(ending.wait(20), signal.getsignal(signal.SIGHUP) == signal.SIG_DFL)
"""
    done = subprocess.run(
        [PYTHON, "-c", script], cwd=BASE_DIR, capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "handled\nTrue True\n", done.stderr


def test_a_forked_process_is_told_with_its_parent_and_never_the_other_way_round():
    script = """
import os, sys
from integrations import ending
child = os.fork()
if child == 0:
    ending.tell() if sys.argv[1] == "child" else ending.wait(20)
    os._exit(ending.told())
ending.tell() if sys.argv[1] == "parent" else None
status = os.waitstatus_to_exitcode(os.wait()[1])
print(ending.told(), bool(status))
"""
    for who, expected in (("parent", "True True"), ("child", "False True")):
        done = subprocess.run(
            [PYTHON, "-c", script, who], cwd=BASE_DIR, capture_output=True, text=True, timeout=30
        )
        assert done.stdout.strip() == expected, done.stderr
