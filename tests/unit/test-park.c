/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest that is parked: when it is one, who may find what is parked, and what a kill leaves. */
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "cow/life.h"
#include "cow/park.h"
#include "tests/unit/cow-guest.h"

static enum cs_guest_state state_of(struct cow *cow)
{
	struct cs_card *card = cow_load(cow, "web");
	enum cs_guest_state got = card->state;

	assert_int_equal(strcmp(card->stop_reason, "parked") == 0, got == CS_GUEST_PARKED);
	cs_card_free(card);
	return got;
}

static struct cs_park *begin(struct cow *cow)
{
	cs_auto(cs_card_freep) struct cs_card *card = cow_load(cow, "web");
	struct cs_park *park = NULL;
	struct cs_err err = { 0 };

	if (cs_park_create(cow->store, card, &park, &err) < 0)
		fail_msg("%s", err.text);
	return park;
}

/* As the monitor would. */
static void fill(const struct cs_park *park)
{
	const int *fd = cs_park_fds(park);

	assert_int_equal(cs_pwrite_full(fd[CS_PARK_MEMORY], "memory", 6, 0), 0);
	assert_int_equal(cs_pwrite_full(fd[CS_PARK_STATE], "state", 5, 0), 0);
}

static pid_t run(struct cow *cow)
{
	pid_t pid = cow_monitor();

	cow_start(cow, "web", pid);
	return pid;
}

static void park(struct cow *cow, pid_t pid, bool from_memory)
{
	struct cs_park *p = begin(cow);
	struct cs_err err = { 0 };

	fill(p);
	assert_int_equal(cs_park_publish(p, from_memory, &err), 0);
	assert_int_equal(state_of(cow), CS_GUEST_RUNNING);
	cs_park_free(p);
	cow_kill(pid);
	cow_write(cow, "web", "exit", "request -1\n");
}

static int guest_fd(struct cow *cow)
{
	int fd = openat(cow->guests_fd, "web", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void test_parked(void **state)
{
	struct cow *cow = *state;
	struct cs_parked parked;
	struct cs_err err = { 0 };
	char text[8] = "";
	int fd;

	cow_create(cow, "web");
	fd = guest_fd(cow);
	assert_int_equal(cs_parked_open(fd, &parked, &err), -ENOENT);
	park(cow, run(cow), true);
	assert_int_equal(state_of(cow), CS_GUEST_PARKED);
	assert_int_equal(cs_parked_check(cow->store, "web", &err), 0);
	assert_int_equal(cs_parked_open(fd, &parked, &err), 0);
	assert_true(parked.from_memory);
	assert_int_equal(pread(parked.memory_fd, text, 7, 0), 6);
	assert_string_equal(text, "memory");
	cs_parked_closep(&parked);
	/* Nothing is left where it was made. */
	assert_false(cow_has(cow, ".marks", "park-web"));
	close(fd);
}

/* What does not concern it: the sweep, also after a boot of the host. */
static void test_stays(void **state)
{
	struct cow *cow = *state;
	cs_auto(cs_card_freep) struct cs_card *card = NULL;

	cow_create(cow, "web");
	park(cow, run(cow), false);
	assert_int_equal(cs_overlay_sweep(cow->store, NULL), 0);
	assert_int_equal(cs_overlay_sweep(cow->store, NULL), 0);
	assert_int_equal(state_of(cow), CS_GUEST_PARKED);
	card = cow_load(cow, "web");
	snprintf(card->boot, sizeof(card->boot), "0-1-2");
	assert_int_equal(cs_card_save(cow->store, card, NULL), 0);
	assert_int_equal(state_of(cow), CS_GUEST_PARKED);
}

/* It is started: from what is parked, until its monitor says that it goes on. */
static void test_woken(void **state)
{
	struct cow *cow = *state;
	cs_auto(cs_overlay_freep) struct cs_overlay *overlay = NULL;
	cs_auto(cs_card_freep) struct cs_card *card = NULL;
	struct cs_err err = { 0 };
	pid_t pid;

	cow_create(cow, "web");
	park(cow, run(cow), false);
	pid = run(cow);
	assert_int_equal(state_of(cow), CS_GUEST_RUNNING);
	card = cow_load(cow, "web");
	assert_int_equal(cs_overlay_open(cow->store, cow->t, card, &overlay, &err), 0);
	assert_true(cs_overlay_parked(overlay));
	assert_true(cs_overlay_boot(overlay)->state_fd >= 0);
	assert_true(cs_overlay_boot(overlay)->delta_fd >= 0);
	assert_int_equal(cs_overlay_ram(overlay)->seg[0].backing, CS_BACKING_ANON);
	/* It dies before it went on. */
	cow_kill(pid);
	assert_int_equal(state_of(cow), CS_GUEST_PARKED);

	pid = run(cow);
	assert_int_equal(cs_overlay_woken(overlay, &err), 0);
	assert_false(cs_overlay_parked(overlay));
	assert_int_equal(state_of(cow), CS_GUEST_RUNNING);
	assert_false(cow_has(cow, "web", "parked"));
	cow_kill(pid);
	assert_int_equal(state_of(cow), CS_GUEST_CRASHED);
}

/* From its template's memory, when it was mapped from there; without one the guest cannot go on. */
static void test_from_memory(void **state)
{
	struct cow *cow = *state;
	cs_auto(cs_overlay_freep) struct cs_overlay *overlay = NULL;
	cs_auto(cs_card_freep) struct cs_card *card = NULL;
	struct cs_err err = { 0 };
	int memory_fd = cow_part(cow, "template-memory", 128 * CS_MIB);

	cow_create(cow, "web");
	park(cow, run(cow), true);
	card = cow_load(cow, "web");
	assert_true(cs_overlay_open(cow->store, cow->t, card, &overlay, &err) < 0);
	cs_fake_template_part(cow->t, CS_PART_MEMORY, memory_fd, 128 * CS_MIB);
	assert_int_equal(cs_overlay_open(cow->store, cow->t, card, &overlay, &err), 0);
	assert_int_equal(cs_overlay_ram(overlay)->seg[0].backing, CS_BACKING_COW);
	close(memory_fd);
}

/* Who parks it dies before it is done: the next sweep takes it away, the guest runs on. */
static void test_killed_in_the_making(void **state)
{
	struct cow *cow = *state;
	struct cs_park *p;
	pid_t pid;

	cow_create(cow, "web");
	pid = run(cow);
	p = begin(cow);
	fill(p);
	assert_true(cow_has(cow, ".marks", "park-web/memory"));
	assert_int_equal(cs_overlay_sweep(cow->store, NULL), 0);
	assert_true(cow_has(cow, ".marks", "park-web/memory")); /* its maker lives */
	/* A copy of all that is there, without the lock, is what a kill leaves. */
	assert_int_equal(mkdirat(cow->guests_fd, ".marks/park-dead", 0700), 0);
	scratch_write(cow->guests_fd, ".marks/park-dead/memory", "half");
	assert_int_equal(cs_overlay_sweep(cow->store, NULL), 0);
	assert_false(cow_has(cow, ".marks", "park-dead"));
	assert_int_equal(state_of(cow), CS_GUEST_RUNNING);
	cs_park_free(p);
	assert_false(cow_has(cow, ".marks", "park-web"));
	cow_kill(pid);
	assert_int_equal(state_of(cow), CS_GUEST_CRASHED);
}

/* It was put in place, and then the machine went on after all: its ticket is void. */
static void test_void_ticket(void **state)
{
	struct cow *cow = *state;
	struct cs_err err = { 0 };
	struct cs_park *p;
	struct cs_parked parked;
	pid_t pid;
	int fd;

	cow_create(cow, "web");
	pid = run(cow);
	p = begin(cow);
	fill(p);
	assert_int_equal(cs_park_publish(p, false, &err), 0);
	assert_int_equal(ftruncate(cs_park_fds(p)[CS_PARK_TICKET], 0), 0);
	cs_park_free(p);
	assert_true(cow_has(cow, "web", "parked"));
	cow_kill(pid);
	assert_int_equal(state_of(cow), CS_GUEST_CRASHED);
	fd = guest_fd(cow);
	assert_int_equal(cs_parked_open(fd, &parked, &err), -ENOENT);
	close(fd);
	/* The next attempt is not hindered by it. */
	park(cow, run(cow), false);
	assert_int_equal(state_of(cow), CS_GUEST_PARKED);
}

static void test_refusals(void **state)
{
	struct cow *cow = *state;
	struct cs_err err = { 0 };
	cs_auto(cs_card_freep) struct cs_card *card = NULL;
	struct cs_park *p, *second = NULL;
	pid_t pid;

	cow_create(cow, "web");
	pid = run(cow);
	card = cow_load(cow, "web");
	p = begin(cow);
	assert_int_equal(cs_park_create(cow->store, card, &second, &err), -EBUSY);
	fill(p);
	/* The guest ends, and another runs by the time it is done. */
	cow_kill(pid);
	assert_int_equal(cs_park_publish(p, false, &err), -ESRCH);
	pid = run(cow);
	assert_int_equal(cs_park_publish(p, false, &err), -ESRCH);
	assert_false(cow_has(cow, "web", "parked"));
	cs_park_free(p);
	assert_int_equal(cs_parked_drop(cow->store, "web", &err), -EBUSY);
	cow_kill(pid);
}

static void test_drop_and_remove(void **state)
{
	struct cow *cow = *state;
	struct cs_err err = { 0 };

	cow_create(cow, "web");
	park(cow, run(cow), false);
	assert_int_equal(cs_parked_drop(cow->store, "web", &err), 0);
	assert_int_equal(state_of(cow), CS_GUEST_STOPPED);
	assert_false(cow_has(cow, "web", "parked"));
	assert_int_equal(cs_parked_drop(cow->store, "web", &err), 0);
	park(cow, run(cow), false);
	assert_int_equal(cs_overlay_remove(cow->store, "web", &err), 0);
	assert_false(cow_has(cow, "web", ""));
}

static void test_broken(void **state)
{
	static const char *const seals[] = {
		"",
		"1",
		"1 memory 5",
		"2 memory 5 %s\n",
		"1 disk 5 %s\n",
		"1 memory 6 %s\n",
		"1 memory 5 %s",
		"1 memory 5 %s\nx",
		"1 memory 5 abc\n",
		"1 memory -5 %s\n",
	};
	struct cow *cow = *state;
	struct cs_parked parked;
	struct cs_err err = { 0 };
	int fd;

	cow_create(cow, "web");
	fd = guest_fd(cow);
	park(cow, run(cow), true);
	assert_int_equal(cs_parked_check(cow->store, "web", &err), 0);
	cow_write(cow, "web", "parked/state", "stale");
	assert_int_equal(cs_parked_check(cow->store, "web", &err), -EBADMSG);
	assert_non_null(strstr(err.text, "guest 'web'"));
	for (size_t i = 0; i < sizeof(seals) / sizeof(seals[0]); i++) {
		char text[200], digest[65];

		memset(digest, 'a', 64);
		digest[64] = '\0';
		/* NOLINTNEXTLINE */
		snprintf(text, sizeof(text), "%.*s%s%s", (int)strcspn(seals[i], "%"), seals[i],
			 strchr(seals[i], '%') ? digest : "",
			 strchr(seals[i], '%') ? strchr(seals[i], '%') + 2 : "");
		cow_write(cow, "web", "parked/seal", text);
		assert_int_equal(cs_parked_open(fd, &parked, &err), -EBADMSG);
	}
	assert_int_equal(unlinkat(fd, "parked/seal", 0), 0);
	assert_int_equal(cs_parked_open(fd, &parked, &err), -EBADMSG);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		COW_TEST(test_parked),      COW_TEST(test_stays),
		COW_TEST(test_woken),       COW_TEST(test_from_memory),
		COW_TEST(test_refusals),    COW_TEST(test_killed_in_the_making),
		COW_TEST(test_void_ticket), COW_TEST(test_drop_and_remove),
		COW_TEST(test_broken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
