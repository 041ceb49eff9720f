/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A machine's state as bytes. One description serves both ways: the same calls write a field when
 * the stream saves and fill it when the stream loads.
 *
 *   file     "CSSTATE" and a NUL, u32 CS_STREAM_VERSION, u32 checksum, sections, the end mark
 *   section  char name[16] (NUL-padded), u32 version, u32 bytes, then so many bytes
 *   end mark a section named "end", version 0, of 0 bytes; nothing follows
 *   checksum cs_crc32() of all that follows it
 *
 * Integers are little endian, structures of KVM as they are in its API. Whatever the bytes are, a
 * load ends with a result or with words: no field reaches over its section, a section must be used
 * up, and errors stick: after the first every call leaves its data as it was, and cs_stream_end()
 * tells. So what is loaded into is initialized before. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/own.h"

#define CS_STREAM_VERSION   2u
#define CS_STREAM_NAME      16u
#define CS_STREAM_BYTES_MAX (UINT64_C(16) << 20) /* of a whole state: a vCPU has some 12 KiB */

struct cs_stream;

/* To save. NULL: no memory. */
struct cs_stream *cs_stream_create(void);

/* To load from (bytes) at (data), lent until the stream is freed. NULL: no memory; a head that is
 * wrong is told by the end. */
struct cs_stream *cs_stream_open(const void *data, size_t bytes);

/* Is it what was saved? A load finds what makes no sense; this finds the rest. -EBADMSG. */
int cs_stream_check(const void *data, size_t bytes, struct cs_err *err);

bool cs_stream_saves(const struct cs_stream *stream);
bool cs_stream_good(const struct cs_stream *stream); /* nothing has gone wrong so far */

/* Begin section (name) of (version); loading: it must be the next one. The one before must be used
 * up. */
void cs_stream_section(struct cs_stream *stream, const char *name, uint32_t version);

/* (bytes) at (data); (what) names them in words. */
void cs_stream_bytes(struct cs_stream *stream, const char *what, void *data, size_t bytes);
#define cs_stream_field(stream, lvalue)                                                            \
	cs_stream_bytes((stream), #lvalue, &(lvalue), sizeof(lvalue))

/* A bool as a byte, 0 or 1. */
void cs_stream_flag(struct cs_stream *stream, const char *what, bool *value);

/* What was loaded is legal, or the state is broken (-EBADMSG). */
void cs_stream_require(struct cs_stream *stream, bool legal, const char *what);

/* Fail with (code) (ESTALE: does not fit this host, machine or version) and words. */
void cs_stream_refuse(struct cs_stream *stream, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* The end mark; loading: nothing may follow it. 0, or what went wrong first: -ESTALE, -EBADMSG,
 * -ENOMEM, with words that begin with "state: ". */
int cs_stream_end(struct cs_stream *stream, struct cs_err *err);

/* What was saved, lent until the stream is freed. */
const void *cs_stream_data(const struct cs_stream *stream, size_t *ret_bytes);

struct cs_stream *cs_stream_free(struct cs_stream *stream);
CS_DEFINE_AUTO(cs_stream);
