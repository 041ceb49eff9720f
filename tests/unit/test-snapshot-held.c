/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Saves that wait for what the guest still has to report, and those that leave the machine
 * standing. */
#include "tests/unit/snapshot-world.h"

#define REPORTING 2
#define RING      32

struct reporter {
	struct world w;
	struct fake_queue q[3];
};

static void open_reporter(struct reporter *r)
{
	struct cs_virtio *dev = NULL;

	memset(&played, 0, sizeof(played));
	fake_open(&r->w.guest);
	assert_int_equal(cs_virtio_balloon_create(&dev, NULL), 0);
	fake_plug(&r->w.guest, dev);
	fill_machine(&r->w);
	r->w.machine.balloon = dev;
	fake_features(&r->w.guest, UINT64_MAX);
	for (unsigned i = 0; i < 3; i++)
		fake_queue(&r->w.guest, i, RING, &r->q[i]);
	fake_driver_ok(&r->w.guest);
	fake_settle(&r->w.guest);
	r->w.memory = memfd_create("memory", MFD_CLOEXEC);
	r->w.state = memfd_create("state", MFD_CLOEXEC);
	r->w.clone = memfd_create("disk", MFD_CLOEXEC);
}

static void close_reporter(struct reporter *r)
{
	cs_snapshot_free(r->w.machine.snapshot);
	close(r->w.machine.pagemap_fd);
	fake_close(&r->w.guest);
	close(r->w.memory);
	close(r->w.state);
	close(r->w.clone);
}

/* Let (ms) pass in the loop, a hundredth of what the monitor takes them for. */
static void pass(struct world *w, unsigned ms)
{
	for (unsigned i = 0; i < ms; i++) {
		fake_settle(&w->guest);
		usleep(1000);
	}
}

static void test_waits_for_reports(void **state)
{
	const struct fake_buf page = { FAKE_SEG_BYTES + 8 * PAGE, PAGE, true };
	struct reporter r = { 0 };
	struct cs_err err;
	uint32_t id, len;

	open_reporter(&r);
	assert_int_equal(begin(&r.w, "drop", 2, &err), 0);
	cs_snapshot_frozen(&r.w.machine, 0);
	for (unsigned i = 0; i < 4; i++) {
		pass(&r.w, 15);
		assert_int_equal(played.thawed, 0); /* it is not taken yet */
		fake_send(&r.q[REPORTING], &page, 1);
		fake_kick(&r.q[REPORTING]);
		fake_settle(&r.w.guest);
		assert_true(fake_take(&r.q[REPORTING], &id, &len));
	}
	finish(&r.w);
	assert_int_equal(played.answers, 1);
	assert_int_equal(played.why.code, 0);
	assert_int_equal(played.thawed, 1);

	/* Without the word nobody waits. */
	memset(&played, 0, sizeof(played));
	assert_int_equal(begin(&r.w, "sync", 2, &err), 0);
	cs_snapshot_frozen(&r.w.machine, 0);
	assert_int_equal(played.thawed, 1);
	finish(&r.w);
	close_reporter(&r);
}

/* Nobody wants it any more, the agent goes, or the guest reports for ever. */
static void test_waits_in_vain(void **state)
{
	const struct fake_buf page = { FAKE_SEG_BYTES + 8 * PAGE, PAGE, true };
	struct reporter r = { 0 };
	struct cs_err err;
	uint32_t id, len;

	open_reporter(&r);
	assert_int_equal(begin(&r.w, "drop", 2, &err), 0);
	cs_snapshot_frozen(&r.w.machine, 0);
	cs_snapshot_gone(&r.w.machine);
	assert_null(r.w.machine.snapshot);
	assert_int_equal(played.thawed, 1);
	pass(&r.w, 20);

	assert_int_equal(begin(&r.w, "drop", 2, &err), 0);
	cs_snapshot_frozen(&r.w.machine, 0);
	played.lost = true;
	finish(&r.w);
	assert_int_equal(played.why.code, ENOTCONN);
	assert_int_equal(played.thawed, 2);

	memset(&played, 0, sizeof(played));
	assert_int_equal(begin(&r.w, "drop", 2, &err), 0);
	cs_snapshot_frozen(&r.w.machine, 0);
	for (unsigned i = 0; i < 3000 && r.w.machine.snapshot; i++) {
		fake_send(&r.q[REPORTING], &page, 1);
		fake_kick(&r.q[REPORTING]);
		pass(&r.w, 1);
		fake_take(&r.q[REPORTING], &id, &len);
	}
	assert_null(r.w.machine.snapshot);
	assert_int_equal(played.why.code, 0);
	close_reporter(&r);
}

/* ---- to park */

static void hold(struct world *w)
{
	struct cs_err err;

	/* The third is the ticket. */
	assert_int_equal(pwrite(w->clone, "1\n", 2, 0), 2);
	assert_int_equal(begin(w, "park sync", 3, &err), 0);
	cs_snapshot_frozen(&w->machine, 0);
	for (int i = 0; i < 10000 && !played.answers; i++) {
		fake_settle(&w->guest);
		usleep(1000);
	}
	assert_int_equal(played.answers, 1);
}

static off_t size_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return st.st_size;
}

/* All is written, and the machine stands still, for as long as the client likes. */
static void test_park(void **state)
{
	struct world *w = *state;

	hold(w);
	assert_int_equal(played.why.code, 0);
	assert_true(played.held);
	assert_non_null(strstr(played.text, " bytes=8192"));
	assert_true(w->machine.parking);
	assert_int_equal(played.thawed, 0);
	assert_int_equal(played.clones, 0);
	assert_true(size_of(w->memory) < 5 * (off_t)PAGE); /* of it only what there is */
	assert_true(size_of(w->state) > 0);
	assert_int_equal(size_of(w->clone), 2);
	fake_settle(&w->guest);
	assert_int_equal(played.answers, 1);
	/* It is told to end: the ticket stays good. */
	w->machine.ended = true;
	cs_snapshot_gone(&w->machine);
	assert_null(w->machine.snapshot);
	assert_int_equal(size_of(w->clone), 2);
}

/* The client goes away instead: the ticket is void before anything runs. */
static void test_park_given_up(void **state)
{
	struct world *w = *state;

	hold(w);
	cs_snapshot_gone(&w->machine);
	assert_null(w->machine.snapshot);
	assert_int_equal(size_of(w->clone), 0);
	assert_false(w->machine.parking);
	assert_int_equal(played.thawed, 1);
	/* And again. */
	memset(&played, 0, sizeof(played));
	hold(w);
	cs_snapshot_gone(&w->machine);
	assert_int_equal(played.thawed, 1);
}

/* The same while it is written, or when the writer fails. */
static void test_park_fails(void **state)
{
	struct world *w = *state;
	struct cs_err err;

	assert_int_equal(fcntl(w->memory, F_ADD_SEALS, F_SEAL_GROW), 0);
	hold(w);
	assert_int_equal(played.why.code, EPERM);
	assert_false(played.held);
	assert_null(w->machine.snapshot);
	assert_false(w->machine.parking);
	assert_int_equal(played.thawed, 1);
	assert_int_equal(size_of(w->clone), 0);

	memset(&played, 0, sizeof(played));
	assert_int_equal(begin(w, "park", 3, &err), 0);
	cs_snapshot_frozen(&w->machine, 0);
	assert_true(w->machine.parking);
	cs_snapshot_gone(&w->machine);
	finish(w);
	assert_false(w->machine.parking);
	assert_int_equal(played.thawed, 1);
	assert_int_equal(played.answers, 0);

	/* It could not be frozen: it never stood still. */
	memset(&played, 0, sizeof(played));
	assert_int_equal(begin(w, "park", 3, &err), 0);
	cs_snapshot_frozen(&w->machine, -ETIMEDOUT);
	assert_int_equal(played.why.code, ETIMEDOUT);
	assert_false(w->machine.parking);
	assert_int_equal(begin(w, "park", 2, &err), -EINVAL); /* without a ticket */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_waits_for_reports),
		cmocka_unit_test(test_waits_in_vain),
		cmocka_unit_test_setup_teardown(test_park, setup, teardown),
		cmocka_unit_test_setup_teardown(test_park_given_up, setup, teardown),
		cmocka_unit_test_setup_teardown(test_park_fails, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
