/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a process may ask of the kernel once it is a monitor that runs: each question is put by a
 * child that has entered the sandbox, and the kernel answers it or kills it. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm/sandbox-rules.h"
#include "vmm/sandbox.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

enum outcome {
	LIVES,  /* the kernel took it, whatever it answered */
	KILLED, /* by SIGSYS */
	NEITHER,
};

static enum outcome outcome_of(void (*ask)(void), bool restores)
{
	const struct cs_sandbox_spec spec = { .restores = restores };
	struct cs_err err = { 0 };
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (cs_sandbox_enter(&spec, &err) < 0) {
			dprintf(STDERR_FILENO, "%s\n", err.text);
			_exit(9);
		}
		ask();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return LIVES;
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS ? KILLED : NEITHER;
}

/* A sanitizer makes system calls that are on no list. */
static void need_plain(void)
{
	if (SANITIZED) {
		print_message("skipped: a sanitizer's own system calls are not allowed\n");
		skip();
	}
}

/* ---- what it needs */

static void ask_nothing(void)
{
}

static void ask_own_signal(void)
{
	signal(SIGUSR1, SIG_IGN);
	syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR1);
}

static void *thread(void *arg)
{
	return arg;
}

static void ask_thread(void)
{
	pthread_t id;

	if (pthread_create(&id, NULL, thread, NULL) != 0)
		_exit(8);
	pthread_join(id, NULL);
}

static void ask_fork(void)
{
	const pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	if (pid < 0 || waitpid(pid, NULL, 0) != pid)
		_exit(8);
}

static void ask_memory(void)
{
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED)
		_exit(8);
	munmap(page, 4096);
}

static void ask_kvm_run(void)
{
	ioctl(-1, KVM_RUN, 0);
}

static void ask_unix_socket(void)
{
	close(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

/* Its flags lie in memory, where a filter cannot look: nobody gets anything by it, and the C
 * library then makes its threads by clone(). */
static void ask_clone3(void)
{
	uint64_t args[8] = { 0x10000000 /* CLONE_NEWUSER */, 0, 0, 0, SIGCHLD };

	if (syscall(SYS_clone3, args, sizeof(args)) != -1 || errno != ENOSYS)
		_exit(8);
}

static void test_needed(void **state)
{
	static void (*const ask[])(void) = { ask_nothing,     ask_own_signal, ask_thread,
					     ask_fork,        ask_memory,     ask_kvm_run,
					     ask_unix_socket, ask_clone3 };

	(void)state;
	need_plain();
	for (size_t i = 0; i < sizeof(ask) / sizeof(ask[0]); i++) {
		assert_int_equal(outcome_of(ask[i], false), LIVES);
		assert_int_equal(outcome_of(ask[i], true), LIVES);
	}
}

/* ---- what who has broken out of a guest would try */

static void ask_open(void)
{
	open("/etc/passwd", O_RDONLY | O_CLOEXEC);
}

static void ask_exec(void)
{
	execl("/bin/true", "true", NULL);
}

static void ask_network(void)
{
	socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static void ask_parent_signal(void)
{
	const pid_t parent = getppid(); /* dies of it already */

	syscall(SYS_tgkill, parent, parent, 0);
}

static void ask_other_signal(void)
{
	syscall(SYS_tgkill, 1, 1, 0);
}

/* The constant that stands for our pid while the filter is made must not be left in it. */
static void ask_marker_signal(void)
{
	syscall(SYS_tgkill, CS_SANDBOX_NOBODY, CS_SANDBOX_NOBODY, 0);
}

static void ask_kill(void)
{
	kill(getpid(), 0);
}

static void ask_executable(void)
{
	mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void ask_new_machine(void)
{
	ioctl(-1, KVM_CREATE_VM, 0);
}

static void ask_memory_slot(void)
{
	ioctl(-1, KVM_SET_USER_MEMORY_REGION, NULL);
}

static void ask_namespace(void)
{
	syscall(SYS_clone, 0x10000000 /* CLONE_NEWUSER */ | SIGCHLD, 0, 0, 0, 0);
}

static void ask_trace(void)
{
	syscall(SYS_ptrace, 0, 0, 0, 0);
}

static void ask_filter(void)
{
	syscall(SYS_seccomp, 1, 0, NULL);
}

/* Another way to the same numbers: the x32 ABI. */
static void ask_x32(void)
{
	syscall(0x40000000 | SYS_getpid);
}

static void test_not_needed(void **state)
{
	static void (*const ask[])(void) = { ask_open,          ask_exec,         ask_network,
					     ask_parent_signal, ask_other_signal, ask_marker_signal,
					     ask_kill,          ask_executable,   ask_new_machine,
					     ask_memory_slot,   ask_namespace,    ask_trace,
					     ask_filter,        ask_x32 };

	(void)state;
	need_plain();
	for (size_t i = 0; i < sizeof(ask) / sizeof(ask[0]); i++) {
		if (outcome_of(ask[i], false) != KILLED || outcome_of(ask[i], true) != KILLED)
			fail_msg("question %zu was answered", i);
	}
}

/* ---- what only a spare needs, which is still to become somebody */

static void ask_name(void)
{
	prctl(PR_SET_NAME, "cs:web");
}

static void ask_registers(void)
{
	ioctl(-1, KVM_SET_MSRS, NULL);
}

static void ask_dumpable(void)
{
	prctl(PR_SET_DUMPABLE, 0);
}

static void test_spare(void **state)
{
	(void)state;
	need_plain();
	assert_int_equal(outcome_of(ask_name, true), LIVES);
	assert_int_equal(outcome_of(ask_name, false), KILLED);
	assert_int_equal(outcome_of(ask_registers, true), LIVES);
	assert_int_equal(outcome_of(ask_registers, false), KILLED);
	assert_int_equal(outcome_of(ask_dumpable, true), KILLED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_needed),
		cmocka_unit_test(test_not_needed),
		cmocka_unit_test(test_spare),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
