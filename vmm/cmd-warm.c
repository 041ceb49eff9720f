/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* template warm: boot a guest once, so that no other has to. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "store/base/num.h"
#include "store/base/own.h"
#include "vmm/client.h"
#include "vmm/cmd-learn.h"
#include "vmm/cmd-save.h"
#include "vmm/cmd-spawner.h"

#define GUEST_PREFIX    "warm"
#define TIMEOUT_DEFAULT "120"
#define TIMEOUT_MAX     86400
#define RETRY_NS        200000000
#define ENDING_MS       5000 /* as long as a guest whose COMMAND has ended may take to be gone */

enum {
	KEY_RUN = 0x200,
	KEY_READY,
	KEY_TIMEOUT,
};

struct warm_options {
	struct cs_spawn_options spawn;
	char *run;
	const char *ready, *timeout;
};

static const struct argp_option options[] = {
	{ "run", KEY_RUN, "COMMAND", 0,
	  "Start COMMAND, a line for the guest's /bin/sh, before it is saved: clones have it "
	  "running",
	  1 },
	{ "ready-cmd", KEY_READY, "COMMAND", 0,
	  "Save when COMMAND, a line for the guest's /bin/sh, has succeeded; it is tried again and "
	  "again",
	  1 },
	{ "timeout", KEY_TIMEOUT, "SECONDS", 0,
	  "How long the guest may take to boot, and how long --ready-cmd is tried after that "
	  "(default: " TIMEOUT_DEFAULT ")",
	  1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct warm_options *o = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &o->spawn;
		return 0;
	case KEY_RUN:
		o->run = arg;
		return 0;
	case KEY_READY:
		o->ready = arg;
		return 0;
	case KEY_TIMEOUT:
		o->timeout = arg;
		return 0;
	case ARGP_KEY_END:
		if (o->run && o->spawn.command)
			argp_error(state, "--run or COMMAND, not both");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

struct warm {
	const struct warm_options *options;
	struct cs_spawn_session session;
	struct cs_draft *draft;
	struct cs_spawn_guest guest;
	uint64_t timeout_ms;
	struct cs_save_result result;
};

static void warm_release(struct warm *warm)
{
	if (warm->guest.pid)
		cs_spawner_take_back(warm->session.store, &warm->guest);
	warm->draft = cs_draft_free(warm->draft);
	cs_spawn_closep(&warm->session);
}

static void tell(const char *template, const char *what)
{
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "%s: %s\n", template, what);
}

/* ---- the guest that is saved ---------------------------------------------------------------- */

static int boot(struct warm *warm, struct cs_err *err)
{
	struct cs_card *card = &warm->session.card;
	struct cs_spawner spawner = {
		.store = warm->session.store,
		.template = warm->session.template,
		.kvm = warm->session.kvm,
		.card = card,
		.prefix = GUEST_PREFIX,
		.create = true,
		.wait = true,
		.timeout_ms = warm->timeout_ms,
		.guests = &warm->guest,
		.n = 1,
	};
	int r;

	r = cs_spawn_own(card, err);
	if (r == 0)
		r = cs_spawner_names(&spawner, NULL, err);
	return r < 0 ? r : cs_spawner_run(&spawner, err);
}

/* 0: it has succeeded, 1: not yet. */
static int try_ready(const struct cs_cmd_guest *guest, const char *line, int null_fd,
		     struct cs_err *err)
{
	char *const argv[] = { (char *)"/bin/sh", (char *)"-c", (char *)line, NULL };
	const struct cs_exec_spec spec = {
		.argv = argv,
		.in_fd = -1,
		.out_fd = null_fd,
		.err_fd = null_fd,
	};
	int r, status;

	r = cs_client_exec(guest->dirfd, &spec, &status, err);
	return r < 0 ? r : status != 0;
}

static int wait_ready(const struct warm *warm, const struct cs_cmd_guest *guest, struct cs_err *err)
{
	const char *line = warm->options->ready;
	const uint64_t end = cs_cmd_now_ms() + warm->timeout_ms;
	cs_auto(cs_fd_closep) int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	int r;

	if (null_fd < 0)
		return cs_fail_errno(err, errno, "/dev/null");
	for (;;) {
		r = try_ready(guest, line, null_fd, err);
		if (r <= 0)
			return r;
		if (cs_cmd_now_ms() >= end)
			return cs_fail(err, ETIMEDOUT,
				       "--ready-cmd '%.100s' has not succeeded in %llu s (see "
				       "--timeout)",
				       line, (unsigned long long)(warm->timeout_ms / 1000));
		nanosleep(&(struct timespec){ .tv_nsec = RETRY_NS }, NULL);
	}
}

static int save_guest(struct warm *warm, struct cs_err *err)
{
	cs_auto(cs_cmd_guest_closep) struct cs_cmd_guest guest = { .dirfd = -1 };
	const char *name = warm->session.card.template;
	int r;

	r = cs_cmd_guest_open(warm->session.store, warm->guest.name, &guest, err);
	if (r == 0 && warm->options->ready) {
		tell(name, "waiting for --ready-cmd");
		r = wait_ready(warm, &guest, err);
	}
	if (r < 0)
		return r;
	tell(name, "saving it");
	return cs_cmd_save(&guest, warm->draft, "drop sync", &warm->result, err);
}

/* It was there and is no more, and that is why (r): then its COMMAND has ended. */
static int explain(const struct warm *warm, int r, struct cs_err *err)
{
	const char *guest = warm->guest.name, *command = warm->options->run;
	cs_auto(cs_card_freep) struct cs_card *card = NULL;
	cs_auto(cs_mem_freep) char *said = NULL;

	for (unsigned waited = 0; waited < ENDING_MS; waited += RETRY_NS / 1000000) {
		card = cs_card_free(card);
		if (cs_card_load(warm->session.store, guest, &card, NULL) < 0)
			return r;
		if (card->state != CS_GUEST_RUNNING)
			break;
		nanosleep(&(struct timespec){ .tv_nsec = RETRY_NS }, NULL);
	}
	if (card->state == CS_GUEST_RUNNING || (!command && !warm->session.card.command))
		return r;
	said = cs_cmd_last_line(warm->session.store, guest, "console.log");
	return cs_fail(err, ECHILD, "%s%.100s%s has ended with status %d before it was saved%s%s",
		       command ? "--run '" : "", command ? command : "COMMAND", command ? "'" : "",
		       card->exit_status, said ? "; the guest's last words: " : "",
		       said ? said : "");
}

static int save(struct warm *warm, struct cs_err *err)
{
	int r;

	tell(warm->session.card.template, "booting a guest");
	r = boot(warm, err);
	if (r < 0)
		return r;
	r = save_guest(warm, err);
	return r >= 0 || r == -ETIMEDOUT ? r : explain(warm, r, err);
}

/* ---- the command ---------------------------------------------------------------------------- */

static int prepare(const struct cs_globals *globals, struct warm *warm, struct cs_spawn_options *o,
		   struct cs_err *err)
{
	const char *timeout = warm->options->timeout ? warm->options->timeout : TIMEOUT_DEFAULT;
	uint64_t seconds;
	int r;

	r = cs_cmd_number("timeout", timeout, 1, TIMEOUT_MAX, &seconds, err);
	if (r < 0)
		return r;
	warm->timeout_ms = seconds * 1000;
	o->no_spares = true;
	r = cs_spawn_open(globals, o, &warm->session, err);
	if (r < 0)
		return r;
	return cs_draft_create_version(warm->session.store, warm->session.template, &warm->draft,
				       err);
}

static const struct cs_column columns[] = {
	{ "template", "TEMPLATE", CS_CELL_TEXT },      { "version", "VERSION", CS_CELL_TEXT },
	{ "ram_bytes", "MEMORY", CS_CELL_BYTES },      { "vcpus", "VCPUS", CS_CELL_COUNT },
	{ "written_bytes", "WRITTEN", CS_CELL_BYTES },
};

static int print_warm(const struct cs_globals *globals, const struct warm *warm, struct cs_err *err)
{
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	const struct cs_card *card = &warm->session.card;
	int r;

	r = cs_report_open(columns, sizeof(columns) / sizeof(columns[0]), &report, err);
	if (r < 0)
		return r;
	cs_report_row(report);
	cs_report_text(report, "template", card->template);
	cs_report_text(report, "version", cs_draft_version(warm->draft));
	cs_report_number(report, "ram_bytes", card->ram_bytes);
	cs_report_number(report, "vcpus", card->vcpus);
	cs_report_number(report, "written_bytes", warm->result.bytes);
	return cs_cmd_print(globals, report, CS_FORMAT_RECORD, err);
}

/* Fits it into a manifest? */
static bool keeps(char ret[CS_WARM_TEXT], const char *line)
{
	const char *text = line ? line : "";

	for (const char *c = text; *c; c++) {
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			return false;
	}
	return snprintf(ret, CS_WARM_TEXT, "%s", text) < CS_WARM_TEXT;
}

/* How it was made, so that an update can do it again. */
static void note_how(const struct warm_options *o, struct cs_manifest_saved *saved)
{
	const bool more = (o->spawn.command && !o->run) || o->spawn.env.n || o->spawn.append;

	saved->warmed = !more && keeps(saved->run, o->run) && keeps(saved->ready, o->ready);
	if (!saved->warmed)
		saved->run[0] = saved->ready[0] = '\0';
}

/* The template is made; what cannot be learned of it costs its clones some time only. */
static void learn(const struct cs_globals *globals, const struct warm *warm)
{
	char name[2 * CS_VERSION_TEXT];
	struct cs_learned learned;
	struct cs_err err = { 0 }, why = { 0 };

	snprintf(name, sizeof(name), "%s@%s", warm->session.card.template,
		 cs_draft_version(warm->draft));
	tell(warm->session.card.template, "looking what its clones write to");
	if (cs_cmd_learn(globals, name, &learned, &why) == 0)
		return;
	cs_fail(&err, why.code,
		"it is warm, but its clones start a little slower (clearstore template learn %s): "
		"%s",
		name, why.text);
	cs_cmd_complain(&err);
}

/* All of it; (warm) has the result. */
static int make(const struct cs_globals *globals, struct warm *warm, struct warm_options *o,
		struct cs_err *err)
{
	struct cs_template_user user = { .find = cs_card_find_user };
	char *line[] = { (char *)"/bin/sh", (char *)"-c", o->run, NULL };
	sigset_t before;
	int r;

	o->spawn.cold = true;
	if (o->run)
		o->spawn.command = line;
	r = prepare(globals, warm, &o->spawn, err);
	if (r < 0)
		return r;
	cs_spawn_hold_signals(&before);
	r = save(warm, err);
	cs_spawner_take_back(warm->session.store, &warm->guest);
	sigprocmask(SIG_SETMASK, &before, NULL);
	o->spawn.command = o->run ? NULL : o->spawn.command; /* it was ours */
	user.arg = warm->session.store;
	if (r == 0) {
		note_how(o, &cs_draft_manifest(warm->draft)->saved);
		r = cs_draft_publish(warm->draft, &user, err);
	}
	if (r == 0)
		learn(globals, warm);
	return r < 0 ? cs_fail_in(err, r, "template '%s'", warm->session.card.template) : 0;
}

int cs_cmd_warm_like(const struct cs_globals *globals, const char *template,
		     const struct cs_manifest_saved *saved, char version[CS_VERSION_TEXT],
		     struct cs_err *err)
{
	cs_auto(cs_mem_freep) char *run = saved->run[0] ? strdup(saved->run) : NULL;
	char memory[32], vcpus[16];
	struct warm_options o = {
		.spawn = { .template = template, .memory = memory, .vcpus = vcpus },
		.run = run,
		.ready = saved->ready[0] ? saved->ready : NULL,
	};
	cs_auto(warm_release) struct warm warm = { .options = &o };
	int r;

	if (saved->run[0] && !run)
		return cs_fail_errno(err, ENOMEM, "template '%s'", template);
	snprintf(memory, sizeof(memory), "%llu", (unsigned long long)saved->ram_bytes);
	snprintf(vcpus, sizeof(vcpus), "%u", saved->vcpus);
	r = make(globals, &warm, &o, err);
	if (r == 0)
		snprintf(version, CS_VERSION_TEXT, "%s", cs_draft_version(warm.draft));
	return r;
}

static int run(const struct cs_globals *globals, void *opts, struct cs_err *err)
{
	struct warm_options *o = opts;
	cs_auto(cs_words_freep) struct cs_words env = o->spawn.env;
	cs_auto(warm_release) struct warm warm = { .options = o };
	int r;

	r = make(globals, &warm, o, err);
	return r < 0 ? r : print_warm(globals, &warm, err);
}

static const struct argp_child children[] = {
	{ &cs_spawn_argp, 0, NULL, 0 },
	{ 0 },
};

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "TEMPLATE [-- COMMAND...]",
	.doc = "Boot a guest of a template, wait until it is ready, and keep its memory with the "
	       "template: guests spawned from then on go on from there instead of booting."
	       "\vThe template gets a new version, which new guests use; those that there are keep "
	       "theirs. Only guests of the same --memory and --vcpus can go on from it, others "
	       "boot. A template that is warm already is made so anew.\n",
	.children = children,
};

const struct cs_command cs_cmd_template_warm = {
	.name = "warm",
	.summary = "Keep a booted guest with a template, so that others need not boot",
	.argp = &argp,
	.options_bytes = sizeof(struct warm_options),
	.reports = true,
	.run = run,
};
