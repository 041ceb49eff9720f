/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A terminal as a screen of lines (ncurses). One at a time. */
#pragma once

#include <stddef.h>

#include "store/base/err.h"
#include "store/base/own.h"

enum cs_key { /* besides characters */
	      CS_KEY_NONE = -1,
	      CS_KEY_UP = 0x10000,
	      CS_KEY_DOWN,
	      CS_KEY_LEFT,
	      CS_KEY_RIGHT,
	      CS_KEY_PAGE_UP,
	      CS_KEY_PAGE_DOWN,
	      CS_KEY_HOME,
	      CS_KEY_END,
	      CS_KEY_RESIZE,
};

struct cs_screen;

/* Take over the terminal on stdin and stdout. -ENOTTY, -ENOENT: none that is known (TERM). */
int cs_screen_open(struct cs_screen **ret, struct cs_err *err);

void cs_screen_size(const struct cs_screen *screen, size_t *ret_lines, size_t *ret_columns);

/* Set the line: (text), blanks behind it; its characters (from) to (to) reversed, when to > from.
 * What lies outside of the screen is not drawn. */
void cs_screen_line(struct cs_screen *screen, size_t line, const char *text, size_t from,
		    size_t to);
void cs_screen_show(struct cs_screen *screen); /* what was set since */

/* A key that was pressed, CS_KEY_NONE: none; does not wait. */
int cs_screen_key(struct cs_screen *screen);

struct cs_screen *cs_screen_free(struct cs_screen *screen); /* the terminal is as it was */
CS_DEFINE_AUTO(cs_screen);
