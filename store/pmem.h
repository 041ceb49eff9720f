/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Persistent memory of this host: regions, the namespaces in them, DAX devices. The only owner of
 * libndctl and libdaxctl. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "store/base/err.h"

enum cs_pmem_kind {
	CS_PMEM_REGION,    /* memory of one interleave set; (free_bytes) are in no namespace */
	CS_PMEM_NAMESPACE, /* of a region; (device) is a block device, or a DAX device in devdax */
	CS_PMEM_DAX,       /* a DAX device that is of no namespace, as of CXL or HMEM */
};

struct cs_pmem {
	enum cs_pmem_kind kind;
	char name[64];     /* "region0", "namespace0.0", "dax1.0" */
	char region[64];   /* of a namespace */
	char provider[64]; /* of its bus: "ACPI.NFIT", "e820" */
	const char *mode;  /* "fsdax", "devdax", "sector", "raw", "system-ram", "unknown" */
	char device[80];   /* "/dev/pmem0", "/dev/dax0.0"; "": none */
	uint64_t bytes, free_bytes;
	uint64_t align;          /* 0: not told */
	int numa_node;           /* -1: not told */
	const char *persistence; /* what a power cut leaves: "cpu_cache", "memory_controller",
				    "none", "unknown" */
	bool enabled;
	char holder[256]; /* where it is mounted; "": nowhere */
};

/* Visit all, each region before its namespaces. fn returns 0 to go on, anything else ends the walk
 * and is returned. A device that vanishes meanwhile is left out. None at all is no failure. */
typedef int (*cs_pmem_fn)(const struct cs_pmem *pmem, void *arg);
int cs_pmem_each(cs_pmem_fn fn, void *arg, struct cs_err *err);
