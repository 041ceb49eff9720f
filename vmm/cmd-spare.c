/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* spare: keeps some machines of a template made and waiting, for spawns that cannot wait. Each that
 * is taken is made up for a moment later, so as not to be in the way of the guest that it became.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "cow/spare.h"
#include "store/base/own.h"
#include "store/manifest.h"
#include "store/version.h"
#include "vmm/cmd-spawner.h"
#include "vmm/command.h"

#define COUNT_DEFAULT 4
#define COUNT_MAX     1000
#define QUIET_MS      250  /* behind the last that was taken */
#define LOOK_MS       1000 /* which version is the active one? */
#define TRIES         3    /* in a row that come to nothing */
#define ENDING_MS     2000 /* as long as spares may take to end */

struct options {
	const char *template, *count;
};

struct spare {
	pid_t pid; /* 0: none */
	int pidfd; /* nobody waits for it, so its number may become another's */
	int fd;    /* what it has to say */
	bool waits;
	unsigned missing; /* looks in a row by which it was not on offer */
};

struct keeper {
	const char *template;
	struct cs_spawn_session session;
	struct spare *spare;
	size_t n, failures;
	int signal_fd, lock_fd; /* the lock: while one is being made */
	uint64_t not_before_ms, look_ms;
	bool has_machine; /* the template, one that spares can be made of */
	bool told, ended;
	struct cs_err first; /* why one came to nothing */
};

/* ---- one spare ------------------------------------------------------------------------------ */

static _Noreturn void become_spare(const struct keeper *keeper, int event_fd)
{
	const struct cs_monitor_spec spec = {
		.store = keeper->session.store,
		.template = keeper->session.template,
		.kvm = keeper->session.kvm,
		.card = &keeper->session.card,
		.guest = "spare",
		.event_fd = event_fd,
		.spare = true,
		.turn_fd = -1,
		.over_fd = -1,
	};

	signal(SIGCHLD, SIG_DFL);
	close_range(CS_SPAWNER_FD_BASE, ~0U, 0);
	cs_monitor_main(&spec);
}

/* One that died already says so by its pipe. */
static int watch(struct spare *spare, struct cs_err *err)
{
	const int pidfd = pidfd_open(spare->pid, 0);

	if (pidfd < 0 && errno == ESRCH)
		return 0;
	spare->pidfd = cs_spawner_raise_fd(pidfd);
	if (spare->pidfd >= 0)
		return 0;
	spare->pid = 0;
	cs_fd_closep(&spare->fd); /* which ends it */
	return cs_fail_errno(err, errno, "out of descriptors (raise ulimit -n)");
}

static int make(struct keeper *keeper, struct spare *spare, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int write_fd = -1;
	int pipes[2], r;

	/* Nobody removes the template while it is being opened there. */
	if (keeper->lock_fd < 0) {
		r = cs_store_lock(keeper->session.store, false, &keeper->lock_fd, err);
		if (r < 0)
			return r;
		keeper->lock_fd = cs_spawner_raise_fd(keeper->lock_fd);
		if (keeper->lock_fd < 0)
			return cs_fail_errno(err, errno, "out of descriptors (raise ulimit -n)");
	}
	if (pipe2(pipes, O_CLOEXEC) < 0)
		return cs_fail_errno(err, errno, "cannot make a pipe");
	write_fd = pipes[1];
	spare->fd = cs_spawner_raise_fd(pipes[0]);
	spare->pid = spare->fd < 0 ? -1 : fork();
	if (spare->pid == 0)
		become_spare(keeper, write_fd);
	if (spare->pid > 0)
		return watch(spare, err);
	spare->pid = 0;
	cs_fd_closep(&spare->fd);
	return cs_fail_errno(err, errno, "cannot start a process (see clearstore doctor)");
}

/* It is somebody's guest, or dead. */
static void forget(struct spare *spare)
{
	cs_fd_closep(&spare->fd);
	cs_fd_closep(&spare->pidfd);
	spare->pid = 0;
	spare->waits = false;
	spare->missing = 0;
}

static void end(const struct spare *spare)
{
	if (spare->pidfd >= 0)
		pidfd_send_signal(spare->pidfd, SIGKILL, NULL, 0);
}

static void failed(struct keeper *keeper, struct spare *spare, const struct cs_err *why)
{
	forget(spare);
	if (!keeper->failures++)
		keeper->first = *why;
	keeper->not_before_ms = cs_cmd_now_ms() + LOOK_MS;
	keeper->ended = keeper->failures >= TRIES;
}

static void listen_to(struct keeper *keeper, struct spare *spare)
{
	char message[1 + sizeof(struct cs_err)];
	struct cs_err why = { 0 };
	const ssize_t n = read(spare->fd, message, sizeof(message));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n == sizeof(message) && message[0] == 'E') {
		memcpy(&why, &message[1], sizeof(why));
		why.text[sizeof(why.text) - 1] = '\0';
		failed(keeper, spare, &why);
	} else if (n <= 0 && spare->waits) {
		/* Killed, by hand or for want of memory: that says nothing of the next one. */
		forget(spare);
		keeper->not_before_ms = cs_cmd_now_ms() + LOOK_MS;
	} else if (n <= 0) {
		cs_fail(&why, EIO, "a spare (process %d) ended", (int)spare->pid);
		failed(keeper, spare, &why);
	} else if (message[n - 1] == 'T') {
		forget(spare);
		keeper->not_before_ms = cs_cmd_now_ms() + QUIET_MS;
	} else if (cs_spare_offer(keeper->session.store, spare->pid, &keeper->session.card, &why) <
		   0) {
		end(spare);
		failed(keeper, spare, &why);
	} else {
		spare->waits = true;
		keeper->failures = 0;
	}
}

/* Those that wait end when nobody listens to them any more. */
static void drop_all(struct keeper *keeper)
{
	for (size_t i = 0; keeper->spare && i < keeper->n; i++)
		forget(&keeper->spare[i]);
}

/* ---- all of them ---------------------------------------------------------------------------- */

static size_t waiting(const struct keeper *keeper)
{
	size_t n = 0;

	for (size_t i = 0; i < keeper->n; i++)
		n += keeper->spare[i].waits;
	return n;
}

static bool is_making(const struct keeper *keeper)
{
	for (size_t i = 0; i < keeper->n; i++) {
		if (keeper->spare[i].pid && !keeper->spare[i].waits)
			return true;
	}
	return false;
}

static int make_up(struct keeper *keeper, struct cs_err *err)
{
	int r;

	for (size_t i = 0; i < keeper->n; i++) {
		if (keeper->spare[i].pid)
			continue;
		r = make(keeper, &keeper->spare[i], err);
		if (r < 0)
			return r;
	}
	return 0;
}

static bool is_complete(const struct keeper *keeper)
{
	if (!keeper->has_machine)
		return true;
	for (size_t i = 0; i < keeper->n; i++) {
		if (!keeper->spare[i].pid)
			return false;
	}
	return true;
}

/* The template as it is now, and what a guest of its saved machine is like. */
static int open_template(struct keeper *keeper, struct cs_err *err)
{
	cs_auto(cs_template_freep) struct cs_template *t = NULL;
	const struct cs_manifest_saved *saved;
	struct cs_card card = { .resume = true };
	int r;

	r = cs_template_open(keeper->session.store, keeper->template, &t, err);
	if (r < 0)
		return r;
	saved = &cs_template_manifest(t)->saved;
	snprintf(card.template, sizeof(card.template), "%s", cs_template_name(t));
	snprintf(card.version, sizeof(card.version), "%s", cs_template_version(t));
	card.ram_bytes = saved->ram_bytes;
	card.vcpus = saved->vcpus;
	keeper->has_machine =
		saved->present && cs_template_resumes(t, card.ram_bytes, card.vcpus, false);
	cs_template_freep(&keeper->session.template);
	keeper->session.template = cs_steal(t);
	keeper->session.card = card;
	return 0;
}

static int no_machine(const struct keeper *keeper, struct cs_err *err)
{
	const struct cs_card *card = &keeper->session.card;

	return cs_fail(err, ENOENT,
		       "template '%s@%s': no saved machine without a disk to make spares of "
		       "(clearstore template warm %s)",
		       card->template, card->version, card->template);
}

/* New guests get the active version, so that is what spares are of. */
static int follow(struct keeper *keeper, struct cs_err *err)
{
	char active[CS_VERSION_TEXT];
	struct cs_err words = { 0 };
	int r;

	if (strchr(keeper->template, '@'))
		return 0;
	r = cs_version_active(keeper->session.store, keeper->template, active, err);
	if (r < 0 || strcmp(active, keeper->session.card.version) == 0)
		return r;
	drop_all(keeper);
	r = open_template(keeper, err);
	if (r == 0 && !keeper->has_machine) {
		no_machine(keeper, &words);
		cs_cmd_complain(&words); /* the next version may have one */
	}
	return r;
}

/* One whose folder a spawner has taken and that has not heard of it by the second look will not any
 * more: the spawner was killed. */
static void look_after(struct keeper *keeper, struct spare *spare)
{
	if (!spare->waits ||
	    cs_spare_is_offered(keeper->session.store, spare->pid, &keeper->session.card)) {
		spare->missing = 0;
	} else if (spare->missing++) {
		end(spare);
		forget(spare);
	}
}

static int look(struct keeper *keeper, struct cs_err *err)
{
	keeper->look_ms = cs_cmd_now_ms() + LOOK_MS;
	for (size_t i = 0; i < keeper->n; i++)
		look_after(keeper, &keeper->spare[i]);
	cs_spare_sweep(keeper->session.store, NULL); /* what died; others sweep, too */
	return follow(keeper, err);
}

static void tell(struct keeper *keeper)
{
	const size_t n = waiting(keeper);

	/* Who would change the template waits for that. */
	if (!is_making(keeper))
		cs_fd_closep(&keeper->lock_fd);
	if (keeper->told || n < keeper->n)
		return;
	printf("%s@%s: %zu spare%s\n", keeper->session.card.template, keeper->session.card.version,
	       n, n == 1 ? "" : "s");
	fflush(stdout);
	keeper->told = true;
}

static int wait_once(struct keeper *keeper, struct cs_err *err)
{
	cs_auto(cs_mem_freep) struct pollfd *item = calloc(keeper->n + 1, sizeof(*item));
	const uint64_t now = cs_cmd_now_ms();
	uint64_t next = keeper->look_ms;

	if (!item)
		return cs_fail_errno(err, ENOMEM, "%zu spares", keeper->n);
	if (!is_complete(keeper) && keeper->not_before_ms < next)
		next = keeper->not_before_ms;
	for (size_t i = 0; i < keeper->n; i++)
		item[i] = (struct pollfd){ .fd = keeper->spare[i].fd, .events = POLLIN };
	item[keeper->n] = (struct pollfd){ .fd = keeper->signal_fd, .events = POLLIN };
	if (poll(item, keeper->n + 1, next > now ? (int)(next - now) : 0) < 0 && errno != EINTR)
		return cs_fail_errno(err, errno, "cannot wait");
	for (size_t i = 0; i < keeper->n; i++) {
		if (item[i].revents)
			listen_to(keeper, &keeper->spare[i]);
	}
	keeper->ended |= item[keeper->n].revents != 0;
	return 0;
}

static int keep(struct keeper *keeper, struct cs_err *err)
{
	int r = 0;

	while (r == 0 && !keeper->ended) {
		if (!is_complete(keeper) && cs_cmd_now_ms() >= keeper->not_before_ms)
			r = make_up(keeper, err);
		if (r == 0)
			r = wait_once(keeper, err);
		tell(keeper);
		if (r == 0 && cs_cmd_now_ms() >= keeper->look_ms)
			r = look(keeper, err);
	}
	if (r == 0 && keeper->failures >= TRIES)
		r = cs_fail(err, keeper->first.code, "%s", keeper->first.text);
	return r;
}

/* ---- the command ---------------------------------------------------------------------------- */

/* Nobody is left that waits, nor a folder of theirs. One that is being taken just now stays. */
static void end_all(struct keeper *keeper)
{
	const uint64_t until = cs_cmd_now_ms() + ENDING_MS;

	for (size_t i = 0; i < keeper->n; i++)
		cs_fd_closep(&keeper->spare[i].fd);
	for (size_t i = 0; i < keeper->n; i++) {
		const uint64_t now = cs_cmd_now_ms();

		cs_cmd_wait_ended(&keeper->spare[i].pidfd, 1, now < until ? until - now : 0);
		cs_fd_closep(&keeper->spare[i].pidfd);
	}
	cs_spare_sweep(keeper->session.store, NULL);
}

static void keeper_close(struct keeper *keeper)
{
	if (keeper->spare && keeper->session.store)
		end_all(keeper);
	free(keeper->spare);
	cs_fd_closep(&keeper->lock_fd);
	cs_fd_closep(&keeper->signal_fd);
	cs_spawn_closep(&keeper->session);
}

static int open_keeper(const struct cs_globals *globals, struct keeper *keeper, struct cs_err *err)
{
	struct cs_spawn_session *session = &keeper->session;
	int r;

	keeper->spare = calloc(keeper->n, sizeof(*keeper->spare));
	if (!keeper->spare)
		return cs_fail_errno(err, ENOMEM, "%zu spares", keeper->n);
	for (size_t i = 0; i < keeper->n; i++)
		keeper->spare[i].fd = keeper->spare[i].pidfd = -1;
	cs_spawner_prepare();
	r = cs_cmd_store_open(globals, &session->store, err);
	if (r == 0)
		r = open_template(keeper, err);
	if (r == 0 && !keeper->has_machine)
		r = no_machine(keeper, err);
	if (r == 0)
		r = cs_spawner_kvm_open(&session->kvm, err);
	session->count = keeper->n;
	if (r == 0)
		r = cs_spawn_admit(session, err);
	if (r < 0)
		return r;
	keeper->signal_fd = cs_spawner_signals();
	if (keeper->signal_fd < 0)
		return cs_fail_errno(err, errno, "cannot take signals");
	return 0;
}

static int run(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	const struct options *o = options;
	cs_auto(keeper_close) struct keeper keeper = {
		.template = o->template,
		.signal_fd = -1,
		.lock_fd = -1,
	};
	uint64_t count = COUNT_DEFAULT;
	int r;

	r = o->count ? cs_cmd_number("count", o->count, 1, COUNT_MAX, &count, err) : 0;
	if (r < 0)
		return r;
	keeper.n = count;
	r = open_keeper(globals, &keeper, err);
	return r < 0 ? r : keep(&keeper, err);
}

static const struct argp_option option_table[] = {
	{ "count", 'c', "N", 0, "Keep N machines waiting (default: 4)", 1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case 'c':
		o->count = arg;
		return 0;
	case ARGP_KEY_ARG:
		if (o->template)
			argp_error(state, "one template at a time");
		o->template = arg;
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "no template given");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = option_table,
	.parser = parse,
	.args_doc = "TEMPLATE",
	.doc = "Keep machines of a template made and waiting, so that spawn and run need only name "
	       "one. Goes on until it is told to end.",
};

const struct cs_command cs_cmd_spare = {
	.name = "spare",
	.summary = "Keep machines of a template made and waiting",
	.argp = &argp,
	.options_bytes = sizeof(struct options),
	.run = run,
};
