/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A template on disk: manifest.json <-> struct (docs/formats.md). */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "store/base/err.h"
#include "store/base/guest.h"
#include "store/base/name.h"
#include "store/base/own.h"
#include "store/digest.h"
#include "store/kernel.h"
#include "store/template.h"

#define CS_MANIFEST_FILE   "manifest.json"
#define CS_MANIFEST_FORMAT 1

#define CS_MEDIA_WHERE 512

struct cs_manifest_part {
	bool present;
	enum cs_media media;
	uint64_t bytes, stored_bytes; /* length; allocated when it was made */
	char sha256[CS_DIGEST_TEXT];  /* of disk and memory: cs_digest_sparse() */
	char verity[CS_DIGEST_TEXT];  /* of the file's fs-verity; "": it has none */
	char where[CS_MEDIA_WHERE];   /* of a part that is not in the store: its file or device */
	uint64_t offset;              /* in that device */
};

#define CS_WARM_TEXT 1024 /* of a line for the guest's shell */

/* What kind of machine was saved in the parts memory and state: only one like it resumes. */
struct cs_manifest_saved {
	bool present;
	uint64_t ram_bytes;
	unsigned vcpus;
	bool disk; /* it has the part disk as its own */

	/* It was made by booting (template warm), and can be made so again of another version;
	 * (run) and (ready) are its command lines, "": none. */
	bool warmed;
	char run[CS_WARM_TEXT], ready[CS_WARM_TEXT];
};

struct cs_manifest {
	time_t created; /* seconds since 1970 */
	enum cs_root_format root_format;
	bool stock_kernel;
	char kernel_release[CS_RELEASE_TEXT];
	char agent_sha256[CS_DIGEST_TEXT];
	char *cmdline; /* never NULL */
	uint64_t input_bytes, files;
	char parent[CS_NAME_MAX + 1]; /* the version that it was made from; "": none */
	uint64_t shared_bytes;        /* of the parts' stored bytes: in blocks of the parent's */
	struct cs_manifest_saved saved;
	struct cs_manifest_part part[CS_PART_MAX];
};

const char *cs_root_format_name(enum cs_root_format format);
const char *cs_media_name(enum cs_media media);

/* Read what is in (text), which may be anything. *ret is the caller's. -EBADMSG with words: broken,
 * or it promises what it cannot be; -EPROTO: of a newer format. */
int cs_manifest_parse(const char *text, size_t bytes, struct cs_manifest **ret, struct cs_err *err);

/* The digest of what (view) shows as (part), of the kind that the manifest has for it. */
int cs_manifest_digest(enum cs_part part, const struct cs_view *view,
		       const struct cs_digest_progress *progress, char ret[CS_DIGEST_TEXT],
		       struct cs_err *err);

/* Load (dirfd)/manifest.json. -ENOENT, and as above. */
int cs_manifest_load(int dirfd, struct cs_manifest **ret, struct cs_err *err);

/* The text, which the caller frees. -ENOMEM; -EINVAL with words: a text in it is not UTF-8. */
int cs_manifest_format(const struct cs_manifest *manifest, char **ret, struct cs_err *err);

/* Publish it as (dirfd)/manifest.json. As above; -EINVAL also for what cs_manifest_parse() would
 * refuse, as a control character. */
int cs_manifest_save(int dirfd, const struct cs_manifest *manifest, struct cs_err *err);

/* What KSM can merge of the guests that are resumed from (manifest)'s saved machine, in words that
 * begin with "yes" or "no"; NULL: there is none. */
const char *cs_manifest_merges(const struct cs_manifest *manifest);

struct cs_manifest *cs_manifest_copy(const struct cs_manifest *manifest); /* NULL: out of memory */
struct cs_manifest *cs_manifest_free(struct cs_manifest *manifest);
CS_DEFINE_AUTO(cs_manifest);
