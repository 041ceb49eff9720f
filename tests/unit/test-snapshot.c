/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The course of a save: what it asks for, what it answers, what it leaves. */
#include "tests/unit/snapshot-world.h"

static void save(struct world *w, size_t n)
{
	struct cs_err err;

	assert_int_equal(begin(w, "", n, &err), 0);
	cs_snapshot_frozen(&w->machine, 0);
	assert_false(w->machine.parking);
	assert_int_equal(played.thawed, 1);
	finish(w);
	assert_int_equal(played.answers, 1);
}

static int byte_at(int fd, uint64_t offset)
{
	unsigned char byte = 0;

	assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
	return byte;
}

/* ---- a save */

static void test_save(void **state)
{
	struct world *w = *state;
	struct stat st;
	void *data;
	struct cs_err err = { 0 };

	save(w, 2);
	assert_int_equal(played.why.code, 0);
	assert_non_null(strstr(played.text, "pause_us="));
	assert_non_null(strstr(played.text, " bytes=8192"));
	assert_int_equal(fstat(w->memory, &st), 0);
	assert_int_equal(st.st_size, 2 * FAKE_SEG_BYTES);
	assert_int_equal(byte_at(w->memory, 0), 'a');
	assert_int_equal(byte_at(w->memory, PAGE), 0);
	assert_int_equal(byte_at(w->memory, FAKE_SEG_BYTES + PAGE), 'b');

	assert_int_equal(fstat(w->state, &st), 0);
	data = malloc((size_t)st.st_size);
	assert_int_equal(pread(w->state, data, (size_t)st.st_size, 0), st.st_size);
	assert_int_equal(cs_machine_load(&w->machine, data, (size_t)st.st_size, &err), 0);
	free(data);

	/* And again: into files that hold the last one, of a machine that went on. */
	memset(fake_at(&w->guest, 0), 0, PAGE);
	memset(&played, 0, sizeof(played));
	save(w, 2);
	assert_int_equal(played.why.code, 0);
	assert_int_equal(byte_at(w->memory, 0), 0);
}

static void test_words(void **state)
{
	struct world *w = *state;
	struct cs_err err;

	assert_int_equal(begin(w, "sync", 2, &err), 0);
	assert_int_equal(played.flags, CS_WIRE_FREEZE_SYNC);
	cs_snapshot_gone(&w->machine);
	assert_int_equal(begin(w, "drop  sync", 2, &err), 0);
	assert_int_equal(played.flags, CS_WIRE_FREEZE_SYNC | CS_WIRE_FREEZE_DROP);
	cs_snapshot_gone(&w->machine);
	assert_int_equal(begin(w, "drops", 2, &err), -EINVAL);
	assert_int_equal(begin(w, "drop sunk", 2, &err), -EINVAL);
	assert_int_equal(played.frozen, 2);
}

static void test_refusals(void **state)
{
	struct world *w = *state;
	struct cs_err err;
	int read_only;

	assert_int_equal(begin(w, "", 0, &err), -EINVAL);
	assert_int_equal(begin(w, "", 3, &err), -EINVAL); /* it has no disk */
	close(w->state);
	read_only = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	w->state = read_only;
	assert_int_equal(begin(w, "", 2, &err), -EINVAL);
	close(w->state);
	w->state = open("/dev/null", O_RDWR | O_CLOEXEC);
	assert_int_equal(begin(w, "", 2, &err), -EINVAL);
	close(w->state);
	w->state = memfd_create("state", MFD_CLOEXEC);

	w->machine.paused = true;
	assert_int_equal(begin(w, "", 2, &err), -EBUSY);
	w->machine.paused = false;
	assert_int_equal(played.frozen, 0);
	played.freeze = -ENOTCONN;
	assert_int_equal(begin(w, "", 2, &err), -ENOTCONN);
	played.freeze = -EOPNOTSUPP;
	assert_int_equal(begin(w, "", 2, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "too old"));
	played.freeze = 0;
	assert_int_equal(begin(w, "", 2, &err), 0);
	assert_int_equal(begin(w, "", 2, &err), -EBUSY);
	assert_non_null(strstr(err.text, "already"));
	cs_snapshot_gone(&w->machine);
	assert_int_equal(played.answers, 0);
}

static void test_not_frozen(void **state)
{
	struct world *w = *state;
	struct cs_err err;

	cs_snapshot_frozen(&w->machine, 0); /* nobody asked */
	assert_int_equal(begin(w, "", 2, &err), 0);
	cs_snapshot_frozen(&w->machine, -ETIMEDOUT);
	assert_null(w->machine.snapshot);
	assert_int_equal(played.answers, 1);
	assert_int_equal(played.why.code, ETIMEDOUT);
	assert_non_null(strstr(played.why.text, "cannot be frozen"));

	/* The machine ends in between. */
	assert_int_equal(begin(w, "", 2, &err), 0);
	w->machine.ended = true;
	cs_snapshot_frozen(&w->machine, 0);
	assert_int_equal(played.why.code, ECANCELED);
	finish(w);
}

static void test_client_leaves(void **state)
{
	struct world *w = *state;
	struct cs_err err;

	cs_snapshot_gone(&w->machine);
	assert_int_equal(begin(w, "", 2, &err), 0);
	cs_snapshot_gone(&w->machine);
	assert_null(w->machine.snapshot);
	assert_int_equal(played.thawed, 1);
	cs_snapshot_frozen(&w->machine, 0); /* it was on its way */
	assert_null(w->machine.snapshot);

	played.wait = true;
	assert_int_equal(begin(w, "", 2, &err), 0);
	cs_snapshot_frozen(&w->machine, 0);
	assert_int_equal(begin(w, "", 2, &err), -EBUSY);
	cs_snapshot_gone(&w->machine);
	finish(w);
	assert_int_equal(played.answers, 0);
}

static void test_writer_fails(void **state)
{
	struct world *w = *state;

	played.die = true;
	save(w, 2);
	assert_int_equal(played.why.code, EIO);
	assert_non_null(strstr(played.why.text, "was killed"));

	memset(&played, 0, sizeof(played));
	assert_int_equal(fcntl(w->memory, F_ADD_SEALS, F_SEAL_GROW), 0);
	save(w, 2);
	assert_int_equal(played.why.code, EPERM);
	assert_non_null(strstr(played.why.text, "cannot save its memory"));
}

static void test_disk(void **state)
{
	struct world *w = *state;

	w->disk = (struct cs_disk){ .fd = w->clone, .bytes = 1 << 20 };
	w->machine.spec.disk = &w->disk;
	save(w, 3);
	assert_int_equal(played.why.code, 0);
	assert_int_equal(played.clones, 1);

	memset(&played, 0, sizeof(played));
	played.ficlone = EOPNOTSUPP;
	save(w, 3);
	assert_int_equal(played.why.code, EOPNOTSUPP);
	assert_non_null(strstr(played.why.text, "no reflinks"));
}

/* The monitor ends, and the writer with it. */
static void test_machine_ends(void **state)
{
	struct world *w = *state;
	struct cs_err err;

	played.wait = true;
	assert_int_equal(begin(w, "", 2, &err), 0);
	cs_snapshot_frozen(&w->machine, 0);
	w->machine.snapshot = cs_snapshot_free(w->machine.snapshot);
	assert_true(waitpid(-1, NULL, 0) > 0);
	assert_int_equal(played.answers, 0);
}

/* ---- a guest that still reports free pages */

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_save, setup, teardown),
		cmocka_unit_test_setup_teardown(test_words, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
		cmocka_unit_test_setup_teardown(test_not_frozen, setup, teardown),
		cmocka_unit_test_setup_teardown(test_client_leaves, setup, teardown),
		cmocka_unit_test_setup_teardown(test_writer_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(test_disk, setup, teardown),
		cmocka_unit_test_setup_teardown(test_machine_ends, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
