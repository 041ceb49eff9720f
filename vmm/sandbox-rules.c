/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/sandbox-rules.h"

#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "store/base/own.h"
#include "vmm/irq.h"
#include "vmm/snapshot-memory.h"

static void seccomp_releasep(scmp_filter_ctx *filter)
{
	if (*filter)
		seccomp_release(*filter);
}

/* Allowed whatever their arguments are, each with the reason why a running monitor needs it. */
static const int allowed[] = {
	/* vCPU threads and the loop */
	SCMP_SYS(epoll_wait),
	SCMP_SYS(epoll_pwait),
	SCMP_SYS(epoll_ctl),
	SCMP_SYS(futex),
	SCMP_SYS(rt_sigtimedwait),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(timerfd_settime),
	SCMP_SYS(timerfd_create),
	SCMP_SYS(poll),
	SCMP_SYS(ppoll),
	/* eventfds, sockets, the log, the exit line */
	SCMP_SYS(read),
	SCMP_SYS(readv),
	SCMP_SYS(write),
	SCMP_SYS(writev),
	SCMP_SYS(close),
	/* connections: vsock, control socket, console */
	SCMP_SYS(accept4),
	SCMP_SYS(recvfrom),
	SCMP_SYS(recvmsg),
	SCMP_SYS(sendto),
	SCMP_SYS(sendmsg),
	SCMP_SYS(shutdown),
	SCMP_SYS(getsockopt),
	SCMP_SYS(connect),
	SCMP_SYS(eventfd2),
	/* the disk: io_uring, or what stands in for it where it is off; the log's older half is
	   dropped */
	SCMP_SYS(io_uring_enter),
	SCMP_SYS(preadv),
	SCMP_SYS(preadv2),
	SCMP_SYS(pwritev),
	SCMP_SYS(pwritev2),
	SCMP_SYS(pread64),
	SCMP_SYS(pwrite64),
	SCMP_SYS(fallocate),
	SCMP_SYS(fsync),
	SCMP_SYS(fdatasync),
	SCMP_SYS(ftruncate),
	SCMP_SYS(lseek),
	SCMP_SYS(fstat),
	SCMP_SYS(fstatfs), /* is there room under the store's image? */
	SCMP_SYS(newfstatat),
	/* the guest's randomness and clock */
	SCMP_SYS(getrandom),
	SCMP_SYS(clock_gettime),
	SCMP_SYS(gettimeofday),
	SCMP_SYS(clock_nanosleep),
	SCMP_SYS(restart_syscall),
	/* heap, stacks; a page given back */
	SCMP_SYS(brk),
	SCMP_SYS(munmap),
	SCMP_SYS(mremap),
	SCMP_SYS(madvise),
	/* a thread's beginning and end, ours; the first makes the C library take its own signals */
	SCMP_SYS(rt_sigaction),
	SCMP_SYS(set_robust_list),
	SCMP_SYS(rseq),
	SCMP_SYS(sched_yield),
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(gettid),
	SCMP_SYS(getpid),
	/* a save: the process that writes it out closes what it has of ours; we hear of its end */
	SCMP_SYS(close_range),
	SCMP_SYS(wait4),
};

static int allow_ioctls(scmp_filter_ctx filter, const unsigned long *request, size_t n)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				     SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, request[i]));
	return r;
}

/* Threads, and one kind of process. */
static int allow_clones(scmp_filter_ctx filter)
{
	int r;

	/* clone3() hides its flags in memory, where a filter cannot look: the C library then falls
	 * back on clone(). */
	r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
				     SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD | CLONE_VM,
					     CLONE_THREAD | CLONE_VM));
	/* fork(), and nothing with namespaces: who writes a save out has our filter too. */
	if (r == 0)
		r = seccomp_rule_add(
			filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
			SCMP_A0(SCMP_CMP_EQ, CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD));
	return r;
}

/* What a machine is restored by, and the name by which `ps` shows a process. */
static int allow_restore(scmp_filter_ctx filter)
{
	size_t n;
	const unsigned long *request = cs_vm_restore_ioctls(&n);
	int r = allow_ioctls(filter, request, n);

	return r ? r
		 : seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
				    SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
}

/* Allowed with these arguments only. */
static int allow_narrow(scmp_filter_ctx filter, uint32_t pid)
{
	const unsigned long *request, waiting = FIONREAD; /* how much waits in a socket */
	size_t n;
	int r;

	request = cs_vm_run_ioctls(&n);
	r = allow_ioctls(filter, request, n);
	request = cs_snapshot_ioctls(&n);
	if (r == 0)
		r = allow_ioctls(filter, request, n);
	if (r == 0)
		r = allow_ioctls(filter, &waiting, 1);
	/* Memory, but none that can be executed. */
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
				     SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
				     SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (r == 0)
		r = allow_clones(filter);
	/* Kicks, to ourselves. */
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
				     SCMP_A0(SCMP_CMP_EQ, pid));
	/* Sockets of this host's file system and pairs: connections that a guest opens. */
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
				     SCMP_A0(SCMP_CMP_EQ, 1 /* AF_UNIX */));
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socketpair), 1,
				     SCMP_A0(SCMP_CMP_EQ, 1));
	/* Flags and descriptors, but no locks and no owner signals. */
	for (int op = 1; op <= 4 && r == 0; op++) /* F_GETFD F_SETFD F_GETFL F_SETFL */
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
				     SCMP_A1(SCMP_CMP_EQ, (scmp_datum_t)op));
	return r;
}

int cs_sandbox_rules(bool restores, uint32_t pid, int fd)
{
	cs_auto(seccomp_releasep) scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int r = 0;

	if (!filter)
		return -ENOMEM;
	for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]) && r == 0; i++)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
	if (r == 0)
		r = allow_narrow(filter, pid);
	if (r == 0 && restores)
		r = allow_restore(filter);
	return r ? r : seccomp_export_bpf(filter, fd);
}
