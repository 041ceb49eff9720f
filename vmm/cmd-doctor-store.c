/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What doctor says of the store, of what is under it, and of what importing needs. */
#include "vmm/cmd-doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "store/store.h"

#define SPACE_LITTLE (UINT64_C(1) << 30)

/* ---- the kernel's part --------------------------------------------------------------------- */

/* Is the word (name) on a line of (text)? */
static bool has_line(const char *text, const char *name)
{
	size_t length = strlen(name);

	for (const char *at = strstr(text, name); at; at = strstr(at + 1, name)) {
		char before = at == text ? '\n' : at[-1];

		if (strchr("\t\n/ ", before) && strchr("\n. :", at[length]))
			return true;
	}
	return false;
}

/* Known to the kernel now, or in a module that mount loads. */
static bool knows_file_system(const struct cs_doctor *doctor, const char *name)
{
	cs_auto(cs_mem_freep) char *known = NULL;
	cs_auto(cs_mem_freep) char *modules = NULL;
	char path[160], file[64];
	struct utsname host;

	if (cs_read_file_at(doctor->root_fd, "proc/filesystems", 65536, &known, NULL) == 0 &&
	    has_line(known, name))
		return true;
	if (uname(&host) < 0)
		return false;
	snprintf(path, sizeof(path), "lib/modules/%s/modules.dep", host.release);
	snprintf(file, sizeof(file), "%s.ko", name);
	return cs_read_file_at(doctor->root_fd, path, 64 << 20, &modules, NULL) == 0 &&
	       has_line(modules, file);
}

static void look_btrfs(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	if (knows_file_system(doctor, "btrfs"))
		cs_finding_set(ret, CS_FINDING_OK, NULL, "this kernel has it");
	else
		cs_finding_set(ret, CS_FINDING_WARN,
			       "a kernel with CONFIG_BTRFS_FS, or clearstore init --path on XFS",
			       "this kernel has none: a store in an image cannot be mounted, disks "
			       "are copied where they could be cloned");
}

static void look_loop(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	if (cs_doctor_exists(doctor, "dev/loop-control"))
		cs_finding_set(ret, CS_FINDING_OK, NULL, "there are some");
	else
		cs_finding_set(ret, CS_FINDING_WARN, "modprobe loop, or clearstore init --path",
			       "none: a store in an image cannot be mounted");
}

/* ---- the store ----------------------------------------------------------------------------- */

static void look_store(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	char space[CS_BYTES_TEXT];
	struct cs_err err = { 0 };
	uint64_t bytes;

	if (cs_store_open(doctor->globals->store, &store, &err) < 0) {
		if (err.code == ENOENT)
			cs_finding_set(ret, CS_FINDING_WARN, "clearstore init", "none at '%s'",
				       doctor->globals->store);
		else
			cs_finding_set(ret, CS_FINDING_FAIL, NULL, "%s", err.text);
		return;
	}
	if (cs_store_space(store, &bytes, &err) < 0) {
		cs_finding_set(ret, CS_FINDING_WARN, NULL, "%s", err.text);
		return;
	}
	cs_format_bytes(bytes, space);
	if (bytes < SPACE_LITTLE)
		cs_finding_set(ret, CS_FINDING_WARN,
			       "clearstore remove, clearstore template remove, or a larger disk",
			       "'%s': only %s left", doctor->globals->store, space);
	else if (!cs_store_is_btrfs(store))
		cs_finding_set(ret, CS_FINDING_WARN, "clearstore init on Btrfs, or in an image",
			       "'%s': %s free, not on Btrfs: disks may be copied where they could "
			       "be cloned",
			       doctor->globals->store, space);
	else
		cs_finding_set(ret, CS_FINDING_OK, NULL, "'%s': %s free, on Btrfs",
			       doctor->globals->store, space);
}

/* ---- programs and files -------------------------------------------------------------------- */

/* In PATH, or where such programs are on hosts whose users' PATH leaves them out. */
static bool has_program(const struct cs_doctor *doctor, const char *name)
{
	const char *folders = getenv("PATH");
	cs_auto(cs_mem_freep) char *list = NULL;
	char *rest, *folder;

	if (asprintf(&list, "%s:/usr/sbin:/sbin", folders ? folders : "/usr/bin") < 0)
		return false;
	rest = list;
	while ((folder = strsep(&rest, ":")) != NULL) {
		cs_auto(cs_mem_freep) char *path = NULL;

		if (folder[0] == '/' &&
		    asprintf(&path, "%s%s/%s", doctor->root, folder, name) >= 0 &&
		    access(path, X_OK) == 0)
			return true;
	}
	return false;
}

static void look_program(const struct cs_doctor *doctor, const char *name, const char *package,
			 const char *without, struct cs_finding *ret)
{
	char remedy[80];

	if (has_program(doctor, name)) {
		cs_finding_set(ret, CS_FINDING_OK, NULL, "there");
		return;
	}
	snprintf(remedy, sizeof(remedy), "apt-get install %s", package);
	cs_finding_set(ret, CS_FINDING_WARN, remedy, "missing: %s", without);
}

static void look_mkfs_erofs(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	look_program(doctor, "mkfs.erofs", "erofs-utils", "templates cannot be added", ret);
}

static void look_mke2fs(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	look_program(doctor, "mke2fs", "e2fsprogs",
		     "templates for persistent guests cannot be added", ret);
}

static void look_mkfs_btrfs(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	look_program(doctor, "mkfs.btrfs", "btrfs-progs", "a store in an image cannot be made",
		     ret);
}

/* Where template add looks: what (variable) of the environment names, else what is installed. */
static void look_file(const struct cs_doctor *doctor, const char *variable, const char *installed,
		      const char *remedy, struct cs_finding *ret)
{
	const char *given = getenv(variable);

	if (given && *given && access(given, R_OK) == 0)
		cs_finding_set(ret, CS_FINDING_OK, NULL, "%s (%s)", given, variable);
	else if (given && *given)
		cs_finding_set(ret, CS_FINDING_FAIL, remedy, "no '%s' (%s)", given, variable);
	else if (cs_doctor_exists(doctor, installed + 1))
		cs_finding_set(ret, CS_FINDING_OK, NULL, "%s", installed);
	else
		cs_finding_set(ret, CS_FINDING_WARN, remedy, "no '%s'", installed);
}

static void look_agent(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	look_file(doctor, "CLEARSTORE_AGENT", CS_LIBEXECDIR "/clearstore-agent",
		  "make install, or name one with template add --agent", ret);
}

static void look_kernel(const struct cs_doctor *doctor, struct cs_finding *ret)
{
	look_file(doctor, "CLEARSTORE_KERNEL", CS_DATADIR "/vmlinux",
		  "scripts/build-kernel and make install-kernel, or name one with template add "
		  "--kernel",
		  ret);
}

const struct cs_check cs_checks_store[] = {
	{ "btrfs", look_btrfs },
	{ "loop-devices", look_loop },
	{ "store", look_store },
	{ "mkfs.erofs", look_mkfs_erofs },
	{ "mke2fs", look_mke2fs },
	{ "mkfs.btrfs", look_mkfs_btrfs },
	{ "agent", look_agent },
	{ "guest-kernel", look_kernel },
	{ NULL, NULL },
};
