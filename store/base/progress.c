/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/base/progress.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/text.h"

#define DRAW_MS     100
#define WIDTH_LEAST 20
#define WIDTH_MOST  160
#define BAR_MOST    40
#define ERASE       "\r\033[K"

struct cs_progress {
	char what[64];
	uint64_t total_bytes, done_bytes;
	uint64_t start_ms, drawn_ms;
	bool drawn;
};

struct line {
	char text[WIDTH_MOST + 1];
	size_t used, width;
};

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* Append if it fits into the terminal's width as a whole, else leave it out. */
static void __attribute__((format(printf, 2, 3))) append(struct line *line, const char *fmt, ...)
{
	char piece[128];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(piece, sizeof(piece), fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= sizeof(piece) || (size_t)n > line->width - line->used)
		return;
	memcpy(line->text + line->used, piece, (size_t)n + 1);
	line->used += (size_t)n;
}

static size_t terminal_width(void)
{
	struct winsize size;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col < WIDTH_LEAST)
		return 80 - 1;
	/* one short: a full last column makes some terminals wrap */
	return size.ws_col > WIDTH_MOST ? WIDTH_MOST : size.ws_col - 1u;
}

static void append_bar(struct line *line, double part)
{
	size_t length = line->width / 3 > BAR_MOST ? BAR_MOST : line->width / 3;
	size_t filled = (size_t)(part * (double)length);
	char bar[BAR_MOST + 1];

	for (size_t i = 0; i < length; i++)
		bar[i] = i < filled ? '=' : i == filled ? '>' : ' ';
	bar[length] = '\0';
	append(line, " [%s]", bar);
	append(line, " %3.0f %%", part * 100);
}

static void append_left(struct line *line, double seconds)
{
	unsigned left;

	if (!(seconds >= 0 && seconds < 100 * 3600))
		return;
	left = (unsigned)(seconds + 0.5);
	if (left >= 3600)
		append(line, ", %u:%02u:%02u left", left / 3600, left / 60 % 60, left % 60);
	else
		append(line, ", %u:%02u left", left / 60, left % 60);
}

static void draw(struct cs_progress *progress, uint64_t now)
{
	struct line line = { .width = terminal_width() };
	double seconds = (double)(now - progress->start_ms) / 1000;
	double done = (double)progress->done_bytes, total = (double)progress->total_bytes;
	double rate = seconds > 0 ? done / seconds : 0;
	char text[CS_BYTES_TEXT];

	append(&line, "%.*s", (int)(line.width / 3), progress->what);
	if (progress->total_bytes)
		append_bar(&line, done < total ? done / total : 1);
	append(&line, " %s", cs_format_bytes(progress->done_bytes, text));
	if (rate > 0) {
		append(&line, ", %.0f MB/s", rate / 1e6);
		if (done < total)
			append_left(&line, (total - done) / rate);
	}
	/* A terminal that is gone is no reason to stop the work. */
	(void)cs_write_full(STDERR_FILENO, ERASE, strlen(ERASE));
	(void)cs_write_full(STDERR_FILENO, line.text, line.used);
	progress->drawn = true;
	progress->drawn_ms = now;
}

static void set_what(struct cs_progress *progress, const char *what)
{
	snprintf(progress->what, sizeof(progress->what), "%s", what);
	cs_text_clean(progress->what, false);
}

struct cs_progress *cs_progress_open(const char *what, uint64_t total_bytes)
{
	struct cs_progress *progress;
	const char *term = getenv("TERM");

	/* a dumb terminal cannot erase */
	if (!isatty(STDERR_FILENO) || (term && !strcmp(term, "dumb")))
		return NULL;
	progress = calloc(1, sizeof(*progress));
	if (!progress)
		return NULL;
	set_what(progress, what);
	progress->total_bytes = total_bytes;
	progress->start_ms = now_ms();
	return progress;
}

void cs_progress_set(struct cs_progress *progress, uint64_t bytes)
{
	uint64_t now;

	if (!progress)
		return;
	progress->done_bytes = bytes;
	now = now_ms();
	/* nothing in the first tenth of a second either: short work does not flicker */
	if (now - progress->start_ms >= DRAW_MS && now - progress->drawn_ms >= DRAW_MS)
		draw(progress, now);
}

void cs_progress_step(struct cs_progress *progress, const char *what)
{
	if (!progress)
		return;
	set_what(progress, what);
	draw(progress, now_ms());
}

struct cs_progress *cs_progress_free(struct cs_progress *progress)
{
	if (progress && progress->drawn)
		(void)cs_write_full(STDERR_FILENO, ERASE, strlen(ERASE));
	free(progress);
	return NULL;
}
