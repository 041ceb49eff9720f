/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What doctor looks at, and how a check tells what it found. Only its own files include it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/command.h"

enum cs_finding_level {
	CS_FINDING_OK,
	CS_FINDING_WARN, /* works, but worse than it could */
	CS_FINDING_FAIL, /* something that was asked for will not work */
};

struct cs_finding {
	enum cs_finding_level level;
	char text[320];
	char remedy[240]; /* "": none known, or none needed */
};

/* The host, or a folder that stands for "/" in a test. */
struct cs_doctor {
	const struct cs_globals *globals;
	int root_fd;
	const char *root; /* "" for the host: goes in front of absolute paths */
};

struct cs_check {
	const char *name;
	void (*look)(const struct cs_doctor *doctor, struct cs_finding *ret);
};

/* Tables, each ended by a NULL name. */
extern const struct cs_check cs_checks_kvm[];    /* cmd-doctor-kvm.c */
extern const struct cs_check cs_checks_memory[]; /* cmd-doctor-memory.c */
extern const struct cs_check cs_checks_limits[]; /* cmd-doctor-limits.c */
extern const struct cs_check cs_checks_store[];  /* cmd-doctor-store.c */

/* (remedy) NULL: none. */
void cs_finding_set(struct cs_finding *finding, enum cs_finding_level level, const char *remedy,
		    const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* The first line of a small file, without its newline; the path without a leading '/'. False: it
 * cannot be read. */
bool cs_doctor_read(const struct cs_doctor *doctor, const char *path, char *ret, size_t bytes);
/* The same as a number. */
bool cs_doctor_read_number(const struct cs_doctor *doctor, const char *path, uint64_t *ret);
bool cs_doctor_exists(const struct cs_doctor *doctor, const char *path);
/* Number of entries in a folder; 0 when there is none. */
size_t cs_doctor_entries(const struct cs_doctor *doctor, const char *path);

/* Guests that the memory available now could hold if they were booted cold: the number that limits
 * are held against. */
#define CS_DOCTOR_COLD_BYTES (UINT64_C(38) << 20) /* docs/measuring.md: QEMU microvm's figure */
uint64_t cs_doctor_guests(const struct cs_doctor *doctor);
