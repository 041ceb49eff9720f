/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* fs-verity, of a kernel that is played here: what is guarded is known again in a moment, what took
 * its place is refused. */
#include <linux/fsverity.h>
#include <sys/ioctl.h>

#include "store/draft.h"
#include "store/verity.h"
#include "store/version.h"
#include "tests/unit/template-fixture.h"

/* The kernel: what it answers, and which inodes are guarded. */
static struct {
	int enable, busy; /* errno of enabling; so often ETXTBSY first */
	ino_t guarded[32];
	unsigned n, enabled;
	unsigned char flip; /* into all digests */
} kernel;

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);

static bool is_guarded(ino_t ino)
{
	for (unsigned i = 0; i < kernel.n; i++) {
		if (kernel.guarded[i] == ino)
			return true;
	}
	return false;
}

static int enable(ino_t ino, const struct fsverity_enable_arg *arg)
{
	assert_int_equal(arg->version, 1);
	assert_int_equal(arg->hash_algorithm, FS_VERITY_HASH_ALG_SHA256);
	assert_int_equal(arg->block_size, 4096);
	errno = kernel.enable;
	if (!errno && kernel.busy && kernel.busy--)
		errno = ETXTBSY;
	if (!errno && is_guarded(ino))
		errno = EEXIST;
	if (errno)
		return -1;
	kernel.enabled++;
	kernel.guarded[kernel.n++] = ino;
	return 0;
}

static int measure(ino_t ino, struct fsverity_digest *digest)
{
	errno = kernel.enable ? kernel.enable : is_guarded(ino) ? 0 : ENODATA;
	if (errno)
		return -1;
	assert_true(digest->digest_size >= 32);
	digest->digest_algorithm = FS_VERITY_HASH_ALG_SHA256;
	digest->digest_size = 32;
	for (unsigned i = 0; i < 32; i++)
		digest->digest[i] = (unsigned char)((ino >> i % 8 * 8) + i) ^ kernel.flip;
	return 0;
}

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	struct stat st;

	if (request != FS_IOC_ENABLE_VERITY && request != FS_IOC_MEASURE_VERITY)
		return __real_ioctl(fd, request, arg);
	assert_int_equal(fstat(fd, &st), 0);
	return request == FS_IOC_ENABLE_VERITY ? enable(st.st_ino, arg) : measure(st.st_ino, arg);
}

static void reset_kernel(void)
{
	memset(&kernel, 0, sizeof(kernel));
}

static void test_guarded(void **state)
{
	struct fixture *f = *state;
	const struct cs_template_spec spec = { .name = "web", .cmdline = "x" };
	struct cs_template *t;

	reset_kernel();
	kernel.busy = 3;
	add(f, "web");
	assert_int_equal(kernel.enabled, 2); /* kernel and root; not the disk */
	t = open_one(f, "web");
	assert_non_null(t);
	assert_true(cs_template_guarded(t));
	assert_int_equal(cs_template_scrub(f->store, t, true, NULL, &f->err), 0);
	cs_template_free(t);

	/* one more version: what stays stays guarded */
	if (cs_template_update(f->store, &spec, true, NULL, &f->err) < 0)
		fail_msg("%s", f->err.text);
	t = open_one(f, "web@2");
	assert_non_null(t);
	assert_true(cs_template_guarded(t));
	cs_template_free(t);

	/* another tree; none at all */
	kernel.flip = 1;
	assert_null(open_one(f, "web"));
	assert_int_equal(f->err.code, EBADMSG);
	assert_non_null(strstr(f->err.text, "fs-verity differs"));
	kernel.flip = 0;
	kernel.n = 0;
	assert_null(open_one(f, "web"));
	assert_non_null(strstr(f->err.text, "fs-verity is gone"));
}

/* The memory of a resumed guest begins with what its template has, which cannot be written to. */
static void test_kept(void **state)
{
	struct fixture *f = *state;
	struct cs_draft *draft = NULL;
	struct cs_template *t;
	char byte = 0;
	int fd;

	reset_kernel();
	add(f, "web");
	t = open_one(f, "web");
	assert_int_equal(cs_draft_create_version(f->store, t, &draft, &f->err), 0);
	if (cs_draft_open_part(draft, CS_PART_KERNEL, true, &fd, &f->err) < 0)
		fail_msg("%s", f->err.text);
	assert_int_equal(pread(fd, &byte, 1, 0), 1);
	assert_int_equal(byte, 0x7f);
	assert_int_equal(pwrite(fd, &byte, 1, 100), 1);
	close(fd);
	assert_int_equal(cs_draft_seal_part(draft, CS_PART_KERNEL, &f->err), 0);
	if (cs_draft_publish(draft, NULL, &f->err) < 0)
		fail_msg("%s", f->err.text);
	cs_draft_free(draft);
	assert_int_equal(cs_template_verify(t, NULL, &f->err), 0); /* the former is as it was */
	cs_template_free(t);
	t = open_one(f, "web@2");
	assert_non_null(t);
	assert_int_equal(cs_template_verify(t, NULL, &f->err), 0);
	cs_template_free(t);
}

static void test_none(void **state)
{
	struct fixture *f = *state;
	static const int answers[] = { ENOTTY, EOPNOTSUPP, EINVAL, ENOSYS };
	struct cs_template_spec spec;
	char name[16];
	struct cs_template *t;

	for (unsigned i = 0; i < 4; i++) {
		reset_kernel();
		kernel.enable = answers[i];
		snprintf(name, sizeof(name), "web-%u", i);
		add(f, name);
		t = open_one(f, name);
		assert_non_null(t);
		assert_false(cs_template_guarded(t));
		assert_int_equal(cs_template_verify(t, NULL, NULL), 0);
		cs_template_free(t);
	}
	/* a kernel that can and fails: not half of it */
	reset_kernel();
	kernel.enable = EIO;
	spec = spec_of(f);
	assert_int_equal(cs_template_add(f->store, &spec, NULL, &f->err), -EIO);
	assert_non_null(strstr(f->err.text, "fs-verity"));
	assert_int_equal(fixture_dot_names(f), 0);
}

/* A kernel without it cannot even open what another has guarded: said so, and not damaged. */
static void test_other_kernel(void **state)
{
	struct fixture *f = *state;

	reset_kernel();
	add(f, "web");
	kernel.enable = EOPNOTSUPP;
	assert_null(open_one(f, "web"));
	assert_non_null(strstr(f->err.text, "fs-verity is gone"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_guarded, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_kept, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_none, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_other_kernel, fixture_in_folder,
						fixture_remove),
	};

	return cmocka_run_group_tests_name("verity", tests, NULL, NULL);
}
