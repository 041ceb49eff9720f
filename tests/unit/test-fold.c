/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is given back, and what must not be. The memory is this process's own, the machine has no
 * vCPUs (they are played: what runs while they stand still, and what does not), the loop is a real
 * one. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "store/base/io.h"
#include "vmm/machine-private.h"
#include "vmm/snapshot-memory.h"

#define PAGE  ((size_t)CS_PAGE_BYTES)
#define PAGES ((size_t)64)

void __wrap_cs_control_answer(struct cs_control_client *client, const char *text,
			      const struct cs_err *why);
void __wrap_cs_machine_park(struct cs_machine *machine);
void __wrap_cs_machine_unpark(struct cs_machine *machine);
bool __wrap_cs_virtio_mmio_busy(const struct cs_virtio_mmio *mmio);

struct world {
	struct cs_machine machine;
	char *cow, *anon;
	int file_fd;
	/* played */
	bool parked, answered;
	int busy;       /* so often it is */
	char *scribble; /* written to when the vCPUs are about to stand still */
	struct cs_err why;
	unsigned long long looked, folded, stops, longest_us, total_us;
};

static struct world *the; /* who is tested: the wrapped functions have no argument for it */

void __wrap_cs_control_answer(struct cs_control_client *client, const char *text,
			      const struct cs_err *why)
{
	assert_ptr_equal(client, the);
	assert_false(the->parked);
	the->answered = true;
	the->why = why ? *why : (struct cs_err){ 0 };
	assert_int_equal(
		sscanf(text, "looked=%llu folded=%llu stops=%llu longest_us=%llu total_us=%llu",
		       &the->looked, &the->folded, &the->stops, &the->longest_us, &the->total_us),
		5);
	cs_loop_stop(the->machine.loop);
}

void __wrap_cs_machine_park(struct cs_machine *machine)
{
	assert_false(the->parked);
	the->parked = true;
	if (the->scribble)
		memset(the->scribble, 'z', PAGE);
}

void __wrap_cs_machine_unpark(struct cs_machine *machine)
{
	assert_true(the->parked);
	the->parked = false;
}

bool __wrap_cs_virtio_mmio_busy(const struct cs_virtio_mmio *mmio)
{
	assert_true(the->parked);
	return the->busy && the->busy--;
}

static void fill(char *page, char what)
{
	memset(page, what, PAGE);
}

/* A file whose pages are 'a', 'b', ... from its second page on, and a segment mapped from there. */
static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	char page[PAGE];

	assert_non_null(w);
	the = w;
	w->file_fd = memfd_create("memory", MFD_CLOEXEC);
	assert_true(w->file_fd >= 0);
	for (size_t i = 0; i < PAGES; i++) {
		fill(page, (char)('a' + i));
		assert_int_equal(cs_pwrite_full(w->file_fd, page, PAGE, (i + 1) * PAGE), 0);
	}
	w->anon = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		       0);
	w->cow = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, w->file_fd, PAGE);
	assert_true(w->anon != MAP_FAILED && w->cow != MAP_FAILED);
	w->machine.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
	w->machine.pagemap_fd = cs_pagemap_open();
	w->machine.devices = 1;
	w->machine.spec.memory_fd = w->file_fd;
	w->machine.spec.memory_offset = PAGE;
	w->machine.mem.ram = (struct cs_ram){
		.n = 2,
		.seg = { { .gpa = 0,
			   .bytes = PAGES * PAGE,
			   .host = w->cow,
			   .backing = CS_BACKING_COW },
			 { .gpa = 1 << 30,
			   .bytes = PAGES * PAGE,
			   .host = w->anon,
			   .backing = CS_BACKING_ANON } },
	};
	assert_int_equal(cs_loop_create(&w->machine.lock, &w->machine.loop, NULL), 0);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	cs_fold_free(w->machine.fold);
	cs_loop_free(w->machine.loop);
	close(w->machine.pagemap_fd);
	munmap(w->cow, PAGES * PAGE);
	munmap(w->anon, PAGES * PAGE);
	close(w->file_fd);
	free(w);
	return 0;
}

static void fold(struct world *w)
{
	struct cs_err err = { 0 };

	w->answered = false;
	assert_int_equal(cs_fold_begin(&w->machine, (struct cs_control_client *)w, &err), 0);
	assert_int_equal(cs_fold_begin(&w->machine, (struct cs_control_client *)w, &err), -EBUSY);
	assert_int_equal(cs_loop_run(w->machine.loop, &err), 0);
	assert_true(w->answered);
	assert_null(w->machine.fold);
}

/* Pages of the segment that are this process's own. */
static size_t own(struct world *w, size_t seg)
{
	struct cs_picture picture;
	struct cs_ram one = { .n = 1, .seg = { w->machine.mem.ram.seg[seg] } };
	size_t pages = 0;

	assert_int_equal(cs_picture_take(w->machine.pagemap_fd, &one, NULL, &picture), 0);
	for (size_t i = 0; i < picture.n; i++)
		pages += picture.stretch[i].bytes / PAGE;
	cs_picture_clear(&picture);
	return pages;
}

static void test_template_pages(void **state)
{
	struct world *w = *state;

	fill(w->cow + 3 * PAGE, 'd'); /* the same */
	fill(w->cow + 4 * PAGE, 'e'); /* and its neighbour */
	fill(w->cow + 9 * PAGE, 'd'); /* another page's content */
	fill(w->cow + 20 * PAGE, 0);  /* zero, where the template's is not */
	fill(w->cow + 30 * PAGE, (char)('a' + 30));
	w->cow[31 * PAGE - 1] ^= 1; /* but for the last bit */
	fill(w->cow + 63 * PAGE, (char)('a' + 63));
	assert_int_equal(own(w, 0), 6);
	fold(w);
	assert_int_equal(w->why.code, 0);
	assert_int_equal(w->looked, 6);
	assert_int_equal(w->folded, 3);
	assert_true(w->stops >= 1);
	assert_int_equal(own(w, 0), 3);
	/* The guest finds all as it left it. */
	assert_int_equal(w->cow[3 * PAGE], 'd');
	assert_int_equal(w->cow[5 * PAGE - 1], 'e');
	assert_int_equal(w->cow[9 * PAGE], 'd');
	assert_int_equal(w->cow[20 * PAGE], 0);
	assert_int_equal(w->cow[31 * PAGE - 1], ('a' + 30) ^ 1);
	assert_int_equal(w->cow[64 * PAGE - 1], (char)('a' + 63));
}

static void test_zero_pages(void **state)
{
	struct world *w = *state;

	for (size_t i = 0; i < 10; i++)
		fill(w->anon + i * PAGE, 0);
	w->anon[5 * PAGE + 4095] = 1;
	fold(w);
	assert_int_equal(w->folded, 9);
	assert_int_equal(own(w, 1), 1);
	assert_int_equal(w->anon[5 * PAGE + 4095], 1);
}

/* What was booted from a file that is mapped in place would come back as the file has it. */
static void test_boot_files(void **state)
{
	struct world *w = *state;
	void *kernel;

	kernel = mmap(w->anon + 8 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
		      w->file_fd, (off_t)PAGE);
	assert_ptr_equal(kernel, w->anon + 8 * PAGE);
	w->machine.file[0] =
		(struct cs_boot_span){ .gpa = (1 << 30) + 8 * PAGE + 100, .bytes = 3 * PAGE };
	fill(w->anon + 7 * PAGE, 0);
	fill(w->anon + 8 * PAGE, 0);
	fill(w->anon + 11 * PAGE, 0); /* the page in which the span ends */
	fill(w->anon + 12 * PAGE, 0);
	fold(w);
	assert_int_equal(w->folded, 2);
	assert_int_equal(w->anon[8 * PAGE], 0);
	assert_int_equal(w->anon[11 * PAGE], 0);
}

/* The guest runs until it stands still: what it changes at the last moment stays. */
static void test_changed_meanwhile(void **state)
{
	struct world *w = *state;

	fill(w->cow + 3 * PAGE, 'd');
	fill(w->cow + 4 * PAGE, 'e');
	fill(w->cow + 5 * PAGE, 'f');
	w->scribble = w->cow + 4 * PAGE;
	fold(w);
	assert_int_equal(w->folded, 2);
	assert_int_equal(w->cow[4 * PAGE], 'z');
	assert_int_equal(w->cow[5 * PAGE], 'f');
}

static void test_disk_reads(void **state)
{
	struct world *w = *state;

	fill(w->cow + 3 * PAGE, 'd');
	w->busy = 3;
	fold(w);
	assert_int_equal(w->folded, 1);
	assert_int_equal(w->stops, 4);
	fill(w->cow + 3 * PAGE, 'd');
	w->busy = 1000000;
	fold(w);
	assert_int_equal(w->why.code, EBUSY);
	assert_int_equal(w->folded, 0);
	assert_int_equal(own(w, 0), 1);
}

/* A park has the vCPUs stand still until the machine ends: nobody lets them go. */
static void test_parked(void **state)
{
	struct world *w = *state;

	fill(w->cow + 3 * PAGE, 'd');
	w->machine.parking = true;
	fold(w);
	assert_int_equal(w->why.code, EBUSY);
	assert_int_equal(w->stops, 0);
	assert_true(w->machine.parking);
}

static void test_no_file(void **state)
{
	struct world *w = *state;

	w->machine.spec.memory_fd = -1;
	fill(w->cow + 3 * PAGE, 'd');
	fold(w);
	assert_int_equal(w->folded, 0);
	/* A file that is shorter than the segment: what lies behind its end stays. */
	w->machine.spec.memory_fd = w->file_fd;
	fill(w->cow + 63 * PAGE, 0);
	assert_int_equal(ftruncate(w->file_fd, (off_t)(64 * PAGE + 1)), 0);
	fold(w);
	assert_int_equal(w->folded, 1);
	assert_int_equal(w->cow[63 * PAGE], 0);
}

static void test_many(void **state)
{
	const size_t pages = 20000;
	struct world *w = *state;
	char *more = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);

	assert_true(more != MAP_FAILED);
	for (size_t i = 0; i < pages; i++)
		fill(more + i * PAGE, i % 3 == 0);
	w->machine.mem.ram.seg[1].host = more;
	w->machine.mem.ram.seg[1].bytes = pages * PAGE;
	fold(w);
	assert_int_equal(w->looked, pages);
	assert_int_equal(w->folded, pages - (pages + 2) / 3);
	assert_true(w->stops > 20); /* little by little */
	print_message("%llu pages given back in %llu stops, the longest of %llu us\n", w->folded,
		      w->stops, w->longest_us);
	munmap(more, pages * PAGE);
}

static void test_gone(void **state)
{
	struct world *w = *state;
	struct cs_control_client *client = (struct cs_control_client *)w;
	struct cs_err err = { 0 };

	assert_false(cs_fold_is_for(NULL, client));
	assert_int_equal(cs_fold_begin(&w->machine, client, &err), 0);
	assert_true(cs_fold_is_for(w->machine.fold, client));
	assert_false(cs_fold_is_for(w->machine.fold, NULL));
	w->machine.fold = cs_fold_free(w->machine.fold);
	/* the machine ends in the middle */
	assert_int_equal(cs_fold_begin(&w->machine, client, &err), 0);
	w->machine.ended = true;
	assert_int_equal(cs_loop_run(w->machine.loop, &err), 0);
	assert_int_equal(w->why.code, ECANCELED);
	/* a host that does not tell */
	close(w->machine.pagemap_fd);
	w->machine.pagemap_fd = -1;
	assert_int_equal(cs_fold_begin(&w->machine, client, &err), -EOPNOTSUPP);
}

#define WORLD_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WORLD_TEST(test_template_pages), WORLD_TEST(test_zero_pages),
		WORLD_TEST(test_boot_files),     WORLD_TEST(test_changed_meanwhile),
		WORLD_TEST(test_disk_reads),     WORLD_TEST(test_no_file),
		WORLD_TEST(test_many),           WORLD_TEST(test_gone),
		WORLD_TEST(test_parked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
