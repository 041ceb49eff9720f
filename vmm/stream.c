/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/stream.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/crc.h"

#define FIRST_ROOM 32768u

static const char magic[8] = "CSSTATE";
static const char end_name[] = "end";

struct head {
	char magic[8];
	uint32_t version, checksum;
};

struct section {
	char name[CS_STREAM_NAME];
	uint32_t version, bytes;
};

struct cs_stream {
	bool saves;
	char *out; /* saving */
	size_t room;
	const char *in; /* loading; lent */
	size_t used;    /* written or read so far */
	size_t limit;   /* loading: bytes in all */
	/* Saving: where the open section's head is. Loading: where the section ends. 0: none is
	 * open (a file begins with its head, so no section is at 0). */
	size_t section;
	char name[CS_STREAM_NAME];
	struct cs_err err;
};

struct cs_stream *cs_stream_create(void)
{
	struct head head = { .version = CS_STREAM_VERSION };
	struct cs_stream *stream = calloc(1, sizeof(*stream));

	if (!stream)
		return NULL;
	stream->saves = true;
	memcpy(head.magic, magic, sizeof(magic));
	cs_stream_bytes(stream, "head", &head, sizeof(head));
	return stream;
}

struct cs_stream *cs_stream_open(const void *data, size_t bytes)
{
	struct cs_stream *stream = calloc(1, sizeof(*stream));
	struct head head = { 0 };

	if (!stream)
		return NULL;
	stream->in = data;
	stream->limit = bytes;
	cs_stream_bytes(stream, "head", &head, sizeof(head));
	if (cs_stream_good(stream) && memcmp(head.magic, magic, sizeof(magic)) != 0)
		cs_stream_refuse(stream, EBADMSG, "not a machine's state");
	if (cs_stream_good(stream) && head.version != CS_STREAM_VERSION)
		cs_stream_refuse(stream, ESTALE,
				 "of format %u, this clearstore reads %u (save the guest again)",
				 head.version, CS_STREAM_VERSION);
	return stream;
}

int cs_stream_check(const void *data, size_t bytes, struct cs_err *err)
{
	struct head head;

	/* Of what is no state at all a load says so in better words. */
	if (bytes < sizeof(head) || memcmp(data, magic, sizeof(magic)) != 0)
		return 0;
	memcpy(&head, data, sizeof(head));
	if (head.version == CS_STREAM_VERSION &&
	    head.checksum != cs_crc32((const char *)data + sizeof(head), bytes - sizeof(head)))
		return cs_fail(err, EBADMSG, "state: broken: it is not what was saved");
	return 0;
}

bool cs_stream_saves(const struct cs_stream *stream)
{
	return stream->saves;
}

bool cs_stream_good(const struct cs_stream *stream)
{
	return stream->err.code == 0;
}

void cs_stream_refuse(struct cs_stream *stream, int code, const char *fmt, ...)
{
	char text[sizeof(stream->err.text)];
	va_list ap;

	if (!cs_stream_good(stream))
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	cs_fail(&stream->err, code, "state: %s", text);
}

void cs_stream_require(struct cs_stream *stream, bool legal, const char *what)
{
	if (!legal)
		cs_stream_refuse(stream, EBADMSG, "broken: %s%s%s makes no sense", stream->name,
				 *stream->name ? ": " : "", what);
}

/* ---- bytes */

static bool make_room(struct cs_stream *stream, size_t bytes)
{
	size_t room = stream->room ? stream->room : FIRST_ROOM;
	char *out;

	if (bytes > CS_STREAM_BYTES_MAX - stream->used) {
		cs_stream_refuse(stream, EFBIG, "larger than a state may be");
		return false;
	}
	while (room - stream->used < bytes)
		room *= 2;
	if (room == stream->room)
		return true;
	out = realloc(stream->out, room);
	if (!out) {
		cs_stream_refuse(stream, ENOMEM, "out of memory");
		return false;
	}
	stream->out = out;
	stream->room = room;
	return true;
}

void cs_stream_bytes(struct cs_stream *stream, const char *what, void *data, size_t bytes)
{
	if (!cs_stream_good(stream))
		return;
	if (stream->saves) {
		if (!make_room(stream, bytes))
			return;
		memcpy(stream->out + stream->used, data, bytes);
	} else {
		const size_t end = stream->section ? stream->section : stream->limit;

		if (bytes > end - stream->used) {
			cs_stream_refuse(stream, EBADMSG, "broken: it ends within %s%s%s",
					 stream->name, *stream->name ? ": " : "", what);
			return;
		}
		memcpy(data, stream->in + stream->used, bytes);
	}
	stream->used += bytes;
}

void cs_stream_flag(struct cs_stream *stream, const char *what, bool *value)
{
	uint8_t byte = *value;

	cs_stream_bytes(stream, what, &byte, sizeof(byte));
	cs_stream_require(stream, byte <= 1, what);
	if (cs_stream_good(stream))
		*value = byte;
}

/* ---- sections */

static void close_section(struct cs_stream *stream)
{
	if (!cs_stream_good(stream) || !stream->section)
		return;
	if (stream->saves) {
		const uint32_t bytes =
			(uint32_t)(stream->used - stream->section - sizeof(struct section));

		memcpy(stream->out + stream->section + offsetof(struct section, bytes), &bytes,
		       sizeof(bytes));
	} else if (stream->used != stream->section) {
		cs_stream_refuse(stream, EBADMSG, "broken: %s is longer than it should be",
				 stream->name);
	}
	stream->section = 0;
	stream->name[0] = '\0';
}

/* The head that was read is the one asked for, and its section lies inside the file. */
static void check_section(struct cs_stream *stream, const struct section *found,
			  const struct section *wanted)
{
	if (memcmp(found->name, wanted->name, sizeof(found->name)) != 0)
		cs_stream_refuse(stream, EBADMSG, "broken: another section than '%s'",
				 wanted->name);
	else if (found->version != wanted->version)
		cs_stream_refuse(stream, ESTALE,
				 "%s is of version %u, this clearstore reads %u (save the guest "
				 "again)",
				 wanted->name, found->version, wanted->version);
	else if (found->bytes > stream->limit - stream->used)
		cs_stream_refuse(stream, EBADMSG, "broken: it ends within %s", wanted->name);
}

void cs_stream_section(struct cs_stream *stream, const char *name, uint32_t version)
{
	struct section wanted = { .version = version };
	struct section head;
	size_t at;

	close_section(stream);
	snprintf(wanted.name, sizeof(wanted.name), "%s", name);
	head = wanted;
	at = stream->used;
	cs_stream_bytes(stream, name, &head, sizeof(head));
	if (!stream->saves && cs_stream_good(stream))
		check_section(stream, &head, &wanted);
	if (!cs_stream_good(stream))
		return;
	stream->section = stream->saves ? at : stream->used + head.bytes;
	memcpy(stream->name, wanted.name, sizeof(stream->name));
}

int cs_stream_end(struct cs_stream *stream, struct cs_err *err)
{
	cs_stream_section(stream, end_name, 0);
	close_section(stream);
	if (!stream->saves && stream->used != stream->limit)
		cs_stream_refuse(stream, EBADMSG, "broken: something follows its end");
	if (!cs_stream_good(stream))
		return cs_fail(err, stream->err.code, "%s", stream->err.text);
	if (stream->saves) {
		const uint32_t checksum = cs_crc32(stream->out + sizeof(struct head),
						   stream->used - sizeof(struct head));

		memcpy(stream->out + offsetof(struct head, checksum), &checksum, sizeof(checksum));
	}
	return 0;
}

const void *cs_stream_data(const struct cs_stream *stream, size_t *ret_bytes)
{
	*ret_bytes = stream->used;
	return stream->out;
}

struct cs_stream *cs_stream_free(struct cs_stream *stream)
{
	if (!stream)
		return NULL;
	free(stream->out);
	free(stream);
	return NULL;
}
