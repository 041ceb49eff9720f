/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/verity.h"

#include <errno.h>
#include <linux/fsverity.h>
#include <string.h>
#include <sys/ioctl.h>

#define DIGEST_BYTES 32 /* SHA-256 */
#define BLOCK_BYTES  4096

/* The many ways in which kernels say that they have none. */
static int verity_error(int code)
{
	return code == ENOTTY || code == ENOSYS || code == EINVAL ? -EOPNOTSUPP : -code;
}

int cs_verity_enable(int fd)
{
	struct fsverity_enable_arg arg = {
		.version = 1,
		.hash_algorithm = FS_VERITY_HASH_ALG_SHA256,
		.block_size = BLOCK_BYTES,
	};

	if (ioctl(fd, FS_IOC_ENABLE_VERITY, &arg) == 0 || errno == EEXIST)
		return 0;
	return verity_error(errno);
}

int cs_verity_measure(int fd, char ret[CS_DIGEST_TEXT])
{
	static const char digits[] = "0123456789abcdef";
	union {
		struct fsverity_digest digest;
		unsigned char room[sizeof(struct fsverity_digest) + 64];
	} found = { .digest.digest_size = 64 };

	if (ioctl(fd, FS_IOC_MEASURE_VERITY, &found.digest) < 0)
		return verity_error(errno);
	if (found.digest.digest_algorithm != FS_VERITY_HASH_ALG_SHA256 ||
	    found.digest.digest_size != DIGEST_BYTES)
		return -ENODATA; /* not ours */
	for (int i = 0; i < DIGEST_BYTES; i++) {
		const unsigned char byte = found.room[sizeof(struct fsverity_digest) + i];

		ret[2 * i] = digits[byte >> 4];
		ret[2 * i + 1] = digits[byte & 15];
	}
	ret[2 * DIGEST_BYTES] = '\0';
	return 0;
}
