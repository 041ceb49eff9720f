/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/disk-io.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/vfs.h>

#define WORKERS 4u /* kernel threads for what would block */
#define RETRIES 16u

/* What waits for room is tried again this often. */
#define WAIT_MS 1000

/* Of the file system under the store's image: with less free than this nothing more is written, for
 * what Btrfs has promised to others must still fit. Of a small one a sixteenth. */
#define RESERVE_BYTES (UINT64_C(256) << 20)
#define RESERVE_PART  16
/* With less than so many reserves nothing is left to be written later. */
#define LOW_RESERVES 4

/* Zeroes for file systems that can neither punch holes nor zero a range; this many times at once.
 */
#define ZERO_BYTES 16384u
#define ZERO_TIMES 64u
static const char zeroes[ZERO_BYTES];

struct request {
	struct request *next, **link;
	struct cs_disk_job job; /* offset and bytes: what is left */
	bool by_hand;           /* zeroes are written */
	bool waits;             /* for room; the kernel has nothing of it */
	unsigned retries;
	unsigned first, pieces; /* of iov[]: what is left */
	struct iovec iov[];
};

struct cs_disk_io {
	struct cs_disk_io_spec spec;
	struct request *requests;
	unsigned in_flight; /* those that wait, too */
	unsigned waiting;
	struct cs_timer *timer; /* made when a job waits for the first time */
	bool async;
	struct io_uring ring;
	int event_fd;
	struct cs_watch *watch;
};

static void on_time(void *arg, uint32_t events);

/* ---- a request, whoever does its work */

static struct request *make(struct cs_disk_io *io, const struct cs_disk_job *job)
{
	const bool zero = job->work == CS_DISK_ZERO_HOLE || job->work == CS_DISK_ZERO_RANGE;
	const unsigned room = zero ? ZERO_TIMES : job->pieces;
	struct request *req = malloc(sizeof(*req) + room * sizeof(req->iov[0]));

	if (!req)
		return NULL;
	*req = (struct request){
		.next = io->requests, .link = &io->requests, .job = *job, .pieces = job->pieces
	};
	for (unsigned i = 0; i < job->pieces; i++)
		req->iov[i] = job->iov[i];
	req->job.iov = NULL;
	if (req->next)
		req->next->link = &req->next;
	io->requests = req;
	return req;
}

static void forget(struct request *req)
{
	*req->link = req->next;
	if (req->next)
		req->next->link = req->link;
	free(req);
}

static void advance(struct request *req, uint64_t bytes)
{
	req->job.offset += bytes;
	req->job.bytes -= bytes;
	while (bytes && req->pieces) {
		struct iovec *piece = &req->iov[req->first];

		if (bytes < piece->iov_len) {
			piece->iov_base = (char *)piece->iov_base + bytes;
			piece->iov_len -= bytes;
			return;
		}
		bytes -= piece->iov_len;
		req->first++;
		req->pieces--;
	}
}

/* The next stretch of zeroes to be written. */
static void fill(struct request *req)
{
	uint64_t left = req->job.bytes;

	req->first = req->pieces = 0;
	while (left && req->pieces < ZERO_TIMES) {
		const uint64_t part = left < ZERO_BYTES ? left : ZERO_BYTES;

		req->iov[req->pieces++] =
			(struct iovec){ .iov_base = (void *)(uintptr_t)zeroes, .iov_len = part };
		left -= part;
	}
}

static bool moves(const struct request *req)
{
	return req->job.work == CS_DISK_READ || req->job.work == CS_DISK_WRITE || req->by_hand;
}

static bool zeroing(const struct request *req)
{
	return req->job.work == CS_DISK_ZERO_HOLE || req->job.work == CS_DISK_ZERO_RANGE;
}

static bool takes_room(const struct request *req)
{
	return req->job.work != CS_DISK_READ && req->job.work != CS_DISK_FLUSH;
}

/* Is there room under the store's image, which is sparse? A file system that was promised a block
 * and does not get it goes read-only, for all guests. */
static bool has_room(const struct cs_disk_io *io, bool *ret_low)
{
	uint64_t reserve, room;
	struct statfs fs;

	*ret_low = false;
	if (io->spec.under_fd < 0 || fstatfs(io->spec.under_fd, &fs) < 0)
		return true;
	room = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
	reserve = (uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize / RESERVE_PART;
	if (reserve > RESERVE_BYTES)
		reserve = RESERVE_BYTES;
	*ret_low = room < LOW_RESERVES * reserve;
	return room >= reserve;
}

/* (result) says that there is no room: the job may wait for some, and the guest with it. Not for
 * -EDQUOT, that is the guest's own limit. */
static bool may_wait(struct cs_disk_io *io, struct request *req, int result)
{
	if (result != -ENOSPC || !takes_room(req))
		return false;
	if (!io->timer && cs_timer_create(io->spec.loop, on_time, io, &io->timer) < 0)
		return false;
	if (!io->waiting)
		cs_timer_set(io->timer, WAIT_MS);
	req->waits = true;
	io->waiting++;
	return true;
}

/* The last step gave (*res), bytes or -errno: true when there is another one to do, else *res is
 * the result of the whole. */
static bool goes_on(struct request *req, int *res)
{
	if ((*res == -EINTR || *res == -EAGAIN) && req->retries++ < RETRIES)
		return true;
	if (*res == -EOPNOTSUPP && zeroing(req) && !req->by_hand) {
		req->by_hand = true;
		fill(req);
		return true;
	}
	if (*res == 0 && moves(req))
		*res = -EIO; /* no progress before the end of the disk: somebody cut the file */
	if (*res < 0)
		return false;

	if (moves(req))
		advance(req, (uint64_t)*res);
	*res = 0;
	if (moves(req) && req->job.bytes) {
		if (req->by_hand && req->pieces == 0)
			fill(req);
		return true;
	}
	/* Writes are lasting by themselves (RWF_DSYNC), the others need a flush. */
	if (req->job.lasting && (zeroing(req) || req->job.work == CS_DISK_PUNCH)) {
		req->job.work = CS_DISK_FLUSH;
		req->by_hand = false;
		return true;
	}
	return false;
}

static int write_flags(const struct request *req)
{
	return req->job.lasting ? RWF_DSYNC : 0;
}

static int fallocate_mode(const struct request *req)
{
	return FALLOC_FL_KEEP_SIZE |
	       (req->job.work == CS_DISK_ZERO_RANGE ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE);
}

/* ---- on the spot */

static int perform(int fd, const struct request *req)
{
	const struct iovec *iov = &req->iov[req->first];
	const off_t offset = (off_t)req->job.offset;
	ssize_t n;

	if (req->job.work == CS_DISK_READ)
		n = preadv(fd, iov, (int)req->pieces, offset);
	else if (moves(req))
		n = pwritev2(fd, iov, (int)req->pieces, offset, write_flags(req));
	else if (req->job.work == CS_DISK_FLUSH)
		n = fdatasync(fd);
	else
		n = fallocate(fd, fallocate_mode(req), offset, (off_t)req->job.bytes);
	return n < 0 ? -errno : (int)n;
}

/* ---- by io_uring */

/* There is always room: the ring has an entry for each request under way. */
static void enqueue(struct cs_disk_io *io, struct request *req)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&io->ring);
	const struct iovec *iov = &req->iov[req->first];
	const int file = 0; /* the only registered one */

	if (req->job.work == CS_DISK_READ)
		io_uring_prep_readv(sqe, file, iov, req->pieces, req->job.offset);
	else if (moves(req))
		io_uring_prep_writev2(sqe, file, iov, req->pieces, req->job.offset,
				      write_flags(req));
	else if (req->job.work == CS_DISK_FLUSH)
		io_uring_prep_fsync(sqe, file, IORING_FSYNC_DATASYNC);
	else
		io_uring_prep_fallocate(sqe, file, fallocate_mode(req), (off_t)req->job.offset,
					(off_t)req->job.bytes);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data(sqe, req);
}

/* What the kernel has finished. */
static void reap(struct cs_disk_io *io)
{
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&io->ring, &cqe) == 0) {
		struct request *req = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&io->ring, cqe);
		if (!req)
			continue; /* the answer to a cancellation */
		if (goes_on(req, &res)) {
			enqueue(io, req);
			continue;
		}
		if (may_wait(io, req, res))
			continue;
		io->in_flight--;
		io->spec.done(io->spec.arg, &req->job, res);
		forget(req);
	}
}

static void on_completions(void *arg, uint32_t events)
{
	struct cs_disk_io *io = arg;
	uint64_t count;

	if (read(io->event_fd, &count, sizeof(count)) < 0)
		return;
	reap(io);
	io->spec.turn(io->spec.arg);
}

/* ---- what waits for room */

static void finish(struct cs_disk_io *io, struct request *req, int result)
{
	io->in_flight--;
	io->spec.done(io->spec.arg, &req->job, result);
	forget(req);
}

/* Do it here and now: true when it has ended. */
static bool perform_all(struct cs_disk_io *io, struct request *req, int *ret)
{
	int res;

	do
		res = perform(io->spec.fd, req);
	while (goes_on(req, &res));
	if (may_wait(io, req, res))
		return false;
	*ret = res;
	return true;
}

static void on_time(void *arg, uint32_t events)
{
	struct cs_disk_io *io = arg;
	struct request *req, *next;
	bool low;
	int res;

	if (!has_room(io, &low)) {
		cs_timer_set(io->timer, WAIT_MS);
		return;
	}
	for (req = io->requests; req; req = next) {
		next = req->next;
		if (!req->waits)
			continue;
		req->waits = false;
		io->waiting--;
		req->job.lasting |= low;
		if (io->async)
			enqueue(io, req);
		else if (perform_all(io, req, &res))
			finish(io, req, res);
	}
	io->spec.turn(io->spec.arg);
}

bool cs_disk_io_waits(const struct cs_disk_io *io)
{
	return io->waiting;
}

bool cs_disk_io_busy(const struct cs_disk_io *io)
{
	return io->async && io->in_flight;
}

void cs_disk_io_settle(struct cs_disk_io *io)
{
	struct io_uring_cqe *cqe;

	if (!io->async || io->in_flight == io->waiting)
		return;
	while (io->in_flight > io->waiting) {
		int r;

		io_uring_submit(&io->ring);
		r = io_uring_wait_cqe(&io->ring, &cqe);
		if (r < 0 && r != -EINTR && r != -EAGAIN)
			break; /* no ring any more: nothing will ever come */
		reap(io);
	}
	io->spec.turn(io->spec.arg);
}

int cs_disk_io_submit(struct cs_disk_io *io)
{
	if (!io->async || io_uring_sq_ready(&io->ring) == 0)
		return 0;
	io_uring_submit(&io->ring);
	return io_uring_sq_ready(&io->ring) ? -EAGAIN : 0;
}

static void close_ring(struct cs_disk_io *io)
{
	io->watch = cs_watch_free(io->watch);
	if (io->async)
		io_uring_queue_exit(&io->ring);
	io->async = false;
	cs_fd_closep(&io->event_fd);
}

static void cancel_all(struct cs_disk_io *io)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&io->ring);

	if (!sqe)
		return;
	io_uring_prep_cancel(sqe, NULL, IORING_ASYNC_CANCEL_ANY); /* 5.19; before: all run */
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data(sqe, NULL);
	io_uring_submit(&io->ring);
}

static void forget_waiting(struct cs_disk_io *io)
{
	struct request *req, *next;

	for (req = io->requests; req && io->waiting; req = next) {
		next = req->next;
		if (!req->waits)
			continue;
		io->waiting--;
		io->in_flight--;
		forget(req);
	}
	if (io->timer)
		cs_timer_set(io->timer, 0);
}

void cs_disk_io_drain(struct cs_disk_io *io)
{
	struct io_uring_cqe *cqe;
	unsigned refused;

	forget_waiting(io);
	if (!io->async || io->in_flight == 0)
		return;
	io_uring_submit(&io->ring);
	refused = io_uring_sq_ready(&io->ring);
	if (refused == 0)
		cancel_all(io);
	while (io->in_flight > refused) {
		struct request *req;
		int r = io_uring_wait_cqe(&io->ring, &cqe);

		if (r == -EINTR)
			continue;
		if (r < 0)
			break;
		req = io_uring_cqe_get_data(cqe);
		io_uring_cqe_seen(&io->ring, cqe);
		if (req) {
			forget(req);
			io->in_flight--;
		}
	}
	/* Entries that the kernel would not even take cannot be had back: go on without a ring. */
	if (io_uring_sq_ready(&io->ring))
		close_ring(io);
	while (io->requests)
		forget(io->requests);
	io->in_flight = 0;
}

/* The ring can do what this file does, to the disk, and nothing else: it would otherwise be a way
 * round the monitor's system call filter. */
static int restrict_ring(struct io_uring *ring, int fd)
{
	const uint8_t allowed[] = { IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC,
				    IORING_OP_FALLOCATE, IORING_OP_ASYNC_CANCEL };
	enum { OPS = sizeof(allowed) };
	struct io_uring_restriction rules[OPS + 2] = { 0 };
	unsigned workers[2] = { WORKERS, 1 };
	int r;

	for (unsigned i = 0; i < OPS; i++) {
		rules[i].opcode = IORING_RESTRICTION_SQE_OP;
		rules[i].sqe_op = allowed[i];
	}
	rules[OPS].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
	rules[OPS].sqe_flags = IOSQE_FIXED_FILE;
	rules[OPS + 1].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
	rules[OPS + 1].sqe_flags = IOSQE_FIXED_FILE;

	io_uring_register_iowq_max_workers(ring, workers); /* 5.15; before: the kernel's choice */
	r = io_uring_register_files(ring, &fd, 1);
	/* Not by the functions made for these two: Debian 12's liburing.so forgets to export them.
	 */
	if (r >= 0)
		r = io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_RESTRICTIONS, rules,
				      OPS + 2);
	if (r >= 0)
		r = io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL,
				      0);
	return r;
}

/* Without a ring the disk is slower, and works. */
static void open_ring(struct cs_disk_io *io)
{
	if (io_uring_queue_init(CS_DISK_IO_DEPTH, &io->ring, IORING_SETUP_R_DISABLED) < 0)
		return;
	io->async = true;
	io->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (io->event_fd < 0 || io_uring_register_eventfd(&io->ring, io->event_fd) < 0 ||
	    restrict_ring(&io->ring, io->spec.fd) < 0 ||
	    cs_loop_add(io->spec.loop, io->event_fd, EPOLLIN, on_completions, io, &io->watch) < 0)
		close_ring(io);
}

/* ---- what callers see */

int cs_disk_io_begin(struct cs_disk_io *io, const struct cs_disk_job *job)
{
	struct request *req = make(io, job);
	bool low = false;
	int res;

	if (!req)
		return -ENOMEM;
	io->in_flight++;
	if (takes_room(req) && !has_room(io, &low) && may_wait(io, req, -ENOSPC))
		return -EINPROGRESS;
	req->job.lasting |= low;
	if (io->async) {
		enqueue(io, req);
		return -EINPROGRESS;
	}
	if (!perform_all(io, req, &res))
		return -EINPROGRESS;
	io->in_flight--;
	forget(req);
	return res;
}

bool cs_disk_io_full(const struct cs_disk_io *io)
{
	return io->in_flight >= CS_DISK_IO_DEPTH;
}

bool cs_disk_io_async(const struct cs_disk_io *io)
{
	return io->async;
}

int cs_disk_io_create(const struct cs_disk_io_spec *spec, struct cs_disk_io **ret,
		      struct cs_err *err)
{
	struct cs_disk_io *io = calloc(1, sizeof(*io));

	if (!io)
		return cs_fail_errno(err, ENOMEM, "disk");
	io->spec = *spec;
	io->event_fd = -1;
	open_ring(io);
	*ret = io;
	return 0;
}

struct cs_disk_io *cs_disk_io_free(struct cs_disk_io *io)
{
	if (!io)
		return NULL;
	cs_disk_io_drain(io);
	close_ring(io);
	io->timer = cs_timer_free(io->timer);
	free(io);
	return NULL;
}
