/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"

#define BUFFER_BYTES (UINT64_C(1) << 20)
#define BUFFERS      4

/* Zeroes are left out in pieces of this size: smaller holes would cost more than they save. */
#define PIECE_BYTES (UINT64_C(64) << 10)

/* The disk is told to begin each time so much is written; an extent of Btrfs becomes no longer than
 * this. Longer ones are no faster, and a later version that shares a block of one keeps it whole.
 */
#define START_BYTES (UINT64_C(4) << 20)

struct buffer {
	unsigned char *data;
	uint64_t at, fill; /* where in the file; bytes */
};

struct cs_writer {
	int fd;                 /* lent */
	struct cs_share *share; /* lent, NULL: none; the thread's */
	uint64_t at;            /* where in the file the current buffer begins */
	struct buffer *filling; /* buffer[put % BUFFERS] */
	struct buffer buffer[BUFFERS];
	pthread_t thread;
	bool running;
	/* below: under the lock */
	pthread_mutex_t lock;
	pthread_cond_t moved;
	uint64_t put, taken; /* buffers handed over; written */
	int failed;          /* -errno of the first write that failed */
	bool quit, settle;   /* end; leave nothing put off */
};

static bool is_zero(const unsigned char *data, uint64_t bytes)
{
	return data[0] == 0 && !memcmp(data, data + 1, bytes - 1);
}

static uint64_t piece_at(const struct buffer *buffer, uint64_t at)
{
	return buffer->fill - at < PIECE_BYTES ? buffer->fill - at : PIECE_BYTES;
}

/* Write what is not zero. */
static int write_buffer(const struct cs_writer *w, const struct buffer *buffer)
{
	uint64_t at = 0, start;
	int r = 0;

	while (at < buffer->fill && r == 0) {
		while (at < buffer->fill && is_zero(buffer->data + at, piece_at(buffer, at)))
			at += piece_at(buffer, at);
		start = at;
		while (at < buffer->fill && !is_zero(buffer->data + at, piece_at(buffer, at)))
			at += piece_at(buffer, at);
		if (at > start && w->share)
			r = cs_share_write(w->share, w->fd, buffer->data + start, at - start,
					   buffer->at + start);
		else if (at > start)
			r = cs_pwrite_full(w->fd, buffer->data + start, at - start,
					   buffer->at + start);
	}
	return r;
}

/* Under the lock: all buffers are written; what the share has put off is not. */
static int settle(struct cs_writer *w, int failed)
{
	if (!failed && w->share)
		failed = cs_share_flush(w->share, w->fd);
	w->failed = failed;
	w->settle = false;
	pthread_cond_broadcast(&w->moved);
	return failed;
}

static void *write_all(void *arg)
{
	struct cs_writer *w = arg;
	uint64_t started = 0, end;
	int failed = 0;

	pthread_mutex_lock(&w->lock);
	for (;;) {
		struct buffer *buffer = &w->buffer[w->taken % BUFFERS];

		while (w->taken == w->put && !w->quit) {
			if (w->settle)
				failed = settle(w, failed);
			else
				pthread_cond_wait(&w->moved, &w->lock);
		}
		if (w->quit)
			break;
		pthread_mutex_unlock(&w->lock);

		if (!failed)
			failed = write_buffer(w, buffer);
		end = buffer->at + buffer->fill;
		if (!failed && end - started >= START_BYTES) {
			/* only a hint: whoever wants it to last, syncs */
			sync_file_range(w->fd, (off_t)started, (off_t)(end - started),
					SYNC_FILE_RANGE_WRITE);
			started = end;
		}

		pthread_mutex_lock(&w->lock);
		w->failed = failed;
		w->taken++;
		pthread_cond_broadcast(&w->moved);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

/* Signals are the main thread's. */
static int start_thread(struct cs_writer *w)
{
	sigset_t all, former;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &former);
	r = pthread_create(&w->thread, NULL, write_all, w);
	pthread_sigmask(SIG_SETMASK, &former, NULL);
	w->running = r == 0;
	return -r;
}

int cs_writer_open(int fd, uint64_t skip, struct cs_writer **ret)
{
	struct cs_writer *w = calloc(1, sizeof(*w));
	int r = 0;

	if (!w)
		return -ENOMEM;
	w->fd = fd;
	w->at = skip;
	w->filling = &w->buffer[0];
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->moved, NULL);
	for (int i = 0; i < BUFFERS && r == 0; i++) {
		w->buffer[i].data = malloc(BUFFER_BYTES);
		r = w->buffer[i].data ? 0 : -ENOMEM;
	}
	if (r == 0)
		r = start_thread(w);
	if (r < 0) {
		cs_writer_free(w);
		return r;
	}
	*ret = w;
	return 0;
}

void cs_writer_share(struct cs_writer *writer, struct cs_share *share)
{
	writer->share = share;
}

uint64_t cs_writer_tell(const struct cs_writer *writer)
{
	return writer->at + writer->filling->fill;
}

/* Hand the current buffer over and wait until the next is free, or all are (all). */
static int hand_over(struct cs_writer *w, bool all)
{
	int failed;

	pthread_mutex_lock(&w->lock);
	if (w->filling->fill) {
		w->filling->at = w->at;
		w->at += w->filling->fill;
		w->put++;
		pthread_cond_broadcast(&w->moved);
	}
	if (all) {
		w->settle = true;
		pthread_cond_broadcast(&w->moved);
	}
	while (w->settle || w->put - w->taken > (all ? 0 : BUFFERS - 1))
		pthread_cond_wait(&w->moved, &w->lock);
	failed = w->failed;
	w->filling = &w->buffer[w->put % BUFFERS];
	w->filling->fill = 0;
	pthread_mutex_unlock(&w->lock);
	return failed;
}

int cs_writer_flush(struct cs_writer *writer)
{
	return hand_over(writer, true);
}

int cs_writer_append(struct cs_writer *writer, const void *data, uint64_t bytes)
{
	const unsigned char *from = data;
	uint64_t part;
	int r = 0;

	while (bytes && r == 0) {
		part = BUFFER_BYTES - writer->filling->fill;
		if (part > bytes)
			part = bytes;
		memcpy(writer->filling->data + writer->filling->fill, from, part);
		writer->filling->fill += part;
		from += part;
		bytes -= part;
		if (writer->filling->fill == BUFFER_BYTES)
			r = hand_over(writer, false);
	}
	return r;
}

int cs_writer_zero(struct cs_writer *writer, uint64_t bytes)
{
	uint64_t part;
	int r = 0;

	while (bytes && r == 0) {
		if (!writer->filling->fill && bytes >= BUFFER_BYTES) {
			writer->at += cs_align_down(bytes, BUFFER_BYTES);
			bytes -= cs_align_down(bytes, BUFFER_BYTES);
			continue;
		}
		part = BUFFER_BYTES - writer->filling->fill;
		if (part > bytes)
			part = bytes;
		memset(writer->filling->data + writer->filling->fill, 0, part);
		writer->filling->fill += part;
		bytes -= part;
		if (writer->filling->fill == BUFFER_BYTES)
			r = hand_over(writer, false);
	}
	return r;
}

struct cs_writer *cs_writer_free(struct cs_writer *writer)
{
	if (!writer)
		return NULL;
	if (writer->running) {
		pthread_mutex_lock(&writer->lock);
		writer->quit = true;
		pthread_cond_broadcast(&writer->moved);
		pthread_mutex_unlock(&writer->lock);
		pthread_join(writer->thread, NULL);
	}
	for (int i = 0; i < BUFFERS; i++)
		free(writer->buffer[i].data);
	pthread_cond_destroy(&writer->moved);
	pthread_mutex_destroy(&writer->lock);
	free(writer);
	return NULL;
}
