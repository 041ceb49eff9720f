/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Freezing a guest, as the monitor asks for it, against agents that do it, do not, or are gone. */
#include "tests/unit/agent-world.h"

static void assert_frozen(struct world *w, unsigned times, int error)
{
	settle(w->loop);
	assert_int_equal(w->frozen, times);
	assert_int_equal(w->error, error);
}

static void test_freeze(void **state)
{
	struct world *w = *state;
	const struct cs_wire_freeze wanted = { .flags = htole32(3),
					       .clock_ns = htole64(on_clock(NULL)) };
	char payload[sizeof(struct cs_wire_freeze)];
	int fd = hello_ready(w);

	for (unsigned i = 1; i < 4; i++) {
		assert_int_equal(
			cs_agent_freeze(w->agent, CS_WIRE_FREEZE_SYNC | CS_WIRE_FREEZE_DROP), 0);
		assert_int_equal(cs_agent_freeze(w->agent, 0), -EBUSY);
		assert_int_equal(get(fd, CS_WIRE_FREEZE, payload, sizeof(payload)),
				 sizeof(payload));
		assert_memory_equal(payload, &wanted, sizeof(wanted));
		assert_frozen(w, i - 1, 0);
		put_u32(fd, CS_WIRE_FROZEN, 0);
		assert_frozen(w, i, 0);
		assert_int_equal(cs_agent_freeze(w->agent, 0), -EBUSY);
		assert_true(cs_agent_is_ready(w->agent));
		assert_silent(fd);
		assert_int_equal(cs_agent_thaw(w->agent), 0);
		assert_int_equal(get(fd, CS_WIRE_THAW, payload, sizeof(payload)), 0);
		assert_int_equal(cs_agent_thaw(w->agent), 0);
		assert_silent(fd);
	}
	close(fd);
	settle(w->loop);
	assert_frozen(w, 3, 0);
}

/* Before there is anybody, before READY, near the end, and to an agent that never heard of it. */
static void test_freeze_refused(void **state)
{
	struct world *w = *state;
	int fd;

	assert_int_equal(cs_agent_freeze(w->agent, 0), -ENOTCONN);
	assert_int_equal(cs_agent_thaw(w->agent), -ENOTCONN);
	fd = hello(w);
	assert_int_equal(cs_agent_freeze(w->agent, 0), -ENOTCONN);
	assert_int_equal(cs_agent_thaw(w->agent), 0);
	put(fd, CS_WIRE_READY, NULL, 0);
	put_u32(fd, CS_WIRE_EXITED, 0);
	settle(w->loop);
	assert_int_equal(cs_agent_freeze(w->agent, 0), -EBUSY);
	assert_silent(fd);
	close(fd);
	settle(w->loop);
	assert_int_equal(cs_agent_freeze(w->agent, 0), -ENOTCONN);

	fd = hello_version(w, 1);
	put(fd, CS_WIRE_READY, NULL, 0);
	settle(w->loop);
	assert_int_equal(cs_agent_freeze(w->agent, 0), -EOPNOTSUPP);
	assert_silent(fd);
	assert_int_equal(cs_agent_stop(w->agent, CS_WIRE_POWEROFF, 1), 0);
	close(fd);
	settle(w->loop);
	assert_int_equal(w->frozen, 0);
}

static void test_freeze_fails(void **state)
{
	struct world *w = *state;
	char payload[sizeof(struct cs_wire_freeze)];
	int fd = hello_ready(w);

	assert_int_equal(cs_agent_freeze(w->agent, 0), 0);
	get(fd, CS_WIRE_FREEZE, payload, sizeof(payload));
	put_u32(fd, CS_WIRE_FROZEN, EIO);
	assert_frozen(w, 1, -EIO);
	/* It has thawed by itself. */
	assert_int_equal(cs_agent_thaw(w->agent), 0);
	assert_silent(fd);
	assert_int_equal(cs_agent_freeze(w->agent, 0), 0);
	get(fd, CS_WIRE_FREEZE, payload, sizeof(payload));
	close(fd);
	assert_frozen(w, 2, -ENOTCONN);
	assert_int_equal(w->lost, 1);
}

/* Not wanted any more: the answer comes all the same, and is nobody's. */
static void test_freeze_dropped(void **state)
{
	struct world *w = *state;
	char payload[sizeof(struct cs_wire_freeze)];
	int fd = hello_ready(w);

	assert_int_equal(cs_agent_freeze(w->agent, 0), 0);
	assert_int_equal(cs_agent_thaw(w->agent), 0);
	assert_int_equal(cs_agent_freeze(w->agent, 0), -EBUSY);
	get(fd, CS_WIRE_FREEZE, payload, sizeof(payload));
	get(fd, CS_WIRE_THAW, payload, sizeof(payload));
	put_u32(fd, CS_WIRE_FROZEN, 0);
	assert_frozen(w, 0, 0);
	assert_silent(fd);
	assert_int_equal(cs_agent_freeze(w->agent, 0), 0);
	get(fd, CS_WIRE_FREEZE, payload, sizeof(payload));
	put_u32(fd, CS_WIRE_FROZEN, 0);
	assert_frozen(w, 1, 0);
	close(fd);
}

/* A stop that comes while the guest is frozen must not get into the picture. */
static void test_freeze_then_stop(void **state)
{
	struct world *w = *state;
	char payload[sizeof(struct cs_wire_freeze)];
	int fd = hello_ready(w);

	assert_int_equal(cs_agent_freeze(w->agent, 0), 0);
	get(fd, CS_WIRE_FREEZE, payload, sizeof(payload));
	put_u32(fd, CS_WIRE_FROZEN, 0);
	assert_frozen(w, 1, 0);
	assert_int_equal(cs_agent_stop(w->agent, CS_WIRE_POWEROFF, 5), 0);
	settle(w->loop);
	assert_silent(fd);
	assert_int_equal(cs_agent_thaw(w->agent), 0);
	get(fd, CS_WIRE_THAW, payload, sizeof(payload));
	get(fd, CS_WIRE_STOP, payload, sizeof(payload));
	assert_int_equal(cs_agent_freeze(w->agent, 0), -EBUSY);
	close(fd);
}

/* A stop that comes first wins, also when the two cross on the way. */
static void test_stop_crosses_frozen(void **state)
{
	struct world *w = *state;
	char payload[sizeof(struct cs_wire_freeze)];
	int fd = hello_ready(w);

	assert_int_equal(cs_agent_freeze(w->agent, 0), 0);
	assert_int_equal(cs_agent_stop(w->agent, CS_WIRE_POWEROFF, 5), 0);
	get(fd, CS_WIRE_FREEZE, payload, sizeof(payload));
	get(fd, CS_WIRE_STOP, payload, sizeof(payload));
	put_u32(fd, CS_WIRE_FROZEN, 0);
	assert_frozen(w, 1, -ECANCELED);
	put_u32(fd, CS_WIRE_BYE, CS_WIRE_POWEROFF);
	settle(w->loop);
	assert_int_equal(w->byes, 1);
	close(fd);
}

/* The device has been reset under a guest that was frozen, and the agent comes again. */
static void test_wake(void **state)
{
	struct world *w = *state;
	char payload[sizeof(struct cs_wire_freeze)];
	int fd = hello_ready(w);

	assert_int_equal(cs_agent_freeze(w->agent, 0), 0);
	get(fd, CS_WIRE_FREEZE, payload, sizeof(payload));
	put_u32(fd, CS_WIRE_FROZEN, 0);
	assert_frozen(w, 1, 0);
	close(fd);
	settle(w->loop);
	assert_int_equal(w->lost, 1);
	assert_int_equal(w->frozen, 1);
	assert_int_equal(cs_agent_thaw(w->agent), -ENOTCONN);
	fd = hello(w);
	assert_silent(fd);
	put(fd, CS_WIRE_READY, NULL, 0);
	settle(w->loop);
	assert_int_equal(w->ready, 2);
	assert_int_equal(cs_agent_freeze(w->agent, 0), 0);
	get(fd, CS_WIRE_FREEZE, payload, sizeof(payload));
	close(fd);
}

/* Or the connection lives on: then the first word is the monitor's. */
static void test_resume(void **state)
{
	struct world *w = *state;
	char payload[CS_WIRE_MAX];
	struct cs_wire_config fixed[2];
	int fd = cs_agent_resume(w->agent);

	assert_true(fd >= 0);
	assert_int_equal(cs_agent_resume(w->agent), -1);
	assert_int_equal(cs_agent_serve(w->agent, CS_WIRE_CONTROL_PORT), -1);
	settle(w->loop);
	assert_silent(fd); /* until it is its turn */
	cs_agent_wake(w->agent);
	cs_agent_wake(w->agent);
	get(fd, CS_WIRE_CONFIG, payload, sizeof(payload));
	memcpy(&fixed[0], payload, sizeof(fixed[0]));
	assert_int_equal(cs_agent_freeze(w->agent, 0), -ENOTCONN);
	assert_int_equal(cs_agent_stop(w->agent, CS_WIRE_POWEROFF, 5), 0);
	get(fd, CS_WIRE_STOP, payload, sizeof(payload));
	put(fd, CS_WIRE_READY, NULL, 0);
	settle(w->loop);
	assert_int_equal(w->ready, 1);
	close(fd);
	settle(w->loop);
	assert_int_equal(w->lost, 1);

	/* Each time another seed, and other ids. Who is told to stop is told first who it is. */
	fd = cs_agent_resume(w->agent);
	assert_int_equal(cs_agent_stop(w->agent, CS_WIRE_POWEROFF, 5), 0);
	assert_int_equal(get(fd, CS_WIRE_CONFIG, payload, sizeof(payload)),
			 sizeof(fixed[1]) + sizeof("web\0\3\0\0\0sh\0-c\0exit 7\0\1\0\0\0A=1"));
	memcpy(&fixed[1], payload, sizeof(fixed[1]));
	assert_memory_not_equal(fixed[0].seed, fixed[1].seed, sizeof(fixed[0].seed));
	assert_memory_not_equal(fixed[0].boot_id, fixed[1].boot_id, 16);
	assert_memory_not_equal(fixed[0].machine_id, fixed[1].machine_id, 16);
	get(fd, CS_WIRE_STOP, payload, sizeof(payload));
	close(fd);
}

/* An agent of version 1 gets the CONFIG that it knows; one of version 4 the FREEZE. */
static void test_older(void **state)
{
	struct world *w = *state;
	static const char strings[] = "web\0\3\0\0\0sh\0-c\0exit 7\0\1\0\0\0A=1";
	char payload[CS_WIRE_MAX];
	int fd = cs_agent_serve(w->agent, CS_WIRE_CONTROL_PORT);

	put_u32(fd, CS_WIRE_HELLO, 1);
	settle(w->loop);
	assert_int_equal(get(fd, CS_WIRE_CONFIG, payload, sizeof(payload)), 48 + sizeof(strings));
	assert_memory_equal(payload + 48, strings, sizeof(strings));
	close(fd);
	settle(w->loop);

	fd = hello_version(w, 4);
	put(fd, CS_WIRE_READY, NULL, 0);
	settle(w->loop);
	assert_int_equal(cs_agent_freeze(w->agent, 1), 0);
	assert_int_equal(get(fd, CS_WIRE_FREEZE, payload, sizeof(payload)), 4);
	assert_memory_equal(payload, "\1\0\0\0", 4);
	close(fd);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, open_world, close_world)
	const struct CMUnitTest tests[] = {
		TEST(freeze),         TEST(freeze_refused),   TEST(freeze_fails),
		TEST(freeze_dropped), TEST(freeze_then_stop), TEST(stop_crosses_frozen),
		TEST(wake),           TEST(resume),           TEST(older),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
