/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* plan: how many guests a host of some size carries, and what each of them costs it. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cow/card.h"
#include "ksm/cost.h"
#include "ksm/meter.h"
#include "ksm/plan.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "store/manifest.h"
#include "store/template.h"
#include "vmm/cmd-common.h"
#include "vmm/cmd-spawner.h"
#include "vmm/command.h"
#include "vmm/kvm.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

/* Each that is measured costs a walk over its page tables. */
#define SAMPLES 64
/* Of a template that is not named: a small distribution, and what its booted machine had written.
 */
#define ROOT_ASSUMED   (256 * CS_MIB)
#define MEMORY_ASSUMED (32 * CS_MIB)

enum {
	KEY_GUEST_MEMORY = 0x100,
	KEY_VCPUS,
};

struct plan_options {
	const char *memory, *template, *guest_memory, *vcpus;
};

static const struct argp_option plan_options[] = {
	{ "memory", 'm', "SIZE", 0, "Memory of the host (default: this host's)", 1 },
	{ "template", 't', "TEMPLATE", 0, "Guests of this one (default: of one that is assumed)",
	  1 },
	{ "guest-memory", KEY_GUEST_MEMORY, "SIZE", 0, "Memory of a guest (default: as spawn's)",
	  1 },
	{ "vcpus", KEY_VCPUS, "N", 0, "Virtual CPUs of a guest (default: as spawn's)", 1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct plan_options *o = state->input;

	switch (key) {
	case 'm':
		o->memory = arg;
		return 0;
	case 't':
		o->template = arg;
		return 0;
	case KEY_GUEST_MEMORY:
		o->guest_memory = arg;
		return 0;
	case KEY_VCPUS:
		o->vcpus = arg;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "'%s': nothing goes here", arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* What is asked about, and what is found out about it. */
struct planning {
	const struct plan_options *o;
	struct cs_store *store;       /* NULL: no template is named */
	struct cs_template *template; /* as well */
	struct cs_cost_kind kind;
	struct cs_plan_host host;
	uint64_t root_shared_bytes, memory_shared_bytes;
	bool own_measured, paging_known;
	/* of the guests that run */
	struct cs_cost_sample sample[SAMPLES];
	size_t samples, unseen;
	uint64_t guests, guests_bytes; /* of all templates, without KVM's tables */
	struct cs_cost_seen idle_seen, busy_seen;
};

static void planning_closep(struct planning *p)
{
	p->template = cs_template_free(p->template);
	p->store = cs_store_free(p->store);
}

/* ---- what is asked ------------------------------------------------------------------------- */

static int host_size(struct planning *p, struct cs_err *err)
{
	int r;

	p->host.memory_bytes = cs_cmd_meminfo(AT_FDCWD, "MemTotal");
	if (!p->o->memory)
		return p->host.memory_bytes ? 0
					    : cs_fail(err, EINVAL,
						      "cannot tell the memory of this host (give "
						      "--memory)");
	r = cs_parse_bytes(p->o->memory, &p->host.memory_bytes);
	if (r < 0)
		return cs_fail(err, EINVAL, "memory '%.40s': not a size (try 128G)", p->o->memory);
	p->host.installed = true;
	return 0;
}

/* Of a part on persistent memory nothing is in the page cache. */
static uint64_t cached(const struct cs_manifest *manifest, enum cs_part part)
{
	const struct cs_manifest_part *p = &manifest->part[part];

	return p->present && p->media == CS_MEDIA_FILE ? p->stored_bytes : 0;
}

static int guest_kind(struct planning *p, struct cs_err *err)
{
	const char *memory = p->o->guest_memory ? p->o->guest_memory : CS_SPAWN_MEMORY;
	const struct cs_manifest *manifest = p->template ? cs_template_manifest(p->template) : NULL;
	const struct cs_manifest_saved *saved = manifest ? &manifest->saved : NULL;
	uint64_t vcpus = saved && saved->present ? saved->vcpus : 1;
	int r;

	if (p->o->vcpus) {
		r = cs_cmd_number("vcpus", p->o->vcpus, 1, CS_SPAWN_VCPUS_MAX, &vcpus, err);
		if (r < 0)
			return r;
	}
	p->kind.vcpus = (unsigned)vcpus;
	r = cs_spawn_memory("guest memory", memory, p->host.memory_bytes, &p->kind.ram_bytes, err);
	if (r < 0)
		return r;
	if (!manifest) {
		p->kind.root_bytes = p->root_shared_bytes = ROOT_ASSUMED;
		p->memory_shared_bytes = MEMORY_ASSUMED;
		p->kind.warm = true;
		return 0;
	}
	if (!p->o->guest_memory && saved->present)
		p->kind.ram_bytes = saved->ram_bytes;
	p->kind.warm = cs_template_resumes(p->template, p->kind.ram_bytes, p->kind.vcpus, false);
	p->kind.root_bytes = manifest->part[CS_PART_ROOT].bytes;
	p->root_shared_bytes = cached(manifest, CS_PART_ROOT);
	p->memory_shared_bytes = p->kind.warm ? cached(manifest, CS_PART_MEMORY) : 0;
	return 0;
}

/* As on this host; where that cannot be asked, as on most. */
static void ask_paging(struct planning *p)
{
	cs_auto(cs_host_kvm_freep) struct cs_host_kvm *kvm = NULL;
	struct cs_host_kvm_info info;

	if (cs_spawner_kvm_open(&kvm, NULL) < 0)
		return;
	cs_host_kvm_info(kvm, &info);
	p->kind.shadow_paging = !info.nested_paging;
	p->paging_known = true;
}

/* ---- what runs ----------------------------------------------------------------------------- */

static bool alike(const struct planning *p, const struct cs_card *card)
{
	return card->ram_bytes == p->kind.ram_bytes && card->vcpus == p->kind.vcpus &&
	       card->resume == p->kind.warm &&
	       strcmp(card->template, cs_template_name(p->template)) == 0 &&
	       strcmp(card->version, cs_template_version(p->template)) == 0;
}

static int sample(const struct cs_card *card, struct cs_cost_sample *ret)
{
	struct cs_meter_process process;
	uint64_t monitor;
	int r;

	r = cs_meter_process("/proc", card->pid, &process, NULL);
	if (r == 0)
		r = cs_meter_monitor("/proc", card->pid, &monitor);
	if (r < 0)
		return r;
	/* They are read one after the other, of a process that runs. */
	if (monitor > process.pss_anon_bytes)
		monitor = process.pss_anon_bytes;
	*ret = (struct cs_cost_sample){ .private_bytes = process.pss_anon_bytes - monitor,
					.monitor_bytes = monitor,
					.page_table_bytes = process.page_table_bytes };
	return 0;
}

static int look(const struct cs_card *card, void *arg)
{
	struct planning *p = arg;
	struct cs_cost_seen one = { .guests = 1 };
	struct cs_cost_kind kind = p->kind;
	struct cs_cost cost;
	int r;

	if (card->state != CS_GUEST_RUNNING)
		return 0;
	r = cs_meter_private("/proc", card->pid, &one.private_bytes);
	if (r < 0)
		return 0; /* it ends just now */
	/* Guests of other templates are taken to have a root like this one's. */
	kind.ram_bytes = card->ram_bytes;
	kind.vcpus = card->vcpus;
	cost = cs_cost_of(&kind, &one);
	p->guests++;
	p->guests_bytes += cost.bytes - cost.part[CS_COST_KVM_TABLES];
	if (p->samples == SAMPLES || !alike(p, card))
		return 0;
	r = sample(card, &p->sample[p->samples]);
	p->samples += r == 0;
	p->unseen += r < 0 && r != -ESRCH;
	return 0;
}

/* Guests of the template, and the host around them. */
static int survey(struct planning *p, struct cs_err *err)
{
	struct cs_meter_host host;
	int r;

	p->host.own_bytes = CS_PLAN_OWN_BYTES;
	if (!p->store)
		return 0;
	r = cs_card_each(p->store, look, p, err);
	if (r == 0)
		r = cs_meter_host("/proc", &host, err);
	if (r < 0)
		return r;
	if (p->unseen)
		fprintf(stderr, "clearstore: %zu guests cannot be looked into (be root)\n",
			p->unseen);
	cs_cost_sort(p->sample, p->samples, &p->idle_seen, &p->busy_seen);
	p->idle_seen.kvm_guests = p->busy_seen.kvm_guests = p->guests;
	p->idle_seen.kvm_table_bytes = p->busy_seen.kvm_table_bytes = host.sec_page_table_bytes;
	p->host.own_bytes = cs_plan_own(host.total_bytes, host.available_bytes,
					p->guests_bytes + host.sec_page_table_bytes);
	p->own_measured = true;
	return 0;
}

/* ---- what is printed ----------------------------------------------------------------------- */

static const struct cs_column columns[] = {
	{ "kind", "WHAT", CS_CELL_TEXT },      { "name", "PART", CS_CELL_TEXT },
	{ "bytes", "BYTES", CS_CELL_BYTES },   { "busy_bytes", "AFTER A COMMAND", CS_CELL_BYTES },
	{ "guests", "GUESTS", CS_CELL_COUNT }, { "source", "FROM", CS_CELL_TEXT },
	{ "how", "HOW", CS_CELL_TEXT },
};

#define HOW_TEXT 160

static void row(struct cs_report *report, const char *kind, const char *name, uint64_t bytes)
{
	cs_report_row(report);
	cs_report_text(report, "kind", kind);
	cs_report_text(report, "name", name);
	cs_report_number(report, "bytes", bytes);
}

static void from(struct cs_report *report, const char *source, const char *how)
{
	cs_report_text(report, "source", source);
	cs_report_text(report, "how", how);
}

static const char *counted(uint64_t n, const char *what, char text[HOW_TEXT])
{
	snprintf(text, HOW_TEXT, "%" PRIu64 " guest%s%s", n, n == 1 ? "" : "s", what);
	return text;
}

static const char *how_private(const struct planning *p, const struct cs_cost *idle,
			       char text[HOW_TEXT])
{
	char more[CS_BYTES_TEXT], then[HOW_TEXT], first[HOW_TEXT];

	if (p->busy_seen.guests)
		counted(p->busy_seen.guests, " at work", then);
	else
		snprintf(then, sizeof(then), "by the model %s more",
			 cs_format_bytes(CS_COST_COMMAND_BYTES, more));
	if (idle->measured[CS_COST_PRIVATE])
		counted(p->idle_seen.guests, "", first);
	else
		snprintf(first, sizeof(first), "%s",
			 p->kind.warm ? "goes on from a saved machine" : "boots");
	snprintf(text, HOW_TEXT, "%.60s; after a command: %.60s", first, then);
	return text;
}

static const char *how_part(const struct planning *p, const struct cs_cost *idle,
			    enum cs_cost_part part, char text[HOW_TEXT])
{
	const char *paging = p->kind.shadow_paging ? "shadow paging" : "nested paging";
	const char *known = p->paging_known ? "" : " (assumed)";

	if (part == CS_COST_PRIVATE)
		return how_private(p, idle, text);
	if (part == CS_COST_KVM_TABLES && idle->measured[part])
		return counted(p->guests, " of the store; SecPageTables of the host", text);
	if (idle->measured[part])
		return counted(p->idle_seen.guests, "", text);
	switch (part) {
	case CS_COST_KVM_TABLES:
		snprintf(text, HOW_TEXT, "%s%s", paging, known);
		return text;
	case CS_COST_SLOTS:
		snprintf(text, HOW_TEXT, "%u bytes for each page of memory and root, %s%s",
			 cs_cost_slot_page_bytes(&p->kind), paging, known);
		return text;
	case CS_COST_VCPUS:
		snprintf(text, HOW_TEXT, "%u", p->kind.vcpus);
		return text;
	default:
		return NULL;
	}
}

static void print_guest(const struct planning *p, struct cs_report *report,
			const struct cs_cost *idle, const struct cs_cost *busy)
{
	static const char *const names[CS_COST_PARTS] = {
		[CS_COST_PRIVATE] = "pages it has written",
		[CS_COST_MONITOR] = "monitor",
		[CS_COST_PAGE_TABLES] = "page tables",
		[CS_COST_KVM_TABLES] = "KVM's page tables",
		[CS_COST_SLOTS] = "KVM's slots",
		[CS_COST_VCPUS] = "vCPUs",
		[CS_COST_KERNEL] = "kernel's structures",
	};
	char text[HOW_TEXT];

	for (size_t i = 0; i < CS_COST_PARTS; i++) {
		row(report, "guest", names[i], idle->part[i]);
		cs_report_number(report, "busy_bytes", busy->part[i]);
		from(report, idle->measured[i] ? "measured" : "model",
		     how_part(p, idle, (enum cs_cost_part)i, text));
	}
	row(report, "guest", "each", idle->bytes);
	cs_report_number(report, "busy_bytes", busy->bytes);
	from(report, "sum", NULL);
}

static void print_host(const struct planning *p, struct cs_report *report,
		       const struct cs_plan *plan)
{
	const char *template = p->template ? "template" : "model";
	const char *assumed = p->template ? NULL : "assumed, as no template is named";

	row(report, "host", "memory", p->host.memory_bytes);
	from(report, p->host.installed ? "given" : "measured",
	     p->host.installed ? NULL : "MemTotal of this host");
	row(report, "host", "page structures", plan->page_struct_bytes);
	from(report, "model", p->host.installed ? "64 bytes for each page" : "not in MemTotal");
	row(report, "host", "used without guests", plan->own_bytes);
	from(report, p->own_measured ? "measured" : "model",
	     p->own_measured ? "this host, now" : NULL);
	row(report, "host", "kept free", plan->reserve_bytes);
	from(report, "model", "as spawn keeps it");
	row(report, "host", "template's root, once", p->root_shared_bytes);
	from(report, template, assumed);
	row(report, "host", "template's memory, once", p->memory_shared_bytes);
	from(report, template, assumed);
	row(report, "host", "left for guests", plan->room_bytes);
	from(report, "sum", NULL);
}

static void print_result(const struct planning *p, struct cs_report *report,
			 const struct cs_plan *plan, const struct cs_cost cost[2])
{
	static const char *const names[] = { "idle", "after a command in each" };

	for (size_t i = 0; i < 2; i++) {
		row(report, "result", names[i], cost[i].bytes);
		cs_report_number(report, "guests", cs_plan_guests(plan, &cost[i]));
		from(report, cost[i].measured[CS_COST_PRIVATE] ? "measured" : "model", NULL);
	}
	row(report, "published", "Clear Containers, by number",
	    CS_PLAN_CLEAR_MEMORY / CS_PLAN_CLEAR_GUESTS);
	cs_report_number(report, "guests", cs_plan_clear(p->host.memory_bytes));
	from(report, "published", "3500 on 128 GB, which is 37 MB each");
	row(report, "published", "Clear Containers, by size", CS_PLAN_CLEAR_EACH);
	cs_report_number(report, "guests", plan->room_bytes / CS_PLAN_CLEAR_EACH);
	from(report, "published", "18 to 20 MB each; the number is ours, by 20");
}

static int run(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	cs_auto(planning_closep) struct planning p = { .o = options };
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	struct cs_cost cost[2];
	struct cs_plan plan;
	int r;

	r = host_size(&p, err);
	if (r == 0 && p.o->template)
		r = cs_cmd_store_open(globals, &p.store, err);
	if (r == 0 && p.o->template)
		r = cs_template_open(p.store, p.o->template, &p.template, err);
	if (r == 0)
		r = guest_kind(&p, err);
	if (r < 0)
		return r;
	ask_paging(&p);
	r = survey(&p, err);
	if (r == 0)
		r = cs_report_open(columns, N(columns), &report, err);
	if (r < 0)
		return r;
	p.host.shared_bytes = p.root_shared_bytes + p.memory_shared_bytes;
	plan = cs_plan_of(&p.host);
	cost[0] = cs_cost_of(&p.kind, &p.idle_seen);
	cost[1] = p.busy_seen.guests ? cs_cost_of(&p.kind, &p.busy_seen)
				     : cs_cost_after_command(&p.kind, &cost[0]);
	print_guest(&p, report, &cost[0], &cost[1]);
	print_host(&p, report, &plan);
	print_result(&p, report, &plan, cost);
	return cs_cmd_print(globals, report, CS_FORMAT_TABLE, err);
}

static const struct argp argp = {
	.options = plan_options,
	.parser = parse,
	.doc = "Say how many guests a host carries, from what each costs, part by part: measured "
	       "where guests of TEMPLATE run on this host, by a model where not; spawn admits by "
	       "the same."
	       "\vTwo numbers: guests that are left alone, and guests that have run something. By "
	       "memory alone: whether the CPUs carry as many is not asked.\n",
};

const struct cs_command cs_cmd_plan = {
	.name = "plan",
	.summary = "Say how many guests a host's memory carries",
	.argp = &argp,
	.options_bytes = sizeof(struct plan_options),
	.reports = true,
	.run = run,
};
