# SPDX-License-Identifier: LGPL-2.1-or-later
"""The monitor's side of vmm/guest/agent/wire.h, for guests of monitors that are not clearstore: the
same agent then says that it is ready, and answers, as it does there."""
import os
import select
import socket
import struct
import time

import bench

HELLO, CONFIG, READY, PING, PONG = 1, 2, 3, 16, 17
EXEC, STDIN, STDOUT, STDERR, EXIT, FAIL = 18, 20, 23, 24, 26, 27
VERSION, PORT, BYTES_MAX = 3, 1, 65536


class Lost(bench.Failure):
    """The guest, or its monitor, is not there any more, or says what it should not."""


def strings(words):
    return struct.pack("<I", len(words)) + b"".join(word.encode() + b"\0" for word in words)


def config(hostname):
    """Who the guest is: a clock, a seed, ids; no command."""
    return struct.pack("<QII", time.time_ns(), 0, 0) + os.urandom(32 + 16 + 16) + \
        hostname.encode() + b"\0" + strings([]) + strings([])


def send(line, kind, payload=b""):
    line.sendall(struct.pack("<II", kind, len(payload)) + payload)


def read_exactly(line, n):
    got = b""
    while len(got) < n:
        part = line.recv(n - len(got))
        if not part:
            raise Lost("the agent hung up")
        got += part
    return got


def receive(line):
    kind, n = struct.unpack("<II", read_exactly(line, 8))
    if n > BYTES_MAX:
        raise Lost(f"a message of {n} bytes")
    return kind, read_exactly(line, n)


def expect(line, wanted):
    """The next message of the kind (wanted); what the agent says in between is passed over."""
    while True:
        kind, payload = receive(line)
        if kind == wanted:
            return payload


def listen_vsock():
    """Where the agents of all guests that vhost serves call: CID 2, port 1."""
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((socket.VMADDR_CID_ANY, PORT))
    listener.listen(64)
    return listener


def listen_unix(path):
    """The same for one guest of a monitor that maps port N to the socket PATH_N."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(4)
    return listener


def welcome(listener, name, alive, seconds, cid=None):
    """Wait for the agent of one guest, tell it who it is, and wait until it serves; the connection.
    alive() tells whether its monitor still runs. By vsock a call that is not from (cid) is an error."""
    end = time.monotonic() + seconds
    while not select.select([listener], [], [], 0.5)[0]:
        if not alive():
            raise Lost(f"{name}: its monitor has ended")
        if time.monotonic() > end:
            raise Lost(f"{name}: its agent did not call within {seconds} s")
    line, who = listener.accept()
    line.settimeout(seconds)
    if cid is not None and who[0] != cid:
        raise Lost(f"{name}: CID {who[0]} called, not {cid}")
    expect(line, HELLO)
    send(line, CONFIG, config(name))
    expect(line, READY)
    return line


def ping(line):
    word = os.urandom(8)
    send(line, PING, word)
    if expect(line, PONG) != word:
        raise Lost("another answer than was asked for")


def run(line, argv):
    """Run a process, over a connection to the agent's own port; its output and status."""
    send(line, EXEC, struct.pack("<IHH", 0, 0, 0) + b"\0/\0" + strings(argv) + strings([]))
    send(line, STDIN)
    said = b""
    while True:
        kind, payload = receive(line)
        if kind in (STDOUT, STDERR):
            said += payload
        elif kind == FAIL:
            raise Lost(f"{argv[0]}: {payload[4:].decode(errors='replace')}")
        elif kind == EXIT:
            return said.decode(errors="replace"), struct.unpack("<I", payload)[0]
