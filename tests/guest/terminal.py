# SPDX-License-Identifier: LGPL-2.1-or-later
"""Drive a command on a terminal of our own, as a person would.

terminal.py shell COMMAND...       COMMAND must give a shell (sh); a line per claim, "ok: ..." or
                                   "NOT OK: ..."; exit status 1 if one of them fails
terminal.py hang-up WORD COMMAND   wait until COMMAND has written WORD, take the terminal away, and
                                   wait for COMMAND to end
"""
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

failed = 0
seen = b""


def resize(fd, rows, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def wait_for(fd, text, seconds=60):
    """Read until (text) has come; what came since the last call. None: it never came."""
    global seen
    end = time.monotonic() + seconds
    while text not in seen:
        left = end - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            return None
        try:
            seen += os.read(fd, 65536)
        except OSError:  # the other side of the terminal is closed
            return None
    before, seen = seen.split(text, 1)
    return before + text


def claim(words, holds):
    global failed
    print("ok:" if holds else "NOT OK:", words)
    if not holds:
        failed += 1
        print("    | on the terminal:", seen[-500:])


def start(command):
    """The command on a terminal of 33 rows and 101 columns: its pid, and our end."""
    # A pipe holds it back until its terminal has a size.
    wait, go = os.pipe()
    pid, fd = pty.fork()
    if pid == 0:
        os.close(go)
        os.read(wait, 1)
        os.environ["TERM"] = "xterm"
        os.execvp(command[0], command)
    os.close(wait)
    resize(fd, 33, 101)
    os.close(go)
    return pid, fd


def status_of(pid, seconds=30):
    """The exit status of a child that is about to end; one that does not is killed: None."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def hang_up(word, *command):
    pid, fd = start(command)
    if wait_for(fd, word.encode()) is None:
        print("it never wrote", word, seen[-500:])
        return 1
    os.close(fd)
    if status_of(pid) is None:
        print("it goes on without its terminal")
        return 1
    return 0


def shell(*command):
    pid, fd = start(command)

    # What is sent is echoed, so answers are made to differ from questions.
    os.write(fd, b"echo rea''dy; stty size\n")
    claim("a shell is there", wait_for(fd, b"ready") is not None)
    claim("the terminal has the size of ours", wait_for(fd, b"33 101") is not None)
    os.write(fd, b"test -t 0 && test -t 1 && test -t 2 && echo a ter''minal\n")
    claim("stdin, stdout and stderr are a terminal", wait_for(fd, b"a terminal") is not None)

    resize(fd, 40, 120)
    time.sleep(1)
    os.write(fd, b"stty size\n")
    claim("it follows when ours changes", wait_for(fd, b"40 120") is not None)

    # It says itself that it is there: then it has the terminal, however slow the host is.
    os.write(fd, b"sh -c 'echo sleep\"\"ing; exec sleep 1000'; echo status $?\n")
    claim("a command runs", wait_for(fd, b"sleeping") is not None)
    os.write(fd, b"\x03")
    # A Ctrl-C flushes what was typed before the terminal has seen it, and is echoed after that.
    wait_for(fd, b"^C")
    os.write(fd, b"echo af''ter $?\n")
    claim("Ctrl-C interrupts it, and the shell goes on", wait_for(fd, b"after 130") is not None)

    os.write(fd, b"sh -c 'echo sleep\"\"ing again; exec sleep 1000'\n")
    wait_for(fd, b"sleeping again")
    os.write(fd, b"\x1a")
    claim("Ctrl-Z stops it, and the shell says so", wait_for(fd, b"topped") is not None)
    os.write(fd, b"jobs; kill -KILL %1; echo jo''bs\n")
    told = wait_for(fd, b"jobs\r\n")
    claim("job control works", told is not None and b"topped" in told)

    # Twice: the first is refused as long as the shell has not seen the end of what was killed.
    os.write(fd, b"wait; exit 5; exit 5\n")
    wait_for(fd, b"what never comes")
    claim("the shell's status is the command's", status_of(pid) == 5)
    return 1 if failed else 0


sys.exit({"shell": shell, "hang-up": hang_up}[sys.argv[1]](*sys.argv[2:]))
