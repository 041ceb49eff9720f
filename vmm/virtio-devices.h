/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How each virtio device is made. What is passed in stays the caller's unless said otherwise. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/guest.h"
#include "vmm/loop.h"
#include "vmm/virtio.h"

/* virtio-console (id 3), one port: output goes to (log_fd), in a file that never grows over
 * (log_max) bytes (its older half is dropped), and to the attached client, if any; the client's
 * bytes are the guest's input. */
struct cs_virtio_console_spec {
	int log_fd;       /* a file opened O_RDWR, without O_APPEND; lent; -1: none */
	uint64_t log_max; /* at least 16 KiB */
};
int cs_virtio_console_create(const struct cs_virtio_console_spec *spec, struct cs_virtio **ret,
			     struct cs_err *err);
/* Attach a client: (fd) (stream socket, non-blocking) becomes the console's; a previous client is
 * closed. A client that does not read loses output, it never stalls the guest. Input waits in the
 * socket until the guest has room; what a client sent before it hung up still arrives. Lock held.
 * -ENODEV: no transport has the console yet; -errno: it cannot be watched; (fd) stays the caller's.
 */
int cs_virtio_console_attach(struct cs_virtio *console, int fd);

/* virtio-pmem (id 27): the root at (gpa); both multiples of CS_ROOT_GRAIN. Flushes succeed: the
 * template is read-only. */
int cs_virtio_pmem_create(uint64_t gpa, uint64_t bytes, struct cs_virtio **ret, struct cs_err *err);

/* virtio-rng (id 4): getrandom(2), at most 4 KiB a request and some 3 MiB/s. */
int cs_virtio_rng_create(struct cs_virtio **ret, struct cs_err *err);

/* virtio-balloon (id 5): inflate, deflate, free page reporting, deflation when the guest runs out
 * of memory. A page that is inflated or reported goes back to what its segment is mapped from
 * (MADV_DONTNEED): the host's memory is free at once, and the guest's next access finds zeroes or
 * the template's page there. */
int cs_virtio_balloon_create(struct cs_virtio **ret, struct cs_err *err);
/* Ask the guest to get by with (usable_bytes) of its RAM; all of it, and more: no balloon. A guest
 * that is not up yet hears of it when it is. Lock held; with a transport. */
void cs_virtio_balloon_set(struct cs_virtio *balloon, uint64_t usable_bytes);

struct cs_balloon_info {
	bool driven;             /* the guest has a driver for it */
	uint64_t target_bytes;   /* what it is asked to get by with; of all its RAM */
	uint64_t actual_bytes;   /* what it says it has */
	uint64_t reports;        /* how often it has reported free pages to this process */
	uint64_t reported_bytes; /* and how much that was, each time counted */
};
void cs_virtio_balloon_info(const struct cs_virtio *balloon, struct cs_balloon_info *ret);

/* virtio-blk (id 2): (disk->fd) lent, which may be read-only when (disk) is. in, out, flush,
 * get-id, discard (punches holes), write-zeroes, by disk-io.h. A host error (EIO, EDQUOT) is the
 * guest's VIRTIO_BLK_S_IOERR; without room the request waits (disk-io.h); a reset waits for what is
 * in flight. */
int cs_virtio_blk_create(const struct cs_disk *disk, struct cs_loop *loop, struct cs_virtio **ret,
			 struct cs_err *err);

/* virtio-vsock (id 19), the host side in this process. Host to guest: (listen_fd), a listening unix
 * stream socket; a client writes "CONNECT <port>\n" and reads "OK <host port>\n", or is closed when
 * the guest refuses (Firecracker's convention). Guest to host: a connection to CID 2, port P goes
 * to (serve)'s answer for P, else to the unix socket "<path>_P" where (path) is seen by this
 * process. */
struct cs_virtio_vsock_spec {
	uint32_t guest_cid; /* 3 and up */
	int listen_fd;
	const char *path; /* copied; NULL: guest-initiated connections only to (serve) */
	/* A stream socket, non-blocking, that the device then owns, for a connection of the guest
	 * to (port); -1: not served here. */
	int (*serve)(void *arg, uint32_t port);
	/* The same for one that serve() had answered when the machine was saved: the guest, of a
	 * clone now, takes it for the same connection. NULL: there is none. */
	int (*resume)(void *arg, uint32_t port);
	/* A client on the host is there; NULL: nobody wants to know. */
	void (*wanted)(void *arg);
	void *serve_arg; /* of all three */
};
int cs_virtio_vsock_create(const struct cs_virtio_vsock_spec *spec, struct cs_loop *loop,
			   struct cs_virtio **ret, struct cs_err *err);
