/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Archives: what they hold comes in whole, and the hostile ones not at all, with words. */
#include <errno.h>
#include <sys/sysmacros.h>

#include "tests/unit/import.h"

static void put(struct fixture *f, char type, const char *name, const char *target)
{
	const struct cs_fake_entry entry = {
		.name = name,
		.target = target,
		.type = type,
		.mode = 0644,
	};

	cs_fake_tar_add(&f->tar, &entry);
}

static void put_file(struct fixture *f, const char *name, const char *text)
{
	const struct cs_fake_entry entry = {
		.name = name,
		.type = '0',
		.mode = 0644,
		.data = text,
		.data_bytes = strlen(text),
	};

	cs_fake_tar_add(&f->tar, &entry);
}

static int import(struct fixture *f)
{
	cs_fake_tar_save(&f->tar, f->scratch->fd, "a.tar");
	f->err = (struct cs_err){ 0 };
	return cs_import_archive(&f->import, fixture_path(f, "a.tar"), &f->err);
}

static void import_all(struct fixture *f)
{
	cs_fake_tar_end(&f->tar);
	if (import(f) < 0)
		fail_msg("%s", f->err.text);
}

/* Refused as (code), with (words), which are one line. */
static void refused(struct fixture *f, int code, const char *words)
{
	int r;

	cs_fake_tar_end(&f->tar);
	r = import(f);
	if (r != code || !strstr(f->err.text, words) || strchr(f->err.text, '\n'))
		fail_msg("wanted %d '%s', got %d '%s'", code, words, r, f->err.text);
}

static void test_kinds(void **state)
{
	struct fixture *f = *state;
	const struct cs_fake_entry suid = {
		.name = "./usr/bin/su",
		.type = '0',
		.mode = 04755,
		.uid = 4000000000u,
		.gid = 70000,
		.mtime = 1000000000,
		.data = "program",
		.data_bytes = 7,
	};
	const struct cs_fake_entry device = {
		.name = "dev/sda",
		.type = '4',
		.mode = 0660,
		.major_number = 8,
		.minor_number = 300,
	};

	put(f, '5', "./dev/", NULL); /* before "./" */
	put(f, '5', "./", NULL);
	put(f, '2', "./bin", "usr/bin");
	cs_fake_tar_add(&f->tar, &suid);
	cs_fake_tar_add(&f->tar, &device);
	put(f, '6', "fifo", NULL);
	put(f, '1', "bin/doas", "usr/bin/su"); /* through the link */
	put_file(f, "bin/tool", "tool");
	import_all(f);
	fixture_expect(f, "usr/bin/su", 7, 0, "program");
	assert_int_equal(fixture_find(f, "usr/bin/su")->attr.mode, S_IFREG | 04755);
	assert_int_equal(fixture_find(f, "usr/bin/su")->attr.uid, 4000000000u);
	assert_int_equal(fixture_find(f, "usr/bin/su")->attr.gid, 70000);
	assert_int_equal(fixture_find(f, "usr/bin/su")->attr.mtime.tv_sec, 1000000000);
	assert_int_equal(fixture_find(f, "usr/bin/su")->links, 2);
	assert_ptr_equal(fixture_find(f, "usr/bin/doas"), fixture_find(f, "usr/bin/su"));
	fixture_expect(f, "usr/bin/tool", 4, 0, "tool");
	assert_int_equal(fixture_find(f, "dev/sda")->attr.mode, S_IFBLK | 0660);
	assert_int_equal(fixture_find(f, "dev/sda")->attr.device, makedev(8, 300));
	assert_int_equal(fixture_find(f, "fifo")->attr.mode, S_IFIFO | 0644);
	assert_int_equal(f->import.input_bytes, 11);
}

static void test_pax(void **state)
{
	static const char *const long_name[] = { "path",  "d/n\xc3\xa4me-\xe2\x82\xac",
						 "mtime", "1000000000.5",
						 "uid",   "3000000000",
						 NULL };
	static const char *const xattrs[] = { "SCHILY.xattr.user.test", "value",
					      "SCHILY.xattr.security.capability", "\001abc", NULL };
	static const char *const acl[] = {
		"SCHILY.acl.access", "user::rw-,user:daemon:rwx:1,group::r--,mask::rwx,other::---",
		NULL
	};
	static const char *const acl_default[] = { "SCHILY.acl.default",
						   "user::rwx,group::r-x,other::r-x", NULL };
	static const unsigned char wanted[] = {
		2, 0, 0,   0,   1,   0,   6,  0, 255, 255, 255, 255, 2,   0,   7,
		0, 1, 0,   0,   0,   4,   0,  4, 0,   255, 255, 255, 255, 16,  0,
		7, 0, 255, 255, 255, 255, 32, 0, 0,   0,   255, 255, 255, 255,
	};
	struct fixture *f = *state;
	const struct cs_xattr *xattr;

	cs_fake_tar_pax(&f->tar, long_name);
	put_file(f, "short", "x");
	cs_fake_tar_pax(&f->tar, xattrs);
	put_file(f, "attributes", "x");
	cs_fake_tar_pax(&f->tar, acl);
	put_file(f, "acl", "x");
	cs_fake_tar_pax(&f->tar, acl_default);
	put(f, '5', "folder", NULL);
	import_all(f);
	assert_int_equal(fixture_find(f, "d/n\xc3\xa4me-\xe2\x82\xac")->attr.mtime.tv_nsec,
			 500000000);
	assert_int_equal(fixture_find(f, "d/n\xc3\xa4me-\xe2\x82\xac")->attr.uid, 3000000000u);
	assert_memory_equal(fixture_xattr(f, "attributes", "user.test")->value, "value", 5);
	assert_memory_equal(fixture_xattr(f, "attributes", "security.capability")->value, "\001abc",
			    4);
	xattr = fixture_xattr(f, "acl", "system.posix_acl_access");
	assert_int_equal(xattr->bytes, sizeof(wanted));
	assert_memory_equal(xattr->value, wanted, sizeof(wanted));
	/* the group bits are the mask */
	assert_int_equal(fixture_find(f, "acl")->attr.mode & 070, 070);
	assert_int_equal(fixture_xattr(f, "folder", "system.posix_acl_default")->bytes, 28);
}

/* GNU's sparse format 1.0: the map is in front of the data. */
static void test_sparse(void **state)
{
	static const char *const sparse[] = { "GNU.sparse.major",
					      "1",
					      "GNU.sparse.minor",
					      "0",
					      "GNU.sparse.name",
					      "holes",
					      "GNU.sparse.realsize",
					      "1099511627776",
					      NULL };
	struct fixture *f = *state;
	char data[512 + 1024] = "2\n0\n512\n1073741824\n512\n";
	const struct cs_fake_entry entry = {
		.name = "GNUSparseFile.0/holes",
		.type = '0',
		.mode = 0600,
		.data = data,
		.data_bytes = sizeof(data),
	};

	memcpy(data + 512, "front", 5);
	memcpy(data + 1024, "middle", 6);
	cs_fake_tar_pax(&f->tar, sparse);
	cs_fake_tar_add(&f->tar, &entry);
	import_all(f);
	fixture_expect(f, "holes", CS_TIB, 0, "front");
	fixture_expect(f, "holes", CS_TIB, CS_GIB, "middle");
	assert_int_equal(f->import.input_bytes, 1024);
}

/* A later entry of the same name wins. */
static void test_twice(void **state)
{
	struct fixture *f = *state;

	put_file(f, "a", "first");
	put_file(f, "a", "second!");
	put(f, '2', "b", "a");
	put_file(f, "b", "not a link");
	import_all(f);
	fixture_expect(f, "a", 7, 0, "second!");
	fixture_expect(f, "b", 10, 0, "not a link");
}

static void test_paths_out(void **state)
{
	struct fixture *f = *state;

	put_file(f, "../evil", "x");
	refused(f, -EINVAL, "entry '../evil': its name leads out of the root by '..'");
	put_file(f, "a/../../evil", "x");
	refused(f, -EINVAL, "'..'");
	put_file(f, "a/..", "x");
	refused(f, -EINVAL, "'..'");
	put_file(f, "/etc/evil", "x");
	refused(f, -EINVAL, "entry '/etc/evil': its name is an absolute path");
	put_file(f, "file", "x");
	put(f, '1', "hard", "../file");
	refused(f, -EINVAL, "entry 'hard': the file that it is a hard link to leads out");
	put(f, '1', "hard", "/etc/passwd");
	refused(f, -EINVAL, "absolute path");
	put(f, '1', "hard", "gone");
	refused(f, -ENOENT, "a hard link to 'gone', which is not there");
	/* a link out, and a file through it: stays inside */
	put(f, '2', "out", "../../../../../../tmp");
	put_file(f, "out/clearstore-was-here", "x");
	import_all(f);
	fixture_expect(f, "tmp/clearstore-was-here", 1, 0, "x");
	assert_int_equal(access("/tmp/clearstore-was-here", F_OK), -1);
	/* names that only look like it are names */
	put_file(f, "..a/b../...", "x");
	import_all(f);
	fixture_expect(f, "..a/b../...", 1, 0, "x");
}

static void test_traps(void **state)
{
	static const char *const exbi[] = { "size", "1152921504606846976", NULL };
	static const char *const sparse_exbi[] = { "GNU.sparse.major",
						   "1",
						   "GNU.sparse.minor",
						   "0",
						   "GNU.sparse.name",
						   "holes",
						   "GNU.sparse.realsize",
						   "1152921504606846976",
						   NULL };
	struct fixture *f = *state;
	struct cs_fake_entry entry = { .name = "big", .type = '0', .mode = 0600 };
	static const char map[1024] = "1\n0\n512\n";

	entry.claimed_bytes = CS_GIB;
	cs_fake_tar_add(&f->tar, &entry);
	refused(f, -ENOSPC, "entry 'big': is longer than the store has room");
	cs_fake_tar_pax(&f->tar, exbi);
	put_file(f, "exbi", "x");
	refused(f, -EFBIG, "entry 'exbi': 1024.0 PiB is longer than a file may be");
	cs_fake_tar_pax(&f->tar, sparse_exbi);
	entry = (struct cs_fake_entry){
		.name = "GNUSparseFile.0/holes", .type = '0', .data = map, .data_bytes = 1024
	};
	cs_fake_tar_add(&f->tar, &entry);
	refused(f, -EFBIG, "longer than a file may be");

	entry = (struct cs_fake_entry){ .type = '3', .mode = 0600, .major_number = 1 };
	for (int i = 0; i < 4097; i++) {
		char name[32];

		snprintf(name, sizeof(name), "dev/%d", i);
		entry.name = name;
		cs_fake_tar_add(&f->tar, &entry);
	}
	refused(f, -EMLINK, "over 4096 device nodes");
	entry.major_number = 5000;
	entry.name = "dev/odd";
	cs_fake_tar_add(&f->tar, &entry);
	refused(f, -EINVAL, "entry 'dev/odd': a device of an impossible number");
	entry = (struct cs_fake_entry){ .name = "owned", .type = '0', .uid = UINT32_MAX };
	cs_fake_tar_add(&f->tar, &entry);
	refused(f, -EINVAL, "entry 'owned': belongs to a user or group of an impossible number");
	put(f, '2', "empty-link", "");
	refused(f, -EINVAL, "entry 'empty-link': a symbolic link to nowhere");
	put_file(f, "dir/file", "x");
	put_file(f, "dir", "x");
	refused(f, -EEXIST, "'dir': would replace a folder that is not empty");
	put_file(f, "plain", "x");
	put_file(f, "plain/below", "x");
	refused(f, -ENOTDIR, "'plain/below'");
}

/* Names go to a terminal: nothing in them may be obeyed. */
static void test_words_are_clean(void **state)
{
	struct fixture *f = *state;

	put_file(f, "../\033[2J\nevil", "x");
	refused(f, -EINVAL, "entry '../?[2J");
	assert_null(strchr(f->err.text, '\033'));
}

static void test_not_archives(void **state)
{
	struct fixture *f = *state;

	scratch_write(f->scratch->fd, "a.tar", "");
	assert_int_equal(cs_import_archive(&f->import, fixture_path(f, "a.tar"), &f->err), -EINVAL);
	assert_non_null(strstr(f->err.text, "an empty file, not an archive"));
	scratch_write(f->scratch->fd, "a.tar", "#!/bin/sh\necho hello\n");
	assert_int_equal(cs_import_archive(&f->import, fixture_path(f, "a.tar"), &f->err), -EINVAL);
	assert_non_null(strstr(f->err.text, "not an archive"));
	/* names files of the host as contents */
	scratch_write(f->scratch->fd, "a.tar", "#mtree\n./shadow type=file contents=/etc/passwd\n");
	assert_int_equal(cs_import_archive(&f->import, fixture_path(f, "a.tar"), &f->err), -EINVAL);
	assert_non_null(strstr(f->err.text, "not an archive"));
	refused(f, -EINVAL, "");
	assert_int_equal(cs_import_archive(&f->import, fixture_path(f, "gone"), &f->err), -ENOENT);
	assert_int_equal(mkfifoat(f->scratch->fd, "fifo", 0600), 0);
	assert_int_equal(cs_import_archive(&f->import, fixture_path(f, "fifo"), &f->err), -EINVAL);
	assert_non_null(strstr(f->err.text, "neither a folder nor a file"));
}

/* Cut anywhere, an archive is refused: not taken for a shorter one. */
static void test_truncated(void **state)
{
	struct fixture *f = *state;
	unsigned char *whole;
	size_t bytes, end;
	char *text = calloc(1, 3000);

	assert_non_null(text);
	memset(text, 't', 2999);
	put_file(f, "one", text);
	put(f, '5', "two", NULL);
	put_file(f, "three", text);
	end = f->tar.bytes;
	cs_fake_tar_end(&f->tar);
	bytes = f->tar.bytes;
	whole = malloc(bytes);
	assert_non_null(whole);
	memcpy(whole, f->tar.data, bytes);
	for (size_t cut = 1; cut <= bytes; cut += cut % 512 > 3 && cut % 512 < 500 ? 97 : 1) {
		int r;

		free(f->tar.data);
		f->tar.data = malloc(cut);
		assert_non_null(f->tar.data);
		memcpy(f->tar.data, whole, cut);
		f->tar.bytes = cut;
		r = import(f);
		/* one block of the mark is enough of it */
		if ((r < 0) != (cut < end + 512))
			fail_msg("cut at %zu of %zu: %d '%s'", cut, bytes, r, f->err.text);
	}
	free(whole);
	free(text);
}

/* Whatever stands in it, it ends, and nothing is touched that should not be. */
static void test_garbled(void **state)
{
	struct fixture *f = *state;
	uint32_t random = 1;
	unsigned char *whole;
	size_t bytes;

	put_file(f, "one", "contents");
	put(f, '2', "two", "one");
	put(f, '1', "three", "one");
	put_file(f, "four/five", "contents");
	cs_fake_tar_end(&f->tar);
	bytes = f->tar.bytes;
	whole = malloc(bytes);
	assert_non_null(whole);
	memcpy(whole, f->tar.data, bytes);
	for (int i = 0; i < 2000; i++) {
		free(f->tar.data);
		f->tar.data = malloc(bytes);
		assert_non_null(f->tar.data);
		memcpy(f->tar.data, whole, bytes);
		f->tar.bytes = bytes;
		for (int n = 0; n < 4; n++) {
			random = random * 1664525 + 1013904223;
			f->tar.data[random % bytes] = (unsigned char)(random >> 24);
		}
		if (import(f) < 0)
			assert_string_not_equal(f->err.text, "");
	}
	free(whole);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_kinds, fixture_make, fixture_remove),
		cmocka_unit_test_setup_teardown(test_pax, fixture_make, fixture_remove),
		cmocka_unit_test_setup_teardown(test_sparse, fixture_make, fixture_remove),
		cmocka_unit_test_setup_teardown(test_twice, fixture_make, fixture_remove),
		cmocka_unit_test_setup_teardown(test_paths_out, fixture_make, fixture_remove),
		cmocka_unit_test_setup_teardown(test_traps, fixture_make, fixture_remove),
		cmocka_unit_test_setup_teardown(test_words_are_clean, fixture_make, fixture_remove),
		cmocka_unit_test_setup_teardown(test_not_archives, fixture_make, fixture_remove),
		cmocka_unit_test_setup_teardown(test_truncated, fixture_make, fixture_remove),
		cmocka_unit_test_setup_teardown(test_garbled, fixture_make, fixture_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
