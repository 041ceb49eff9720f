/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a machine's own pages are like, of memory that is this test's. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm/sketch.h"
#include "vmm/snapshot-memory.h"

#define PAGES 1024

static char *map(int fd, size_t pages)
{
	char *host = mmap(NULL, pages * CS_PAGE_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_NORESERVE | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);

	assert_ptr_not_equal(host, MAP_FAILED);
	return host;
}

static size_t take(const struct cs_ram *ram, struct cs_sketch_page *page, size_t room)
{
	const int fd = memfd_create("sketch", MFD_CLOEXEC), pagemap_fd = cs_pagemap_open();
	uint64_t n = 77;

	assert_true(fd >= 0 && pagemap_fd >= 0);
	assert_int_equal(cs_sketch_write(pagemap_fd, ram, fd, &n), 0);
	assert_int_equal(lseek(fd, 0, SEEK_END), n * sizeof(*page));
	assert_in_range(n, 0, room);
	assert_int_equal(pread(fd, page, n * sizeof(*page), 0), n * sizeof(*page));
	close(pagemap_fd);
	close(fd);
	return n;
}

static void test_pages(void **state)
{
	const int fd = memfd_create("template", MFD_CLOEXEC);
	struct cs_sketch_page page[PAGES];
	struct cs_ram ram = { .n = 3 };
	char *file, *zero;
	pid_t pid;
	size_t n;

	assert_int_equal(ftruncate(fd, 64 * CS_PAGE_BYTES), 0);
	file = map(fd, 64);
	zero = map(-1, PAGES);
	madvise(zero, PAGES * CS_PAGE_BYTES, MADV_NOHUGEPAGE);
	ram.seg[0] = (struct cs_seg){ 0, 64 * CS_PAGE_BYTES, file, CS_BACKING_COW };
	ram.seg[1] = (struct cs_seg){ 1 << 30, PAGES * CS_PAGE_BYTES, zero, CS_BACKING_ANON };
	ram.seg[2] = (struct cs_seg){ 2U << 30, 4096, file, CS_BACKING_SHARED };
	(void)*(volatile char *)(file + 7 * CS_PAGE_BYTES); /* the template's: only read */
	strcpy(file + 9 * CS_PAGE_BYTES, "one");
	strcpy(zero + 3 * CS_PAGE_BYTES, "one");
	strcpy(zero + 4 * CS_PAGE_BYTES, "two");
	zero[5 * CS_PAGE_BYTES] = '\0';
	zero[600 * CS_PAGE_BYTES] = '\0';
	n = take(&ram, page, PAGES);
	assert_int_equal(n, 5);
	assert_int_equal(page[0].page, 9);
	assert_int_equal(page[1].page, 64 + 3);
	assert_int_equal(page[2].page, 64 + 4);
	assert_int_equal(page[3].page, 64 + 5);
	assert_int_equal(page[4].page, 64 + 600);
	assert_int_equal(page[0].hash, page[1].hash);
	assert_int_not_equal(page[1].hash, page[2].hash);
	assert_int_not_equal(page[2].hash, page[3].hash);
	assert_int_equal(page[3].hash, page[4].hash);
	/* what another process has mapped, too, is merged as far as we are concerned */
	for (size_t i = 0; i < n; i++)
		assert_int_equal(page[i].hash & CS_SKETCH_MERGED, 0);
	pid = fork();
	if (pid == 0) {
		pause();
		_exit(1);
	}
	take(&ram, page, PAGES);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(page[i].hash & CS_SKETCH_MERGED, CS_SKETCH_MERGED);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	/* the last byte of a page counts as the first does */
	zero[600 * CS_PAGE_BYTES + 4095] = 1;
	take(&ram, page, PAGES);
	assert_int_not_equal(page[3].hash, page[4].hash);
	/* more of them than are written at once */
	for (size_t i = 0; i < PAGES; i++)
		memcpy(zero + i * CS_PAGE_BYTES, &i, sizeof(i));
	ram.seg[0] = ram.seg[1];
	ram.n = 1;
	n = take(&ram, page, PAGES);
	assert_int_equal(n, PAGES);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(page[i].page, i);
	munmap(file, 64 * CS_PAGE_BYTES);
	munmap(zero, PAGES * CS_PAGE_BYTES);
	close(fd);
}

static void test_too_much(void **state)
{
	const size_t pages = CS_SKETCH_PAGES_MAX + 1;
	const int out_fd = memfd_create("sketch", MFD_CLOEXEC), pagemap_fd = cs_pagemap_open();
	struct cs_ram ram = { .n = 1 };
	uint64_t n = 77;
	char *host;

	/* Read only, all of it: of anonymous memory that counts, and takes none. */
	host = map(-1, pages);
	madvise(host, pages * CS_PAGE_BYTES, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < pages; i++)
		(void)*(volatile char *)(host + i * CS_PAGE_BYTES);
	ram.seg[0] = (struct cs_seg){ 0, pages * CS_PAGE_BYTES, host, CS_BACKING_ANON };
	assert_int_equal(cs_sketch_write(pagemap_fd, &ram, out_fd, &n), -EFBIG);
	assert_int_equal(n, 77);
	assert_int_equal(lseek(out_fd, 0, SEEK_END), 0);
	munmap(host, pages * CS_PAGE_BYTES);
	close(pagemap_fd);
	close(out_fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pages),
		cmocka_unit_test(test_too_much),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
