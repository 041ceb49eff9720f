/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Cards: what is written comes back, what is broken is said to be. */
#include <errno.h>

#include "tests/unit/cow-guest.h"

/* ---- the text ------------------------------------------------------------------------------- */

static void test_round_trip(void **state)
{
	struct cow *cow = *state;
	char sh[] = "sh", option[] = "-c", script[] = "echo \"a\nb\" \xff\xfe\x01", none[] = "";
	char *command[] = { sh, option, script, none, NULL };
	char variable[] = "A=\xc3\xa9", append[] = "quiet \"x\"";
	char *env[] = { variable, NULL };
	struct cs_card card = cow_card("web-1");
	struct cs_card *got, *copy;

	cow_create(cow, "web-1");
	card.vcpus = 4;
	card.run_init = true;
	card.resume = true;
	snprintf(card.share_domain, sizeof(card.share_domain), "batch-1");
	card.remove_on_exit = true;
	card.command = command;
	card.env = env;
	card.append = append;
	card.started = 1700000001;
	card.owner_pid = 4194303;
	card.owner_start_ticks = INT64_MAX;
	card.disk_bytes = UINT64_C(8) << 30;
	assert_int_equal(cs_card_save(cow->store, &card, NULL), 0);
	got = cow_load(cow, "web-1");
	assert_string_equal(got->guest, "web-1");
	assert_string_equal(got->template, "debian");
	assert_string_equal(got->version, "1");
	assert_string_equal(got->share_domain, "batch-1");
	assert_int_equal(got->ram_bytes, 128 * CS_MIB);
	assert_int_equal(got->disk_bytes, card.disk_bytes);
	assert_int_equal(got->vcpus, 4);
	assert_true(got->run_init && got->resume && got->remove_on_exit && !got->persist);
	for (int i = 0; i < 4; i++)
		assert_string_equal(got->command[i], command[i]);
	assert_null(got->command[4]);
	assert_string_equal(got->env[0], env[0]);
	assert_null(got->env[1]);
	assert_string_equal(got->append, card.append);
	assert_int_equal(got->created, 1700000000);
	assert_int_equal(got->started, 1700000001);
	assert_int_equal(got->owner_pid, 4194303);
	assert_int_equal(got->owner_start_ticks, INT64_MAX);

	copy = cs_card_copy(got);
	cs_card_free(got);
	assert_string_equal(copy->command[2], command[2]);
	assert_string_equal(copy->append, card.append);
	cs_card_free(copy);
	assert_null(cs_card_free(NULL));
}

static void test_without_options(void **state)
{
	struct cow *cow = *state;
	struct cs_card *got;

	cow_create(cow, "web");
	got = cow_load(cow, "web");
	assert_null(got->command);
	assert_null(got->env);
	assert_null(got->append);
	assert_int_equal(got->pid, 0);
	assert_int_equal(got->state, CS_GUEST_STOPPED);
	assert_string_equal(got->stop_reason, "new");
	assert_int_equal(got->exit_status, -1);
	cs_card_free(got);
}

static void test_refuses_to_write(void **state)
{
	struct cow *cow = *state;
	struct cs_err err = { .code = 0 };
	static char huge[70000];
	struct cs_card card;

	cow_create(cow, "web");
	memset(huge, 'x', sizeof(huge) - 1);
	card = cow_card("web");
	card.append = huge;
	assert_int_equal(cs_card_save(cow->store, &card, &err), -E2BIG);
	card = cow_card("web");
	card.vcpus = 0;
	assert_int_equal(cs_card_save(cow->store, &card, &err), -EINVAL);
	card = cow_card("web");
	card.pid = -1;
	assert_int_equal(cs_card_save(cow->store, &card, &err), -EINVAL);
	card = cow_card("web");
	snprintf(card.template, sizeof(card.template), "../x");
	assert_int_equal(cs_card_save(cow->store, &card, &err), -EINVAL);
	card = cow_card("none");
	assert_int_equal(cs_card_save(cow->store, &card, &err), -ENOENT);
	assert_non_null(strstr(err.text, "'none'"));
	card = cow_card("../web");
	assert_int_equal(cs_card_save(cow->store, &card, &err), -EINVAL);
	cs_card_free(cow_load(cow, "web")); /* the old one is still there, and whole */
}

static char *card_text(struct cow *cow, const char *guest)
{
	char path[200], *text = NULL;

	snprintf(path, sizeof(path), "%s/card.json", guest);
	assert_int_equal(cs_read_file_at(cow->guests_fd, path, 1 << 20, &text, NULL), 0);
	return text;
}

static void assert_broken(struct cow *cow, const char *text)
{
	struct cs_err err = { .code = 0 };
	struct cs_card *card = (struct cs_card *)1;

	cow_write(cow, "web", "card.json", text);
	assert_int_equal(cs_card_load(cow->store, "web", &card, &err), -EBADMSG);
	assert_ptr_equal(card, (struct cs_card *)1);
	assert_memory_equal(err.text, "guest 'web': card.json: ", 24);
}

static void test_truncated(void **state)
{
	struct cow *cow = *state;
	char *text;

	cow_create(cow, "web");
	text = card_text(cow, "web");
	for (size_t n = strlen(text); n-- > 0;) {
		text[n] = '\0';
		assert_broken(cow, text);
	}
	free(text);
}

/* (text) with (from) replaced by (to). */
static char *swap(const char *text, const char *from, const char *to)
{
	const char *at = strstr(text, from);
	char *made;

	assert_non_null(at);
	assert_true(asprintf(&made, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from)) > 0);
	return made;
}

/* A card of before there were domains. */
static void test_older_card(void **state)
{
	struct cow *cow = *state;
	char *text, *older;
	struct cs_card *got;

	cow_create(cow, "web");
	text = card_text(cow, "web");
	older = swap(text, "\"share_domain\": null", "\"whatever\": null");
	cow_write(cow, "web", "card.json", older);
	got = cow_load(cow, "web");
	assert_string_equal(got->share_domain, "");
	cs_card_free(got);
	free(older);
	free(text);
}

/* What a card may not say. */
static const struct {
	const char *from, *to;
} hostile[] = {
	{ "\"vcpus\": 1", "\"vcpus\": 0" },
	{ "\"vcpus\": 1", "\"vcpus\": -1" },
	{ "\"vcpus\": 1", "\"vcpus\": 1.5" },
	{ "\"vcpus\": 1", "\"vcpus\": \"1\"" },
	{ "\"vcpus\": 1", "\"vcpus\": 99999" },
	{ "\"vcpus\": 1", "\"vcpus\": 99999999999999999999999" },
	{ "\"vcpus\": 1", "\"vcpus\": 1, \"vcpus\": 2" },
	{ "\"guest\": \"web\"", "\"guest\": \"other\"" },
	{ "\"guest\": \"web\"", "\"guest\": \"../web\"" },
	{ "\"guest\": \"web\"", "\"guest\": null" },
	{ "\"template\": \"debian\"", "\"template\": \"../../etc\"" },
	{ "\"template\": \"debian\"", "\"template\": "
				      "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
				      "aaaaaaaaaaaaaaaaaaaaaaaa\"" },
	{ "\"version\": \"1\"", "\"version\": \"123456789012345678901234567890123\"" },
	{ "\"version\": \"1\"", "\"version\": 1" },
	{ "\"share_domain\": null", "\"share_domain\": \"../x\"" },
	{ "\"share_domain\": null", "\"share_domain\": \"\"" },
	{ "\"share_domain\": null", "\"share_domain\": true" },
	{ "\"persist\": false", "\"persist\": 0" },
	{ "\"command\": null", "\"command\": \"sh\"" },
	{ "\"command\": null", "\"command\": {}" },
	{ "\"command\": null", "\"command\": [1]" },
	{ "\"command\": null", "\"command\": [\"a\", null]" },
	{ "\"command\": null", "\"command\": [\"a\\u0000b\"]" },
	{ "\"command\": null", "\"command\": [{\"bytes\": \"f\"}]" },
	{ "\"command\": null", "\"command\": [{\"bytes\": \"0g\"}]" },
	{ "\"command\": null", "\"command\": [{\"bytes\": \"0x\"}]" },
	{ "\"command\": null", "\"command\": [{\"bytes\": \"00\"}]" },
	{ "\"command\": null", "\"command\": [{\"bytes\": 1}]" },
	{ "\"command\": null", "\"command\": [{}]" },
	{ "\"env\": null", "\"env\": [[]]" },
	{ "\"append\": null", "\"append\": []" },
	{ "\"pid\": 0", "\"pid\": -1" },
	{ "\"pid\": 0", "\"pid\": 4194304" },
	{ "\"pid\": 0", "\"pid\": true" },
	{ "\"start_ticks\": 0", "\"start_ticks\": -5" },
	{ "\"monitor\"", "\"monitors\"" },
	{ "\"boot\": \"", "\"boot\": \"zz" },
	{ "\"boot\": \"", "\"boot\": \"0123456789012345678901234567890123456789" },
	{ "\"format\": 1", "\"format\": 0" },
	{ "\"format\": 1", "\"format\": \"1\"" },
	{ "{", "[" },
	{ "{", "" },
	{ "}", "}x" },
};

static void test_hostile_members(void **state)
{
	struct cow *cow = *state;
	char *text, *made;

	cow_create(cow, "web");
	text = card_text(cow, "web");
	for (size_t i = 0; i < sizeof(hostile) / sizeof(hostile[0]); i++) {
		made = swap(text, hostile[i].from, hostile[i].to);
		assert_broken(cow, made);
		free(made);
	}
	free(text);
	assert_broken(cow, "null");
	assert_broken(cow, "[]");
	assert_broken(cow, "\"\xff\"");
}

static void test_hostile_files(void **state)
{
	struct cow *cow = *state;
	struct cs_card *card = NULL;
	char *huge = malloc(200001), *text, *made;

	cow_create(cow, "web");
	text = card_text(cow, "web");
	memset(huge, '[', 200000);
	huge[200000] = '\0';
	assert_broken(cow, huge);
	huge[60000] = '\0'; /* within the size, far too deep */
	assert_broken(cow, huge);
	free(huge);
	made = swap(text, "\"format\": 1", "\"format\": 2");
	cow_write(cow, "web", "card.json", made);
	assert_int_equal(cs_card_load(cow->store, "web", &card, NULL), -EPROTO);
	free(made);
	/* what this version does not know is left alone */
	made = swap(text, "\"format\": 1", "\"format\": 1, \"colour\": [{}]");
	cow_write(cow, "web", "card.json", made);
	cs_card_free(cow_load(cow, "web"));
	free(made);
	free(text);

	assert_int_equal(unlinkat(cow->guests_fd, "web/card.json", 0), 0);
	assert_int_equal(cs_card_load(cow->store, "web", &card, NULL), -EBADMSG);
	assert_int_equal(symlinkat("/etc/passwd", cow->guests_fd, "web/card.json"), 0);
	assert_int_equal(cs_card_load(cow->store, "web", &card, NULL), -EBADMSG);
	assert_int_equal(unlinkat(cow->guests_fd, "web/card.json", 0), 0);
	assert_int_equal(mkfifoat(cow->guests_fd, "web/card.json", 0600), 0);
	assert_int_equal(cs_card_load(cow->store, "web", &card, NULL), -EBADMSG);
	assert_null(card);
}

static void test_no_such_guest(void **state)
{
	struct cow *cow = *state;
	struct cs_card *card = NULL;
	struct cs_err err = { .code = 0 };

	assert_int_equal(cs_card_load(cow->store, "web", &card, &err), -ENOENT);
	assert_string_equal(err.text,
			    "guest 'web': there is none of this name (clearstore list shows all)");
	assert_int_equal(cs_card_load(cow->store, "../guests/web", &card, &err), -EINVAL);
	assert_int_equal(cs_card_load(cow->store, ".marks", &card, &err), -EINVAL);
	assert_int_equal(symlinkat("/", cow->guests_fd, "link"), 0);
	assert_true(cs_card_load(cow->store, "link", &card, &err) < 0);
	assert_null(card);
}

/* ---- all of them ---------------------------------------------------------------------------- */

struct names {
	char text[512];
	int stop_after;
};

static int take(const struct cs_card *card, void *arg)
{
	struct names *names = arg;
	size_t used = strlen(names->text);

	snprintf(names->text + used, sizeof(names->text) - used, "%s%s ", card->guest,
		 card->state == CS_GUEST_BROKEN ? "!" : "");
	return names->stop_after && --names->stop_after == 0 ? 42 : 0;
}

static void test_each(void **state)
{
	static const char *const names[] = { "web-10", "a", "web-2", "web-1", "web", "b.c" };
	struct names got = { .text = "" };
	struct cow *cow = *state;

	assert_int_equal(cs_card_each(cow->store, take, &got, NULL), 0);
	assert_string_equal(got.text, "");
	for (size_t i = 0; i < 6; i++)
		cow_create(cow, names[i]);
	cow_write(cow, "b.c", "card.json", "{");
	/* what is no guest */
	assert_int_equal(mkdirat(cow->guests_fd, ".hidden", 0700), 0);
	assert_int_equal(mkdirat(cow->guests_fd, "Not-a-name", 0700), 0);
	scratch_write(cow->guests_fd, "a-file", "");
	assert_int_equal(cs_card_each(cow->store, take, &got, NULL), 0);
	assert_string_equal(got.text, "a b.c! web web-1 web-2 web-10 ");
	got = (struct names){ .stop_after = 3 };
	assert_int_equal(cs_card_each(cow->store, take, &got, NULL), 42);
	assert_string_equal(got.text, "a b.c! web ");
}

static int remove_next(const struct cs_card *card, void *arg)
{
	struct cow *cow = arg;

	if (strcmp(card->guest, "a") == 0)
		assert_int_equal(cs_overlay_remove(cow->store, "b", NULL), 0);
	assert_string_not_equal(card->guest, "b");
	return 0;
}

static void test_each_while_one_goes(void **state)
{
	struct cow *cow = *state;

	cow_create(cow, "a");
	cow_create(cow, "b");
	cow_create(cow, "c");
	assert_int_equal(cs_card_each(cow->store, remove_next, cow, NULL), 0);
}

static void test_find_user(void **state)
{
	struct cow *cow = *state;
	char guest[64] = "untouched";

	assert_int_equal(cs_card_find_user(cow->store, "debian", "1", guest, NULL), 0);
	cow_create(cow, "broken");
	cow_write(cow, "broken", "card.json", "");
	assert_int_equal(cs_card_find_user(cow->store, "debian", "1", guest, NULL), 0);
	assert_string_equal(guest, "untouched");
	cow_create(cow, "web");
	assert_int_equal(cs_card_find_user(cow->store, "debian", "2", guest, NULL), 0);
	assert_int_equal(cs_card_find_user(cow->store, "alpine", "1", guest, NULL), 0);
	assert_int_equal(cs_card_find_user(cow->store, "debian", "1", guest, NULL), 1);
	assert_string_equal(guest, "web");
	assert_int_equal(cs_card_find_user(cow->store, "debian", NULL, guest, NULL), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		COW_TEST(test_round_trip),
		COW_TEST(test_without_options),
		COW_TEST(test_refuses_to_write),
		COW_TEST(test_truncated),
		COW_TEST(test_older_card),
		COW_TEST(test_hostile_members),
		COW_TEST(test_hostile_files),
		COW_TEST(test_no_such_guest),
		COW_TEST(test_each),
		COW_TEST(test_each_while_one_goes),
		COW_TEST(test_find_user),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
