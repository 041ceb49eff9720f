/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/sandbox.h"

#include <cap-ng.h>
#include <errno.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/sandbox-filter.h"

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

/* The one place that is another in each process. */
static int install_filter(const struct cs_sandbox_spec *spec, struct cs_err *err)
{
	struct sock_filter code[LENGTH(cs_filter_restoring)];
	struct sock_fprog filter = { .filter = code };
	long r;

	_Static_assert(LENGTH(cs_filter_restoring) >= LENGTH(cs_filter_running),
		       "who restores may do all that who runs may");
	if (spec->restores) {
		memcpy(code, cs_filter_restoring, sizeof(cs_filter_restoring));
		code[CS_FILTER_RESTORING_PID].k = (uint32_t)getpid();
		filter.len = LENGTH(cs_filter_restoring);
	} else {
		memcpy(code, cs_filter_running, sizeof(cs_filter_running));
		code[CS_FILTER_RUNNING_PID].k = (uint32_t)getpid();
		filter.len = LENGTH(cs_filter_running);
	}
	/* Above 0: the thread that cannot have it. */
	r = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter);
	return r ? cs_fail_errno(err, r < 0 ? errno : ESRCH,
				 "sandbox: cannot install the system call filter")
		 : 0;
}

static int drop_user(uid_t uid, struct cs_err *err)
{
	if (setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0)
		return cs_fail_errno(err, errno, "sandbox: cannot become user %u", uid);
	return 0;
}

int cs_sandbox_enter(const struct cs_sandbox_spec *spec, struct cs_err *err)
{
	int r;

	if (spec->uid) {
		r = drop_user(spec->uid, err);
		if (r < 0)
			return r;
	}
	capng_clear(CAPNG_SELECT_BOTH);
	if (capng_apply(CAPNG_SELECT_CAPS) != 0)
		return cs_fail(err, EPERM, "sandbox: cannot drop capabilities");
	/* The change of user clears it, and then /proc/self is root's: the monitor could not reach
	 * its own descriptors. */
	if (prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return cs_fail_errno(err, errno, "sandbox: cannot give up new privileges");
	return spec->no_seccomp ? 0 : install_filter(spec, err);
}
