/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The process that starts guests: forks their monitors, listens to what they say, takes back what
 * failed. */
#include "vmm/cmd-spawner.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cow/life.h"
#include "cow/overlay.h"
#include "cow/spare.h"
#include "store/base/own.h"
#include "vmm/kvm.h"

#define EVENTS      64
#define SHOWN_FROM  8      /* guests; fewer need no counter */
#define SHOWN_US    100000 /* ten times a second */
#define SIGNAL_SLOT UINT32_MAX
/* So many that want to run on each CPU are a crowd; the next guest waits for so long at most. */
#define CROWD_PER_CPU 4
#define CROWD_MS      3000
#define CROWD_LOOK_MS 10

void cs_spawner_prepare(void)
{
	close_range(3, ~0U, 0);
	cs_cmd_raise_files();
}

int cs_spawner_kvm_open(struct cs_host_kvm **ret, struct cs_err *err)
{
	const char *path = getenv("CLEARSTORE_KVM");

	return cs_host_kvm_open(path && *path ? path : NULL, ret, err);
}

int cs_spawner_raise_fd(int fd)
{
	cs_auto(cs_fd_closep) int owned = fd; /* keeps errno */

	return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, CS_SPAWNER_FD_BASE);
}

int cs_spawner_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGCHLD, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	return cs_spawner_raise_fd(signalfd(-1, &set, SFD_CLOEXEC));
}

static int raise_fd(int *fd, struct cs_err *err)
{
	*fd = cs_spawner_raise_fd(*fd);
	return *fd < 0 ? cs_fail_errno(err, errno, "out of descriptors (raise ulimit -n)") : 0;
}

/* ---- one guest ----------------------------------------------------------------------------- */

static _Noreturn void become_monitor(const struct cs_spawner *s, const struct cs_spawn_guest *guest,
				     int event_fd, int turn_fd, int over_fd)
{
	struct cs_card card = *s->card;
	const struct cs_monitor_spec spec = {
		.store = s->store,
		.template = s->template,
		.kvm = s->kvm,
		.card = &card,
		.guest = guest->name,
		.event_fd = event_fd,
		.watched = s->watched,
		.turn_fd = turn_fd,
		.over_fd = over_fd,
	};

	card.resume = card.resume && !s->cold;
	close_range(CS_SPAWNER_FD_BASE, ~0U, 0);
	cs_monitor_main(&spec);
}

/* Another spawner may be faster with a free number: then ours becomes the next. */
static int create_guest(struct cs_spawner *s, struct cs_spawn_guest *guest, struct cs_err *err)
{
	struct cs_card card = *s->card;
	int r;

	do {
		snprintf(card.guest, sizeof(card.guest), "%s", guest->name);
		r = cs_overlay_create(s->store, s->template, &card, err);
	} while (r == -EEXIST && s->prefix && cs_spawner_next_name(s, guest, err) == 0);
	if (r < 0)
		return r;
	guest->created = true;
	return 0;
}

static int fork_guest(struct cs_spawner *s, struct cs_spawn_guest *guest, struct cs_err *err)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = (uint32_t)(guest - s->guests) };
	cs_auto(cs_fd_closep) int read_fd = -1;
	cs_auto(cs_fd_closep) int write_fd = -1;
	cs_auto(cs_fd_closep) int turn_fd = -1;
	cs_auto(cs_fd_closep) int over_fd = -1;
	int pipes[2];
	pid_t pid;
	int r;

	if (pipe2(pipes, O_CLOEXEC) < 0)
		return cs_fail_errno(err, errno, "cannot make a pipe");
	read_fd = pipes[0];
	write_fd = pipes[1];
	if (write_fd >= CS_SPAWNER_FD_BASE)
		return cs_fail(err, EMFILE, "too many files are open before it starts");
	r = raise_fd(&read_fd, err);
	if (r < 0)
		return r;
	if (s->turns && !s->cold) {
		r = cs_spawner_turns_next(s->turns, &turn_fd, &over_fd, err);
		if (r < 0)
			return r;
	}
	fcntl(read_fd, F_SETFL, O_NONBLOCK);
	if (epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, read_fd, &event) < 0)
		return cs_fail_errno(err, errno, "cannot watch a pipe");
	pid = fork();
	if (pid < 0)
		return cs_fail_errno(err, errno,
				     "cannot start a process (see clearstore doctor for limits)");
	if (pid == 0)
		become_monitor(s, guest, write_fd, turn_fd, over_fd);
	guest->pid = pid;
	guest->event_fd = cs_steal_fd(&read_fd);
	guest->state = CS_SPAWN_STARTED;
	return 0;
}

/* Take a machine that is there already. -ENOENT: there is none (any more). */
static int take_spare(struct cs_spawner *s, struct cs_spawn_guest *guest, struct cs_err *err)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = (uint32_t)(guest - s->guests) };
	cs_auto(cs_fd_closep) int fd = -1;
	struct cs_card card = *s->card;
	pid_t pid;
	int r;

	do {
		snprintf(card.guest, sizeof(card.guest), "%s", guest->name);
		r = cs_spare_take(s->store, s->template, &card, &pid, &fd, err);
	} while (r == -EEXIST && s->prefix && cs_spawner_next_name(s, guest, err) == 0);
	if (r < 0)
		return r;
	guest->created = true;
	guest->pidfd = cs_spawner_raise_fd(pidfd_open(pid, 0));
	if (guest->pidfd < 0)
		return cs_fail_errno(err, errno, "its monitor (process %d)", (int)pid);
	guest->taken = true;
	guest->pid = pid;
	guest->state = CS_SPAWN_STARTED;
	r = raise_fd(&fd, err);
	if (r < 0)
		return r;
	fcntl(fd, F_SETFL, O_NONBLOCK);
	if (epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return cs_fail_errno(err, errno, "cannot watch a connection");
	guest->event_fd = cs_steal_fd(&fd);
	return 0;
}

/* With spares at hand the host's KVM was not opened. */
static int need_kvm(struct cs_spawner *s, struct cs_err *err)
{
	int r;

	if (s->kvm)
		return 0;
	r = cs_spawner_kvm_open(&s->own_kvm, err);
	s->kvm = s->own_kvm;
	return r;
}

static int start_guest(struct cs_spawner *s, struct cs_spawn_guest *guest, struct cs_err *err)
{
	int r;

	if (s->spares) {
		s->spares--;
		r = take_spare(s, guest, err);
		if (r != -ENOENT)
			return r;
		s->spares = 0;
	}
	r = need_kvm(s, err);
	if (r < 0)
		return r;
	if (s->create) {
		r = create_guest(s, guest, err);
		if (r < 0)
			return r;
	}
	return fork_guest(s, guest, err);
}

/* Wait for the end of a monitor: our child, or one that was a spare and is its keeper's. */
static void await_end(struct cs_spawn_guest *guest)
{
	struct pollfd item = { .fd = guest->pidfd, .events = POLLIN };

	while (guest->taken && poll(&item, 1, -1) < 0 && errno == EINTR)
		;
	while (!guest->taken && waitpid(guest->pid, NULL, 0) < 0 && errno == EINTR)
		;
	if (guest->taken)
		cs_fd_closep(&guest->pidfd);
	guest->pid = 0;
}

/* The pid of what is no child of ours may be another's by now. */
static void end_monitor(struct cs_spawn_guest *guest)
{
	if (guest->taken)
		pidfd_send_signal(guest->pidfd, SIGKILL, NULL, 0);
	else
		kill(guest->pid, SIGKILL);
	await_end(guest);
}

void cs_spawner_take_back(struct cs_store *store, struct cs_spawn_guest *guest)
{
	struct cs_err err = { 0 };

	cs_fd_closep(&guest->event_fd);
	guest->state = CS_SPAWN_FAILED;
	if (guest->pid > 0)
		end_monitor(guest);
	if (guest->created && cs_overlay_remove(store, guest->name, &err) < 0)
		cs_cmd_complain(&err);
	guest->created = false;
}

/* A child that was just forked holds a copy: closing alone would leave the pipe in the epoll set.
 */
static void unlisten(struct cs_spawner *s, struct cs_spawn_guest *guest)
{
	if (guest->event_fd >= 0)
		epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, guest->event_fd, NULL);
	cs_fd_closep(&guest->event_fd);
}

static void settle(struct cs_spawner *s, struct cs_spawn_guest *guest, enum cs_spawn_state state)
{
	unlisten(s, guest);
	guest->state = state;
	s->settled++;
	if (state == CS_SPAWN_FAILED)
		s->failed++;
}

static void failed(struct cs_spawner *s, struct cs_spawn_guest *guest, const struct cs_err *why)
{
	unlisten(s, guest);
	cs_spawner_take_back(s->store, guest);
	if (!s->failed) {
		s->first = *why;
		if (strncmp(why->text, "guest '", 7) != 0) /* what is of its card says so itself */
			cs_fail_in(&s->first, -why->code, "guest '%s'", guest->name);
	}
	settle(s, guest, CS_SPAWN_FAILED);
}

/* A saved machine that does not fit this host: its guests boot, and the user is told, once. */
static bool boot_instead(struct cs_spawner *s, struct cs_spawn_guest *guest,
			 const struct cs_err *why)
{
	struct cs_err again = { 0 };

	/* What is parked cannot be booted instead: it would be lost. */
	if (why->code != ESTALE || !s->card->resume || s->card->state == CS_GUEST_PARKED)
		return false;
	if (!s->cold)
		fprintf(stderr, "clearstore: template '%s': %s: guests boot instead\n",
			s->card->template, why->text);
	s->cold = true;
	unlisten(s, guest);
	await_end(guest);
	guest->taken = false;
	if (need_kvm(s, &again) < 0 || fork_guest(s, guest, &again) < 0)
		failed(s, guest, &again);
	return true;
}

/* What the monitor said last, else how it ended. */
static void why_ended(const struct cs_spawner *s, const struct cs_spawn_guest *guest,
		      struct cs_err *why)
{
	cs_auto(cs_mem_freep) char *words = cs_cmd_last_line(s->store, guest->name, "log");
	siginfo_t info = { 0 };

	if (words)
		cs_fail(why, EIO, "%s", words);
	else if (waitid(P_PID, (id_t)guest->pid, &info, WEXITED | WNOWAIT) == 0 &&
		 (info.si_code == CLD_KILLED || info.si_code == CLD_DUMPED))
		cs_fail(why, EIO, "its monitor was killed by signal %d (%s)", info.si_status,
			strsignal(info.si_status));
	else
		cs_fail(why, EIO, "its monitor ended before it ran");
}

/* End of file without the word waited for. A guest that did run is left as it is: its console log
 * tells what happened. */
static void ended(struct cs_spawner *s, struct cs_spawn_guest *guest)
{
	cs_auto(cs_mem_freep) char *words = NULL;
	struct cs_err why = { 0 };

	if (guest->state == CS_SPAWN_STARTED) {
		why_ended(s, guest, &why);
		failed(s, guest, &why);
		return;
	}
	/* The monitor's last words come before its end; from then on its pid may be another's. */
	await_end(guest);
	words = cs_cmd_last_line(s->store, guest->name, "log");
	if (!s->failed)
		cs_fail(&s->first, EIO,
			"guest '%s': it ended before it answered%s%s (see clearstore logs %s)",
			guest->name, words ? ": " : "", words ? words : "", guest->name);
	settle(s, guest, CS_SPAWN_FAILED);
}

static void listen_to(struct cs_spawner *s, struct cs_spawn_guest *guest)
{
	char message[1 + sizeof(struct cs_err)];
	struct cs_err why;
	ssize_t got;

	if (guest->event_fd < 0)
		return; /* settled by an event before this one */
	got = read(guest->event_fd, message, sizeof(message));
	if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
		ended(s, guest);
		return;
	}
	for (ssize_t i = 0; i < got && guest->event_fd >= 0; i++) {
		uint64_t now = cs_cmd_now_us() - s->begun_us;

		if (message[i] == 'E' && (size_t)(got - i) == sizeof(message)) {
			memcpy(&why, &message[i + 1], sizeof(why));
			why.text[sizeof(why.text) - 1] = '\0';
			if (!boot_instead(s, guest, &why))
				failed(s, guest, &why);
			return;
		}
		if (message[i] == 'R') {
			guest->running_us = now;
			guest->state = CS_SPAWN_RUNNING;
			if (!s->wait)
				settle(s, guest, CS_SPAWN_RUNNING);
		} else if (message[i] == 'A') {
			guest->ready_us = now;
			settle(s, guest, CS_SPAWN_READY);
		}
	}
}

/* ---- all of them --------------------------------------------------------------------------- */

static void show(struct cs_spawner *s, bool end)
{
	uint64_t now = cs_cmd_now_us();

	if (s->n < SHOWN_FROM || !isatty(STDERR_FILENO))
		return;
	if (end)
		fputs("\r\033[K", stderr);
	else if (now - s->shown_us >= SHOWN_US)
		fprintf(stderr, "\r%zu of %zu guests %s\033[K", s->settled - s->failed, s->n,
			s->wait ? "answer" : "run");
	else
		return;
	fflush(stderr);
	s->shown_us = now;
}

static void serve(struct cs_spawner *s, int timeout_ms)
{
	struct epoll_event events[EVENTS];
	int n = epoll_wait(s->epoll_fd, events, EVENTS, timeout_ms);

	for (int i = 0; i < n; i++) {
		struct signalfd_siginfo info;

		if (events[i].data.u32 != SIGNAL_SLOT)
			listen_to(s, &s->guests[events[i].data.u32]);
		else if (read(s->signal_fd, &info, sizeof(info)) == sizeof(info))
			s->interrupted = true;
	}
	show(s, false);
}

/* Nobody waits for ever, when a limit is set: what has not settled by then has failed. */
static void give_up(struct cs_spawner *s)
{
	struct cs_err why = { 0 };

	cs_fail(&why, ETIMEDOUT, "it has not answered in %" PRIu64 " s", s->timeout_ms / 1000);
	for (size_t i = 0; i < s->started; i++) {
		if (s->guests[i].event_fd >= 0)
			failed(s, &s->guests[i], &why);
	}
	s->broken = true;
}

static void await(struct cs_spawner *s)
{
	const uint64_t spent = (cs_cmd_now_us() - s->begun_us) / 1000;

	if (!s->timeout_ms)
		serve(s, -1);
	else if (spent < s->timeout_ms)
		serve(s, (int)(s->timeout_ms - spent));
	else
		give_up(s);
}

static int open_spawner(struct cs_spawner *s, const sigset_t *set, struct cs_err *err)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = SIGNAL_SLOT };
	int r;

	s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	s->signal_fd = signalfd(-1, set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->epoll_fd < 0 || s->signal_fd < 0 ||
	    epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, s->signal_fd, &event) < 0)
		return cs_fail_errno(err, errno, "cannot watch guests");
	r = raise_fd(&s->epoll_fd, err);
	if (r < 0)
		return r;
	r = raise_fd(&s->signal_fd, err);
	if (r < 0)
		return r;
	/* Nobody removes the template while its guests are being made. */
	r = cs_store_lock(s->store, false, &s->lock_fd, err);
	return r < 0 ? r : raise_fd(&s->lock_fd, err);
}

static void close_spawner(struct cs_spawner *s)
{
	s->turns = cs_spawner_turns_free(s->turns);
	cs_fd_closep(&s->lock_fd);
	cs_fd_closep(&s->signal_fd);
	cs_fd_closep(&s->epoll_fd);
	cs_host_kvm_freep(&s->own_kvm);
}

/* Who waits for answers gets them sooner when not all guests wake at once: each that waits for its
 * turn has a timer tick due when it comes. Where their kernels are emulated, too many at once would
 * never be done: what is due in each while the others have their turns is then more than it gets
 * done in its own. So as long as many want to run the next waits, though not for ever: others may
 * be busy here as well. */
static void keep_pace(struct cs_spawner *s)
{
	struct cs_host_kvm_info host;
	size_t cpus, at_once;

	if (!s->started)
		return;
	cpus = (size_t)sysconf(_SC_NPROCESSORS_ONLN);
	at_once = s->wait ? cpus : SIZE_MAX;
	while (s->started - s->settled >= at_once && !s->interrupted)
		await(s);
	if (!s->kvm)
		return; /* what is there already is no crowd */
	cs_host_kvm_info(s->kvm, &host);
	if (host.standard || (s->turns && !s->cold) || s->started < CROWD_PER_CPU * cpus)
		return;
	for (unsigned waited = 0; waited < CROWD_MS && !s->interrupted; waited += CROWD_LOOK_MS) {
		if (cs_spawner_runnable() <= CROWD_PER_CPU * cpus)
			return;
		serve(s, CROWD_LOOK_MS);
	}
}

/* Many that go on from a saved state, and nobody waits for the first to answer: then they are all
 * made first, and wake in turns, or when somebody wants something of one. */
static int take_turns(struct cs_spawner *s, struct cs_err *err)
{
	const size_t cpus = (size_t)sysconf(_SC_NPROCESSORS_ONLN);

	if (s->wait || !s->card->resume || s->spares || s->n <= CROWD_PER_CPU * cpus)
		return 0;
	return cs_spawner_turns_create(cpus, &s->turns, err);
}

static void start_all(struct cs_spawner *s)
{
	struct cs_err why = { 0 };

	for (size_t i = 0; i < s->n && !s->interrupted && !s->broken; i++) {
		keep_pace(s);
		s->started++;
		if (start_guest(s, &s->guests[i], &why) < 0) {
			s->broken = true; /* the next would fail the same way: a full store, no
					     process more */
			failed(s, &s->guests[i], &why);
		}
		serve(s, 0);
	}
	cs_spawner_turns_begin(s->turns);
	while (s->settled < s->started && !s->interrupted)
		await(s);
	for (size_t i = 0; i < s->started && s->interrupted; i++) {
		/* One that was parked may have forgotten that by now: it goes on waking. */
		if (s->guests[i].state == CS_SPAWN_STARTED && s->card->state != CS_GUEST_PARKED)
			cs_spawner_take_back(s->store, &s->guests[i]);
	}
}

static int verdict(const struct cs_spawner *s, struct cs_err *err)
{
	size_t running = 0;

	for (size_t i = 0; i < s->n; i++)
		running += s->guests[i].state == CS_SPAWN_RUNNING ||
			   s->guests[i].state == CS_SPAWN_READY;
	if (s->interrupted)
		return cs_fail(err, EINTR, "interrupted: %zu of %zu guests run", running, s->n);
	if (!s->failed)
		return 0;
	if (s->n == 1)
		return cs_fail(err, s->first.code, "%s", s->first.text);
	return cs_fail(err, s->first.code, "%s (%zu of %zu guests run)", s->first.text, running,
		       s->n);
}

/* Those that would end us. One that was ignored so far (nohup, a job of a script) stays so:
 * blocked, it would come all the same. */
static void ending_signals(sigset_t *ret)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction now;

	sigemptyset(ret);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		if (sigaction(signals[i], NULL, &now) == 0 && now.sa_handler != SIG_IGN)
			sigaddset(ret, signals[i]);
	}
}

int cs_spawner_run(struct cs_spawner *s, struct cs_err *err)
{
	sigset_t set, before;
	int r;

	s->epoll_fd = s->signal_fd = s->lock_fd = -1;
	s->begun_us = cs_cmd_now_us();
	for (size_t i = 0; i < s->n; i++)
		s->guests[i].event_fd = -1;
	ending_signals(&set);
	sigprocmask(SIG_BLOCK, &set, &before);
	r = open_spawner(s, &set, err);
	if (r == 0)
		r = take_turns(s, err);
	if (r == 0) {
		start_all(s);
		show(s, true);
		r = verdict(s, err);
	}
	for (size_t i = 0; i < s->n; i++)
		cs_fd_closep(&s->guests[i].event_fd);
	close_spawner(s);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return r;
}
