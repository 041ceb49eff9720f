/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the probe found, kept until the KVM module is loaded anew or the host is started again: the
 * probe makes a machine and runs it, 2 ms of each spawn. A file that is not what root wrote, of
 * another /dev/kvm or of another set of CPU features counts as none. */
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
#define VERSION 1u

struct memory {
	char magic[8];
	uint32_t version, checksum; /* of all behind it */
	uint64_t device, inode;     /* of /dev/kvm: made anew with each load of its module */
	int64_t changed_s, changed_ns;
	uint32_t features; /* checksum of KVM_GET_SUPPORTED_CPUID */
	uint32_t tsc_khz, entries;
	uint8_t tsc_fixed, standard, zero[2];
	struct kvm_cpuid_entry2 shown[CS_CPUID_ENTRIES];
};

#define CHECKED_FROM (offsetof(struct memory, checksum) + sizeof(uint32_t))

static const char magic[8] = "CSKVM";

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
	ret->features =
		cs_crc32(kvm->cpuid->entries, kvm->cpuid->nent * sizeof(kvm->cpuid->entries[0]));
	return true;
}

static bool same_key(const struct memory *a, const struct memory *b)
{
	return !memcmp(a->magic, b->magic, sizeof(a->magic)) && a->version == b->version &&
	       a->device == b->device && a->inode == b->inode && a->changed_s == b->changed_s &&
	       a->changed_ns == b->changed_ns && a->features == b->features;
}

static uint32_t checksum(const struct memory *memory)
{
	return cs_crc32((const char *)memory + CHECKED_FROM, sizeof(*memory) - CHECKED_FROM);
}

/* Of root, and nobody else may write it. */
static int open_memory(void)
{
	int fd = open(FOLDER "/" NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && !st.st_uid && !(st.st_mode & 022) &&
	    st.st_size == sizeof(struct memory))
		return fd;
	close(fd);
	return -EPERM;
}

bool cs_kvm_recall(struct cs_host_kvm *kvm)
{
	cs_auto(cs_mem_freep) struct memory *found = malloc(sizeof(*found));
	cs_auto(cs_fd_closep) int fd = open_memory();
	struct memory want = { 0 };

	if (fd < 0 || !found || !fill_key(kvm, &want) ||
	    cs_pread_full(fd, found, sizeof(*found), 0) < 0 || !same_key(found, &want) ||
	    found->checksum != checksum(found) || found->entries > CS_CPUID_ENTRIES)
		return false;
	kvm->tsc_khz = found->tsc_khz;
	kvm->tsc_fixed = found->tsc_fixed;
	kvm->info.standard = found->standard;
	kvm->shown->nent = found->entries;
	memcpy(kvm->shown->entries, found->shown, found->entries * sizeof(found->shown[0]));
	return true;
}

void cs_kvm_remember(const struct cs_host_kvm *kvm)
{
	cs_auto(cs_mem_freep) struct memory *memory = calloc(1, sizeof(*memory));
	cs_auto(cs_fd_closep) int fd = -1;

	/* Who is not root asks each time. */
	if (!memory || geteuid() != 0 || kvm->shown->nent > CS_CPUID_ENTRIES ||
	    !fill_key(kvm, memory))
		return;
	memory->tsc_khz = kvm->tsc_khz;
	memory->tsc_fixed = kvm->tsc_fixed;
	memory->standard = kvm->info.standard;
	memory->entries = kvm->shown->nent;
	memcpy(memory->shown, kvm->shown->entries,
	       kvm->shown->nent * sizeof(kvm->shown->entries[0]));
	memory->checksum = checksum(memory);
	if (cs_mkdir_at(AT_FDCWD, FOLDER, 0755) < 0)
		return;
	fd = open(FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	/* Whether it can be kept is nobody's business: then the next one asks again. */
	if (fd >= 0)
		cs_replace_at(fd, NAME, 0644, memory, sizeof(*memory), NULL);
}
