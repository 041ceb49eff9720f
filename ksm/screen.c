/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/screen.h"

/* Functions, not macros around stdscr. */
#define NCURSES_NOMACROS
#include <curses.h>
#include <string.h>

#include "store/base/library.h"

#define CALLS(X)                                                                                   \
	X(cbreak)                                                                                  \
	X(curs_set)                                                                                \
	X(delscreen)                                                                               \
	X(endwin)                                                                                  \
	X(getmaxx)                                                                                 \
	X(getmaxy)                                                                                 \
	X(keypad)                                                                                  \
	X(newterm)                                                                                 \
	X(nodelay)                                                                                 \
	X(noecho)                                                                                  \
	X(nonl)                                                                                    \
	X(set_term)                                                                                \
	X(stdscr)                                                                                  \
	X(waddnstr)                                                                                \
	X(wchgat)                                                                                  \
	X(wclrtoeol)                                                                               \
	X(wgetch)                                                                                  \
	X(wmove)                                                                                   \
	X(wrefresh)

/* ncurses, loaded when there is something to see: every command would start with it. */
struct curses {
	CALLS(CS_LIBRARY_CALL)
};

static const struct cs_symbol symbols[] = {
#define ROW(name) { #name, offsetof(struct curses, name) },
	CALLS(ROW)
#undef ROW
};

struct cs_screen {
	struct curses nc;
	SCREEN *screen;
};

int cs_screen_open(struct cs_screen **ret, struct cs_err *err)
{
	cs_auto(cs_screen_freep) struct cs_screen *screen = NULL;
	const struct curses *nc;
	int r;

	if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
		return cs_fail(err, ENOTTY, "not a terminal (--once prints a table)");
	screen = calloc(1, sizeof(*screen));
	if (!screen)
		return cs_fail_errno(err, ENOMEM, "terminal");
	r = cs_library_load("libncursesw.so.6", "libncursesw6", symbols,
			    sizeof(symbols) / sizeof(symbols[0]), &screen->nc, err);
	if (r < 0)
		return r;
	nc = &screen->nc;
	/* initscr() would end the program. */
	screen->screen = nc->newterm(NULL, stdout, stdin);
	if (!screen->screen)
		return cs_fail(err, ENOENT, "this terminal is none that is known (TERM)");
	nc->set_term(screen->screen);
	nc->cbreak();
	nc->noecho();
	nc->nonl();
	nc->curs_set(0);
	nc->keypad(*nc->stdscr, TRUE);
	nc->nodelay(*nc->stdscr, TRUE);
	*ret = cs_steal(screen);
	return 0;
}

void cs_screen_size(const struct cs_screen *screen, size_t *ret_lines, size_t *ret_columns)
{
	const struct curses *nc = &screen->nc;
	const int lines = nc->getmaxy(*nc->stdscr), width = nc->getmaxx(*nc->stdscr);

	*ret_lines = lines > 0 ? (size_t)lines : 0;
	*ret_columns = width > 0 ? (size_t)width : 0;
}

void cs_screen_line(struct cs_screen *screen, size_t line, const char *text, size_t from, size_t to)
{
	const struct curses *nc = &screen->nc;
	size_t lines, width;

	cs_screen_size(screen, &lines, &width);
	if (line >= lines)
		return;
	if (nc->wmove(*nc->stdscr, (int)line, 0) != ERR)
		nc->waddnstr(*nc->stdscr, text, (int)width);
	nc->wclrtoeol(*nc->stdscr);
	if (to > from && from < width && nc->wmove(*nc->stdscr, (int)line, (int)from) != ERR)
		nc->wchgat(*nc->stdscr, (int)(to - from), A_REVERSE, 0, NULL);
}

void cs_screen_show(struct cs_screen *screen)
{
	screen->nc.wrefresh(*screen->nc.stdscr);
}

int cs_screen_key(struct cs_screen *screen)
{
	static const struct {
		int theirs;
		enum cs_key ours;
	} keys[] = {
		{ KEY_UP, CS_KEY_UP },         { KEY_DOWN, CS_KEY_DOWN },
		{ KEY_LEFT, CS_KEY_LEFT },     { KEY_RIGHT, CS_KEY_RIGHT },
		{ KEY_PPAGE, CS_KEY_PAGE_UP }, { KEY_NPAGE, CS_KEY_PAGE_DOWN },
		{ KEY_HOME, CS_KEY_HOME },     { KEY_END, CS_KEY_END },
		{ KEY_RESIZE, CS_KEY_RESIZE },
	};
	const int key = screen->nc.wgetch(*screen->nc.stdscr);

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		if (keys[i].theirs == key)
			return keys[i].ours;
	}
	return key == ERR ? CS_KEY_NONE : key;
}

struct cs_screen *cs_screen_free(struct cs_screen *screen)
{
	if (!screen)
		return NULL;
	if (screen->screen) {
		screen->nc.endwin();
		screen->nc.delscreen(screen->screen);
	}
	free(screen);
	return NULL;
}
