/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What clones write to first, kept beside their template: whole, and of this very machine. */
#include "store/hot.h"

#include "store/draft.h"
#include "store/note.h"
#include "tests/unit/template-fixture.h"

#define RAM   (48 * CS_MIB)
#define PAGES (RAM / CS_PAGE_BYTES)

static int find_nobody(void *arg, const char *name, const char *version, char guest[64],
		       struct cs_err *err)
{
	return 0;
}

static const struct cs_template_user nobody = { find_nobody, NULL };

/* A version with a saved machine whose state is (text). */
static struct cs_template *open_warm(struct fixture *f, const char *text)
{
	struct cs_template *cold = open_one(f, "web");
	struct cs_draft *draft = NULL;
	int fd;

	assert_int_equal(cs_draft_create_version(f->store, cold, &draft, NULL), 0);
	cs_template_free(cold);
	assert_int_equal(cs_draft_open_part(draft, CS_PART_MEMORY, false, &fd, NULL), 0);
	assert_int_equal(ftruncate(fd, RAM), 0);
	close(fd);
	assert_int_equal(cs_draft_open_part(draft, CS_PART_STATE, false, &fd, NULL), 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
	assert_int_equal(cs_draft_seal_part(draft, CS_PART_MEMORY, NULL), 0);
	assert_int_equal(cs_draft_seal_part(draft, CS_PART_STATE, NULL), 0);
	cs_draft_manifest(draft)->saved = (struct cs_manifest_saved){ true, RAM, 1, false };
	assert_int_equal(cs_draft_publish(draft, &nobody, NULL), 0);
	cs_draft_free(draft);
	return open_one(f, "web");
}

static struct cs_template *begin(struct fixture *f)
{
	add(f, "web");
	return open_warm(f, "state");
}

static void test_kept(void **state)
{
	struct fixture *f = *state;
	struct cs_template *t = begin(f);
	struct cs_hot hot = { 0 }, got;

	assert_int_equal(cs_hot_get(f->store, t, &got), -ENOENT);
	assert_int_equal(cs_hot_put(f->store, t, &hot, NULL), 0);
	assert_int_equal(cs_hot_get(f->store, t, &got), 0);
	assert_int_equal(got.list[CS_HOT_WAKE].n, 0);
	assert_int_equal(cs_hot_add(&hot.list[CS_HOT_WAKE], 10), 0);
	assert_int_equal(cs_hot_add(&hot.list[CS_HOT_WAKE], 100), 0);
	assert_int_equal(cs_hot_add(&hot.list[CS_HOT_WAKE], 101), 0);
	assert_int_equal(cs_hot_add(&hot.list[CS_HOT_EXEC], PAGES - 1), 0);
	assert_int_equal(cs_hot_put(f->store, t, &hot, NULL), 0);
	assert_int_equal(cs_hot_get(f->store, t, &got), 0);
	assert_int_equal(got.list[CS_HOT_WAKE].n, 2);
	assert_int_equal(got.list[CS_HOT_WAKE].pages, 3);
	assert_int_equal(got.list[CS_HOT_WAKE].range[0].first, 10);
	assert_int_equal(got.list[CS_HOT_WAKE].range[1].first, 100);
	assert_int_equal(got.list[CS_HOT_WAKE].range[1].pages, 2);
	assert_int_equal(got.list[CS_HOT_EXEC].n, 1);
	assert_int_equal(got.list[CS_HOT_EXEC].range[0].first, PAGES - 1);
	cs_hot_clear(&got);
	cs_hot_clear(&hot);
	cs_template_free(t);
}

static void test_no_more_than(void **state)
{
	struct cs_hot hot = { 0 };
	struct cs_hot_list *list = &hot.list[CS_HOT_WAKE];

	for (uint32_t i = 0; i < CS_HOT_PAGES_MAX; i++)
		assert_int_equal(cs_hot_add(list, i < 100 ? 2 * i : 1000 + i), 0);
	assert_int_equal(list->pages, CS_HOT_PAGES_MAX);
	assert_int_equal(cs_hot_add(list, 1000 + CS_HOT_PAGES_MAX), -E2BIG);
	assert_int_equal(cs_hot_add(list, 1000000), -E2BIG);
	assert_int_equal(list->pages, CS_HOT_PAGES_MAX);
	assert_int_equal(list->n, 101);
	assert_true(cs_hot_has(list, 0) && cs_hot_has(list, 198) && cs_hot_has(list, 1100));
	assert_true(cs_hot_has(list, 1000 + CS_HOT_PAGES_MAX - 1));
	assert_false(cs_hot_has(list, 1) || cs_hot_has(list, 199) || cs_hot_has(list, 1099));
	assert_false(cs_hot_has(list, 1000 + CS_HOT_PAGES_MAX));
	cs_hot_clear(&hot);
}

/* Every other page: as many ranges as there can be. */
static void test_largest(void **state)
{
	struct fixture *f = *state;
	struct cs_template *t = begin(f);
	struct cs_hot hot = { 0 }, got;

	for (uint32_t i = 0; i < PAGES; i += 2) {
		for (size_t kind = 0; kind < CS_HOT_KINDS; kind++)
			assert_int_equal(cs_hot_add(&hot.list[kind], i), 0);
	}
	assert_int_equal(hot.list[CS_HOT_WAKE].n, PAGES / 2);
	assert_int_equal(cs_hot_put(f->store, t, &hot, NULL), 0);
	assert_int_equal(cs_hot_get(f->store, t, &got), 0);
	assert_int_equal(got.list[CS_HOT_EXEC].n, PAGES / 2);
	assert_memory_equal(got.list[CS_HOT_EXEC].range, hot.list[CS_HOT_EXEC].range,
			    PAGES / 2 * sizeof(struct cs_page_range));
	cs_hot_clear(&got);
	cs_hot_clear(&hot);
	cs_template_free(t);
}

static void test_of_another_machine(void **state)
{
	struct fixture *f = *state;
	struct cs_template *t = begin(f), *other;
	struct cs_hot hot = { 0 }, got;

	assert_int_equal(cs_hot_add(&hot.list[CS_HOT_WAKE], 1), 0);
	assert_int_equal(cs_hot_put(f->store, t, &hot, NULL), 0);
	assert_int_equal(renameat(cs_store_dirfd(f->store), "hot/web@2", cs_store_dirfd(f->store),
				  "hot/web@3"),
			 0);
	other = open_warm(f, "another state");
	assert_string_equal(cs_template_version(other), "3");
	assert_int_equal(cs_hot_get(f->store, other, &got), -ENOENT);
	cs_template_free(other);
	cs_hot_clear(&hot);
	cs_template_free(t);
}

/* (lines) behind a right first line. */
static int get(struct fixture *f, const struct cs_template *t, const char *lines)
{
	char text[512];
	struct cs_hot got;
	int r;

	snprintf(text, sizeof(text), "clearstore-hot 1 %s\n%s",
		 cs_template_digest(t, CS_PART_STATE), lines);
	assert_int_equal(cs_note_put(f->store, "hot", "web", cs_template_version(t), text, NULL),
			 0);
	r = cs_hot_get(f->store, t, &got);
	if (r < 0) {
		for (size_t kind = 0; kind < CS_HOT_KINDS; kind++)
			assert_null(got.list[kind].range);
	}
	cs_hot_clear(&got);
	return r;
}

static void test_hostile(void **state)
{
	static const char *const bad[] = {
		"wake",
		"\n",
		"wake 1 1",
		"wake 1\n",
		"wake 1 \n",
		"wake  1 1\n",
		"wake 1 1 1\n",
		"walk 1 1\n",
		"wake -1 1\n",
		"wake 1 0\n",
		"wake 1 8193\n",
		"wake 4294967296 1\n",
		"wake 12288 1\n",
		"wake 12287 2\n",
		"wake 99999999999999999999 1\n",
		"wake 0x1 1\n",
		"wake 5 1\nwake 4 1\n",
		"wake 5 1\nwake 5 1\n",
		"wake 5 2\nwake 7 1\n",
		"wake 0 8000\nwake 8001 193\n",
		"wake 1 1\n\n",
		"exec 1 1\nwake 3 1\nexec 2 1\n",
	};
	struct fixture *f = *state;
	struct cs_template *t = begin(f);
	struct cs_hot got;

	assert_int_equal(get(f, t, ""), 0);
	assert_int_equal(get(f, t, "wake 0 1\nexec 5 2\nwake 12287 1\nexec 8 1\nexec-seen 1 1\n"),
			 0);
	assert_int_equal(get(f, t, "wake 0 8000\nwake 8001 192\n"), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (get(f, t, bad[i]) != -EBADMSG)
			fail_msg("not refused: %s", bad[i]);
	}
	assert_int_equal(cs_note_put(f->store, "hot", "web", "2", "clearstore-hot 2 x\n", NULL), 0);
	assert_int_equal(cs_hot_get(f->store, t, &got), -EBADMSG);
	assert_int_equal(cs_note_put(f->store, "hot", "web", "2", "", NULL), 0);
	assert_int_equal(cs_hot_get(f->store, t, &got), -EBADMSG);
	cs_template_free(t);
}

/* It goes with the version, and with the template. */
static void test_removed(void **state)
{
	struct fixture *f = *state;
	struct cs_template *t = begin(f);
	struct cs_hot hot = { 0 }, got;

	assert_int_equal(cs_hot_put(f->store, t, &hot, NULL), 0);
	cs_template_free(t);
	t = open_warm(f, "the next"); /* takes its place */
	assert_false(cs_note_any(f->store, "hot"));
	assert_int_equal(cs_hot_put(f->store, t, &hot, NULL), 0);
	cs_hot_remove(f->store, "web", "1");
	assert_int_equal(cs_hot_get(f->store, t, &got), 0);
	cs_hot_remove(f->store, "web", cs_template_version(t));
	assert_int_equal(cs_hot_get(f->store, t, &got), -ENOENT);
	assert_int_equal(cs_hot_put(f->store, t, &hot, NULL), 0);
	assert_true(cs_note_any(f->store, "hot"));
	assert_int_equal(cs_template_remove(f->store, "web", &nobody, NULL), 0);
	assert_false(cs_note_any(f->store, "hot"));
	cs_template_free(t);
}

#define IN_FOLDER(name)                                                                            \
	cmocka_unit_test_setup_teardown(test_##name, fixture_in_folder, fixture_remove)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_FOLDER(kept),    IN_FOLDER(no_more_than), IN_FOLDER(largest),
		IN_FOLDER(hostile), IN_FOLDER(removed),      IN_FOLDER(of_another_machine),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
