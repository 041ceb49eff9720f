/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/virtq.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_ring.h>
#include <stdatomic.h>
#include <string.h>

/* Bytes of the parts of a split ring of (n) entries (virtio 1.2, 2.7), and where in them things
 * are. The event fields at the ends are there whether or not EVENT_IDX was negotiated. */
#define DESC_BYTES   16u
#define DRIVER_IDX   2u
#define DRIVER_RING  4u
#define DEVICE_IDX   2u
#define DEVICE_RING  4u
#define USED_BYTES   8u
#define INDIRECT_MAX 32768u /* entries: no ring is larger, so no chain needs more */
#define CHAIN_BYTES  (UINT64_C(1) << 32)

static uint64_t driver_bytes(uint16_t n)
{
	return 6u + 2u * (uint64_t)n;
}

static uint64_t device_bytes(uint16_t n)
{
	return 6u + (uint64_t)USED_BYTES * n;
}

struct rings {
	const unsigned char *desc, *driver;
	unsigned char *device;
};

/* Looked up for each operation: eight compares, and no pointer outlives a reset. */
static bool rings_at(const struct cs_virtq *q, const struct cs_mem *mem, struct rings *ret)
{
	const uint16_t n = q->size;

	if (n == 0 || n > CS_VIRTQ_MAX || (n & (n - 1)) != 0)
		return false;
	if (q->desc % 16 || q->driver % 2 || q->device % 4)
		return false;
	ret->desc = cs_mem_at(mem, q->desc, (uint64_t)DESC_BYTES * n, false);
	ret->driver = cs_mem_at(mem, q->driver, driver_bytes(n), false);
	ret->device = cs_mem_at(mem, q->device, device_bytes(n), true);
	return ret->desc && ret->driver && ret->device;
}

bool cs_virtq_usable(const struct cs_virtq *q, const struct cs_mem *mem)
{
	struct rings rings;

	return rings_at(q, mem, &rings);
}

/* One access each, whatever the compiler would rather do: the guest writes there meanwhile. */
static uint16_t load16(const unsigned char *at, memory_order order)
{
	return le16toh(atomic_load_explicit((const _Atomic uint16_t *)(const void *)at, order));
}

static void store16(unsigned char *at, uint16_t value, memory_order order)
{
	atomic_store_explicit((_Atomic uint16_t *)(void *)at, htole16(value), order);
}

static int broken(struct cs_virtq *q)
{
	q->broken = true;
	return -EPROTO;
}

/* ---- chains */

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

static struct desc read_desc(const unsigned char *table, uint32_t at)
{
	struct vring_desc raw;

	memcpy(&raw, table + (size_t)DESC_BYTES * at, sizeof(raw));
	/* From here on the copy counts: without this the compiler may read the guest's again. */
	__asm__ volatile("" ::: "memory");
	return (struct desc){ .addr = le64toh(raw.addr),
			      .len = le32toh(raw.len),
			      .flags = le16toh(raw.flags),
			      .next = le16toh(raw.next) };
}

/* Where a walk along a chain stands: in the ring's table, or in an indirect one. */
struct walk {
	const unsigned char *table;
	uint32_t entries, at;
	bool indirect;
	bool writing; /* a writable descriptor was seen: no readable one may follow */
};

/* Go on in the table that (d) points to. One level only, and nothing follows the table (2.7.5.3).
 */
static bool enter_table(struct walk *walk, const struct cs_mem *mem, const struct desc *d)
{
	const uint32_t entries = d->len / DESC_BYTES;

	if (walk->indirect || (d->flags & VRING_DESC_F_NEXT))
		return false;
	if (entries > INDIRECT_MAX || d->len % DESC_BYTES)
		return false;
	walk->table = cs_mem_at(mem, d->addr, d->len, false); /* an empty one is nowhere */
	walk->entries = entries;
	walk->at = 0;
	walk->indirect = true;
	return walk->table != NULL;
}

/* Append the buffer of (d), which may be several pieces, to the chain. */
static bool add_buffer(struct cs_chain *chain, const struct cs_mem *mem, const struct desc *d)
{
	const bool write = d->flags & VRING_DESC_F_WRITE;
	uint64_t *bytes = write ? &chain->writable_bytes : &chain->readable_bytes;
	unsigned *count = write ? &chain->writable : &chain->readable;
	uint64_t gpa = d->addr, left = d->len;

	if (chain->readable_bytes + chain->writable_bytes + left > CHAIN_BYTES)
		return false;
	while (left) {
		uint64_t part = 0;
		void *host = cs_mem_span(mem, gpa, left, write, &part);

		if (!host || chain->readable + chain->writable == CS_CHAIN_MAX)
			return false;
		chain->iov[chain->readable + chain->writable] =
			(struct iovec){ .iov_base = host, .iov_len = part };
		*count += 1;
		*bytes += part;
		gpa += part;
		left -= part;
	}
	return true;
}

/* Follow the chain from its head: at most as many buffers as the ring has entries, so a cycle ends.
 */
static bool follow(const struct cs_virtq *q, const struct cs_mem *mem, struct walk walk,
		   struct cs_chain *chain)
{
	for (uint16_t seen = 0; seen < q->size;) {
		const struct desc d = read_desc(walk.table, walk.at);
		const bool write = d.flags & VRING_DESC_F_WRITE;

		if (d.flags & VRING_DESC_F_INDIRECT) {
			if (!q->indirect || !enter_table(&walk, mem, &d))
				return false;
			continue;
		}
		if (walk.writing && !write)
			return false;
		walk.writing = write;
		if (!add_buffer(chain, mem, &d))
			return false;
		if (!(d.flags & VRING_DESC_F_NEXT))
			return true;
		if (d.next >= walk.entries)
			return false;
		walk.at = d.next;
		seen++;
	}
	return false;
}

int cs_virtq_pop(struct cs_virtq *q, const struct cs_mem *mem, struct cs_chain *ret)
{
	struct rings rings;
	struct walk walk;
	uint16_t waiting, slot, head;

	if (q->broken)
		return -EPROTO;
	if (!q->ready)
		return 0;
	if (!rings_at(q, mem, &rings))
		return broken(q);

	/* Acquire: ring entries and descriptors are read behind the index that published them. */
	waiting =
		(uint16_t)(load16(rings.driver + DRIVER_IDX, memory_order_acquire) - q->next_avail);
	if (waiting == 0)
		return 0;
	if (waiting > q->size)
		return broken(q);
	slot = q->next_avail & (uint16_t)(q->size - 1);
	head = load16(rings.driver + DRIVER_RING + 2u * slot, memory_order_relaxed);
	if (head >= q->size)
		return broken(q);

	walk = (struct walk){ .table = rings.desc, .entries = q->size, .at = head };
	ret->head = head;
	ret->readable = ret->writable = 0;
	ret->readable_bytes = ret->writable_bytes = 0;
	if (!follow(q, mem, walk, ret))
		return broken(q);
	q->next_avail++;
	return 1;
}

void cs_virtq_unpop(struct cs_virtq *q)
{
	q->next_avail--;
}

/* ---- the used ring and notifications */

int cs_virtq_push(struct cs_virtq *q, const struct cs_mem *mem, uint16_t head, uint32_t written)
{
	const struct vring_used_elem elem = { .id = htole32(head), .len = htole32(written) };
	struct rings rings;
	uint16_t slot;

	if (q->broken || !q->ready)
		return -EPROTO;
	if (!rings_at(q, mem, &rings))
		return broken(q);
	slot = q->next_used & (uint16_t)(q->size - 1);
	memcpy(rings.device + DEVICE_RING + (size_t)USED_BYTES * slot, &elem, sizeof(elem));
	q->next_used++;
	/* Release: the element, and the data before it, are there before the index says so. */
	store16(rings.device + DEVICE_IDX, q->next_used, memory_order_release);
	return 0;
}

bool cs_virtq_wants_interrupt(struct cs_virtq *q, const struct cs_mem *mem)
{
	const uint16_t old = q->signalled, new = q->next_used;
	struct rings rings;
	uint16_t event;

	if (new == old || !q->ready || !rings_at(q, mem, &rings))
		return false;
	q->signalled = new;
	/* The used index must be out before the driver's wish is read: it does the reverse, writes
	 * its wish, then looks at the index. Either sees the other. */
	atomic_thread_fence(memory_order_seq_cst);
	if (!q->event_idx)
		return !(load16(rings.driver, memory_order_relaxed) & VRING_AVAIL_F_NO_INTERRUPT);
	event = load16(rings.driver + DRIVER_RING + 2u * q->size, memory_order_relaxed);
	/* The index passed (event) on its way from old to new, modulo 2^16. */
	return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

bool cs_virtq_enable_kick(struct cs_virtq *q, const struct cs_mem *mem, bool enable)
{
	struct rings rings;

	if (q->broken || !q->ready || !rings_at(q, mem, &rings))
		return false;
	if (q->event_idx && enable)
		store16(rings.device + DEVICE_RING + (size_t)USED_BYTES * q->size, q->next_avail,
			memory_order_relaxed);
	if (!q->event_idx)
		store16(rings.device, enable ? 0 : VRING_USED_F_NO_NOTIFY, memory_order_relaxed);
	if (!enable)
		return false; /* with EVENT_IDX the index last asked for is behind: no kicks */

	/* As above: the wish must be out before the index is read. */
	atomic_thread_fence(memory_order_seq_cst);
	return load16(rings.driver + DRIVER_IDX, memory_order_relaxed) != q->next_avail;
}

void *cs_virtq_device_ring(const struct cs_virtq *q, const struct cs_mem *mem, size_t *ret_bytes)
{
	struct rings rings;

	if (!q->ready || !rings_at(q, mem, &rings))
		return NULL;
	*ret_bytes = device_bytes(q->size);
	return rings.device;
}

/* ---- copies */

unsigned cs_iov_slice(const struct iovec *iov, unsigned n, uint64_t offset, uint64_t bytes,
		      struct iovec *ret)
{
	unsigned count = 0;

	for (unsigned i = 0; i < n && bytes; i++) {
		uint64_t part;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		part = iov[i].iov_len - offset;
		if (part > bytes)
			part = bytes;
		ret[count++] = (struct iovec){ .iov_base = (char *)iov[i].iov_base + offset,
					       .iov_len = part };
		offset = 0;
		bytes -= part;
	}
	return count;
}

/* Move up to (bytes) between (buf) and (iov), from (offset) on, in the direction asked. */
static size_t move(const struct iovec *iov, unsigned n, uint64_t offset, const struct iovec *buf,
		   bool to_guest)
{
	size_t done = 0;

	for (unsigned i = 0; i < n && done < buf->iov_len; i++) {
		char *guest, *ours = (char *)buf->iov_base + done;
		size_t part;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		guest = (char *)iov[i].iov_base + offset;
		part = iov[i].iov_len - (size_t)offset;
		if (part > buf->iov_len - done)
			part = buf->iov_len - done;
		if (to_guest)
			memcpy(guest, ours, part);
		else
			memcpy(ours, guest, part);
		offset = 0;
		done += part;
	}
	return done;
}

size_t cs_chain_read(const struct cs_chain *chain, uint64_t offset, void *buf, size_t bytes)
{
	const struct iovec ours = { .iov_base = buf, .iov_len = bytes };

	return move(chain->iov, chain->readable, offset, &ours, false);
}

size_t cs_chain_write(const struct cs_chain *chain, uint64_t offset, const void *buf, size_t bytes)
{
	const struct iovec ours = { .iov_base = (void *)(uintptr_t)buf, .iov_len = bytes };

	return move(chain->iov + chain->readable, chain->writable, offset, &ours, true);
}
