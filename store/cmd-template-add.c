/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* template add and update: a root file system and a kernel become a template, or its next version.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cow/card.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "store/base/progress.h"
#include "store/base/report.h"
#include "store/cmd-template.h"
#include "store/manifest.h"
#include "store/media.h"
#include "store/template.h"
#include "store/version.h"
#include "vmm/cmd-common.h"
#include "vmm/cmd-save.h"
#include "vmm/command.h"

#define AGENT_NAME "clearstore-agent"

struct add_options {
	const char *name, *from, *kernel, *modules, *agent, *append, *root_format, *disk;
	const char *media;
	bool activate, warm;
};

enum {
	KEY_FROM = 256,
	KEY_KERNEL,
	KEY_MODULES,
	KEY_AGENT,
	KEY_APPEND,
	KEY_ROOT_FORMAT,
	KEY_DISK,
	KEY_ACTIVATE,
	KEY_WARM,
	KEY_MEDIA,
};

static const struct argp_option add_argp_options[] = {
	{ "from", KEY_FROM, "PATH", 0,
	  "The root file system: a folder, or an archive (tar, cpio, zip, 7-Zip, ISO 9660; "
	  "compressed or not)",
	  1 },
	{ "kernel", KEY_KERNEL, "FILE", 0,
	  "A bzImage or an uncompressed vmlinux (default: the guest kernel installed with "
	  "clearstore; or CLEARSTORE_KERNEL)",
	  1 },
	{ "modules", KEY_MODULES, "DIR", 0,
	  "Modules of a distribution's kernel: lib/modules/RELEASE (default: beside the kernel, in "
	  "the root, on this host); none: it has all drivers built in",
	  1 },
	{ "append", KEY_APPEND, "TEXT", 0, "Appended to the kernel's command line of all guests",
	  1 },
	{ "root-format", KEY_ROOT_FORMAT, "FORMAT", 0, "erofs (the default) or ext4", 1 },
	{ "disk", KEY_DISK, "SIZE", 0, "Size of a persistent guest's disk (default: 8G), sparse",
	  1 },
	{ "media", KEY_MEDIA, "MEDIUM", 0,
	  "Where the root lies: file (the store, the default), fsdax:/FOLDER (a file system "
	  "mounted with -o dax), devdax:/dev/daxN.M (a DAX device), or auto (the best there is)",
	  1 },
	{ "agent", KEY_AGENT, "FILE", 0,
	  "The agent to put into the root (default: the one installed with clearstore; or "
	  "CLEARSTORE_AGENT)",
	  1 },
	{ 0 },
};

static const struct argp_option update_argp_options[] = {
	{ "from", KEY_FROM, "PATH", 0,
	  "The new root file system: a folder or an archive (default: the root stays)", 1 },
	{ "kernel", KEY_KERNEL, "FILE", 0,
	  "A bzImage or an uncompressed vmlinux (default: the kernel stays)", 1 },
	{ "modules", KEY_MODULES, "DIR", 0,
	  "Modules of a distribution's kernel: lib/modules/RELEASE (default: looked for); none: it "
	  "has all drivers built in",
	  1 },
	{ "append", KEY_APPEND, "TEXT", 0,
	  "Appended to the kernel's command line of all guests (default: as before)", 1 },
	{ "root-format", KEY_ROOT_FORMAT, "FORMAT", 0,
	  "erofs or ext4, of the new root (default: as before)", 1 },
	{ "disk", KEY_DISK, "SIZE", 0,
	  "A new empty disk of persistent guests, of this size (default: the disk stays)", 1 },
	{ "agent", KEY_AGENT, "FILE", 0,
	  "The agent to put into the new root (default: the one installed with clearstore; or "
	  "CLEARSTORE_AGENT)",
	  1 },
	{ "media", KEY_MEDIA, "MEDIUM", 0,
	  "Where the new root lies: file, fsdax:/FOLDER, devdax:/dev/daxN.M or auto (default: "
	  "where the root before "
	  "is)",
	  1 },
	{ "activate", KEY_ACTIVATE, NULL, 0, "New guests get this version at once", 1 },
	{ "warm", KEY_WARM, NULL, 0,
	  "Boot it and keep the machine, as `template warm` did with the version before, before "
	  "anybody gets it",
	  1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct add_options *o = state->input;

	switch (key) {
	case KEY_FROM:
		o->from = arg;
		return 0;
	case KEY_KERNEL:
		o->kernel = arg;
		return 0;
	case KEY_MODULES:
		o->modules = arg;
		return 0;
	case KEY_AGENT:
		o->agent = arg;
		return 0;
	case KEY_APPEND:
		o->append = arg;
		return 0;
	case KEY_ROOT_FORMAT:
		o->root_format = arg;
		return 0;
	case KEY_DISK:
		o->disk = arg;
		return 0;
	case KEY_MEDIA:
		o->media = arg;
		return 0;
	case KEY_ACTIVATE:
		o->activate = true;
		return 0;
	case KEY_WARM:
		o->warm = true;
		return 0;
	case ARGP_KEY_ARG:
		if (o->name)
			argp_error(state, "one name only");
		o->name = arg;
		return 0;
	case ARGP_KEY_END:
		if (!o->name)
			argp_error(state, "no name given");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static error_t parse_add(int key, char *arg, struct argp_state *state)
{
	const struct add_options *o = state->input;

	if (key == ARGP_KEY_END && o->name && !o->from)
		argp_error(state, "--from: no root file system given");
	return parse(key, arg, state);
}

static error_t parse_update(int key, char *arg, struct argp_state *state)
{
	const struct add_options *o = state->input;

	if (key == ARGP_KEY_END && o->name) {
		if (!o->from && !o->kernel && !o->append && !o->disk)
			argp_error(state, "nothing new given (--from, --kernel, --append, --disk)");
		if (!o->from && (o->agent || o->root_format || o->media))
			argp_error(state, "--agent, --root-format and --media are of a new root "
					  "(--from)");
		if (!o->from && !o->kernel && o->modules)
			argp_error(state, "--modules are of a new kernel or root");
	}
	return parse(key, arg, state);
}

/* The agent beside the program itself, as in a folder that clearstore was built in. */
static bool agent_beside(char path[PATH_MAX])
{
	ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
	char *slash;

	if (n <= 0)
		return false;
	path[n] = '\0';
	slash = strrchr(path, '/');
	if (!slash || (size_t)(slash + 1 - path) + sizeof(AGENT_NAME) > PATH_MAX)
		return false;
	memcpy(slash + 1, AGENT_NAME, sizeof(AGENT_NAME));
	return access(path, R_OK) == 0;
}

static int find_agent(const char *given, char path[PATH_MAX], const char **ret, struct cs_err *err)
{
	static const char installed[] = CS_LIBEXECDIR "/" AGENT_NAME;
	const char *env = getenv("CLEARSTORE_AGENT");

	if (given || (env && *env))
		*ret = given ? given : env;
	else if (agent_beside(path))
		*ret = path;
	else if (access(installed, R_OK) == 0)
		*ret = installed;
	else
		return cs_fail(err, ENOENT,
			       "no agent at '%s' (make install, or --agent, or CLEARSTORE_AGENT)",
			       installed);
	return 0;
}

static int find_kernel(const char *given, const char **ret, struct cs_err *err)
{
	static const char installed[] = CS_DATADIR "/vmlinux";
	const char *env = getenv("CLEARSTORE_KERNEL");

	if (given || (env && *env))
		*ret = given ? given : env;
	else if (access(installed, R_OK) == 0)
		*ret = installed;
	else
		return cs_fail(err, ENOENT,
			       "no guest kernel at '%s' (make one: scripts/build-kernel; or give "
			       "--kernel, or CLEARSTORE_KERNEL)",
			       installed);
	return 0;
}

static int read_options(const struct add_options *o, struct cs_template_spec *ret,
			struct cs_err *err)
{
	*ret = (struct cs_template_spec){
		.name = o->name,
		.from = o->from,
		.modules = o->modules,
		.cmdline = o->append,
		.media = o->media,
	};
	struct cs_media_spec media;

	int r;

	/* told before an hour of importing */
	r = o->media ? cs_media_parse(o->media, 0, &media, err) : 0;
	if (r < 0)
		return r;
	if (o->root_format && !strcmp(o->root_format, "ext4"))
		ret->root_format = CS_ROOT_EXT4;
	else if (o->root_format && strcmp(o->root_format, "erofs"))
		return cs_fail(err, EINVAL, "root format '%s': erofs or ext4", o->root_format);
	if (o->disk && (cs_parse_bytes(o->disk, &ret->disk_bytes) < 0 || !ret->disk_bytes))
		return cs_fail(err, EINVAL, "disk '%s': not a size (try 8G)", o->disk);
	return 0;
}

static const struct cs_column added_columns[] = {
	{ "template", "TEMPLATE", CS_CELL_TEXT },
	{ "input_bytes", "INPUT", CS_CELL_BYTES },
	{ "files", "FILES", CS_CELL_COUNT },
	{ "stored_bytes", "STORED", CS_CELL_BYTES },
	{ "ms", "TOOK", CS_CELL_MS },
};

static int report_added(const struct cs_globals *globals, const char *name,
			const struct cs_template_added *added, struct cs_err *err)
{
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	int r = cs_report_open(added_columns, sizeof(added_columns) / sizeof(added_columns[0]),
			       &report, err);

	if (r < 0)
		return r;
	cs_report_row(report);
	cs_report_text(report, "template", name);
	cs_report_number(report, "input_bytes", added->input_bytes);
	cs_report_number(report, "files", added->files);
	cs_report_number(report, "stored_bytes", added->stored_bytes);
	cs_report_real(report, "ms", added->seconds * 1000);
	return cs_cmd_print(globals, report, CS_FORMAT_RECORD, err);
}

static int print_added(const struct cs_globals *globals, const char *name,
		       const struct cs_template_added *added, struct cs_err *err)
{
	char in[CS_BYTES_TEXT], stored[CS_BYTES_TEXT];
	double seconds = added->seconds > 0 ? added->seconds : 1e-9;
	double ratio =
		(double)added->input_bytes / (double)(added->stored_bytes + !added->stored_bytes);

	if (globals->json)
		return report_added(globals, name, added, err);
	printf("%s: %s in %llu files, %s stored, dedup ratio %.2f, %.1f s, %.0f MB/s\n", name,
	       cs_format_bytes(added->input_bytes, in), (unsigned long long)added->files,
	       cs_format_bytes(added->stored_bytes, stored), ratio, seconds,
	       (double)added->input_bytes / 1e6 / seconds);
	return 0;
}

/* Of a folder nobody knows how much it holds. */
static struct cs_progress *open_progress(const char *from)
{
	struct stat st;

	return cs_progress_open("importing", from && stat(from, &st) == 0 && S_ISREG(st.st_mode)
						     ? (uint64_t)st.st_size
						     : 0);
}

static int run_add(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	const struct add_options *o = options;
	cs_auto(cs_progress_freep) struct cs_progress *progress = NULL;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	struct cs_template_added added;
	struct cs_template_spec spec;
	char agent[PATH_MAX];
	int r;

	r = read_options(o, &spec, err);
	if (r == 0)
		r = find_agent(o->agent, agent, &spec.agent, err);
	if (r == 0)
		r = find_kernel(o->kernel, &spec.kernel, err);
	if (r == 0)
		r = cs_cmd_store_open(globals, &store, err);
	if (r < 0)
		return r;
	progress = open_progress(o->from);
	spec.progress = progress;
	r = cs_template_add(store, &spec, &added, err);
	progress = cs_progress_free(progress);
	return r < 0 ? r : print_added(globals, o->name, &added, err);
}

static const struct argp add_argp = {
	.options = add_argp_options,
	.parser = parse_add,
	.args_doc = "NAME",
	.doc = "Make a template of a root file system and a kernel."
	       "\vAll or nothing: a template is there when it is whole. The root becomes a "
	       "read-only image that all guests map; what they write stays theirs.\n",
};

const struct cs_command cs_cmd_template_add = {
	.name = "add",
	.summary = "Make a template of a root file system and a kernel",
	.argp = &add_argp,
	.options_bytes = sizeof(struct add_options),
	.reports = true,
	.run = run_add,
};

/* ---- update ---- */

static const struct cs_column columns[] = {
	{ "template", "TEMPLATE", CS_CELL_TEXT },
	{ "version", "VERSION", CS_CELL_TEXT },
	{ "parent", "FROM", CS_CELL_TEXT },
	{ "active", "ACTIVE", CS_CELL_BOOL },
	{ "input_bytes", "INPUT", CS_CELL_BYTES },
	{ "files", "FILES", CS_CELL_COUNT },
	{ "stored_bytes", "STORED", CS_CELL_BYTES },
	{ "new_bytes", "NEW", CS_CELL_BYTES },
	{ "shared_bytes", "SHARED", CS_CELL_BYTES },
	{ "ms", "TOOK", CS_CELL_MS },
	{ "saved_dropped", "WARM NO MORE", CS_CELL_BOOL },
};

static int report_updated(const struct cs_globals *globals, const char *name, bool active,
			  const struct cs_template_added *added, struct cs_err *err)
{
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	int r;

	r = cs_report_open(columns, sizeof(columns) / sizeof(columns[0]), &report, err);
	if (r < 0)
		return r;
	cs_report_row(report);
	cs_report_text(report, "template", name);
	cs_report_text(report, "version", added->version);
	cs_report_text(report, "parent", added->parent);
	cs_report_number(report, "active", active);
	cs_report_number(report, "input_bytes", added->input_bytes);
	cs_report_number(report, "files", added->files);
	cs_report_number(report, "stored_bytes", added->stored_bytes);
	cs_report_number(report, "new_bytes", added->stored_bytes - added->shared_bytes);
	cs_report_number(report, "shared_bytes", added->shared_bytes);
	cs_report_real(report, "ms", added->seconds * 1000);
	cs_report_number(report, "saved_dropped", added->dropped_saved);
	return cs_cmd_print(globals, report, CS_FORMAT_RECORD, err);
}

static int print_updated(const struct cs_globals *globals, const char *name, bool active,
			 const struct cs_template_added *added, struct cs_err *err)
{
	char in[CS_BYTES_TEXT], fresh[CS_BYTES_TEXT], shared[CS_BYTES_TEXT];

	if (added->dropped_saved)
		fprintf(stderr,
			"clearstore: template '%s': version %s has no saved machine, its guests "
			"boot (clearstore template warm %s@%s)\n",
			name, added->version, name, added->version);
	if (globals->json)
		return report_updated(globals, name, active, added, err);
	printf("%s@%s: %s in %llu files, %s new, %s shared with %s@%s, %.1f s\n", name,
	       added->version, cs_format_bytes(added->input_bytes, in),
	       (unsigned long long)added->files,
	       cs_format_bytes(added->stored_bytes - added->shared_bytes, fresh),
	       cs_format_bytes(added->shared_bytes, shared), name, added->parent, added->seconds);
	if (!active)
		printf("not active: try it (clearstore spawn %s@%s), then: clearstore template "
		       "activate %s %s\n",
		       name, added->version, name, added->version);
	return 0;
}

/* Told before anything is done. */
static int check_warm(const struct cs_template *before, struct cs_err *err)
{
	const struct cs_manifest_saved *saved = &cs_template_manifest(before)->saved;
	const char *name = cs_template_name(before), *version = cs_template_version(before);

	if (!saved->present)
		return cs_fail(err, ENOENT,
			       "template '%s': version %s has no saved machine to be like "
			       "(clearstore template warm %s@N, then activate)",
			       name, version, name);
	if (!saved->warmed)
		return cs_fail(err, EOPNOTSUPP,
			       "template '%s': how the machine of version %s was made is not "
			       "known: not by booting, or with --env, --append or COMMAND "
			       "(clearstore template warm %s@N, then activate)",
			       name, version, name);
	return 0;
}

/* What an update made. */
struct made {
	struct cs_template_added added;
	char name[CS_VERSION_TEXT];
	struct cs_manifest_saved saved; /* of the version before */
};

/* Make the version; everything is closed again. */
static int make_version(const struct cs_globals *globals, const struct add_options *o,
			struct made *made, struct cs_err *err)
{
	cs_auto(cs_progress_freep) struct cs_progress *progress = NULL;
	cs_auto(cs_template_freep) struct cs_template *before = NULL;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	struct cs_template_spec spec;
	char agent[PATH_MAX];
	int r;

	r = read_options(o, &spec, err);
	if (r == 0 && o->from)
		r = find_agent(o->agent, agent, &spec.agent, err);
	if (r == 0)
		r = cs_cmd_store_open(globals, &store, err);
	if (r == 0)
		r = cs_template_open_any(store, o->name, &before, err);
	if (r == 0 && o->warm)
		r = check_warm(before, err);
	if (r < 0)
		return r;
	made->saved = cs_template_manifest(before)->saved;
	snprintf(made->name, sizeof(made->name), "%s", cs_template_name(before));
	spec.kernel = o->kernel;
	if (!o->root_format)
		spec.root_format = cs_template_root_format(before);
	progress = open_progress(o->from);
	spec.progress = progress;
	return cs_template_update(store, &spec, o->activate && !o->warm, &made->added, err);
}

/* Put a warm version in the place of the one that was just made, then let new guests have it. */
static int warm(const struct cs_globals *globals, struct made *made, bool activate,
		struct cs_err *err)
{
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	struct cs_template_user user = { .find = cs_card_find_user };
	char cold[2 * CS_VERSION_TEXT], version[CS_VERSION_TEXT];
	bool fresh = made->added.dropped_saved;
	int r = 0;

	snprintf(cold, sizeof(cold), "%s@%s", made->name, made->added.version);
	/* nothing of ours may be open now (cs_spawner_prepare()) */
	if (fresh)
		r = cs_cmd_warm_like(globals, cold, &made->saved, version, err);
	if (r < 0)
		return cs_fail_in(err, r, "version %s is there, but not warm", made->added.version);
	r = cs_cmd_store_open(globals, &store, err);
	user.arg = store;
	if (r == 0 && fresh) {
		/* somebody may have tried it already: then it stays */
		r = cs_version_remove(store, made->name, made->added.version, &user, err);
		r = r == -EBUSY ? 0 : r;
		snprintf(made->added.version, sizeof(made->added.version), "%s", version);
		made->added.dropped_saved = false;
	}
	if (r == 0 && activate)
		r = cs_version_activate(store, made->name, made->added.version, version, err);
	return r;
}

static int run_update(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	const struct add_options *o = options;
	struct made made;
	int r;

	r = make_version(globals, o, &made, err);
	if (r == 0 && o->warm)
		r = warm(globals, &made, o->activate, err);
	return r < 0 ? r : print_updated(globals, made.name, o->activate, &made.added, err);
}

static const struct argp update_argp = {
	.options = update_argp_options,
	.parser = parse_update,
	.args_doc = "TEMPLATE",
	.doc = "Make the next version of a template: what is given is made anew, the rest stays."
	       "\vGuests that there are keep the version that they have. Try the new one with "
	       "`clearstore spawn TEMPLATE@VERSION`, then let all new guests have it: `clearstore "
	       "template activate`, or --activate. Blocks that the version before has, too, are "
	       "stored once. TEMPLATE may be NAME@VERSION: then it is made from that one.\n",
};

const struct cs_command cs_cmd_template_update = {
	.name = "update",
	.summary = "Make the next version of a template",
	.argp = &update_argp,
	.options_bytes = sizeof(struct add_options),
	.reports = true,
	.run = run_update,
};
