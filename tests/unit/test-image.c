/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Contents on their way into an image: holes, limits, writes that fail. */
#include <errno.h>

#include "store/image.h"
#include "store/writer.h"
#include "tests/unit/scratch.h"

#define MIB (UINT64_C(1) << 20)

struct fixture {
	void *scratch;
	int fd;
	struct cs_image *image;
	struct cs_node node;
};

static int make_sized(void **state, uint64_t max_bytes)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct scratch *scratch;

	assert_non_null(f);
	scratch_make(&f->scratch);
	scratch = f->scratch;
	f->fd = openat(scratch->fd, "image", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(cs_image_open(f->fd, 4096, max_bytes, &f->image, NULL), 0);
	*state = f;
	return 0;
}

static int make(void **state)
{
	return make_sized(state, 64 * MIB);
}

static int make_small(void **state)
{
	return make_sized(state, 2 * MIB);
}

static int unmake(void **state)
{
	struct fixture *f = *state;

	cs_image_free(f->image);
	free(f->node.extents);
	close(f->fd);
	scratch_remove(&f->scratch);
	free(f);
	return 0;
}

static void begin(struct fixture *f, uint64_t bytes)
{
	assert_int_equal(cs_image_file_begin(f->image, &f->node, bytes, NULL), 0);
}

static void put(struct fixture *f, uint64_t offset, const char *text)
{
	assert_int_equal(cs_image_file_data(f->image, offset, text, strlen(text), NULL), 0);
}

static void end(struct fixture *f)
{
	assert_int_equal(cs_image_file_end(f->image, NULL), 0);
}

/* (text) stands at (offset), and zeroes around it. */
static void expect(struct fixture *f, uint64_t offset, const char *text)
{
	char got[64] = "";

	assert_int_equal(cs_image_read(f->image, &f->node, offset, got, strlen(text), NULL), 0);
	assert_string_equal(got, text);
}

static void test_dense(void **state)
{
	struct fixture *f = *state;

	begin(f, 0);
	end(f);
	assert_int_equal(f->node.extent_count, 0);
	begin(f, 10000);
	put(f, 0, "begin");
	put(f, 5, "more");
	put(f, 9000, "far"); /* too near for a hole */
	end(f);
	assert_int_equal(f->node.extent_count, 1);
	assert_int_equal(f->node.extents[0].file_block, 0);
	assert_int_equal(f->node.extents[0].image_block, 1);
	assert_int_equal(f->node.extents[0].blocks, 3);
	assert_int_equal(f->node.bytes, 10000);
	expect(f, 0, "beginmore");
	expect(f, 9000, "far");
	assert_int_equal(cs_image_tell(f->image), 4096 + 3 * 4096);
	/* the next file begins on a block of its own */
	begin(f, 1);
	put(f, 0, "x");
	end(f);
	assert_int_equal(f->node.extents[0].image_block, 4);
}

static void test_unknown_length(void **state)
{
	struct fixture *f = *state;

	begin(f, CS_FILE_UNKNOWN);
	put(f, 0, "one");
	put(f, 200000, "two");
	end(f);
	assert_int_equal(f->node.bytes, 200003);
	assert_int_equal(f->node.extent_count, 1);
	expect(f, 200000, "two");
}

static void test_holes(void **state)
{
	struct fixture *f = *state;
	char got[8];

	/* in front, between and behind */
	begin(f, 10 * MIB + 5);
	put(f, MIB + 1, "first");
	put(f, 5 * MIB, "second");
	end(f);
	assert_int_equal(f->node.extent_count, 2);
	assert_int_equal(f->node.extents[0].file_block, MIB / 4096);
	assert_int_equal(f->node.extents[0].blocks, 1);
	assert_int_equal(f->node.extents[1].file_block, 5 * MIB / 4096);
	expect(f, MIB + 1, "first");
	expect(f, 5 * MIB, "second");
	assert_int_equal(cs_image_read(f->image, &f->node, 10 * MIB, got, 5, NULL), 0);
	assert_memory_equal(got, "\0\0\0\0\0", 5);
	assert_int_equal(cs_image_read(f->image, &f->node, 10 * MIB, got, 6, NULL), -ENODATA);
	assert_int_equal(cs_image_read(f->image, &f->node, UINT64_MAX, got, 2, NULL), -ENODATA);
	/* three blocks in the image, the superblock's room in front of them */
	assert_int_equal(cs_image_tell(f->image), 3 * 4096);
	/* nothing but a hole; and one too small to be one */
	begin(f, MIB);
	end(f);
	assert_int_equal(f->node.extent_count, 0);
	assert_int_equal(f->node.bytes, MIB);
	begin(f, 5000);
	end(f);
	assert_int_equal(f->node.extent_count, 1);
	assert_int_equal(f->node.extents[0].blocks, 2);
}

/* Of a huge file the map would be too long: its chunks are larger, and data fills them up. */
static void test_huge_and_sparse(void **state)
{
	struct fixture *f = *state;
	uint64_t chunk;

	begin(f, CS_FILE_MAX);
	chunk = UINT64_C(1) << f->node.chunk_bits;
	assert_true(CS_FILE_MAX / chunk <= MIB);
	put(f, CS_FILE_MAX - 3, "end");
	end(f);
	assert_int_equal(f->node.extent_count, 1);
	assert_int_equal(f->node.extents[0].file_block * 4096 % chunk, 0);
	expect(f, CS_FILE_MAX - 3, "end");
	assert_true(cs_image_tell(f->image) <= 4096 + chunk);
	assert_int_equal(cs_image_file_begin(f->image, &f->node, CS_FILE_MAX + 1, NULL), -EFBIG);
}

static void test_order_is_checked(void **state)
{
	struct fixture *f = *state;
	struct cs_err err = { 0 };

	begin(f, 100);
	put(f, 50, "abc");
	assert_int_equal(cs_image_file_data(f->image, 52, "x", 1, &err), -EINVAL);
	assert_int_equal(cs_image_file_data(f->image, 99, "xy", 2, NULL), -EINVAL);
	assert_int_equal(cs_image_file_data(f->image, UINT64_MAX, "x", 1, NULL), -EINVAL);
	assert_int_equal(cs_image_file_data(f->image, 0, "", 0, NULL), 0);
	put(f, 99, "z");
	end(f);
	expect(f, 50, "abc");
	assert_string_not_equal(err.text, "");
}

static void test_room(void **state)
{
	struct fixture *f = *state;
	struct cs_err err = { 0 };

	assert_int_equal(cs_image_room(f->image), 2 * MIB - 4096);
	begin(f, 3 * MIB);
	put(f, 0, "x");
	assert_int_equal(cs_image_zero(f->image, 3 * MIB, &err), -ENOSPC);
	assert_non_null(strstr(err.text, "2.0 MiB"));
	/* a gap that is filled counts as well */
	begin(f, CS_FILE_UNKNOWN);
	put(f, 0, "x");
	assert_int_equal(cs_image_file_data(f->image, CS_FILE_MAX - 10, "y", 1, NULL), -ENOSPC);
	assert_int_equal(cs_image_pad(f->image, UINT64_C(1) << 40, NULL), -ENOSPC);
}

/* Long zeroes are left out of the file, short ones not. */
static void test_sparse_on_the_host(void **state)
{
	struct fixture *f = *state;
	char *block = calloc(1, 8 * MIB);
	struct stat st;

	assert_non_null(block);
	block[0] = block[8 * MIB - 1] = 'x';
	begin(f, 8 * MIB);
	assert_int_equal(cs_image_file_data(f->image, 0, block, 8 * MIB, NULL), 0);
	end(f);
	assert_int_equal(cs_image_flush(f->image, NULL), 0);
	assert_int_equal(fsync(f->fd), 0);
	assert_int_equal(fstat(f->fd, &st), 0);
	assert_true(st.st_blocks * 512 < (long)MIB);
	assert_int_equal(st.st_size, 4096 + 8 * (long)MIB);
	free(block);
	expect(f, 8 * MIB - 1, "x");
}

/* What goes wrong in the thread comes out of a later call, and then of each. */
static void test_writes_that_fail(void **state)
{
	int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
	struct cs_image *image = NULL;
	struct cs_err err = { 0 };
	char *block = malloc(MIB);
	int r = 0;

	assert_true(fd >= 0 && block);
	memset(block, 'x', MIB);
	assert_int_equal(cs_image_open(fd, 0, 1024 * MIB, &image, NULL), 0);
	for (int i = 0; i < 64 && r == 0; i++)
		r = cs_image_append(image, block, MIB, &err);
	assert_int_equal(r, -ENOSPC);
	assert_non_null(strstr(err.text, "the store is full"));
	assert_int_equal(cs_image_flush(image, NULL), -ENOSPC);
	cs_image_free(image);
	close(fd);
	free(block);
}

/* Ended with buffers on their way: nothing hangs. */
static void test_given_up(void **state)
{
	struct fixture *f = *state;
	char *block = malloc(MIB);

	assert_non_null(block);
	memset(block, 'x', MIB);
	for (int i = 0; i < 3; i++)
		assert_int_equal(cs_image_append(f->image, block, MIB, NULL), 0);
	free(block);
	assert_null(cs_image_free(NULL));
	assert_null(cs_writer_free(NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_dense, make, unmake),
		cmocka_unit_test_setup_teardown(test_unknown_length, make, unmake),
		cmocka_unit_test_setup_teardown(test_holes, make, unmake),
		cmocka_unit_test_setup_teardown(test_huge_and_sparse, make, unmake),
		cmocka_unit_test_setup_teardown(test_order_is_checked, make, unmake),
		cmocka_unit_test_setup_teardown(test_room, make_small, unmake),
		cmocka_unit_test_setup_teardown(test_sparse_on_the_host, make, unmake),
		cmocka_unit_test(test_writes_that_fail),
		cmocka_unit_test_setup_teardown(test_given_up, make, unmake),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
