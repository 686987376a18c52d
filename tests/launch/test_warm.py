import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from programs import environment, until

from fedmb.launch import commands
from fedmb.launch.warm import FORKED, SOCKET, caller

WARM = """
import os, pathlib, sys, time
from fedmb.launch.warm import serve, waiting

calls = 0

def program():
    global calls
    calls += 1
    exec(sys.argv[1])

with waiting(pathlib.Path(sys.argv[1])) as door:
    serve(door, {"echo": program})
"""


@contextmanager
def waits(folder, command):
    with subprocess.Popen([*command, str(folder)], env=environment(), stderr=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: (folder / SOCKET).exists() or process.poll() is not None, 60, lambda: "a socket")
            yield process
        finally:
            process.kill()


@pytest.fixture
def place(tmp_path):
    """A folder whose path a shell would split, and a socket's path could not hold."""
    folder = tmp_path / ('it\'s "long" $HOME ' + "x" * 90)
    folder.mkdir()
    return folder


@pytest.fixture
def warm(place):
    with waits(place / "warm", [sys.executable, "-c", WARM]) as process:
        yield process


@pytest.fixture
def program(place):
    """What runs a line of Python in the process that waits; without one it would say what it was given."""
    caller(place / "program", place / "warm", "/bin/echo")
    return place / "program"


def run(program, *words, **told):
    return subprocess.run([program, *words], capture_output=True, text=True, check=False, timeout=60, **told)


def test_a_call_has_the_callers_words_folder_environment_and_streams(warm, program, tmp_path):
    line = "print(sys.argv[2:], os.getcwd(), dict(os.environ), sys.stdin.read()); sys.stderr.write('!'); sys.exit(7)"

    found = run(program, line, "two words", cwd=tmp_path, env={"GIVEN": "here\udcff"}, input="said")

    assert found.returncode == 7
    assert found.stderr == "!"
    assert found.stdout.startswith(f"['two words'] {tmp_path} {{'GIVEN': 'here\\udcff'")
    assert found.stdout.endswith("} said\n")


def test_no_call_sees_what_another_one_did(warm, program):
    found = [run(program, "print(calls, os.getpid(), os.getppid())").stdout.split() for _ in range(3)]

    assert [one[0] for one in found] == ["1", "1", "1"]
    assert len({one[1] for one in found}) == 3
    assert {one[2] for one in found} == {str(warm.pid)}


def test_calls_run_beside_each_other(warm, program, tmp_path):
    first = subprocess.Popen([program, f"while not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)"])

    assert run(program, "print('meanwhile')").stdout == "meanwhile\n"
    assert first.poll() is None
    (tmp_path / "go").touch()
    assert first.wait(60) == 0


def test_an_error_is_shown_to_the_caller(warm, program):
    found = run(program, "1 / 0")

    assert found.returncode == 1
    assert "ZeroDivisionError: division by zero" in found.stderr
    assert run(program, "sys.exit('a sentence')").stderr == "a sentence\n"


def test_who_kills_the_caller_kills_what_it_asked_for(warm, program, tmp_path):
    file = tmp_path / "id"
    line = f"pathlib.Path({str(file)!r}).write_text(str(os.getpid())); time.sleep(600)"
    with subprocess.Popen([program, line]) as process:
        asked = until(lambda: file.exists() and file.read_text(), 60, lambda: "an id")
        process.kill()

    until(lambda: not Path(f"/proc/{asked}").exists(), 60, lambda: asked)
    assert run(program, "pass").returncode == 0


def test_a_caller_ends_as_a_shell_would_when_what_it_asked_for_is_killed(warm, program):
    assert run(program, "os.kill(os.getpid(), 9)").returncode == 128 + signal.SIGKILL


def test_a_caller_ends_with_the_process_that_waited(warm, program):
    assert run(program, "os.kill(os.getppid(), 9); time.sleep(1)").returncode == 1


def test_a_lasting_program_is_run_by_its_caller_when_the_process_that_waited_is_killed(warm, place):
    caller(place / "lasting", place / "warm", "/bin/echo", lasting=True)

    found = run(place / "lasting", "os.kill(os.getppid(), 9); os.kill(os.getpid(), 9)", "again")

    assert found.stdout == "os.kill(os.getppid(), 9); os.kill(os.getpid(), 9) again\n"


def test_a_lasting_program_that_ends_by_itself_has_ended(warm, place):
    caller(place / "lasting", place / "warm", "/bin/echo", lasting=True)

    assert run(place / "lasting", "sys.exit(3)").returncode == 3


def test_what_nobody_is_ready_for_is_refused(warm, place):
    caller(place / "other", place / "warm", "/bin/true")

    assert run(place / "other").returncode == 1
    warm.kill()
    assert "call refused" in warm.stderr.read()


def test_where_nobody_waits_the_program_itself_is_run(place, program):
    assert run(program, "never", "mind").stdout == "never mind\n"

    with waits(place / "warm", [sys.executable, "-c", WARM]) as process:
        process.kill()
        process.wait()
        assert (place / "warm" / SOCKET).exists()
        assert run(program, "again").stdout == "again\n"


@pytest.mark.parametrize("streams", [0, 3])
@pytest.mark.parametrize("said", [b"\x01", b"\xff\xff\xff\xff", b"\x09\x00\x00\x00{}", b"\x02\x00\x00\x00no"])
def test_what_makes_no_sense_is_refused_and_the_next_call_answered(warm, program, place, said, streams):
    held = os.open(place / "warm", os.O_PATH)
    with socket.socket(socket.AF_UNIX) as line, suppress(ConnectionResetError):
        line.connect(f"/proc/self/fd/{held}/{SOCKET}")
        socket.send_fds(line, [said], list(range(streams)))
        line.shutdown(socket.SHUT_WR)
        assert line.recv(1) == b""
    os.close(held)

    assert run(program, "print('well')").stdout == "well\n"
    warm.kill()
    assert "call refused" in warm.stderr.read()


def test_other_users_cannot_reach_the_socket(warm, place):
    assert (place / "warm").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("program", FORKED)
def test_flowers_programs_wait_with_one_thread_and_without_torch(place, program):
    name = commands.executable(program)
    caller(place / program, place / "warm", name)
    with waits(place / "warm", commands.warm(place)[:-1]) as process:
        found = run(place / program, "--help")
        threads = len(list(Path(f"/proc/{process.pid}/task").iterdir()))
        maps = Path(f"/proc/{process.pid}/maps").read_text()

    assert found.stdout == subprocess.check_output([name, "--help"], env=environment(), text=True)
    assert found.returncode == 0
    assert threads == 1
    assert "libtorch" not in maps
