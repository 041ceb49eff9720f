/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The disk: each test once by io_uring and once without. Hostile requests are in
 * test-virtio-blk-hostile.c. */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_mmio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fake/disk.h"
#include "vmm/virtio-devices.h"

#define IN    VIRTIO_BLK_T_IN
#define OUT   VIRTIO_BLK_T_OUT
#define FLUSH VIRTIO_BLK_T_FLUSH
#define OK    VIRTIO_BLK_S_OK
#define IOERR VIRTIO_BLK_S_IOERR

typedef int (*file_fn)(void);

static struct fake_disk *open_disk(file_fn file, bool no_uring, bool read_only)
{
	struct fake_disk *disk = calloc(1, sizeof(*disk));

	assert_non_null(disk);
	fake_disk_world = (struct fake_disk_world){ .no_uring = no_uring };
	fake_disk_open(disk, file(), DISK_SECTORS, read_only);
	return disk;
}

static int setup_uring(void **state)
{
	*state = open_disk(fake_disk_file, false, false);
	return 0;
}

static int setup_plain(void **state)
{
	*state = open_disk(fake_disk_file, true, false);
	return 0;
}

static int setup_read_only(void **state)
{
	*state = open_disk(fake_disk_memfd, false, true);
	return 0;
}

static int teardown(void **state)
{
	fake_disk_close(*state);
	free(*state);
	return 0;
}

static unsigned char *data_of(struct fake_disk *d)
{
	return fake_at(&d->guest, d->data);
}

static bool file_is(struct fake_disk *d, unsigned char byte, unsigned offset, unsigned bytes)
{
	unsigned char got[4096];

	for (unsigned at = 0; at < bytes; at += sizeof(got)) {
		unsigned part = bytes - at < sizeof(got) ? bytes - at : sizeof(got);

		assert_int_equal(pread(d->fd, got, part, offset + at), part);
		for (unsigned i = 0; i < part; i++) {
			if (got[i] != byte)
				return false;
		}
	}
	return true;
}

static void fill_file(struct fake_disk *d, unsigned char byte)
{
	unsigned char block[4096];

	memset(block, byte, sizeof(block));
	for (unsigned at = 0; at < DISK_BYTES; at += sizeof(block))
		assert_int_equal(pwrite(d->fd, block, sizeof(block), at), sizeof(block));
}

/* ---- configuration */

static uint32_t config(struct fake_disk *d, uint64_t offset)
{
	return fake_read(&d->guest, VIRTIO_MMIO_CONFIG + offset);
}

static void configuration(void **state)
{
	struct fake_disk *d = *state;
	const uint64_t want = 1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE |
			      1ull << VIRTIO_BLK_F_TOPOLOGY | 1ull << VIRTIO_BLK_F_FLUSH |
			      1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES;

	assert_int_equal(fake_read(&d->guest, VIRTIO_MMIO_DEVICE_ID), 2);
	assert_int_equal(fake_offered(&d->guest) & 0xffffff, want);
	assert_int_equal(config(d, 0), DISK_SECTORS);
	assert_int_equal(config(d, 4), 0);
	assert_int_equal(config(d, offsetof(struct virtio_blk_config, seg_max)), DISK_QUEUE - 2);
	assert_int_equal(config(d, offsetof(struct virtio_blk_config, blk_size)), 512);
	assert_int_equal(config(d, offsetof(struct virtio_blk_config, max_discard_seg)), 1);
	assert_int_equal(config(d, offsetof(struct virtio_blk_config, max_write_zeroes_seg)), 1);
}

static void read_only(void **state)
{
	struct fake_disk *d = *state;
	const struct virtio_blk_discard_write_zeroes range = { .sector = 0, .num_sectors = 8 };

	assert_true(fake_offered(&d->guest) & 1ull << VIRTIO_BLK_F_RO);
	assert_false(fake_offered(&d->guest) & 1ull << VIRTIO_BLK_F_DISCARD);
	fill_file(d, 0x11);
	memset(data_of(d), 0x99, 512);
	assert_int_equal(fake_disk_do(d, OUT, 0, 512), IOERR);
	assert_int_equal(fake_disk_range(d, VIRTIO_BLK_T_DISCARD, &range), IOERR);
	assert_int_equal(fake_disk_range(d, VIRTIO_BLK_T_WRITE_ZEROES, &range), IOERR);
	assert_true(file_is(d, 0x11, 0, DISK_BYTES));
	assert_int_equal(fake_disk_do(d, IN, 5, 512), OK);
	assert_int_equal(data_of(d)[511], 0x11);
	assert_int_equal(fake_disk_do(d, FLUSH, 0, 0), OK);
}

/* ---- transfers */

static void writes_and_reads(void **state)
{
	struct fake_disk *d = *state;

	for (unsigned i = 0; i < DISK_DATA; i++)
		data_of(d)[i] = (unsigned char)(i * 7 + i / 512);
	assert_int_equal(fake_disk_do(d, OUT, 3, DISK_DATA), OK);
	memset(data_of(d), 0, DISK_DATA);
	assert_int_equal(fake_disk_do(d, FLUSH, 0, 0), OK);
	assert_int_equal(fake_disk_do(d, IN, 3, DISK_DATA), OK);
	for (unsigned i = 0; i < DISK_DATA; i++)
		assert_int_equal(data_of(d)[i], (unsigned char)(i * 7 + i / 512));
	assert_true(file_is(d, 0, 0, 3 * 512));
	assert_true(file_is(d, 0, 3 * 512 + DISK_DATA, 512));
}

/* Where there is io_uring it does the work; and a ring that the kernel gave is also fit for use. */
static void by_uring(void **state)
{
	struct fake_disk *d = *state;

	if (!fake_disk_world.uring) {
		print_message(
			"this host has no io_uring: the other tests show the plain way only\n");
		skip();
	}
	writes_and_reads(state);
	assert_int_equal(fake_disk_do(d, FLUSH, 0, 0), OK);
	assert_int_equal(fake_disk_world.transfers, 0);
	assert_int_equal(fake_disk_world.syncs, 0);
}

/* One piece of random work, done to the disk and to (copy). */
static void random_work(struct fake_disk *d, unsigned char *copy, unsigned random)
{
	const unsigned sector = (random >> 8) % DISK_SECTORS, work = (random >> 24) % 5;
	unsigned sectors = (random >> 16) % 40;
	struct virtio_blk_discard_write_zeroes range = { .sector = sector, .flags = work == 3 };

	if (sectors > DISK_SECTORS - sector)
		sectors = DISK_SECTORS - sector;
	range.num_sectors = sectors;
	memset(data_of(d), (int)(random >> 5), sectors * 512);
	if (work == 0) {
		assert_int_equal(fake_disk_do(d, IN, sector, sectors * 512), OK);
		assert_memory_equal(data_of(d), copy + 512 * sector, 512 * sectors);
	} else if (work == 1) {
		assert_int_equal(fake_disk_do(d, OUT, sector, sectors * 512), OK);
		memset(copy + 512 * sector, (int)(random >> 5), 512 * sectors);
	} else {
		const uint32_t type = work == 2 ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES;

		assert_int_equal(fake_disk_range(d, type, &range), OK);
		memset(copy + 512 * sector, 0, 512 * sectors);
	}
}

static void as_a_copy_in_memory(void **state)
{
	struct fake_disk *d = *state;
	unsigned char copy[DISK_BYTES] = { 0 };
	unsigned random = 12345;

	for (unsigned i = 0; i < 300; i++) {
		random = random * 1103515245 + 12345;
		random_work(d, copy, random);
	}
	for (unsigned at = 0; at < DISK_BYTES; at += DISK_DATA) {
		assert_int_equal(fake_disk_do(d, IN, at / 512, DISK_DATA), OK);
		assert_memory_equal(data_of(d), copy + at, DISK_DATA);
	}
}

static void last_sector(void **state)
{
	struct fake_disk *d = *state;

	memset(data_of(d), 0x42, 512);
	assert_int_equal(fake_disk_do(d, OUT, DISK_SECTORS - 1, 512), OK);
	assert_true(file_is(d, 0x42, DISK_BYTES - 512, 512));
	assert_int_equal(lseek(d->fd, 0, SEEK_END), DISK_BYTES);
}

/* Any layout is allowed (2.7.4): head, data and status cut anywhere, together or not. */
static void any_layout(void **state)
{
	struct fake_disk *d = *state;
	const uint64_t head = d->head, data = d->data;
	struct fake_buf buf[DISK_QUEUE];
	struct virtio_blk_outhdr *h = fake_at(&d->guest, head);
	unsigned n = 0;

	*h = (struct virtio_blk_outhdr){ .type = OUT, .sector = 9 };
	memset((char *)h + sizeof(*h), 0x31, 1024);
	buf[0] = (struct fake_buf){ head, sizeof(*h) + 1024, false }; /* head and data in one */
	buf[1] = (struct fake_buf){ d->status, 1, true };
	fake_send(&d->q, buf, 2);
	assert_int_equal(fake_disk_wait(d, 1), OK);
	assert_true(file_is(d, 0x31, 9 * 512, 1024));

	h->type = IN;
	for (n = 0; n < 16; n++) /* the head byte by byte */
		buf[n] = (struct fake_buf){ head + n, 1, false };
	for (unsigned i = 0; i < 100; i++) /* data, backwards in memory */
		buf[n++] = (struct fake_buf){ data + 8 * (100 - i), 5, true };
	buf[n++] = (struct fake_buf){ data + 2000, 524, true };
	buf[n++] = (struct fake_buf){ d->status, 1, true };
	fake_send(&d->q, buf, n);
	assert_int_equal(fake_disk_wait(d, 1025), OK);
	assert_int_equal(data_of(d)[8], 0x31);
	assert_int_equal(data_of(d)[12], 0x31);
	assert_int_equal(data_of(d)[13], 0);
	assert_int_equal(data_of(d)[2523], 0x31);

	memset(data_of(d), 0xcc, 2048);
	buf[0] = (struct fake_buf){ head, 16, false };
	buf[1] = (struct fake_buf){ data, 1025, true }; /* data and status in one */
	fake_send(&d->q, buf, 2);
	assert_int_not_equal(fake_disk_wait(d, 1025), IOERR);
	assert_int_equal(data_of(d)[1023], 0x31);
	assert_int_equal(data_of(d)[1024], OK);
	assert_int_equal(data_of(d)[1025], 0xcc);
}

static void indirect(void **state)
{
	struct fake_disk *d = *state;
	struct virtio_blk_outhdr *h = fake_at(&d->guest, d->head);
	struct fake_buf buf[DISK_QUEUE]; /* as many as Linux makes of it: seg_max and two */
	unsigned n = 0;

	memset(data_of(d), 0x77, DISK_DATA);
	*h = (struct virtio_blk_outhdr){ .type = OUT, .sector = 1 };
	buf[n++] = (struct fake_buf){ d->head, 16, false };
	while (n < DISK_QUEUE - 1)
		buf[n++] = (struct fake_buf){ d->data + n * 512, 512, false };
	buf[n++] = (struct fake_buf){ d->status, 1, true };
	fake_send_indirect(&d->q, buf, n);
	assert_int_equal(fake_disk_wait(d, 1), OK);
	assert_true(file_is(d, 0x77, 512, (DISK_QUEUE - 2) * 512));
	assert_true(file_is(d, 0, (DISK_QUEUE - 1) * 512, 512));
}

static void many_at_once(void **state)
{
	struct fake_disk *d = *state;
	uint32_t id, len;

	for (unsigned round = 0; round < 5; round++) {
		for (unsigned i = 0; i < DISK_QUEUE / 3; i++)
			fake_disk_send(d, i % 2 ? IN : OUT, i, 512 * (i % 4 + 1));
		fake_kick(&d->q);
		fake_wait(&d->q, DISK_QUEUE / 3);
		for (unsigned i = 0; i < DISK_QUEUE / 3; i++)
			assert_true(fake_take(&d->q, &id, &len));
		assert_false(fake_take(&d->q, &id, &len));
	}
	fake_settle(&d->guest);
	assert_false(fake_take(&d->q, &id, &len));
}

static void identity(void **state)
{
	struct fake_disk *d = *state;

	memset(data_of(d), 0xcc, 64);
	assert_int_equal(fake_disk_do(d, VIRTIO_BLK_T_GET_ID, 0, 20), OK);
	assert_memory_equal(data_of(d), "clearstore\0\0\0\0\0\0\0\0\0\0\xcc", 21);
	memset(data_of(d), 0xcc, 64);
	assert_int_equal(fake_disk_do(d, VIRTIO_BLK_T_GET_ID, 0, 5), OK);
	assert_memory_equal(data_of(d), "clear\xcc", 6);
	assert_int_equal(fake_disk_do(d, VIRTIO_BLK_T_GET_ID, 0, 64), OK);
	assert_int_equal(data_of(d)[20], 0xcc);
}

/* ---- discard, write zeroes */

static unsigned blocks(struct fake_disk *d)
{
	struct stat st;

	assert_int_equal(fstat(d->fd, &st), 0);
	return (unsigned)st.st_blocks;
}

static void discards(void **state)
{
	struct fake_disk *d = *state;
	struct virtio_blk_discard_write_zeroes range = { .sector = 64, .num_sectors = 128 };
	unsigned before;

	fill_file(d, 0xff);
	before = blocks(d);
	assert_int_equal(fake_disk_range(d, VIRTIO_BLK_T_DISCARD, &range), OK);
	assert_true(file_is(d, 0, 64 * 512, 128 * 512));
	assert_true(file_is(d, 0xff, 0, 64 * 512));
	assert_true(file_is(d, 0xff, 192 * 512, 64 * 512));
	assert_true(blocks(d) <= before - 128);
	assert_int_equal(lseek(d->fd, 0, SEEK_END), DISK_BYTES);
	range.num_sectors = 0;
	assert_int_equal(fake_disk_range(d, VIRTIO_BLK_T_DISCARD, &range), OK);
}

static void zeroes(void **state)
{
	struct fake_disk *d = *state;
	struct virtio_blk_discard_write_zeroes range = { .sector = 1, .num_sectors = 200 };

	for (unsigned unmap = 0; unmap < 2; unmap++) {
		fill_file(d, 0xff);
		range.flags = unmap;
		assert_int_equal(fake_disk_range(d, VIRTIO_BLK_T_WRITE_ZEROES, &range), OK);
		assert_true(file_is(d, 0, 512, 200 * 512));
		assert_true(file_is(d, 0xff, 0, 512));
		assert_true(file_is(d, 0xff, 201 * 512, 55 * 512));
	}
}

/* tmpfs cannot zero a range: it is written. */
static void zeroes_by_hand(void **state)
{
	for (unsigned no_uring = 0; no_uring < 2; no_uring++) {
		struct fake_disk *d = open_disk(fake_disk_memfd, no_uring, false);

		*state = d;
		zeroes(state);
		teardown(state);
	}
}

static void neither_holes_nor_ranges(void **state)
{
	struct fake_disk *d = *state;
	struct virtio_blk_discard_write_zeroes range = { .sector = 0, .num_sectors = 8 };

	fake_disk_world.fallocate_error = EOPNOTSUPP;
	fill_file(d, 0xff);
	assert_int_equal(fake_disk_range(d, VIRTIO_BLK_T_DISCARD, &range), VIRTIO_BLK_S_UNSUPP);
	assert_true(file_is(d, 0xff, 0, DISK_BYTES));
	zeroes(state);
	fake_disk_world.fallocate_error = EIO;
	assert_int_equal(fake_disk_range(d, VIRTIO_BLK_T_DISCARD, &range), IOERR);
	assert_int_equal(fake_disk_range(d, VIRTIO_BLK_T_WRITE_ZEROES, &range), IOERR);
}

/* ---- transfers that do not go in one, as only calls made on the spot can be played */

static void short_transfers(void **state)
{
	struct fake_disk *d = *state;

	fake_disk_world.at_most = 100;
	writes_and_reads(state);
	assert_true(fake_disk_world.transfers >= 2 * DISK_DATA / 100);
	fake_disk_world.at_most = 1;
	memset(data_of(d), 0, DISK_DATA);
	any_layout(state);
	fake_disk_world.fallocate_error = EOPNOTSUPP;
	fake_disk_world.at_most = 5000;
	zeroes(state);
	assert_int_equal(fake_disk_do(d, FLUSH, 0, 0), OK);
}

static void endless_interruption(void **state)
{
	struct fake_disk *d = *state;

	fake_disk_world.error = EINTR;
	assert_int_equal(fake_disk_do(d, IN, 0, 512), IOERR);
	assert_true(fake_disk_world.transfers > 1);
	fake_disk_world.error = 0;
	assert_int_equal(fake_disk_do(d, IN, 0, 512), OK);
}

/* A driver that did not take FLUSH gets a disk that is never ahead of its medium. */
static void write_through(void **state)
{
	struct fake_disk *d = *state;
	const struct virtio_blk_discard_write_zeroes range = { .sector = 0, .num_sectors = 8 };

	assert_int_equal(fake_disk_do(d, OUT, 0, 512), OK);
	assert_int_equal(fake_disk_world.dsyncs, 0);
	fake_disk_boot(d, ~(1ull << VIRTIO_BLK_F_FLUSH));
	assert_int_equal(fake_disk_do(d, OUT, 0, 512), OK);
	assert_int_equal(fake_disk_world.dsyncs, 1);
	assert_int_equal(fake_disk_world.syncs, 0);
	assert_int_equal(fake_disk_range(d, VIRTIO_BLK_T_DISCARD, &range), OK);
	assert_int_equal(fake_disk_world.syncs, 1);
	assert_int_equal(fake_disk_range(d, VIRTIO_BLK_T_WRITE_ZEROES, &range), OK);
	assert_int_equal(fake_disk_world.syncs, 2);
}

/* ---- making */

static void sizes(void **state)
{
	const uint64_t bad[] = { 0, 1, 511, (uint64_t)INT64_MAX + 1, UINT64_MAX };
	struct cs_virtio *none = NULL;
	struct cs_err err;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const struct cs_disk disk = { .fd = 0, .under_fd = -1, .bytes = bad[i] };

		err.text[0] = '\0';
		assert_int_equal(cs_virtio_blk_create(&disk, NULL, &none, &err), -EINVAL);
		assert_string_not_equal(err.text, "");
	}
	assert_null(none);
}

#define U(test) cmocka_unit_test_setup_teardown(test, setup_uring, teardown)
#define P(test)                                                                                    \
	{                                                                                          \
#test " (plain)", test, setup_plain, teardown, NULL                                \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		U(configuration),
		cmocka_unit_test_setup_teardown(read_only, setup_read_only, teardown),
		U(writes_and_reads),
		P(writes_and_reads),
		U(by_uring),
		U(as_a_copy_in_memory),
		P(as_a_copy_in_memory),
		U(last_sector),
		P(last_sector),
		U(any_layout),
		P(any_layout),
		U(indirect),
		P(indirect),
		U(many_at_once),
		P(many_at_once),
		U(identity),
		U(discards),
		P(discards),
		U(zeroes),
		P(zeroes),
		cmocka_unit_test(zeroes_by_hand),
		P(neither_holes_nor_ranges),
		P(short_transfers),
		P(endless_interruption),
		P(write_through),
		cmocka_unit_test(sizes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
