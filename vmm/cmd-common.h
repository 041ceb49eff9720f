/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What several commands do in the same way. Only commands include it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "cow/card.h"
#include "store/base/err.h"
#include "store/base/report.h"
#include "store/store.h"
#include "vmm/command.h"

/* Print "clearstore: WORDS" on stderr, with nothing in the words that a terminal would obey. For
 * what does not end the command; what ends it is returned and main prints it. Returns 1. */
int cs_cmd_complain(const struct cs_err *err);

/* Open the store and sweep what dead guests left: the one way in which a command gets its store. */
int cs_cmd_store_open(const struct cs_globals *globals, struct cs_store **ret, struct cs_err *err);

/* Print a report on stdout: as (format), or as JSON when the globals say so. */
int cs_cmd_print(const struct cs_globals *globals, const struct cs_report *report,
		 enum cs_format format, struct cs_err *err);

/* ---- words of a command line --------------------------------------------------------------- */

/* A growing, NULL-ended list of words that stay their owner's. Zeroed is empty. */
struct cs_words {
	char **v;
	size_t n;
};
bool cs_words_add(struct cs_words *words, char *word); /* false: no memory */
void cs_words_freep(struct cs_words *words);

/* The last of an argp parser's arguments: all that stands from the current one on. */
char **cs_argp_rest(struct argp_state *state);

/* A number given as (what): 'count '0': ...'. -EINVAL with words outside (min)..(max). */
int cs_cmd_number(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *ret,
		  struct cs_err *err);

/* Each of (env) as NAME=VALUE: -EINVAL with words. */
int cs_cmd_env_check(const struct cs_words *env, struct cs_err *err);

/* ---- guests -------------------------------------------------------------------------------- */

struct cs_cmd_guest {
	struct cs_card *card; /* owned */
	int dirfd;            /* guests/<name>, owned */
};

/* Look (name) up: a legal name, its card and its folder. -ENOENT with words and the way out. */
int cs_cmd_guest_open(struct cs_store *store, const char *name, struct cs_cmd_guest *ret,
		      struct cs_err *err);
/* As cs_cmd_guest_open(), and it runs: -ESRCH with words otherwise. */
int cs_cmd_guest_running(struct cs_store *store, const char *name, struct cs_cmd_guest *ret,
			 struct cs_err *err);
void cs_cmd_guest_closep(struct cs_cmd_guest *guest);

/* The last line of (file) in the guest's folder, which the caller frees, with nothing in it that a
 * terminal would obey; NULL: there is none. */
char *cs_cmd_last_line(struct cs_store *store, const char *guest, const char *file);

/* A descriptor of the monitor (pidfd), the caller's; by pid and start time, so that it is never
 * another process: -ESRCH when the monitor is gone. */
int cs_cmd_guest_pidfd(const struct cs_card *card);

/* Wait for (n) monitors, by pidfd, until they have ended or (ms) have passed (UINT64_MAX: for
 * ever). Ended ones are closed and become -1. The number of those that are left. */
size_t cs_cmd_wait_ended(int pidfds[], size_t n, uint64_t ms);

/* A number of a monitor's status ("state=ready vcpus=1", vmm/control.h) by its key. -ENOENT: it
 * does not have it. */
int cs_cmd_status_number(const char *status, const char *key, uint64_t *ret);

const char *cs_cmd_state_name(enum cs_guest_state state);

/* A file in memory for a monitor to write to, or to read: of a size that stays, so that whoever has
 * it can take no more of the host's memory. The descriptor is the caller's; -errno. */
int cs_cmd_memory_file(const char *name, size_t bytes);

/* ---- the host ------------------------------------------------------------------------------ */

/* A line of <root>/proc/meminfo ("MemTotal"), in bytes; 0 when it cannot be told. (root_fd) is
 * AT_FDCWD for this host, or the folder that stands for "/" in a test. */
uint64_t cs_cmd_meminfo(int root_fd, const char *key);

/* As many open files as we may have: one is needed for each guest that is worked on. */
void cs_cmd_raise_files(void);

/* Milliseconds of the monotonic clock, and microseconds. */
uint64_t cs_cmd_now_ms(void);
uint64_t cs_cmd_now_us(void);
