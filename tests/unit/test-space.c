/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whose blocks are whose: by made-up extents against a count block by block, and by files that
 * share on a Btrfs. */
#include <errno.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#include "store/space.h"
#include "tests/unit/store-fixture.h"

#define PLACES 300
#define OWNERS 6
#define GROUPS 3

static size_t group_of(size_t owner)
{
	return owner % GROUPS;
}

static struct cs_space *make_parties(void)
{
	struct cs_space *space = NULL;
	size_t number;

	assert_int_equal(cs_space_open(&space, NULL), 0);
	for (size_t i = 0; i < GROUPS; i++) {
		assert_int_equal(cs_space_group(space, &number, NULL), 0);
		assert_int_equal(number, i);
	}
	for (size_t i = 0; i < OWNERS; i++) {
		assert_int_equal(cs_space_owner(space, group_of(i), &number, NULL), 0);
		assert_int_equal(number, i);
	}
	return space;
}

/* Place by place: who has it. */
static void count_slowly(bool has[PLACES][OWNERS], struct cs_space_count *owners,
			 struct cs_space_count *groups, uint64_t *ret_held)
{
	*ret_held = 0;
	for (size_t at = 0; at < PLACES; at++) {
		bool in[GROUPS] = { false };
		size_t n = 0, m = 0;

		for (size_t i = 0; i < OWNERS; i++) {
			n += has[at][i];
			in[group_of(i)] |= has[at][i];
		}
		for (size_t i = 0; i < GROUPS; i++)
			m += in[i];
		*ret_held += n > 0;
		for (size_t i = 0; i < OWNERS; i++) {
			owners[i].held_bytes += has[at][i];
			owners[i].alone_bytes += has[at][i] && n == 1;
		}
		for (size_t i = 0; i < GROUPS; i++) {
			groups[i].held_bytes += in[i];
			groups[i].alone_bytes += in[i] && m == 1;
		}
	}
}

static void test_random(void **state)
{
	srand(1);
	for (int round = 0; round < 300; round++) {
		struct cs_space_count owners[OWNERS] = { 0 }, groups[GROUPS] = { 0 }, got;
		bool has[PLACES][OWNERS] = { 0 };
		struct cs_space *space = make_parties();
		uint64_t held;

		for (int i = rand() % 40; i > 0; i--) {
			size_t owner = (size_t)rand() % OWNERS, start = (size_t)rand() % PLACES;
			size_t n = (size_t)rand() % (PLACES - start);

			assert_int_equal(cs_space_extent(space, owner, start, n), 0);
			for (size_t at = start; at < start + n; at++)
				has[at][owner] = true;
		}
		count_slowly(has, owners, groups, &held);
		cs_space_sum(space);
		assert_int_equal(cs_space_held(space), held);
		for (size_t i = 0; i < OWNERS; i++) {
			cs_space_of_owner(space, i, &got);
			assert_memory_equal(&got, &owners[i], sizeof(got));
		}
		for (size_t i = 0; i < GROUPS; i++) {
			cs_space_of_group(space, i, &got);
			assert_memory_equal(&got, &groups[i], sizeof(got));
		}
		cs_space_free(space);
	}
}

static void test_limits(void **state)
{
	struct cs_space *space = make_parties();
	struct cs_space_count count;

	assert_int_equal(cs_space_extent(space, 0, UINT64_MAX, 1), -EOVERFLOW);
	assert_int_equal(cs_space_extent(space, 0, 5, UINT64_MAX), -EOVERFLOW);
	assert_int_equal(cs_space_extent(space, 0, UINT64_MAX - 1, 1), 0);
	assert_int_equal(cs_space_extent(space, 0, 7, 0), 0);
	cs_space_sum(space);
	cs_space_of_owner(space, 0, &count);
	assert_int_equal(count.alone_bytes, 1);
	cs_space_free(space);
	cs_space_free(NULL);
}

/* A file of (blocks) of 4 KiB that are not alike. */
static int make_file(struct fixture *f, const char *name, unsigned blocks)
{
	int fd = openat(cs_store_dirfd(f->store), name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	unsigned char block[4096];

	assert_true(fd >= 0);
	for (unsigned i = 0; i < blocks; i++) {
		memset(block, (int)(i + 1), sizeof(block));
		assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
	}
	return fd;
}

static void test_files(void **state)
{
	struct fixture *f = *state;
	struct cs_space *space;
	struct cs_space_count count;
	struct cs_space_used used;
	struct file_clone_range range = { .src_length = 40 * 4096, .dest_offset = 100 * 4096 };
	int one, other;

	fixture_need_btrfs(f);
	one = make_file(f, "one", 100);
	other = make_file(f, "other", 30);
	fsync(one);
	range.src_fd = one;
	assert_int_equal(ioctl(other, FICLONERANGE, &range), 0);
	space = make_parties();
	assert_int_equal(cs_space_file(space, 0, one, &f->err), 0);
	assert_int_equal(cs_space_file(space, 1, other, &f->err), 0); /* not written out yet */
	cs_space_sum(space);
	cs_space_of_owner(space, 0, &count);
	assert_int_equal(count.logical_bytes, 100 * 4096);
	assert_int_equal(count.held_bytes, 100 * 4096);
	assert_int_equal(count.alone_bytes, 60 * 4096);
	cs_space_of_owner(space, 1, &count);
	assert_int_equal(count.logical_bytes, 140 * 4096);
	assert_int_equal(count.held_bytes, 70 * 4096);
	assert_int_equal(count.alone_bytes, 30 * 4096);
	assert_int_equal(cs_space_held(space), 130 * 4096);
	cs_space_free(space);

	syncfs(one);
	assert_int_equal(cs_space_used(cs_store_dirfd(f->store), &used, &f->err), 0);
	assert_true(used.mixed); /* it is a small one */
	assert_true(used.data_bytes >= 130 * 4096 && used.data_bytes < 32 * CS_MIB);
	space = make_parties();
	assert_int_equal(cs_space_folder(space, 0, cs_store_dirfd(f->store), &f->err), 0);
	cs_space_sum(space);
	assert_int_equal(cs_space_held(space), 130 * 4096);
	cs_space_free(space);
	close(one);
	close(other);
}

/* What cannot say where its files are. */
static void test_none(void **state)
{
	struct cs_space *space = make_parties();
	struct cs_err err = { 0 };
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);

	assert_int_equal(cs_space_file(space, 0, fd, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "does not say where"));
	close(fd);
	cs_space_free(space);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_none),
		cmocka_unit_test_setup_teardown(test_files, fixture_on_btrfs, fixture_remove),
	};

	return cmocka_run_group_tests_name("space", tests, NULL, NULL);
}
