/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shared by virtio-mmio*.c. */
#pragma once

#include "vmm/virtio-mmio.h"

/* What the eventfd of one queue tells whom. */
struct cs_virtio_bell {
	struct cs_virtio_mmio *mmio;
	unsigned queue;
	int fd;
	struct cs_watch *watch; /* asleep unless the device runs */
};

struct cs_virtio_mmio {
	struct cs_virtio *dev;
	int irq_fd;
	uint32_t status, isr, generation;
	uint32_t features_sel, driver_features_sel, queue_sel;
	uint64_t driver_features; /* as written; judged at FEATURES_OK */
	bool started;             /* ops->start was called, ops->reset not yet */
	uint32_t waiting;         /* being saved: a bit for each queue whose bell has rung */
	struct cs_virtio_bell bell[CS_VIRTIO_QUEUES];
};

/* Write an eventfd. */
void cs_virtio_mmio_ring(int fd);

/* The driver's features are ones that the device offers, and enough. */
bool cs_virtio_mmio_accepts(const struct cs_virtio_mmio *mmio, uint64_t features);

/* Have the device run; its queues are in place. Nothing is kicked. */
void cs_virtio_mmio_start(struct cs_virtio_mmio *mmio);
