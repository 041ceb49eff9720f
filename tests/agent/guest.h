/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest without a machine: the agent in namespaces of its own, so that names, files in /etc and
 * /run, processes and mounts are its own, and the test as its monitor. Needs root. Everything fails
 * the running test by itself. */
#pragma once

#include "tests/agent/peer.h"

struct guest {
	struct peer_agent peer; /* its service; pid 0: it does not run */
	int listener;           /* the monitor's socket */
	int control;            /* its connection with the agent */
	bool by_signals;        /* frozen without cgroups */
	char cgroup[64];        /* the agent's, with the others below */
};

/* Set-up and tear-down of a test; *state is the struct guest, which does not run yet. Whatever the
 * test leaves is gone behind it. */
int guest_make(void **state);
int guest_make_by_signals(void **state);
int guest_unmake(void **state);

struct guest_config {
	const char *hostname;
	const char *const *argv, *const *env;
	uint32_t flags;
	uint64_t realtime_ns, clock_ns;
};

/* Boot: the agent runs, has had its CONFIG (NULL: hostname "first", no COMMAND) and said READY.
 * Before, (files), pairs of path and text, are put into its /etc and /run; a path that ends with
 * '*' is one that can be executed. Skips the test where this host can have no such guest. */
void guest_boot(struct guest *g, const struct guest_config *config, const char *const *files);
/* Ask the agent to end: it must end as it should. */
void guest_end(struct guest *g);

void guest_send_config(struct guest *g, const struct guest_config *config);
void guest_send_config_slowly(struct guest *g, const struct guest_config *config);
/* FREEZE of a machine whose clock is (clock_ns), 0: that has none. */
void guest_send_freeze(struct guest *g, uint32_t flags, uint64_t clock_ns);

/* FREEZE, and FROZEN without an error. */
void guest_freeze(struct guest *g, uint32_t flags);
void guest_thaw(struct guest *g);
/* The control connection is cut, and the agent comes again: up to its HELLO. */
void guest_cut(struct guest *g);
void guest_accept(struct guest *g);
/* All of it: cut, CONFIG, READY. */
void guest_wake(struct guest *g, const struct guest_config *config);

/* The same without a cut: the connection lives on. */
void guest_resume(struct guest *g, const struct guest_config *config);

/* The text of a file as the guest sees it; "": there is none. The caller's to free(). */
char *guest_read(const struct guest *g, const char *path);
/* What the agent last set the clock to, in seconds since 1970. */
uint64_t guest_clock(const struct guest *g);
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
