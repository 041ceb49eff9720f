/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/screen.h"

#include <curses.h>
#include <string.h>

struct cs_screen {
	SCREEN *screen;
};

int cs_screen_open(struct cs_screen **ret, struct cs_err *err)
{
	cs_auto(cs_screen_freep) struct cs_screen *screen = NULL;

	if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
		return cs_fail(err, ENOTTY, "not a terminal (--once prints a table)");
	screen = calloc(1, sizeof(*screen));
	if (!screen)
		return cs_fail_errno(err, ENOMEM, "terminal");
	/* initscr() would end the program. */
	screen->screen = newterm(NULL, stdout, stdin);
	if (!screen->screen)
		return cs_fail(err, ENOENT, "this terminal is none that is known (TERM)");
	set_term(screen->screen);
	cbreak();
	noecho();
	nonl();
	curs_set(0);
	keypad(stdscr, TRUE);
	nodelay(stdscr, TRUE);
	*ret = cs_steal(screen);
	return 0;
}

void cs_screen_size(const struct cs_screen *screen, size_t *ret_lines, size_t *ret_columns)
{
	int lines, width;

	getmaxyx(stdscr, lines, width);
	*ret_lines = lines > 0 ? (size_t)lines : 0;
	*ret_columns = width > 0 ? (size_t)width : 0;
}

void cs_screen_line(struct cs_screen *screen, size_t line, const char *text, size_t from, size_t to)
{
	size_t lines, width;

	cs_screen_size(screen, &lines, &width);
	if (line >= lines)
		return;
	mvaddnstr((int)line, 0, text, (int)width);
	clrtoeol();
	if (to > from && from < width)
		mvchgat((int)line, (int)from, (int)(to - from), A_REVERSE, 0, NULL);
}

void cs_screen_show(struct cs_screen *screen)
{
	refresh();
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
	const int key = getch();

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
		endwin();
		delscreen(screen->screen);
	}
	free(screen);
	return NULL;
}
