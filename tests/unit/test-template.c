/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Templates: added whole or not at all, opened, checked, removed. */
#include <sys/file.h>

#include "store/quarantine.h"
#include "store/subvol.h"
#include "tests/unit/template-fixture.h"

static void check_added(struct fixture *f)
{
	struct cs_template_spec spec = spec_of(f);
	struct cs_template_added added;
	unsigned char got[CS_FAKE_VMLINUX_BYTES];
	struct cs_template *t;
	struct cs_view view;
	struct stat st;

	if (cs_template_add(f->store, &spec, &added, &f->err) < 0)
		fail_msg("%s", f->err.text);
	assert_int_equal(added.input_bytes, 6);
	assert_int_equal(added.files, 2);
	assert_true(added.seconds > 0 && added.stored_bytes > 0);
	assert_int_equal(fixture_dot_names(f), 0);

	t = open_one(f, "web");
	assert_string_equal(cs_template_name(t), "web");
	assert_string_equal(cs_template_version(t), "1");
	assert_string_equal(cs_template_cmdline(t), "quiet");
	assert_string_equal(cs_template_kernel_release(t), "6.12.1-clearstore");
	assert_false(cs_template_stock_kernel(t));
	assert_int_equal(cs_template_root_format(t), CS_ROOT_EROFS);
	assert_int_equal(cs_template_input_bytes(t), 6);
	assert_true(cs_template_created(t) > 1600000000);

	assert_int_equal(cs_template_view(t, CS_PART_KERNEL, &view, NULL), 0);
	assert_int_equal(view.bytes, CS_FAKE_VMLINUX_BYTES);
	assert_int_equal(pread(view.fd, got, sizeof(got), 0), sizeof(got));
	assert_memory_equal(got, vmlinux, sizeof(got));
	assert_int_equal(strlen(cs_template_digest(t, CS_PART_KERNEL)), 64);
	assert_int_equal(cs_template_view(t, CS_PART_ROOT, &view, NULL), 0);
	assert_int_equal(view.bytes % CS_ROOT_GRAIN, 0);
	assert_int_equal(fstat(view.fd, &st), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0444);
	assert_int_equal(cs_template_view(t, CS_PART_DISK, &view, NULL), 0);
	assert_int_equal(view.bytes, 64 * CS_MIB);
	assert_int_equal(fstat(view.fd, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 < CS_MIB);
	assert_int_equal(cs_template_view(t, CS_PART_INITRD, &view, &f->err), -ENOENT);
	assert_null(cs_template_digest(t, CS_PART_INITRD));
	assert_int_equal(cs_template_verify(t, NULL, NULL), 0);
	cs_template_free(t);

	/* the name is taken now */
	assert_int_equal(cs_template_add(f->store, &spec, NULL, &f->err), -EEXIST);
	assert_non_null(strstr(f->err.text, "template 'web'"));
	assert_int_equal(fixture_dot_names(f), 0);
}

static void test_add(void **state)
{
	check_added(*state);
}

static void test_add_on_btrfs(void **state)
{
	struct fixture *f = *state;
	int fd;

	fixture_need_btrfs(f);
	check_added(f);
	fd = openat(cs_store_templates_fd(f->store), "web", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(cs_subvol_is(fd, "1"));
	assert_int_equal(openat(fd, "1/root", O_WRONLY | O_CLOEXEC), -1);
	assert_int_equal(errno, EROFS);
	close(fd);
	assert_int_equal(cs_template_remove(f->store, "web", NULL, NULL), 0);
	assert_int_equal(scratch_count(cs_store_templates_fd(f->store), "."), 0);
}

/* Each is refused, with the name and (words), and leaves nothing. */
static void refused(struct fixture *f, const struct cs_template_spec *spec, int code,
		    const char *words)
{
	int r;

	f->err = (struct cs_err){ 0 };
	r = cs_template_add(f->store, spec, NULL, &f->err);
	if (r != code || !strstr(f->err.text, words) || strchr(f->err.text, '\n'))
		fail_msg("wanted %d '%s', got %d '%s'", code, words, r, f->err.text);
	assert_int_equal(scratch_count(cs_store_templates_fd(f->store), "."), 0);
}

static void test_refused(void **state)
{
	struct fixture *f = *state;
	struct cs_template_spec spec = spec_of(f);
	char long_name[301];

	memset(long_name, 'n', 300);
	long_name[300] = '\0';
	spec.name = "a/b";
	refused(f, &spec, -EINVAL, "template name 'a/b'");
	spec.name = long_name;
	refused(f, &spec, -EINVAL, "not a legal name");
	spec.name = "..";
	refused(f, &spec, -EINVAL, "not a legal name");
	spec.name = "";
	refused(f, &spec, -EINVAL, "not a legal name");

	spec = spec_of(f);
	spec.from = fixture_path(f, "gone");
	refused(f, &spec, -ENOENT, "template 'web'");
	spec.from = fixture_path(f, "agent");
	refused(f, &spec, -EINVAL, "not an archive");
	spec = spec_of(f);
	spec.kernel = fixture_path(f, "agent");
	refused(f, &spec, -EINVAL, "not a kernel");
	spec.kernel = fixture_path(f, "gone");
	refused(f, &spec, -ENOENT, "kernel '");
	spec = spec_of(f);
	spec.agent = fixture_path(f, "gone");
	refused(f, &spec, -ENOENT, "agent '");
	spec = spec_of(f);
	spec.disk_bytes = CS_MIB;
	refused(f, &spec, -EINVAL, "disk of");
	spec.disk_bytes = 64 * CS_MIB + 1;
	refused(f, &spec, -EINVAL, "disk of");
	spec = spec_of(f);
	spec.cmdline = "\xff";
	refused(f, &spec, -EINVAL, "manifest.json");
	/* a distribution's kernel, whose modules are nowhere */
	cs_fake_vmlinux(vmlinux, "6.12.1-other");
	cs_fake_file(f->scratch->fd, "vmlinux", vmlinux, CS_FAKE_VMLINUX_BYTES);
	spec = (struct cs_template_spec){
		.name = "web",
		.from = fixture_path(f, "root"),
		.kernel = fixture_path(f, "vmlinux"),
		.agent = fixture_path(f, "agent"),
		.disk_bytes = 64 * CS_MIB,
	};
	refused(f, &spec, -ENOENT, "needs modules");
	/* unless it is said to need none */
	spec.modules = "none";
	assert_int_equal(cs_template_add(f->store, &spec, NULL, &f->err), 0);
}

/* Another process adds the same: the second is told, the first not disturbed. */
static void test_added_by_another(void **state)
{
	struct fixture *f = *state;
	struct cs_template_spec spec = spec_of(f);
	int templates = cs_store_templates_fd(f->store), fd;

	assert_int_equal(mkdirat(templates, ".web.new", 0700), 0);
	fd = openat(templates, ".web.new", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	assert_int_equal(cs_template_add(f->store, &spec, NULL, &f->err), -EBUSY);
	assert_int_equal(fixture_dot_names(f), 1);
	/* it dies: what it left is taken away */
	scratch_write(fd, "half", "x");
	close(fd);
	assert_int_equal(cs_template_add(f->store, &spec, NULL, &f->err), 0);
	assert_int_equal(fixture_dot_names(f), 0);
}

static void test_open_refuses(void **state)
{
	struct fixture *f = *state;
	int templates = cs_store_templates_fd(f->store);

	add(f, "web");
	assert_null(open_one(f, "gone"));
	assert_non_null(strstr(f->err.text, "template 'gone': not there"));
	assert_null(open_one(f, "web@2"));
	assert_non_null(strstr(f->err.text, "no version '2'"));
	assert_null(open_one(f, "web@"));
	assert_null(open_one(f, "web@../1"));
	assert_null(open_one(f, "../templates/web"));
	assert_null(open_one(f, "@1"));
	cs_template_free(open_one(f, "web@1"));
	assert_string_equal(f->err.text, "");

	/* an active version that leads elsewhere */
	assert_int_equal(unlinkat(templates, "web/active", 0), 0);
	assert_int_equal(symlinkat("../../../../tmp", templates, "web/active"), 0);
	assert_null(open_one(f, "web"));
	assert_int_equal(f->err.code, EINVAL);
	assert_int_equal(unlinkat(templates, "web/active", 0), 0);
	assert_null(open_one(f, "web"));
	assert_non_null(strstr(f->err.text, "no active version"));
	assert_int_equal(symlinkat("1", templates, "web/active"), 0);

	/* a part that is not what was promised */
	assert_int_equal(fchmodat(templates, "web/1", 0755, 0), 0);
	assert_int_equal(fchmodat(templates, "web/1/kernel", 0644, 0), 0);
	scratch_write(templates, "web/1/kernel", "short");
	assert_null(open_one(f, "web"));
	assert_non_null(strstr(f->err.text, "part 'kernel'"));
	assert_int_equal(unlinkat(templates, "web/1/kernel", 0), 0);
	assert_int_equal(symlinkat("/dev/zero", templates, "web/1/kernel"), 0);
	assert_null(open_one(f, "web"));
	assert_int_equal(unlinkat(templates, "web/1/kernel", 0), 0);
	assert_null(open_one(f, "web"));
	assert_int_equal(f->err.code, ENOENT);
}

static void test_verify(void **state)
{
	static const enum cs_part parts[] = { CS_PART_KERNEL, CS_PART_ROOT, CS_PART_DISK };
	struct fixture *f = *state;
	int templates = cs_store_templates_fd(f->store);

	add(f, "web");
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		char name[64], byte;
		struct cs_template *t = open_one(f, "web");
		int fd;

		assert_int_equal(cs_template_verify(t, NULL, NULL), 0);
		snprintf(name, sizeof(name), "web/1/%s", cs_part_name(parts[i]));
		assert_int_equal(fchmodat(templates, name, 0644, 0), 0);
		fd = openat(templates, name, O_RDWR | O_CLOEXEC);
		assert_int_equal(pread(fd, &byte, 1, 5000), 1);
		byte ^= 1;
		assert_int_equal(pwrite(fd, &byte, 1, 5000), 1);
		assert_int_equal(cs_template_verify(t, NULL, &f->err), -EBADMSG);
		assert_non_null(strstr(f->err.text, "is damaged"));
		assert_non_null(strstr(f->err.text, cs_part_name(parts[i])));
		byte ^= 1;
		assert_int_equal(pwrite(fd, &byte, 1, 5000), 1);
		close(fd);
		cs_template_free(t);
	}
}

static int note(const char *name, const struct cs_template *t, const struct cs_err *broken,
		void *arg)
{
	char *seen = arg;

	assert_true(!t == !!broken);
	strncat(seen, name, 20);
	strncat(seen, t ? " " : "! ", 3);
	return strstr(seen, "stop") ? 7 : 0;
}

static void test_each(void **state)
{
	struct fixture *f = *state;
	char seen[200] = "";

	assert_int_equal(cs_template_each(f->store, note, seen, NULL), 0);
	assert_string_equal(seen, "");
	add(f, "web-10");
	add(f, "web-2");
	add(f, "a");
	assert_int_equal(mkdirat(cs_store_templates_fd(f->store), "broken", 0700), 0);
	assert_int_equal(mkdirat(cs_store_templates_fd(f->store), ".dot", 0700), 0);
	assert_int_equal(cs_template_each(f->store, note, seen, NULL), 0);
	assert_string_equal(seen, "a broken! web-2 web-10 ");
	assert_int_equal(mkdirat(cs_store_templates_fd(f->store), "stop", 0700), 0);
	assert_int_equal(cs_template_each(f->store, note, seen, NULL), 7);
}

#define MANY 700

struct visits {
	int n, whole, stop_at;
};

static int visit(const char *name, const struct cs_template *t, const struct cs_err *broken,
		 void *arg)
{
	struct visits *visits = arg;
	char wanted[16];

	snprintf(wanted, sizeof(wanted), "m-%d", visits->n);
	assert_string_equal(name, wanted);
	assert_true(!t == !!broken);
	if (t)
		assert_string_equal(cs_template_name(t), wanted);
	visits->whole += !!t;
	return visits->n++ == visits->stop_at ? 9 : 0;
}

/* More than are looked at ahead, by several threads: each once, in order, to where it is ended. */
static void test_each_of_many(void **state)
{
	static const int stops[] = { 0, 1, 15, 16, 300, MANY - 1 };
	struct fixture *f = *state;
	struct visits visits = { .stop_at = -1 };
	char name[16];

	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "m-%d", i);
		if (i % 50 == 7)
			add(f, name);
		else
			assert_int_equal(mkdirat(cs_store_templates_fd(f->store), name, 0700), 0);
	}
	assert_int_equal(cs_template_each(f->store, visit, &visits, NULL), 0);
	assert_int_equal(visits.n, MANY);
	assert_int_equal(visits.whole, MANY / 50);
	for (size_t i = 0; i < sizeof(stops) / sizeof(stops[0]); i++) {
		visits = (struct visits){ .stop_at = stops[i] };
		assert_int_equal(cs_template_each(f->store, visit, &visits, NULL), 9);
		assert_int_equal(visits.n, stops[i] + 1);
	}
}

static void check_each(struct fixture *f, const char *wanted)
{
	char seen[200] = "";

	assert_int_equal(cs_template_each(f->store, note, seen, NULL), 0);
	assert_string_equal(seen, wanted);
}

/* A list is made in fewer calls than an opening, and finds the same wrong. */
static void test_each_finds(void **state)
{
	struct fixture *f = *state;
	const int templates_fd = cs_store_templates_fd(f->store);

	add(f, "a");
	add(f, "b");
	check_each(f, "a b ");
	/* a link in place of a folder could lead anywhere */
	assert_int_equal(symlinkat("a", templates_fd, "c"), 0);
	check_each(f, "a b c! ");
	assert_null(open_one(f, "c"));
	assert_int_equal(unlinkat(templates_fd, "c", 0), 0);
	assert_int_equal(fchmodat(templates_fd, "b", 0755, 0), 0);
	assert_int_equal(symlinkat("1", templates_fd, "b/2"), 0);
	assert_int_equal(unlinkat(templates_fd, "b/active", 0), 0);
	check_each(f, "a b! ");
	assert_int_equal(symlinkat("2", templates_fd, "b/active"), 0);
	check_each(f, "a b! ");
	assert_null(open_one(f, "b"));
	assert_int_equal(unlinkat(templates_fd, "b/active", 0), 0);
	assert_int_equal(symlinkat("../a/1", templates_fd, "b/active"), 0);
	check_each(f, "a b! ");
	assert_int_equal(unlinkat(templates_fd, "b/active", 0), 0);
	assert_int_equal(symlinkat("1", templates_fd, "b/active"), 0);
	check_each(f, "a b ");

	/* the folder of notes: not there, empty, with a note of another, with one of it */
	assert_false(cs_quarantine_any(f->store));
	assert_int_equal(cs_quarantine_put(f->store, "z", "1", "why", NULL), 0);
	assert_true(cs_quarantine_any(f->store));
	check_each(f, "a b ");
	assert_int_equal(cs_quarantine_put(f->store, "a", "1", "why", NULL), 0);
	check_each(f, "a! b ");
	cs_quarantine_lift(f->store, "a", NULL);
	cs_quarantine_lift(f->store, "z", NULL);
	assert_false(cs_quarantine_any(f->store));
	check_each(f, "a b ");

	/* a part that is short, or gone */
	assert_int_equal(fchmodat(templates_fd, "a/1", 0755, 0), 0);
	assert_int_equal(fchmodat(templates_fd, "a/1/root", 0644, 0), 0);
	scratch_write(templates_fd, "a/1/root", "short");
	check_each(f, "a! b ");
	assert_int_equal(unlinkat(templates_fd, "a/1/root", 0), 0);
	check_each(f, "a! b ");
}

struct users {
	int result;
	char seen[100];
};

static int find(void *arg, const char *name, const char *version, char guest[64],
		struct cs_err *err)
{
	struct users *users = arg;

	strncat(users->seen, name, 20);
	strncat(users->seen, version, 20);
	snprintf(guest, 64, "guest-of-it");
	return users->result < 0 ? cs_fail(err, -users->result, "cannot tell") : users->result;
}

static void test_remove(void **state)
{
	struct fixture *f = *state;
	struct users users = { .result = 1 };
	const struct cs_template_user user = { .find = find, .arg = &users };
	struct cs_template *t;

	add(f, "web");
	assert_int_equal(cs_template_remove(f->store, "web", &user, &f->err), -EBUSY);
	assert_non_null(strstr(f->err.text, "used by guest 'guest-of-it'"));
	assert_string_equal(users.seen, "web1");
	users.result = -EIO;
	assert_int_equal(cs_template_remove(f->store, "web", &user, &f->err), -EIO);
	t = open_one(f, "web");
	assert_non_null(t);
	users.result = 0;
	assert_int_equal(cs_template_remove(f->store, "web", &user, &f->err), 0);
	/* who has it open keeps what is open */
	assert_int_equal(cs_template_verify(t, NULL, NULL), 0);
	cs_template_free(t);
	assert_int_equal(scratch_count(cs_store_templates_fd(f->store), "."), 0);
	assert_int_equal(cs_template_remove(f->store, "web", &user, &f->err), -ENOENT);
	assert_int_equal(cs_template_remove(f->store, "../guests", &user, &f->err), -EINVAL);
	assert_int_equal(cs_template_remove(f->store, ".web.new", &user, &f->err), -EINVAL);
	/* a broken one goes as well */
	assert_int_equal(mkdirat(cs_store_templates_fd(f->store), "broken", 0700), 0);
	assert_int_equal(cs_template_remove(f->store, "broken", &user, &f->err), 0);
	add(f, "web");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_add, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_add_on_btrfs, fixture_on_btrfs,
						fixture_remove),
		cmocka_unit_test_setup_teardown(test_refused, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_added_by_another, fixture_in_folder,
						fixture_remove),
		cmocka_unit_test_setup_teardown(test_open_refuses, fixture_in_folder,
						fixture_remove),
		cmocka_unit_test_setup_teardown(test_verify, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_each, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_each_of_many, fixture_in_folder,
						fixture_remove),
		cmocka_unit_test_setup_teardown(test_each_finds, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_remove, fixture_in_folder, fixture_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
