/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Split virtqueues (virtio 1.2, 2.7), device side, for a guest that may be hostile: every address
 * goes through cs_mem, rings and descriptors are read once, a chain that loops, is longer than the
 * ring, or leaves RAM breaks the queue, never the host.
 *
 * Where the standard leaves a choice: the three rings each lie in one segment of RAM, naturally
 * aligned; a descriptor of length zero counts against the length of the chain and is otherwise
 * skipped, its address unseen (as Linux's vhost does); an indirect table does not count itself, its
 * entries do. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm/mem.h"

#define CS_VIRTQ_MAX 256 /* largest ring any device offers */
#define CS_CHAIN_MAX                                                                               \
	(CS_VIRTQ_MAX + CS_RAM_SEGS) /* a buffer over the seam of two segments is two pieces */

struct cs_virtq {
	uint16_t size; /* entries, a power of two up to the device's queue_size */
	bool ready;
	bool broken;
	bool event_idx;                /* VIRTIO_F_EVENT_IDX negotiated */
	bool indirect;                 /* VIRTIO_F_INDIRECT_DESC negotiated */
	uint64_t desc, driver, device; /* gpa of descriptor table, available ring, used ring */
	uint16_t next_avail, next_used;
	uint16_t signalled; /* used index at the last interrupt: for EVENT_IDX */
};

/* A request: what the driver lets us read, then what it lets us write. The pieces are host
 * addresses of guest memory: gone with the next reset, and the guest may write there meanwhile. */
struct cs_chain {
	uint16_t head;
	unsigned readable, writable;             /* entries of iov[]: readable ones first */
	uint64_t readable_bytes, writable_bytes; /* their sum: at most 4 GiB */
	struct iovec iov[CS_CHAIN_MAX];
};

/* The rings of (q) have a legal size, are aligned and lie in RAM. */
bool cs_virtq_usable(const struct cs_virtq *q, const struct cs_mem *mem);

/* Take the next request. 1: *ret is filled; 0: none waiting, or the queue is not ready; -EPROTO:
 * the driver broke a rule, the queue is broken (cs_virtio_break() is the caller's to call). */
int cs_virtq_pop(struct cs_virtq *q, const struct cs_mem *mem, struct cs_chain *ret);

/* Give (head) back with (written) bytes in its writable part. -EPROTO: the used ring is not in RAM,
 * or the queue is broken or gone. */
int cs_virtq_push(struct cs_virtq *q, const struct cs_mem *mem, uint16_t head, uint32_t written);

/* Put the last request popped back, unanswered (no room now): the next pop yields it again. */
void cs_virtq_unpop(struct cs_virtq *q);

/* Does the driver want an interrupt for what was pushed since the last call, if anything was?
 * Orders stores as 2.7.7 and 2.7.10 ask. */
bool cs_virtq_wants_interrupt(struct cs_virtq *q, const struct cs_mem *mem);

/* Ask for, or do without, notifications; enabling returns true when requests came in meanwhile (pop
 * again). */
bool cs_virtq_enable_kick(struct cs_virtq *q, const struct cs_mem *mem, bool enable);

/* The one of the rings that the device writes, and how long it is; NULL: the queue is not ready. */
void *cs_virtq_device_ring(const struct cs_virtq *q, const struct cs_mem *mem, size_t *ret_bytes);

/* Copy between a chain and a buffer: from (offset) of its readable or writable part; the number of
 * bytes copied. */
size_t cs_chain_read(const struct cs_chain *chain, uint64_t offset, void *buf, size_t bytes);
size_t cs_chain_write(const struct cs_chain *chain, uint64_t offset, const void *buf, size_t bytes);

/* The pieces of (n) entries of (iov) that hold (bytes) from (offset) on, in ret[], which has room
 * for (n): how many. For readv() and its kin:
 *	n = cs_iov_slice(chain.iov, chain.readable, 16, UINT64_MAX, data); */
unsigned cs_iov_slice(const struct iovec *iov, unsigned n, uint64_t offset, uint64_t bytes,
		      struct iovec *ret);
