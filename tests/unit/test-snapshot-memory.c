/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which pages are a machine's own, and what is written of them: with this process's own page table,
 * by the kernel's walk and by reading entries (ioctl is wrapped at link time). */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "store/base/io.h"
#include "store/base/own.h"
#include "vmm/snapshot-memory.h"

#define PAGE  ((size_t)CS_PAGE_BYTES)
#define PAGES 64u

static bool old_kernel; /* no PAGEMAP_SCAN */

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	if (!old_kernel)
		return __real_ioctl(fd, request, arg);
	errno = ENOTTY;
	return -1;
}

struct world {
	int pagemap_fd, parent_fd, out_fd;
	struct cs_ram ram;
	struct cs_picture picture;
};

static void *map(int fd)
{
	void *host = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);

	assert_ptr_not_equal(host, MAP_FAILED);
	madvise(host, PAGES * PAGE, MADV_NOHUGEPAGE);
	return host;
}

static void add_segment(struct world *w, uint64_t gpa, enum cs_backing backing, int fd)
{
	w->ram.seg[w->ram.n++] = (struct cs_seg){
		.gpa = gpa, .bytes = PAGES * PAGE, .host = map(fd), .backing = backing
	};
}

/* A page of (value) from gpa 0 on, through all segments but the last. */
static void put(struct world *w, unsigned page, int value)
{
	memset((char *)w->ram.seg[page / PAGES].host + page % PAGES * PAGE, value, PAGE);
}

/* What page (page) of (fd) is full of. */
static int get(int fd, unsigned page)
{
	unsigned char bytes[CS_PAGE_BYTES];

	assert_int_equal(cs_pread_full(fd, bytes, PAGE, page * PAGE), 0);
	for (size_t i = 1; i < PAGE; i++)
		assert_int_equal(bytes[i], bytes[0]);
	return bytes[0];
}

static int setup(void **state)
{
	struct world *w = test_calloc(1, sizeof(*w));
	char page[CS_PAGE_BYTES];

	w->pagemap_fd = cs_pagemap_open();
	assert_true(w->pagemap_fd >= 0);
	w->out_fd = memfd_create("out", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	w->parent_fd = memfd_create("parent", MFD_CLOEXEC);
	memset(page, 'p', PAGE);
	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(cs_pwrite_full(w->parent_fd, page, PAGE, i * PAGE), 0);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	old_kernel = false;
	for (size_t i = 0; i < w->ram.n; i++)
		munmap(w->ram.seg[i].host, w->ram.seg[i].bytes);
	cs_picture_clear(&w->picture);
	close(w->pagemap_fd);
	close(w->out_fd);
	close(w->parent_fd);
	test_free(w);
	return 0;
}

static bool yes(void *arg)
{
	unsigned *asked = arg;

	if (asked)
		++*asked;
	return true;
}

static bool no(void *arg)
{
	return false;
}

static struct cs_picture_count take_and_write(struct world *w, const struct cs_boot_span *file)
{
	struct cs_picture_count count = { 0 };
	struct cs_err err = { 0 };
	unsigned asked = 0;

	assert_int_equal(cs_picture_take(w->pagemap_fd, &w->ram, file, &w->picture), 0);
	assert_int_equal(cs_picture_write(&w->picture, w->out_fd, yes, &asked, &count, &err), 0);
	assert_int_equal(err.code, 0);
	assert_true(asked > 0);
	return count;
}

/* What it wrote, or has seen, as (n) ranges. */
static void ranges(struct world *w, bool seen, const struct cs_page_range expected[], size_t n)
{
	cs_auto(cs_picture_clear) struct cs_picture picture = { 0 };
	struct cs_page_range got[8];
	int fd = memfd_create("ranges", MFD_CLOEXEC);
	size_t got_n;

	assert_int_equal(seen ? cs_picture_take_seen(w->pagemap_fd, &w->ram, &picture)
			      : cs_picture_take(w->pagemap_fd, &w->ram, NULL, &picture),
			 0);
	assert_int_equal(cs_picture_ranges(&picture, fd, &got_n), 0);
	assert_int_equal(got_n, n);
	assert_int_equal(pread(fd, got, sizeof(got), 0), (ssize_t)(n * sizeof(got[0])));
	assert_memory_equal(got, expected, n * sizeof(got[0]));
	picture.n += CS_PICTURE_RANGES_MAX;
	assert_int_equal(cs_picture_ranges(&picture, fd, &got_n), -EFBIG);
	close(fd);
}

/* A fresh machine: touched pages that are not zero, in two segments, and a file's pages that nobody
 * has looked at. */
static void anon(void **state)
{
	struct world *w = *state;
	const struct cs_boot_span file[CS_BOOT_FILES] = { { 16 * PAGE, 4 * PAGE } };
	struct cs_picture_count count;
	struct stat st;

	add_segment(w, 0, CS_BACKING_ANON, -1);
	add_segment(w, UINT64_C(1) << 32, CS_BACKING_ANON, -1);
	add_segment(w, UINT64_C(1) << 33, CS_BACKING_SHARED, w->parent_fd);
	assert_ptr_not_equal(mmap((char *)w->ram.seg[0].host + 17 * PAGE, 2 * PAGE,
				  PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, w->parent_fd, 0),
			     MAP_FAILED);
	put(w, 3, 'a');
	put(w, 4, 'b');
	put(w, 5, 0); /* touched, and zero again */
	put(w, 18, 'c');
	put(w, PAGES + 63, 'd');
	assert_int_equal(cs_pwrite_full(w->out_fd, "rubbish", 7, 8 * PAGE), 0);
	count = take_and_write(w, file);
	assert_int_equal(w->picture.file_bytes, 2 * PAGES * PAGE);
	assert_int_equal(count.bytes, 5 * PAGE);
	assert_in_range(count.pages, 4 + 1 + 3, 2 * PAGES);
	assert_int_equal(fstat(w->out_fd, &st), 0);
	assert_int_equal(st.st_size, 2 * PAGES * PAGE);
	assert_in_range(st.st_blocks * 512, PAGE, 16 * PAGE); /* the rest are holes */
	for (unsigned i = 0; i < 2 * PAGES; i++) {
		const int want = i == 3            ? 'a'
				 : i == 4          ? 'b'
				 : i == 17         ? 'p'
				 : i == 18         ? 'c'
				 : i == PAGES + 63 ? 'd'
						   : 0;

		assert_int_equal(get(w->out_fd, i), want);
	}
}

/* A clone: only what it has written to, and what it has wiped. */
static void cow(void **state)
{
	struct world *w = *state;
	struct cs_picture_count count;
	const struct cs_page_range expected[] = { { 7, 3 }, { 60, 1 } }, all = { 0, PAGES };
	volatile char seen = 0;
	char *host;

	add_segment(w, 0, CS_BACKING_COW, w->parent_fd);
	host = w->ram.seg[0].host;
	for (unsigned i = 0; i < PAGES; i++)
		seen += host[i * PAGE]; /* read: the parent's pages are there, and not its own */
	put(w, 7, 'x');
	put(w, 8, 0);
	put(w, 9, 0);
	put(w, 60, 'y');
	for (unsigned i = 0; i < PAGES; i++) {
		char page[CS_PAGE_BYTES];

		memset(page, 'p', PAGE);
		assert_int_equal(cs_pwrite_full(w->out_fd, page, PAGE, i * PAGE), 0);
	}
	ranges(w, false, expected, 2);
	ranges(w, true, &all, 1);
	count = take_and_write(w, NULL);
	assert_int_equal(count.pages, 4);
	assert_int_equal(count.bytes, 2 * PAGE);
	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(get(w->out_fd, i), i == 7             ? 'x'
						    : i == 8 || i == 9 ? 0
						    : i == 60          ? 'y'
								       : 'p');
}

static void test_anon(void **state)
{
	anon(state);
}

static void test_anon_old_kernel(void **state)
{
	old_kernel = true;
	anon(state);
}

static void test_cow(void **state)
{
	cow(state);
}

static void test_cow_old_kernel(void **state)
{
	old_kernel = true;
	cow(state);
}

/* What the writer itself has written, behind the search. */
static void test_added(void **state)
{
	struct world *w = *state;
	struct cs_picture_count count = { 0 };
	struct cs_err err = { 0 };
	char *host;

	add_segment(w, 0, CS_BACKING_COW, w->parent_fd);
	add_segment(w, UINT64_C(1) << 32, CS_BACKING_COW, w->parent_fd);
	host = w->ram.seg[1].host;
	assert_int_equal(ftruncate(w->out_fd, 2 * PAGES * PAGE), 0);
	assert_int_equal(cs_picture_take(w->pagemap_fd, &w->ram, NULL, &w->picture), 0);
	put(w, PAGES + 5, 'x');
	put(w, PAGES + 6, 'y');
	assert_int_equal(cs_picture_add(&w->picture, &w->ram, host + 6 * PAGE - 1, 2), 0);
	assert_int_equal(cs_picture_write(&w->picture, w->out_fd, yes, NULL, &count, &err), 0);
	assert_int_equal(count.pages, 2);
	assert_int_equal(get(w->out_fd, PAGES + 5), 'x');
	assert_int_equal(get(w->out_fd, PAGES + 6), 'y');
	assert_int_equal(get(w->out_fd, PAGES + 7), 0);
	assert_int_equal(cs_picture_add(&w->picture, &w->ram, &count, 8), -EFAULT);
	assert_int_equal(cs_picture_add(&w->picture, &w->ram, host + PAGES * PAGE - 1, 1), 0);
}

static void test_failures(void **state)
{
	struct world *w = *state;
	struct cs_picture_count count = { 0 };
	struct cs_err err = { 0 };

	add_segment(w, 0, CS_BACKING_COW, w->parent_fd);
	put(w, 1, 'x');
	assert_int_equal(cs_picture_take(w->pagemap_fd, &w->ram, NULL, &w->picture), 0);
	/* Not a copy of the parent's memory. */
	assert_int_equal(cs_picture_write(&w->picture, w->out_fd, yes, NULL, &count, &err),
			 -EINVAL);
	assert_non_null(strstr(err.text, "no copy"));
	assert_int_equal(ftruncate(w->out_fd, PAGES * PAGE), 0);
	assert_int_equal(cs_picture_write(&w->picture, w->out_fd, no, NULL, &count, &err),
			 -ECANCELED);
	assert_int_equal(get(w->out_fd, 1), 0);
	assert_int_equal(fcntl(w->out_fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	assert_int_equal(cs_picture_write(&w->picture, w->out_fd, yes, NULL, &count, &err), -EPERM);
	assert_int_equal(count.pages, 0);
	cs_picture_clear(&w->picture);
	assert_true(cs_picture_take(-1, &w->ram, NULL, &w->picture) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_anon, setup, teardown),
		cmocka_unit_test_setup_teardown(test_anon_old_kernel, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cow, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cow_old_kernel, setup, teardown),
		cmocka_unit_test_setup_teardown(test_added, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failures, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
