/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A new file that is partly an old one: whatever is given comes back, by clones where there are
 * any, by writes elsewhere; what is shared is counted right. */
#include "store/share.h"
#include "store/writer.h"
#include "tests/unit/store-fixture.h"

#define BLOCK 4096
#define OLD   400 /* blocks */

struct files {
	struct fixture *f;
	int old_fd, new_fd;
	struct cs_share *share;
};

/* A block that is like no other; of kind 0: zeroes. */
static void make_block(unsigned char *block, uint32_t kind)
{
	memset(block, 0, BLOCK);
	for (unsigned i = 0; kind && i < BLOCK; i += 4) {
		uint32_t word = kind * 2654435761u + i * 40503u;

		memcpy(block + i, &word, sizeof(word));
	}
}

static void open_files(struct fixture *f, struct files *files, unsigned old_blocks)
{
	const char *root = f->image ? f->root : f->scratch->path;
	unsigned char block[BLOCK];
	char path[400];

	*files = (struct files){ .f = f };
	snprintf(path, sizeof(path), "%s/old", root);
	files->old_fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	snprintf(path, sizeof(path), "%s/new", root);
	files->new_fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(files->old_fd >= 0 && files->new_fd >= 0);
	for (uint32_t i = 0; i < old_blocks; i++) {
		make_block(block, i + 1);
		assert_int_equal(pwrite(files->old_fd, block, BLOCK, i * BLOCK), BLOCK);
	}
	fsync(files->old_fd);
	assert_int_equal(cs_share_open(files->old_fd, old_blocks * BLOCK, &files->share), 0);
}

static void close_files(struct files *files)
{
	cs_share_free(files->share);
	close(files->old_fd);
	close(files->new_fd);
}

/* Blocks of (kinds), written in pieces of (piece) bytes from (skip) on, then read back. */
static void put(struct files *files, const uint32_t *kinds, unsigned n, size_t piece, uint64_t skip)
{
	const uint64_t bytes = (uint64_t)n * BLOCK;
	unsigned char *data = malloc(bytes), *back = malloc(bytes);

	assert_true(data && back);
	for (unsigned i = 0; i < n; i++)
		make_block(data + i * BLOCK, kinds[i]);
	for (uint64_t at = 0; at < bytes; at += piece) {
		uint64_t part = bytes - at < piece ? bytes - at : piece;

		assert_int_equal(
			cs_share_write(files->share, files->new_fd, data + at, part, skip + at), 0);
	}
	assert_int_equal(cs_share_flush(files->share, files->new_fd), 0);
	assert_int_equal(pread(files->new_fd, back, bytes, (off_t)skip), (ssize_t)bytes);
	assert_memory_equal(data, back, bytes);
	free(data);
	free(back);
}

static void check_count(struct files *files, unsigned shared, unsigned fresh, unsigned runs)
{
	struct cs_share_count count;

	cs_share_count(files->share, &count);
	if (!files->f->image) { /* nothing is cloned here */
		fresh += shared;
		shared = runs = 0;
	}
	assert_int_equal(count.shared_bytes, shared * BLOCK);
	assert_int_equal(count.new_bytes, fresh * BLOCK);
	assert_int_equal(count.runs, runs);
}

static unsigned range(uint32_t *kinds, uint32_t from, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		kinds[i] = from + i;
	return n;
}

/* Runs of the old in another order, new blocks between, and runs that are not worth it. */
static unsigned mixed(uint32_t *kinds)
{
	unsigned n = 0;

	n += range(kinds + n, 101, 50);
	n += range(kinds + n, 5001, 3);
	n += range(kinds + n, 11, 20);
	n += range(kinds + n, 6001, 1);
	n += range(kinds + n, 301, 3); /* too short */
	n += range(kinds + n, 201, 100);
	n += range(kinds + n, 396, 5); /* the end of the old one */
	n += range(kinds + n, 7001, 2);
	return n;
}

static void check_mixed(struct fixture *f)
{
	/* whole blocks; pieces that a run crosses; nothing aligned with anything */
	static const size_t pieces[] = { BLOCK, 7 * BLOCK, 1 << 20 };
	uint32_t kinds[300];
	struct files files;
	const unsigned n = mixed(kinds);

	for (size_t i = 0; i < 3; i++) {
		open_files(f, &files, OLD);
		put(&files, kinds, n, pieces[i], BLOCK);
		if (pieces[i] == 1 << 20)
			check_count(&files, 175, 9, 4);
		close_files(&files);
	}
	open_files(f, &files, OLD);
	put(&files, kinds, n, 10000, BLOCK); /* blocks cut in two are written */
	put(&files, kinds, n, 5 * BLOCK, 300 * BLOCK + 1000);
	close_files(&files);
}

/* All blocks alike, all zeroes, an old file of nothing: no trap. */
static void check_odd(struct fixture *f)
{
	uint32_t kinds[OLD];
	unsigned char block[BLOCK];
	struct files files;

	open_files(f, &files, 0);
	put(&files, kinds, range(kinds, 1, 100), 1 << 20, 0);
	check_count(&files, 0, 100, 0);
	close_files(&files);

	open_files(f, &files, OLD);
	memset(kinds, 0, sizeof(kinds));
	put(&files, kinds, 100, 1 << 20, 0);
	check_count(&files, 0, 100, 0);
	close_files(&files);

	open_files(f, &files, 0);
	make_block(block, 9);
	for (unsigned i = 0; i < OLD; i++)
		assert_int_equal(pwrite(files.old_fd, block, BLOCK, i * BLOCK), BLOCK);
	cs_share_free(files.share);
	fsync(files.old_fd);
	assert_int_equal(cs_share_open(files.old_fd, OLD * BLOCK, &files.share), 0);
	for (unsigned i = 0; i < OLD; i++)
		kinds[i] = 9;
	put(&files, kinds, OLD, 1 << 20, 0);
	check_count(&files, OLD, 0, 1);
	close_files(&files);
}

/* A sparse file as a whole, and by the writer's thread, which is asked to flush in the middle. */
static void check_whole(struct fixture *f)
{
	unsigned char *data = malloc(OLD * BLOCK), *back = malloc(OLD * BLOCK);
	struct cs_writer *writer = NULL;
	struct cs_share_count count;
	struct files files;
	char path[400];
	int fd;

	open_files(f, &files, OLD);
	snprintf(path, sizeof(path), "%s/third", f->image ? f->root : f->scratch->path);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_int_equal(pread(files.old_fd, data, OLD * BLOCK, 0), OLD * BLOCK);
	assert_int_equal(pwrite(fd, data + 10 * BLOCK, 100 * BLOCK, 50 << 20), 100 * BLOCK);
	assert_int_equal(ftruncate(fd, (100 << 20) + 5), 0);
	assert_int_equal(cs_share_copy(files.share, fd, (100 << 20) + 5, files.new_fd), 0);
	check_count(&files, 100, 0, 1);
	assert_int_equal(lseek(files.new_fd, 0, SEEK_END), (100 << 20) + 5);
	assert_int_equal(lseek(files.new_fd, 0, SEEK_DATA), 50 << 20);
	assert_int_equal(pread(files.new_fd, back, 100 * BLOCK, 50 << 20), 100 * BLOCK);
	assert_memory_equal(back, data + 10 * BLOCK, 100 * BLOCK);

	assert_int_equal(ftruncate(files.new_fd, 0), 0);
	assert_int_equal(cs_writer_open(files.new_fd, BLOCK, &writer), 0);
	cs_writer_share(writer, files.share);
	assert_int_equal(cs_writer_append(writer, data, 100 * BLOCK), 0);
	assert_int_equal(cs_writer_flush(writer), 0);
	assert_int_equal(pread(files.new_fd, back, 100 * BLOCK, BLOCK), 100 * BLOCK);
	assert_memory_equal(back, data, 100 * BLOCK);
	assert_int_equal(cs_writer_append(writer, data, OLD * BLOCK), 0);
	assert_int_equal(cs_writer_flush(writer), 0);
	assert_int_equal(cs_writer_flush(writer), 0);
	assert_int_equal(pread(files.new_fd, back, OLD * BLOCK, 101 * BLOCK), OLD * BLOCK);
	assert_memory_equal(back, data, OLD * BLOCK);
	cs_writer_free(writer);
	cs_share_count(files.share, &count);
	assert_int_equal(count.new_bytes, f->image ? 0 : 600 * BLOCK);
	close(fd);
	close_files(&files);
	free(data);
	free(back);
}

static void in_folder(void **state)
{
	check_mixed(*state);
	check_odd(*state);
	check_whole(*state);
}

static void on_btrfs(void **state)
{
	fixture_need_btrfs(*state);
	in_folder(state);
}

/* The old file loses its end under us: what can be read is shared, the rest is written. */
static void old_shrinks(void **state)
{
	uint32_t kinds[OLD];
	struct files files;

	open_files(*state, &files, OLD);
	assert_int_equal(ftruncate(files.old_fd, 100 * BLOCK), 0);
	put(&files, kinds, range(kinds, 201, 100), 1 << 20, 0);
	check_count(&files, 0, 100, 0);
	assert_int_equal(cs_share_open(files.old_fd, OLD * BLOCK, &files.share), -ENODATA);
	close_files(&files);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(in_folder, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(on_btrfs, fixture_on_btrfs, fixture_remove),
		cmocka_unit_test_setup_teardown(old_shrinks, fixture_in_folder, fixture_remove),
	};

	return cmocka_run_group_tests_name("share", tests, NULL, NULL);
}
