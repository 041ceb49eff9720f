/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Rings that say anything. Whatever comes out of cs_virtq_pop() must be made of RAM and within the
 * bounds that devices count on. */
#include <linux/virtio_ring.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/fuzz/fuzz.h"
#include "vmm/virtq.h"

#define SEG        8192u
#define SHARED_GPA 0x100000u
#define OPS        200

struct world {
	struct cs_mem mem;
	unsigned char *host[3]; /* two that touch each other, and a template */
	struct cs_virtq q;
};

/* A segment between pages that fault. */
static unsigned char *map(void)
{
	unsigned char *at =
		mmap(NULL, SEG + 2 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	fuzz_require(at != MAP_FAILED);
	fuzz_require(mprotect(at + 4096, SEG, PROT_READ | PROT_WRITE) == 0);
	return at + 4096;
}

static void open_world(struct world *w)
{
	static const uint64_t gpa[] = { 0, SEG, SHARED_GPA };

	memset(w, 0, sizeof(*w));
	for (unsigned i = 0; i < 3; i++) {
		w->host[i] = map();
		w->mem.ram.seg[i] = (struct cs_seg){
			.gpa = gpa[i], .bytes = SEG, .host = w->host[i], .backing = CS_BACKING_ANON
		};
	}
	w->mem.ram.seg[2].backing = CS_BACKING_SHARED;
	fuzz_require(mprotect(w->host[2], SEG, PROT_READ) == 0);
	w->mem.ram.n = 3;
}

static void close_world(struct world *w)
{
	for (unsigned i = 0; i < 3; i++)
		munmap(w->host[i] - 4096, SEG + 2 * 4096);
}

/* Addresses and lengths worth trying: around every border, and anywhere in RAM. */
static uint64_t address(struct fuzz_input *in)
{
	static const uint64_t border[] = { 0,
					   SEG,
					   2 * SEG,
					   SHARED_GPA,
					   SHARED_GPA + SEG,
					   UINT64_MAX,
					   UINT64_C(1) << 63,
					   UINT64_C(1) << 32 };
	const uint8_t kind = fuzz_byte(in);

	if (kind & 0x80)
		return fuzz_u16(in) % (2 * SEG);
	return border[kind % 8] + (uint64_t)(int64_t)(int8_t)fuzz_byte(in);
}

static uint32_t length(struct fuzz_input *in)
{
	static const uint32_t special[] = { 0,       16,       32,         SEG,
					    2 * SEG, 1u << 31, UINT32_MAX, UINT32_MAX - 15 };
	const uint8_t kind = fuzz_byte(in);

	return kind & 0x80 ? kind & 0x7f : special[kind % 8];
}

static void *ram(struct world *w, uint64_t gpa, uint64_t bytes)
{
	return cs_mem_at(&w->mem, gpa, bytes, true);
}

static void set_up(struct world *w, struct fuzz_input *in)
{
	const uint8_t flags = fuzz_byte(in);

	w->q = (struct cs_virtq){ .size = (uint16_t)(1u << flags % 10),
				  .ready = true,
				  .event_idx = flags & 0x10,
				  .indirect = flags & 0x20,
				  .desc = address(in) & ~(uint64_t)15,
				  .driver = address(in) & ~(uint64_t)1,
				  .device = address(in) & ~(uint64_t)3 };
	if (flags & 0x40) { /* good rings, so that what is in them counts */
		w->q.desc = 0;
		w->q.driver = SEG;
		w->q.device = SEG + 1024;
	}
	w->q.next_avail = w->q.next_used = w->q.signalled = fuzz_u16(in);
}

static void write_desc(struct world *w, struct fuzz_input *in)
{
	const uint16_t at = fuzz_byte(in);
	struct vring_desc *desc = ram(w, w->q.desc + 16u * at, sizeof(*desc));
	const struct vring_desc value = { .addr = address(in),
					  .len = length(in),
					  .flags = fuzz_byte(in) % 8,
					  .next = fuzz_byte(in) };

	if (desc)
		memcpy(desc, &value, sizeof(value));
}

static void publish(struct world *w, struct fuzz_input *in)
{
	struct vring_avail *avail = ram(w, w->q.driver, sizeof(*avail) + 2u * w->q.size + 2);
	const uint8_t by = fuzz_byte(in);

	if (!avail)
		return;
	avail->flags = by & 1;
	avail->ring[w->q.next_avail % w->q.size] = fuzz_byte(in);
	avail->ring[w->q.size] = fuzz_u16(in); /* used_event */
	avail->idx = (uint16_t)(w->q.next_avail + (by < 0xf0 ? by % 4 : fuzz_u16(in)));
}

static void check_chain(const struct world *w, const struct cs_chain *chain)
{
	uint64_t bytes[2] = { 0, 0 };

	fuzz_require(chain->head < w->q.size);
	fuzz_require(chain->readable + chain->writable <= CS_CHAIN_MAX);
	for (unsigned i = 0; i < chain->readable + chain->writable; i++) {
		const unsigned char *base = chain->iov[i].iov_base;
		const bool write = i >= chain->readable;
		bool inside = false;

		for (unsigned j = 0; j < (write ? 2 : 3); j++)
			inside |= base >= w->host[j] && base < w->host[j] + SEG &&
				  chain->iov[i].iov_len <= (size_t)(w->host[j] + SEG - base);
		fuzz_require(inside);
		fuzz_require(chain->iov[i].iov_len > 0);
		bytes[write] += chain->iov[i].iov_len;
	}
	fuzz_require(bytes[0] == chain->readable_bytes && bytes[1] == chain->writable_bytes);
	fuzz_require(bytes[0] + bytes[1] <= UINT64_C(1) << 32);
}

/* What a device does with a request. */
static void serve(struct world *w, struct fuzz_input *in)
{
	struct cs_chain chain;
	unsigned char buf[512];
	struct iovec part[CS_CHAIN_MAX];
	const uint8_t how = fuzz_byte(in);

	if (cs_virtq_pop(&w->q, &w->mem, &chain) <= 0)
		return;
	check_chain(w, &chain);
	if (how & 1) {
		cs_virtq_unpop(&w->q);
		return;
	}
	fuzz_require(cs_chain_read(&chain, how, buf, sizeof(buf)) <= sizeof(buf));
	memset(buf, how, sizeof(buf));
	fuzz_require(cs_chain_write(&chain, how, buf, sizeof(buf)) <= chain.writable_bytes);
	fuzz_require(cs_iov_slice(chain.iov, chain.readable, how, length(in), part) <=
		     chain.readable);
	cs_virtq_push(&w->q, &w->mem, chain.head, how);
}

const uint64_t fuzz_inputs = 5000;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct fuzz_input in = { data, bytes };
	struct world w;

	open_world(&w);
	set_up(&w, &in);
	for (unsigned i = 0; i < OPS && in.left; i++) {
		switch (fuzz_byte(&in) % 8) {
		case 0:
		case 1:
		case 2:
			write_desc(&w, &in);
			break;
		case 3:
		case 4:
			publish(&w, &in);
			break;
		case 5:
			serve(&w, &in);
			w.q.broken &= fuzz_byte(&in) & 1; /* a reset */
			break;
		case 6:
			cs_virtq_enable_kick(&w.q, &w.mem, fuzz_byte(&in) & 1);
			cs_virtq_wants_interrupt(&w.q, &w.mem);
			break;
		case 7: /* anything, anywhere */
			w.host[fuzz_byte(&in) % 2][fuzz_u16(&in) % SEG] = fuzz_byte(&in);
			break;
		}
	}
	close_world(&w);
	return 0;
}
