/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fake/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/virtio_mmio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm/virtio-devices.h"

#define UNSET 0xee /* a status that no device writes */

struct fake_disk_world fake_disk_world;

int __real_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
int __wrap_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
ssize_t __real_preadv64(int fd, const struct iovec *iov, int n, off_t offset);
ssize_t __wrap_preadv64(int fd, const struct iovec *iov, int n, off_t offset);
ssize_t __real_pwritev64v2(int fd, const struct iovec *iov, int n, off_t offset, int flags);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int n, off_t offset, int flags);
int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
int __real_fallocate64(int fd, int mode, off_t offset, off_t bytes);
int __wrap_fstatfs64(int fd, struct statfs *ret);

int __wrap_fallocate64(int fd, int mode, off_t offset, off_t bytes);

int __wrap_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
	int r = -ENOSYS;

	if (!fake_disk_world.no_uring)
		r = __real_io_uring_queue_init(entries, ring, flags);
	fake_disk_world.uring = r >= 0;
	return r;
}

/* The piece of (iov) that one transfer may move. */
static struct iovec some(const struct iovec *iov)
{
	struct iovec part = *iov;

	if (part.iov_len > fake_disk_world.at_most)
		part.iov_len = fake_disk_world.at_most;
	return part;
}

ssize_t __wrap_preadv64(int fd, const struct iovec *iov, int n, off_t offset)
{
	const struct iovec part = some(iov);

	fake_disk_world.transfers++;
	errno = fake_disk_world.error;
	if (errno)
		return -1;
	return fake_disk_world.at_most ? __real_preadv64(fd, &part, 1, offset)
				       : __real_preadv64(fd, iov, n, offset);
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
	const struct iovec part = some(iov);

	fake_disk_world.transfers++;
	fake_disk_world.dsyncs += flags == RWF_DSYNC;
	errno = fake_disk_world.error;
	if (errno)
		return -1;
	return fake_disk_world.at_most ? __real_pwritev64v2(fd, &part, 1, offset, flags)
				       : __real_pwritev64v2(fd, iov, n, offset, flags);
}

int __wrap_fdatasync(int fd)
{
	fake_disk_world.syncs++;
	errno = fake_disk_world.error;
	return errno ? -1 : __real_fdatasync(fd);
}

int __wrap_fallocate64(int fd, int mode, off_t offset, off_t bytes)
{
	errno = fake_disk_world.fallocate_error;
	return errno ? -1 : __real_fallocate64(fd, mode, offset, bytes);
}

int __wrap_fstatfs64(int fd, struct statfs *ret)
{
	*ret = (struct statfs){ .f_bsize = 4096,
				.f_blocks = 1000,
				.f_bavail = fake_disk_world.under_free };
	return 0;
}

/* ---- a disk */

int fake_disk_memfd(void)
{
	int fd = memfd_create("disk", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	return fd;
}

int fake_disk_file(void)
{
	int fd = open(getenv("TMPDIR") ?: "/var/tmp", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	return fd;
}

void fake_disk_boot(struct fake_disk *disk, uint64_t features)
{
	fake_features(&disk->guest, features);
	disk->guest.next_gpa = 0x1000;
	fake_queue(&disk->guest, 0, DISK_QUEUE, &disk->q);
	disk->head = fake_alloc(&disk->guest, 64 * DISK_QUEUE);
	disk->status = fake_alloc(&disk->guest, 64);
	disk->data = fake_alloc(&disk->guest, DISK_DATA);
	fake_driver_ok(&disk->guest);
	fake_settle(&disk->guest);
}

void fake_disk_open(struct fake_disk *disk, int fd, uint64_t sectors, bool read_only)
{
	const struct cs_disk spec = { .fd = fd,
				      .under_fd = fake_disk_world.under_free ? fd : -1,
				      .bytes = sectors * 512,
				      .read_only = read_only };
	struct cs_virtio *blk;
	struct cs_err err;

	*disk = (struct fake_disk){ .fd = fd };
	fake_open(&disk->guest);
	assert_int_equal(cs_virtio_blk_create(&spec, disk->guest.loop, &blk, &err), 0);
	fake_plug(&disk->guest, blk);
	fake_disk_boot(disk, UINT64_MAX);
}

void fake_disk_close(struct fake_disk *disk)
{
	fake_close(&disk->guest);
	close(disk->fd);
}

uint16_t fake_disk_send(struct fake_disk *disk, uint32_t type, uint64_t sector, uint32_t bytes)
{
	const bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	const uint64_t at = disk->head + 64u * disk->q.next_desc;
	const struct fake_buf buf[] = { { at, sizeof(struct virtio_blk_outhdr), false },
					{ disk->data, bytes, in },
					{ disk->status, 1, true } };
	struct virtio_blk_outhdr *head = fake_at(&disk->guest, at);

	*head = (struct virtio_blk_outhdr){ .type = type, .sector = sector };
	*(uint8_t *)fake_at(&disk->guest, disk->status) = UNSET;
	if (bytes)
		return fake_send(&disk->q, buf, 3);
	return fake_send(&disk->q, (struct fake_buf[]){ buf[0], buf[2] }, 2);
}

uint8_t fake_disk_wait(struct fake_disk *disk, uint32_t want)
{
	uint32_t id, len;
	uint8_t status;

	fake_kick(&disk->q);
	fake_wait(&disk->q, 1);
	assert_true(fake_take(&disk->q, &id, &len));
	assert_int_equal(len, want);
	assert_false(fake_take(&disk->q, &id, &len)); /* exactly once */
	assert_true(disk->guest.dev->running);
	status = *(uint8_t *)fake_at(&disk->guest, disk->status);
	assert_int_not_equal(status, UNSET);
	return status;
}

uint8_t fake_disk_do(struct fake_disk *disk, uint32_t type, uint64_t sector, uint32_t bytes)
{
	const bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;

	fake_disk_send(disk, type, sector, bytes);
	return fake_disk_wait(disk, (in ? bytes : 0) + 1);
}

uint8_t fake_disk_range(struct fake_disk *disk, uint32_t type,
			const struct virtio_blk_discard_write_zeroes *range)
{
	memcpy(fake_at(&disk->guest, disk->data), range, sizeof(*range));
	return fake_disk_do(disk, type, 0, sizeof(*range));
}
