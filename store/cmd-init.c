/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* init: make a store, or take an empty one back. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "store/base/num.h"
#include "store/base/own.h"
#include "store/pool.h"
#include "store/store.h"
#include "vmm/cmd-common.h"
#include "vmm/command.h"

struct init_options {
	const char *size, *path;
	bool undo;
};

enum { KEY_UNDO = 256 };

static const struct argp_option options[] = {
	{ "size", 's', "SIZE", 0,
	  "Size of the sparse Btrfs image beside the store's folder (default: 40G). It takes only "
	  "what is written to it",
	  1 },
	{ "path", 'p', "DIR", 0,
	  "Make this folder the store instead; on Btrfs for the full effect, any file system works",
	  1 },
	{ "undo", KEY_UNDO, NULL, 0, "Take back a store that holds no templates and no guests", 1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct init_options *o = state->input;

	switch (key) {
	case 's':
		o->size = arg;
		return 0;
	case 'p':
		o->path = arg;
		return 0;
	case KEY_UNDO:
		o->undo = true;
		return 0;
	case ARGP_KEY_END:
		if (!!o->size + !!o->path + o->undo > 1)
			argp_error(state, "--size, --path and --undo exclude each other");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* A sparse image may promise more than its disk has: then it is the disk that gets full first. */
static void warn_of_disk(const char *root, uint64_t bytes)
{
	cs_auto(cs_mem_freep) char *image = NULL;
	char has[CS_BYTES_TEXT], wants[CS_BYTES_TEXT];
	struct statvfs fs;
	uint64_t room;

	if (asprintf(&image, "%s.img", root) < 0) {
		image = NULL;
		return;
	}
	if (statvfs(image, &fs) < 0)
		return;
	room = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (room < bytes)
		fprintf(stderr,
			"clearstore: warning: the disk under the store has %s left, less than its "
			"%s\n",
			cs_format_bytes(room, has), cs_format_bytes(bytes, wants));
}

static int describe(const struct cs_globals *globals, uint64_t bytes, struct cs_err *err)
{
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	char text[CS_BYTES_TEXT];
	int r;

	r = cs_store_open(globals->store, &store, err);
	if (r < 0)
		return r;
	if (bytes) {
		printf("store at %s: a sparse Btrfs image of %s\n", globals->store,
		       cs_format_bytes(bytes, text));
		warn_of_disk(globals->store, bytes);
		return 0;
	}
	printf("store at %s: in a folder, %s\n", globals->store,
	       cs_store_is_btrfs(store)
		       ? "on Btrfs"
		       : "not on Btrfs: it works, without subvolumes and perhaps without reflinks");
	return 0;
}

static int run(const struct cs_globals *globals, void *options_, struct cs_err *err)
{
	const struct init_options *o = options_;
	struct cs_pool_spec spec = { .root = globals->store, .path = o->path };
	int r;

	if (o->undo) {
		r = cs_pool_remove(globals->store, err);
		if (r == 0)
			printf("no store at %s any more\n", globals->store);
		return r;
	}
	spec.bytes = CS_POOL_BYTES;
	r = o->size ? cs_parse_bytes(o->size, &spec.bytes) : 0;
	if (r == 0 && !spec.bytes) /* to cs_pool_init() that would be the default */
		spec.bytes = 1;
	if (r < 0)
		return cs_fail(err, -r, "size '%s': not a size (try 40G)", o->size);
	r = cs_pool_init(&spec, err);
	return r < 0 ? r : describe(globals, o->path ? 0 : spec.bytes, err);
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.doc = "Make the store that templates and guests live in."
	       "\vWithout --path it is a sparse Btrfs image beside the store's folder, mounted "
	       "there; after a reboot the next command mounts it again. With --path the store's "
	       "folder becomes a link to that one.\n",
};

const struct cs_command cs_cmd_init = {
	.name = "init",
	.summary = "Make the store",
	.argp = &argp,
	.options_bytes = sizeof(struct init_options),
	.run = run,
};
