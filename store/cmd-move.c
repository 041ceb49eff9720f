/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* template move: onto another medium. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cow/card.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "store/cmd-template.h"
#include "store/manifest.h"
#include "store/template.h"
#include "store/version.h"
#include "vmm/cmd-common.h"
#include "vmm/command.h"

struct move_options {
	const char *name, *media;
};

enum { KEY_MEDIA = 256 };

static const struct argp_option options[] = {
	{ "media", KEY_MEDIA, "MEDIUM", 0,
	  "file (the store), fsdax:/FOLDER (a file system mounted with -o dax), "
	  "devdax:/dev/daxN.M (a DAX device: the root only), or auto (the best "
	  "there is)",
	  1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct move_options *o = state->input;

	switch (key) {
	case KEY_MEDIA:
		o->media = arg;
		return 0;
	case ARGP_KEY_ARG:
		if (o->name)
			argp_error(state, "one template only");
		o->name = arg;
		return 0;
	case ARGP_KEY_END:
		if (!o->name)
			argp_error(state, "no template given");
		if (!o->media)
			argp_error(state, "--media: not given");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int run(const struct cs_globals *globals, void *opts, struct cs_err *err)
{
	const struct move_options *o = opts;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_template_freep) struct cs_template *moved = NULL;
	struct cs_template_user user = { .find = cs_card_find_user };
	struct cs_template_added added;
	const struct cs_manifest_part *root;
	char name[64], version[64], whole[160];
	int r;

	r = cs_template_split(o->name, name, version, err);
	if (r == 0)
		r = cs_cmd_store_open(globals, &store, err);
	if (r < 0)
		return r;
	user.arg = store;
	r = cs_template_move(store, o->name, o->media, &user, &added, err);
	if (r < 0)
		return r;
	snprintf(whole, sizeof(whole), "%s@%s", name, added.version);
	r = cs_template_open(store, whole, &moved, err);
	if (r < 0)
		return r;
	root = &cs_template_manifest(moved)->part[CS_PART_ROOT];
	printf("%s: on %s%s%s, %.1f s\n", whole, cs_media_name(root->media),
	       root->where[0] ? ": " : "", root->where, added.seconds);
	if (cs_version_active(store, name, version, NULL) == 0 &&
	    strcmp(version, added.version) != 0)
		printf("not active, as %s@%s is not, which stays: clearstore template activate %s "
		       "%s\n",
		       name, added.parent, name, added.version);
	return 0;
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "TEMPLATE",
	.doc = "Move what guests of a template map onto another medium: the root, and the memory "
	       "of a saved machine."
	       "\vThat is a new version, which takes the place of the active one; guests that "
	       "there are keep theirs. Of NAME@VERSION that is not active it is one more, not "
	       "active either, and that one stays: a rollback may lead to it.\n",
};

const struct cs_command cs_cmd_template_move = {
	.name = "move",
	.summary = "Move a template onto another medium",
	.argp = &argp,
	.options_bytes = sizeof(struct move_options),
	.run = run,
};
