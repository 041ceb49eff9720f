/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a guest really costs: read from /proc, nothing derived. All figures are bytes unless named
 * otherwise. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "store/base/err.h"

#define CS_METER_UNKNOWN UINT64_MAX

/* Of one process (Documentation/filesystems/proc.rst). */
struct cs_meter_process {
	uint64_t rss_bytes;      /* smaps_rollup: Rss */
	uint64_t pss_bytes;      /* Pss: shared pages divided among those who map them */
	uint64_t pss_anon_bytes; /* Pss_Anon: of that, no page cache */
	uint64_t anon_bytes;     /* Anonymous: what is of no file; merged pages in full */
	uint64_t ksm_bytes;      /* KSM: merged, zero pages not among them; CS_METER_UNKNOWN: older
				    kernels */
	uint64_t private_dirty_bytes; /* Private_Dirty: what would come back if it died */
	uint64_t page_table_bytes;    /* status: VmPTE; the host's, not KVM's */
	uint64_t cpu_ms;              /* stat: user and system time of all threads */
};

/* (proc): "/proc", or a folder like it. Read it as root, or of one's own processes (-EACCES).
 * -ESRCH: no such process, or dead; -EBADMSG: a figure is missing or is none. Costs a walk over the
 * process's page tables: some 10 us a resident MiB. */
int cs_meter_process(const char *proc, pid_t pid, struct cs_meter_process *ret, struct cs_err *err);

/* Private memory of a process, by its counters (statm): cheap, so for looking often. What the
 * kernel merges is counted in full, zero pages that it merged are not. -ESRCH, -EBADMSG. */
int cs_meter_private(const char *proc, pid_t pid, uint64_t *ret_bytes);

/* Private memory of a monitor that is not its guest's (smaps): all but the mappings of guest
 * memory, which are the ones without huge pages (VmFlags nh; cow/ram.c). Costs as
 * cs_meter_process(). -ESRCH, -EACCES; -EBADMSG: not a list of mappings, or one that is absurdly
 * long. */
int cs_meter_monitor(const char *proc, pid_t pid, uint64_t *ret_bytes);

/* What merging does for a process, from ksm_stat (Linux 6.1; to be read as root). What the kernel
 * does not tell is CS_KSM_UNKNOWN (ksm/ksm.h). */
struct cs_meter_merging {
	int64_t tracked_pages; /* KSM keeps 64 bytes for each */
	int64_t merged_pages;  /* corrected as the scan comes past: too high after un-enrolling.
				* Those that others have, too; the one that is kept is counted also
				*/
	int64_t zero_pages;
	int64_t profit_bytes; /* may be negative */
};

/* -EOPNOTSUPP: the kernel has no such file; -ESRCH, -EACCES, -EBADMSG. Cheap. */
int cs_meter_merging(const char *proc, pid_t pid, struct cs_meter_merging *ret);

/* Of the host, from meminfo. */
struct cs_meter_host {
	uint64_t total_bytes;          /* MemTotal */
	uint64_t available_bytes;      /* MemAvailable */
	uint64_t anon_bytes;           /* AnonPages */
	uint64_t cached_bytes;         /* Cached */
	uint64_t buffer_bytes;         /* Buffers: page cache of block devices */
	uint64_t slab_bytes;           /* Slab */
	uint64_t kernel_stack_bytes;   /* KernelStack */
	uint64_t page_table_bytes;     /* PageTables */
	uint64_t sec_page_table_bytes; /* SecPageTables: KVM's; 0 before Linux 6.1 */
	uint64_t percpu_bytes;         /* Percpu */
	uint64_t free_bytes;           /* MemFree */
	uint64_t active_file_bytes, inactive_file_bytes; /* page cache that can be dropped */
	uint64_t shmem_bytes;         /* Shmem: tmpfs and shared memory, of Cached */
	uint64_t reclaimable_bytes;   /* KReclaimable */
	uint64_t unreclaimable_bytes; /* SUnreclaim, of Slab */
	uint64_t vmalloc_bytes;       /* VmallocUsed: KernelStack is of that */
};

int cs_meter_host(const char *proc, struct cs_meter_host *ret, struct cs_err *err);

/* What meminfo counts nowhere, in bytes; 0: this kernel does not tell, or not to us. */
struct cs_meter_unlisted {
	uint64_t cpu_list_bytes; /* free pages that CPUs keep for themselves */
	uint64_t trace_bytes;    /* buffers of the kernel's tracing */
	uint64_t spare_bytes;    /* KVM's, for vCPUs */
};

/* zoneinfo: "count" of the page sets. */
uint64_t cs_meter_cpu_lists(const char *proc);

/* (tracing): "/sys/kernel/tracing"; its buffers and those of its instances, as root. */
uint64_t cs_meter_tracing(const char *tracing);

/* What KVM keeps for that many vCPUs besides page tables that are in use. Reckoned, not counted: no
 * counter of the kernel has it. It is the most there can be, and what is there soon after a guest
 * came to rest. */
uint64_t cs_meter_spare(uint64_t vcpus, bool nested_paging);

/* ---- what it comes to ---------------------------------------------------------------------- */

/* Of one guest. The memory of a guest is its own, merged, or of files; what it costs is the first,
 * its part of the second, and page tables. */
struct cs_meter_guest {
	uint64_t private_bytes;    /* its own: comes back when it ends */
	uint64_t merged_bytes;     /* others have the same, and there is one copy */
	uint64_t zero_bytes;       /* merged with the kernel's zero page: costs nothing */
	uint64_t shared_bytes;     /* of files: the template's memory and root, the program */
	uint64_t page_table_bytes; /* the host's, not KVM's */
	uint64_t cost_bytes;       /* private, its part of what is merged, page tables */
	uint64_t pss_bytes;
	uint64_t cpu_ms;
};

/* (merging): of the same process; what is not known in it counts as 0. */
struct cs_meter_guest cs_meter_guest_of(const struct cs_meter_process *process,
					const struct cs_meter_merging *merging);
void cs_meter_guest_add(struct cs_meter_guest *sum, const struct cs_meter_guest *guest);

/* Where the host's memory went: all that is not available, part by part. */
struct cs_meter_used {
	uint64_t used_bytes;   /* MemTotal less MemAvailable: the sum of all that follows */
	uint64_t guests_bytes; /* what all guests cost */
	uint64_t kvm_bytes;    /* KVM's page tables */
	uint64_t others_bytes; /* anonymous memory of other processes */
	uint64_t tmpfs_bytes;  /* tmpfs and shared memory */
	uint64_t kernel_bytes; /* the kernel's: slab, stacks, vmalloc, per CPU, other page tables */
	uint64_t spare_bytes;  /* KVM's, for vCPUs */
	uint64_t trace_bytes;  /* buffers of the kernel's tracing */
	uint64_t locked_bytes; /* page cache that cannot be dropped: locked, or on its way */
	uint64_t held_back_bytes; /* free or page cache, but not to be had: the kernel's reserves,
				   * what CPUs keep for themselves */
	int64_t remainder_bytes;  /* what none of these explains; below 0: counted twice */
};
struct cs_meter_used cs_meter_used_of(const struct cs_meter_host *host,
				      const struct cs_meter_unlisted *unlisted,
				      const struct cs_meter_guest *guests);
