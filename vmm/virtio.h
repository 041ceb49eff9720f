/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A virtio device as its transport sees it. A device knows no transport, a transport no device
 * (virtio 1.2, 2). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/own.h"
#include "vmm/loop.h"
#include "vmm/mem.h"
#include "vmm/virtq.h"

#define CS_VIRTIO_QUEUES 4 /* most any device here has */

struct cs_virtio;

/* All are called with the machine's lock held. Optional ones may be NULL. */
struct cs_virtio_ops {
	const char *name;    /* "console" */
	uint32_t id;         /* virtio 1.2, 5: 2 block, 3 console, 4 entropy, 19 socket, 27 pmem */
	unsigned queues;     /* at most CS_VIRTIO_QUEUES */
	uint16_t queue_size; /* largest ring offered, a power of two */
	uint64_t features;   /* offered beside VIRTIO_F_VERSION_1, which the transport adds */

	/* Device configuration space: copy (bytes) from (offset) on; what lies outside reads as
	 * zero. The transport has checked nothing. */
	void (*config_read)(struct cs_virtio *dev, uint64_t offset, void *buf,
			    size_t bytes); /* optional */
	void (*config_write)(struct cs_virtio *dev, uint64_t offset, const void *buf,
			     size_t bytes); /* optional */

	/* The driver set DRIVER_OK: queues are live. Host-side events may already be waiting. */
	void (*start)(struct cs_virtio *dev); /* optional */
	/* The driver notified (queue); also called once for each queue after start. Loop thread. */
	void (*kick)(struct cs_virtio *dev, unsigned queue);
	/* Forget everything about the driver: requests in flight are waited for or disowned, queues
	 * are already reset. */
	void (*reset)(struct cs_virtio *dev); /* optional */
	void (*free)(struct cs_virtio *dev);
};

/* First member of every device. The transport fills what is under the line; a device reads it. */
struct cs_virtio {
	const struct cs_virtio_ops *ops;
	/* ---- */
	const struct cs_mem *mem;
	struct cs_loop *loop;
	struct cs_virtq queue[CS_VIRTIO_QUEUES];
	uint64_t features;                         /* negotiated */
	bool running;                              /* DRIVER_OK and not broken */
	void (*interrupt)(void *arg, bool config); /* used-buffer or configuration-change interrupt;
						      sets the ISR bit first */
	void *interrupt_arg;
	void (*broken)(void *arg); /* set DEVICE_NEEDS_RESET: the driver broke a rule of the ring */
};

/* Used buffers were added to (queue): interrupt unless the driver asked not to (flags or
 * used_event). */
void cs_virtio_notify(struct cs_virtio *dev, unsigned queue);

/* The driver broke the protocol: the device stops until it is reset; the monitor and other guests
 * go on. */
void cs_virtio_break(struct cs_virtio *dev);

struct cs_virtio *cs_virtio_free(struct cs_virtio *dev); /* through ops->free; NULL is fine */
CS_DEFINE_AUTO(cs_virtio);
