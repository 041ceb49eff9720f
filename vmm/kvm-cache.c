/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What was asked of KVM, kept until its module is loaded anew or the host is started again: what it
 * says of the CPU is 60 instructions which a host that is itself a machine cannot execute (0.4 to 3
 * ms), and the probe makes a machine and runs it (2 ms), and each spawn would wait for both. A file
 * that is not what root wrote, of another /dev/kvm or of a CPU with other features counts as none.
 */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/crc.h"
#include "store/base/io.h"
#include "store/base/own.h"
#include "vmm/kvm-private.h"

#define FOLDER  "/run/clearstore"
#define NAME    "kvm"
#define VERSION 2u

struct memory {
	char magic[8];
	uint32_t version, checksum; /* of all behind it */
	uint64_t device, inode;     /* of /dev/kvm: made anew with each load of its module */
	int64_t changed_s, changed_ns;
	uint32_t features; /* cs_host_cpu_features() */
	uint32_t tsc_khz;
	uint32_t supported, shown; /* so many entries of each follow */
	uint8_t tsc_fixed, standard, zero[6];
	struct kvm_cpuid_entry2 entry[];
};

#define CHECKED_FROM (offsetof(struct memory, checksum) + sizeof(uint32_t))
#define ENTRY_BYTES  sizeof(struct kvm_cpuid_entry2)
#define MEMORY_MAX   (sizeof(struct memory) + 2 * CS_CPUID_ENTRIES * ENTRY_BYTES)
#define OSXSAVE      (1u << 27) /* of leaf 1, ECX: the system's doing */

static const char magic[8] = "CSKVM";

/* Leaves with features, and of them what every CPU of a host says alike: not which of its CPUs it
 * is (leaf 1, EBX; Intel SDM, CPUID), which would make as many hosts of it as it has CPUs. */
uint32_t cs_host_cpu_features(void)
{
	static const struct {
		uint32_t function, index;
	} leaf[] = { { 0x0, 0 },        { 0x1, 0 },        { 0x7, 0 },       { 0xd, 1 },
		     { 0x80000001, 0 }, { 0x80000008, 0 }, { 0x80000021, 0 } };
	uint32_t said[sizeof(leaf) / sizeof(leaf[0])][4] = { 0 };

	for (size_t i = 0; i < sizeof(leaf) / sizeof(leaf[0]); i++)
		__get_cpuid_count(leaf[i].function, leaf[i].index, &said[i][0], &said[i][1],
				  &said[i][2], &said[i][3]);
	said[1][1] = 0;
	said[1][2] &= ~OSXSAVE;
	return cs_crc32(said, sizeof(said));
}

static bool fill_key(const struct cs_host_kvm *kvm, struct memory *ret)
{
	struct stat st;

	if (fstat(kvm->fd, &st) < 0)
		return false;
	memcpy(ret->magic, magic, sizeof(magic));
	ret->version = VERSION;
	ret->device = st.st_dev;
	ret->inode = st.st_ino;
	ret->changed_s = st.st_ctim.tv_sec;
	ret->changed_ns = st.st_ctim.tv_nsec;
	ret->features = kvm->cpu_features;
	return true;
}

static bool same_key(const struct memory *a, const struct memory *b)
{
	return !memcmp(a->magic, b->magic, sizeof(a->magic)) && a->version == b->version &&
	       a->device == b->device && a->inode == b->inode && a->changed_s == b->changed_s &&
	       a->changed_ns == b->changed_ns && a->features == b->features;
}

static uint32_t checksum(const struct memory *memory, size_t bytes)
{
	return cs_crc32((const char *)memory + CHECKED_FROM, bytes - CHECKED_FROM);
}

static size_t bytes_of(const struct memory *memory)
{
	return sizeof(*memory) + (memory->supported + memory->shown) * ENTRY_BYTES;
}

/* Of root, and nobody else may write it. Its size, or 0. */
static size_t read_memory(struct memory *ret)
{
	cs_auto(cs_fd_closep) int fd =
		open(FOLDER "/" NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid ||
	    (st.st_mode & 022) || st.st_size < (off_t)sizeof(*ret) ||
	    st.st_size > (off_t)MEMORY_MAX || cs_pread_full(fd, ret, (size_t)st.st_size, 0) < 0)
		return 0;
	return (size_t)st.st_size;
}

static void take(struct kvm_cpuid2 *ret, const struct kvm_cpuid_entry2 *entry, uint32_t n)
{
	ret->nent = n;
	memcpy(ret->entries, entry, n * ENTRY_BYTES);
}

bool cs_kvm_recall(struct cs_host_kvm *kvm)
{
	cs_auto(cs_mem_freep) struct memory *found = malloc(MEMORY_MAX);
	struct memory want = { 0 };
	size_t bytes;

	if (!found || !fill_key(kvm, &want))
		return false;
	bytes = read_memory(found);
	if (!bytes || !same_key(found, &want) || found->supported > CS_CPUID_ENTRIES ||
	    found->shown > CS_CPUID_ENTRIES || bytes_of(found) != bytes ||
	    found->checksum != checksum(found, bytes))
		return false;
	kvm->tsc_khz = found->tsc_khz;
	kvm->tsc_fixed = found->tsc_fixed;
	kvm->info.standard = found->standard;
	take(kvm->cpuid, found->entry, found->supported);
	take(kvm->shown, found->entry + found->supported, found->shown);
	return true;
}

void cs_kvm_remember(const struct cs_host_kvm *kvm)
{
	cs_auto(cs_mem_freep) struct memory *memory = calloc(1, MEMORY_MAX);
	cs_auto(cs_fd_closep) int fd = -1;

	/* Who is not root asks each time. */
	if (!memory || geteuid() != 0 || kvm->cpuid->nent > CS_CPUID_ENTRIES ||
	    kvm->shown->nent > CS_CPUID_ENTRIES || !fill_key(kvm, memory))
		return;
	memory->tsc_khz = kvm->tsc_khz;
	memory->tsc_fixed = kvm->tsc_fixed;
	memory->standard = kvm->info.standard;
	memory->supported = kvm->cpuid->nent;
	memory->shown = kvm->shown->nent;
	memcpy(memory->entry, kvm->cpuid->entries, memory->supported * ENTRY_BYTES);
	memcpy(memory->entry + memory->supported, kvm->shown->entries, memory->shown * ENTRY_BYTES);
	memory->checksum = checksum(memory, bytes_of(memory));
	if (cs_mkdir_at(AT_FDCWD, FOLDER, 0755) < 0)
		return;
	fd = open(FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	/* Whether it can be kept is nobody's business: then the next one asks again. */
	if (fd >= 0)
		cs_replace_at(fd, NAME, 0644, memory, bytes_of(memory), NULL);
}
