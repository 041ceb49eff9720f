/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* template add: a root file system and a kernel become a template. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/num.h"
#include "store/base/own.h"
#include "store/base/progress.h"
#include "store/cmd-template.h"
#include "store/template.h"
#include "vmm/cmd-common.h"
#include "vmm/command.h"

#define AGENT_NAME "clearstore-agent"

struct add_options {
	const char *name, *from, *kernel, *modules, *agent, *append, *root_format, *disk;
};

enum { KEY_FROM = 256, KEY_KERNEL, KEY_MODULES, KEY_AGENT, KEY_APPEND, KEY_ROOT_FORMAT, KEY_DISK };

static const struct argp_option options[] = {
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
	{ "agent", KEY_AGENT, "FILE", 0,
	  "The agent to put into the root (default: the one installed with clearstore; or "
	  "CLEARSTORE_AGENT)",
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
	case ARGP_KEY_ARG:
		if (o->name)
			argp_error(state, "one name only");
		o->name = arg;
		return 0;
	case ARGP_KEY_END:
		if (!o->name)
			argp_error(state, "no name given");
		if (!o->from)
			argp_error(state, "--from: no root file system given");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
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
	};
	if (o->root_format && !strcmp(o->root_format, "ext4"))
		ret->root_format = CS_ROOT_EXT4;
	else if (o->root_format && strcmp(o->root_format, "erofs"))
		return cs_fail(err, EINVAL, "root format '%s': erofs or ext4", o->root_format);
	if (o->disk && (cs_parse_bytes(o->disk, &ret->disk_bytes) < 0 || !ret->disk_bytes))
		return cs_fail(err, EINVAL, "disk '%s': not a size (try 8G)", o->disk);
	return 0;
}

static void print_added(const char *name, const struct cs_template_added *added)
{
	char in[CS_BYTES_TEXT], stored[CS_BYTES_TEXT];
	double seconds = added->seconds > 0 ? added->seconds : 1e-9;

	printf("%s: %s in %llu files, %s stored, dedup ratio %.2f, %.1f s, %.0f MB/s\n", name,
	       cs_format_bytes(added->input_bytes, in), (unsigned long long)added->files,
	       cs_format_bytes(added->stored_bytes, stored),
	       (double)added->input_bytes / (double)(added->stored_bytes + !added->stored_bytes),
	       seconds, (double)added->input_bytes / 1e6 / seconds);
}

static int run(const struct cs_globals *globals, void *options_, struct cs_err *err)
{
	const struct add_options *o = options_;
	cs_auto(cs_progress_freep) struct cs_progress *progress = NULL;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	struct cs_template_added added;
	struct cs_template_spec spec;
	char agent[PATH_MAX];
	struct stat st;
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
	/* of a folder nobody knows how much it holds */
	progress = cs_progress_open("importing", stat(o->from, &st) == 0 && S_ISREG(st.st_mode)
							 ? (uint64_t)st.st_size
							 : 0);
	spec.progress = progress;
	r = cs_template_add(store, &spec, &added, err);
	progress = cs_progress_free(progress);
	if (r < 0)
		return r;
	print_added(o->name, &added);
	return 0;
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "NAME",
	.doc = "Make a template of a root file system and a kernel."
	       "\vAll or nothing: a template is there when it is whole. The root becomes a "
	       "read-only image that all guests map; what they write stays theirs.\n",
};

const struct cs_command cs_cmd_template_add = {
	.name = "add",
	.summary = "Make a template of a root file system and a kernel",
	.argp = &argp,
	.options_bytes = sizeof(struct add_options),
	.run = run,
};
