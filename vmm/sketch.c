/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/sketch.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

/* All of it is in the header, so nothing is to be linked or loaded. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "store/base/io.h"
#include "store/base/own.h"
#include "vmm/snapshot-memory.h"

#define BATCH 512

#define ENTRY_IS_ONE_MAPS (UINT64_C(1) << 56) /* Documentation/admin-guide/mm/pagemap.rst */

struct sketch {
	struct cs_sketch_page page[BATCH]; /* yet to be written */
	size_t n;
	uint64_t entry[BATCH];
	uint64_t written; /* pages */
	int pagemap_fd, fd;
};

static int flush(struct sketch *sketch)
{
	int r = cs_pwrite_full(sketch->fd, sketch->page, sketch->n * sizeof(sketch->page[0]),
			       sketch->written * sizeof(sketch->page[0]));

	sketch->written += sketch->n;
	sketch->n = 0;
	return r;
}

/* (n) pages at (host), which are page number (first) and so on. */
static int add(struct sketch *sketch, const char *host, uint64_t first, size_t n)
{
	int r;

	r = cs_pread_full(sketch->pagemap_fd, sketch->entry, n * sizeof(sketch->entry[0]),
			  (uintptr_t)host / CS_PAGE_BYTES * sizeof(sketch->entry[0]));
	if (r == 0 && n > BATCH - sketch->n)
		r = flush(sketch);
	for (size_t i = 0; i < n && r == 0; i++) {
		const uint64_t hash = XXH3_64bits(host + i * CS_PAGE_BYTES, CS_PAGE_BYTES);
		const bool merged = !(sketch->entry[i] & ENTRY_IS_ONE_MAPS);

		sketch->page[sketch->n++] = (struct cs_sketch_page){
			.page = (uint32_t)(first + i),
			.hash = ((uint32_t)(hash >> 32) & ~CS_SKETCH_MERGED) |
				(merged ? CS_SKETCH_MERGED : 0),
		};
	}
	return r;
}

static int add_stretch(struct sketch *sketch, const struct cs_stretch *stretch)
{
	const uint64_t first = stretch->offset / CS_PAGE_BYTES;
	const uint64_t pages = stretch->bytes / CS_PAGE_BYTES;
	int r = 0;

	for (uint64_t at = 0; at < pages && r == 0; at += BATCH)
		r = add(sketch, stretch->host + at * CS_PAGE_BYTES, first + at,
			pages - at < BATCH ? pages - at : BATCH);
	return r;
}

int cs_sketch_write(int pagemap_fd, const struct cs_ram *ram, int fd, uint64_t *ret_pages)
{
	cs_auto(cs_picture_clear) struct cs_picture picture = { 0 };
	struct sketch sketch = { .pagemap_fd = pagemap_fd, .fd = fd };
	uint64_t pages = 0;
	int r;

	r = cs_picture_take(pagemap_fd, ram, NULL, &picture);
	for (size_t i = 0; i < picture.n && r == 0; i++)
		pages += picture.stretch[i].bytes / CS_PAGE_BYTES;
	if (r == 0 &&
	    (pages > CS_SKETCH_PAGES_MAX || picture.file_bytes / CS_PAGE_BYTES > UINT32_MAX))
		r = -EFBIG;
	for (size_t i = 0; i < picture.n && r == 0; i++)
		r = add_stretch(&sketch, &picture.stretch[i]);
	if (r == 0)
		r = flush(&sketch);
	if (r == 0)
		*ret_pages = sketch.written;
	return r;
}
