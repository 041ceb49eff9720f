/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A running machine's control socket (guests/<name>/control.sock): a line in, a line out.
 *
 *   status            ok state=booting|ready|paused|stopping vcpus=N enrolled=0|1 from_memory=0|1
 *                     target_bytes=N actual_bytes=N reported_bytes=N [disk_waits=0|1]: of
 *                     its RAM the guest is asked to get by with the first and says it has the
 *                     second; so many free ones it has reported, and the host has taken back.
 *                     from_memory: its RAM is mapped from a
 *                     saved one. disk_waits: what it wrote waits for room in the store
 *   stop [GRACE_MS]   ok            asks the agent to power off; the machine then ends
 *   reboot            ok
 *   pause, resume     ok
 *   ping              ok            when the guest's agent has answered
 *   balloon BYTES     ok            ask the guest to get by with so many bytes of its RAM
 *   quit              ok            end at once
 *   enroll on|off     ok bytes=N    let the kernel merge what the guest wrote with what others did
 *                                   (or no longer); refused of one that is in no share domain. With
 *                                   "on" may come a descriptor: a file of struct cs_page_range, and
 *                                   only these are let in
 *   sketch            ok pages=N    with the first byte comes a descriptor, opened for reading and
 *                                   writing: it gets a struct cs_sketch_page for each page that the
 *                                   guest wrote (vmm/sketch.h); refused as enroll is
 *   own               ok ranges=N   with the first byte comes a descriptor, as with sketch: it gets
 *                                   the pages that the guest wrote, as struct cs_page_range, and
 *                                   nothing of what is in them
 *   seen              ok ranges=N   the same of the pages that it read, too, and of those that the
 *                                   host mapped with them
 *   fold              ok looked=N folded=N stops=N longest_us=N total_us=N
 *                                   pages that are as they were before the guest wrote to them
 *                                   go back (vmm/fold.h). The answer comes when that is done
 *   console           ok            from then on the connection is the guest's console, raw, both
 *                                   ways
 *   save [drop] [sync]  ok pause_us=N pages=N bytes=N
 *                                   with the first byte come descriptors (SCM_RIGHTS), opened for
 *                                   reading and writing: of the memory, of the state, and of the
 *                                   disk when the guest has one. The answer comes when everything
 *                                   is written and synced. drop: the guest drops its caches before,
 *                                   and has reported its free pages; sync: it writes out its file
 *                                   systems
 *   save park [sync]  ok ...        the descriptors are of the pages that differ
 *                                   (vmm/snapshot-delta.h), of the state, and of the ticket, a file
 *                                   that is not empty. From the picture on the machine stands
 *                                   still, until the client sends quit; should it go away before,
 *                                   the ticket is made empty and the machine goes on
 *   anything else     error WORDS
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/own.h"
#include "vmm/loop.h"

/* ---- the server, in the monitor */

#define CS_CONTROL_LINE         1024  /* longest line either way, its newline and a NUL included */
#define CS_CONTROL_GRACE_MS     10000 /* of "stop" without one */
#define CS_CONTROL_GRACE_MAX_MS 3600000

#define CS_CONTROL_FDS 3 /* most that come with a line */

struct cs_control_client; /* who waits for a late answer */

/* What a machine does for it; loop thread, lock held. 0, or -errno with words in (err), which the
 * client gets. None may free the control; those left NULL are answered with an error. */
struct cs_control_ops {
	/* Write "state=ready vcpus=2" into (text), which has room for (bytes). */
	int (*status)(void *arg, char *text, size_t bytes, struct cs_err *err);
	int (*stop)(void *arg, uint32_t grace_ms, struct cs_err *err);
	int (*reboot)(void *arg, struct cs_err *err);
	int (*pause)(void *arg, struct cs_err *err);
	int (*resume)(void *arg, struct cs_err *err);
	int (*enroll)(void *arg, bool on, int ranges_fd, uint64_t *ret_bytes,
		      struct cs_err *err); /* ranges_fd: -1, all */
	int (*sketch)(void *arg, int fd, uint64_t *ret_pages, struct cs_err *err);
	int (*own)(void *arg, int fd, uint64_t *ret_ranges, struct cs_err *err);
	int (*seen)(void *arg, int fd, uint64_t *ret_ranges, struct cs_err *err);
	int (*balloon)(void *arg, uint64_t bytes, struct cs_err *err);
	int (*quit)(void *arg, struct cs_err *err); /* the client has its "ok" already */
	/* (fd), a non-blocking stream socket with "ok" written to it, is the console's on 0. */
	int (*console)(void *arg, int fd, struct cs_err *err);
	/* Save into (n) descriptors, which become the machine's on 0, when it also owes the client
	 * a cs_control_answer(). (words): what stands behind "save", may be empty. */
	int (*save)(void *arg, struct cs_control_client *client, const int fds[], size_t n,
		    const char *words, struct cs_err *err);
	/* Give back what did not change; on 0 the client is owed an answer, as of a save. */
	int (*fold)(void *arg, struct cs_control_client *client, struct cs_err *err);
	/* Ask the guest for a sign of life; on 0 the client is owed an answer. */
	int (*ping)(void *arg, struct cs_control_client *client, struct cs_err *err);
	/* The client of a save, a fold or a ping is gone before its answer, none is owed any more;
	 * or the one that it held on to behind a cs_control_answer_held(). */
	void (*save_gone)(void *arg, struct cs_control_client *client);
};

struct cs_control_spec {
	int listen_fd; /* listening unix stream socket, lent; made non-blocking */
	const struct cs_control_ops *ops; /* lent */
	void *arg;
};

struct cs_control;

/* Serve it. Only root and the user that this process runs as now, before it enters its sandbox, are
 * answered (SO_PEERCRED). Clients that are slow, silent or talk nonsense are harmless: at most 32,
 * then the one that was silent for longest goes. */
int cs_control_create(const struct cs_control_spec *spec, struct cs_loop *loop,
		      struct cs_control **ret, struct cs_err *err);

/* The late answer: "ok" and (text), or with (why) an error and its words. */
void cs_control_answer(struct cs_control_client *client, const char *text,
		       const struct cs_err *why);

/* The same, and the client holds the machine from then on: save_gone() is called when it goes. */
void cs_control_answer_held(struct cs_control_client *client, const char *text);

/* Clients that wait are dropped, and save_gone() called for them. */
struct cs_control *cs_control_free(struct cs_control *control);
CS_DEFINE_AUTO(cs_control);

/* ---- the client side, for commands */

/* Send (line) to the socket at (dirfd)/control.sock, wait up to (timeout_ms) for the answer: what
 * stands behind "ok " in *ret (caller frees; NULL: not wanted). -ECONNREFUSED, -ENOENT: not
 * running; -ETIMEDOUT; -EREMOTEIO: it said error, its words are in (err). */
int cs_control_call(int dirfd, const char *line, unsigned timeout_ms, char **ret,
		    struct cs_err *err);

/* The same, and (fd) goes along; it stays the caller's. */
int cs_control_call_with(int dirfd, const char *line, int fd, unsigned timeout_ms, char **ret,
			 struct cs_err *err);

/* As cs_control_call("console"), and the connection stays open: *ret_fd is the caller's. */
int cs_control_console(int dirfd, int *ret_fd, struct cs_err *err);

/* As cs_control_call() with "save" and (words) (NULL or "": none), and the (n) descriptors go
 * along, at most CS_CONTROL_FDS. When it fails, also with -ETIMEDOUT, the monitor gives the save
 * up: what the files hold then is half a save at best. */
int cs_control_save(int dirfd, const int fds[], size_t n, const char *words, unsigned timeout_ms,
		    char **ret, struct cs_err *err);

/* As cs_control_save() with "park sync". From the answer on the machine stands still for as long as
 * *ret_fd, the caller's, is open; cs_control_quit() ends it. Closed before, the machine goes on,
 * and the third of (fds) is an empty file then. */
int cs_control_park(int dirfd, const int fds[3], unsigned timeout_ms, char **ret, int *ret_fd,
		    struct cs_err *err);
int cs_control_quit(int fd, unsigned timeout_ms, struct cs_err *err);
