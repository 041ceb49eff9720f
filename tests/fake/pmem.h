/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libndctl and libdaxctl, played: what store/pmem.c asks of them, answered from a table. */
#pragma once

#include <stdbool.h>

#include <ndctl/libndctl.h>

#define CS_FAKE_PMEM_MAX 8

struct cs_fake_namespace {
	const char *name;
	int mode;
	unsigned long long bytes;
	int enabled;
	const char *claimed; /* "pfn", "dax", "btt"; NULL: by nobody */
	const char *device;  /* NULL: the library has none */
	unsigned long align;
	bool has_align, memory; /* (memory): the DAX device is used as such */
};

struct cs_fake_pmem {
	int ndctl_fails, daxctl_fails; /* -errno of making a context */
	unsigned regions, namespaces, daxes;
	unsigned long long region_bytes, region_free;
	enum ndctl_persistence_domain persistence;
	int numa_node, enabled;
	const char *provider;
	struct cs_fake_namespace ns[CS_FAKE_PMEM_MAX];  /* of the first region */
	struct cs_fake_namespace dax[CS_FAKE_PMEM_MAX]; /* of daxctl itself */
	int contexts;                                   /* that are open */
};

/* What the libraries answer from. Owned by the test. */
void cs_fake_pmem_set(struct cs_fake_pmem *fake);
