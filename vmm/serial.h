/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The output half of a 16550 at port 0x3f8: enough for `--append console=ttyS0` and earlyprintk,
 * when a kernel dies before it finds its virtio console. Nothing comes in and no interrupt is
 * raised; every byte costs an exit. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/stream.h"

#define CS_SERIAL_PORT  0x3f8
#define CS_SERIAL_PORTS 8

struct cs_serial {
	uint8_t line_control, interrupt_enable, modem_control, scratch;
	uint16_t divisor;
	int log_fd;         /* lent; -1: bytes are dropped */
	uint64_t log_bytes; /* written so far: output ends at CS_SERIAL_LOG_MAX, so that a guest
			       cannot fill the disk */
};

#define CS_SERIAL_LOG_MAX (UINT64_C(1) << 20)

/* A byte access at (port) - CS_SERIAL_PORT. */
void cs_serial_write(struct cs_serial *serial, unsigned reg, uint8_t value);
uint8_t cs_serial_read(const struct cs_serial *serial, unsigned reg);

/* Save or load the registers; the log is the host's. */
void cs_serial_state(struct cs_serial *serial, struct cs_stream *stream);
