/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Versions: numbers, the switch, what a kill in the middle leaves, quarantine. */
#include <sys/file.h>

#include "store/draft.h"
#include "store/quarantine.h"
#include "store/version.h"
#include "tests/unit/template-fixture.h"

/* A version that differs from the one before in its command line. */
static void update(struct fixture *f, bool activate, const char *cmdline)
{
	const struct cs_template_spec spec = { .name = "web", .cmdline = cmdline };
	struct cs_template_added added;

	if (cs_template_update(f->store, &spec, activate, &added, &f->err) < 0)
		fail_msg("%s", f->err.text);
	assert_int_equal(fixture_dot_names(f), 0);
}

static void check_active(struct fixture *f, const char *wanted)
{
	char version[CS_VERSION_TEXT];

	assert_int_equal(cs_version_active(f->store, "web", version, NULL), 0);
	assert_string_equal(version, wanted);
}

static int join(const struct cs_version *version, void *arg)
{
	char *text = arg;

	snprintf(text + strlen(text), 100 - strlen(text), "%s%s%s ", version->version,
		 version->active ? "*" : "", version->t ? "" : "!");
	return 0;
}

static void test_open_active(void **state)
{
	struct fixture *f = *state;
	const int templates_fd = cs_store_templates_fd(f->store);
	char version[CS_VERSION_TEXT];
	struct stat found, wanted;
	int fd;

	add(f, "web");
	update(f, true, "x");
	fd = cs_version_open_active(templates_fd, "web", version);
	assert_true(fd >= 0);
	assert_string_equal(version, "2");
	assert_int_equal(fstat(fd, &found), 0);
	assert_int_equal(fstatat(templates_fd, "web/2", &wanted, 0), 0);
	assert_int_equal(found.st_ino, wanted.st_ino);
	assert_false(cs_missing_at(fd, "root"));
	close(fd);
	assert_int_equal(cs_version_open_active(templates_fd, "none", version), -ENOENT);
	assert_int_equal(symlinkat("web", templates_fd, "link"), 0);
	assert_int_equal(cs_version_open_active(templates_fd, "link", version), -ELOOP);
	assert_int_equal(unlinkat(templates_fd, "web/active", 0), 0);
	assert_int_equal(symlinkat("7", templates_fd, "web/active"), 0);
	assert_int_equal(cs_version_open_active(templates_fd, "web", version), -ENOENT);
	assert_int_equal(unlinkat(templates_fd, "web/active", 0), 0);
	assert_int_equal(symlinkat("../web/1", templates_fd, "web/active"), 0);
	assert_int_equal(cs_version_open_active(templates_fd, "web", version), -EINVAL);
}

static void check_versions(struct fixture *f, const char *wanted)
{
	char text[100] = "";

	assert_int_equal(cs_version_each(f->store, "web", join, text, NULL), 0);
	assert_string_equal(text, wanted);
}

/* "2" is borrowed. */
static int find_user(void *arg, const char *name, const char *version, char guest[64],
		     struct cs_err *err)
{
	const int *answer = arg;

	snprintf(guest, 64, "g");
	return strcmp(version, "2") == 0 ? *answer : 0;
}

static void note_gone(void *arg, const char *version)
{
	strcat(arg, version);
}

static void test_numbers(void **state)
{
	struct fixture *f = *state;
	int answer = 1;
	const struct cs_template_user user = { find_user, &answer };
	char gone[100] = "", version[CS_VERSION_TEXT], before[CS_VERSION_TEXT];
	struct cs_prune prune = { "web", 2, &user, note_gone, gone };

	add(f, "web");
	check_versions(f, "1* ");
	assert_int_equal(cs_version_rollback(f->store, "web", version, NULL), -ENOENT);
	for (int i = 0; i < 11; i++)
		update(f, i == 3, "x");
	check_versions(f, "1 2 3 4 5* 6 7 8 9 10 11 12 ");
	assert_int_equal(cs_version_activate(f->store, "web", "10", before, NULL), 0);
	assert_string_equal(before, "5");
	assert_int_equal(cs_version_rollback(f->store, "web", version, NULL), 0);
	assert_string_equal(version, "9");
	assert_int_equal(cs_version_prune(f->store, &prune, NULL), 0);
	assert_string_equal(gone, "1345678"
				  "10");
	check_versions(f, "2 9* 11 12 ");
	assert_int_equal(cs_version_remove(f->store, "web", "2", &user, &f->err), -EBUSY);
	assert_int_equal(cs_version_remove(f->store, "web", "9", &user, &f->err), -EBUSY);
	answer = -EIO;
	assert_int_equal(cs_version_remove(f->store, "web", "2", &user, &f->err), -EIO);
	check_versions(f, "2 9* 11 12 ");
	answer = 0;
	assert_int_equal(cs_version_remove(f->store, "web", "2", &user, NULL), 0);
	assert_int_equal(cs_version_remove(f->store, "web", "2", &user, NULL), -ENOENT);
	/* a number does not come twice while there is a higher one */
	update(f, false, "y");
	check_versions(f, "9* 11 12 13 ");
	assert_int_equal(cs_version_active(f->store, "other", version, NULL), -ENOENT);
	assert_int_equal(cs_version_activate(f->store, "web", "../web", version, NULL), -EINVAL);
	assert_int_equal(fixture_dot_names(f), 0);
}

/* What is opened before it is removed is noticed under the lock. */
static void test_present(void **state)
{
	struct fixture *f = *state;
	struct cs_template *t;

	add(f, "web");
	update(f, false, "x");
	t = open_one(f, "web@2");
	assert_int_equal(cs_template_check_present(f->store, t, &f->err), 0);
	assert_int_equal(cs_version_remove(f->store, "web", "2", NULL, &f->err), 0);
	assert_int_equal(cs_template_check_present(f->store, t, &f->err), -ESTALE);
	cs_template_free(t);
}

/* Killed: after the new link is made; in the middle of removing. */
static void test_leftovers(void **state)
{
	struct fixture *f = *state;
	const int templates_fd = cs_store_templates_fd(f->store);
	char before[CS_VERSION_TEXT];
	int held;

	add(f, "web");
	update(f, false, "x");
	assert_int_equal(symlinkat("7", templates_fd, ".web@active.new"), 0);
	assert_int_equal(cs_version_activate(f->store, "web", "2", before, NULL), 0);
	check_active(f, "2");
	assert_int_equal(symlinkat("7", templates_fd, ".web@active.new"), 0);
	assert_int_equal(mkdirat(templates_fd, ".web@gone.old", 0700), 0);
	assert_int_equal(renameat(templates_fd, "web/1", templates_fd, "web/.1.old"), 0);

	/* its maker lives: it is let alone */
	held = openat(templates_fd, ".web@gone.old", O_RDONLY | O_CLOEXEC);
	assert_int_equal(flock(held, LOCK_EX), 0);
	f->store = cs_store_free(f->store);
	fixture_open(f);
	assert_int_equal(fixture_dot_names(f), 1);
	assert_false(cs_missing_at(cs_store_templates_fd(f->store), "web/.1.old"));
	assert_int_equal(cs_version_remove(f->store, "web", "1", NULL, &f->err), -EBUSY);
	close(held);
	f->store = cs_store_free(f->store);
	fixture_open(f);
	assert_int_equal(fixture_dot_names(f), 0);
	assert_true(cs_missing_at(cs_store_templates_fd(f->store), "web/.1.old"));
	check_versions(f, "2* ");
}

static void test_quarantine(void **state)
{
	struct fixture *f = *state;
	char words[CS_QUARANTINE_TEXT], version[CS_VERSION_TEXT];
	struct cs_template *t = NULL;

	add(f, "web");
	add(f, "web-2");
	update(f, true, "x");
	update(f, true, "y");
	assert_false(cs_quarantine_get(f->store, "web", "2", words));
	assert_int_equal(cs_quarantine_put(f->store, "web", "2", "part \033 'root'", NULL), 0);
	assert_int_equal(cs_quarantine_put(f->store, "web-2", "1", "why", NULL), 0);
	assert_true(cs_quarantine_get(f->store, "web", "2", words));
	assert_string_equal(words, "part ? 'root'");
	assert_null(open_one(f, "web@2"));
	assert_int_equal(f->err.code, EBADMSG);
	assert_non_null(strstr(f->err.text, "in quarantine: part ? 'root'"));
	assert_int_equal(cs_template_open_any(f->store, "web@2", &t, NULL), 0);
	cs_template_free(t);
	check_versions(f, "1 2! 3* ");

	/* passed over, not switched to; what is made anew is free */
	assert_int_equal(cs_version_activate(f->store, "web", "2", version, NULL), -EBADMSG);
	assert_int_equal(cs_version_rollback(f->store, "web", version, NULL), 0);
	assert_string_equal(version, "1");
	assert_int_equal(cs_version_remove(f->store, "web", "2", NULL, NULL), 0);
	assert_false(cs_quarantine_get(f->store, "web", "2", words));
	assert_int_equal(cs_quarantine_put(f->store, "web", "1", "why", NULL), 0);
	assert_int_equal(cs_quarantine_put(f->store, "web", "3", "why", NULL), 0);
	assert_int_equal(cs_template_remove(f->store, "web", NULL, NULL), 0);
	assert_false(cs_quarantine_get(f->store, "web", "1", words));
	assert_true(cs_quarantine_get(f->store, "web-2", "1", words));
	cs_quarantine_lift(f->store, "web-2", "1");
	assert_false(cs_quarantine_get(f->store, "web-2", "1", words));
}

/* Turn a bit of (part) of a version, behind everybody's back. */
static void damage(struct fixture *f, const char *version, const char *part)
{
	char path[100], byte = 0;
	int fd;

	snprintf(path, sizeof(path), "web/%s/%s", version, part);
	assert_int_equal(fchmodat(cs_store_templates_fd(f->store), path, 0600, 0), 0);
	fd = openat(cs_store_templates_fd(f->store), path, O_RDWR | O_CLOEXEC);
	if (fd < 0) { /* the kernel guards it */
		print_message("skipped: fs-verity\n");
		skip();
	}
	assert_int_equal(pread(fd, &byte, 1, 4000), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, 4000), 1);
	close(fd);
}

/* An update with the kernel that it was: what is damaged does not come back with it. */
static void test_damaged_kernel(void **state)
{
	struct fixture *f = *state;
	struct cs_template_spec spec;
	struct cs_template_added added;
	char wanted[CS_DIGEST_TEXT];
	struct cs_template *t;

	add(f, "web");
	t = open_one(f, "web");
	snprintf(wanted, sizeof(wanted), "%s", cs_template_digest(t, CS_PART_KERNEL));
	cs_template_free(t);
	damage(f, "1", "kernel");
	spec = (struct cs_template_spec){ .name = "web", .kernel = fixture_path(f, "vmlinux") };
	if (cs_template_update(f->store, &spec, true, &added, &f->err) < 0)
		fail_msg("%s", f->err.text);
	t = open_one(f, "web@2");
	assert_string_equal(cs_template_digest(t, CS_PART_KERNEL), wanted);
	assert_int_equal(cs_template_verify(t, NULL, &f->err), 0);
	cs_template_free(t);
}

/* A way out of quarantine for what is whole, not for what is damaged. */
static void test_damaged_kept(void **state)
{
	struct fixture *f = *state;
	struct cs_template_spec spec = { .name = "web", .cmdline = "x" };
	struct cs_template_added added;
	struct cs_template *t;

	add(f, "web");
	damage(f, "1", "root");
	assert_int_equal(cs_template_open_any(f->store, "web", &t, NULL), 0);
	assert_int_equal(cs_template_scrub(f->store, t, true, NULL, &f->err), -EBADMSG);
	cs_template_free(t);
	assert_int_equal(cs_template_update(f->store, &spec, true, &added, &f->err), -EBADMSG);
	assert_string_equal(f->err.text, "template 'web': part 'root' is damaged and would stay "
					 "(give it anew, or roll back)");
	check_versions(f, "1*! ");
	assert_int_equal(fixture_dot_names(f), 0);
	spec = spec_of(f);
	spec.kernel = NULL;
	spec.disk_bytes = 0;
	if (cs_template_update(f->store, &spec, true, &added, &f->err) < 0)
		fail_msg("%s", f->err.text);
	check_versions(f, "1! 2* ");
	t = open_one(f, "web");
	assert_int_equal(cs_template_verify(t, NULL, &f->err), 0);
	cs_template_free(t);
}

static void numbers_on_btrfs(void **state)
{
	fixture_need_btrfs(*state);
	test_numbers(state);
}

static void leftovers_on_btrfs(void **state)
{
	fixture_need_btrfs(*state);
	test_leftovers(state);
}

/* A root that is all but the same: what of it is new, and by the clones of Btrfs. */
static void test_shared(void **state)
{
	struct fixture *f = *state;
	struct cs_template_spec spec;
	struct cs_template_added added;
	unsigned char *data;
	struct cs_template *t;

	fixture_need_btrfs(f);
	cs_mkdir_path(f->scratch->fd, "root", 0755);
	data = malloc(4 * CS_MIB);
	assert_non_null(data);
	for (uint32_t i = 0; i < CS_MIB; i++)
		memcpy(data + 4 * i, &(uint32_t){ i * 2654435761u }, 4);
	cs_fake_file(f->scratch->fd, "root/large", data, 4 * CS_MIB);
	add(f, "web");
	spec = spec_of(f);
	data[2 * CS_MIB] ^= 1;
	cs_fake_file(f->scratch->fd, "root/large", data, 4 * CS_MIB);
	spec.name = "web";
	spec.kernel = NULL;
	spec.cmdline = NULL;
	spec.disk_bytes = 0;
	if (cs_template_update(f->store, &spec, true, &added, &f->err) < 0)
		fail_msg("%s", f->err.text);
	assert_in_range(added.stored_bytes - added.shared_bytes, 4096, 65536);
	assert_string_equal(added.parent, "1");
	t = open_one(f, "web");
	assert_int_equal(cs_template_verify(t, NULL, &f->err), 0);
	cs_template_free(t);
	free(data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_numbers, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_open_active, fixture_in_folder,
						fixture_remove),
		cmocka_unit_test_setup_teardown(test_present, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_leftovers, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_quarantine, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_damaged_kernel, fixture_in_folder,
						fixture_remove),
		cmocka_unit_test_setup_teardown(test_damaged_kept, fixture_in_folder,
						fixture_remove),
		cmocka_unit_test_setup_teardown(numbers_on_btrfs, fixture_on_btrfs, fixture_remove),
		cmocka_unit_test_setup_teardown(leftovers_on_btrfs, fixture_on_btrfs,
						fixture_remove),
		cmocka_unit_test_setup_teardown(test_shared, fixture_on_btrfs, fixture_remove),
	};

	return cmocka_run_group_tests_name("version", tests, NULL, NULL);
}
