/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The other side of a virtio device: a guest's memory and a driver that keeps to the rules, or does
 * not. It drives the real transport and the real loop, in one thread.
 *
 * Memory: two segments that touch each other (gpa 0 and FAKE_SEG_BYTES), each between pages that
 * fault, then nothing, then a SHARED one. Tests end by a signal when they hang (alarm). */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/loop.h"
#include "vmm/virtio-mmio.h"

#define FAKE_SEG_BYTES   UINT64_C(0x40000)
#define FAKE_SHARED_GPA  UINT64_C(0x1000000)
#define FAKE_SHARED_BYTE 0x5a /* what it is full of */
#define FAKE_HANG_S      60

struct fake_guest {
	struct cs_mem mem;
	void *map[3];
	pthread_mutex_t lock;
	struct cs_loop *loop;
	int irq_fd, turn_fd;
	struct cs_watch *irq_watch, *turn_watch;
	struct cs_virtio_mmio *mmio;
	struct cs_virtio *dev; /* the transport's */
	unsigned irqs;         /* interrupts seen */
	unsigned turns;        /* of the loop, still to go */
	unsigned settle;       /* turns that fake_settle() gives */
	bool waiting;          /* an interrupt ends the run */
	uint64_t next_gpa;
};

struct fake_queue {
	struct fake_guest *guest;
	unsigned index;
	uint16_t size;
	uint64_t desc, driver, device; /* gpa */
	uint16_t next_desc, avail, used;
};

/* One piece of a request. */
struct fake_buf {
	uint64_t gpa;
	uint32_t len;
	bool write;
};

void fake_open(struct fake_guest *guest);
void fake_close(struct fake_guest *guest);

/* Memory of the guest: (bytes) nobody else has, zeroed; and where it is. */
uint64_t fake_alloc(struct fake_guest *guest, uint64_t bytes);
void *fake_at(struct fake_guest *guest, uint64_t gpa);

/* Put (device) behind a transport. */
void fake_plug(struct fake_guest *guest, struct cs_virtio *device);

uint32_t fake_read(struct fake_guest *guest, uint64_t offset);
void fake_write(struct fake_guest *guest, uint64_t offset, uint32_t value);
uint64_t fake_offered(struct fake_guest *guest);

/* Reset, then up to FEATURES_OK with what is offered of (features) and VERSION_1. */
void fake_features(struct fake_guest *guest, uint64_t features);
/* Make rings of (size) entries; _memory: no register is written. */
void fake_queue(struct fake_guest *guest, unsigned index, uint16_t size, struct fake_queue *ret);
void fake_queue_memory(struct fake_guest *guest, uint16_t size, struct fake_queue *ret);
void fake_driver_ok(struct fake_guest *guest);

/* Descriptor (i). */
void fake_desc(struct fake_queue *q, unsigned i, const struct fake_buf *buf, uint16_t flags,
	       uint16_t next);
/* A chain of (n) pieces; its head. Publish a head; both. */
uint16_t fake_chain(struct fake_queue *q, const struct fake_buf *buf, unsigned n);
void fake_publish(struct fake_queue *q, uint16_t head);
uint16_t fake_send(struct fake_queue *q, const struct fake_buf *buf, unsigned n);
/* A table of (n) pieces in memory of its own, and a descriptor that points to it: published. */
uint16_t fake_send_indirect(struct fake_queue *q, const struct fake_buf *buf, unsigned n);

void fake_kick(struct fake_queue *q);
uint16_t fake_used_idx(const struct fake_queue *q);
/* The next used element; false: none. */
bool fake_take(struct fake_queue *q, uint32_t *ret_id, uint32_t *ret_len);

/* Let the loop do what is ready, and what follows from it. */
void fake_settle(struct fake_guest *guest);
/* Let the loop run until (n) more requests than taken are used. */
void fake_wait(struct fake_queue *q, unsigned n);
/* Serve until the next interrupt. */
void fake_wait_irq(struct fake_guest *guest);
