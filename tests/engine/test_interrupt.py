"""Signals to end: the first in good order, the second at once."""

import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest

from lowrung.engine import interrupt
from lowrung.engine.interrupt import STOPS, StopSignals
from lowrung.errors import Interrupted
from tests.terminal import PATIENCE


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in STOPS}
    yield
    assert {number: signal.getsignal(number) for number in STOPS} == before


@pytest.mark.parametrize("second", STOPS)
@pytest.mark.parametrize("first", STOPS)
def test_the_first_is_remembered_and_the_second_raises(monkeypatch, first, second):
    monkeypatch.setattr(interrupt, "SAME_SECONDS", 0)
    with StopSignals() as signals:
        assert not signals.is_to_stop
        signal.raise_signal(first)
        assert signals.is_to_stop
        signals.check()
        with pytest.raises(Interrupted) as caught:
            signal.raise_signal(second)
        with pytest.raises(KeyboardInterrupt):
            signals.check()
    assert caught.value.exit_code == signals.interruption.exit_code == 128 + first


def test_a_sigterm_that_a_scheduler_sends_twice_is_one(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with StopSignals() as signals:
        for now[0] in (0.0, 0.05, interrupt.SAME_SECONDS - 0.01):
            signal.raise_signal(signal.SIGTERM)
        signals.check()
        assert signals.is_to_stop
        now[0] = interrupt.SAME_SECONDS
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    try:
        with StopSignals() as signals, interrupt.raised():
            signal.raise_signal(signal.SIGHUP)
            assert not signals.is_to_stop
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_block_inside_another_remembers_the_same_signals(monkeypatch):
    monkeypatch.setattr(interrupt, "SAME_SECONDS", 0)
    with StopSignals() as outer:
        with StopSignals() as inner:
            signal.raise_signal(signal.SIGTERM)
            assert inner.is_to_stop
        assert outer.is_to_stop
        assert outer.interruption.exit_code == 143
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("second", STOPS)
@pytest.mark.parametrize("first", STOPS)
def test_the_second_raises_also_in_a_block_that_began_after_the_first(monkeypatch, first, second):
    monkeypatch.setattr(interrupt, "SAME_SECONDS", 0)
    with StopSignals() as outer:
        signal.raise_signal(first)
        with StopSignals() as inner:
            assert inner.is_to_stop
            with pytest.raises(Interrupted) as caught:
                signal.raise_signal(second)
        with pytest.raises(Interrupted):
            outer.check()
    assert caught.value.exit_code == 128 + first


def test_a_sigterm_sent_twice_is_one_though_a_block_began_or_ended_between(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    with StopSignals() as outer:
        with StopSignals():
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with StopSignals() as inner:
            signal.raise_signal(signal.SIGTERM)
            inner.check()
        outer.check()
        assert outer.is_to_stop


def test_outside_the_main_thread_nothing_happens():
    def use():
        with StopSignals() as signals, interrupt.raised():
            assert not signals.is_to_stop

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()


def test_elsewhere_they_raise_so_that_what_is_open_is_closed():
    with pytest.raises(Interrupted) as caught, interrupt.raised():
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.exit_code == 143


def test_a_terminal_that_is_gone_does_not_break_the_end():
    program = """
import sys
from lowrung.engine.interrupt import StopSignals
with StopSignals() as signals:
    print("ready", flush=True)
    while not signals.is_to_stop:
        pass
    print("stopping", flush=True)  # would raise: the terminal is gone
sys.exit(signals.interruption.exit_code)
"""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    assert b"ready" in os.read(ours, 100)
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(PATIENCE) == 129
