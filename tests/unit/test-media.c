/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Parts that lie elsewhere: on a file system that says it is on DAX, and one that says so no more.
 */
#include <sys/file.h>

#include "store/draft.h"
#include "store/media.h"
#include "store/version.h"
#include "tests/unit/template-fixture.h"

static bool dax; /* what the kernel says */

int __real_statx(int dirfd, const char *path, int flags, unsigned mask, struct statx *st);
int __wrap_statx(int dirfd, const char *path, int flags, unsigned mask, struct statx *st);

int __wrap_statx(int dirfd, const char *path, int flags, unsigned mask, struct statx *st)
{
	int r = __real_statx(dirfd, path, flags, mask, st);

	if (r == 0 && dax)
		st->stx_attributes |= STATX_ATTR_DAX;
	return r;
}

/* What goes wrong on the medium: a code, 0: nothing. */
static int full, stuck;

int __real_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags);
int __wrap_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags);
int __real_cs_sync_dir(int dirfd);
int __wrap_cs_sync_dir(int dirfd);

int __wrap_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
	if (full && strstr(to, "@1.root")) {
		errno = full;
		return -1;
	}
	return __real_renameat2(from_fd, from, to_fd, to, flags);
}

int __wrap_cs_sync_dir(int dirfd)
{
	return stuck ? -stuck : __real_cs_sync_dir(dirfd);
}

static const char *medium_of(struct fixture *f)
{
	static char text[400];

	cs_mkdir_path(f->scratch->fd, "pmem", 0755);
	snprintf(text, sizeof(text), "fsdax:%s/pmem", f->scratch->path);
	return text;
}

/* Files of this store on the medium; -1: not even a folder. */
/* The files on the medium; -1: not even the folder for them. */
static int on_medium(struct fixture *f)
{
	char id[CS_STORE_ID_TEXT], path[200];

	assert_int_equal(cs_store_id(f->store, id, NULL), 0);
	snprintf(path, sizeof(path), "pmem/clearstore-%s", id);
	return cs_missing_at(f->scratch->fd, path) ? -1 : scratch_count(f->scratch->fd, path);
}

static void check_media(struct fixture *f, const char *name, enum cs_media root)
{
	struct cs_template *t = open_one(f, name);
	struct cs_view view;

	if (!t)
		fail_msg("%s", f->err.text);
	assert_int_equal(cs_template_view(t, CS_PART_ROOT, &view, NULL), 0);
	assert_int_equal(view.media, root);
	assert_int_equal(cs_template_verify(t, NULL, &f->err), 0);
	assert_int_equal(cs_template_scrub(f->store, t, true, NULL, &f->err), 0);
	cs_template_free(t);
}

static void add_on(struct fixture *f, const char *name, const char *media)
{
	struct cs_template_spec spec = spec_of(f);

	spec.name = name;
	spec.media = media;
	if (cs_template_add(f->store, &spec, NULL, &f->err) < 0)
		fail_msg("%s", f->err.text);
}

static void test_add(void **state)
{
	struct fixture *f = *state;
	const struct cs_template_spec append = { .name = "web", .cmdline = "x" };
	struct cs_template_spec spec;
	struct cs_template_added added;

	dax = true;
	add_on(f, "web", medium_of(f));
	check_media(f, "web", CS_MEDIA_FSDAX);
	assert_int_equal(on_medium(f), 1);
	assert_true(cs_missing_at(cs_store_templates_fd(f->store), "web/1/root"));
	add(f, "plain");
	check_media(f, "plain", CS_MEDIA_FILE);

	/* a root that stays is the same file; a new one lies beside it */
	assert_int_equal(cs_template_update(f->store, &append, true, &added, NULL), 0);
	check_media(f, "web@2", CS_MEDIA_FSDAX);
	assert_int_equal(on_medium(f), 1);
	spec = spec_of(f);
	spec.kernel = spec.cmdline = NULL;
	spec.disk_bytes = 0;
	assert_int_equal(cs_template_update(f->store, &spec, true, &added, NULL), 0);
	check_media(f, "web@3", CS_MEDIA_FSDAX);
	assert_int_equal(on_medium(f), 2);

	/* it goes with the last version that has it */
	assert_int_equal(cs_version_remove(f->store, "web", "1", NULL, NULL), 0);
	assert_int_equal(on_medium(f), 2);
	check_media(f, "web@2", CS_MEDIA_FSDAX);
	assert_int_equal(cs_version_remove(f->store, "web", "2", NULL, NULL), 0);
	assert_int_equal(on_medium(f), 1);
	assert_int_equal(cs_template_remove(f->store, "web", NULL, NULL), 0);
	assert_int_equal(on_medium(f), 0);
	check_media(f, "plain", CS_MEDIA_FILE);
}

/* A part that fs-verity guarded in the store is not guarded elsewhere. */
static void test_unguarded(void **state)
{
	struct fixture *f = *state;
	struct cs_media_spec media;
	struct cs_draft *draft = NULL;
	struct cs_manifest_part *root;
	struct cs_template *t;

	dax = true;
	assert_int_equal(cs_media_parse(medium_of(f), 0, &media, NULL), 0);
	add(f, "web");
	t = open_one(f, "web");
	assert_int_equal(cs_draft_create_version(f->store, t, &draft, &f->err), 0);
	root = &cs_draft_manifest(draft)->part[CS_PART_ROOT];
	memcpy(root->verity, root->sha256, sizeof(root->verity));
	assert_int_equal(cs_draft_place_part(draft, CS_PART_ROOT, &media, &f->err), 0);
	assert_string_equal(root->verity, "");
	cs_draft_free(draft);
	cs_template_free(t);
}

static int nobody(void *arg, const char *name, const char *version, char guest[64],
		  struct cs_err *err)
{
	return 0;
}

static void test_move(void **state)
{
	struct fixture *f = *state;
	const struct cs_template_user user = { nobody, NULL };
	struct cs_template_added added;

	dax = true;
	add(f, "web");
	if (cs_template_move(f->store, "web", medium_of(f), &user, &added, &f->err) < 0)
		fail_msg("%s", f->err.text);
	assert_string_equal(added.version, "2");
	check_media(f, "web", CS_MEDIA_FSDAX);
	assert_true(cs_missing_at(cs_store_templates_fd(f->store), "web/1"));
	if (cs_template_move(f->store, "web", "file", &user, &added, &f->err) < 0)
		fail_msg("%s", f->err.text);
	check_media(f, "web", CS_MEDIA_FILE);
	assert_int_equal(on_medium(f), 0);
	assert_int_equal(fixture_dot_names(f), 0);
}

static void test_refused(void **state)
{
	struct fixture *f = *state;
	struct cs_template_spec spec;
	struct cs_media_spec media;

	dax = false;
	spec = spec_of(f);
	spec.media = medium_of(f);
	assert_int_equal(cs_template_add(f->store, &spec, NULL, &f->err), -EOPNOTSUPP);
	assert_non_null(strstr(f->err.text, "not on DAX"));
	assert_int_equal(on_medium(f), -1);
	assert_int_equal(fixture_dot_names(f), 0);
	spec.media = "fsdax:/nonexistent/clearstore";
	assert_int_equal(cs_template_add(f->store, &spec, NULL, &f->err), -ENOENT);
	assert_int_equal(cs_media_parse("tape", 0, &media, &f->err), -EINVAL);
	assert_int_equal(cs_media_parse("fsdax:", 0, &media, &f->err), -EINVAL);
	assert_int_equal(cs_media_parse("fsdax:/mnt/\xff", 0, &media, &f->err), -EINVAL);
	assert_non_null(strstr(f->err.text, "not UTF-8"));
	assert_int_equal(cs_media_parse("devdax:/dev/dax\n", 0, &media, &f->err), -EINVAL);
	assert_int_equal(cs_media_parse("fsdax:/mnt/\xc3\xa4", 0, &media, &f->err), 0);
	assert_int_equal(cs_media_parse("fsdax:pmem", 0, &media, &f->err), -EINVAL);
	assert_int_equal(cs_media_parse("file", 0, &media, &f->err), 0);
	assert_int_equal(media.kind, CS_MEDIA_FILE);
	assert_int_equal(cs_media_parse("auto", UINT64_MAX / 2, &media, &f->err), 0);
	assert_int_equal(media.kind, CS_MEDIA_FILE);
}

/* It is the medium that is full, not the store; and whatever goes wrong there is said. */
static void test_full(void **state)
{
	static const int codes[][2] = { { ENOSPC, 0 }, { EDQUOT, 0 }, { EROFS, 0 }, { 0, EIO } };
	static const char *const words[] = { "make room on that medium", "make room on that medium",
					     "cannot write to", "cannot write to" };
	struct fixture *f = *state;
	struct cs_template_spec spec = spec_of(f);

	dax = true;
	spec.media = medium_of(f);
	for (int i = 0; i < 4; i++) {
		int wanted = codes[i][0] + codes[i][1], r;

		f->err = (struct cs_err){ 0 };
		full = codes[i][0];
		stuck = codes[i][1];
		r = cs_template_add(f->store, &spec, NULL, &f->err);
		full = stuck = 0;
		assert_int_equal(r, -wanted);
		if (!strstr(f->err.text, words[i]) || strstr(f->err.text, "the store is full"))
			fail_msg("%d: '%s'", i, f->err.text);
		assert_int_equal(on_medium(f), -1);
		assert_int_equal(fixture_dot_names(f), 0);
	}
}

/* The medium is not mounted, comes back without DAX, or with something else in its place: only what
 * lies on it cannot be had, and what is wrong is said. */
static void test_missing(void **state)
{
	struct fixture *f = *state;
	struct cs_template *t;

	dax = true;
	add_on(f, "web", medium_of(f));
	add(f, "plain");
	dax = false;
	assert_null(open_one(f, "web"));
	assert_non_null(strstr(f->err.text, "not on DAX"));
	dax = true;
	assert_int_equal(renameat(f->scratch->fd, "pmem", f->scratch->fd, "gone"), 0);
	assert_null(open_one(f, "web"));
	assert_int_equal(f->err.code, ENODEV);
	assert_non_null(strstr(f->err.text, "mount its file system"));
	check_media(f, "plain", CS_MEDIA_FILE);
	assert_int_equal(renameat(f->scratch->fd, "gone", f->scratch->fd, "pmem"), 0);
	check_media(f, "web", CS_MEDIA_FSDAX);
	t = open_one(f, "web");
	assert_int_equal(truncate(cs_template_manifest(t)->part[CS_PART_ROOT].where, 4096), 0);
	cs_template_free(t);
	assert_null(open_one(f, "web"));
	assert_int_equal(f->err.code, EBADMSG);
	/* and it can be removed all the same */
	assert_int_equal(cs_template_remove(f->store, "web", NULL, &f->err), 0);
	assert_int_equal(on_medium(f), 0);
}

/* What dead commands left there goes with the next sweep; what is held, or may be referred to by a
 * version that cannot be read, does not. */
static void test_sweep(void **state)
{
	struct fixture *f = *state;
	struct cs_media_spec media;
	char id[CS_STORE_ID_TEXT], path[300];
	int fd;

	dax = true;
	add_on(f, "web", medium_of(f));
	assert_int_equal(cs_media_parse(medium_of(f), 0, &media, NULL), 0);
	assert_int_equal(cs_store_id(f->store, id, NULL), 0);
	snprintf(path, sizeof(path), "pmem/clearstore-%s/.web@2.root.new", id);
	scratch_write(f->scratch->fd, path, "half");
	snprintf(path, sizeof(path), "pmem/clearstore-%s/old@1.root", id);
	scratch_write(f->scratch->fd, path, "left");
	fd = openat(f->scratch->fd, path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	assert_int_equal(cs_media_sweep(f->store, &media, NULL), 0);
	assert_int_equal(on_medium(f), 2);
	close(fd);
	assert_int_equal(cs_media_sweep_all(f->store, NULL), 0);
	assert_int_equal(on_medium(f), 1);
	scratch_write(f->scratch->fd, path, "left");

	cs_mkdir_path(cs_store_templates_fd(f->store), "odd/1", 0755);
	assert_true(cs_media_sweep(f->store, &media, NULL) < 0);
	assert_int_equal(on_medium(f), 2);
	assert_int_equal(cs_remove_tree_at(cs_store_templates_fd(f->store), "odd"), 0);
	assert_int_equal(cs_media_sweep(f->store, &media, NULL), 0);
	assert_int_equal(on_medium(f), 1);
	check_media(f, "web", CS_MEDIA_FSDAX);
}

/* One medium, however it is spelled: what lies there is not deleted over another spelling. */
static void test_spelled(void **state)
{
	struct fixture *f = *state;
	struct cs_media_spec media = { .kind = CS_MEDIA_FSDAX };
	char text[500];

	dax = true;
	add_on(f, "web", medium_of(f));
	snprintf(text, sizeof(text), "fsdax:/%s/./pmem//", f->scratch->path);
	add_on(f, "db", text);
	assert_int_equal(symlinkat("pmem", f->scratch->fd, "link"), 0);
	snprintf(text, sizeof(text), "fsdax:%s/link", f->scratch->path);
	add_on(f, "mail", text);
	snprintf(media.place, sizeof(media.place), "%s/pmem/", f->scratch->path);
	assert_int_equal(cs_media_sweep(f->store, &media, NULL), 0);
	assert_int_equal(cs_media_sweep_all(f->store, NULL), 0);
	check_media(f, "web", CS_MEDIA_FSDAX);
	check_media(f, "db", CS_MEDIA_FSDAX);
	check_media(f, "mail", CS_MEDIA_FSDAX);
	assert_int_equal(on_medium(f), 3);

	/* mounted elsewhere */
	assert_int_equal(renameat(f->scratch->fd, "pmem", f->scratch->fd, "moved"), 0);
	snprintf(media.place, sizeof(media.place), "%s/moved", f->scratch->path);
	assert_int_equal(cs_media_sweep(f->store, &media, NULL), 0);
	assert_int_equal(renameat(f->scratch->fd, "moved", f->scratch->fd, "pmem"), 0);
	assert_int_equal(on_medium(f), 3);

	assert_int_equal(cs_media_parse("fsdax:///mnt//pmem//", 0, &media, NULL), 0);
	assert_string_equal(media.place, "/mnt/pmem");
	assert_int_equal(cs_media_parse("fsdax:///", 0, &media, NULL), 0);
	assert_string_equal(media.place, "/");
}

/* A template that was made of another outlives it, with the root that it had from there. */
static void test_outlived(void **state)
{
	struct fixture *f = *state;
	struct cs_draft *draft = NULL;
	struct cs_template *t;

	dax = true;
	add_on(f, "web", medium_of(f));
	t = open_one(f, "web");
	assert_int_equal(cs_draft_create(f->store, "mine", t, &draft, &f->err), 0);
	assert_int_equal(cs_draft_publish(draft, NULL, &f->err), 0);
	cs_draft_free(draft);
	cs_template_free(t);
	assert_int_equal(cs_template_remove(f->store, "web", NULL, &f->err), 0);
	assert_int_equal(on_medium(f), 1);
	scratch_write(f->scratch->fd, "root/etc/motd", "another root\n");
	add_on(f, "web", medium_of(f));
	assert_int_equal(on_medium(f), 2);
	check_media(f, "web", CS_MEDIA_FSDAX);
	check_media(f, "mine", CS_MEDIA_FSDAX);
}

/* What is said to be shared of a version, beyond the parts that stayed. */
static uint64_t root_shares(struct fixture *f, const struct cs_template_added *added)
{
	struct cs_template *t = open_one(f, "web");
	const struct cs_manifest_part *part = cs_template_manifest(t)->part;
	const uint64_t stayed = part[CS_PART_KERNEL].stored_bytes + part[CS_PART_DISK].stored_bytes;

	cs_template_free(t);
	return added->shared_bytes - stayed;
}

/* A root that goes elsewhere shares nothing with the one before, which is in the store. */
static void test_unshared(void **state)
{
	struct fixture *f = *state;
	struct cs_template_spec spec;
	struct cs_template_added added;
	static const unsigned char data[CS_MIB] = { [0 ... CS_MIB - 1] = 7 };

	fixture_need_btrfs(f);
	dax = true;
	cs_mkdir_path(f->scratch->fd, "root", 0755);
	cs_fake_file(f->scratch->fd, "root/large", data, sizeof(data));
	add(f, "web");
	spec = spec_of(f);
	spec.kernel = NULL;
	spec.disk_bytes = 0;
	if (cs_template_update(f->store, &spec, true, &added, &f->err) < 0)
		fail_msg("%s", f->err.text);
	assert_int_not_equal(root_shares(f, &added), 0);
	spec.media = medium_of(f);
	if (cs_template_update(f->store, &spec, true, &added, &f->err) < 0)
		fail_msg("%s", f->err.text);
	check_media(f, "web", CS_MEDIA_FSDAX);
	assert_int_equal(root_shares(f, &added), 0);
}

/* The memory of a machine that was saved again begins with what lies on the medium. */
static void test_fetched(void **state)
{
	struct fixture *f = *state;
	struct cs_draft *draft = NULL;
	struct cs_template *t;
	char magic[4] = { 0 };
	int fd;

	dax = true;
	add_on(f, "web", medium_of(f));
	t = open_one(f, "web");
	assert_int_equal(cs_draft_create_version(f->store, t, &draft, &f->err), 0);
	assert_int_equal(cs_draft_open_part(draft, CS_PART_ROOT, true, &fd, &f->err), 0);
	assert_int_equal(pread(fd, magic, 4, 1024), 4);
	assert_memory_equal(magic, "\xe2\xe1\xf5\xe0", 4);
	close(fd);
	assert_int_equal(cs_draft_seal_part(draft, CS_PART_ROOT, &f->err), 0);
	assert_int_equal(cs_draft_publish(draft, NULL, &f->err), 0);
	cs_draft_free(draft);
	cs_template_free(t);
	check_media(f, "web@1", CS_MEDIA_FSDAX);
	check_media(f, "web@2", CS_MEDIA_FILE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_add, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_unguarded, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_move, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_refused, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_full, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_missing, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_sweep, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_spelled, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_outlived, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_unshared, fixture_on_btrfs, fixture_remove),
		cmocka_unit_test_setup_teardown(test_fetched, fixture_in_folder, fixture_remove),
	};

	return cmocka_run_group_tests_name("media", tests, NULL, NULL);
}
