/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* spawn: new guests of a template. */
#include "vmm/cmd-spawner.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cow/spare.h"
#include "store/base/guest.h"
#include "store/base/name.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "store/manifest.h"
#include "store/rootfs.h"
#include "vmm/command.h"

#define COUNT_MAX 65536

enum {
	KEY_APPEND = 0x100,
	KEY_COLD,
	KEY_COUNT,
	KEY_DISK,
	KEY_INIT,
	KEY_OVERCOMMIT,
	KEY_PERSIST,
	KEY_SHARE_DOMAIN,
	KEY_VCPUS,
	KEY_WAIT,
};

/* ---- options ------------------------------------------------------------------------------- */

static const struct argp_option shared_options[] = {
	{ "name", 'n', "NAME", 0, "Name of the guest (default: TEMPLATE-1, -2, ...)", 1 },
	{ "memory", 'm', "SIZE", 0, "Memory of a guest (default: " CS_SPAWN_MEMORY ")", 1 },
	{ "vcpus", KEY_VCPUS, "N", 0, "Virtual CPUs of a guest (default: 1)", 1 },
	{ "env", 'e', "NAME=VALUE", 0, "Put this into COMMAND's environment; any number of times",
	  1 },
	{ "append", KEY_APPEND, "ARGS", 0, "Add ARGS to the kernel's command line", 1 },
	{ "overcommit", KEY_OVERCOMMIT, NULL, 0,
	  "Also when the host will not have the memory for it", 1 },
	{ "cold", KEY_COLD, NULL, 0, "Boot, also when the template holds a booted machine", 1 },
	{ 0 },
};

static error_t parse_shared(int key, char *arg, struct argp_state *state)
{
	struct cs_spawn_options *o = state->input;

	switch (key) {
	case 'n':
		o->name = arg;
		return 0;
	case 'm':
		o->memory = arg;
		return 0;
	case KEY_VCPUS:
		o->vcpus = arg;
		return 0;
	case 'e':
		return cs_words_add(&o->env, arg) ? 0 : ENOMEM;
	case KEY_APPEND:
		o->append = arg;
		return 0;
	case KEY_OVERCOMMIT:
		o->overcommit = true;
		return 0;
	case KEY_COLD:
		o->cold = true;
		return 0;
	case ARGP_KEY_ARG:
		if (!o->template)
			o->template = arg;
		else
			o->command = cs_argp_rest(state);
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "no template given");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

const struct argp cs_spawn_argp = { .options = shared_options, .parser = parse_shared };

int cs_spawn_memory(const char *what, const char *text, uint64_t host_bytes, uint64_t *ret,
		    struct cs_err *err)
{
	char have[CS_BYTES_TEXT], least[CS_BYTES_TEXT];
	struct cs_ram plan;
	uint64_t bytes;
	int r;

	r = cs_parse_bytes(text, &bytes);
	if (r == -ERANGE)
		bytes = UINT64_MAX;
	else if (r < 0)
		return cs_fail(err, EINVAL, "%s '%.40s': not a size (try " CS_SPAWN_MEMORY ")",
			       what, text);
	if (bytes < CS_RAM_MIN)
		return cs_fail(err, EINVAL,
			       "%s '%.40s': too little, a guest needs %s (try " CS_SPAWN_MEMORY ")",
			       what, text, cs_format_bytes(CS_RAM_MIN, least));
	if (host_bytes && bytes > host_bytes)
		return cs_fail(err, EINVAL,
			       "%s '%.40s': more than the %s of the host (try " CS_SPAWN_MEMORY ")",
			       what, text, cs_format_bytes(host_bytes, have));
	r = cs_ram_plan(bytes, 0, &plan, err);
	if (r < 0)
		return cs_fail_in(err, r, "%s '%.40s'", what, text);
	*ret = bytes;
	return 0;
}

static int check_names(const struct cs_spawn_options *o, uint64_t count, struct cs_err *err)
{
	char last[80];
	int r;

	if (!o->name)
		return 0;
	r = cs_name_check("guest", o->name, err);
	if (r < 0 || count == 1)
		return r;
	snprintf(last, sizeof(last), "%.63s-%" PRIu64, o->name, count);
	return cs_name_check("guest", last, err);
}

static int parse_disk(const char *text, uint64_t *ret, struct cs_err *err)
{
	char least[CS_BYTES_TEXT], most[CS_BYTES_TEXT];
	uint64_t bytes;
	int r;

	r = cs_parse_bytes(text, &bytes);
	if (r < 0 && r != -ERANGE)
		return cs_fail(err, EINVAL, "disk '%.40s': not a size (try 1G)", text);
	if (r < 0 || bytes < CS_DISK_MIN || bytes > CS_DISK_MAX)
		return cs_fail(err, EINVAL, "disk '%.40s': not between %s and %s", text,
			       cs_format_bytes(CS_DISK_MIN, least),
			       cs_format_bytes(CS_DISK_MAX, most));
	*ret = cs_align_down(bytes, CS_MIB);
	return 0;
}

/* What can be checked before anything is opened. */
static int check_options(const struct cs_spawn_options *o, struct cs_spawn_session *session,
			 struct cs_err *err)
{
	uint64_t count = 1, vcpus = 1;
	int r;

	if (o->count) {
		r = cs_cmd_number("count", o->count, 1, COUNT_MAX, &count, err);
		if (r < 0)
			return r;
	}
	r = check_names(o, count, err);
	if (r < 0)
		return r;
	if (o->share_domain) {
		r = cs_name_check("share domain", o->share_domain, err);
		if (r < 0)
			return r;
	}
	if (o->disk) {
		r = parse_disk(o->disk, &session->card.disk_bytes, err);
		if (r < 0)
			return r;
	}
	if (o->vcpus) {
		r = cs_cmd_number("vcpus", o->vcpus, 1, CS_SPAWN_VCPUS_MAX, &vcpus, err);
		if (r < 0)
			return r;
	}
	r = cs_spawn_memory("memory", o->memory ? o->memory : CS_SPAWN_MEMORY,
			    cs_cmd_meminfo(AT_FDCWD, "MemTotal"), &session->card.ram_bytes, err);
	if (r < 0)
		return r;
	session->count = count;
	session->card.vcpus = (unsigned)vcpus;
	return cs_cmd_env_check(&o->env, err);
}

/* What is not asked for is as the template's machine is; and when all is as that, guests go on from
 * it. What differs, or can only be told to a kernel that boots, makes them boot: who expects
 * milliseconds is told. */
static void choose_machine(const struct cs_spawn_options *o, struct cs_spawn_session *session)
{
	const struct cs_manifest *manifest = cs_template_manifest(session->template);
	const struct cs_manifest_saved *saved = &manifest->saved;
	struct cs_card *card = &session->card;
	char memory[CS_BYTES_TEXT];

	if (!saved->present || o->cold)
		return;
	if (!o->memory)
		card->ram_bytes = saved->ram_bytes;
	if (!o->vcpus)
		card->vcpus = saved->vcpus;
	card->resume =
		!o->init && !o->append &&
		(!card->disk_bytes || card->disk_bytes == manifest->part[CS_PART_DISK].bytes) &&
		cs_template_resumes(session->template, card->ram_bytes, card->vcpus, o->persist);
	if (!card->resume) {
		fprintf(stderr,
			"clearstore: template '%s': guests boot: its saved machine has %s, %u "
			"vCPU%s, %s disk%s, and takes no --append and no --init\n",
			cs_template_name(session->template),
			cs_format_bytes(saved->ram_bytes, memory), saved->vcpus,
			saved->vcpus == 1 ? "" : "s", saved->disk ? "a" : "no",
			saved->disk && card->disk_bytes ? " of the template's size" : "");
	}
}

/* Machines that are there already (clearstore spare) have what is usual; and where there are not
 * enough of them KVM is opened, and all are made: they are for those who cannot wait. */
static void look_for_spares(const struct cs_spawn_options *o, struct cs_spawn_session *session)
{
	const struct cs_card *card = &session->card;

	if (!o->no_spares && card->resume && !o->persist && !o->share_domain)
		session->spares = cs_spare_count(session->store, card);
	if (session->spares < session->count)
		session->spares = 0;
}

static int fill_card(const struct cs_spawn_options *o, struct cs_spawn_session *session,
		     struct cs_err *err)
{
	struct cs_card *card = &session->card;
	struct cs_host_kvm_info host;

	if (session->kvm)
		cs_host_kvm_info(session->kvm, &host);
	if (session->kvm && host.max_vcpus && card->vcpus > host.max_vcpus)
		return cs_fail(err, EINVAL, "vcpus '%s': this host's KVM gives a guest %u at most",
			       o->vcpus, host.max_vcpus);
	card->persist = o->persist;
	card->run_init = o->init;
	snprintf(card->share_domain, sizeof(card->share_domain), "%s",
		 o->share_domain ? o->share_domain : "");
	card->created = time(NULL);
	card->command = o->command;
	card->env = o->env.v;
	card->append = (char *)o->append; /* lent: this card is never freed */
	return 0;
}

void cs_spawn_closep(struct cs_spawn_session *session)
{
	cs_host_kvm_freep(&session->kvm);
	cs_template_freep(&session->template);
	cs_store_freep(&session->store);
}

int cs_spawn_own(struct cs_card *card, struct cs_err *err)
{
	int r;

	card->remove_on_exit = true;
	card->owner_pid = getpid();
	r = cs_process_start(card->owner_pid, &card->owner_start_ticks);
	return r < 0 ? cs_fail_errno(err, r, "cannot read our own start time from /proc") : 0;
}

void cs_spawn_hold_signals(sigset_t *ret_before)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaddset(&set, signals[i]);
	sigprocmask(SIG_BLOCK, &set, ret_before);
}

int cs_spawn_open(const struct cs_globals *globals, const struct cs_spawn_options *o,
		  struct cs_spawn_session *ret, struct cs_err *err)
{
	cs_auto(cs_spawn_closep) struct cs_spawn_session session = { 0 };
	int r;

	r = check_options(o, &session, err);
	if (r < 0)
		return r;
	cs_spawner_prepare();
	r = cs_cmd_store_open(globals, &session.store, err);
	if (r < 0)
		return r;
	r = cs_template_open(session.store, o->template, &session.template, err);
	if (r < 0)
		return r;
	choose_machine(o, &session);
	snprintf(session.card.template, sizeof(session.card.template), "%s",
		 cs_template_name(session.template));
	snprintf(session.card.version, sizeof(session.card.version), "%s",
		 cs_template_version(session.template));
	look_for_spares(o, &session);
	r = session.spares ? 0 : cs_spawner_kvm_open(&session.kvm, err);
	if (r < 0)
		return r;
	r = fill_card(o, &session, err);
	if (r == 0 && !o->overcommit)
		r = cs_spawn_admit(&session, err);
	if (r < 0)
		return r;
	*ret = session;
	session = (struct cs_spawn_session){ 0 };
	return 0;
}

/* ---- spawn --------------------------------------------------------------------------------- */

static const struct argp_option spawn_options[] = {
	{ "count", KEY_COUNT, "N", 0, "Spawn N guests: NAME-1, NAME-2, ... (default: 1)", 1 },
	{ "persist", KEY_PERSIST, NULL, 0,
	  "Keep what the guest writes: a disk of its own, there again after stop and start", 1 },
	{ "disk", KEY_DISK, "SIZE", 0,
	  "The disk, and so the guest's share of the store, is so large (default: that of the "
	  "template); implies --persist",
	  1 },
	{ "init", KEY_INIT, NULL, 0,
	  "Hand PID 1 to the template's own /sbin/init, a whole distribution as the guest", 1 },
	{ "share-domain", KEY_SHARE_DOMAIN, "NAME", 0,
	  "Guests of this trust domain may have what they wrote merged (default: none)", 1 },
	{ "wait", KEY_WAIT, NULL, 0, "Return when the guests answer, not when they run", 1 },
	{ 0 },
};

static error_t parse_spawn(int key, char *arg, struct argp_state *state)
{
	struct cs_spawn_options *o = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = o;
		return 0;
	case KEY_COUNT:
		o->count = arg;
		return 0;
	case KEY_PERSIST:
		o->persist = true;
		return 0;
	case KEY_DISK:
		o->disk = arg;
		o->persist = true;
		return 0;
	case KEY_INIT:
		o->init = true;
		return 0;
	case KEY_SHARE_DOMAIN:
		o->share_domain = arg;
		return 0;
	case KEY_WAIT:
		o->wait = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct cs_column columns[] = {
	{ "name", "NAME", CS_CELL_TEXT },    { "template", "TEMPLATE", CS_CELL_TEXT },
	{ "pid", "PID", CS_CELL_COUNT },     { "running_ms", "RUNNING", CS_CELL_MS },
	{ "ready_ms", "READY", CS_CELL_MS },
};

/* For people just the names, one a line, so that they can be handed to the next command. */
static int print_spawned(const struct cs_globals *globals, const struct cs_spawner *s,
			 struct cs_err *err)
{
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	int r;

	r = cs_report_open(columns, sizeof(columns) / sizeof(columns[0]), &report, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < s->n; i++) {
		const struct cs_spawn_guest *guest = &s->guests[i];

		if (guest->state != CS_SPAWN_RUNNING && guest->state != CS_SPAWN_READY)
			continue;
		if (!globals->json)
			puts(guest->name);
		cs_report_row(report);
		cs_report_text(report, "name", guest->name);
		cs_report_text(report, "template", s->card->template);
		cs_report_number(report, "pid", (uint64_t)guest->pid);
		cs_report_real(report, "running_ms", (double)guest->running_us / 1000);
		if (guest->ready_us)
			cs_report_real(report, "ready_ms", (double)guest->ready_us / 1000);
	}
	return globals->json ? cs_cmd_print(globals, report, CS_FORMAT_JSON, err) : 0;
}

static int run_spawn(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	struct cs_spawn_options *o = options;
	cs_auto(cs_words_freep) struct cs_words env = o->env;
	cs_auto(cs_mem_freep) struct cs_spawn_guest *guests = NULL;
	cs_auto(cs_spawn_closep) struct cs_spawn_session session = { 0 };
	int r, printed;

	r = cs_spawn_open(globals, o, &session, err);
	if (r < 0)
		return r;
	guests = calloc(session.count, sizeof(*guests));
	if (!guests)
		return cs_fail_errno(err, ENOMEM, "%zu guests", session.count);

	struct cs_spawner spawner = {
		.store = session.store,
		.template = session.template,
		.kvm = session.kvm,
		.spares = session.spares,
		.card = &session.card,
		.prefix = o->name ? NULL : session.card.template,
		.create = true,
		.wait = o->wait,
		.guests = guests,
		.n = session.count,
	};
	r = cs_spawner_names(&spawner, o->name, err);
	if (r < 0)
		return r;
	r = cs_spawner_run(&spawner, err);
	/* Those that run are told also when others failed. */
	printed = print_spawned(globals, &spawner, r < 0 ? NULL : err);
	return r < 0 ? r : printed;
}

static const struct argp_child spawn_children[] = {
	{ &cs_spawn_argp, 0, NULL, 0 },
	{ 0 },
};

static const struct argp spawn_argp = {
	.options = spawn_options,
	.parser = parse_spawn,
	.args_doc = "TEMPLATE [-- COMMAND...]",
	.doc = "Make new guests of a template and start them; print their names. They go on when "
	       "the terminal closes. With COMMAND, each runs it."
	       "\vA guest is named NAME, or NAME-1, NAME-2, ... with --count; without --name after "
	       "its template. What guests write is gone when they stop, unless --persist.\n",
	.children = spawn_children,
};

const struct cs_command cs_cmd_spawn = {
	.name = "spawn",
	.summary = "Make new guests of a template and start them",
	.argp = &spawn_argp,
	.options_bytes = sizeof(struct cs_spawn_options),
	.reports = true,
	.run = run_spawn,
};
