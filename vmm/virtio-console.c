/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/virtio-devices.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/num.h"

/* Queues of the one port (virtio 1.2, 5.3.2). */
enum { RECEIVE, TRANSMIT, QUEUES };

/* Linux keeps a page in every entry of the receive ring: a large one costs each guest memory. */
#define QUEUE_SIZE 16

#define TURN_BYTES  65536u /* put out before others get their turn */
#define TURN_READS  16u
#define CHUNK_BYTES 4096u
#define LOG_MIN     (16 * CS_KIB)
#define COPY_BYTES  16384u
#define LINE_BYTES  1024u /* a line longer than that is cut */

struct console {
	struct cs_virtio dev;

	int log_fd;
	uint64_t log_bytes, log_max;

	int client_fd; /* -1: none */
	struct cs_watch *client_watch;
	bool client_eof;  /* it sends no more, but still reads */
	bool client_gone; /* hung up: what it sent before is still to be read */

	uint32_t turn_left;  /* bytes of output in this turn */
	uint64_t out_offset; /* bytes of the next transmit request that are out already */
};

/* ---- the log */

/* Drop the older half, up to the end of a line: the file never grows over its limit, and a guest
 * that talks all day pays one copy of half a log for each half log it writes. */
static void trim(struct console *console)
{
	const uint64_t keep = console->log_max / 2;
	uint64_t from = console->log_bytes > keep ? console->log_bytes - keep : 0, to = 0;
	char chunk[COPY_BYTES];
	bool first = true;

	while (from < console->log_bytes) {
		size_t bytes = sizeof(chunk);
		const char *start = chunk, *line;

		if (bytes > console->log_bytes - from)
			bytes = (size_t)(console->log_bytes - from);
		if (cs_pread_full(console->log_fd, chunk, bytes, from) < 0)
			break;
		from += bytes;
		line = first ? memchr(chunk, '\n', bytes < LINE_BYTES ? bytes : LINE_BYTES) : NULL;
		if (line) {
			bytes -= (size_t)(line + 1 - chunk);
			start = line + 1;
		}
		first = false;
		if (cs_pwrite_full(console->log_fd, start, bytes, to) < 0)
			break;
		to += bytes;
	}
	if (ftruncate(console->log_fd, (off_t)to) == 0)
		console->log_bytes = to;
}

static void log_put(struct console *console, const char *text, size_t bytes)
{
	if (console->log_fd < 0)
		return;
	if (console->log_bytes + bytes > console->log_max)
		trim(console);
	if (console->log_bytes + bytes > console->log_max)
		return; /* could not be trimmed */
	/* A full disk loses lines of the log; what is written next takes their place. */
	if (cs_pwrite_full(console->log_fd, text, bytes, console->log_bytes) == 0)
		console->log_bytes += bytes;
}

/* ---- the client */

static void detach(struct console *console)
{
	console->client_watch = cs_watch_free(console->client_watch);
	cs_fd_closep(&console->client_fd);
	console->client_eof = console->client_gone = false;
}

/* The other end is closed. What it sent before is still the guest's input, as soon as that has
 * room. HUP cannot be unwatched, so the watch goes: it would wake us for ever. */
static void hang_up(struct console *console)
{
	if (console->client_eof) {
		detach(console);
		return;
	}
	console->client_watch = cs_watch_free(console->client_watch);
	console->client_gone = true;
	cs_virtio_again(&console->dev, RECEIVE);
}

static void client_put(struct console *console, const char *text, size_t bytes)
{
	if (console->client_fd < 0 || console->client_gone)
		return;
	/* What does not fit is lost: a client that does not read must not stall the guest. */
	if (send(console->client_fd, text, bytes, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 &&
	    errno != EAGAIN && errno != EINTR && errno != ENOBUFS && errno != ENOMEM)
		hang_up(console);
}

static void client_watch(struct console *console, bool input)
{
	if (console->client_watch && cs_watch_set(console->client_watch, input ? EPOLLIN : 0) < 0)
		detach(console);
}

/* ---- guest to host */

static int64_t transmit(struct cs_virtio *dev, const struct cs_chain *chain)
{
	struct console *console = (struct console *)dev;
	char chunk[CHUNK_BYTES];

	while (console->turn_left) {
		size_t bytes = sizeof(chunk);

		if (bytes > console->turn_left)
			bytes = console->turn_left;
		bytes = cs_chain_read(chain, console->out_offset, chunk, bytes);
		if (bytes == 0) {
			console->out_offset = 0;
			return 0;
		}
		log_put(console, chunk, bytes);
		client_put(console, chunk, bytes);
		console->out_offset += bytes;
		console->turn_left -= (uint32_t)bytes;
	}
	/* A request may hold 4 GiB: the rest of it in the next turn. */
	cs_virtio_again(dev, TRANSMIT);
	return -EAGAIN;
}

/* ---- host to guest */

/* Read what the client sent into (chain): true when there may be more to read. */
static bool receive_one(struct console *console, const struct cs_chain *chain)
{
	ssize_t got = 0;

	if (chain->writable_bytes == 0) { /* nothing to be put there: give it back */
		cs_virtio_complete(&console->dev, RECEIVE, chain->head, 0);
		return true;
	}
	got = readv(console->client_fd, chain->iov + chain->readable, (int)chain->writable);
	if (got > 0) {
		cs_virtio_complete(&console->dev, RECEIVE, chain->head, (uint64_t)got);
		return true;
	}

	cs_virtq_unpop(&console->dev.queue[RECEIVE]);
	if (got < 0 && errno == EINTR)
		return true;
	if (console->client_gone || (got < 0 && errno != EAGAIN)) {
		detach(console);
		return false;
	}
	/* End of its input: it may go on reading, and HUP tells when it closes. */
	console->client_eof = got == 0;
	client_watch(console, got < 0);
	return false;
}

static void receive(struct console *console)
{
	struct cs_virtio *dev = &console->dev;
	struct cs_virtq *q = &dev->queue[RECEIVE];
	struct cs_chain chain;
	unsigned turn = 0;
	bool more = true;

	while (dev->running && more && console->client_fd >= 0 && !console->client_eof) {
		int r;

		if (turn++ == TURN_READS) {
			cs_virtio_again(dev, RECEIVE);
			break;
		}
		r = cs_virtq_pop(q, dev->mem, &chain);
		if (r < 0) {
			cs_virtio_break(dev);
		} else if (r > 0) {
			more = receive_one(console, &chain);
		} else if (!cs_virtq_enable_kick(q, dev->mem, true)) {
			/* No room in the guest: its next buffer wakes us, the client does not. */
			client_watch(console, false);
			break;
		}
	}
	cs_virtio_notify(dev, RECEIVE);
	if (!dev->running)
		client_watch(console, false); /* its input is ready for ever */
}

static void on_client(void *arg, uint32_t events)
{
	struct console *console = arg;

	if (events & (EPOLLHUP | EPOLLERR))
		hang_up(console);
	receive(console);
}

/* ---- the device */

static void kick(struct cs_virtio *dev, unsigned queue)
{
	struct console *console = (struct console *)dev;

	if (queue == RECEIVE) {
		receive(console);
		return;
	}
	console->turn_left = TURN_BYTES;
	cs_virtio_serve(dev, TRANSMIT, transmit);
}

static void reset(struct cs_virtio *dev)
{
	struct console *console = (struct console *)dev;

	console->out_offset = 0;
	client_watch(console, false);
}

/* The log and the client are the host's. */
static void state(struct cs_virtio *dev, struct cs_stream *stream)
{
	struct console *console = (struct console *)dev;

	cs_stream_field(stream, console->out_offset);
}

static void console_free(struct cs_virtio *dev)
{
	struct console *console = (struct console *)dev;

	detach(console);
	free(console);
}

/* Neither size nor several ports nor emergency write: a port of bytes. */
static const struct cs_virtio_ops ops = {
	.name = "console",
	.id = VIRTIO_ID_CONSOLE,
	.queues = QUEUES,
	.queue_size = QUEUE_SIZE,
	.kick = kick,
	.reset = reset,
	.state = state,
	.free = console_free,
};

static int open_log(struct console *console, const struct cs_virtio_console_spec *spec,
		    struct cs_err *err)
{
	struct stat st;
	int flags;

	if (spec->log_fd < 0)
		return 0;
	if (spec->log_max < LOG_MIN)
		return cs_fail(err, EINVAL,
			       "console log: a limit of %" PRIu64
			       " bytes is too small (at least 16K)",
			       spec->log_max);
	flags = fcntl(spec->log_fd, F_GETFL);
	if (flags < 0 || fstat(spec->log_fd, &st) < 0)
		return cs_fail_errno(err, errno, "console log");
	/* O_APPEND would send the copy of trim() to the end. */
	if (!S_ISREG(st.st_mode) || (flags & O_ACCMODE) != O_RDWR || (flags & O_APPEND))
		return cs_fail(err, EINVAL,
			       "console log: not a file opened for reading and writing in place");
	console->log_fd = spec->log_fd;
	console->log_max = spec->log_max;
	console->log_bytes = (uint64_t)st.st_size;
	if (console->log_bytes > console->log_max)
		trim(console);
	return 0;
}

int cs_virtio_console_create(const struct cs_virtio_console_spec *spec, struct cs_virtio **ret,
			     struct cs_err *err)
{
	cs_auto(cs_mem_freep) struct console *console = calloc(1, sizeof(*console));
	int r;

	if (!console)
		return cs_fail_errno(err, ENOMEM, "virtio console");
	console->dev.ops = &ops;
	console->log_fd = -1;
	console->client_fd = -1;
	r = open_log(console, spec, err);
	if (r < 0)
		return r;
	*ret = &cs_steal(console)->dev;
	return 0;
}

int cs_virtio_console_attach(struct cs_virtio *dev, int fd)
{
	struct console *console = (struct console *)dev;
	struct cs_watch *watch;
	int r;

	if (!dev->loop)
		return -ENODEV;
	r = cs_loop_add(dev->loop, fd, dev->running ? EPOLLIN : 0, on_client, console, &watch);
	if (r < 0)
		return r;
	detach(console);
	console->client_fd = fd;
	console->client_watch = watch;
	return 0;
}
