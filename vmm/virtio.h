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
#include "vmm/stream.h"
#include "vmm/virtq.h"

#define CS_VIRTIO_QUEUES 4 /* most any device here has */

struct cs_virtio;

/* (bytes) of guest memory at (host) were, or may have been, written. */
typedef void (*cs_virtio_touch_fn)(void *arg, const void *host, size_t bytes);

/* All are called with the machine's lock held. Optional ones may be NULL. */
struct cs_virtio_ops {
	const char *name;    /* "console" */
	uint32_t id;         /* virtio 1.2, 5: 2 block, 3 console, 4 entropy, 19 socket, 27 pmem */
	unsigned queues;     /* at most CS_VIRTIO_QUEUES */
	uint16_t queue_size; /* largest ring offered, a power of two */
	uint64_t features;   /* offered beside VIRTIO_F_VERSION_1, VIRTIO_F_EVENT_IDX and
				VIRTIO_F_INDIRECT_DESC, which the transport adds */

	/* Device configuration space: copy (bytes) from (offset) on; what lies outside reads as
	 * zero. The transport has checked nothing, but zeroed (buf). */
	void (*config_read)(struct cs_virtio *dev, uint64_t offset, void *buf,
			    size_t bytes); /* optional */
	void (*config_write)(struct cs_virtio *dev, uint64_t offset, const void *buf,
			     size_t bytes); /* optional */

	/* The driver set DRIVER_OK: queues are live. Host-side events may already be waiting. A
	 * vCPU's thread. */
	void (*start)(struct cs_virtio *dev); /* optional */
	/* The driver notified (queue); also called once for each queue after start. Loop thread. */
	void (*kick)(struct cs_virtio *dev, unsigned queue);
	/* Forget everything about the driver: requests in flight are waited for or disowned, queues
	 * are already reset. Only after start; any thread. */
	void (*reset)(struct cs_virtio *dev); /* optional */

	/* Is anything under way that writes to the guest's memory from outside of this process? */
	bool (*busy)(const struct cs_virtio *dev); /* optional */

	/* Does a request wait for something on the host, for as long as that takes? */
	bool (*waits)(const struct cs_virtio *dev); /* optional */

	/* ---- a machine that is saved: its vCPUs stand still */
	/* Finish the requests under way, as ever: nothing of them may be left outside the guest's
	 * memory, but of those that wait. Loop thread. */
	void (*settle)(struct cs_virtio *dev); /* optional */
	/* This process holds the copy that is written out, and soon ends: make the guest's memory
	 * and the device what a clone should wake up with, and touch nothing outside. Which
	 * pages are written out is known already: (touch) says what comes in addition. */
	void (*part)(struct cs_virtio *dev, cs_virtio_touch_fn touch, void *arg); /* optional */
	/* Save or load what the transport does not know of. Loading: queues and features are in
	 * place, start() was called, and cs_virtio_again() says what is to be done at once. */
	void (*state)(struct cs_virtio *dev, struct cs_stream *stream); /* optional */

	/* The last call; comes after reset when the device ran. */
	void (*free)(struct cs_virtio *dev);
};

/* First member of every device. The transport fills what is under the line; a device reads it. */
struct cs_virtio {
	const struct cs_virtio_ops *ops;
	/* ---- */
	const struct cs_mem *mem;
	struct cs_loop *loop; /* NULL until a transport has the device */
	struct cs_virtq queue[CS_VIRTIO_QUEUES];
	uint64_t features;                         /* negotiated */
	bool running;                              /* DRIVER_OK and not broken */
	void (*interrupt)(void *arg, bool config); /* used-buffer or configuration-change interrupt;
						      sets the ISR bit first */
	void (*broken)(void *arg); /* set DEVICE_NEEDS_RESET: the driver broke a rule of the ring */
	void (*again)(void *arg, unsigned queue);
	void *interrupt_arg; /* of these three */
};

/* Used buffers were added to (queue): interrupt unless the driver asked not to (flags or
 * used_event). */
void cs_virtio_notify(struct cs_virtio *dev, unsigned queue);

/* The driver broke the protocol: the device stops until it is reset; the monitor and other guests
 * go on. */
void cs_virtio_break(struct cs_virtio *dev);

/* Call kick(queue) again, after everybody else had a turn: how a device that has done its share
 * leaves the loop. */
void cs_virtio_again(struct cs_virtio *dev, unsigned queue);

/* Give a request of (queue) back with (written) bytes in its writable part; notifying is left to
 * the caller, once for many. A device that stopped running meanwhile drops it. */
void cs_virtio_complete(struct cs_virtio *dev, unsigned queue, uint16_t head, uint64_t written);

/* Answer one request: the bytes written into its writable part; -EINPROGRESS: the device keeps it
 * and completes it later; -EAGAIN: no room now, it stays on the ring, and the device kicks itself
 * (cs_virtio_again(), a timer, ...) when there is. */
typedef int64_t (*cs_virtio_serve_fn)(struct cs_virtio *dev, const struct cs_chain *chain);

/* Serve what is waiting on (queue), at most a ring's worth; for more, cs_virtio_again(). Breaks the
 * device when the ring is broken, interrupts when the driver wants it. */
void cs_virtio_serve(struct cs_virtio *dev, unsigned queue, cs_virtio_serve_fn fn);

/* A config_read out of (config_bytes) at (config). */
void cs_virtio_config(const void *config, size_t config_bytes, uint64_t offset, void *buf,
		      size_t bytes);

struct cs_virtio *cs_virtio_free(struct cs_virtio *dev); /* through ops->free; NULL is fine */
CS_DEFINE_AUTO(cs_virtio);
