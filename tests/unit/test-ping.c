/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who waits for a guest's sign of life: each gets the answer to what was asked after it came. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/agent.h"
#include "vmm/control.h"
#include "vmm/ping.h"

/* Fakes of the two neighbours. */
static int refusal;
static unsigned asked, good, bad;
static bool on_its_way;
static bool waking;

bool __wrap_cs_agent_is_waking(const struct cs_agent *agent);
bool __wrap_cs_agent_is_waking(const struct cs_agent *agent)
{
	return waking;
}

int __wrap_cs_agent_ping(struct cs_agent *agent);
int __wrap_cs_agent_ping(struct cs_agent *agent)
{
	if (refusal)
		return refusal;
	if (on_its_way)
		return -EBUSY;
	on_its_way = true;
	asked++;
	return 0;
}

void __wrap_cs_control_answer(struct cs_control_client *client, const char *text,
			      const struct cs_err *why);
void __wrap_cs_control_answer(struct cs_control_client *client, const char *text,
			      const struct cs_err *why)
{
	assert_non_null(client);
	if (why)
		bad++;
	else
		good++;
}

static char clients[4];

static struct cs_control_client *client(int i)
{
	return (struct cs_control_client *)&clients[i];
}

static int make(void **state)
{
	struct cs_pings *pings;

	refusal = 0;
	asked = good = bad = 0;
	on_its_way = waking = false;
	assert_int_equal(cs_pings_create(NULL, &pings), 0);
	*state = pings;
	return 0;
}

static int unmake(void **state)
{
	cs_pings_free(*state);
	return 0;
}

static void pong(struct cs_pings *pings)
{
	on_its_way = false;
	cs_pings_answered(pings);
}

static void test_turns(void **state)
{
	struct cs_err err = { 0 };

	assert_int_equal(cs_pings_begin(*state, client(0), &err), 0);
	assert_int_equal(asked, 1);
	/* These came after the question: its answer is not theirs. */
	assert_int_equal(cs_pings_begin(*state, client(1), &err), 0);
	assert_int_equal(cs_pings_begin(*state, client(2), &err), 0);
	assert_int_equal(asked, 1);
	pong(*state);
	assert_int_equal(good, 1);
	assert_int_equal(asked, 2);
	assert_int_equal(cs_pings_begin(*state, client(3), &err), 0);
	pong(*state);
	assert_int_equal(good, 3);
	assert_int_equal(asked, 3);
	pong(*state);
	assert_int_equal(good, 4);
	assert_int_equal(asked, 3);
	assert_int_equal(bad, 0);
}

/* Who comes while it wakes up is answered by its READY, without a question of his own, by an agent
 * that is too old to be asked as well; who comes later asks. */
static void test_waking(void **state)
{
	struct cs_err err = { 0 };

	waking = true;
	refusal = -EOPNOTSUPP;
	assert_int_equal(cs_pings_begin(*state, client(0), &err), 0);
	assert_int_equal(cs_pings_begin(*state, client(1), &err), 0);
	assert_int_equal(good, 0);
	waking = false;
	cs_pings_answered(*state);
	assert_int_equal(good, 2);
	assert_int_equal(asked, 0);

	refusal = 0;
	assert_int_equal(cs_pings_begin(*state, client(2), &err), 0);
	assert_int_equal(asked, 1);
	pong(*state);
	assert_int_equal(good, 3);

	waking = true;
	assert_int_equal(cs_pings_begin(*state, client(3), &err), 0);
	cs_pings_lost(*state);
	assert_int_equal(bad, 1);
}

static void test_refused(void **state)
{
	struct cs_err err = { 0 };

	refusal = -ENOTCONN;
	assert_int_equal(cs_pings_begin(*state, client(0), &err), -EAGAIN);
	assert_non_null(strstr(err.text, "boot"));
	refusal = -EOPNOTSUPP;
	assert_int_equal(cs_pings_begin(*state, client(0), &err), -EOPNOTSUPP);
	assert_false(cs_pings_gone(*state, client(0)));
	cs_pings_lost(*state);
	assert_int_equal(bad, 0);
}

static void test_lost(void **state)
{
	struct cs_err err = { 0 };

	assert_int_equal(cs_pings_begin(*state, client(0), &err), 0);
	assert_int_equal(cs_pings_begin(*state, client(1), &err), 0);
	cs_pings_lost(*state);
	assert_int_equal(bad, 2);

	/* Or the agent goes between one answer and the next question. */
	on_its_way = false;
	assert_int_equal(cs_pings_begin(*state, client(0), &err), 0);
	assert_int_equal(cs_pings_begin(*state, client(1), &err), 0);
	refusal = -ENOTCONN;
	pong(*state);
	assert_int_equal(good, 1);
	assert_int_equal(bad, 3);
}

static void test_gone(void **state)
{
	struct cs_err err = { 0 };

	assert_int_equal(cs_pings_begin(*state, client(0), &err), 0);
	assert_int_equal(cs_pings_begin(*state, client(1), &err), 0);
	assert_true(cs_pings_gone(*state, client(0)));
	assert_false(cs_pings_gone(*state, client(0)));
	/* The answer to the one that has gone is nobody's. */
	pong(*state);
	assert_int_equal(good, 0);
	pong(*state);
	assert_int_equal(good, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, make, unmake)
	const struct CMUnitTest tests[] = { TEST(turns), TEST(waking), TEST(refused), TEST(lost),
					    TEST(gone) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
