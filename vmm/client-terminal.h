/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an exec does to the process it runs in: signals as data, a terminal in raw mode, output that
 * never blocks. Each is undone by its _close, on every way out. */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <termios.h>

#include "vmm/guest/agent/wire.h"

/* ---- the terminal */

struct cs_terminal {
	int fd; /* -1: none, all below do nothing */
	struct termios saved;
	bool is_raw;
};

/* Put (fd) into raw mode if it is a terminal; stops, as any program that changes a terminal, while
 * we are in the background. */
void cs_terminal_open(struct cs_terminal *terminal, int fd);
void cs_terminal_raw(struct cs_terminal *terminal, bool raw); /* to and fro, when we are stopped */
void cs_terminal_close(struct cs_terminal *terminal);

/* The window of the first of (fd), (other_fd) that is a terminal; 0 x 0: neither is. Host order. */
struct cs_wire_size cs_terminal_size(int fd, int other_fd);

/* ---- signals */

struct cs_signals {
	int fd; /* signalfd, readable when one has come; -1: not open */
	sigset_t taken, saved;
	bool is_open, had_sigpipe;
};

/* Block SIGINT, SIGTERM, SIGHUP, SIGQUIT, those not ignored so far, and take them from ->fd.
 * SIGPIPE is blocked: writes say EPIPE. -errno. */
int cs_signals_open(struct cs_signals *signals);
/* SIGWINCH, SIGTSTP, SIGCONT too, from now on. -errno. */
int cs_signals_add_terminal(struct cs_signals *signals);
int cs_signals_next(struct cs_signals *signals); /* 0: none waits */
/* Send us the next one again: it has its way after _close, unless the caller blocks it too. */
void cs_signals_repeat(struct cs_signals *signals);
void cs_signals_close(struct cs_signals *signals);

/* ---- output */

enum cs_sink_kind {
	CS_SINK_FILE,   /* takes all there is room for, at once */
	CS_SINK_OWN,    /* opened again for us alone, non-blocking */
	CS_SINK_SOCKET, /* can be asked not to block */
	CS_SINK_SHARED, /* could not be opened again: small pieces, each when poll(2) says so */
};

struct cs_sink {
	int fd;
	enum cs_sink_kind kind;
	bool is_dead; /* nobody reads: what is written is dropped */
};

/* Around (fd), which stays the caller's and is not made non-blocking: others share it. */
void cs_sink_open(struct cs_sink *sink, int fd);
/* Bytes taken; 0: none now, poll for POLLOUT; -errno. */
ssize_t cs_sink_write(struct cs_sink *sink, const void *data, size_t bytes);
void cs_sink_close(struct cs_sink *sink);
