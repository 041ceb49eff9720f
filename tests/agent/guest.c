/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/agent/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define WHILE_MS 150 /* in which a process that runs does something */

static const struct timespec nap = { .tv_nsec = 10000000 };

/* ---- where ---- */

/* The mount of cgroup2; NULL: there is none. */
static const char *cgroups(void)
{
	static const char *const mounts[] = { "/sys/fs/cgroup", "/sys/fs/cgroup/unified" };
	char path[64];

	for (size_t i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/cgroup.procs", mounts[i]);
		if (!access(path, W_OK))
			return mounts[i];
	}
	return NULL;
}

/* Whatever a test that failed has left in the cgroup. Since 5.14. */
static void kill_all(const char *cgroup)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/cgroup.kill", cgroup);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		if (write(fd, "1", 1) != 1)
			print_message("%s: %s\n", path, strerror(errno));
		close(fd);
	}
}

/* What is left when the agent does not run any more. */
static void tidy(struct guest *g)
{
	static const char *const folders[] = { "/guest", "/wake", "" };
	char path[96];

	if (g->control >= 0)
		close(g->control);
	if (g->listener >= 0)
		close(g->listener);
	g->listener = g->control = -1;
	for (size_t i = 0; *g->cgroup && i < 3; i++) {
		snprintf(path, sizeof(path), "%s%s", g->cgroup, folders[i]);
		if (i == 0)
			kill_all(path);
		/* The last process of the namespace is gone from it a moment later. */
		for (int tries = 0; rmdir(path) < 0 && errno == EBUSY && tries < 500; tries++)
			nanosleep(&nap, NULL);
	}
	*g->cgroup = 0;
	if (!*g->peer.folder)
		return;
	snprintf(path, sizeof(path), "%s/monitor", g->peer.folder);
	unlink(path);
	unlink(g->peer.path);
	rmdir(g->peer.folder);
	*g->peer.folder = 0;
}

int guest_make(void **state)
{
	struct guest *g = calloc(1, sizeof(*g));

	if (!g)
		return -1;
	g->listener = g->control = -1;
	*state = g;
	return 0;
}

int guest_make_by_signals(void **state)
{
	int r = guest_make(state);

	if (r == 0)
		((struct guest *)*state)->by_signals = true;
	return r;
}

int guest_unmake(void **state)
{
	struct guest *g = *state;

	if (g->peer.pid > 0) {
		kill(g->peer.pid, SIGKILL);
		waitpid(g->peer.pid, NULL, 0);
	}
	tidy(g);
	free(g);
	return 0;
}

static void need_host(const struct guest *g)
{
	const char *lacks = getuid() != 0 ? "not root: cannot make namespaces"
			    : !g->by_signals && !cgroups()
				    ? "no cgroup2 is mounted that can be written to"
				    : NULL;

	if (lacks) {
		print_message("%s\n", lacks);
		skip();
	}
}

/* ---- in the child ---- */

static void must(int r, const char *what)
{
	if (r < 0) {
		perror(what);
		_exit(1);
	}
}

static void put_file(const char *path, const char *text)
{
	char name[128], *slash;
	bool executable;
	int fd;

	snprintf(name, sizeof(name), "%s", path);
	executable = name[strlen(name) - 1] == '*';
	if (executable)
		name[strlen(name) - 1] = 0;
	for (slash = strchr(name + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = 0;
		mkdir(name, 0755);
		*slash = '/';
	}
	fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	must(fd, name);
	must(write(fd, text, strlen(text)) < (ssize_t)strlen(text) ? -1 : 0, name);
	must(fchmod(fd, executable ? 0755 : 0644), name);
	close(fd);
}

/* Its own world; nothing of it is seen outside. */
static void make_world(const char *const *files)
{
	static const char *const covered[] = { "/etc", "/run" };

	must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "/");
	for (size_t i = 0; i < 2; i++)
		must(mount("tmpfs", covered[i], "tmpfs", 0, "mode=755"), covered[i]);
	must(mount("proc", "/proc", "proc", 0, NULL), "/proc");
	put_file("/run/drop", "");
	must(mount("/run/drop", "/proc/sys/vm/drop_caches", NULL, MS_BIND, NULL), "drop_caches");
	if (!access("/dev/console", F_OK))
		must(mount("/dev/null", "/dev/console", NULL, MS_BIND, NULL), "/dev/console");
	must(sethostname("before", 6), "sethostname");
	for (; files && *files; files += 2)
		put_file(files[0], files[1]);
}

static void become_agent(const struct guest *g, const char *monitor, const char *const *files)
{
	const char *build = getenv("builddir");
	char program[4096];

	snprintf(program, sizeof(program), "%s/agent-fake", build ? build : ".");
	for (int fd = 3; fd < 1024; fd++)
		close(fd);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	make_world(files);
	execl(program, program, "--serve-unix", g->peer.path, monitor, g->cgroup, NULL);
	perror(program);
	_exit(1);
}

/* ---- the monitor ---- */

static int listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 8), 0);
	return fd;
}

void guest_accept(struct guest *g)
{
	struct pollfd p = { .fd = g->listener, .events = POLLIN };
	uint8_t payload[CS_WIRE_MAX + 1];
	uint32_t version;

	if (poll(&p, 1, PEER_PATIENCE_MS) != 1)
		fail_msg("the agent does not come to its monitor");
	g->control = accept4(g->listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(g->control >= 0);
	assert_int_equal(peer_expect(g->control, CS_WIRE_HELLO, payload), 4);
	memcpy(&version, payload, 4);
	assert_int_equal(version, CS_WIRE_VERSION);
}

static size_t put_config(uint8_t *payload, const struct guest_config *config)
{
	struct cs_wire_config head;
	size_t n = sizeof(head), name = strlen(config->hostname) + 1;

	/* Seed and ids. */
	assert_int_equal(getrandom(&head, sizeof(head), 0), sizeof(head));
	head.realtime_ns = config->realtime_ns;
	head.clock_ns = config->clock_ns;
	head.flags = config->flags;
	memcpy(payload, &head, n);
	memcpy(payload + n, config->hostname, name);
	n += name;
	n += peer_put_list(payload + n, config->argv);
	return n + peer_put_list(payload + n, config->env);
}

void guest_send_config(struct guest *g, const struct guest_config *config)
{
	uint8_t payload[CS_WIRE_MAX];

	peer_send(g->control, CS_WIRE_CONFIG, payload, put_config(payload, config));
}

void guest_send_config_slowly(struct guest *g, const struct guest_config *config)
{
	uint8_t message[sizeof(struct cs_wire_head) + CS_WIRE_MAX];
	const size_t bytes = put_config(message + sizeof(struct cs_wire_head), config);
	const struct cs_wire_head head = { .type = CS_WIRE_CONFIG, .bytes = (uint32_t)bytes };

	memcpy(message, &head, sizeof(head));
	for (size_t i = 0; i < sizeof(head) + bytes; i++) {
		assert_int_equal(send(g->control, message + i, 1, MSG_NOSIGNAL), 1);
		if (i % 40 == 0)
			nanosleep(&nap, NULL);
	}
}

void guest_boot(struct guest *g, const struct guest_config *config, const char *const *files)
{
	static const struct guest_config plain = { .hostname = "first" };
	uint8_t payload[CS_WIRE_MAX + 1];
	char monitor[64];

	need_host(g);
	memcpy(g->peer.folder, "/tmp/cs-guest-XXXXXX", 21);
	assert_non_null(mkdtemp(g->peer.folder));
	snprintf(g->peer.path, sizeof(g->peer.path), "%s/socket", g->peer.folder);
	snprintf(monitor, sizeof(monitor), "%s/monitor", g->peer.folder);
	g->listener = listen_at(monitor);
	if (!g->by_signals) {
		snprintf(g->cgroup, sizeof(g->cgroup), "%s/cs-test-%d", cgroups(), (int)getpid());
		assert_int_equal(mkdir(g->cgroup, 0755), 0);
	}

	g->peer.pid = (pid_t)syscall(SYS_clone, CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWPID | SIGCHLD,
				     NULL, NULL, NULL, NULL);
	assert_true(g->peer.pid >= 0);
	if (g->peer.pid == 0)
		become_agent(g, monitor, files);
	guest_accept(g);
	guest_send_config(g, config ? config : &plain);
	peer_expect(g->control, CS_WIRE_READY, payload);
}

void guest_end(struct guest *g)
{
	int status = -1;

	assert_int_equal(kill(g->peer.pid, SIGTERM), 0);
	assert_int_equal(waitpid(g->peer.pid, &status, 0), g->peer.pid);
	g->peer.pid = 0;
	tidy(g);
	if (status)
		fail_msg("the agent ended with wait status %#x", (unsigned)status);
}

void guest_send_freeze(struct guest *g, uint32_t flags, uint64_t clock_ns)
{
	const struct cs_wire_freeze freeze = { .flags = flags, .clock_ns = clock_ns };

	peer_send(g->control, CS_WIRE_FREEZE, &freeze, sizeof(freeze));
}

void guest_freeze(struct guest *g, uint32_t flags)
{
	uint8_t payload[CS_WIRE_MAX + 1];
	uint32_t error = ~0u;

	guest_send_freeze(g, flags, 0);
	peer_expect(g->control, CS_WIRE_FROZEN, payload);
	memcpy(&error, payload, sizeof(error));
	assert_int_equal(error, 0);
}

void guest_thaw(struct guest *g)
{
	peer_send(g->control, CS_WIRE_THAW, NULL, 0);
}

void guest_cut(struct guest *g)
{
	close(g->control);
	guest_accept(g);
}

void guest_wake(struct guest *g, const struct guest_config *config)
{
	uint8_t payload[CS_WIRE_MAX + 1];

	guest_cut(g);
	guest_send_config(g, config);
	peer_expect(g->control, CS_WIRE_READY, payload);
}

void guest_resume(struct guest *g, const struct guest_config *config)
{
	uint8_t payload[CS_WIRE_MAX + 1];

	guest_send_config(g, config);
	peer_expect(g->control, CS_WIRE_READY, payload);
}

/* ---- what is in it ---- */

static int open_in(const struct guest *g, const char *path, int flags)
{
	char name[160];

	snprintf(name, sizeof(name), "/proc/%d/root%s", (int)g->peer.pid, path);
	return open(name, flags | O_CLOEXEC, 0644);
}

char *guest_read(const struct guest *g, const char *path)
{
	char *text = calloc(1, 65536);
	int fd = open_in(g, path, O_RDONLY);

	assert_non_null(text);
	if (fd >= 0) {
		assert_true(read(fd, text, 65535) >= 0);
		close(fd);
	}
	return text;
}

void guest_write(const struct guest *g, const char *path, const char *text)
{
	int fd = open_in(g, path, O_WRONLY | O_CREAT | O_TRUNC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

void guest_wait_text(const struct guest *g, const char *path, const char *text)
{
	for (int i = 0; i < PEER_PATIENCE_MS / 10; i++) {
		char *now = guest_read(g, path);
		bool there = strstr(now, text) != NULL;

		free(now);
		if (there)
			return;
		nanosleep(&nap, NULL);
	}
	fail_msg("no '%s' in the guest's %s", text, path);
}

pid_t guest_child(const struct guest *g)
{
	char name[64], text[64] = "";
	int fd;

	snprintf(name, sizeof(name), "/proc/%d/task/%d/children", (int)g->peer.pid,
		 (int)g->peer.pid);
	fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		print_message("%s: %s\n", name, strerror(errno));
		skip();
	}
	assert_true(read(fd, text, sizeof(text) - 1) > 0);
	close(fd);
	return (pid_t)strtol(text, NULL, 10);
}

char *guest_run(const struct guest *g, const char *script)
{
	struct peer_result r = peer_shell(&g->peer, script);
	char *out = (char *)r.out;

	if (r.failed || r.status)
		fail_msg("%s: status %u, %s%s", script, r.status, r.words, (char *)r.err);
	free(r.err);
	return out;
}

void guest_assert_changes(const struct guest *g, const char *path)
{
	char *before = guest_read(g, path);
	bool same = true;

	for (int i = 0; same && i < PEER_PATIENCE_MS / 10; i++) {
		char *now = guest_read(g, path);

		same = !strcmp(now, before);
		free(now);
		nanosleep(&nap, NULL);
	}
	if (same)
		fail_msg("%s of the guest stays '%s'", path, before);
	free(before);
}

void guest_assert_still(const struct guest *g, const char *path)
{
	const struct timespec a_while = { .tv_nsec = WHILE_MS * 1000000L };
	char *before = guest_read(g, path), *now;

	nanosleep(&a_while, NULL);
	now = guest_read(g, path);
	assert_string_equal(now, before);
	free(before);
	free(now);
}

uint64_t guest_clock(const struct guest *g)
{
	char *text = guest_read(g, "/run/clock"), *last = text + strlen(text);
	uint64_t seconds;

	while (last > text && strncmp(last, "0 ", 2) != 0)
		last--;
	assert_true(!strncmp(last, "0 ", 2));
	seconds = strtoull(last + 2, NULL, 10);
	free(text);
	return seconds;
}
