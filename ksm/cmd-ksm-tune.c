/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ksm tune: drive the kernel's merging, until told to stop. */
#include "ksm/cmd-ksm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>

#include "ksm/keep.h"
#include "ksm/pressure.h"
#include "ksm/tune.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "vmm/cmd-common.h"

/* A tenth of a second lost in half a one: we hear of it before the second is over. */
#define STALL_US  50000
#define WINDOW_US 500000

struct tune_options {
	const char *budget, *policy, *trace, *domain, *root;
	bool once, all_domains, whole;
};

enum {
	KEY_ALL_DOMAINS = 0x100,
	KEY_BUDGET,
	KEY_DOMAIN,
	KEY_ONCE,
	KEY_POLICY,
	KEY_ROOT,
	KEY_TRACE,
	KEY_WHOLE,
};

static const struct argp_option tune_options[] = {
	{ "once", KEY_ONCE, NULL, 0, "Look at everything once, merge what is alike, and end", 1 },
	{ "budget", KEY_BUDGET, "PERCENT", 0, "CPU time of a core for it (default: 5%)", 1 },
	{ "policy", KEY_POLICY, "NAME", 0, "How to decide (default: yield)", 1 },
	{ "domain", KEY_DOMAIN, "NAME", 0,
	  "Merge guests of this share domain (default: of one that has guests)", 1 },
	{ "all-domains", KEY_ALL_DOMAINS, NULL, 0,
	  "Merge guests of all share domains, with those of others, too", 1 },
	{ "whole", KEY_WHOLE, NULL, 0,
	  "Let the kernel at all that guests wrote, not only where some of it is alike", 1 },
	{ "trace", KEY_TRACE, "FILE", 0, "Write down what was seen and done, for ksm replay", 1 },
	{ "root", KEY_ROOT, "DIR", OPTION_HIDDEN, "Folder that stands for /", 1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct tune_options *o = state->input;

	switch (key) {
	case KEY_ONCE:
		o->once = true;
		return 0;
	case KEY_BUDGET:
		o->budget = arg;
		return 0;
	case KEY_POLICY:
		o->policy = arg;
		return 0;
	case KEY_DOMAIN:
		o->domain = arg;
		return 0;
	case KEY_ALL_DOMAINS:
		o->all_domains = true;
		return 0;
	case KEY_TRACE:
		o->trace = arg;
		return 0;
	case KEY_ROOT:
		o->root = arg;
		return 0;
	case KEY_WHOLE:
		o->whole = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "'%s': nothing goes here", arg);
		return 0;
	case ARGP_KEY_END:
		if (o->domain && o->all_domains)
			argp_error(state, "--domain and --all-domains do not go together");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- what is open while it runs ------------------------------------------------------------ */

struct session {
	const struct tune_options *o;
	struct cs_ksm_paths paths;
	struct cs_ksm *ksm;
	struct cs_ksm_keep *keep;
	struct cs_ksm_guests *guests;
	struct cs_ksm_sample first, last; /* seen */
	enum cs_ksm_why why;
	struct cs_tune_spec spec;
};

static void session_close(struct session *s)
{
	cs_fd_closep(&s->spec.trace_fd);
	cs_fd_closep(&s->spec.pressure_fd);
	cs_fd_closep(&s->spec.stop_fd);
	cs_ksm_guests_freep(&s->guests);
	cs_ksm_keep_freep(&s->keep);
	cs_ksm_freep(&s->ksm);
}

static int look(void *arg, const struct cs_ksm_sample *now, int64_t *ret_bytes, struct cs_err *err)
{
	struct session *s = arg;

	return cs_ksm_guests_look(s->guests, now, ret_bytes, err);
}

static int prepare(void *arg, const struct cs_ksm_sample *now, bool hurry, int64_t *ret_bytes,
		   struct cs_err *err)
{
	struct session *s = arg;

	return cs_ksm_guests_prepare(s->guests, now, hurry, ret_bytes);
}

/* A line when it turns to something else, for whoever reads the journal. */
static void decided(void *arg, const struct cs_ksm_sample *now, const struct cs_ksm_setting *set,
		    const struct cs_ksm_mind *mind)
{
	char text[CS_BYTES_TEXT];
	struct cs_ksm_guests_count count;
	struct session *s = arg;

	if (s->first.at_ms == CS_KSM_UNKNOWN)
		s->first = *now;
	s->last = *now;
	if (mind->why == CS_KSM_NOTHING)
		cs_ksm_guests_rest(s->guests, now, false);
	/* What was saved of guests that have gone is nothing that is lost. */
	if (mind->why == CS_KSM_SWEEP) {
		s->first.pages_sharing = now->pages_sharing;
		s->first.zero_pages = now->zero_pages;
	}
	if (mind->why == s->why)
		return;
	s->why = mind->why;
	cs_ksm_guests_count(s->guests, &count);
	fprintf(stderr, "ksm: %s: %s; %zu guests enrolled, %s saved\n",
		set->run == 1 ? "scanning" : "standing still", cs_ksm_why_name(mind->why),
		count.enrolled, cs_format_bytes((uint64_t)cs_ksm_saved_pages(now) * 4096, text));
}

static int open_stop(struct session *s, struct cs_err *err)
{
	sigset_t set;

	/* Who reads what we say may go: KSM's settings are still to be put back. */
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return cs_fail_errno(err, errno, "cannot take signals");
	s->spec.stop_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return s->spec.stop_fd < 0 ? cs_fail_errno(err, errno, "cannot take signals") : 0;
}

static int open_trace(struct session *s, struct cs_err *err)
{
	if (!s->o->trace)
		return 0;
	s->spec.trace_fd = open(s->o->trace, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	return s->spec.trace_fd < 0
		       ? cs_fail_errno(err, errno, "cannot write the trace '%s'", s->o->trace)
		       : 0;
}

/* What a tuner before us left behind goes back first: what we find is then what was there before
 * any.
 */
static int open_kernel(struct session *s, struct cs_err *err)
{
	struct cs_ksm_setting setting;
	bool was = false;
	int r;

	r = cs_ksm_open(s->paths.ksm, s->paths.proc, &s->ksm, err);
	if (r == 0)
		r = cs_ksm_keep_open(s->paths.run, s->paths.proc, &s->keep, err);
	if (r == 0)
		r = cs_ksm_keep_restore(s->keep, s->ksm, &was, err);
	if (r == 0 && was)
		fprintf(stderr, "clearstore: a tuner before this one was killed: its settings are "
				"put back\n");
	if (r == 0)
		r = cs_ksm_read(s->ksm, &setting, err);
	/* The same values: a tuner that may not set them says so now, with nothing to be put back.
	 */
	if (r == 0)
		r = cs_ksm_may_set(s->ksm, err);
	return r < 0 ? r : cs_ksm_keep_save(s->keep, &setting, err);
}

static void say_missing(struct session *s)
{
	struct cs_ksm_setting setting;
	struct cs_ksm_sample sample;
	char text[1024], *line, *rest = NULL;

	if (cs_ksm_sample(s->ksm, &sample, NULL) < 0 || cs_ksm_read(s->ksm, &setting, NULL) < 0)
		return;
	cs_ksm_missing(&sample, &setting, text, sizeof(text));
	for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		fprintf(stderr, "clearstore: this kernel has %s\n", line);
	if (s->spec.pressure_fd < 0)
		fprintf(stderr,
			"clearstore: nothing wakes the tuner when memory is short (PSI, and "
			"CAP_SYS_RESOURCE): it looks twice a second\n");
}

static int session_open(const struct tune_options *o, struct cs_store *store, struct session *s,
			struct cs_err *err)
{
	/* Policies to hold ours against are as they are elsewhere. */
	struct cs_ksm_guests_spec guests = {
		.store = store,
		.proc = s->paths.proc,
		.domain = o->domain,
		.all = o->all_domains,
		.by_sketch = !o->whole && s->spec.policy->decide == cs_ksm_decide,
	};
	int r;

	r = cs_ksm_paths(o->root, &s->paths, err);
	if (r == 0)
		r = open_stop(s, err);
	if (r == 0)
		r = open_trace(s, err);
	if (r == 0)
		r = cs_ksm_guests_create(&guests, &s->guests, err);
	/* Last: what fails behind it would leave KSM's settings to be put back. */
	if (r == 0)
		r = open_kernel(s, err);
	/* Not before it is certain that no other tuner writes to it. */
	if (r == 0 && s->spec.trace_fd >= 0 && ftruncate(s->spec.trace_fd, 0) < 0 &&
	    errno != EINVAL)
		r = cs_fail_errno(err, errno, "cannot write the trace '%s'", o->trace);
	if (r < 0)
		return r;
	cs_pressure_open(s->paths.proc, STALL_US, WINDOW_US, &s->spec.pressure_fd);
	say_missing(s);
	s->spec.ksm = s->ksm;
	return 0;
}

/* ---- the report of --once ------------------------------------------------------------------ */

static const struct cs_column columns[] = {
	{ "guests", "GUESTS", CS_CELL_COUNT },
	{ "enrolled_guests", "ENROLLED", CS_CELL_COUNT },
	{ "domain", "SHARE DOMAIN", CS_CELL_TEXT },
	{ "saved_bytes", "SAVED", CS_CELL_BYTES },
	{ "gained_bytes", "OF THAT NOW", CS_CELL_BYTES },
	{ "ksmd_ms", "CPU TIME", CS_CELL_MS },
};

static int print_once(const struct cs_globals *globals, const struct session *s, struct cs_err *err)
{
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	const int64_t saved = cs_ksm_saved_pages(&s->last);
	const int64_t gained = saved - cs_ksm_saved_pages(&s->first);
	struct cs_ksm_guests_count count;
	int r;

	r = cs_report_open(columns, sizeof(columns) / sizeof(columns[0]), &report, err);
	if (r < 0)
		return r;
	cs_ksm_guests_count(s->guests, &count);
	cs_report_row(report);
	cs_report_number(report, "guests", count.running);
	cs_report_number(report, "enrolled_guests", count.enrolled);
	if (count.domain[0])
		cs_report_text(report, "domain", count.domain);
	cs_report_number(report, "saved_bytes", (uint64_t)saved * 4096);
	cs_report_number(report, "gained_bytes", gained > 0 ? (uint64_t)gained * 4096 : 0);
	if (s->last.ksmd_us != CS_KSM_UNKNOWN && s->first.ksmd_us != CS_KSM_UNKNOWN)
		cs_report_real(report, "ksmd_ms",
			       (double)(s->last.ksmd_us - s->first.ksmd_us) / 1000);
	return cs_cmd_print(globals, report, CS_FORMAT_RECORD, err);
}

/* ---- tune ---------------------------------------------------------------------------------- */

static int run(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	static const struct cs_tune_ops ops = { .guests = look,
						.prepare = prepare,
						.decided = decided };
	const struct tune_options *o = options;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(session_close) struct session s = {
		.o = o,
		.first = cs_ksm_sample_unknown(),
		.last = cs_ksm_sample_unknown(),
		.spec = { .limits = CS_KSM_LIMITS_DEFAULT,
			  .stop_fd = -1,
			  .pressure_fd = -1,
			  .trace_fd = -1,
			  .once = o->once,
			  .ops = &ops },
	};
	bool was;
	int r, restored;

	s.spec.arg = &s;
	r = cs_ksm_policy_named(o->policy ? o->policy : "yield", &s.spec.policy, err);
	if (r == 0 && o->budget)
		r = cs_ksm_budget(o->budget, &s.spec.limits.budget_permille, err);
	if (r == 0)
		r = cs_cmd_store_open(globals, &store, err);
	if (r == 0)
		r = session_open(o, store, &s, err);
	if (r < 0)
		return r;
	r = cs_tune_run(&s.spec, err);
	/* Guests stay enrolled: what is merged stays so, and is not looked at any more. */
	restored = cs_ksm_keep_restore(s.keep, s.ksm, &was, r < 0 ? NULL : err);
	/* Behind it: somebody may hang, and who waits for us lose patience. */
	while (cs_ksm_guests_rest(s.guests, &s.last, true))
		;
	if (r < 0 || restored < 0)
		return r < 0 ? r : restored;
	return o->once ? print_once(globals, &s, err) : 0;
}

static const struct argp tune_argp = {
	.options = tune_options,
	.parser = parse,
	.doc = "Have the kernel merge what guests of a share domain have in common, as far as it "
	       "pays, until told to stop. Only guests spawned with --share-domain take part."
	       "\vIt scans when there is something new, and hard when memory is short. At its end "
	       "KSM's settings are put back; what is merged stays merged (ksm off takes it apart). "
	       "One tuner a host.\n",
};

const struct cs_command cs_cmd_ksm_tune = {
	.name = "tune",
	.summary = "Drive merging, until told to stop",
	.argp = &tune_argp,
	.options_bytes = sizeof(struct tune_options),
	.reports = true,
	.run = run,
};
