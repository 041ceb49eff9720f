/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Versions in the making: a saved machine becomes a version or a template of its own, whole or not
 * at all. */
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "store/draft.h"
#include "store/subvol.h"
#include "tests/unit/template-fixture.h"

#define RAM (32 * CS_MIB)

/* Who borrows "web@1". */
static int find_user(void *arg, const char *name, const char *version, char guest[64],
		     struct cs_err *err)
{
	const bool *borrowed = arg;

	snprintf(guest, 64, "g");
	return *borrowed && !strcmp(version, "1");
}

/* Memory and state, as a monitor would leave them. */
static void fill(struct cs_draft *draft)
{
	struct cs_manifest *manifest = cs_draft_manifest(draft);
	int memory, saved;

	assert_int_equal(cs_draft_open_part(draft, CS_PART_MEMORY, false, &memory, NULL), 0);
	assert_int_equal(ftruncate(memory, RAM), 0);
	assert_int_equal(pwrite(memory, "page", 4, 8192), 4);
	assert_int_equal(cs_draft_open_part(draft, CS_PART_STATE, false, &saved, NULL), 0);
	assert_int_equal(write(saved, "state", 5), 5);
	close(memory);
	close(saved);
	assert_int_equal(cs_draft_seal_part(draft, CS_PART_MEMORY, NULL), 0);
	assert_int_equal(cs_draft_seal_part(draft, CS_PART_STATE, NULL), 0);
	manifest->saved = (struct cs_manifest_saved){ true, RAM, 1, false };
}

static void check_warm(struct fixture *f, const char *name, const char *version)
{
	struct cs_template *t = open_one(f, name);
	struct cs_view view;
	char byte;

	assert_non_null(t);
	assert_string_equal(cs_template_version(t), version);
	assert_true(cs_template_resumes(t, RAM, 1, false));
	assert_false(cs_template_resumes(t, RAM, 2, false));
	assert_false(cs_template_resumes(t, RAM, 1, true));
	assert_int_equal(cs_template_verify(t, NULL, NULL), 0);
	assert_int_equal(cs_template_view(t, CS_PART_KERNEL, &view, NULL), 0);
	assert_int_equal(cs_template_view(t, CS_PART_MEMORY, &view, NULL), 0);
	assert_int_equal(view.bytes, RAM);
	assert_int_equal(pread(view.fd, &byte, 1, 8192), 1);
	assert_int_equal(byte, 'p');
	cs_template_free(t);
	assert_int_equal(fixture_dot_names(f), 0);
}

static bool has(struct fixture *f, const char *path)
{
	return !cs_missing_at(cs_store_templates_fd(f->store), path);
}

/* The next version: active at once; the one before stays as long as it is borrowed. */
static void check_version(struct fixture *f)
{
	bool borrowed = true;
	struct cs_template_user user = { find_user, &borrowed };
	struct cs_template *cold;

	add(f, "web");
	for (unsigned i = 2; i < 4; i++) {
		struct cs_draft *draft = NULL, *other = NULL;

		cold = open_one(f, "web");
		if (cs_draft_create_version(f->store, cold, &draft, &f->err) < 0)
			fail_msg("%s", f->err.text);
		assert_true(cs_draft_folder(draft) >= 0);
		/* nobody else meanwhile, and nobody takes the template away */
		assert_int_equal(cs_draft_create_version(f->store, cold, &other, &f->err), -EBUSY);
		assert_int_equal(cs_template_remove(f->store, "web", NULL, &f->err), -EBUSY);
		fill(draft);
		if (cs_draft_publish(draft, &user, &f->err) < 0)
			fail_msg("%s", f->err.text);
		cs_draft_free(draft);
		cs_template_free(cold);
		check_warm(f, "web", i == 2 ? "2" : "3");
		assert_true(has(f, "web/1"));
		assert_int_equal(has(f, "web/2"), i == 2);
	}
	assert_int_equal(cs_template_remove(f->store, "web", NULL, NULL), 0);
}

/* A template of its own, and one that shares a name. */
static void check_template(struct fixture *f)
{
	struct cs_draft *draft = NULL;
	struct cs_template *t;

	add(f, "web");
	t = open_one(f, "web");
	assert_int_equal(cs_draft_create(f->store, "web", t, &draft, &f->err), -EEXIST);
	if (cs_draft_create(f->store, "saved", t, &draft, &f->err) < 0)
		fail_msg("%s", f->err.text);
	fill(draft);
	if (cs_draft_publish(draft, NULL, &f->err) < 0)
		fail_msg("%s", f->err.text);
	cs_draft_free(draft);
	check_warm(f, "saved", "1");

	/* and of that one more, whose memory is what the first had and a page */
	cs_template_free(t);
	t = open_one(f, "saved");
	if (cs_draft_create(f->store, "again", t, &draft, &f->err) < 0)
		fail_msg("%s", f->err.text);
	{
		int fd;

		assert_int_equal(cs_draft_open_part(draft, CS_PART_MEMORY, true, &fd, NULL), 0);
		assert_int_equal(pwrite(fd, "more", 4, 0), 4);
		close(fd);
	}
	assert_int_equal(cs_draft_seal_part(draft, CS_PART_MEMORY, NULL), 0);
	assert_int_equal(cs_draft_publish(draft, NULL, NULL), 0);
	cs_draft_free(draft);
	check_warm(f, "again", "1");
	cs_template_free(t);
	t = open_one(f, "saved");
	assert_int_equal(cs_template_verify(t, NULL, NULL), 0);
	cs_template_free(t);
}

/* Given up, or killed at any of these points: nothing is left, the template is as it was. */
static void check_given_up(struct fixture *f)
{
	struct cs_template *t;

	add(f, "web");
	for (int step = 0; step < 4; step++) {
		bool killed = step & 1;
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (!pid) {
			struct cs_draft *draft = NULL;

			t = open_one(f, "web");
			if ((step < 2 ? cs_draft_create_version(f->store, t, &draft, NULL)
				      : cs_draft_create(f->store, "new", t, &draft, NULL)) < 0)
				_exit(1);
			if (killed)
				raise(SIGKILL);
			cs_draft_free(draft);
			_exit(0);
		}
		{
			int status;

			assert_int_equal(waitpid(pid, &status, 0), pid);
			assert_int_equal(killed ? WIFSIGNALED(status) : status == 0, true);
		}
		assert_int_equal(fixture_dot_names(f) > 0, killed);
		f->store = cs_store_free(f->store);
		fixture_open(f);
		assert_int_equal(fixture_dot_names(f), 0);
		assert_false(has(f, "web/.2.new"));
		assert_false(has(f, "web/2"));
		assert_false(has(f, "new"));
		t = open_one(f, "web");
		assert_string_equal(cs_template_version(t), "1");
		assert_int_equal(cs_template_verify(t, NULL, NULL), 0);
		cs_template_free(t);
	}
}

/* A memory or state that is not what was saved. */
static void check_damaged(struct fixture *f)
{
	struct cs_draft *draft = NULL;
	struct cs_template *t;

	add(f, "web");
	t = open_one(f, "web");
	assert_int_equal(cs_draft_create(f->store, "saved", t, &draft, NULL), 0);
	fill(draft);
	cs_draft_manifest(draft)->part[CS_PART_STATE].sha256[0] ^= 1;
	assert_int_equal(cs_draft_publish(draft, NULL, NULL), 0);
	cs_draft_free(draft);
	cs_template_free(t);
	t = open_one(f, "saved");
	if (t) {
		assert_int_equal(cs_template_verify(t, NULL, &f->err), -EBADMSG);
		assert_non_null(strstr(f->err.text, "'state' is damaged"));
	}
	cs_template_free(t);
}

#define BOTH(name)                                                                                 \
	static void test_##name##_in_folder(void **state)                                          \
	{                                                                                          \
		check_##name(*state);                                                              \
	}                                                                                          \
	static void test_##name##_on_btrfs(void **state)                                           \
	{                                                                                          \
		fixture_need_btrfs(*state);                                                        \
		check_##name(*state);                                                              \
	}

BOTH(version)
BOTH(template)
BOTH(given_up)
BOTH(damaged)

#define IN_FOLDER(name)                                                                            \
	cmocka_unit_test_setup_teardown(test_##name##_in_folder, fixture_in_folder, fixture_remove)
#define ON_BTRFS(name)                                                                             \
	cmocka_unit_test_setup_teardown(test_##name##_on_btrfs, fixture_on_btrfs, fixture_remove)

/* From another file system, with holes: what is data comes over, and the holes stay. */
static void test_clone(void **state)
{
	struct fixture *f = *state;
	int from = memfd_create("from", MFD_CLOEXEC), to;
	char text[5] = "";
	struct stat st;

	to = openat(f->scratch->fd, "to", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(pwrite(from, "here", 4, 5 * CS_MIB), 4);
	assert_int_equal(pwrite(from, "end", 3, 300 * CS_MIB), 3);
	assert_int_equal(ftruncate(from, (off_t)(400 * CS_MIB)), 0);
	assert_int_equal(cs_draft_clone(from, 400 * CS_MIB, to, &f->err), 0);
	assert_int_equal(pread(to, text, 4, 5 * CS_MIB), 4);
	assert_string_equal(text, "here");
	assert_int_equal(pread(to, text, 3, 300 * CS_MIB), 3);
	assert_memory_equal(text, "end", 3);
	assert_int_equal(fstat(to, &st), 0);
	assert_int_equal(st.st_size, 400 * CS_MIB);
	assert_true(st.st_blocks < 1000);
	close(from);
	close(to);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_clone, fixture_in_folder, fixture_remove),
		IN_FOLDER(version),
		ON_BTRFS(version),
		IN_FOLDER(template),
		ON_BTRFS(template),
		IN_FOLDER(given_up),
		ON_BTRFS(given_up),
		IN_FOLDER(damaged),
		ON_BTRFS(damaged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
