/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest memory in this process: aligned, lazy, private; and the root, one copy for all. */
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "cow/ram.h"
#include "store/base/num.h"
#include "tests/unit/scratch.h"

#define HUGE (2 * CS_MIB)

static struct cs_ram plan(uint64_t ram_bytes, uint64_t root_bytes)
{
	struct cs_ram ram;

	assert_int_equal(cs_ram_plan(ram_bytes, root_bytes, &ram, NULL), 0);
	return ram;
}

/* A root of (bytes) whose page N begins with the byte N + 1. */
static struct cs_view make_root(struct scratch *scratch, uint64_t bytes)
{
	int fd = openat(scratch->fd, "root", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	for (uint64_t i = 0; i < bytes / CS_PAGE_BYTES; i++)
		assert_int_equal(cs_pwrite_full(fd, &(char){ (char)(i + 1) }, 1, i * CS_PAGE_BYTES),
				 0);
	close(fd);
	fd = openat(scratch->fd, "root", O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	return (struct cs_view){ .fd = fd, .bytes = bytes };
}

/* The lines of /proc/self/smaps of the mapping at (host). */
static char *smaps_of(const void *host, char *buf, size_t room)
{
	FILE *smaps = fopen("/proc/self/smaps", "re");
	bool within = false;
	char line[512], *p;
	unsigned long start;
	size_t used = 0;

	assert_non_null(smaps);
	while (fgets(line, sizeof(line), smaps)) {
		start = strtoul(line, &p, 16);
		if (*p == '-')
			within = start == (unsigned long)host;
		if (within && used + strlen(line) < room) {
			memcpy(buf + used, line, strlen(line));
			used += strlen(line);
		}
	}
	buf[used] = '\0';
	fclose(smaps);
	return buf;
}

static void test_ram(void **state)
{
	struct cs_ram ram = plan(128 * CS_MIB, 0);
	char smaps[8192];
	char *host;

	assert_int_equal(cs_ram_map(&ram, NULL, NULL, NULL), 0);
	host = ram.seg[0].host;
	assert_non_null(host);
	assert_int_equal((uintptr_t)host % HUGE, 0);
	smaps_of(host, smaps, sizeof(smaps));
	assert_non_null(strstr(smaps, "rw-p"));
	assert_non_null(strstr(smaps, "Size:             131072 kB"));
	assert_non_null(strstr(smaps, "Rss:                   0 kB"));
	/* not reserved, not dumped, no huge pages (where the kernel has them at all) */
	assert_non_null(strstr(smaps, " nr"));
	assert_non_null(strstr(smaps, " dd"));
	if (access("/sys/kernel/mm/transparent_hugepage", F_OK) == 0)
		assert_non_null(strstr(smaps, " nh"));
	host[0] = 1;
	host[128 * CS_MIB - 1] = 1;
	assert_int_equal(host[CS_MIB], 0);
	assert_non_null(
		strstr(smaps_of(host, smaps, sizeof(smaps)), "Private_Dirty:         8 kB"));
	cs_ram_unmap(&ram);
	assert_null(ram.seg[0].host);
	assert_string_equal(smaps_of(host, smaps, sizeof(smaps)), "");
	cs_ram_unmap(&ram);
}

static void test_nothing_but_the_segments_is_mapped(void **state)
{
	struct scratch *scratch = *state;
	struct cs_view root = make_root(scratch, HUGE);
	struct cs_ram ram[20];
	unsigned long before, after, pages;
	FILE *statm = fopen("/proc/self/statm", "re");

	assert_int_equal(fscanf(statm, "%lu", &before), 1);
	for (int i = 0; i < 20; i++) {
		ram[i] = plan(32 * CS_MIB + (uint64_t)i * CS_PAGE_BYTES, HUGE);
		assert_int_equal(cs_ram_map(&ram[i], &root, NULL, NULL), 0);
	}
	rewind(statm);
	assert_int_equal(fscanf(statm, "%lu", &after), 1);
	pages = 20 * 34 * CS_MIB / CS_PAGE_BYTES + 190;
	/* the heap may have grown, but not by the 2 MiB that aligning takes for a moment */
	assert_in_range(after - before, pages, pages + 256);
	for (int i = 0; i < 20; i++)
		cs_ram_unmap(&ram[i]);
	fclose(statm);
	close(root.fd);
}

static void test_gap(void **state)
{
	struct cs_ram ram = plan(CS_GAP_GPA + 8192, 0);

	/* 3 GiB and a bit: costs addresses only */
	assert_int_equal(cs_ram_map(&ram, NULL, NULL, NULL), 0);
	assert_int_equal(ram.n, 2);
	assert_int_equal((uintptr_t)ram.seg[0].host % HUGE, 0);
	assert_int_equal((uintptr_t)ram.seg[1].host % HUGE, 0);
	((char *)ram.seg[1].host)[8191] = 1;
	((char *)ram.seg[0].host)[CS_GAP_GPA - 1] = 1;
	cs_ram_unmap(&ram);
}

static void test_root(void **state)
{
	struct scratch *scratch = *state;
	struct cs_view root = make_root(scratch, 2 * HUGE);
	struct cs_ram ram = plan(32 * CS_MIB, 2 * HUGE);
	char smaps[8192];
	char *host;
	int fd;

	assert_int_equal(cs_ram_map(&ram, &root, NULL, NULL), 0);
	assert_int_equal(ram.n, 2);
	host = ram.seg[1].host;
	assert_int_equal((uintptr_t)host % HUGE, 0);
	for (uint64_t i = 0; i < 2 * HUGE / CS_PAGE_BYTES; i++)
		assert_int_equal(host[i * CS_PAGE_BYTES], (char)(i + 1));
	smaps_of(host, smaps, sizeof(smaps));
	assert_non_null(strstr(smaps, "r--s"));
	assert_non_null(strstr(smaps, "Anonymous:             0 kB"));
	/* the one inode, not a copy of it: what is written there is seen here */
	fd = openat(scratch->fd, "root", O_WRONLY | O_CLOEXEC);
	assert_int_equal(cs_pwrite_full(fd, "Z", 1, 4096), 0);
	close(fd);
	assert_int_equal(host[4096], 'Z');
	cs_ram_unmap(&ram);
	close(root.fd);
}

/* A saved memory: each segment its own stretch of the one file; what is written stays here. */
static void test_memory(void **state)
{
	struct scratch *scratch = *state;
	struct cs_view memory = make_root(scratch, 2 * HUGE);
	struct cs_ram ram = { .n = 2 };
	struct cs_err err = { 0 };
	char smaps[8192], byte;
	char *first, *second;

	ram.seg[0] = (struct cs_seg){ .gpa = 0, .bytes = HUGE, .backing = CS_BACKING_COW };
	ram.seg[1] = (struct cs_seg){ .gpa = 8 * HUGE, .bytes = HUGE, .backing = CS_BACKING_COW };
	assert_int_equal(cs_ram_map(&ram, NULL, &memory, NULL), 0);
	first = ram.seg[0].host;
	second = ram.seg[1].host;
	for (uint64_t i = 0; i < HUGE / CS_PAGE_BYTES; i++) {
		assert_int_equal(first[i * CS_PAGE_BYTES], (char)(i + 1));
		assert_int_equal(second[i * CS_PAGE_BYTES], (char)(i + HUGE / CS_PAGE_BYTES + 1));
	}
	second[3 * CS_PAGE_BYTES] = 'Z';
	smaps_of(second, smaps, sizeof(smaps));
	assert_non_null(strstr(smaps, "rw-p"));
	assert_non_null(strstr(smaps, "Anonymous:             4 kB"));
	assert_int_equal(pread(memory.fd, &byte, 1, HUGE + 3 * CS_PAGE_BYTES), 1);
	assert_int_not_equal(byte, 'Z');
	cs_ram_unmap(&ram);

	ram.seg[1].bytes = HUGE + 2 * CS_PAGE_BYTES;
	assert_int_equal(cs_ram_map(&ram, NULL, &memory, &err), -EINVAL);
	assert_non_null(strstr(err.text, "too short"));
	assert_null(ram.seg[0].host);
	assert_int_equal(cs_ram_map(&ram, NULL, NULL, &err), -EINVAL);
	close(memory.fd);
}

/* Pages through both segments, what is behind their end, and a page that is the guest's already. */
static void test_populate(void **state)
{
	static const struct cs_page_range ranges[] = { { 1, 2 }, { 510, 4 }, { 1023, 100 } };
	struct scratch *scratch = *state;
	struct cs_view memory = make_root(scratch, 2 * HUGE);
	struct cs_ram ram = { .n = 2 };
	char smaps[8192], *first, *second;

	ram.seg[0] = (struct cs_seg){ .gpa = 0, .bytes = HUGE, .backing = CS_BACKING_COW };
	ram.seg[1] =
		(struct cs_seg){ .gpa = 8 * HUGE, .bytes = HUGE, .backing = CS_BACKING_DAXCOW };
	assert_int_equal(cs_ram_map(&ram, NULL, &memory, NULL), 0);
	first = ram.seg[0].host;
	second = ram.seg[1].host;
	first[2 * CS_PAGE_BYTES] = 'Z';
	cs_ram_populate(&ram, ranges, 0);
	smaps_of(first, smaps, sizeof(smaps));
	assert_non_null(strstr(smaps, "Anonymous:             4 kB"));
	cs_ram_populate(&ram, ranges, 3);
	smaps_of(first, smaps, sizeof(smaps));
	assert_non_null(strstr(smaps, "Anonymous:            16 kB"));
	smaps_of(second, smaps, sizeof(smaps));
	assert_non_null(strstr(smaps, "Anonymous:            12 kB"));
	assert_int_equal(first[CS_PAGE_BYTES], 2);
	assert_int_equal(first[2 * CS_PAGE_BYTES], 'Z');
	assert_int_equal(second[511 * CS_PAGE_BYTES], (char)1024);
	cs_ram_unmap(&ram);
	close(memory.fd);
}

/* Where the kernel knows how: no page comes with another. */
static void test_singly(void **state)
{
	struct scratch *scratch = *state;
	struct cs_view memory = make_root(scratch, HUGE);
	struct cs_ram ram = { .n = 1 };
	volatile char *host;
	uint64_t entry[16];
	int fd, pagemap_fd;
	size_t n = 0;

	ram.seg[0] = (struct cs_seg){ .gpa = 0, .bytes = HUGE, .backing = CS_BACKING_COW };
	assert_int_equal(cs_ram_map(&ram, NULL, &memory, NULL), 0);
	host = ram.seg[0].host;
	fd = cs_ram_map_singly(&ram);
	if (fd < 0) {
		print_message("not on this kernel: %s\n", strerror(-fd));
		cs_ram_unmap(&ram);
		close(memory.fd);
		skip();
	}
	assert_int_equal(host[3 * CS_PAGE_BYTES], 4);
	host[5 * CS_PAGE_BYTES] = 'Z';
	pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(pagemap_fd, entry, sizeof(entry),
			       (off_t)((uintptr_t)host / CS_PAGE_BYTES * 8)),
			 sizeof(entry));
	for (size_t i = 0; i < 16; i++)
		n += entry[i] >> 63;
	assert_int_equal(n, 2);
	assert_true(entry[3] >> 63 && entry[5] >> 63);
	close(pagemap_fd);
	close(fd);
	cs_ram_unmap(&ram);
	close(memory.fd);
}

static void test_root_cannot_be_written(void **state)
{
	struct scratch *scratch = *state;
	struct cs_view root = make_root(scratch, HUGE);
	struct cs_ram ram = plan(32 * CS_MIB, HUGE);
	int status;
	pid_t pid;

	assert_int_equal(cs_ram_map(&ram, &root, NULL, NULL), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		signal(SIGSEGV, SIG_DFL);
		*(volatile char *)ram.seg[1].host = 'x';
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	/* not by changing the mapping either: the file is open for reading only */
	assert_int_equal(mprotect(ram.seg[1].host, CS_PAGE_BYTES, PROT_READ | PROT_WRITE), -1);
	assert_int_equal(errno, EACCES);
	cs_ram_unmap(&ram);
	close(root.fd);
}

/* A root that ends early would kill the monitor when the guest reads there. */
static void test_short_root(void **state)
{
	static const uint64_t sizes[] = { 1, HUGE - 2 * CS_PAGE_BYTES, HUGE - CS_PAGE_BYTES };
	struct scratch *scratch = *state;
	struct cs_err err = { .code = 0 };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct cs_view root = make_root(scratch, sizes[i]);
		struct cs_ram ram = plan(32 * CS_MIB, sizes[i]);

		assert_int_equal(ram.seg[1].bytes, HUGE);
		assert_int_equal(cs_ram_map(&ram, &root, NULL, &err), -EINVAL);
		assert_non_null(strstr(err.text, "too short"));
		assert_null(ram.seg[0].host);
		assert_null(ram.seg[1].host);
		close(root.fd);
	}
	/* into the last page is enough: the kernel fills it up with zeroes */
	struct cs_view root = make_root(scratch, HUGE - 100);
	struct cs_ram ram = plan(32 * CS_MIB, HUGE - 100);

	assert_int_equal(cs_ram_map(&ram, &root, NULL, &err), 0);
	assert_int_equal(((char *)ram.seg[1].host)[HUGE - 1], 0);
	cs_ram_unmap(&ram);
	close(root.fd);
}

static void test_refused(void **state)
{
	struct scratch *scratch = *state;
	struct cs_view root = make_root(scratch, HUGE), odd;
	struct cs_ram ram = plan(32 * CS_MIB, HUGE);
	struct cs_err err = { .code = 0 };
	int ends[2];

	assert_int_equal(cs_ram_map(&ram, NULL, NULL, &err), -EINVAL);
	odd = root;
	odd.offset = 512;
	assert_int_equal(cs_ram_map(&ram, &odd, NULL, &err), -EINVAL);
	odd.offset = UINT64_MAX - 4095;
	assert_int_equal(cs_ram_map(&ram, &odd, NULL, &err), -EINVAL);
	odd.offset = CS_PAGE_BYTES;
	assert_int_equal(cs_ram_map(&ram, &odd, NULL, &err), -EINVAL);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	odd = (struct cs_view){ .fd = ends[0], .bytes = HUGE };
	assert_int_equal(cs_ram_map(&ram, &odd, NULL, &err), -EINVAL);
	odd.fd = -1;
	assert_int_equal(cs_ram_map(&ram, &odd, NULL, &err), -EBADF);
	for (size_t i = 0; i < ram.n; i++)
		assert_null(ram.seg[i].host);
	/* more addresses than there are */
	ram = (struct cs_ram){ .n = 2,
			       .seg = { { .bytes = CS_MIB }, { .bytes = UINT64_C(1) << 60 } } };
	assert_int_equal(cs_ram_map(&ram, NULL, NULL, &err), -ENOMEM);
	assert_null(ram.seg[0].host);
	close(ends[0]);
	close(ends[1]);
	close(root.fd);
}

#define SCRATCH_TEST(test) cmocka_unit_test_setup_teardown(test, scratch_make, scratch_remove)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ram),
		SCRATCH_TEST(test_nothing_but_the_segments_is_mapped),
		cmocka_unit_test(test_gap),
		SCRATCH_TEST(test_root),
		SCRATCH_TEST(test_memory),
		SCRATCH_TEST(test_populate),
		SCRATCH_TEST(test_singly),
		SCRATCH_TEST(test_root_cannot_be_written),
		SCRATCH_TEST(test_short_root),
		SCRATCH_TEST(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
