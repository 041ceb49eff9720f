/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* doctor: is this host fit, and what would make it fitter? */
#include "vmm/cmd-doctor.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "store/base/report.h"
#include "store/base/text.h"
#include "vmm/cmd-common.h"

#define FILE_MAX (UINT64_C(1) << 20)

/* ---- for the checks ------------------------------------------------------------------------ */

void cs_finding_set(struct cs_finding *finding, enum cs_finding_level level, const char *remedy,
		    const char *fmt, ...)
{
	va_list ap;

	finding->level = level;
	va_start(ap, fmt);
	vsnprintf(finding->text, sizeof(finding->text), fmt, ap);
	va_end(ap);
	snprintf(finding->remedy, sizeof(finding->remedy), "%s", remedy ? remedy : "");
}

bool cs_doctor_read(const struct cs_doctor *doctor, const char *path, char *ret, size_t bytes)
{
	cs_auto(cs_mem_freep) char *text = NULL;

	if (cs_read_file_at(doctor->root_fd, path, FILE_MAX, &text, NULL) < 0)
		return false;
	text[strcspn(text, "\n")] = '\0';
	snprintf(ret, bytes, "%s", cs_text_clean(text, false));
	return true;
}

bool cs_doctor_read_number(const struct cs_doctor *doctor, const char *path, uint64_t *ret)
{
	char text[32];

	return cs_doctor_read(doctor, path, text, sizeof(text)) &&
	       cs_parse_u64(text, UINT64_MAX, ret) == 0;
}

bool cs_doctor_exists(const struct cs_doctor *doctor, const char *path)
{
	return faccessat(doctor->root_fd, path, F_OK, 0) == 0;
}

size_t cs_doctor_entries(const struct cs_doctor *doctor, const char *path)
{
	int fd = openat(doctor->root_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cs_auto(cs_dir_closep) DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	const struct dirent *entry;
	size_t n = 0;

	if (!dir) {
		cs_fd_closep(&fd);
		return 0;
	}
	while ((entry = readdir(dir)) != NULL)
		n += entry->d_name[0] != '.';
	return n;
}

uint64_t cs_doctor_guests(const struct cs_doctor *doctor)
{
	return cs_cmd_meminfo(doctor->root_fd, "MemAvailable") / CS_DOCTOR_COLD_BYTES;
}

/* ---- the command --------------------------------------------------------------------------- */

static const struct cs_check *const tables[] = { cs_checks_kvm, cs_checks_memory, cs_checks_limits,
						 cs_checks_store };

static const char *const level_names[] = {
	[CS_FINDING_OK] = "ok",
	[CS_FINDING_WARN] = "warn",
	[CS_FINDING_FAIL] = "fail",
};

static const struct cs_column columns[] = {
	{ "check", "CHECK", CS_CELL_TEXT },
	{ "level", "LEVEL", CS_CELL_TEXT },
	{ "finding", "FINDING", CS_CELL_TEXT },
	{ "remedy", "REMEDY", CS_CELL_TEXT },
};

static void tell(const struct cs_check *check, struct cs_finding *finding, struct cs_report *report)
{
	if (report) {
		cs_report_row(report);
		cs_report_text(report, "check", check->name);
		cs_report_text(report, "level", level_names[finding->level]);
		cs_report_text(report, "finding", finding->text);
		cs_report_text(report, "remedy", finding->remedy[0] ? finding->remedy : NULL);
		return;
	}
	cs_text_clean(finding->text, false);
	cs_text_clean(finding->remedy, false);
	printf("%-4s  %s: %s", level_names[finding->level], check->name, finding->text);
	if (finding->remedy[0])
		printf(" (%s)", finding->remedy);
	putchar('\n');
	fflush(stdout);
}

struct doctor_options {
	const char *root;
};

enum {
	KEY_ROOT = 0x100,
};

static const struct argp_option options[] = {
	{ "root", KEY_ROOT, "DIR", OPTION_HIDDEN, "Look at this folder instead of /, for tests",
	  1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct doctor_options *o = state->input;

	if (key != KEY_ROOT)
		return ARGP_ERR_UNKNOWN;
	o->root = arg;
	return 0;
}

static int run(const struct cs_globals *globals, void *opts, struct cs_err *err)
{
	const struct doctor_options *o = opts;
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	cs_auto(cs_fd_closep) int root_fd = -1;
	struct cs_doctor doctor = { .globals = globals, .root = o->root ? o->root : "" };
	bool failed = false;
	int r;

	root_fd = open(o->root ? o->root : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root_fd < 0)
		return cs_fail_errno(err, errno, "cannot open '%s'", o->root ? o->root : "/");
	doctor.root_fd = root_fd;
	if (globals->json) {
		r = cs_report_open(columns, sizeof(columns) / sizeof(columns[0]), &report, err);
		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		for (const struct cs_check *check = tables[i]; check->name; check++) {
			struct cs_finding finding = { 0 };

			check->look(&doctor, &finding);
			tell(check, &finding, report);
			failed = failed || finding.level == CS_FINDING_FAIL;
		}
	}
	r = report ? cs_cmd_print(globals, report, CS_FORMAT_JSON, err) : 0;
	if (r < 0)
		return r;
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.doc = "Look at this host, a line for each thing: ok, warn with a remedy, or fail. The "
	       "exit "
	       "status is 1 if anything failed.",
};

const struct cs_command cs_cmd_doctor = {
	.name = "doctor",
	.summary = "Say whether this host is fit, and what would help",
	.argp = &argp,
	.options_bytes = sizeof(struct doctor_options),
	.reports = true,
	.run = run,
};
