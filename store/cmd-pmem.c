/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* pmem list: what persistent memory there is for templates to lie on. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/own.h"
#include "store/base/report.h"
#include "store/pmem.h"
#include "vmm/cmd-common.h"
#include "vmm/command.h"

static const struct cs_column columns[] = {
	{ "kind", "KIND", CS_CELL_TEXT },
	{ "name", "NAME", CS_CELL_TEXT },
	{ "mode", "MODE", CS_CELL_TEXT },
	{ "device", "DEVICE", CS_CELL_TEXT },
	{ "bytes", "SIZE", CS_CELL_BYTES },
	{ "free_bytes", "FREE", CS_CELL_BYTES },
	{ "align", "ALIGN", CS_CELL_BYTES },
	{ "numa_node", "NODE", CS_CELL_COUNT },
	{ "persistence", "PERSISTENCE", CS_CELL_TEXT },
	{ "enabled", "ENABLED", CS_CELL_BOOL },
	{ "holder", "MOUNTED AT", CS_CELL_TEXT },
	{ "provider", "BUS", CS_CELL_TEXT },
};

static int add_row(const struct cs_pmem *pmem, void *arg)
{
	static const char *const kinds[] = { "region", "namespace", "dax" };
	struct cs_report *report = arg;

	cs_report_row(report);
	cs_report_text(report, "kind", kinds[pmem->kind]);
	cs_report_text(report, "name", pmem->name);
	cs_report_text(report, "mode", pmem->mode);
	cs_report_text(report, "device", pmem->device[0] ? pmem->device : NULL);
	cs_report_number(report, "bytes", pmem->bytes);
	if (pmem->kind == CS_PMEM_REGION)
		cs_report_number(report, "free_bytes", pmem->free_bytes);
	if (pmem->align)
		cs_report_number(report, "align", pmem->align);
	if (pmem->numa_node >= 0)
		cs_report_number(report, "numa_node", (uint64_t)pmem->numa_node);
	cs_report_text(report, "persistence", pmem->persistence);
	cs_report_number(report, "enabled", pmem->enabled);
	cs_report_text(report, "holder", pmem->holder[0] ? pmem->holder : NULL);
	cs_report_text(report, "provider", pmem->provider[0] ? pmem->provider : NULL);
	return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	return ARGP_ERR_UNKNOWN;
}

static int run(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	int r;

	r = cs_report_open(columns, sizeof(columns) / sizeof(columns[0]), &report, err);
	if (r == 0)
		r = cs_pmem_each(add_row, report, err);
	return r < 0 ? r : cs_cmd_print(globals, report, CS_FORMAT_TABLE, err);
}

static const struct argp argp = {
	.parser = parse,
	.doc = "List the persistent memory of this host: regions, namespaces, DAX devices.",
};

static const struct cs_command list = {
	.name = "list",
	.summary = "List regions, namespaces and DAX devices",
	.argp = &argp,
	.options_bytes = 0,
	.reports = true,
	.run = run,
};

static const struct cs_command *const members[] = { &list, NULL };

const struct cs_command cs_cmd_pmem = {
	.name = "pmem",
	.summary = "Show the persistent memory of this host",
	.members = members,
};
