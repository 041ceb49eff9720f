/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The pages of a parked guest, there and back; and files that are none. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "store/base/io.h"
#include "vmm/snapshot-delta.h"

#define PAGE  ((size_t)CS_PAGE_BYTES)
#define PAGES 2048u /* of each of two segments */
#define SEG   (PAGES * PAGE)
#define BASE  'b'

struct world {
	struct cs_ram ram, woken; /* as it was parked, and as it goes on */
	int base, fd;
	struct cs_picture picture;
	struct cs_picture_count count;
};

static void map(struct cs_ram *ram, int base)
{
	*ram = (struct cs_ram){ .n = 3 };
	for (unsigned i = 0; i < 3; i++) {
		struct cs_seg *seg = &ram->seg[i];

		seg->gpa = i * SEG;
		seg->bytes = SEG;
		seg->backing = i == 2     ? CS_BACKING_SHARED
			       : base < 0 ? CS_BACKING_ANON
					  : CS_BACKING_COW;
		seg->host = mmap(NULL, SEG, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | (base < 0 ? MAP_ANONYMOUS : 0), base,
				 base < 0 ? 0 : (off_t)(i % 2 * SEG));
		assert_true(seg->host != MAP_FAILED);
	}
}

static void unmap(struct cs_ram *ram)
{
	for (unsigned i = 0; i < 3; i++)
		munmap(ram->seg[i].host, SEG);
}

static struct world *open_world(bool from_memory)
{
	struct world *w = test_calloc(1, sizeof(*w));
	char page[PAGE];

	w->base = -1;
	if (from_memory) {
		w->base = memfd_create("base", MFD_CLOEXEC);
		memset(page, BASE, PAGE);
		for (unsigned i = 0; i < 2 * PAGES; i++)
			assert_int_equal(cs_pwrite_full(w->base, page, PAGE, i * PAGE), 0);
	}
	w->fd = memfd_create("delta", MFD_CLOEXEC);
	map(&w->ram, w->base);
	map(&w->woken, w->base);
	return w;
}

static int setup_zeroes(void **state)
{
	*state = open_world(false);
	return 0;
}

static int setup_memory(void **state)
{
	*state = open_world(true);
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	cs_picture_clear(&w->picture);
	unmap(&w->ram);
	unmap(&w->woken);
	if (w->base >= 0)
		close(w->base);
	close(w->fd);
	test_free(w);
	return 0;
}

static bool always(void *arg)
{
	return true;
}

static bool never(void *arg)
{
	return false;
}

static char *page_of(const struct cs_ram *ram, unsigned page)
{
	return (char *)ram->seg[page / PAGES].host + page % PAGES * PAGE;
}

static void park(struct world *w)
{
	int pagemap_fd = cs_pagemap_open();
	struct cs_err err = { 0 };

	assert_true(pagemap_fd >= 0);
	cs_picture_clear(&w->picture);
	assert_int_equal(cs_picture_take(pagemap_fd, &w->ram, NULL, &w->picture), 0);
	close(pagemap_fd);
	assert_int_equal(cs_delta_write(&w->picture, w->fd, always, NULL, &w->count, &err), 0);
}

static int wake(struct world *w)
{
	struct cs_err err = { 0 };
	int r = cs_delta_read(&w->woken, w->fd, &err);

	assert_int_equal(err.code, -r);
	assert_true((r == 0) == (err.text[0] == '\0'));
	return r;
}

static void assert_same(const struct world *w)
{
	for (unsigned i = 0; i < 2; i++)
		assert_memory_equal(w->ram.seg[i].host, w->woken.seg[i].host, SEG);
}

static uint64_t size_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_size;
}

static void test_nothing(void **state)
{
	struct world *w = *state;

	park(w);
	assert_int_equal(w->count.pages, 0);
	assert_true(size_of(w->fd) <= PAGE);
	assert_int_equal(wake(w), 0);
	assert_same(w);
}

/* Single pages, runs, over the seam, at both ends; some are zero. */
static void test_there_and_back(void **state)
{
	static const unsigned written[] = { 0,   7,         8,     9,         11,
					    500, PAGES - 1, PAGES, PAGES + 1, 2 * PAGES - 1 };
	struct world *w = *state;

	for (unsigned i = 0; i < sizeof(written) / sizeof(written[0]); i++)
		memset(page_of(&w->ram, written[i]), 'A' + (int)i, PAGE);
	memset(page_of(&w->ram, 8), 0, PAGE);
	memset(page_of(&w->ram, 900), 0, PAGE);
	memset(page_of(&w->ram, 901), 0, PAGE);
	park(w);
	assert_int_equal(w->count.bytes, 9 * PAGE);
	/* What did not change is not there. */
	assert_true(size_of(w->fd) < 11 * PAGE);
	assert_int_equal(wake(w), 0);
	assert_same(w);
	assert_int_equal(page_of(&w->woken, 8)[0], 0);
	assert_int_equal(page_of(&w->woken, 900)[5], 0);
	/* And once more: the file begins anew. */
	memset(page_of(&w->ram, 3), 'z', PAGE);
	park(w);
	assert_int_equal(wake(w), 0);
	assert_same(w);
}

/* Every other page: more entries than one call reads. */
static void test_many(void **state)
{
	struct world *w = *state;

	for (unsigned i = 0; i < 2 * PAGES; i += 2)
		memset(page_of(&w->ram, i), (int)(1 + i % 200), PAGE);
	park(w);
	assert_int_equal(w->count.bytes, PAGES * PAGE);
	assert_int_equal(wake(w), 0);
	assert_same(w);
}

static void test_given_up(void **state)
{
	struct world *w = *state;
	struct cs_picture_count count;
	struct cs_err err;

	memset(page_of(&w->ram, 3), 'z', PAGE);
	park(w);
	assert_int_equal(cs_delta_write(&w->picture, w->fd, never, NULL, &count, &err), -ECANCELED);
	assert_int_equal(wake(w), -EBADMSG); /* half of one is none */
}

static void test_other_size(void **state)
{
	struct world *w = *state;

	memset(page_of(&w->ram, 3), 'z', PAGE);
	park(w);
	w->woken.seg[1].bytes -= PAGE;
	assert_int_equal(wake(w), -ESTALE);
	w->woken.seg[1].bytes += PAGE;
}

static void test_truncated(void **state)
{
	struct world *w = *state;

	for (unsigned i = 0; i < 64; i += 3)
		memset(page_of(&w->ram, i), 'z', PAGE);
	park(w);
	for (uint64_t bytes = size_of(w->fd); bytes;) {
		bytes -= bytes > 100 ? 97 : 1;
		assert_int_equal(ftruncate(w->fd, (off_t)bytes), 0);
		assert_true(wake(w) < 0);
	}
	assert_int_equal(ftruncate(w->fd, 100000), 0);
	assert_int_equal(wake(w), -EBADMSG); /* zeroes */
}

/* Each bit of head and index: words or a memory, and never a byte outside of it (the segments lie
 * between others, and the sanitizer sees the rest). */
static void test_bits(void **state)
{
	struct world *w = *state;
	uint64_t size, index;
	unsigned refused = 0;

	for (unsigned i = 0; i < 30; i += 3)
		memset(page_of(&w->ram, i), i % 2 ? 0 : 'z', PAGE);
	park(w);
	size = size_of(w->fd);
	index = PAGE + w->count.bytes;
	assert_true(index < size);
	for (uint64_t bit = 0; bit < 8 * size; bit++) {
		unsigned char byte;

		if (bit == 8 * 32)
			bit = 8 * index;
		assert_int_equal(pread(w->fd, &byte, 1, (off_t)(bit / 8)), 1);
		byte ^= (unsigned char)(1u << bit % 8);
		assert_int_equal(pwrite(w->fd, &byte, 1, (off_t)(bit / 8)), 1);
		refused += wake(w) < 0;
		byte ^= (unsigned char)(1u << bit % 8);
		assert_int_equal(pwrite(w->fd, &byte, 1, (off_t)(bit / 8)), 1);
	}
	/* The head's are all needed, but for the flag that is no flag. */
	assert_true(refused > 32 * 8 - 8);
	unmap(&w->woken);
	map(&w->woken, w->base);
	assert_int_equal(wake(w), 0);
	assert_same(w);
}

#define BOTH(test)                                                                                 \
	{ #test " from zeroes", test, setup_zeroes, teardown, NULL },                              \
	{                                                                                          \
#test " from a memory", test, setup_memory, teardown, NULL                         \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(test_nothing),  BOTH(test_there_and_back), BOTH(test_many),
		BOTH(test_given_up), BOTH(test_other_size),     BOTH(test_truncated),
		BOTH(test_bits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
