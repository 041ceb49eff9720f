/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Templates: what is shared. <root>/templates/<name>/<version>/ is a sealed subvolume with
 * manifest.json and the parts; <name>/active is a link to the version that new guests get. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "store/base/err.h"
#include "store/base/guest.h"
#include "store/base/own.h"
#include "store/store.h"

enum cs_part {
	CS_PART_KERNEL, /* uncompressed ELF vmlinux */
	CS_PART_INITRD, /* modules for a stock kernel; made by clearstore */
	CS_PART_ROOT,   /* erofs or ext4 image, DAX-ready, padded to 2 MiB */
	CS_PART_DISK, /* an empty ext4 file system, sparse: what a persistent guest's disk is cloned
			 from */
	CS_PART_MEMORY, /* of a saved machine */
	CS_PART_STATE,
	CS_PART_MAX,
};

/* "kernel", "root", ...: names in the manifest and of the files. */
const char *cs_part_name(enum cs_part part);

enum cs_root_format {
	CS_ROOT_EROFS,
	CS_ROOT_EXT4,
};

struct cs_progress;

struct cs_template_spec {
	const char *name;
	const char *from;    /* a folder or an archive of a root file system */
	const char *kernel;  /* bzImage or vmlinux */
	const char *modules; /* folder lib/modules/<release> of a stock kernel; NULL: looked for
				beside the kernel, in the root, on this host; "none": it needs
				no modules */
	const char *agent;   /* the agent's binary, put into the root at /sbin/clearstore-agent */
	const char *cmdline; /* appended to the kernel's command line; NULL: none */
	enum cs_root_format root_format;
	const char *media;   /* where the root shall lie (media.h); NULL: in the store, of an
				update where it is */
	uint64_t disk_bytes; /* size of a persistent guest's disk; 0: 8 GiB */
	struct cs_progress *progress; /* of the import; may be NULL */
};

/* Totals of an import, for the closing line and T6. */
struct cs_template_added {
	char version[64];
	char parent[64];       /* of an update: the version that it was made from; else "" */
	bool dropped_saved;    /* of an update: that one has a saved machine, this one not */
	uint64_t shared_bytes; /* of the stored ones: in blocks that the parent has, too */
	uint64_t input_bytes;  /* bytes of file contents that came in (an archive: unpacked) */
	uint64_t stored_bytes; /* bytes of the parts as allocated on the store */
	uint64_t files;
	double seconds;
};

/* Copy the parts in, hash and seal them, publish the name. All or nothing, also under kill -9: the
 * next cs_store_open() sweeps. -EEXIST: the name is taken. -EINVAL: not an archive, no kernel, bad
 * name. -ENOSPC. */
int cs_template_add(struct cs_store *store, const struct cs_template_spec *spec,
		    struct cs_template_added *ret, struct cs_err *err);

/* Make the next version of spec->name (NAME: of the active one; NAME@VERSION): what (spec) gives is
 * made anew, what it leaves out stays as it is; (from) NULL: the root, root_format is of a new
 * root. Blocks that the version before has are shared where the file system can (share.h). A saved
 * machine is left out: it knows the root it was booted from. (activate): new guests get it at once.
 * All or nothing as above; a kill before the switch leaves a whole version that is not active.
 * -EBADMSG: that version is in quarantine, and what is damaged of it would stay. */
int cs_template_update(struct cs_store *store, const struct cs_template_spec *spec, bool activate,
		       struct cs_template_added *ret, struct cs_err *err);

/* Make a version of (name) that is the same and lies on another medium, (media) as in media.h: the
 * root, and the memory of a saved machine where it can be private there. It takes the place of the
 * one before, if that is the active one, as by cs_draft_publish(). */
struct cs_template_user;
int cs_template_move(struct cs_store *store, const char *name, const char *media,
		     const struct cs_template_user *user, struct cs_template_added *ret,
		     struct cs_err *err);

struct cs_template;

/* "name" or "name@version" -> the two; *ret_version is "" when there is none. -EINVAL with words.
 */
int cs_template_split(const char *text, char ret_name[64], char ret_version[64],
		      struct cs_err *err);

/* (name) or "name@version"; without a version it is the active one. The parts' descriptors are
 * opened here and stay the template's. -ENOENT; -EBADMSG: it is broken, or in quarantine. */
int cs_template_open(struct cs_store *store, const char *name, struct cs_template **ret,
		     struct cs_err *err);

/* The same, in quarantine or not: for those who look what is wrong. */
int cs_template_open_any(struct cs_store *store, const char *name, struct cs_template **ret,
			 struct cs_err *err);

/* Is the version that (t) is still there? Under the store's lock it then stays. -ESTALE with words:
 * it was removed since it was opened. */
int cs_template_check_present(struct cs_store *store, const struct cs_template *t,
			      struct cs_err *err);

/* Visit the names of all templates, in order; as below. */
int cs_template_names(struct cs_store *store, int (*fn)(const char *name, void *arg), void *arg,
		      struct cs_err *err);

/* Visit all templates (their active version) in order of name; a broken one is visited with (t)
 * NULL and (broken) set. For a list: the parts are looked at, not opened, and not lent (-EBADF). fn
 * returns 0 to go on, anything else ends the walk and is returned. */
typedef int (*cs_template_fn)(const char *name, const struct cs_template *t,
			      const struct cs_err *broken, void *arg);
int cs_template_each(struct cs_store *store, cs_template_fn fn, void *arg, struct cs_err *err);

/* Is (version) of (template) borrowed by a guest? cow/card.h knows, store/ does not: the command
 * passes it in. Returns 1 and fills (guest) with one that does, 0 if none, -errno. */
struct cs_template_user {
	int (*find)(void *arg, const char *name, const char *version, char guest[64],
		    struct cs_err *err);
	void *arg;
};

/* Take (name) out under the exclusive store lock: renamed to a dot name first, so that a kill
 * leaves it swept later, never half there. -EBUSY while a guest borrows it. */
int cs_template_remove(struct cs_store *store, const char *name,
		       const struct cs_template_user *user, struct cs_err *err);

/* Hash every part again and compare with the manifest. -EBADMSG with words on the first that
 * differs. */
int cs_template_verify(const struct cs_template *t, struct cs_progress *progress,
		       struct cs_err *err);

/* The same, of a template opened by cs_template_open_any(), with a verdict: damaged, it comes into
 * quarantine, whole, out of it. (medium): past the page cache, which is neither used nor filled. */
int cs_template_scrub(struct cs_store *store, const struct cs_template *t, bool medium,
		      struct cs_progress *progress, struct cs_err *err);

/* Is (part) as the manifest says, on its medium? 0 also when there is none. No verdict. -EBADMSG;
 * -EIO or -ENODATA: it cannot be read. */
int cs_template_scrub_part(const struct cs_template *t, enum cs_part part, struct cs_err *err);

/* Are all parts but the disk guarded by fs-verity, so that what is damaged is never read? */
bool cs_template_guarded(const struct cs_template *t);

const char *cs_template_name(const struct cs_template *t);
const char *cs_template_version(const struct cs_template *t);        /* "1" */
const char *cs_template_cmdline(const struct cs_template *t);        /* "" when none */
const char *cs_template_kernel_release(const struct cs_template *t); /* "6.12.117" */
bool cs_template_stock_kernel(const struct cs_template *t);
enum cs_root_format cs_template_root_format(const struct cs_template *t);
time_t cs_template_created(const struct cs_template *t);
uint64_t cs_template_input_bytes(const struct cs_template *t);

/* Lend (part) as a view; -ENOENT if there is none. The fd stays the template's. */
int cs_template_view(const struct cs_template *t, enum cs_part part, struct cs_view *ret,
		     struct cs_err *err);
/* Everything else that the manifest says (manifest.h); lent. */
struct cs_manifest;
const struct cs_manifest *cs_template_manifest(const struct cs_template *t);

/* The machine saved in it is one of (ram_bytes) and (vcpus), with or without a disk: can such a
 * guest go on from it? False also when none is saved. */
bool cs_template_resumes(const struct cs_template *t, uint64_t ram_bytes, unsigned vcpus,
			 bool disk);

/* Its SHA-256 as 64 hex digits, NULL if there is no such part. */
const char *cs_template_digest(const struct cs_template *t, enum cs_part part);

struct cs_template *cs_template_free(struct cs_template *t);
CS_DEFINE_AUTO(cs_template);
