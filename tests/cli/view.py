# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run a program in a terminal of 80 by 24, send keys, print what it drew, and how it ended:
   view.py KEYS COMMAND..."""
import fcntl, os, pty, select, signal, struct, sys, termios, time

pid, terminal = pty.fork()
if pid == 0:
    os.environ["TERM"] = "vt100"
    os.execvp(sys.argv[2], sys.argv[2:])
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))


def drain(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # it has ended
                return
            if not data:
                return
            sys.stdout.buffer.write(data)


drain(1.5)
for key in sys.argv[1]:
    if key == "!":
        os.kill(pid, signal.SIGTERM)
    else:
        os.write(terminal, key.encode())
    drain(0.3)
drain(5)
_, status = os.waitpid(pid, 0)
print("\nstatus", os.waitstatus_to_exitcode(status))
