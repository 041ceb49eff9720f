/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What doctor says of limits, held against the number of guests that memory allows. */
#include "vmm/cmd-doctor.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/resource.h>

/* Of one guest with one vCPU: the loop, the vCPU, KVM's worker, and room for one of io_uring's. */
#define TASKS 4
/* Of one monitor: machine, vCPU, two for each of 5 queues, sockets, timers, logs; with room. */
#define FILES 64
/* Of one monitor: code, libraries, stacks, guest memory; with room. */
#define MAPS 1024
/* The host's own. */
#define OTHER_TASKS 2048
#define OTHER_FILES 16384

/* (value) of (path) against (need); (setting) as sysctl takes it. */
static void hold(const struct cs_doctor *doctor, const char *path, const char *setting,
		 uint64_t need, struct cs_finding *ret)
{
	uint64_t value, guests = cs_doctor_guests(doctor);
	char remedy[120];

	if (!cs_doctor_read_number(doctor, path, &value)) {
		cs_finding_set(ret, CS_FINDING_WARN, NULL, "cannot read /%s", path);
		return;
	}
	if (value >= need) {
		cs_finding_set(ret, CS_FINDING_OK, NULL,
			       "%" PRIu64 ", enough for %" PRIu64 " guests", value, guests);
		return;
	}
	snprintf(remedy, sizeof(remedy), "sysctl %s=%" PRIu64, setting, need);
	cs_finding_set(ret, CS_FINDING_WARN, remedy,
		       "%" PRIu64 ", less than the %" PRIu64 " that %" PRIu64 " guests need", value,
		       need, guests);
}

static void look_pid_max(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	hold(doctor, "proc/sys/kernel/pid_max", "kernel.pid_max",
	     cs_doctor_guests(doctor) * TASKS + OTHER_TASKS, ret);
}

static void look_threads_max(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	hold(doctor, "proc/sys/kernel/threads-max", "kernel.threads-max",
	     cs_doctor_guests(doctor) * TASKS + OTHER_TASKS, ret);
}

static void look_file_max(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	hold(doctor, "proc/sys/fs/file-max", "fs.file-max",
	     cs_doctor_guests(doctor) * FILES + OTHER_FILES, ret);
}

static void look_max_map_count(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	uint64_t value;

	if (!cs_doctor_read_number(doctor, "proc/sys/vm/max_map_count", &value))
		cs_finding_set(ret, CS_FINDING_WARN, NULL,
			       "cannot read /proc/sys/vm/max_map_count");
	else if (value < MAPS)
		cs_finding_set(ret, CS_FINDING_WARN, "sysctl vm.max_map_count=65530",
			       "%" PRIu64 ": too few for a monitor", value);
	else
		cs_finding_set(ret, CS_FINDING_OK, NULL, "%" PRIu64 " for each monitor", value);
}

/* While it spawns, a process has a descriptor open for each guest. */
static void look_open_files(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	uint64_t need = cs_doctor_guests(doctor) + 128;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		cs_finding_set(ret, CS_FINDING_WARN, NULL, "cannot be read");
	else if (limit.rlim_max < need)
		cs_finding_set(ret, CS_FINDING_WARN, "raise ulimit -Hn, or spawn in several goes",
			       "a process may open %" PRIu64 " files, less than the %" PRIu64
			       " that spawning all guests at once needs",
			       (uint64_t)limit.rlim_max, need);
	else
		cs_finding_set(ret, CS_FINDING_OK, NULL, "a process may open %" PRIu64 " files",
			       (uint64_t)limit.rlim_max);
}

static void look_io_uring(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	uint64_t disabled;

	if (!cs_doctor_read_number(doctor, "proc/sys/kernel/io_uring_disabled", &disabled))
		cs_finding_set(ret, CS_FINDING_OK, NULL, "no switch for it here");
	else if (disabled == 2)
		cs_finding_set(
			ret, CS_FINDING_WARN, "sysctl kernel.io_uring_disabled=0",
			"switched off: guests' disks are served one request after the other");
	else
		cs_finding_set(ret, CS_FINDING_OK, NULL, "%s",
			       disabled ? "for privileged processes" : "on");
}

const struct cs_check cs_checks_limits[] = {
	{ "pid-max", look_pid_max },
	{ "threads-max", look_threads_max },
	{ "file-max", look_file_max },
	{ "max-map-count", look_max_map_count },
	{ "open-files", look_open_files },
	{ "io-uring", look_io_uring },
	{ NULL, NULL },
};
