/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* template learn: which pages of a saved machine its clones need first. */
#include "vmm/cmd-learn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cow/life.h"
#include "store/base/io.h"
#include "store/base/own.h"
#include "store/hot.h"
#include "store/manifest.h"
#include "vmm/client.h"
#include "vmm/cmd-spawner.h"
#include "vmm/control.h"
#include "vmm/snapshot-memory.h"

#define CLONES       2 /* what one alone does by chance is not in the other */
#define GUEST_PREFIX "learn"
#define READY_MS     120000
#define CALL_MS      5000

/* The pages that one of them has. */
struct own {
	struct cs_page_range *range;
	size_t n;
};

struct learning {
	struct cs_spawn_session session;
	struct cs_spawn_guest guests[CLONES];
	struct own own[CLONES];
	struct cs_hot hot;
};

static void forget_own(struct learning *l)
{
	for (size_t i = 0; i < CLONES; i++) {
		free(l->own[i].range);
		l->own[i] = (struct own){ 0 };
	}
}

static void learning_release(struct learning *l)
{
	for (size_t i = 0; i < CLONES; i++) {
		if (l->guests[i].pid)
			cs_spawner_take_back(l->session.store, &l->guests[i]);
	}
	forget_own(l);
	cs_hot_clear(&l->hot);
	cs_spawn_closep(&l->session);
}

/* ---- the clones ------------------------------------------------------------------------------ */

static int start(struct learning *l, struct cs_err *err)
{
	struct cs_spawner spawner = {
		.store = l->session.store,
		.template = l->session.template,
		.kvm = l->session.kvm,
		.card = &l->session.card,
		.prefix = GUEST_PREFIX,
		.create = true,
		.watched = true,
		.wait = true,
		.timeout_ms = READY_MS,
		.guests = l->guests,
		.n = CLONES,
	};
	int r;

	r = cs_spawn_own(&l->session.card, err);
	if (r == 0)
		r = cs_spawner_names(&spawner, NULL, err);
	if (r == 0)
		r = cs_spawner_run(&spawner, err);
	if (r == 0 && spawner.cold)
		return cs_fail(err, EOPNOTSUPP, "the saved machine does not fit this host");
	return r;
}

/* Ascending, and within (pages)? */
static bool are_pages(const struct own *own, uint64_t pages)
{
	uint64_t end = 0;

	for (size_t i = 0; i < own->n; i++) {
		if (own->range[i].first < end)
			return false;
		end = (uint64_t)own->range[i].first + own->range[i].pages;
	}
	return end <= pages;
}

/* (what): "own" or "seen" (vmm/control.h). */
static int ask(struct learning *l, const char *name, const char *what, struct own *ret,
	       struct cs_err *err)
{
	cs_auto(cs_fd_closep) int dirfd = -1;
	cs_auto(cs_fd_closep) int fd =
		cs_cmd_memory_file(what, CS_PICTURE_RANGES_MAX * sizeof(ret->range[0]));
	cs_auto(cs_mem_freep) char *text = NULL;
	uint64_t n;
	int r;

	if (fd < 0)
		return cs_fail_errno(err, -fd, "cannot make a file in memory");
	r = cs_guest_open(l->session.store, name, &dirfd, err);
	if (r == 0)
		r = cs_control_call_with(dirfd, what, fd, CALL_MS, &text, err);
	if (r < 0)
		return r;
	/* What a monitor says is not to be relied on. */
	if (cs_cmd_status_number(text, "ranges", &n) < 0 || n > CS_PICTURE_RANGES_MAX)
		return cs_fail(err, EBADMSG, "its monitor says '%.40s'", text);
	ret->range = calloc(n + 1, sizeof(ret->range[0]));
	if (!ret->range)
		return cs_fail_errno(err, ENOMEM, "its pages");
	ret->n = n;
	r = cs_pread_full(fd, ret->range, n * sizeof(ret->range[0]), 0);
	if (r < 0)
		return cs_fail_errno(err, -r, "its pages");
	return are_pages(ret, l->session.card.ram_bytes / CS_PAGE_BYTES)
		       ? 0
		       : cs_fail(err, EBADMSG, "its monitor names pages that it does not have");
}

/* Is (page) in a list that is gone through before that of (kind)? */
static bool is_known(const struct cs_hot *hot, enum cs_hot_kind kind, uint64_t page)
{
	if (kind == CS_HOT_EXEC)
		return cs_hot_has(&hot->list[CS_HOT_WAKE], page);
	return kind == CS_HOT_EXEC_SEEN && (cs_hot_has(&hot->list[CS_HOT_WAKE_SEEN], page) ||
					    cs_hot_has(&hot->list[CS_HOT_EXEC], page));
}

static int add_pages(struct cs_hot *hot, enum cs_hot_kind kind, uint64_t from, uint64_t to)
{
	int r = 0;

	for (uint64_t page = from; page < to && r == 0; page++) {
		if (!is_known(hot, kind, page))
			r = cs_hot_add(&hot->list[kind], (uint32_t)page);
	}
	return r;
}

/* What both have. */
static int keep_common(struct learning *l, enum cs_hot_kind kind, struct cs_err *err)
{
	const struct own *a = &l->own[0], *b = &l->own[1];
	int r = 0;

	for (size_t i = 0, k = 0; i < a->n && k < b->n && r == 0;) {
		const uint64_t first = a->range[i].first, other = b->range[k].first;
		const uint64_t end = first + a->range[i].pages;
		const uint64_t other_end = other + b->range[k].pages;

		r = add_pages(&l->hot, kind, first > other ? first : other,
			      end < other_end ? end : other_end);
		i += end <= other_end;
		k += other_end <= end;
	}
	/* As many as are kept are as good as any. */
	return r == -ENOMEM ? cs_fail_errno(err, ENOMEM, "its pages") : 0;
}

/* What they have as (what) becomes (kind). */
static int look(struct learning *l, const char *what, enum cs_hot_kind kind, struct cs_err *err)
{
	forget_own(l);
	for (size_t i = 0; i < CLONES; i++) {
		const char *name = l->guests[i].name;
		int r = ask(l, name, what, &l->own[i], err);

		if (r < 0)
			return cs_fail_in(err, r, "guest '%s'", name);
	}
	return keep_common(l, kind, err);
}

/* A process, of the one program that each has. What it says does not matter, nor its status. */
static int start_process(struct learning *l, const struct cs_spawn_guest *guest, int null_fd,
			 struct cs_err *err)
{
	cs_auto(cs_cmd_guest_closep) struct cs_cmd_guest opened = { .dirfd = -1 };
	char *const argv[] = { (char *)"/sbin/clearstore-agent", NULL };
	const struct cs_exec_spec spec = {
		.argv = argv,
		.in_fd = -1,
		.out_fd = null_fd,
		.err_fd = null_fd,
	};
	int r, status;

	r = cs_cmd_guest_open(l->session.store, guest->name, &opened, err);
	return r < 0 ? r : cs_client_exec(opened.dirfd, &spec, &status, err);
}

static int start_processes(struct learning *l, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	int r = 0;

	if (null_fd < 0)
		return cs_fail_errno(err, errno, "/dev/null");
	for (size_t i = 0; i < CLONES && r == 0; i++)
		r = start_process(l, &l->guests[i], null_fd, err);
	return r;
}

static int watch(struct learning *l, struct cs_err *err)
{
	int r = start(l, err);

	if (r < 0)
		return r;
	nanosleep(&(struct timespec){ .tv_sec = 1 }, NULL);
	r = look(l, "own", CS_HOT_WAKE, err);
	if (r == 0)
		r = look(l, "seen", CS_HOT_WAKE_SEEN, err);
	if (r == 0)
		r = start_processes(l, err);
	if (r == 0)
		r = look(l, "own", CS_HOT_EXEC, err);
	return r < 0 ? r : look(l, "seen", CS_HOT_EXEC_SEEN, err);
}

/* ---- the template ---------------------------------------------------------------------------- */

/* Under the store's lock, so that it is not kept with a version that has just been removed. */
static int keep(struct learning *l, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int lock_fd = -1;
	int r;

	r = cs_store_lock(l->session.store, false, &lock_fd, err);
	if (r == 0)
		r = cs_template_check_present(l->session.store, l->session.template, err);
	return r < 0 ? r : cs_hot_put(l->session.store, l->session.template, &l->hot, err);
}

static int saved_of(const struct cs_globals *globals, const char *template,
		    struct cs_manifest_saved *ret, struct cs_err *err)
{
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_template_freep) struct cs_template *t = NULL;
	int r;

	r = cs_cmd_store_open(globals, &store, err);
	if (r == 0)
		r = cs_template_open(store, template, &t, err);
	if (r < 0)
		return r;
	*ret = cs_template_manifest(t)->saved;
	if (!ret->present)
		return cs_fail(err, ENOENT,
			       "template '%s': no saved machine (clearstore template warm %s)",
			       template, cs_template_name(t));
	/* Clones that had it would tell it again, whether they need it or not. */
	cs_hot_remove(store, cs_template_name(t), cs_template_version(t));
	return 0;
}

static int learn(struct learning *l, struct cs_learned *ret, struct cs_err *err)
{
	const struct cs_template *t = l->session.template;
	int r = watch(l, err);

	for (size_t i = 0; i < CLONES; i++)
		cs_spawner_take_back(l->session.store, &l->guests[i]);
	if (r == 0)
		r = keep(l, err);
	if (r < 0)
		return cs_fail_in(err, r, "template '%s'", cs_template_name(t));
	snprintf(ret->template, sizeof(ret->template), "%s", cs_template_name(t));
	snprintf(ret->version, sizeof(ret->version), "%s", cs_template_version(t));
	for (size_t kind = 0; kind <= CS_HOT_EXEC; kind++)
		ret->pages[kind] = l->hot.list[kind].pages;
	return 0;
}

int cs_cmd_learn(const struct cs_globals *globals, const char *template, struct cs_learned *ret,
		 struct cs_err *err)
{
	cs_auto(learning_release) struct learning l = { 0 };
	struct cs_manifest_saved saved;
	char memory[32], vcpus[16];
	struct cs_spawn_options o = {
		.template = template,
		.memory = memory,
		.vcpus = vcpus,
		.no_spares = true,
	};
	sigset_t before;
	int r;

	r = saved_of(globals, template, &saved, err);
	if (r < 0)
		return r;
	snprintf(memory, sizeof(memory), "%llu", (unsigned long long)saved.ram_bytes);
	snprintf(vcpus, sizeof(vcpus), "%u", saved.vcpus);
	o.persist = saved.disk;
	r = cs_spawn_open(globals, &o, &l.session, err);
	if (r < 0)
		return r;
	cs_spawn_hold_signals(&before);
	r = learn(&l, ret, err);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return r;
}

/* ---- the command ----------------------------------------------------------------------------- */

struct learn_options {
	const char *template;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct learn_options *o = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		if (o->template)
			argp_error(state, "one template only");
		o->template = arg;
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "no template given");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct cs_column columns[] = {
	{ "template", "TEMPLATE", CS_CELL_TEXT },
	{ "version", "VERSION", CS_CELL_TEXT },
	{ "wake_pages", "WAKE PAGES", CS_CELL_COUNT },
	{ "exec_pages", "EXEC PAGES", CS_CELL_COUNT },
};

static int run_learn(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	const struct learn_options *o = options;
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	struct cs_learned learned;
	int r;

	r = cs_cmd_learn(globals, o->template, &learned, err);
	if (r == 0)
		r = cs_report_open(columns, sizeof(columns) / sizeof(columns[0]), &report, err);
	if (r < 0)
		return r;
	cs_report_row(report);
	cs_report_text(report, "template", learned.template);
	cs_report_text(report, "version", learned.version);
	cs_report_number(report, "wake_pages", learned.pages[CS_HOT_WAKE]);
	cs_report_number(report, "exec_pages", learned.pages[CS_HOT_EXEC]);
	return cs_cmd_print(globals, report, CS_FORMAT_RECORD, err);
}

static const struct argp argp = {
	.parser = parse,
	.args_doc = "TEMPLATE",
	.doc = "Find out which pages of its memory the clones of a template's saved machine need "
	       "when they wake, and when the first process is started in one. Guests spawned from "
	       "then on have them at once, instead of by a fault each."
	       "\vTwo guests are started for it, and removed. Printed is how many both wrote to "
	       "when "
	       "they woke, and how many besides with a process. TEMPLATE may be NAME@VERSION. "
	       "`template warm` and `template update --warm` do it by themselves; it is for what "
	       "`save` or `template move` made.\n",
};

const struct cs_command cs_cmd_template_learn = {
	.name = "learn",
	.summary = "Find out what clones of a saved machine need first",
	.argp = &argp,
	.options_bytes = sizeof(struct learn_options),
	.reports = true,
	.run = run_learn,
};
