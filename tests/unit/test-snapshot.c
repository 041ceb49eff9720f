/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The course of a save: what it asks for, what it answers, what it leaves. The machine has memory,
 * a device and no vCPUs; agent and control socket are played, KVM agrees to everything (wrapped at
 * link time); the process that writes is a real one. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fake/driver.h"
#include "vmm/kvm-private.h"
#include "vmm/machine-private.h"
#include "vmm/snapshot-memory.h"
#include "vmm/virtio-devices.h"

#define PAGE ((size_t)CS_PAGE_BYTES)

static struct played {
	int freeze;  /* what cs_agent_freeze() returns */
	int ficlone; /* errno of a clone; 0: good */
	bool die;    /* the writer is killed */
	bool wait;   /* the writer waits until it is given up */
	bool held;   /* the client holds the machine */
	bool lost;   /* the agent is gone */

	unsigned frozen, thawed, answers, clones;
	uint32_t flags;
	struct cs_err why;
	char text[128];
} played;

int __wrap_cs_agent_freeze(struct cs_agent *agent, uint32_t flags);
void __wrap_cs_control_answer_held(struct cs_control_client *client, const char *text);
int __wrap_cs_agent_thaw(struct cs_agent *agent);
bool __wrap_cs_agent_is_ready(const struct cs_agent *agent);
void __real_cs_timer_set(struct cs_timer *timer, uint64_t ms);
void __wrap_cs_timer_set(struct cs_timer *timer, uint64_t ms);
void __wrap_cs_control_answer(struct cs_control_client *client, const char *text,
			      const struct cs_err *why);
int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);
int __real_cs_picture_write(const struct cs_picture *picture, int fd, bool (*go_on)(void *),
			    void *arg, struct cs_picture_count *ret, struct cs_err *err);
int __wrap_cs_picture_write(const struct cs_picture *picture, int fd, bool (*go_on)(void *),
			    void *arg, struct cs_picture_count *ret, struct cs_err *err);

int __wrap_cs_agent_freeze(struct cs_agent *agent, uint32_t flags)
{
	played.frozen++;
	played.flags = flags;
	return played.freeze;
}

int __wrap_cs_agent_thaw(struct cs_agent *agent)
{
	played.thawed++;
	return 0;
}

bool __wrap_cs_agent_is_ready(const struct cs_agent *agent)
{
	return !played.lost;
}

/* Time flies. */
void __wrap_cs_timer_set(struct cs_timer *timer, uint64_t ms)
{
	__real_cs_timer_set(timer, ms ? 1 + ms / 100 : 0);
}

void __wrap_cs_control_answer(struct cs_control_client *client, const char *text,
			      const struct cs_err *why)
{
	assert_ptr_equal(client, &played);
	played.answers++;
	played.why = why ? *why : (struct cs_err){ 0 };
	strncpy(played.text, text, sizeof(played.text) - 1);
}

void __wrap_cs_control_answer_held(struct cs_control_client *client, const char *text)
{
	played.held = true;
	__wrap_cs_control_answer(client, text, NULL);
}

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	if (request == FICLONE) {
		played.clones++;
		errno = played.ficlone;
		return played.ficlone ? -1 : 0;
	}
	return _IOC_TYPE(request) == KVMIO ? 0 : __real_ioctl(fd, request, arg);
}

int __wrap_cs_picture_write(const struct cs_picture *picture, int fd, bool (*go_on)(void *),
			    void *arg, struct cs_picture_count *ret, struct cs_err *err)
{
	if (played.die)
		raise(SIGKILL);
	while (played.wait && go_on(arg))
		;
	return __real_cs_picture_write(picture, fd, go_on, arg, ret, err);
}

/* ---- the machine */

struct world {
	struct fake_guest guest; /* its memory, loop and device */
	struct cs_host_kvm kvm;
	struct cs_machine machine;
	struct cs_disk disk;
	int memory, state, clone; /* copies of what the save has */
};

static void fill_machine(struct world *w)
{
	struct cs_machine *m = &w->machine;

	m->spec.kvm = &w->kvm;
	m->mem = w->guest.mem;
	m->vm_fd = -1;
	m->lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
	m->unpaused = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
	m->one_parked = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
	m->loop = w->guest.loop;
	m->device[0] = w->guest.mmio;
	m->devices = 1;
	m->pagemap_fd = cs_pagemap_open();
}

static int setup(void **state)
{
	struct world *w = test_calloc(1, sizeof(*w));
	struct cs_virtio *dev = NULL;

	memset(&played, 0, sizeof(played));
	fake_open(&w->guest);
	assert_int_equal(cs_virtio_rng_create(&dev, NULL), 0);
	fake_plug(&w->guest, dev);
	fill_machine(w);
	memset(fake_at(&w->guest, 0), 'a', PAGE);
	memset(fake_at(&w->guest, FAKE_SEG_BYTES + PAGE), 'b', PAGE);
	w->memory = memfd_create("memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	w->state = memfd_create("state", MFD_CLOEXEC);
	w->clone = memfd_create("disk", MFD_CLOEXEC);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	cs_snapshot_free(w->machine.snapshot);
	close(w->machine.pagemap_fd);
	fake_close(&w->guest);
	close(w->memory);
	close(w->state);
	close(w->clone);
	test_free(w);
	return 0;
}

static int begin(struct world *w, const char *words, size_t n, struct cs_err *err)
{
	const int from[] = { w->memory, w->state, w->clone };
	int fds[3] = { -1, -1, -1 }, r;

	for (size_t i = 0; i < n; i++)
		fds[i] = fcntl(from[i], F_DUPFD_CLOEXEC, 3);
	*err = (struct cs_err){ 0 };
	r = cs_snapshot_begin(&w->machine, (struct cs_control_client *)&played, fds, n, words, err);
	for (size_t i = 0; i < n && r < 0; i++)
		close(fds[i]); /* the caller's still */
	assert_int_equal(r < 0 ? -r : 0, err->code);
	return r;
}

/* Until the save is over. */
static void finish(struct world *w)
{
	for (int i = 0; i < 10000 && w->machine.snapshot; i++) {
		fake_settle(&w->guest);
		if (w->machine.snapshot)
			usleep(1000);
	}
	assert_null(w->machine.snapshot);
	/* Nobody is left behind. */
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
}

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
		cmocka_unit_test_setup_teardown(test_save, setup, teardown),
		cmocka_unit_test_setup_teardown(test_words, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
		cmocka_unit_test_setup_teardown(test_not_frozen, setup, teardown),
		cmocka_unit_test_setup_teardown(test_client_leaves, setup, teardown),
		cmocka_unit_test_setup_teardown(test_writer_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(test_disk, setup, teardown),
		cmocka_unit_test_setup_teardown(test_machine_ends, setup, teardown),
		cmocka_unit_test(test_waits_for_reports),
		cmocka_unit_test(test_waits_in_vain),
		cmocka_unit_test_setup_teardown(test_park, setup, teardown),
		cmocka_unit_test_setup_teardown(test_park_given_up, setup, teardown),
		cmocka_unit_test_setup_teardown(test_park_fails, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
