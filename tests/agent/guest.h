/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest without a machine: the agent in namespaces of its own, so that names, files in /etc and
 * /run, processes and mounts are its own, and the test as its monitor. Needs root. Everything fails
 * the running test by itself. */
#pragma once

#include "tests/agent/peer.h"

struct guest {
	struct peer_agent peer; /* its service */
	int listener;           /* the monitor's socket */
	int control;            /* its connection with the agent */
	char cgroup[64];        /* "": frozen by signals */
};

/* Why there can be none here; NULL: there can. (cgroup): one with a freezer in cgroups. */
const char *guest_lacks(bool cgroup);

struct guest_config {
	const char *hostname;
	const char *const *argv, *const *env;
	uint32_t flags;
	uint64_t realtime_ns;
};

/* Boot: the agent runs, has had its CONFIG (NULL: hostname "first", no COMMAND) and said READY.
 * Before, (files), pairs of path and text, are put into its /etc and /run; a path that ends with
 * '*' is one that can be executed. */
struct guest *guest_boot(const struct guest_config *config, const char *const *files, bool cgroup);
/* The end of the agent; false: it did not end as it should. */
bool guest_end(struct guest *g);

void guest_send_config(struct guest *g, const struct guest_config *config);
/* FREEZE, and FROZEN without an error. */
void guest_freeze(struct guest *g, uint32_t flags);
void guest_thaw(struct guest *g);
/* The control connection is cut, and the agent comes again: up to its HELLO. */
void guest_cut(struct guest *g);
void guest_accept(struct guest *g);
/* All of it: cut, CONFIG, READY. */
void guest_wake(struct guest *g, const struct guest_config *config);

/* The text of a file as the guest sees it; "": there is none. The caller's to free(). */
char *guest_read(const struct guest *g, const char *path);
void guest_write(const struct guest *g, const char *path, const char *text);
/* Wait until the file has (text) in it. */
void guest_wait_text(const struct guest *g, const char *path, const char *text);
/* The only process that the agent has started, as the test knows it. */
pid_t guest_child(const struct guest *g);
/* The output of "sh -c (script)" by exec. The caller's to free(). */
char *guest_run(const struct guest *g, const char *script);
/* The file changes; or it does not, in a while. */
void guest_assert_changes(const struct guest *g, const char *path);
void guest_assert_still(const struct guest *g, const char *path);
