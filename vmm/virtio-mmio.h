/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* virtio-mmio, version 2 (virtio 1.2, 4.2.2): the only transport.
 *
 * What a driver writes out of turn is ignored: a status that takes bits back, features after
 * FEATURES_OK, DRIVER_OK without it, addresses or a size of a live queue, a size that is no power
 * of two, QueueReady over rings that are not in RAM. FEATURES_OK does not stick when a feature was
 * not offered. A driver that takes a queue away from a running device (QueueReady 0) stops the
 * device, until the next reset: Linux does so on its way out. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/own.h"
#include "vmm/stream.h"
#include "vmm/virtio.h"

struct cs_virtio_mmio;

struct cs_virtio_mmio_spec {
	struct cs_virtio *device; /* becomes the transport's; freed when that fails */
	const struct cs_mem *mem; /* lent */
	struct cs_loop *loop;     /* lent */
	int irq_fd;               /* an eventfd bound as irqfd (edge), lent; written to interrupt */
};

int cs_virtio_mmio_create(const struct cs_virtio_mmio_spec *spec, struct cs_virtio_mmio **ret,
			  struct cs_err *err);

/* The eventfd that stands for a driver's write of (queue) to QueueNotify; lent. Machine binds it as
 * ioeventfd (offset CS_VIRTIO_MMIO_NOTIFY, 4 bytes, datamatch queue). Without ioeventfd the write
 * arrives by _access and does the same. */
int cs_virtio_mmio_notify_fd(const struct cs_virtio_mmio *mmio, unsigned queue);
#define CS_VIRTIO_MMIO_NOTIFY 0x50
unsigned cs_virtio_mmio_queues(const struct cs_virtio_mmio *mmio);
const char *cs_virtio_mmio_name(const struct cs_virtio_mmio *mmio);

/* A register access of a vCPU at (offset) of the window, lock held. (bytes): 1, 2, 4 or 8. A reset
 * of a disk waits here for its requests in flight. */
void cs_virtio_mmio_access(struct cs_virtio_mmio *mmio, uint64_t offset, void *data, unsigned bytes,
			   bool write);

/* Does a request that is under way write to the guest's memory from outside of this process? */
bool cs_virtio_mmio_busy(const struct cs_virtio_mmio *mmio);

/* Does a request wait for room on the host? */
bool cs_virtio_mmio_waits(const struct cs_virtio_mmio *mmio);

/* ---- a machine that is saved, in this order; its vCPUs stand still */

/* Finish what is under way, note what waits. Loop thread. */
void cs_virtio_mmio_settle(struct cs_virtio_mmio *mmio);

/* In the process that holds the copy: cut the device from the world. Its interrupts reach nobody
 * from then on, and are what a clone begins with. */
void cs_virtio_mmio_part(struct cs_virtio_mmio *mmio, cs_virtio_touch_fn touch, void *arg);

/* Save, or load a device that was just made; then interrupts that the guest has not seen to are
 * raised again, since one may have been on its way. */
void cs_virtio_mmio_state(struct cs_virtio_mmio *mmio, struct cs_stream *stream);

uint32_t cs_virtio_mmio_id(const struct cs_virtio_mmio *mmio); /* virtio 1.2, 5 */

/* Stops the device and frees it. */
struct cs_virtio_mmio *cs_virtio_mmio_free(struct cs_virtio_mmio *mmio);
CS_DEFINE_AUTO(cs_virtio_mmio);
