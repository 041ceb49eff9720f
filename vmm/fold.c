/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/fold.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "vmm/machine-private.h"
#include "vmm/snapshot-memory.h"

#define BATCH     256  /* pages that were found, before the vCPUs are stopped for them */
#define LOOK_US   1000 /* of looking, before the loop serves others */
#define PAUSE_MS  2    /* between two stops: the guest runs */
#define RETRY_MS  5    /* a disk was reading into the guest's memory */
#define RETRIES   400
#define CLOCK_PER 16 /* pages between two looks at the clock */

struct found {
	char *host;
	uint64_t offset; /* in the file */
	bool file;       /* equal to the file's page; else zero */
};

struct cs_fold {
	struct cs_machine *machine;
	struct cs_control_client *client;
	struct cs_timer *timer;
	struct cs_picture picture;
	size_t at;     /* the stretch that is looked at */
	uint64_t into; /* bytes of it that are done */
	struct found found[BATCH];
	size_t n;
	unsigned retries;
	uint64_t looked, folded, stops, longest_us, total_us;
	char page[4096];
};

static uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

/* ---- looking ------------------------------------------------------------------------------- */

/* Where the machine was booted from a file that is mapped in place, giving a page back would bring
 * the file's content, not zeroes. */
static bool is_of_boot(const struct cs_machine *machine, const char *host)
{
	for (size_t i = 0; i < machine->mem.ram.n; i++) {
		const struct cs_seg *seg = &machine->mem.ram.seg[i];
		const uint64_t into = (uint64_t)((uintptr_t)host - (uintptr_t)seg->host);
		const uint64_t gpa = seg->gpa + into;

		if ((uintptr_t)host < (uintptr_t)seg->host || into >= seg->bytes)
			continue;
		for (size_t k = 0; k < CS_BOOT_FILES; k++) {
			const struct cs_boot_span *span = &machine->file[k];

			if (span->bytes && gpa >= cs_align_down(span->gpa, CS_PAGE_BYTES) &&
			    gpa < cs_align_up(span->gpa + span->bytes, CS_PAGE_BYTES))
				return true;
		}
		return false;
	}
	return true; /* nowhere that we know */
}

static bool is_zero(const char *page)
{
	return page[0] == 0 && memcmp(page, page + 1, CS_PAGE_BYTES - 1) == 0;
}

/* Would the page be the same if it were given back? */
static bool is_same(struct cs_fold *fold, const struct found *f)
{
	const struct cs_machine_spec *spec = &fold->machine->spec;

	if (!f->file)
		return is_zero(f->host) && !is_of_boot(fold->machine, f->host);
	/* Behind the file's end, and where it cannot be read, the guest keeps what it has. */
	return cs_pread_full(spec->memory_fd, fold->page, CS_PAGE_BYTES,
			     spec->memory_offset + f->offset) == 0 &&
	       memcmp(f->host, fold->page, CS_PAGE_BYTES) == 0;
}

/* False: all is looked at. */
static bool look(struct cs_fold *fold)
{
	const uint64_t end = now_us() + LOOK_US;

	while (fold->at < fold->picture.n && fold->n < BATCH) {
		const struct cs_stretch *s = &fold->picture.stretch[fold->at];
		const struct found f = { .host = (char *)(uintptr_t)s->host + fold->into,
					 .offset = s->offset + fold->into,
					 .file = s->over };

		if (is_same(fold, &f))
			fold->found[fold->n++] = f;
		fold->looked++;
		fold->into += CS_PAGE_BYTES;
		if (fold->into >= s->bytes) {
			fold->at++;
			fold->into = 0;
		}
		if (fold->looked % CLOCK_PER == 0 && now_us() > end)
			break;
	}
	return fold->at < fold->picture.n;
}

/* ---- giving back, while the vCPUs stand still ------------------------------------------------ */

static bool is_disk_busy(const struct cs_machine *machine)
{
	for (unsigned i = 0; i < machine->devices; i++) {
		if (cs_virtio_mmio_busy(machine->device[i]))
			return true;
	}
	return false;
}

/* The pages of found[from..] that lie one behind the other and are still the same: their number. */
static size_t run_of(struct cs_fold *fold, size_t from, uint64_t end)
{
	size_t n = 0;

	while (from + n < fold->n &&
	       fold->found[from + n].host == fold->found[from].host + n * CS_PAGE_BYTES &&
	       is_same(fold, &fold->found[from + n])) {
		n++;
		if (n % CLOCK_PER == 0 && now_us() > end)
			break;
	}
	return n;
}

static void drop(struct cs_fold *fold, uint64_t end)
{
	size_t done = 0;

	while (done < fold->n && now_us() < end) {
		const size_t n = run_of(fold, done, end);

		if (n && madvise(fold->found[done].host, n * CS_PAGE_BYTES, MADV_DONTNEED) == 0)
			fold->folded += n;
		done += n ? n : 1; /* one that the guest has changed meanwhile */
	}
	fold->n -= done;
	memmove(fold->found, fold->found + done, fold->n * sizeof(fold->found[0]));
}

/* How long to wait before the next step. */
static uint64_t stop_and_drop(struct cs_fold *fold)
{
	struct cs_machine *machine = fold->machine;
	uint64_t from = now_us(), us;
	bool busy;

	cs_machine_park(machine);
	/* One that is alone ran until now; of several the first has waited for the last. */
	if (machine->spec.vcpus == 1)
		from = now_us();
	/* What a disk reads goes to the guest's memory by the kernel, past all of us: between
	 * looking and giving back it would be lost. */
	busy = machine->ended || is_disk_busy(machine);
	if (!busy)
		drop(fold, now_us() + CS_FOLD_STOP_US);
	cs_machine_unpark(machine);
	us = now_us() - from;
	fold->stops++;
	fold->total_us += us;
	fold->longest_us = us > fold->longest_us ? us : fold->longest_us;
	fold->retries = busy ? fold->retries + 1 : 0;
	return busy ? RETRY_MS : PAUSE_MS;
}

/* ---- its course ---------------------------------------------------------------------------- */

static void finish(struct cs_fold *fold, const struct cs_err *why)
{
	struct cs_control_client *client = fold->client;
	char text[160];

	snprintf(text, sizeof(text),
		 "looked=%" PRIu64 " folded=%" PRIu64 " stops=%" PRIu64 " longest_us=%" PRIu64
		 " total_us=%" PRIu64,
		 fold->looked, fold->folded, fold->stops, fold->longest_us, fold->total_us);
	/* The next may begin in the answer's wake. */
	fold->machine->fold = NULL;
	cs_fold_free(fold);
	cs_control_answer(client, text, why);
}

static void step(void *arg, uint32_t events)
{
	struct cs_fold *fold = arg;
	struct cs_err err = { 0 };
	uint64_t wait_ms = 1;
	bool more;

	if (fold->machine->ended) {
		cs_fail(&err, ECANCELED, "it has just ended");
		finish(fold, &err);
		return;
	}
	/* A park has it stand still: it is not ours to let go. */
	if (fold->machine->parking) {
		cs_fail(&err, EBUSY, "it is being parked");
		finish(fold, &err);
		return;
	}
	more = fold->n < BATCH && look(fold);
	if (fold->n && (fold->n == BATCH || !more))
		wait_ms = stop_and_drop(fold);
	else if (!more && fold->at >= fold->picture.n) {
		finish(fold, NULL);
		return;
	}
	if (fold->retries > RETRIES) {
		cs_fail(&err, EBUSY, "its disk is never still (%" PRIu64 " pages are given back)",
			fold->folded);
		finish(fold, &err);
		return;
	}
	cs_timer_set(fold->timer, wait_ms);
}

int cs_fold_begin(struct cs_machine *machine, struct cs_control_client *client, struct cs_err *err)
{
	cs_auto(cs_fold_freep) struct cs_fold *fold = NULL;
	int r;

	if (machine->fold)
		return cs_fail(err, EBUSY, "it is being folded already");
	if (machine->pagemap_fd < 0)
		return cs_fail(err, EOPNOTSUPP,
			       "this host does not tell which pages are its own "
			       "(/proc/self/pagemap)");
	fold = calloc(1, sizeof(*fold));
	if (!fold)
		return cs_fail_errno(err, ENOMEM, "cannot fold it");
	fold->machine = machine;
	fold->client = client;
	/* What it writes from here on is not looked at, and that is all. */
	r = cs_picture_take(machine->pagemap_fd, &machine->mem.ram, NULL, &fold->picture);
	if (r == 0)
		r = cs_timer_create(machine->loop, step, fold, &fold->timer);
	if (r < 0)
		return cs_fail_errno(err, -r, "cannot fold it");
	cs_timer_set(fold->timer, 1);
	machine->fold = cs_steal(fold);
	return 0;
}

bool cs_fold_is_for(const struct cs_fold *fold, const struct cs_control_client *client)
{
	return fold && fold->client == client;
}

struct cs_fold *cs_fold_free(struct cs_fold *fold)
{
	if (!fold)
		return NULL;
	cs_timer_free(fold->timer);
	cs_picture_clear(&fold->picture);
	free(fold);
	return NULL;
}
