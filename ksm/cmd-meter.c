/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* meter: what all guests cost, and where the host's memory is. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cow/card.h"
#include "ksm/ksm.h"
#include "ksm/meter.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "vmm/cmd-common.h"
#include "vmm/cmd-spawner.h"
#include "vmm/command.h"
#include "vmm/kvm.h"

struct meter_options {
	bool brief;
};

enum {
	KEY_BRIEF = 0x100,
};

static const struct argp_option meter_options[] = {
	{ "brief", KEY_BRIEF, NULL, 0, "Sums only, not each guest", 1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct meter_options *o = state->input;

	switch (key) {
	case KEY_BRIEF:
		o->brief = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "'%s': nothing goes here", arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct cs_column columns[] = {
	{ "kind", "WHAT", CS_CELL_TEXT },
	{ "name", "NAME", CS_CELL_TEXT },
	{ "cost_bytes", "COST", CS_CELL_BYTES },
	{ "part", "PART", CS_CELL_PERCENT },
	{ "private_bytes", "PRIVATE", CS_CELL_BYTES },
	{ "merged_bytes", "MERGED", CS_CELL_BYTES },
	{ "zero_bytes", "ZERO", CS_CELL_BYTES },
	{ "shared_bytes", "SHARED", CS_CELL_BYTES },
	{ "page_table_bytes", "PAGE TABLES", CS_CELL_BYTES },
	{ "pss_bytes", "PSS", CS_CELL_BYTES },
	{ "guests", "GUESTS", CS_CELL_COUNT },
};

struct metering {
	const struct meter_options *o;
	struct cs_report *report;
	struct cs_meter_guest sum;
	size_t guests, unseen;
	uint64_t vcpus;
};

static void fill(struct cs_report *report, const char *kind, const char *name,
		 const struct cs_meter_guest *guest)
{
	cs_report_row(report);
	cs_report_text(report, "kind", kind);
	cs_report_text(report, "name", name);
	cs_report_number(report, "cost_bytes", guest->cost_bytes);
	cs_report_number(report, "private_bytes", guest->private_bytes);
	cs_report_number(report, "merged_bytes", guest->merged_bytes);
	cs_report_number(report, "zero_bytes", guest->zero_bytes);
	cs_report_number(report, "shared_bytes", guest->shared_bytes);
	cs_report_number(report, "page_table_bytes", guest->page_table_bytes);
	cs_report_number(report, "pss_bytes", guest->pss_bytes);
}

static int meter_guest(const struct cs_card *card, void *arg)
{
	struct cs_meter_merging merging = { CS_KSM_UNKNOWN, CS_KSM_UNKNOWN, CS_KSM_UNKNOWN,
					    CS_KSM_UNKNOWN };
	struct metering *m = arg;
	struct cs_meter_process process;
	struct cs_meter_guest guest;
	int r;

	if (card->state != CS_GUEST_RUNNING)
		return 0;
	r = cs_meter_process("/proc", card->pid, &process, NULL);
	if (r < 0) {
		m->unseen += r != -ESRCH; /* one that ends just now costs nothing */
		return 0;
	}
	cs_meter_merging("/proc", card->pid, &merging);
	guest = cs_meter_guest_of(&process, &merging);
	cs_meter_guest_add(&m->sum, &guest);
	m->guests++;
	m->vcpus += card->vcpus;
	if (!m->o->brief)
		fill(m->report, "guest", card->guest, &guest);
	return 0;
}

static void fill_host(struct metering *m, const struct cs_meter_host *host,
		      const struct cs_meter_unlisted *unlisted)
{
	const struct cs_meter_used used = cs_meter_used_of(host, unlisted, &m->sum);
	const double all = used.used_bytes ? (double)used.used_bytes : 1;
	const struct {
		const char *name;
		uint64_t bytes;
	} rows[] = {
		{ "guests", used.guests_bytes },
		{ "KVM's page tables", used.kvm_bytes },
		{ "KVM's spare pages, reckoned", used.spare_bytes },
		{ "other processes", used.others_bytes },
		{ "tmpfs, shared memory", used.tmpfs_bytes },
		{ "kernel", used.kernel_bytes },
		{ "kernel's trace buffers", used.trace_bytes },
		{ "locked page cache", used.locked_bytes },
		{ "held back by the kernel", used.held_back_bytes },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		cs_report_row(m->report);
		cs_report_text(m->report, "kind", "host");
		cs_report_text(m->report, "name", rows[i].name);
		cs_report_number(m->report, "cost_bytes", rows[i].bytes);
		cs_report_real(m->report, "part", 100 * (double)rows[i].bytes / all);
	}
	cs_report_row(m->report);
	cs_report_text(m->report, "kind", "host");
	cs_report_text(m->report, "name",
		       used.remainder_bytes < 0 ? "counted twice" : "not explained");
	cs_report_number(m->report, "cost_bytes",
			 used.remainder_bytes < 0 ? -(uint64_t)used.remainder_bytes
						  : (uint64_t)used.remainder_bytes);
	cs_report_real(m->report, "part", 100 * (double)used.remainder_bytes / all);
	cs_report_row(m->report);
	cs_report_text(m->report, "kind", "host");
	cs_report_text(m->report, "name", "not available");
	cs_report_number(m->report, "cost_bytes", used.used_bytes);
	cs_report_real(m->report, "part", 100);
}

static void look_unlisted(const struct metering *m, struct cs_meter_unlisted *ret)
{
	cs_auto(cs_host_kvm_freep) struct cs_host_kvm *kvm = NULL;
	struct cs_host_kvm_info info = { .nested_paging = true };

	if (m->vcpus && cs_spawner_kvm_open(&kvm, NULL) == 0)
		cs_host_kvm_info(kvm, &info);
	ret->cpu_list_bytes = cs_meter_cpu_lists("/proc");
	ret->trace_bytes = cs_meter_tracing("/sys/kernel/tracing");
	ret->spare_bytes = cs_meter_spare(m->vcpus, info.nested_paging);
}

static int run(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	struct metering m = { .o = options };
	struct cs_meter_unlisted unlisted;
	struct cs_meter_host host;
	int r;

	r = cs_cmd_store_open(globals, &store, err);
	if (r == 0)
		r = cs_report_open(columns, sizeof(columns) / sizeof(columns[0]), &report, err);
	if (r < 0)
		return r;
	m.report = report;
	r = cs_card_each(store, meter_guest, &m, err);
	if (r == 0)
		r = cs_meter_host("/proc", &host, err);
	if (r < 0)
		return r;
	look_unlisted(&m, &unlisted);
	if (m.unseen)
		fprintf(stderr, "clearstore: %zu guests cannot be looked into (be root)\n",
			m.unseen);
	fill(report, "sum", "guests", &m.sum);
	cs_report_number(report, "guests", m.guests);
	fill_host(&m, &host, &unlisted);
	return cs_cmd_print(globals, report, CS_FORMAT_TABLE, err);
}

static const struct argp argp = {
	.options = meter_options,
	.parser = parse,
	.doc = "Say what each guest costs, what all do, and where the host's memory is that is not "
	       "available; what nothing explains is said, too."
	       "\vCOST is what a guest has for itself, its part of what is merged, and page "
	       "tables. "
	       "SHARED, what it has mapped of the template and the program, costs once for all.\n",
};

const struct cs_command cs_cmd_meter = {
	.name = "meter",
	.summary = "Say what guests cost, and where memory is",
	.argp = &argp,
	.options_bytes = sizeof(struct meter_options),
	.reports = true,
	.run = run,
};
