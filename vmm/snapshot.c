/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "store/base/io.h"
#include "vmm/machine-private.h"
#include "vmm/snapshot-delta.h"
#include "vmm/snapshot-memory.h"
#include "vmm/virtio-devices.h"

/* The descriptors, in the order they come: of a save the first two or three, to park the first two
 * and the ticket. */
enum { MEMORY, STATE, DISK, TICKET, FILES };

/* A guest reports what it has freed two seconds later (mm/page_reporting.c), some of it, and the
 * next two seconds later. Frozen before that, each clone would do it over. */
#define QUIET_MS      3000
#define QUIET_MOST_MS 30000
#define QUIET_LOOK_MS 500

enum stage {
	STAGE_FREEZING, /* the agent was asked */
	STAGE_QUIETING, /* nobody runs, and the kernel may still report free pages */
	STAGE_WRITING,  /* the child is at it */
	STAGE_HELD,     /* to park: all is written, the machine stands still until it is ended */
};

/* What the child says, once, before it ends. */
struct report {
	struct cs_picture_count count;
	struct cs_err err; /* code 0: all is written and synced */
};

struct cs_snapshot {
	struct cs_machine *machine;
	struct cs_control_client *client; /* NULL: nobody waits any more */
	enum stage stage;
	int fd[FILES]; /* DISK -1: the guest has none, or is parked; TICKET -1: it is not */
	struct cs_stream *stream;
	struct cs_picture picture;

	bool quiet_first; /* wait until it has reported its free pages */
	struct cs_timer *look;
	uint64_t reports;
	unsigned quiet_ms, waited_ms;

	int report_fd; /* ends with the child; its end tells the child to give up */
	struct cs_watch *watch;
	pid_t pid;
	uint64_t pause_us;
	bool reported;
	struct report report;
};

static uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

/* ---- in the child: it has one thread, and descriptors and memory that look like the machine's
 * ---- */

/* The machine's other descriptors must not live on in here: who connects to a dead machine wants to
 * be refused, and a VM goes when the last of them is closed. */
static void close_others(const struct cs_snapshot *s)
{
	unsigned from = 0;

	for (;;) {
		int next = s->report_fd >= (int)from ? s->report_fd : -1;

		for (int i = 0; i < FILES; i++) {
			if (s->fd[i] >= (int)from && (next < 0 || s->fd[i] < next))
				next = s->fd[i];
		}
		if (next < 0)
			break;
		if ((unsigned)next > from)
			close_range(from, (unsigned)next - 1, 0);
		from = (unsigned)next + 1;
	}
	close_range(from, ~0U, 0);
}

/* The machine has neither ended nor given the save up. */
static bool go_on(void *arg)
{
	const struct cs_snapshot *s = arg;
	struct pollfd item = { .fd = s->report_fd, .events = POLLIN | POLLRDHUP };

	return poll(&item, 1, 0) == 0;
}

static void touch(void *arg, const void *host, size_t bytes)
{
	struct cs_snapshot *s = arg;

	if (cs_picture_add(&s->picture, &s->machine->mem.ram, host, bytes) < 0)
		cs_stream_refuse(s->stream, ENOMEM, "out of memory");
}

static int write_state(struct cs_snapshot *s, struct cs_err *err)
{
	size_t bytes;
	const void *data;
	int r;

	cs_machine_part(s->machine, touch, s);
	cs_machine_device_state(s->machine, s->stream);
	r = cs_stream_end(s->stream, err);
	if (r < 0)
		return r;
	data = cs_stream_data(s->stream, &bytes);
	if (ftruncate(s->fd[STATE], 0) < 0)
		return cs_fail_errno(err, errno, "cannot save its state");
	r = cs_pwrite_full(s->fd[STATE], data, bytes, 0);
	return r < 0 ? cs_fail_errno(err, r, "cannot save its state") : 0;
}

static int write_all(struct cs_snapshot *s, struct report *report)
{
	int r;

	/* First the state: it puts words for the clone's guest into the picture of its memory. */
	r = write_state(s, &report->err);
	if (r == 0 && s->fd[TICKET] >= 0)
		r = cs_delta_write(&s->picture, s->fd[MEMORY], go_on, s, &report->count,
				   &report->err);
	else if (r == 0)
		r = cs_picture_write(&s->picture, s->fd[MEMORY], go_on, s, &report->count,
				     &report->err);
	for (int i = 0; i < FILES && r == 0; i++) {
		if (s->fd[i] >= 0 && fsync(s->fd[i]) < 0)
			r = cs_fail_errno(&report->err, errno, "cannot save it");
	}
	return r;
}

static _Noreturn void child_main(struct cs_snapshot *s)
{
	struct report report = { 0 };
	int r;

	close_others(s);
	r = write_all(s, &report);
	send(s->report_fd, &report, sizeof(report), MSG_NOSIGNAL);
	_exit(r < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}

/* ---- the end of a save ----------------------------------------------------------------------- */

struct cs_snapshot *cs_snapshot_free(struct cs_snapshot *s)
{
	if (!s)
		return NULL;
	cs_timer_free(s->look);
	cs_watch_free(s->watch);
	cs_fd_closep(&s->report_fd);
	for (int i = 0; i < FILES; i++)
		cs_fd_closep(&s->fd[i]);
	cs_stream_free(s->stream);
	cs_picture_clear(&s->picture);
	free(s);
	return NULL;
}

/* The vCPUs stood still for the picture, or since: let them go on. */
static void let_go(struct cs_snapshot *s)
{
	struct cs_machine *machine = s->machine;

	/* Whoever took the picture may put it where the next start finds it, now or later: it is no
	 * longer what this guest is. When that cannot be said, the guest must not go on; but while
	 * it is written nobody has been told that there is a picture. */
	if (s->fd[TICKET] >= 0 && s->stage >= STAGE_WRITING && !machine->ended &&
	    (ftruncate(s->fd[TICKET], 0) < 0 || fdatasync(s->fd[TICKET]) < 0) &&
	    s->stage == STAGE_HELD)
		cs_machine_end(machine, CS_STOP_REQUEST);
	cs_machine_unpark(machine);
	cs_agent_thaw(machine->agent);
}

static void finish(struct cs_snapshot *s, const struct cs_err *why)
{
	struct cs_control_client *client = s->client;
	char text[128];

	/* Frozen, but nothing came of it. */
	if (s->stage == STAGE_QUIETING)
		cs_agent_thaw(s->machine->agent);
	snprintf(text, sizeof(text), "pause_us=%" PRIu64 " pages=%" PRIu64 " bytes=%" PRIu64,
		 s->pause_us, s->report.count.pages, s->report.count.bytes);
	if (s->fd[TICKET] >= 0 && !why && client) {
		s->stage = STAGE_HELD;
		s->watch = cs_watch_free(s->watch);
		cs_fd_closep(&s->report_fd);
		cs_control_answer_held(client, text);
		return;
	}
	if (s->fd[TICKET] >= 0 && s->stage != STAGE_QUIETING)
		let_go(s);
	/* The next save may begin in the answer's wake. */
	s->machine->snapshot = NULL;
	if (client)
		cs_control_answer(client, text, why);
	cs_snapshot_free(s);
}

/* The child has reported, or has ended, which closes its end last of all: so the wait is short. */
static void on_report(void *arg, uint32_t events)
{
	struct cs_snapshot *s = arg;
	struct cs_err err = { 0 };
	struct report report;
	const ssize_t n = recv(s->report_fd, &report, sizeof(report), MSG_DONTWAIT);

	if (n == sizeof(report) && !s->reported) {
		s->report = report;
		s->reported = true;
		return;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
		;
	if (!s->reported)
		cs_fail(&err, EIO, "the process that wrote it out was killed (out of memory?)");
	else
		err = s->report.err;
	finish(s, err.code ? &err : NULL);
}

void cs_snapshot_gone(struct cs_machine *machine)
{
	struct cs_snapshot *s = machine->snapshot;

	if (!s)
		return;
	s->client = NULL;
	if (s->stage == STAGE_WRITING) {
		shutdown(s->report_fd, SHUT_WR);
		return;
	}
	if (s->stage == STAGE_HELD)
		let_go(s);
	else
		cs_agent_thaw(machine->agent);
	machine->snapshot = cs_snapshot_free(s);
}

/* ---- the picture, while the vCPUs stand still --------------------------------------------------
 */

static int start_child(struct cs_snapshot *s, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int theirs = -1;
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return cs_fail_errno(err, errno, "cannot make a connection to its writer");
	s->report_fd = pair[0];
	theirs = pair[1];
	r = cs_loop_add(s->machine->loop, s->report_fd, EPOLLIN, on_report, s, &s->watch);
	if (r < 0)
		return cs_fail_errno(err, r, "cannot watch its writer");
	s->pid = fork();
	if (s->pid < 0)
		return cs_fail_errno(err, errno, "cannot start a process to write it out");
	if (s->pid == 0) {
		s->report_fd = theirs;
		child_main(s);
	}
	s->stage = STAGE_WRITING;
	return 0;
}

static int clone_disk(const struct cs_snapshot *s, struct cs_err *err)
{
	if (s->fd[DISK] < 0 || ioctl(s->fd[DISK], FICLONE, s->machine->spec.disk->fd) == 0)
		return 0;
	if (errno == EOPNOTSUPP || errno == EXDEV || errno == ENOTTY || errno == EINVAL)
		return cs_fail(
			err, EOPNOTSUPP,
			"its disk cannot be cloned while it runs: the store's file system has "
			"no reflinks (stop the guest first, or use a store on Btrfs)");
	return cs_fail_errno(err, errno, "cannot clone its disk");
}

/* What the guest wrote and waits is nowhere that a save could take it from. */
static int check_room(const struct cs_machine *machine, struct cs_err *err)
{
	if (!cs_machine_waits(machine))
		return 0;
	return cs_fail(err, ENOSPC,
		       "its disk waits for room in the store (remove a template or a guest, or: "
		       "clearstore store grow)");
}

static int take_picture(struct cs_snapshot *s, struct cs_err *err)
{
	struct cs_machine *machine = s->machine;
	int r;

	if (machine->ended)
		return cs_fail(err, ECANCELED, "it has just ended");
	for (unsigned i = 0; i < machine->devices; i++)
		cs_virtio_mmio_settle(machine->device[i]);
	r = check_room(machine, err);
	if (r < 0)
		return r;
	r = cs_picture_take(machine->pagemap_fd, &machine->mem.ram, machine->file, &s->picture);
	if (r < 0)
		return cs_fail_errno(err, r, "cannot tell which pages are its own");
	s->stream = cs_stream_create();
	if (!s->stream)
		return cs_fail_errno(err, ENOMEM, "cannot save its state");
	cs_machine_core_state(machine, s->stream);
	/* What is parked finds its disk as it left it, power cut or not. */
	if (s->fd[TICKET] >= 0 && machine->spec.disk && fdatasync(machine->spec.disk->fd) < 0)
		return cs_fail_errno(err, errno, "cannot write its disk out");
	r = clone_disk(s, err);
	return r < 0 ? r : start_child(s, err);
}

/* Nobody runs: the moment has come. */
static void take(struct cs_snapshot *s)
{
	struct cs_machine *machine = s->machine;
	struct cs_err err = { 0 };
	uint64_t from;
	int r;

	s->stage = STAGE_FREEZING; /* it is not waited for any more */
	/* A clone of a file waits for what is not on the disk yet: get that done before. */
	if (machine->spec.disk)
		fdatasync(machine->spec.disk->fd);
	from = now_us();
	cs_machine_park(machine);
	r = take_picture(s, &err);
	if (s->fd[TICKET] < 0)
		let_go(s);
	s->pause_us = now_us() - from;
	cs_picture_clear(&s->picture);
	s->stream = cs_stream_free(s->stream);
	if (r < 0)
		finish(s, &err);
}

static void look(void *arg, uint32_t events)
{
	struct cs_snapshot *s = arg;
	struct cs_balloon_info info;
	struct cs_err err = { 0 };

	cs_virtio_balloon_info(s->machine->balloon, &info);
	s->waited_ms += QUIET_LOOK_MS;
	s->quiet_ms = info.reports == s->reports ? s->quiet_ms + QUIET_LOOK_MS : 0;
	s->reports = info.reports;
	if (!cs_agent_is_ready(s->machine->agent)) {
		cs_fail(&err, ENOTCONN, "its agent has gone");
		finish(s, &err);
	} else if (s->quiet_ms >= QUIET_MS || s->waited_ms >= QUIET_MOST_MS) {
		take(s);
	} else {
		cs_timer_set(s->look, QUIET_LOOK_MS);
	}
}

/* False: there is nothing to wait for. */
static bool wait_quiet(struct cs_snapshot *s)
{
	struct cs_balloon_info info = { 0 };

	if (s->quiet_first && s->machine->balloon)
		cs_virtio_balloon_info(s->machine->balloon, &info);
	if (!info.driven || cs_timer_create(s->machine->loop, look, s, &s->look) < 0)
		return false;
	s->stage = STAGE_QUIETING;
	s->reports = info.reports;
	cs_timer_set(s->look, QUIET_LOOK_MS);
	return true;
}

void cs_snapshot_frozen(struct cs_machine *machine, int error)
{
	struct cs_snapshot *s = machine->snapshot;
	struct cs_err err = { 0 };

	if (!s || s->stage != STAGE_FREEZING)
		return;
	if (error) {
		cs_fail_errno(&err, error, "its processes cannot be frozen");
		finish(s, &err);
	} else if (!wait_quiet(s)) {
		take(s);
	}
}

/* ---- the beginning -----------------------------------------------------------------------------
 */

static int parse_words(const char *words, uint32_t *ret_flags, bool *ret_park)
{
	while (*words) {
		const size_t bytes = strcspn(words, " ");

		if (bytes == 4 && strncmp(words, "drop", bytes) == 0)
			*ret_flags |= CS_WIRE_FREEZE_DROP;
		else if (bytes == 4 && strncmp(words, "sync", bytes) == 0)
			*ret_flags |= CS_WIRE_FREEZE_SYNC;
		else if (bytes == 4 && strncmp(words, "park", bytes) == 0)
			*ret_park = true;
		else
			return -EINVAL;
		words += bytes;
		words += strspn(words, " ");
	}
	return 0;
}

static bool are_files(const int fds[], size_t n)
{
	struct stat st;

	for (size_t i = 0; i < n; i++) {
		const int flags = fcntl(fds[i], F_GETFL);

		if (flags < 0 || (flags & O_ACCMODE) != O_RDWR || (flags & O_APPEND) ||
		    fstat(fds[i], &st) < 0 || !S_ISREG(st.st_mode))
			return false;
	}
	return true;
}

static int check(const struct cs_machine *machine, const int fds[], size_t n, bool park,
		 struct cs_err *err)
{
	const size_t wanted = machine->spec.disk || park ? 3 : 2;

	if (machine->snapshot)
		return cs_fail(err, EBUSY, "it is being saved already");
	if (machine->paused)
		return cs_fail(err, EBUSY, "it is paused (resume it first)");
	if (machine->pagemap_fd < 0)
		return cs_fail(
			err, EOPNOTSUPP,
			"this host does not tell which pages are its own (/proc/self/pagemap)");
	if (n != wanted || !are_files(fds, n))
		return cs_fail(err, EINVAL,
			       "save: %zu files opened for reading and writing must come along",
			       wanted);
	/* told now: the guest would not get through its sync before there is room */
	return check_room(machine, err);
}

int cs_snapshot_begin(struct cs_machine *machine, struct cs_control_client *client, const int fds[],
		      size_t n, const char *words, struct cs_err *err)
{
	struct cs_snapshot *s;
	uint32_t flags = 0;
	bool park = false;
	int r;

	if (parse_words(words, &flags, &park) < 0)
		return cs_fail(err, EINVAL, "save: it takes the words drop, sync and park");
	r = check(machine, fds, n, park, err);
	if (r < 0)
		return r;
	s = calloc(1, sizeof(*s));
	if (!s)
		return cs_fail_errno(err, ENOMEM, "cannot save it");
	r = cs_agent_freeze(machine->agent, flags);
	if (r < 0) {
		free(s);
		if (r == -ENOTCONN)
			return cs_fail(err, ENOTCONN,
				       "its agent is not there yet, or gone: nobody can freeze its "
				       "processes (try again when clearstore ping is answered)");
		if (r == -EOPNOTSUPP)
			return cs_fail(err, EOPNOTSUPP,
				       "the agent in its template is too old to freeze it (add the "
				       "template again)");
		return cs_fail_errno(err, r, "its processes cannot be frozen");
	}
	*s = (struct cs_snapshot){ .machine = machine,
				   .client = client,
				   .stage = STAGE_FREEZING,
				   .quiet_first = flags & CS_WIRE_FREEZE_DROP,
				   .fd = { fds[MEMORY], fds[STATE], n > 2 && !park ? fds[2] : -1,
					   park ? fds[2] : -1 },
				   .report_fd = -1 };
	machine->snapshot = s;
	return 0;
}
