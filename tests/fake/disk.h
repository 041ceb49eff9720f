/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A block device's driver over tests/fake/driver.h. A program that links this wraps
 * io_uring_queue_init, preadv64, pwritev64v2, fdatasync, fallocate64 and fstatfs64 (-Wl,--wrap). */
#pragma once

#include <linux/virtio_blk.h>
#include <stdbool.h>
#include <stdint.h>

#include "tests/fake/driver.h"

#define DISK_QUEUE   128
#define DISK_SECTORS 256u
#define DISK_BYTES   (DISK_SECTORS * 512u)
#define DISK_DATA    65536u /* bytes of the data buffer */

struct fake_disk {
	struct fake_guest guest;
	struct fake_queue q;
	int fd;
	uint64_t head, data, status; /* gpa; data has DISK_DATA bytes */
};

/* The world outside, played; only what is done on the spot can be seen here. */
struct fake_disk_world {
	bool uring;     /* told: there is a ring */
	bool no_uring;  /* io_uring_queue_init() says ENOSYS */
	size_t at_most; /* bytes a transfer; 0: all */
	int error;      /* of every transfer */
	int fallocate_error;
	unsigned under_free; /* thousandths of the file system under the image; 0: there is none */
	unsigned transfers, syncs, dsyncs;
};
extern struct fake_disk_world fake_disk_world;

/* A running device over (fd), which becomes the disk's, of (sectors), with all features. */
void fake_disk_open(struct fake_disk *disk, int fd, uint64_t sectors, bool read_only);
/* Reset it, and start it with (features). */
void fake_disk_boot(struct fake_disk *disk, uint64_t features);
void fake_disk_close(struct fake_disk *disk);

/* A file without a name: on tmpfs, or in the folder of TMPDIR. */
int fake_disk_memfd(void);
int fake_disk_file(void);

/* Publish a request with (bytes) of the data buffer, which are written to when the type is IN or
 * GET_ID; its head. Does not kick. */
uint16_t fake_disk_send(struct fake_disk *disk, uint32_t type, uint64_t sector, uint32_t bytes);
/* Send, kick, wait: the status. */
uint8_t fake_disk_do(struct fake_disk *disk, uint32_t type, uint64_t sector, uint32_t bytes);
/* Kick what was published, wait for it, check that it is used with (len): the status. */
uint8_t fake_disk_wait(struct fake_disk *disk, uint32_t len);
/* Discard or write zeroes of one range. */
uint8_t fake_disk_range(struct fake_disk *disk, uint32_t type,
			const struct virtio_blk_discard_write_zeroes *range);
