/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The monitor's end of the control connection, against agents that are honest, slow, mad. */
#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/agent-world.h"

/* ---- honest */

static void test_life(void **state)
{
	struct world *w = *state;
	static const char strings[] = "web\0\3\0\0\0sh\0-c\0exit 7\0\1\0\0\0A=1";
	char payload[CS_WIRE_MAX];
	struct cs_wire_config fixed;
	int fd = cs_agent_serve(w->agent, CS_WIRE_CONTROL_PORT);
	uint32_t bytes;

	settle(w->loop);
	assert_silent(fd);
	put_u32(fd, CS_WIRE_HELLO, CS_WIRE_VERSION);
	settle(w->loop);
	bytes = get(fd, CS_WIRE_CONFIG, payload, sizeof(payload));
	assert_int_equal(bytes, sizeof(fixed) + sizeof(strings));
	memcpy(&fixed, payload, sizeof(fixed));
	assert_memory_equal(payload + sizeof(fixed), strings, sizeof(strings));
	assert_int_equal(le32toh(fixed.flags), CS_WIRE_CONFIG_PERSIST);
	assert_int_equal(fixed.reserved, 0);
	assert_true(le64toh(fixed.realtime_ns) / UINT64_C(1000000000) + 3600 >
		    (uint64_t)time(NULL));
	assert_int_equal(le64toh(fixed.clock_ns), UINT64_C(12345678901));
	assert_false(cs_agent_is_ready(w->agent));

	put(fd, CS_WIRE_READY, NULL, 0);
	settle(w->loop);
	assert_int_equal(w->ready, 1);
	assert_true(cs_agent_is_ready(w->agent));
	put_u32(fd, CS_WIRE_EXITED, 7);
	settle(w->loop);
	assert_int_equal(w->exited, 1);
	assert_int_equal(w->status, 7);
	assert_true(cs_agent_is_ready(w->agent));

	assert_int_equal(cs_agent_stop(w->agent, CS_WIRE_REBOOT, 1500), 0);
	settle(w->loop);
	assert_int_equal(get(fd, CS_WIRE_STOP, payload, sizeof(payload)), 8);
	assert_memory_equal(payload, "\1\0\0\0\xdc\5\0\0", 8);
	put_u32(fd, CS_WIRE_BYE, CS_WIRE_REBOOT);
	close(fd);
	settle(w->loop);
	assert_int_equal(w->byes, 1);
	assert_int_equal(w->reason, CS_WIRE_REBOOT);
	assert_int_equal(w->lost, 0); /* that was expected */
	assert_false(cs_agent_is_ready(w->agent));
}

/* An older agent gets what it knows, and nothing behind it. */
static void test_older_config(void **state)
{
	static const struct {
		uint32_t version, bytes;
	} cases[] = { { 1, 48 }, { 2, 80 }, { 3, 80 }, { 4, 88 } };
	static const char strings[] = "web\0\3\0\0\0sh\0-c\0exit 7\0\1\0\0\0A=1";
	struct world *w = *state;
	char payload[CS_WIRE_MAX];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int fd = cs_agent_serve(w->agent, CS_WIRE_CONTROL_PORT);

		put_u32(fd, CS_WIRE_HELLO, cases[i].version);
		settle(w->loop);
		assert_int_equal(get(fd, CS_WIRE_CONFIG, payload, sizeof(payload)),
				 cases[i].bytes + sizeof(strings));
		assert_memory_equal(payload + cases[i].bytes, strings, sizeof(strings));
		close(fd);
		settle(w->loop);
	}
}

static void test_seed_is_fresh(void **state)
{
	struct world *w = *state;
	struct cs_wire_config fixed[2];
	char payload[CS_WIRE_MAX];

	for (int i = 0; i < 2; i++) {
		int fd = cs_agent_serve(w->agent, CS_WIRE_CONTROL_PORT);

		put_u32(fd, CS_WIRE_HELLO, CS_WIRE_VERSION);
		settle(w->loop);
		get(fd, CS_WIRE_CONFIG, payload, sizeof(payload));
		memcpy(&fixed[i], payload, sizeof(fixed[i]));
		close(fd);
		settle(w->loop);
	}
	assert_int_equal(w->lost, 2);
	assert_memory_not_equal(fixed[0].seed, fixed[1].seed, sizeof(fixed[0].seed));
}

/* Bytes come as they like. */
static void test_in_pieces(void **state)
{
	struct world *w = *state;
	int fd = hello(w);

	for (const char *at = "\3\0\0\0\0\0\0\0", *end = at + 8; at < end; at++) {
		assert_int_equal(send(fd, at, 1, 0), 1);
		settle(w->loop);
	}
	assert_int_equal(w->ready, 1);
	for (const char *at = "\7\0\0\0\6\0\0\0disk\n", *end = at + 14; at < end; at++) {
		assert_int_equal(w->troubles, 0);
		assert_int_equal(send(fd, at, 1, 0), 1);
		settle(w->loop);
	}
	assert_int_equal(w->troubles, 1);
	assert_string_equal(w->trouble, "disk ");
	/* Two at once. */
	assert_int_equal(send(fd, "\4\0\0\0\4\0\0\0\3\0\0\0\6\0\0\0\4\0\0\0\0\0\0\0", 24, 0), 24);
	settle(w->loop);
	assert_int_equal(w->status, 3);
	assert_int_equal(w->byes, 1);
	close(fd);
}

static void test_one_at_a_time(void **state)
{
	struct world *w = *state;
	int fd;

	assert_int_equal(cs_agent_serve(w->agent, CS_WIRE_CONTROL_PORT + 1), -1);
	fd = hello(w);
	assert_int_equal(cs_agent_serve(w->agent, CS_WIRE_CONTROL_PORT), -1);
	put(fd, CS_WIRE_READY, NULL, 0);
	settle(w->loop);
	/* The guest reboots: its end is closed, and the new one comes before the loop has noticed.
	 */
	close(fd);
	fd = hello(w);
	assert_int_equal(w->lost, 1);
	put(fd, CS_WIRE_READY, NULL, 0);
	settle(w->loop);
	assert_int_equal(w->ready, 2);
	close(fd);
	settle(w->loop);
	assert_int_equal(w->lost, 2);
}

static void test_stop_before_hello(void **state)
{
	struct world *w = *state;
	char payload[8];
	int fd;

	assert_int_equal(cs_agent_stop(w->agent, CS_WIRE_REBOOT, 1), -EAGAIN);
	assert_int_equal(cs_agent_stop(w->agent, CS_WIRE_POWEROFF, 2), -EAGAIN);
	fd = hello(w);
	get(fd, CS_WIRE_STOP, payload, sizeof(payload));
	assert_memory_equal(payload, "\0\0\0\0\2\0\0\0", 8);
	assert_silent(fd);
	close(fd);
}

/* An agent that reads nothing: stops do not pile up. */
static void test_stop_flood(void **state)
{
	struct world *w = *state;
	char payload[8];
	uint32_t last = 0;
	int fd = hello(w);
	struct cs_wire_head head;

	for (uint32_t i = 0; i < 100000; i++)
		assert_int_equal(cs_agent_stop(w->agent, CS_WIRE_POWEROFF, i), 0);
	settle(w->loop);
	while (recv(fd, &head, sizeof(head), MSG_DONTWAIT) == sizeof(head)) {
		assert_int_equal(recv(fd, payload, 8, MSG_DONTWAIT), 8);
		memcpy(&last, payload + 4, sizeof(last));
		settle(w->loop);
	}
	assert_int_equal(le32toh(last), 99999);
	close(fd);
}

/* ---- mad */

static void test_wrong_version(void **state)
{
	struct world *w = *state;
	int fd = cs_agent_serve(w->agent, CS_WIRE_CONTROL_PORT);

	put_u32(fd, CS_WIRE_HELLO, 99);
	settle(w->loop);
	assert_cut_off(fd);
	assert_int_equal(w->troubles, 1);
	assert_non_null(strstr(w->trouble, "version 99"));
	assert_int_equal(w->lost, 1);
}

struct bad {
	unsigned after; /* 0: nothing, 1: HELLO, 2: READY, 3: EXITED, 4: FREEZE, 5: FROZEN */
	uint32_t type, bytes;
	uint32_t value;
};

static void test_bad_messages(void **state)
{
	static const struct bad bads[] = {
		{ 0, CS_WIRE_READY, 0, 0 },
		{ 0, CS_WIRE_TROUBLE, 4, 0 },
		{ 0, CS_WIRE_BYE, 4, 0 },
		{ 0, CS_WIRE_HELLO, 3, 1 },
		{ 0, CS_WIRE_HELLO, 8, 1 },
		{ 0, 0, 0, 0 },
		{ 1, CS_WIRE_HELLO, 4, 1 },
		{ 1, CS_WIRE_EXITED, 4, 0 },
		{ 1, CS_WIRE_READY, 4, 0 },
		{ 1, CS_WIRE_CONFIG, 4, 0 },
		{ 1, CS_WIRE_STOP, 8, 0 },
		{ 1, CS_WIRE_BYE, 4, 2 },
		{ 1, CS_WIRE_BYE, 0, 0 },
		{ 1, CS_WIRE_TROUBLE, 0, 0 },
		{ 1, CS_WIRE_TROUBLE, CS_WIRE_MAX + 1, 0 },
		{ 1, CS_WIRE_TROUBLE, UINT32_MAX, 0 },
		{ 1, 1u << 31, 4, 0 },
		{ 2, CS_WIRE_READY, 0, 0 },
		{ 2, CS_WIRE_EXITED, 4, 256 },
		{ 2, CS_WIRE_EXITED, 4, UINT32_MAX },
		{ 2, CS_WIRE_PING, 0, 0 },
		{ 3, CS_WIRE_EXITED, 4, 0 },
		{ 0, CS_WIRE_FROZEN, 4, 0 },
		{ 1, CS_WIRE_FROZEN, 4, 0 },
		{ 2, CS_WIRE_FROZEN, 4, 0 },
		{ 2, CS_WIRE_FREEZE, 4, 0 },
		{ 2, CS_WIRE_THAW, 0, 0 },
		{ 4, CS_WIRE_FROZEN, 4, 4096 },
		{ 4, CS_WIRE_FROZEN, 4, UINT32_MAX },
		{ 4, CS_WIRE_FROZEN, 0, 0 },
		{ 5, CS_WIRE_FROZEN, 4, 0 },
	};
	struct world *w = *state;

	for (size_t i = 0; i < sizeof(bads) / sizeof(bads[0]); i++) {
		const struct bad *bad = &bads[i];
		const uint32_t message[4] = { htole32(bad->type), htole32(bad->bytes),
					      htole32(bad->value), 0 };
		const unsigned lost = w->lost;
		int fd = bad->after ? hello(w) : cs_agent_serve(w->agent, CS_WIRE_CONTROL_PORT);

		if (bad->after >= 2)
			put(fd, CS_WIRE_READY, NULL, 0);
		if (bad->after == 3)
			put_u32(fd, CS_WIRE_EXITED, 0);
		settle(w->loop);
		if (bad->after >= 4)
			assert_int_equal(cs_agent_freeze(w->agent, 0), 0);
		if (bad->after >= 5)
			put_u32(fd, CS_WIRE_FROZEN, 0);
		assert_int_equal(send(fd, message, sizeof(message), 0), sizeof(message));
		settle(w->loop);
		assert_int_equal(w->lost, lost + 1);
		assert_cut_off(fd);
	}
	assert_int_equal(w->byes, 0);
}

static void test_long_trouble(void **state)
{
	struct world *w = *state;
	static char text[CS_WIRE_MAX];
	int fd = hello(w);

	memset(text, 'x', sizeof(text));
	memcpy(text, "\33[2J\xff", 5);
	put(fd, CS_WIRE_TROUBLE, text, sizeof(text));
	settle(w->loop);
	assert_int_equal(w->troubles, 1);
	assert_int_equal(strlen(w->trouble), CS_AGENT_TROUBLE - 1);
	assert_memory_equal(w->trouble, "?[2J?xx", 7);
	/* Behind it the stream goes on as usual. */
	put(fd, CS_WIRE_READY, NULL, 0);
	settle(w->loop);
	assert_int_equal(w->ready, 1);
	close(fd);
}

static void test_trouble_flood(void **state)
{
	struct world *w = *state;

	for (int reboot = 0; reboot < 3; reboot++) {
		int fd = hello(w);

		for (int i = 0; i < 100; i++) {
			put(fd, CS_WIRE_TROUBLE, "help", 5);
			settle(w->loop);
		}
		put(fd, CS_WIRE_READY, NULL, 0);
		settle(w->loop);
		close(fd);
	}
	settle(w->loop);
	assert_int_equal(w->ready, 3);
	assert_int_equal(w->troubles, CS_AGENT_TROUBLES);
}

static void test_too_long_command(void **state)
{
	struct world *w = *state;
	static char huge[CS_WIRE_MAX];
	char *const argv[] = { huge, NULL };
	const struct cs_machine_agent big = { .hostname = "web", .command = argv };
	const struct cs_agent_spec spec = { .config = &big, .events = &events, .arg = w };
	struct cs_agent *agent = NULL;
	struct cs_err err = { 0 };

	memset(huge, 'a', sizeof(huge) - 1);
	assert_int_equal(cs_agent_create(&spec, w->loop, &agent, &err), -E2BIG);
	assert_null(agent);
}

static void test_ping(void **state)
{
	struct world *w = *state;
	char payload[64];
	int fd = hello(w);

	assert_int_equal(cs_agent_ping(w->agent), -ENOTCONN);
	put(fd, CS_WIRE_READY, NULL, 0);
	settle(w->loop);
	for (unsigned i = 1; i <= 2; i++) {
		assert_int_equal(cs_agent_ping(w->agent), 0);
		assert_int_equal(cs_agent_ping(w->agent), -EBUSY);
		settle(w->loop);
		assert_int_equal(get(fd, CS_WIRE_PING, payload, sizeof(payload)), 0);
		assert_silent(fd);
		put(fd, CS_WIRE_PONG, NULL, 0);
		settle(w->loop);
		assert_int_equal(w->pongs, i);
	}
	/* It answers what nobody has asked. */
	put(fd, CS_WIRE_PONG, NULL, 0);
	settle(w->loop);
	assert_int_equal(w->pongs, 2);
	assert_int_equal(w->lost, 1);
	assert_cut_off(fd);

	/* One that is lost meanwhile does not count for the next. */
	fd = hello_ready(w);
	assert_int_equal(cs_agent_ping(w->agent), 0);
	settle(w->loop);
	close(fd);
	settle(w->loop);
	fd = hello_ready(w);
	assert_int_equal(cs_agent_ping(w->agent), 0);
	close(fd);
	settle(w->loop);

	fd = hello_version(w, 2);
	put(fd, CS_WIRE_READY, NULL, 0);
	settle(w->loop);
	assert_int_equal(cs_agent_ping(w->agent), -EOPNOTSUPP);
	close(fd);
	settle(w->loop);

	/* What was saved with an older agent goes on with it. */
	cs_agent_expect(w->agent, 2);
	fd = cs_agent_resume(w->agent);
	assert_int_equal(cs_agent_version(w->agent), 2);
	put(fd, CS_WIRE_READY, NULL, 0);
	settle(w->loop);
	assert_int_equal(cs_agent_ping(w->agent), -EOPNOTSUPP);
	close(fd);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, open_world, close_world)
	const struct CMUnitTest tests[] = {
		TEST(life),         TEST(older_config),  TEST(seed_is_fresh),
		TEST(in_pieces),    TEST(one_at_a_time), TEST(stop_before_hello),
		TEST(stop_flood),   TEST(wrong_version), TEST(bad_messages),
		TEST(long_trouble), TEST(trouble_flood), TEST(too_long_command),
		TEST(ping),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
