/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* top: guests and what they cost, as it goes. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>

#include "cow/card.h"
#include "ksm/cmd-running.h"
#include "ksm/ksm.h"
#include "ksm/screen.h"
#include "ksm/top.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "store/base/proc.h"
#include "vmm/cmd-common.h"
#include "vmm/command.h"

#define DELAY_DEFAULT "2"
#define DELAY_MAX     3600
#define NEW_MAX       512 /* guests a look whose cards are read */
#define CPU_MAX       600 /* guests a look whose CPU time is read */
/* Of the time between two looks, what may go into walking guests' memory; those that are shown come
 * first. */
#define METER_PART 40
#define STALE_MS   10000
#define HEAD_LINES 5
#define WIDTH_MAX  512

struct top_options {
	const char *delay, *sort;
	bool once;
};

enum {
	KEY_ONCE = 0x100,
};

static const struct argp_option top_options[] = {
	{ "delay", 'd', "SECONDS", 0, "Between two looks (default: " DELAY_DEFAULT ")", 1 },
	{ "sort", 's', "COLUMN", 0,
	  "Largest first: name, u (CPU), cost, private, ... (default: cost)", 1 },
	{ "once", KEY_ONCE, NULL, 0, "Print one table", 1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct top_options *o = state->input;

	switch (key) {
	case 'd':
		o->delay = arg;
		return 0;
	case 's':
		o->sort = arg;
		return 0;
	case KEY_ONCE:
		o->once = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "'%s': nothing goes here", arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

struct viewer {
	struct cs_store *store;
	struct cs_ksm *ksm; /* NULL: this kernel has none */
	struct cs_screen *screen;
	struct cs_top top;
	size_t first, shown; /* rows on the screen */
	size_t cpu_at;       /* whose turn it is */
	size_t added;
	bool everything; /* all guests at each look, however long that takes: for one table */
	int64_t delay_ms;
	uint64_t saved_bytes;
	double stalled_percent;
	int64_t some_us, some_ms; /* pressure at the last look */
	int signal_fd;
};

static void viewer_close(struct viewer *v)
{
	cs_screen_freep(&v->screen);
	cs_top_clear(&v->top);
	cs_ksm_freep(&v->ksm);
	cs_fd_closep(&v->signal_fd);
}

/* ---- looking ------------------------------------------------------------------------------- */

/* A mark tells of a start; that the guest runs, its card. */
static int on_running(void *arg, pid_t pid, const char *name)
{
	cs_auto(cs_card_freep) struct cs_card *card = NULL;
	struct viewer *v = arg;
	struct cs_top_row *row = cs_top_find(&v->top, pid, name);

	if (row) {
		row->seen = true;
		return 0;
	}
	if (v->added >= NEW_MAX && !v->everything)
		return 0;
	v->added++;
	if (cs_card_load(v->store, name, &card, NULL) < 0 || card->state != CS_GUEST_RUNNING ||
	    card->pid != pid)
		return 0;
	return cs_top_add(&v->top, pid, card->guest) ? 0 : -ENOMEM;
}

static void read_cpu(struct viewer *v, struct cs_top_row *row, int64_t now)
{
	const long hz = sysconf(_SC_CLK_TCK);
	struct cs_proc_stat stat;

	if (hz > 0 && cs_proc_stat("/proc", row->pid, &stat) == 0)
		cs_top_cpu(row, (stat.user_ticks + stat.system_ticks) * 1000 / (uint64_t)hz, now);
}

static void read_memory(struct cs_top_row *row, int64_t now)
{
	struct cs_meter_merging merging = { CS_KSM_UNKNOWN, CS_KSM_UNKNOWN, CS_KSM_UNKNOWN,
					    CS_KSM_UNKNOWN };
	struct cs_meter_guest guest = row->guest;
	struct cs_meter_process process;

	/* One that has just ended keeps what it had; the next look drops it. */
	if (cs_meter_process("/proc", row->pid, &process, NULL) == 0) {
		cs_meter_merging("/proc", row->pid, &merging);
		guest = cs_meter_guest_of(&process, &merging);
	}
	cs_top_meter(row, &guest, now);
}

static void read_host(struct viewer *v, int64_t now)
{
	struct cs_ksm_sample sample;

	if (!v->ksm || cs_ksm_sample(v->ksm, &sample, NULL) < 0)
		return;
	v->saved_bytes = (uint64_t)cs_ksm_saved_pages(&sample) * 4096;
	if (sample.some_us != CS_KSM_UNKNOWN) {
		if (v->some_ms && now > v->some_ms)
			v->stalled_percent = (double)(sample.some_us - v->some_us) / 10 /
					     (double)(now - v->some_ms);
		v->some_us = sample.some_us;
		v->some_ms = now;
	}
}

static int look(struct viewer *v, struct cs_err *err)
{
	const int64_t now = (int64_t)cs_cmd_now_ms();
	const uint64_t end_us = cs_cmd_now_us() + (uint64_t)v->delay_ms * 1000 / METER_PART;
	struct cs_top_row *row;
	double cpu;
	int r;

	v->added = 0;
	cs_top_begin(&v->top);
	r = cs_running_each(v->store, on_running, v, err);
	if (r < 0)
		return r;
	cs_top_end(&v->top);
	for (size_t i = 0; i < v->shown && v->first + i < v->top.n; i++)
		read_cpu(v, &v->top.row[v->first + i], now);
	for (size_t i = 0; i < v->top.n && (i < CPU_MAX || v->everything); i++)
		read_cpu(v, &v->top.row[v->cpu_at++ % v->top.n], now);
	while ((v->everything || cs_cmd_now_us() < end_us) &&
	       (row = cs_top_due(&v->top, v->first, v->shown, now, STALE_MS)) != NULL)
		read_memory(row, now);
	read_host(v, now);
	cs_top_sort(&v->top);
	cs_top_remember(&v->top, cs_top_sum(&v->top, &cpu).cost_bytes);
	return 0;
}

/* ---- drawing ------------------------------------------------------------------------------- */

static void draw_head(struct viewer *v, size_t width)
{
	char line[WIDTH_MAX], a[CS_BYTES_TEXT], b[CS_BYTES_TEXT], c[CS_BYTES_TEXT];
	struct cs_meter_guest sum;
	size_t from, to;
	double cpu;

	sum = cs_top_sum(&v->top, &cpu);
	snprintf(line, sizeof(line), "clearstore: %zu guests, %.1f %% CPU, %s; %s of it private",
		 v->top.n, cpu, cs_format_bytes(sum.cost_bytes, a),
		 cs_format_bytes(sum.private_bytes, b));
	cs_screen_line(v->screen, 0, line, 0, 0);
	snprintf(line, sizeof(line), "host: %s, %s available, %s saved by merging, stalled %.1f %%",
		 cs_format_bytes(cs_cmd_meminfo(AT_FDCWD, "MemTotal"), a),
		 cs_format_bytes(cs_cmd_meminfo(AT_FDCWD, "MemAvailable"), b),
		 cs_format_bytes(v->saved_bytes, c), v->stalled_percent);
	cs_screen_line(v->screen, 1, line, 0, 0);
	if (width > 12 && width < sizeof(line) - 1) {
		memcpy(line, "cost ", 5);
		cs_top_history(&v->top, width - 6 < CS_TOP_HISTORY ? width - 6 : CS_TOP_HISTORY,
			       line + 5);
		cs_screen_line(v->screen, 2, line, 0, 0);
	}
	cs_screen_line(v->screen, 3,
		       "q quit  r reverse  letter or arrows: sort by column  up, down: move", 0, 0);
	cs_top_head(&v->top, width, line, &from, &to);
	cs_screen_line(v->screen, 4, line, from, to);
}

static void draw(struct viewer *v)
{
	size_t lines, width;
	char line[WIDTH_MAX];

	cs_screen_size(v->screen, &lines, &width);
	if (width >= sizeof(line))
		width = sizeof(line) - 1;
	v->shown = lines > HEAD_LINES ? lines - HEAD_LINES : 0;
	if (v->first + v->shown > v->top.n)
		v->first = v->top.n > v->shown ? v->top.n - v->shown : 0;
	draw_head(v, width);
	for (size_t i = 0; i < v->shown; i++) {
		line[0] = '\0';
		if (v->first + i < v->top.n)
			cs_top_line(&v->top.row[v->first + i], width, line);
		cs_screen_line(v->screen, HEAD_LINES + i, line, 0, 0);
	}
	cs_screen_show(v->screen);
}

static void move(struct viewer *v, int64_t by)
{
	const int64_t most = v->top.n > v->shown ? (int64_t)(v->top.n - v->shown) : 0;
	int64_t first = (int64_t)v->first + by;

	first = first < 0 ? 0 : first;
	v->first = (size_t)(first > most ? most : first);
}

static void sort_by(struct viewer *v, int column)
{
	v->top.by = (enum cs_top_column)((column + CS_TOP_COLUMNS) % CS_TOP_COLUMNS);
	cs_top_sort(&v->top);
}

/* False: quit. */
static bool on_key(struct viewer *v, int key)
{
	switch (key) {
	case 'q':
	case 'Q':
		return false;
	case 'r':
	case 'R':
		v->top.reverse = !v->top.reverse;
		cs_top_sort(&v->top);
		break;
	case CS_KEY_UP:
		move(v, -1);
		break;
	case CS_KEY_DOWN:
		move(v, 1);
		break;
	case CS_KEY_PAGE_UP:
		move(v, -(int64_t)v->shown);
		break;
	case CS_KEY_PAGE_DOWN:
		move(v, (int64_t)v->shown);
		break;
	case CS_KEY_HOME:
		v->first = 0;
		break;
	case CS_KEY_END:
		move(v, INT32_MAX);
		break;
	case CS_KEY_LEFT:
		sort_by(v, (int)v->top.by - 1);
		break;
	case CS_KEY_RIGHT:
		sort_by(v, (int)v->top.by + 1);
		break;
	default:
		if (key < 128 && cs_top_column_of(key) != CS_TOP_COLUMNS)
			sort_by(v, (int)cs_top_column_of(key));
	}
	return true;
}

/* False: quit. */
static bool wait_and_serve(struct viewer *v, int64_t until_ms)
{
	struct pollfd item[2] = { { .fd = STDIN_FILENO, .events = POLLIN },
				  { .fd = v->signal_fd, .events = POLLIN } };
	struct signalfd_siginfo info;
	int64_t left;
	int key;

	while ((left = until_ms - (int64_t)cs_cmd_now_ms()) > 0) {
		if (poll(item, 2, (int)left) < 0 && errno != EINTR)
			return false;
		if (item[1].revents) {
			/* A window that changed its size is a key to ncurses. */
			if (read(v->signal_fd, &info, sizeof(info)) != sizeof(info) ||
			    info.ssi_signo != SIGWINCH)
				return false;
		}
		if (item[0].revents & (POLLHUP | POLLERR))
			return false;
		while ((key = cs_screen_key(v->screen)) != CS_KEY_NONE) {
			if (!on_key(v, key))
				return false;
		}
		draw(v);
	}
	return true;
}

static int open_signals(struct viewer *v, struct cs_err *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return cs_fail_errno(err, errno, "cannot take signals");
	v->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return v->signal_fd < 0 ? cs_fail_errno(err, errno, "cannot take signals") : 0;
}

static int view(struct viewer *v, struct cs_err *err)
{
	int r;

	r = open_signals(v, err);
	if (r == 0)
		r = cs_screen_open(&v->screen, err);
	while (r == 0) {
		const int64_t until_ms = (int64_t)cs_cmd_now_ms() + v->delay_ms;

		r = look(v, err);
		if (r < 0)
			break;
		draw(v);
		if (!wait_and_serve(v, until_ms))
			break;
	}
	return r;
}

/* ---- one table ----------------------------------------------------------------------------- */

static const struct cs_column columns[] = {
	{ "name", "NAME", CS_CELL_TEXT },
	{ "pid", "PID", CS_CELL_COUNT },
	{ "cpu_percent", "CPU", CS_CELL_PERCENT },
	{ "cost_bytes", "COST", CS_CELL_BYTES },
	{ "private_bytes", "PRIVATE", CS_CELL_BYTES },
	{ "merged_bytes", "MERGED", CS_CELL_BYTES },
	{ "zero_bytes", "ZERO", CS_CELL_BYTES },
	{ "shared_bytes", "SHARED", CS_CELL_BYTES },
	{ "page_table_bytes", "PAGE TABLES", CS_CELL_BYTES },
};

static int print_once(const struct cs_globals *globals, struct viewer *v, struct cs_err *err)
{
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	int r;

	r = cs_report_open(columns, sizeof(columns) / sizeof(columns[0]), &report, err);
	v->everything = true;
	if (r == 0)
		r = look(v, err);
	/* CPU time is told between two looks. */
	if (r == 0) {
		poll(NULL, 0, (int)(v->delay_ms < 1000 ? v->delay_ms : 1000));
		r = look(v, err);
	}
	for (size_t i = 0; i < v->top.n && r == 0; i++) {
		const struct cs_top_row *row = &v->top.row[i];

		cs_report_row(report);
		cs_report_text(report, "name", row->name);
		cs_report_number(report, "pid", (uint64_t)row->pid);
		cs_report_real(report, "cpu_percent", row->cpu_percent);
		cs_report_number(report, "cost_bytes", row->guest.cost_bytes);
		cs_report_number(report, "private_bytes", row->guest.private_bytes);
		cs_report_number(report, "merged_bytes", row->guest.merged_bytes);
		cs_report_number(report, "zero_bytes", row->guest.zero_bytes);
		cs_report_number(report, "shared_bytes", row->guest.shared_bytes);
		cs_report_number(report, "page_table_bytes", row->guest.page_table_bytes);
	}
	return r < 0 ? r : cs_cmd_print(globals, report, CS_FORMAT_TABLE, err);
}

static int run(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	const struct top_options *o = options;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(viewer_close) struct viewer v = { .signal_fd = -1, .top = { .by = CS_TOP_COST } };
	uint64_t seconds;
	int r;

	r = cs_cmd_number("delay", o->delay ? o->delay : DELAY_DEFAULT, 1, DELAY_MAX, &seconds,
			  err);
	if (r < 0)
		return r;
	if (o->sort) {
		v.top.by = cs_top_column_named(o->sort);
		if (v.top.by == CS_TOP_COLUMNS)
			return cs_fail(err, EINVAL,
				       "sort '%.20s': not name, u (CPU), cost, private, merged, "
				       "zero, shared or tables",
				       o->sort);
	}
	v.delay_ms = (int64_t)seconds * 1000;
	r = cs_cmd_store_open(globals, &store, err);
	if (r < 0)
		return r;
	v.store = store;
	if (cs_ksm_open(CS_KSM_DIR, "/proc", &v.ksm, NULL) < 0)
		v.ksm = NULL; /* nothing is saved then */
	return o->once || globals->json ? print_once(globals, &v, err) : view(&v, err);
}

static const struct argp argp = {
	.options = top_options,
	.parser = parse,
	.doc = "Guests and what they cost, as it goes: a view of the terminal. With --once or "
	       "--json, "
	       "one table."
	       "\vIn the view, the first letter of a column (u for CPU) or the arrows sort by it, "
	       "r "
	       "reverses, q quits. Memory of many guests is read little by little, those on the "
	       "screen first.\n",
};

const struct cs_command cs_cmd_top = {
	.name = "top",
	.summary = "Watch guests and what they cost",
	.argp = &argp,
	.options_bytes = sizeof(struct top_options),
	.reports = true,
	.run = run,
};
