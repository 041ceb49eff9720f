# SPDX-License-Identifier: LGPL-2.1-or-later
"""The smallest kernels: a few bytes of x86-64 that a machine runs at once, where a Linux would need
seconds. Written to stdout:

    tiny-kernel.py idle     halts for good, with interrupts off
    tiny-kernel.py reset    pulls the reset line of the keyboard controller
    tiny-kernel.py fault    an invalid instruction without a handler: a triple fault
"""
import struct
import sys

CODE = {
    "idle": b"\xfa\xf4\xeb\xfd",  # cli; 1: hlt; jmp 1b
    "reset": b"\xb0\xfe\xe6\x64\xeb\xfe",  # mov $0xfe, %al; out %al, $0x64; 1: jmp 1b
    "fault": b"\x0f\x0b",  # ud2
}
GPA, OFFSET = 0x1000000, 0x1000

# The words by which an import tells that it is a Linux, and one of our own.
text = CODE[sys.argv[1]].ljust(64, b"\x90") + b"Linux version 6.12.0-clearstore (tiny) #1\n\0"
head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01" + bytes(9), 2, 62, 1, GPA, 64, 0, 0,
                   64, 56, 1, 64, 0, 0)
segment = struct.pack("<IIQQQQQQ", 1, 7, OFFSET, GPA, GPA, len(text), 0x1000, 0x1000)
sys.stdout.buffer.write((head + segment).ljust(OFFSET, b"\0") + text)
