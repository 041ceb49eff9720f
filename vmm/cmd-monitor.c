/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The process that is a guest: everything between fork and the exit line. */
#include "vmm/cmd-spawner.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "cow/overlay.h"
#include "cow/ram.h"
#include "cow/spare.h"
#include "ksm/enroll.h"
#include "store/base/io.h"
#include "store/base/own.h"
#include "vmm/machine.h"
#include "vmm/sandbox.h"

#define SOCKET_BACKLOG 128
#define TURN_NS        100000000 /* the longest there is */

/* A sanitizer makes system calls of its own, which no list of ours foresees. */
#ifdef __SANITIZE_ADDRESS__
#define SANITIZED true
#else
#define SANITIZED false
#endif

struct monitor {
	const struct cs_monitor_spec *spec;
	struct cs_card card; /* borrows from spec->card */
	struct cs_overlay *overlay;
	struct cs_machine *machine;
	struct cs_machine_agent agent;
	int dirfd;            /* guests/<name>, lent by the overlay */
	int lock_fd;          /* of a spare: of its folder, until it is a guest's; else -1 */
	struct cs_card *took; /* what a spare became; NULL: none, or none so far */
	int event_fd;         /* of the spec; of a spare then who wants it */
	int console_fd, exit_fd, control_fd, vsock_fd;
	int singly_fd; /* of a guest that is watched */
	char vsock_path[64];
};

/* ---- cutting loose ------------------------------------------------------------------------- */

/* When the host runs out of memory, a guest goes before who starts guests and what else runs there
 * (Documentation/filesystems/proc.rst: it counts as half of the host's memory on top of its own).
 */
static void go_first(void)
{
	static const char half[] = "500";
	cs_auto(cs_fd_closep) int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0)
		cs_write_full(fd, half, sizeof(half) - 1);
}

/* As `ps` shows it. */
static void set_title(const char *guest)
{
	char title[16]; /* TASK_COMM_LEN */

	snprintf(title, sizeof(title), "cs:%s", guest);
	prctl(PR_SET_NAME, title);
}

/* The terminal may close, the session may end: the guest stays. */
static void detach(const char *guest)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGQUIT, SIGCHLD, SIGWINCH };
	const struct rlimit none = { 0, 0 };
	sigset_t set;
	int null_fd;

	setsid();
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		signal(signals[i], SIG_DFL);
	signal(SIGHUP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigprocmask(SIG_SETMASK, &set, NULL);

	/* A core file would hold the guest's memory. */
	setrlimit(RLIMIT_CORE, &none);
	if (chdir("/") < 0)
		return;
	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; null_fd >= 0 && fd <= 2; fd++)
		dup2(null_fd, fd);
	if (null_fd > 2)
		close(null_fd);
	set_title(guest);
}

static _Noreturn void fail(struct monitor *m, const struct cs_err *err)
{
	char message[1 + sizeof(*err)];

	dprintf(STDERR_FILENO, "%s\n", err->text);
	if (m->exit_fd >= 0)
		cs_card_write_exit(m->exit_fd, "crash", -1);
	/* Less than PIPE_BUF: arrives whole or not at all. */
	message[0] = 'E';
	memcpy(message + 1, err, sizeof(*err));
	cs_write_full(m->event_fd, message, sizeof(message));
	_exit(EXIT_FAILURE);
}

/* Where a guest's kernel is emulated its tick alone takes 10 ms: of many guests that want to run,
 * each would spend its short turns on ticks and get nowhere. So turns are long there. Linux
 * since 6.12 takes the length in this place, an older one ignores it. */
static void take_long_turns(const struct cs_host_kvm *kvm)
{
	/* struct sched_attr of its first version; its header and libc's do not go together. */
	const struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} attr = {
		.size = sizeof(attr),
		.policy = SCHED_OTHER,
		.nice = getpriority(PRIO_PROCESS, 0),
		.runtime = TURN_NS,
	};
	struct cs_host_kvm_info info;

	cs_host_kvm_info(kvm, &info);
	/* Whoever gave it another policy knows better. */
	if (!info.standard && sched_getscheduler(0) == SCHED_OTHER)
		syscall(SYS_sched_setattr, 0, &attr, 0);
}

/* ---- the guest's folder -------------------------------------------------------------------- */

/* A spare's folder has no card: it gets one when it has a name. */
static int open_unnamed(struct monitor *m, struct cs_err *err)
{
	const struct cs_monitor_spec *spec = m->spec;
	cs_auto(cs_fd_closep) int dirfd = -1;
	int r;

	r = cs_spare_make(spec->store, &dirfd, &m->lock_fd, err);
	if (r == 0)
		r = cs_overlay_open_unnamed(spec->store, spec->template, &m->card, dirfd,
					    &m->overlay, err);
	if (r == 0)
		m->dirfd = cs_overlay_dirfd(m->overlay);
	return r;
}

/* The card is entered before anything of the folder is touched: whoever starts a guest twice at
 * once ends here. */
static int open_overlay(struct monitor *m, struct cs_err *err)
{
	const struct cs_monitor_spec *spec = m->spec;
	int r;

	m->card = *spec->card;
	if (spec->spare)
		return open_unnamed(m, err);
	snprintf(m->card.guest, sizeof(m->card.guest), "%s", spec->guest);
	r = cs_card_start(spec->store, &m->card, getpid(), err);
	if (r < 0)
		return r;
	r = cs_overlay_open(spec->store, spec->template, &m->card, &m->overlay, err);
	if (r < 0)
		return r;
	m->dirfd = cs_overlay_dirfd(m->overlay);
	return 0;
}

static int open_file(struct monitor *m, const char *name, int flags, int *ret, struct cs_err *err)
{
	int fd = openat(m->dirfd, name, flags | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return cs_fail_errno(err, errno, "cannot open its file '%s'", name);
	*ret = fd;
	return 0;
}

/* sun_path has 108 bytes, a store's path any number: so the folder goes by descriptor. */
static int listen_at(struct monitor *m, const char *name, int *ret, struct cs_err *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	cs_auto(cs_fd_closep) int fd = -1;
	mode_t mask;
	int r;

	if (unlinkat(m->dirfd, name, 0) < 0 && errno != ENOENT)
		return cs_fail_errno(err, errno, "cannot remove its old socket '%s'", name);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return cs_fail_errno(err, errno, "cannot make its socket '%s'", name);
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", m->dirfd, name);
	mask = umask(0177);
	r = bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? errno : 0;
	umask(mask);
	if (r)
		return cs_fail_errno(err, r, "cannot bind its socket '%s'", name);
	if (listen(fd, SOCKET_BACKLOG) < 0)
		return cs_fail_errno(err, errno, "cannot listen on its socket '%s'", name);
	*ret = cs_steal_fd(&fd);
	return 0;
}

static int open_files(struct monitor *m, struct cs_err *err)
{
	int log_fd = -1, r;

	r = open_file(m, "log", O_WRONLY | O_APPEND | O_TRUNC, &log_fd, err);
	if (r < 0)
		return r;
	dup2(log_fd, STDERR_FILENO);
	close(log_fd);
	r = cs_card_open_exit(m->dirfd, &m->exit_fd);
	if (r < 0)
		return cs_fail_errno(err, r, "cannot open its exit file");
	r = open_file(m, "console.log", O_RDWR, &m->console_fd, err);
	if (r < 0)
		return r;
	r = listen_at(m, "control.sock", &m->control_fd, err);
	if (r < 0)
		return r;
	snprintf(m->vsock_path, sizeof(m->vsock_path), "/proc/self/fd/%d/vsock.sock", m->dirfd);
	return listen_at(m, "vsock.sock", &m->vsock_fd, err);
}

/* ---- the machine --------------------------------------------------------------------------- */

/* What its memory is mapped from stays open, to be compared with: its guest has all of it mapped
 * anyway. */
static int lend_memory(struct monitor *m, struct cs_machine_spec *machine, struct cs_err *err)
{
	const struct cs_view *memory = cs_overlay_memory(m->overlay);
	int fd;

	if (!memory)
		return 0;
	fd = fcntl(memory->fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return cs_fail_errno(err, errno, "cannot copy a descriptor");
	machine->memory_fd = fd;
	machine->memory_offset = memory->offset;
	return 0;
}

/* A copy is the machine's to close; ours carries the words if something fails. */
static int lend_events(const struct monitor *m, int *ret, struct cs_err *err)
{
	const int fd = fcntl(m->event_fd, F_DUPFD_CLOEXEC, 3);

	if (fd < 0)
		return cs_fail_errno(err, errno, "cannot copy a descriptor");
	*ret = fd;
	return 0;
}

/* `run` has its COMMAND run by exec. */
static bool has_command(const struct cs_card *card)
{
	return card->command || card->remove_on_exit;
}

static void prefault(const struct monitor *m, enum cs_overlay_use use)
{
	size_t n;
	const struct cs_page_range *range = cs_overlay_use(m->overlay, use, &n);

	cs_machine_prefault(m->machine, range, n);
}

/* That a page which is only read is mapped costs nothing but time, of which a spare has enough. Its
 * own copies of what a process writes to it gets when one is asked for. */
static void prepare(const struct monitor *m)
{
	prefault(m, CS_USE_WAKE);
	if (m->spec->spare || has_command(&m->card))
		prefault(m, CS_USE_EXEC_READ);
	if (has_command(&m->card))
		prefault(m, CS_USE_EXEC_WRITE);
}

static int build(struct monitor *m, struct cs_err *err)
{
	struct cs_machine_spec machine = {
		.kvm = m->spec->kvm,
		.append = m->card.append,
		.vcpus = m->card.vcpus,
		.log_fd = m->console_fd,
		.paused_fd = m->exit_fd,
		.note_fd = STDERR_FILENO, /* guests/<name>/log */
		.control_fd = m->control_fd,
		.vsock_fd = m->vsock_fd,
		.vsock_path = m->vsock_path,
		.memory_fd = -1,
		.agent = &m->agent,
		.turn_fd = m->spec->turn_fd,
		.over_fd = m->spec->over_fd,
		.later = m->spec->spare,
	};
	int r;

	if (m->card.share_domain[0])
		machine.enroll = cs_ksm_enroll;
	r = cs_overlay_map(m->overlay, err);
	if (r < 0)
		return r;
	if (has_command(&m->card))
		cs_overlay_expect_exec(m->overlay);
	machine.ram = cs_overlay_ram(m->overlay);
	if (m->spec->watched)
		m->singly_fd = cs_ram_map_singly(machine.ram); /* for as long as it runs */
	machine.disk = cs_overlay_disk(m->overlay);
	machine.boot = cs_overlay_boot(m->overlay);
	machine.root_type =
		cs_template_root_format(m->spec->template) == CS_ROOT_EXT4 ? "ext4" : "erofs";
	m->agent = (struct cs_machine_agent){
		.hostname = m->card.guest,
		.command = m->card.command,
		.env = m->card.env,
		.persist = m->card.persist,
		.run_init = m->card.run_init,
	};
	if (cs_overlay_parked(m->overlay)) {
		/* Its COMMAND is in its memory. */
		m->agent.command = NULL;
		m->agent.same = true;
	}
	r = lend_memory(m, &machine, err);
	if (r < 0)
		return r;
	machine.event_fd = -1;
	if (!machine.later)
		r = lend_events(m, &machine.event_fd, err);
	if (r < 0)
		return r;
	r = cs_machine_create(&machine, &m->machine, err);
	if (r == 0)
		prepare(m);
	return r < 0 || !cs_overlay_parked(m->overlay) ? r : cs_overlay_woken(m->overlay, err);
}

/* What only the way here needed must not be within reach of a guest that breaks out: the store's
 * folders, the template's parts. The root is mapped, the kernel loaded. */
static void close_store(struct monitor *m)
{
	const struct cs_monitor_spec *spec = m->spec;
	struct cs_view view;

	close(cs_store_templates_fd(spec->store));
	close(cs_store_guests_fd(spec->store));
	close(cs_store_dirfd(spec->store));
	for (enum cs_part part = 0; part < CS_PART_MAX; part++) {
		if (cs_template_view(spec->template, part, &view, NULL) == 0 && view.fd >= 0)
			close(view.fd);
	}
}

/* ---- a spare ------------------------------------------------------------------------------- */

/* Wait for a name, and be that guest. What hears of it is the keeper's pipe at first, then the
 * connection to who wants it, which becomes the machine's. */
static int become_guest(struct monitor *m, uid_t uid, struct cs_err *err)
{
	int keeper_fd, fd, r;

	r = cs_machine_start_held(m->machine, err);
	if (r < 0)
		return r;
	cs_write_full(m->event_fd, "W", 1);
	r = cs_spare_await(m->control_fd, m->event_fd, uid, &m->took, &fd, err);
	if (r < 0)
		return r;
	keeper_fd = m->event_fd;
	m->event_fd = fd;
	set_title(m->took->guest);
	m->agent.hostname = m->took->guest;
	m->agent.command = m->took->command;
	m->agent.env = m->took->env;
	if (has_command(m->took)) {
		cs_overlay_expect_exec(m->overlay);
		prefault(m, CS_USE_EXEC_WRITE);
	}
	r = cs_machine_go_on(m->machine, m->event_fd, err);
	/* Its keeper hears of it when it runs: it would have our CPU at once. */
	cs_write_full(keeper_fd, "T", 1);
	close(keeper_fd);
	cs_fd_closep(&m->lock_fd);
	if (r < 0)
		return r; /* the descriptor is still open, for the words */
	m->event_fd = -1;
	return 0;
}

static const char *reason(enum cs_stop why)
{
	switch (why) {
	case CS_STOP_POWEROFF:
		return "poweroff";
	case CS_STOP_REBOOT:
		return "reboot";
	case CS_STOP_CRASH:
		return "crash";
	case CS_STOP_REQUEST:
		return "request";
	}
	return "crash";
}

/* The guest ends, for whatever reason: say so in the exit line, and why in the log. */
static _Noreturn void run(struct monitor *m)
{
	struct cs_err err = { 0 };
	enum cs_stop why = CS_STOP_CRASH;
	int status = -1;

	cs_fd_closep(&m->event_fd);
	if (cs_machine_run(m->machine, &why, &status, &err) < 0 || err.code)
		dprintf(STDERR_FILENO, "%s\n", err.text);
	else if (why == CS_STOP_CRASH)
		dprintf(STDERR_FILENO,
			"it was reset without a word of its agent: a kernel panic?\n");
	/* Joins the threads and waits for the disk: the exit line comes behind the last write. */
	cs_machine_free(m->machine);
	cs_card_write_exit(m->exit_fd, reason(why), status);
	_exit(EXIT_SUCCESS);
}

_Noreturn void cs_monitor_main(const struct cs_monitor_spec *spec)
{
	static int (*const step[])(struct monitor *, struct cs_err *) = { open_overlay, open_files,
									  build };
	struct monitor m = {
		.spec = spec,
		.dirfd = -1,
		.lock_fd = -1,
		.event_fd = spec->event_fd,
		.console_fd = -1,
		.exit_fd = -1,
		.control_fd = -1,
		.vsock_fd = -1,
		.singly_fd = -1,
	};
	struct cs_sandbox_spec sandbox = { .no_seccomp = SANITIZED, .restores = spec->spare };
	const uid_t uid = geteuid();
	struct cs_err err = { 0 };

	detach(spec->guest);
	take_long_turns(spec->kvm);
	go_first();
	for (size_t i = 0; i < sizeof(step) / sizeof(step[0]); i++) {
		if (step[i](&m, &err) < 0)
			fail(&m, &err);
	}
	close_store(&m);
	if (uid == 0)
		sandbox.uid = CS_SANDBOX_UID_BASE + (uid_t)getpid();
	if (cs_sandbox_enter(&sandbox, &err) < 0)
		fail(&m, &err);
	if (spec->spare && become_guest(&m, uid, &err) < 0)
		fail(&m, &err);
	run(&m);
}
