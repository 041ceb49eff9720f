/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The loop, on a kernel made of files: it sets what its policy says, is there within a second when
 * memory is short, and ends when it is told to or something fails. */
#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <time.h>

#include "ksm/trace.h"
#include "ksm/tune.h"
#include "store/base/num.h"
#include "tests/unit/scratch.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

struct world {
	struct scratch *scratch;
	struct cs_ksm *ksm;
	struct cs_tune_spec spec;
	pthread_t thread;
	int result;
	struct cs_err err;
	int64_t guests_mib; /* the answer of (guests); below 0: it fails */
	unsigned decisions;
	int prepared,
		prepare_waits; /* the answer of (prepare), and how often it is another before */
	unsigned prepares, hurried;
};

static int guests(void *arg, const struct cs_ksm_sample *now, int64_t *ret_bytes,
		  struct cs_err *err)
{
	struct world *w = arg;

	if (__atomic_load_n(&w->guests_mib, __ATOMIC_SEQ_CST) < 0)
		return cs_fail(err, EIO, "no guests");
	*ret_bytes = __atomic_load_n(&w->guests_mib, __ATOMIC_SEQ_CST) * (int64_t)CS_MIB;
	return 0;
}

static bool runs(struct world *w)
{
	cs_auto(cs_mem_freep) char *text = NULL;

	/* Just being written: empty. */
	return cs_read_file_at(w->scratch->fd, "ksm/run", 16, &text, NULL) == 0 && text[0] == '1';
}

static int prepare(void *arg, const struct cs_ksm_sample *now, bool hurry, int64_t *ret_bytes,
		   struct cs_err *err)
{
	struct world *w = arg;

	assert_false(runs(w));
	__atomic_fetch_add(&w->prepares, 1, __ATOMIC_SEQ_CST);
	w->hurried += hurry;
	if (!hurry && w->prepare_waits && w->prepare_waits--)
		return CS_TUNE_WAIT;
	if (w->prepared < 0)
		return cs_fail(err, EIO, "not prepared");
	/* a half of it is worth a look; that is what (guests) says from now on, too */
	w->guests_mib /= 2;
	*ret_bytes = w->guests_mib * (int64_t)CS_MIB;
	return w->prepared;
}

static void decided(void *arg, const struct cs_ksm_sample *now, const struct cs_ksm_setting *set,
		    const struct cs_ksm_mind *mind)
{
	struct world *w = arg;

	__atomic_fetch_add(&w->decisions, 1, __ATOMIC_SEQ_CST);
}

static const struct cs_tune_ops ops = { .guests = guests, .decided = decided };
static const struct cs_tune_ops preparing = { .guests = guests,
					      .prepare = prepare,
					      .decided = decided };

/* Replaced as a whole: the loop may read it at any time, and an empty file ends it. */
static void put(struct scratch *scratch, const char *name, const char *text)
{
	scratch_write(scratch->fd, "new", text);
	assert_int_equal(renameat(scratch->fd, "new", scratch->fd, name), 0);
}

static void put_memory(struct scratch *scratch, const char *available_kb)
{
	char text[200];

	snprintf(text, sizeof(text),
		 "MemTotal: 16000000 kB\nMemAvailable: %s kB\nAnonPages: 1 kB\n", available_kb);
	put(scratch, "proc/meminfo", text);
}

static int setup(void **state)
{
	static const char *const zero[] = {
		"run",        "pages_shared",  "pages_sharing", "pages_unshared", "pages_volatile",
		"full_scans", "use_zero_pages"
	};
	struct world *w = calloc(1, sizeof(*w));
	char name[300], proc[300];

	assert_non_null(w);
	scratch_make((void **)&w->scratch);
	assert_int_equal(cs_mkdir_path(w->scratch->fd, "ksm", 0755), 0);
	assert_int_equal(cs_mkdir_path(w->scratch->fd, "proc", 0755), 0);
	for (size_t i = 0; i < N(zero); i++) {
		snprintf(name, sizeof(name), "ksm/%s", zero[i]);
		scratch_write(w->scratch->fd, name, "0\n");
	}
	scratch_write(w->scratch->fd, "ksm/pages_to_scan", "100\n");
	scratch_write(w->scratch->fd, "ksm/sleep_millisecs", "20\n");
	put_memory(w->scratch, "12000000");
	snprintf(name, sizeof(name), "%s/ksm", w->scratch->path);
	snprintf(proc, sizeof(proc), "%s/proc", w->scratch->path);
	assert_int_equal(cs_ksm_open(name, proc, &w->ksm, NULL), 0);
	w->spec = (struct cs_tune_spec){ .ksm = w->ksm,
					 .policy = cs_ksm_policy_find("yield"),
					 .limits = CS_KSM_LIMITS_DEFAULT,
					 .stop_fd = eventfd(0, EFD_CLOEXEC),
					 .pressure_fd = -1,
					 .trace_fd = -1,
					 .ops = &ops,
					 .arg = w };
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	close(w->spec.stop_fd);
	cs_ksm_free(w->ksm);
	scratch_remove((void **)&w->scratch);
	free(w);
	return 0;
}

static void *main_of_tuner(void *arg)
{
	struct world *w = arg;

	w->result = cs_tune_run(&w->spec, &w->err);
	return NULL;
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Milliseconds until it scans, or does not. */
static int64_t until(struct world *w, bool want, int64_t limit_ms)
{
	const int64_t from = now_ms();

	while (runs(w) != want && now_ms() - from < limit_ms) {
		const struct timespec nap = { .tv_nsec = 1000000 };

		nanosleep(&nap, NULL);
	}
	return now_ms() - from;
}

static void stop(struct world *w)
{
	const uint64_t one = 1;

	assert_int_equal(write(w->spec.stop_fd, &one, sizeof(one)), sizeof(one));
	assert_int_equal(pthread_join(w->thread, NULL), 0);
}

static void start(struct world *w)
{
	assert_int_equal(pthread_create(&w->thread, NULL, main_of_tuner, w), 0);
	while (!__atomic_load_n(&w->decisions, __ATOMIC_SEQ_CST))
		;
}

/* Memory is short all of a sudden: it scans, without being woken by anything. */
static void test_pressure(void **state)
{
	struct world *w = *state;

	w->guests_mib = 1;
	start(w);
	/* A new guest is left alone until it has settled: nothing happens yet. */
	__atomic_store_n(&w->guests_mib, 100, __ATOMIC_SEQ_CST);
	assert_true(until(w, true, 300) >= 300);
	put_memory(w->scratch, "100000");
	assert_true(until(w, true, 30000) < 30000);
	/* Somebody switches it off meanwhile: that is not ours to believe. */
	put(w->scratch, "ksm/run", "0\n");
	assert_true(until(w, true, 30000) < 30000);
	stop(w);
	assert_int_equal(w->result, 0);
}

/* Nobody is there: it stands still, and looks no more than twice a second. */
static void test_idle(void **state)
{
	struct world *w = *state;
	const struct timespec nap = { .tv_sec = 2 };

	start(w);
	nanosleep(&nap, NULL);
	assert_false(runs(w));
	assert_in_range(__atomic_load_n(&w->decisions, __ATOMIC_SEQ_CST), 1, 6);
	stop(w);
	assert_int_equal(w->result, 0);
}

static void test_trace_and_failure(void **state)
{
	struct world *w = *state;
	struct cs_ksm_trace trace;
	char path[300];

	snprintf(path, sizeof(path), "%s/trace", w->scratch->path);
	w->spec.trace_fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(w->spec.trace_fd >= 0);
	w->spec.policy = cs_ksm_policy_find("unlimited");
	w->guests_mib = 7;
	start(w);
	assert_true(until(w, true, 5000) < 5000);
	__atomic_store_n(&w->guests_mib, -1, __ATOMIC_SEQ_CST);
	assert_int_equal(pthread_join(w->thread, NULL), 0);
	assert_int_equal(w->result, -EIO);
	close(w->spec.trace_fd);
	assert_int_equal(cs_ksm_trace_read(path, &trace, NULL), 0);
	assert_true(trace.n >= 1);
	assert_int_equal(trace.row[0].seen.enrolled_bytes, 7 * CS_MIB);
	assert_int_equal(trace.row[0].set.run, 1);
	assert_int_equal(trace.row[0].set.pages_to_scan, 20000);
	cs_ksm_trace_clear(&trace);
	/* a file that is no number: it ends, with words */
	w->guests_mib = 7;
	w->spec.trace_fd = -1;
	scratch_write(w->scratch->fd, "ksm/full_scans", "-3\n");
	assert_int_equal(cs_tune_run(&w->spec, &w->err), -EBADMSG);
}

static void test_once(void **state)
{
	struct world *w = *state;
	const int64_t from = now_ms();

	w->spec.once = true;
	assert_int_equal(cs_tune_run(&w->spec, &w->err), 0); /* nothing to look at */
	assert_true(now_ms() - from >= 4000);
	assert_false(runs(w));
}

/* It does not scan before the guests are ready, nor when that is not worth it; and that they have
 * less than was thought is no reason to sweep. */
static void test_prepare(void **state)
{
	struct world *w = *state;

	w->spec.ops = &preparing;
	w->guests_mib = 100;
	w->prepare_waits = 3;
	w->prepared = CS_TUNE_CALL_OFF;
	start(w);
	assert_true(until(w, true, 6000) >= 6000);
	assert_int_equal(__atomic_load_n(&w->prepares, __ATOMIC_SEQ_CST), 4);
	assert_int_equal(w->guests_mib, 50);
	/* as much again: now it is */
	w->prepared = CS_TUNE_GO;
	__atomic_store_n(&w->guests_mib, 100, __ATOMIC_SEQ_CST);
	assert_true(until(w, true, 30000) < 30000);
	assert_int_equal(__atomic_load_n(&w->prepares, __ATOMIC_SEQ_CST), 5);
	/* A pass over, and another: it stands still, though it began with more. On a busy host it
	 * may have seen only the second of them. */
	for (unsigned scans = 2; until(w, false, 2000) >= 2000; scans += 2) {
		char text[16];

		assert_true(scans < 30);
		snprintf(text, sizeof(text), "%u\n", scans);
		put(w->scratch, "ksm/full_scans", text);
	}
	assert_true(until(w, true, 2000) >= 2000);
	assert_int_equal(w->hurried, 0);
	stop(w);
	assert_int_equal(w->result, 0);
}

/* Memory is short: no more than one answer that it is not done is waited for. */
static void test_hurry(void **state)
{
	struct world *w = *state;

	w->spec.ops = &preparing;
	w->guests_mib = 100;
	w->prepare_waits = 1000;
	put_memory(w->scratch, "100000");
	start(w);
	assert_true(until(w, true, 30000) < 30000);
	assert_int_equal(w->prepares, 2);
	assert_int_equal(w->hurried, 1);
	stop(w);
	assert_int_equal(w->result, 0);
}

static void test_prepare_fails(void **state)
{
	struct world *w = *state;

	w->spec.ops = &preparing;
	w->guests_mib = 100;
	w->prepared = -EIO;
	put_memory(w->scratch, "100000");
	assert_int_equal(cs_tune_run(&w->spec, &w->err), -EIO);
	assert_string_equal(w->err.text, "not prepared");
}

#define WORLD_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WORLD_TEST(test_pressure),          WORLD_TEST(test_idle),
		WORLD_TEST(test_trace_and_failure), WORLD_TEST(test_once),
		WORLD_TEST(test_prepare),           WORLD_TEST(test_hurry),
		WORLD_TEST(test_prepare_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
