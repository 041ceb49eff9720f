/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Digests against known ones, and of files with holes. */
#include <errno.h>

#include "store/base/num.h"
#include "store/digest.h"
#include "tests/unit/scratch.h"

/* FIPS 180-2, appendix B; and of nothing */
#define SHA256_ABC   "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define SHA256_EMPTY "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
/* a million of 'a' */
#define SHA256_MILLION "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"

static int open_new(void **state, const char *name)
{
	struct scratch *scratch = *state;
	int fd = openat(scratch->fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	return fd;
}

static void test_known(void **state)
{
	char digest[CS_DIGEST_TEXT], *million = malloc(1000000);
	struct cs_err err = { 0 };
	int fd = open_new(state, "f");

	assert_non_null(million);
	memset(million, 'a', 1000000);
	assert_int_equal(cs_digest_file(fd, 0, NULL, digest, NULL), 0);
	assert_string_equal(digest, SHA256_EMPTY);
	assert_int_equal(pwrite(fd, "abcdef", 6, 0), 6);
	assert_int_equal(cs_digest_file(fd, 3, NULL, digest, NULL), 0);
	assert_string_equal(digest, SHA256_ABC);
	assert_int_equal(cs_digest_file(fd, 7, NULL, digest, &err), -ENODATA);
	assert_string_not_equal(err.text, "");
	assert_string_equal(digest, SHA256_ABC);
	assert_int_equal(pwrite(fd, million, 1000000, 0), 1000000);
	assert_int_equal(cs_digest_file(fd, 1000000, NULL, digest, NULL), 0);
	assert_string_equal(digest, SHA256_MILLION);
	assert_int_equal(cs_digest_file(-1, 1, NULL, digest, NULL), -EBADF);
	free(million);
	close(fd);
}

/* The digest depends on what is in the file, not on where the holes are. */
static void test_sparse(void **state)
{
	char a[CS_DIGEST_TEXT], b[CS_DIGEST_TEXT], zeroes[65536] = { 0 };
	int holey = open_new(state, "holey"), dense = open_new(state, "dense");

	assert_int_equal(ftruncate(holey, 8 * (off_t)CS_GIB), 0);
	assert_int_equal(cs_digest_sparse(holey, 8 * CS_GIB, a, NULL), 0);
	assert_string_equal(a, SHA256_EMPTY);
	assert_int_equal(pwrite(holey, "data", 4, 5 * (off_t)CS_GIB + 100), 4);
	assert_int_equal(cs_digest_sparse(holey, 8 * CS_GIB, a, NULL), 0);
	assert_string_not_equal(a, SHA256_EMPTY);

	/* zeroes that are written are the same as a hole */
	assert_int_equal(pwrite(dense, zeroes, sizeof(zeroes), 5 * (off_t)CS_GIB - 4096),
			 sizeof(zeroes));
	assert_int_equal(pwrite(dense, "data", 4, 5 * (off_t)CS_GIB + 100), 4);
	assert_int_equal(ftruncate(dense, 8 * (off_t)CS_GIB), 0);
	assert_int_equal(cs_digest_sparse(dense, 8 * CS_GIB, b, NULL), 0);
	assert_string_equal(a, b);

	/* the same data elsewhere is not */
	assert_int_equal(pwrite(dense, zeroes, 4096, 5 * (off_t)CS_GIB), 4096);
	assert_int_equal(pwrite(dense, "data", 4, 6 * (off_t)CS_GIB + 100), 4);
	assert_int_equal(cs_digest_sparse(dense, 8 * CS_GIB, b, NULL), 0);
	assert_string_not_equal(a, b);
	assert_int_equal(cs_digest_sparse(dense, 8 * CS_GIB + 1, b, NULL), -ENODATA);
	close(holey);
	close(dense);
}

/* A last block that is not whole counts as filled with zeroes. */
static void test_sparse_tail(void **state)
{
	char a[CS_DIGEST_TEXT], b[CS_DIGEST_TEXT];
	int fd = open_new(state, "f");

	assert_int_equal(pwrite(fd, "tail", 4, 8192), 4);
	assert_int_equal(cs_digest_sparse(fd, 8196, a, NULL), 0);
	assert_int_equal(ftruncate(fd, 12288), 0);
	assert_int_equal(cs_digest_sparse(fd, 12288, b, NULL), 0);
	assert_string_equal(a, b);
	assert_int_equal(cs_digest_sparse(fd, 8192, b, NULL), 0);
	assert_string_equal(b, SHA256_EMPTY);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_known, scratch_make, scratch_remove),
		cmocka_unit_test_setup_teardown(test_sparse, scratch_make, scratch_remove),
		cmocka_unit_test_setup_teardown(test_sparse_tail, scratch_make, scratch_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
