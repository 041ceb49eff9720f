/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A page that is given back reads as what the segment is mapped from from then on: zeroes, or the
 * template's page, which all guests share. Either is a page that the guest may have as far as it
 * knows, but no one in particular: a guest that relies on what is in its free pages (Linux with
 * init_on_free or page_poison) wants VIRTIO_BALLOON_F_PAGE_POISON, is not offered it, and leaves
 * reporting alone (drivers/virtio/virtio_balloon.c virtballoon_validate()). */
#include "vmm/virtio-devices.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Linux numbers the queues that there are, without gaps for those that are not (statistics, hints).
 */
enum { INFLATE, DEFLATE, REPORTING, QUEUES };

#define QUEUE_SIZE 64 /* Linux reports 32 stretches at once (PAGE_REPORTING_CAPACITY) */

/* Page numbers looked at in one request, four times what Linux puts into one: what stands behind
 * is not given back, which costs memory and harms nobody. */
#define PAGES_MOST 1024u
#define PAGES_READ 256u

#define PAGE_SHIFT VIRTIO_BALLOON_PFN_SHIFT

_Static_assert(UINT64_C(1) << PAGE_SHIFT == CS_PAGE_BYTES, "virtio 1.2, 5.5.6");

struct balloon {
	struct cs_virtio dev;
	uint32_t target;         /* pages that the guest is asked to do without */
	uint32_t actual;         /* pages that it says it does without */
	uint64_t reports;        /* requests of REPORTING */
	uint64_t reported_bytes; /* given back by them */
};

/* ---- memory */

static uint64_t ram_pages(const struct cs_virtio *dev)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < dev->mem->ram.n; i++) {
		if (dev->mem->ram.seg[i].backing != CS_BACKING_SHARED)
			bytes += dev->mem->ram.seg[i].bytes;
	}
	return bytes / CS_PAGE_BYTES;
}

/* The whole pages in (bytes) at (host), which is guest memory, go back to the backing. KVM hears of
 * it by the notifier of the address space. What cannot be given back stays. */
static uint64_t drop(const void *host, uint64_t bytes)
{
	const uint64_t lead = -(uintptr_t)host & (CS_PAGE_BYTES - 1);
	const uint64_t whole = bytes > lead ? (bytes - lead) & ~(CS_PAGE_BYTES - 1) : 0;

	if (!whole || madvise((char *)host + lead, whole, MADV_DONTNEED) < 0)
		return 0;
	return whole;
}

/* ---- inflate: page numbers; deflate: the same, nothing is to be done */

/* A run of pages that grows at either end: Linux takes pages from the allocator one by one, in
 * order or against it. */
struct run {
	uint64_t first, pages;
};

static void drop_run(const struct cs_virtio *dev, const struct run *run)
{
	uint64_t gpa = run->first << PAGE_SHIFT, left = run->pages << PAGE_SHIFT;

	while (left) {
		uint64_t piece;
		void *host = cs_mem_span(dev->mem, gpa, left, true, &piece);

		if (!host)
			return; /* not RAM: a mistake of the guest's, and its alone */
		drop(host, piece);
		gpa += piece;
		left -= piece;
	}
}

static void add_page(const struct cs_virtio *dev, struct run *run, uint64_t page)
{
	if (run->pages && page == run->first + run->pages) {
		run->pages++;
	} else if (run->pages && page + 1 == run->first) {
		run->first--;
		run->pages++;
	} else {
		drop_run(dev, run);
		*run = (struct run){ .first = page, .pages = 1 };
	}
}

static int64_t inflate(struct cs_virtio *dev, const struct cs_chain *chain)
{
	uint32_t page[PAGES_READ];
	struct run run = { 0 };

	for (uint64_t done = 0; done < PAGES_MOST; done += PAGES_READ) {
		const size_t got =
			cs_chain_read(chain, done * sizeof(page[0]), page, sizeof(page)) /
			sizeof(page[0]);

		for (size_t i = 0; i < got; i++)
			add_page(dev, &run, le32toh(page[i]));
		if (got < PAGES_READ)
			break;
	}
	drop_run(dev, &run);
	return 0;
}

static int64_t deflate(struct cs_virtio *dev, const struct cs_chain *chain)
{
	return 0;
}

/* ---- reporting: the buffers themselves are the memory that is free */

static int64_t report(struct cs_virtio *dev, const struct cs_chain *chain)
{
	struct balloon *balloon = (struct balloon *)dev;

	balloon->reports++;
	for (unsigned i = 0; i < chain->writable; i++) {
		const struct iovec *piece = &chain->iov[chain->readable + i];

		balloon->reported_bytes += drop(piece->iov_base, piece->iov_len);
	}
	return 0;
}

/* ---- the device */

static void kick(struct cs_virtio *dev, unsigned queue)
{
	static const cs_virtio_serve_fn serve[QUEUES] = { inflate, deflate, report };

	cs_virtio_serve(dev, queue, serve[queue]);
}

static void config_read(struct cs_virtio *dev, uint64_t offset, void *buf, size_t bytes)
{
	const struct balloon *balloon = (const struct balloon *)dev;
	const struct virtio_balloon_config config = {
		.num_pages = htole32(balloon->target),
		.actual = htole32(balloon->actual),
	};

	cs_virtio_config(&config, sizeof(config), offset, buf, bytes);
}

static void config_write(struct cs_virtio *dev, uint64_t offset, const void *buf, size_t bytes)
{
	struct balloon *balloon = (struct balloon *)dev;
	uint32_t value;

	if (offset != offsetof(struct virtio_balloon_config, actual) || bytes != sizeof(value))
		return;
	memcpy(&value, buf, sizeof(value));
	balloon->actual = le32toh(value);
}

static void reset(struct cs_virtio *dev)
{
	((struct balloon *)dev)->actual = 0; /* a driver that goes takes its pages back */
}

static void state(struct cs_virtio *dev, struct cs_stream *stream)
{
	struct balloon *balloon = (struct balloon *)dev;

	cs_stream_field(stream, balloon->target);
	cs_stream_field(stream, balloon->actual);
	cs_stream_require(stream, balloon->target <= ram_pages(dev), "balloon's size");
}

static void balloon_free(struct cs_virtio *dev)
{
	free((struct balloon *)dev);
}

static const struct cs_virtio_ops ops = {
	.name = "balloon",
	.id = VIRTIO_ID_BALLOON,
	.queues = QUEUES,
	.queue_size = QUEUE_SIZE,
	.features = UINT64_C(1) << VIRTIO_BALLOON_F_DEFLATE_ON_OOM |
		    UINT64_C(1) << VIRTIO_BALLOON_F_REPORTING,
	.config_read = config_read,
	.config_write = config_write,
	.kick = kick,
	.reset = reset,
	.state = state,
	.free = balloon_free,
};

int cs_virtio_balloon_create(struct cs_virtio **ret, struct cs_err *err)
{
	struct balloon *balloon = calloc(1, sizeof(*balloon));

	if (!balloon)
		return cs_fail_errno(err, ENOMEM, "virtio balloon");
	balloon->dev.ops = &ops;
	*ret = &balloon->dev;
	return 0;
}

void cs_virtio_balloon_set(struct cs_virtio *dev, uint64_t usable_bytes)
{
	struct balloon *balloon = (struct balloon *)dev;
	const uint64_t all = ram_pages(dev), usable = usable_bytes / CS_PAGE_BYTES;
	const uint64_t target = usable < all ? all - usable : 0;

	balloon->target = target < UINT32_MAX ? (uint32_t)target : UINT32_MAX;
	if (dev->running)
		dev->interrupt(dev->interrupt_arg, true);
}

void cs_virtio_balloon_info(const struct cs_virtio *dev, struct cs_balloon_info *ret)
{
	const struct balloon *balloon = (const struct balloon *)dev;
	const uint64_t all = ram_pages(dev);
	const uint64_t actual = balloon->actual < all ? balloon->actual : all;

	*ret = (struct cs_balloon_info){
		.driven = dev->running,
		.target_bytes = (all - balloon->target) << PAGE_SHIFT,
		.actual_bytes = (all - actual) << PAGE_SHIFT,
		.reports = balloon->reports,
		.reported_bytes = balloon->reported_bytes,
	};
}
