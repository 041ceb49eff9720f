/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A connection of the host and the process that runs for it.
 *
 * Flow: the process's output is read only while the connection takes it, so a slow host stops the
 * writer; input is taken only against CREDIT, so at most a window of it waits here, and SIGNAL
 * never waits behind it.
 *
 * The end: EXIT follows when the process has ended and its pipes have reached their end. A process
 * left in the background may hold them open for ever: after the process itself has ended,
 * CS_EXEC_SILENCE_MS without output, or CS_EXEC_LINGER_MS in all, end it as well (docker and podman
 * users expect an exec to return with its process). What the process itself wrote is never cut off.
 *
 * A connection that breaks first: its process group gets SIGHUP, as from a terminal that is closed.
 * With a terminal that is all: what ignores SIGHUP (nohup, tmux) goes on alone. Without one,
 * SIGKILL follows after CS_EXEC_KILL_MS; a process that wants to stay makes itself a session
 * (setsid). */
#pragma once

#include "vmm/guest/agent/agent.h"
#include "vmm/guest/agent/codec.h"

#define CS_EXEC_SILENCE_MS 500
#define CS_EXEC_LINGER_MS  2000
#define CS_EXEC_KILL_MS    5000

/* Input that may wait here: at first what wire.h promises, more once it really flows. */
#define CS_EXEC_WINDOW     CS_WIRE_STDIN_CREDIT
#define CS_EXEC_WINDOW_BIG (4 * CS_WIRE_STDIN_CREDIT)
/* With more connections than this the window does not grow. */
#define CS_EXEC_BIG_MAX 32

struct cs_exec {
	pid_t pid; /* 0: no EXEC yet */
	bool ended, terminal;
	uint32_t status;

	struct cs_watch in, out, err; /* with a terminal: in and out are twins of its master */
	/* The terminal's other side. Until the process has ended there is always a user of it: it
	 * may close its own on the way out (cat does) or open it anew, and neither is the end; and
	 * closing the master at that moment would kill it with SIGHUP. -1: none. */
	int keep;
	struct cs_queue input; /* what the process has not taken yet */
	bool input_end;        /* close (in) behind it */
	uint32_t credit;       /* bytes the host may still send */
	uint32_t owed, window; /* taken by the process, not granted anew yet; its limit */
	bool big_pipe;         /* output flows: its pipe has been made larger */

	uint64_t linger_until; /* after the end; see above */
	bool last_call;        /* only what is in the pipes now is still read: */
	uint32_t last_out, last_err;
};

struct cs_conn {
	struct cs_conn *next, *before;
	struct cs_watch socket;
	struct cs_queue held; /* the first part of a message */
	struct cs_queue out;  /* what the socket has not taken yet */
	bool closing;         /* when (out) has gone */
	bool waiting;         /* an EXEC in (held) is for when the guest is not frozen any more */
	uint32_t stdin_left;  /* bytes of a STDIN message still to come */
	int low;              /* the socket is ready only with so many bytes; 0: with any */
	struct cs_deadline deadline;
	struct cs_exec exec;
};

/* ---- service.c ---- */

int cs_service_listen(struct cs_agent *a);                        /* vsock */
int cs_service_listen_unix(struct cs_agent *a, const char *path); /* for tests */
void cs_service_close_all(struct cs_agent *a);
void cs_service_expire(struct cs_agent *a, uint64_t now);
uint64_t cs_service_next(const struct cs_agent *a); /* earliest deadline; UINT64_MAX: none */
/* (pid) has ended; true: it was one of ours. */
bool cs_service_ended(struct cs_agent *a, pid_t pid, uint32_t status);

/* The guest is not frozen any more: what has waited for that. */
void cs_service_resume(struct cs_agent *a);

/* Close now; freed at the end of the round. A process goes on being looked after until it ends. */
void cs_conn_close(struct cs_agent *a, struct cs_conn *c);
void cs_conn_free(struct cs_conn *c);
/* Queue or send. A connection that breaks here is closed. */
void cs_conn_send(struct cs_agent *a, struct cs_conn *c, enum cs_wire_type type,
		  const void *payload, uint32_t bytes);
/* The same with the payload at a->scratch + CS_HEAD_BYTES: no copy. */
void cs_conn_send_scratch(struct cs_agent *a, struct cs_conn *c, enum cs_wire_type type,
			  uint32_t bytes);
void cs_conn_fail(struct cs_agent *a, struct cs_conn *c, int error, const char *words);
/* Watch what has to be watched now. */
void cs_conn_arm(struct cs_agent *a, struct cs_conn *c);

/* ---- exec.c ---- */

/* false: the message is none; the connection is to be cut off. */
bool cs_exec_start(struct cs_agent *a, struct cs_conn *c, struct cs_reader *r);
bool cs_exec_signal(struct cs_conn *c, uint32_t signal);
void cs_exec_input(struct cs_agent *a, struct cs_conn *c, const uint8_t *data, uint32_t bytes);
void cs_exec_input_end(struct cs_agent *a, struct cs_conn *c);
void cs_exec_resize(struct cs_conn *c, struct cs_wire_size size);
void cs_exec_ended(struct cs_agent *a, struct cs_conn *c, uint32_t status);
void cs_exec_abandon(struct cs_agent *a, struct cs_conn *c); /* the host is gone */
void cs_exec_kill(const struct cs_conn *c);
void cs_exec_expire(struct cs_agent *a, struct cs_conn *c, uint64_t now);
void cs_exec_arm(struct cs_agent *a, struct cs_conn *c);
void cs_exec_free(struct cs_agent *a, struct cs_conn *c);
