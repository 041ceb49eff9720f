/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/digest.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/library.h"
#include "store/base/num.h"
#include "store/base/own.h"

#define STEP_BYTES  (UINT64_C(1) << 20)
#define BLOCK_BYTES UINT64_C(4096)

#define CRYPTO_CALLS(X)                                                                            \
	X(EVP_MD_CTX_new)                                                                          \
	X(EVP_MD_CTX_free)                                                                         \
	X(EVP_sha256)                                                                              \
	X(EVP_DigestInit_ex)                                                                       \
	X(EVP_DigestUpdate)                                                                        \
	X(EVP_DigestFinal_ex)

/* libcrypto, and a running digest. */
struct crypto {
	CRYPTO_CALLS(CS_LIBRARY_CALL)
	EVP_MD_CTX *ctx;
};

static const struct cs_symbol symbols[] = {
#define ROW(name) { #name, offsetof(struct crypto, name) },
	CRYPTO_CALLS(ROW)
#undef ROW
};

static void crypto_release(struct crypto *crypto)
{
	if (crypto->ctx)
		crypto->EVP_MD_CTX_free(crypto->ctx);
}

static void to_hex(const unsigned char *digest, unsigned bytes, char ret[CS_DIGEST_TEXT])
{
	static const char digits[] = "0123456789abcdef";

	for (unsigned i = 0; i < bytes && i < (CS_DIGEST_TEXT - 1) / 2; i++) {
		*ret++ = digits[digest[i] >> 4];
		*ret++ = digits[digest[i] & 15];
	}
	*ret = '\0';
}

static int start(struct crypto *crypto, struct cs_err *err)
{
	int r = cs_library_load("libcrypto.so.3", "libssl3", symbols,
				sizeof(symbols) / sizeof(symbols[0]), crypto, err);

	if (r < 0)
		return r;
	crypto->ctx = crypto->EVP_MD_CTX_new();
	if (!crypto->ctx || crypto->EVP_DigestInit_ex(crypto->ctx, crypto->EVP_sha256(), NULL) != 1)
		return cs_fail_errno(err, ENOMEM, "SHA-256");
	return 0;
}

static int finish(struct crypto *crypto, char ret[CS_DIGEST_TEXT], struct cs_err *err)
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned bytes;

	if (crypto->EVP_DigestFinal_ex(crypto->ctx, digest, &bytes) != 1)
		return cs_fail(err, EIO, "SHA-256: libcrypto failed");
	to_hex(digest, bytes, ret);
	return 0;
}

/* (bytes) at (at), into a buffer that has room up to a whole block: a file that was opened with
 * O_DIRECT is read in whole blocks, of which the last ends with the file. */
static int read_blocks(int fd, unsigned char *buf, uint64_t bytes, uint64_t at)
{
	const uint64_t asked = cs_align_up(bytes, BLOCK_BYTES);
	ssize_t n;

	do {
		n = pread(fd, buf, asked, (off_t)at);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if ((uint64_t)n >= bytes)
		return 0;
	if ((uint64_t)n % BLOCK_BYTES)
		return -ENODATA;
	/* interrupted at a block's end */
	return n ? read_blocks(fd, buf + n, bytes - (uint64_t)n, at + (uint64_t)n) : -ENODATA;
}

static int fail_read(int r, uint64_t bytes, struct cs_err *err)
{
	if (r == -ENODATA)
		return cs_fail(err, ENODATA, "shorter than %llu bytes", (unsigned long long)bytes);
	return cs_fail_errno(err, -r, "cannot read");
}

int cs_digest_file(int fd, uint64_t bytes, const struct cs_digest_progress *progress,
		   char ret[CS_DIGEST_TEXT], struct cs_err *err)
{
	cs_auto(crypto_release) struct crypto crypto = { 0 };
	cs_auto(cs_mem_freep) unsigned char *buf = aligned_alloc(BLOCK_BYTES, STEP_BYTES);
	uint64_t at, part;
	int r;

	if (!buf)
		return cs_fail_errno(err, ENOMEM, "SHA-256");
	r = start(&crypto, err);
	if (r < 0)
		return r;
	posix_fadvise(fd, 0, (off_t)bytes, POSIX_FADV_SEQUENTIAL);
	for (at = 0; at < bytes; at += part) {
		part = bytes - at < STEP_BYTES ? bytes - at : STEP_BYTES;
		r = read_blocks(fd, buf, part, at);
		if (r < 0)
			return fail_read(r, bytes, err);
		if (crypto.EVP_DigestUpdate(crypto.ctx, buf, part) != 1)
			return cs_fail(err, EIO, "SHA-256: libcrypto failed");
		if (progress)
			cs_progress_set(progress->progress, progress->done + at + part);
	}
	return finish(&crypto, ret, err);
}

int cs_digest_memory(const void *data, uint64_t bytes, char ret[CS_DIGEST_TEXT], struct cs_err *err)
{
	cs_auto(crypto_release) struct crypto crypto = { 0 };
	int r;

	r = start(&crypto, err);
	if (r < 0)
		return r;
	if (crypto.EVP_DigestUpdate(crypto.ctx, data, bytes) != 1)
		return cs_fail(err, EIO, "SHA-256: libcrypto failed");
	return finish(&crypto, ret, err);
}

static int add_block(struct crypto *crypto, const unsigned char *block, uint64_t number)
{
	unsigned char head[8];

	if (!block[0] && !memcmp(block, block + 1, BLOCK_BYTES - 1))
		return 0;
	for (size_t i = 0; i < sizeof(head); i++)
		head[i] = (unsigned char)(number >> 8 * i);
	if (crypto->EVP_DigestUpdate(crypto->ctx, head, sizeof(head)) != 1 ||
	    crypto->EVP_DigestUpdate(crypto->ctx, block, BLOCK_BYTES) != 1)
		return -EIO;
	return 0;
}

/* The blocks from (at) to (end). */
static int add_range(struct crypto *crypto, int fd, uint64_t at, uint64_t end, unsigned char *buf)
{
	uint64_t part;
	int r;

	for (; at < end; at += part) {
		part = end - at < STEP_BYTES ? end - at : STEP_BYTES;
		r = read_blocks(fd, buf, part, at);
		memset(buf + part, 0, cs_align_up(part, BLOCK_BYTES) - part);
		for (uint64_t i = 0; i < part && r == 0; i += BLOCK_BYTES)
			r = add_block(crypto, buf + i, (at + i) / BLOCK_BYTES);
		if (r < 0)
			return r;
	}
	return 0;
}

int cs_digest_sparse(int fd, uint64_t bytes, char ret[CS_DIGEST_TEXT], struct cs_err *err)
{
	cs_auto(crypto_release) struct crypto crypto = { 0 };
	cs_auto(cs_mem_freep) unsigned char *buf = aligned_alloc(BLOCK_BYTES, STEP_BYTES);
	off_t data, hole;
	struct stat st;
	uint64_t at;
	int r;

	if (!buf)
		return cs_fail_errno(err, ENOMEM, "SHA-256");
	r = start(&crypto, err);
	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0 || (uint64_t)st.st_size < bytes)
		return fail_read(-ENODATA, bytes, err);
	for (at = 0; at < bytes; at = (uint64_t)hole) {
		data = lseek(fd, (off_t)at, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			break; /* a hole to the end */
		hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
		if (hole < 0) { /* cannot tell: all of it, then */
			data = (off_t)at;
			hole = (off_t)bytes;
		}
		hole = (uint64_t)hole < bytes ? (off_t)cs_align_up((uint64_t)hole, BLOCK_BYTES)
					      : (off_t)bytes;
		r = add_range(&crypto, fd, cs_align_down((uint64_t)data, BLOCK_BYTES),
			      (uint64_t)hole < bytes ? (uint64_t)hole : bytes, buf);
		if (r < 0)
			return fail_read(r, bytes, err);
	}
	return finish(&crypto, ret, err);
}
