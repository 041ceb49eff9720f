/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The disk and a driver that breaks the rules, a host that fails, and resets at the worst moment.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_mmio.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fake/disk.h"

#define IN    VIRTIO_BLK_T_IN
#define OUT   VIRTIO_BLK_T_OUT
#define OK    VIRTIO_BLK_S_OK
#define IOERR VIRTIO_BLK_S_IOERR

static int setup(void **state)
{
	struct fake_disk *disk = calloc(1, sizeof(*disk));

	assert_non_null(disk);
	fake_disk_world = (struct fake_disk_world){ 0 };
	fake_disk_open(disk, fake_disk_memfd(), DISK_SECTORS, false);
	*state = disk;
	return 0;
}

static int setup_plain(void **state)
{
	struct fake_disk *disk = calloc(1, sizeof(*disk));

	assert_non_null(disk);
	fake_disk_world = (struct fake_disk_world){ .no_uring = true };
	fake_disk_open(disk, fake_disk_memfd(), DISK_SECTORS, false);
	*state = disk;
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

static void assert_untouched(struct fake_disk *d)
{
	unsigned char got[DISK_BYTES], none[DISK_BYTES] = { 0 };

	assert_int_equal(pread(d->fd, got, sizeof(got), 0), sizeof(got));
	assert_memory_equal(got, none, sizeof(got));
	assert_int_equal(lseek(d->fd, 0, SEEK_END), DISK_BYTES);
}

/* ---- ranges */

static void sectors_outside(void **state)
{
	struct fake_disk *d = *state;
	const struct {
		uint64_t sector;
		uint32_t bytes;
	} bad[] = {
		{ DISK_SECTORS, 512 },
		{ DISK_SECTORS - 1, 1024 },
		{ DISK_SECTORS + 1, 512 },
		{ DISK_SECTORS + 1, 0 },
		{ DISK_SECTORS - 127, DISK_DATA },
		{ UINT64_C(1) << 55, 512 }, /* 2^64 bytes */
		{ (UINT64_C(1) << 55) - 1, 1024 },
		{ UINT64_C(1) << 63, 512 },
		{ UINT64_MAX, 512 },
		{ UINT64_MAX, 1024 }, /* the sum is 1 */
		{ UINT64_MAX, 0 },
		{ UINT64_MAX - 1, DISK_DATA },
	};

	memset(data_of(d), 0x66, DISK_DATA);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(fake_disk_do(d, OUT, bad[i].sector, bad[i].bytes), IOERR);
		assert_int_equal(fake_disk_do(d, IN, bad[i].sector, bad[i].bytes), IOERR);
	}
	assert_int_equal(data_of(d)[0], 0x66);
	assert_untouched(d);
	assert_int_equal(fake_disk_do(d, IN, DISK_SECTORS, 0), OK); /* nothing, at the end */
	assert_int_equal(fake_disk_do(d, IN, DISK_SECTORS - 1, 512), OK);
}

static void parts_of_sectors(void **state)
{
	struct fake_disk *d = *state;
	const uint32_t bad[] = { 1, 511, 513, 1023 };

	memset(data_of(d), 0x66, DISK_DATA);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(fake_disk_do(d, OUT, 0, bad[i]), IOERR);
		assert_int_equal(fake_disk_do(d, IN, 0, bad[i]), IOERR);
	}
	assert_untouched(d);
}

static void ranges_outside(void **state)
{
	struct fake_disk *d = *state;
	const struct virtio_blk_discard_write_zeroes bad[] = {
		{ .sector = 0, .num_sectors = DISK_SECTORS + 1 },
		{ .sector = DISK_SECTORS, .num_sectors = 1 },
		{ .sector = UINT64_MAX, .num_sectors = 2 },
		{ .sector = UINT64_C(1) << 55, .num_sectors = 1 },
		{ .sector = 0, .num_sectors = UINT32_MAX },
		{ .sector = 0, .num_sectors = (1u << 22) + 1 },
	};
	struct virtio_blk_discard_write_zeroes odd = { .num_sectors = 1 };

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(fake_disk_range(d, VIRTIO_BLK_T_DISCARD, &bad[i]), IOERR);
		assert_int_equal(fake_disk_range(d, VIRTIO_BLK_T_WRITE_ZEROES, &bad[i]), IOERR);
	}
	odd.flags = 1; /* unmap is no flag of discard (5.2.6.2) */
	assert_int_equal(fake_disk_range(d, VIRTIO_BLK_T_DISCARD, &odd), VIRTIO_BLK_S_UNSUPP);
	odd.flags = 2;
	assert_int_equal(fake_disk_range(d, VIRTIO_BLK_T_DISCARD, &odd), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(fake_disk_range(d, VIRTIO_BLK_T_WRITE_ZEROES, &odd), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(fake_disk_do(d, VIRTIO_BLK_T_DISCARD, 0, 15), IOERR);
	assert_int_equal(fake_disk_do(d, VIRTIO_BLK_T_DISCARD, 0, 32), IOERR); /* one a request */
	assert_int_equal(fake_disk_do(d, VIRTIO_BLK_T_DISCARD, 0, 0), IOERR);
	assert_untouched(d);
}

static void unknown_types(void **state)
{
	struct fake_disk *d = *state;
	const uint32_t bad[] = { 2, 3, 5, 7, 9, 10, 12, 14, 15, 16, 0x80000000, UINT32_MAX };

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(fake_disk_do(d, bad[i], 0, 512), VIRTIO_BLK_S_UNSUPP);
	assert_untouched(d);
}

/* ---- shapes */

static void no_status(void **state)
{
	struct fake_disk *d = *state;
	const struct fake_buf buf[] = { { d->head, 16, false }, { d->data, 512, false } };
	uint32_t id, len;

	for (unsigned n = 1; n <= 2; n++) {
		*(struct virtio_blk_outhdr *)fake_at(&d->guest, d->head) =
			(struct virtio_blk_outhdr){ .type = OUT };
		memset(data_of(d), 0x66, 512);
		fake_send(&d->q, buf, n);
		fake_kick(&d->q);
		fake_wait(&d->q, 1);
		assert_true(fake_take(&d->q, &id, &len));
		assert_int_equal(len, 0);
	}
	assert_untouched(d);
	assert_int_equal(fake_disk_do(d, IN, 0, 512), OK);
}

static void short_heads(void **state)
{
	struct fake_disk *d = *state;

	memset(fake_at(&d->guest, d->head), 0, 16);
	for (uint32_t n = 0; n < 16; n++) {
		const struct fake_buf buf[] = { { d->head, n, false }, { d->status, 1, true } };

		fake_send(&d->q, buf, 2);
		assert_int_equal(fake_disk_wait(d, 1), IOERR);
	}
	fake_send(&d->q, &(struct fake_buf){ d->status, 1, true }, 1); /* none at all */
	assert_int_equal(fake_disk_wait(d, 1), IOERR);
}

static void status_in_the_root(void **state)
{
	struct fake_disk *d = *state;
	const struct fake_buf buf[] = { { d->head, 16, false }, { FAKE_SHARED_GPA, 1, true } };

	fake_send(&d->q, buf, 2);
	fake_kick(&d->q);
	fake_settle(&d->guest);
	assert_false(d->guest.dev->running);
	fake_disk_boot(d, UINT64_MAX);
	assert_int_equal(fake_disk_do(d, IN, 0, 512), OK);
}

/* Breaks while other requests are under way: those end, unanswered, and a reset mends all. */
static void broken_with_requests_in_flight(void **state)
{
	struct fake_disk *d = *state;

	for (unsigned i = 0; i < 20; i++)
		fake_disk_send(d, OUT, i, 512);
	fake_publish(&d->q, DISK_QUEUE);
	fake_kick(&d->q);
	fake_settle(&d->guest);
	assert_false(d->guest.dev->running);
	fake_disk_boot(d, UINT64_MAX);
	fake_settle(&d->guest);
	assert_int_equal(fake_used_idx(&d->q), 0);
	assert_int_equal(fake_disk_do(d, IN, 0, 512), OK);
}

/* ---- a host that fails */

static void host_error(void **state)
{
	struct fake_disk *d = *state;

	assert_int_equal(fcntl(d->fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	assert_int_equal(fake_disk_do(d, OUT, 0, 4096), IOERR);
	assert_int_equal(fake_disk_do(d, IN, 0, 4096), OK); /* the guest goes on */
	assert_untouched(d);
}

static void file_cut_short(void **state)
{
	struct fake_disk *d = *state;

	assert_int_equal(ftruncate(d->fd, 1024), 0);
	assert_int_equal(fake_disk_do(d, IN, 0, 1024), OK);
	assert_int_equal(fake_disk_do(d, IN, 0, 4096), IOERR); /* some of it, then no more */
	assert_int_equal(fake_disk_do(d, IN, 64, 512), IOERR);
}

/* A tmpfs of 64 KiB that is gone as soon as its only file is open; -1: not allowed. */
static int file_on_a_full_disk(void)
{
	char dir[] = "/tmp/clearstore-test-XXXXXX", path[64];
	int fd = -1;

	if (unshare(geteuid() ? CLONE_NEWUSER | CLONE_NEWNS : CLONE_NEWNS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || !mkdtemp(dir))
		return -1;
	if (mount("none", dir, "tmpfs", 0, "size=64k") == 0) {
		snprintf(path, sizeof(path), "%s/disk", dir);
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		umount2(dir, MNT_DETACH);
	}
	rmdir(dir);
	if (fd >= 0)
		assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	return fd;
}

static bool waits(struct fake_disk *d)
{
	return d->guest.dev->ops->waits(d->guest.dev);
}

/* Write, block by block, until one finds no room; how many did. */
static unsigned write_until_full(struct fake_disk *d)
{
	uint32_t id, len;
	unsigned good;

	for (good = 0; good < DISK_SECTORS / 8; good++) {
		memset(data_of(d), (int)good + 1, 4096);
		fake_disk_send(d, OUT, good * 8, 4096);
		fake_kick(&d->q);
		while (!fake_take(&d->q, &id, &len)) {
			if (waits(d))
				return good;
			fake_settle(&d->guest);
		}
		assert_int_equal(*(uint8_t *)fake_at(&d->guest, d->status), OK);
	}
	return good;
}

/* What finds no room waits, all else goes on; when there is some, nothing was lost. */
static void full_disk_of(bool no_uring)
{
	struct fake_disk disk, *d = &disk;
	unsigned char got = 0;
	int fd = file_on_a_full_disk();
	unsigned good;

	if (fd < 0) {
		print_message("cannot mount a tmpfs here\n");
		skip();
	}
	fake_disk_world = (struct fake_disk_world){ .no_uring = no_uring };
	fake_disk_open(d, fd, DISK_SECTORS, false);
	good = write_until_full(d);
	assert_true(good > 2 && good < DISK_SECTORS / 8);
	d->guest.dev->ops->settle(d->guest.dev); /* comes back: a save must not wait for ever */
	assert_true(waits(d));
	/* as if the guest had gone on meanwhile: another block, of its own, can be read */
	assert_int_equal(pread(fd, &got, 1, (off_t)(good - 1) * 4096), 1);
	assert_int_equal(got, good);
	assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 8192), 0);
	assert_int_equal(fake_disk_wait(d, 1), OK);
	assert_false(waits(d));
	for (unsigned i = 2; i <= good; i++) {
		assert_int_equal(fake_disk_do(d, IN, i * 8, 4096), OK);
		assert_int_equal(data_of(d)[0], i + 1);
	}

	/* the next but one waits again, and a reset forgets it */
	fake_disk_do(d, OUT, 0, 4096);
	fake_disk_send(d, OUT, DISK_SECTORS - 8, 4096);
	fake_kick(&d->q);
	while (!waits(d))
		fake_settle(&d->guest);
	fake_disk_boot(d, UINT64_MAX);
	assert_false(waits(d));
	assert_int_equal(fake_disk_do(d, IN, good * 8, 4096), OK);
	fake_disk_close(d);
}

static void full_disk(void **state)
{
	full_disk_of(false);
}

static void full_disk_plain(void **state)
{
	full_disk_of(true);
}

/* The file system under a sparse image is full: what would take room is not even tried. */
static void full_under(void **state)
{
	struct fake_disk disk, *d = &disk;

	fake_disk_world = (struct fake_disk_world){ .no_uring = true, .under_free = 200 };
	fake_disk_open(d, fake_disk_memfd(), DISK_SECTORS, false);
	assert_int_equal(fake_disk_do(d, OUT, 0, 4096), OK);
	assert_int_equal(fake_disk_world.dsyncs, 1); /* a little is left: nothing is put off */
	fake_disk_world.under_free = 20;
	fake_disk_world.transfers = 0;
	assert_int_equal(fake_disk_do(d, IN, 0, 4096), OK);
	fake_disk_send(d, OUT, 8, 4096);
	fake_kick(&d->q);
	while (!waits(d))
		fake_settle(&d->guest);
	assert_int_equal(fake_disk_world.transfers, 1); /* the read */
	fake_disk_world.under_free = 900;
	assert_int_equal(fake_disk_wait(d, 1), OK);
	assert_int_equal(fake_disk_do(d, OUT, 16, 4096), OK);
	assert_int_equal(fake_disk_world.dsyncs, 1);
	fake_disk_close(d);
}

/* What is over the guest's own limit is not waited for. */
static void over_quota(void **state)
{
	struct fake_disk disk, *d = &disk;

	fake_disk_world = (struct fake_disk_world){ .no_uring = true, .error = EDQUOT };
	fake_disk_open(d, fake_disk_memfd(), DISK_SECTORS, false);
	assert_int_equal(fake_disk_do(d, OUT, 0, 4096), IOERR);
	fake_disk_world.error = ENOSPC; /* and a read never waits */
	assert_int_equal(fake_disk_do(d, IN, 0, 4096), IOERR);
	fake_disk_close(d);
}

/* ---- requests that never end by themselves: the disk is a pipe that nobody writes to */

static struct fake_disk *open_pipe(int *ret_writer)
{
	struct fake_disk *disk = calloc(1, sizeof(*disk));
	int pipes[2];

	assert_non_null(disk);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	fake_disk_world = (struct fake_disk_world){ 0 };
	fake_disk_open(disk, pipes[0], DISK_SECTORS, false);
	if (!fake_disk_world.uring) {
		fake_disk_close(disk);
		close(pipes[1]);
		free(disk);
		print_message("this host has no io_uring: no request is ever in flight\n");
		skip();
	}
	*ret_writer = pipes[1];
	return disk;
}

static void reset_with_requests_in_flight(void **state)
{
	int writer;
	struct fake_disk *d = open_pipe(&writer);
	unsigned char bytes[4096];
	uint32_t id, len;

	for (unsigned i = 0; i < DISK_QUEUE / 3; i++)
		fake_disk_send(d, IN, 0, 512);
	fake_kick(&d->q);
	fake_settle(&d->guest);
	assert_false(fake_take(&d->q, &id, &len));
	fake_write(&d->guest, VIRTIO_MMIO_STATUS, 0);

	/* Now the memory is somebody else's: what the disk would have to say must not get there. */
	memset(data_of(d), 0xab, 512);
	memset(bytes, 0xcd, sizeof(bytes));
	assert_int_equal(write(writer, bytes, sizeof(bytes)), sizeof(bytes));
	fake_settle(&d->guest);
	for (unsigned i = 0; i < 512; i++)
		assert_int_equal(data_of(d)[i], 0xab);
	assert_false(fake_take(&d->q, &id, &len));
	assert_int_equal(*(uint8_t *)fake_at(&d->guest, d->status), 0xee);

	fake_disk_boot(d, UINT64_MAX); /* and the next driver finds a disk that works */
	assert_int_equal(fake_disk_do(d, IN, 0, 512), OK);
	assert_int_equal(data_of(d)[0], 0xcd);
	close(writer);
	fake_disk_close(d);
	free(d);
}

static void freed_with_requests_in_flight(void **state)
{
	int writer;
	struct fake_disk *d = open_pipe(&writer);

	for (unsigned i = 0; i < DISK_QUEUE / 3; i++)
		fake_disk_send(d, IN, 0, 512);
	fake_kick(&d->q);
	fake_settle(&d->guest);
	fake_disk_close(d);
	close(writer);
	free(d);
}

/* A driver that publishes the same chain again and again while it is under way: no more than the
 * ring holds is taken, and each is answered once. */
static void more_than_fit(void **state)
{
	enum { MANY = 500 };
	int writer;
	struct fake_disk *d = open_pipe(&writer);
	unsigned char bytes[512] = { 0 };
	unsigned sent = 0, answered = 0;
	uint16_t head = fake_disk_send(d, IN, 0, 512);
	uint32_t id, len;

	for (sent = 1; sent < DISK_QUEUE; sent++)
		fake_publish(&d->q, head);
	fake_kick(&d->q);
	fake_settle(&d->guest);
	for (unsigned i = 0; i < DISK_QUEUE && sent < MANY; i++, sent++)
		fake_publish(&d->q, head); /* over those in flight */
	fake_kick(&d->q);
	fake_settle(&d->guest);
	assert_int_equal(d->guest.dev->queue[0].next_avail, DISK_QUEUE);
	while (answered < MANY) {
		assert_int_equal(write(writer, bytes, sizeof(bytes)), sizeof(bytes));
		fake_wait(&d->q, 1);
		fake_settle(&d->guest); /* another is taken in its place */
		for (; fake_take(&d->q, &id, &len); answered++) {
			assert_int_equal(id, head);
			if (sent < MANY)
				fake_publish(&d->q, head);
			sent++;
		}
	}
	fake_settle(&d->guest);
	assert_false(fake_take(&d->q, &id, &len));
	assert_true(d->guest.dev->running);
	close(writer);
	fake_disk_close(d);
	free(d);
}

/* ---- resets by a vCPU's thread while the loop's thread serves */

static void *reset_again_and_again(void *arg)
{
	struct fake_disk *d = arg;
	const struct timespec nap = { .tv_nsec = 300000 };
	uint32_t id, len;

	for (unsigned round = 0; round < 40; round++) {
		pthread_mutex_lock(&d->guest.lock);
		fake_features(&d->guest, UINT64_MAX);
		d->guest.next_gpa = 0x1000;
		fake_queue(&d->guest, 0, DISK_QUEUE, &d->q);
		d->head = fake_alloc(&d->guest, 64 * DISK_QUEUE);
		d->status = fake_alloc(&d->guest, 64);
		d->data = fake_alloc(&d->guest, DISK_DATA);
		fake_driver_ok(&d->guest);
		for (unsigned i = 0; i < DISK_QUEUE / 3; i++)
			fake_disk_send(d, i % 3 == 0 ? OUT : IN, i, 32768);
		fake_kick(&d->q);
		pthread_mutex_unlock(&d->guest.lock);
		nanosleep(&nap, NULL);

		pthread_mutex_lock(&d->guest.lock);
		fake_write(&d->guest, VIRTIO_MMIO_STATUS, 0);
		memset(data_of(d), 0xab, 32768);
		while (fake_take(&d->q, &id, &len))
			assert_true(len >= 1);
		pthread_mutex_unlock(&d->guest.lock);
		nanosleep(&nap, NULL);
		for (unsigned i = 0; i < 32768; i++)
			assert_int_equal(data_of(d)[i], 0xab);
		assert_false(fake_take(&d->q, &id, &len));
	}
	cs_loop_stop(d->guest.loop);
	return NULL;
}

static void reset_by_another_thread(void **state)
{
	struct fake_disk *d = *state;
	struct cs_err err;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, reset_again_and_again, d), 0);
	assert_int_equal(cs_loop_run(d->guest.loop, &err), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
}

#define T(test)                                                                                    \
	cmocka_unit_test_setup_teardown(test, setup, teardown),                                    \
	{                                                                                          \
#test " (plain)", test, setup_plain, teardown, NULL                                \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(sectors_outside),
		T(parts_of_sectors),
		T(ranges_outside),
		T(unknown_types),
		T(no_status),
		T(short_heads),
		T(status_in_the_root),
		T(broken_with_requests_in_flight),
		T(host_error),
		T(file_cut_short),
		cmocka_unit_test(reset_with_requests_in_flight),
		cmocka_unit_test(freed_with_requests_in_flight),
		cmocka_unit_test(more_than_fit),
		T(reset_by_another_thread),
		cmocka_unit_test(full_disk),
		cmocka_unit_test(full_disk_plain),
		cmocka_unit_test(full_under),
		cmocka_unit_test(over_quota), /* leaves the file systems of others */
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
