/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/manifest.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <sys/mman.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "store/daxdev.h"
#include "store/daxtable.h"

#define FILE_MAX    (256 * 1024)
#define CMDLINE_MAX 2048 /* what a kernel takes (COMMAND_LINE_SIZE) */
#define BYTES_MAX   (UINT64_C(1) << 44)
#define TIME_MAX    (INT64_C(1) << 40)
#define VCPUS_MAX   1024

static const char *const part_names[CS_PART_MAX] = {
	[CS_PART_KERNEL] = "kernel", [CS_PART_INITRD] = "initrd", [CS_PART_ROOT] = "root",
	[CS_PART_DISK] = "disk",     [CS_PART_MEMORY] = "memory", [CS_PART_STATE] = "state",
};

static const char *const root_formats[] = {
	[CS_ROOT_EROFS] = "erofs",
	[CS_ROOT_EXT4] = "ext4",
};

static const char *const media[] = {
	[CS_MEDIA_FILE] = "file",
	[CS_MEDIA_FSDAX] = "fsdax",
	[CS_MEDIA_DEVDAX] = "devdax",
};

const char *cs_part_name(enum cs_part part)
{
	return part_names[part];
}

const char *cs_root_format_name(enum cs_root_format format)
{
	return root_formats[format];
}

const char *cs_media_name(enum cs_media medium)
{
	return media[medium];
}

/* A disk is 8 GiB of holes, a memory half of it: their digest is of another kind (digest.h), under
 * another key. */
static bool is_sparse(enum cs_part part)
{
	return part == CS_PART_DISK || part == CS_PART_MEMORY;
}

static const char *digest_key(enum cs_part part)
{
	return is_sparse(part) ? "sha256_of_data" : "sha256";
}

/* A DAX device is not read, only mapped. */
static int digest_mapped(const struct cs_view *view, char ret[CS_DIGEST_TEXT], struct cs_err *err)
{
	const uint64_t bytes = cs_align_up(view->bytes, CS_DAX_GRAIN);
	void *at = cs_daxdev_map(view->fd, view->offset, bytes, false);
	int r;

	if (!at)
		return cs_fail_errno(err, errno, "cannot be mapped");
	r = cs_digest_memory(at, view->bytes, ret, err);
	munmap(at, bytes);
	return r;
}

int cs_manifest_digest(enum cs_part part, const struct cs_view *view,
		       const struct cs_digest_progress *progress, char ret[CS_DIGEST_TEXT],
		       struct cs_err *err)
{
	if (view->media == CS_MEDIA_DEVDAX)
		return digest_mapped(view, ret, err);
	if (is_sparse(part))
		return cs_digest_sparse(view->fd, view->bytes, ret, err);
	return cs_digest_file(view->fd, view->bytes, progress, ret, err);
}

static void json_freep(json_t **json)
{
	json_decref(*json);
}

/* ---- reading: each says what is wrong with which key ---- */

static int fail_key(struct cs_err *err, const char *key, const char *what)
{
	return cs_fail(err, EBADMSG, CS_MANIFEST_FILE ": '%.64s' %s", key, what);
}

static int get_u64(const json_t *from, const char *key, uint64_t max, uint64_t *ret,
		   struct cs_err *err)
{
	const json_t *value = json_object_get(from, key);

	if (!json_is_integer(value))
		return fail_key(err, key, value ? "is no whole number" : "is missing");
	if (json_integer_value(value) < 0 || (uint64_t)json_integer_value(value) > max)
		return fail_key(err, key, "is out of range");
	*ret = (uint64_t)json_integer_value(value);
	return 0;
}

static int get_bool(const json_t *from, const char *key, bool *ret, struct cs_err *err)
{
	const json_t *value = json_object_get(from, key);

	if (!json_is_boolean(value))
		return fail_key(err, key, value ? "is neither true nor false" : "is missing");
	*ret = json_is_true(value);
	return 0;
}

/* A string of (room) - 1 bytes at most, without NULs and control characters. */
static int get_text(const json_t *from, const char *key, char *ret, size_t room, struct cs_err *err)
{
	const json_t *value = json_object_get(from, key);
	const char *text = json_string_value(value);
	size_t bytes;

	if (!text)
		return fail_key(err, key, value ? "is no text" : "is missing");
	bytes = json_string_length(value);
	if (bytes >= room)
		return fail_key(err, key, "is too long");
	for (size_t i = 0; i < bytes; i++) {
		if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
			return fail_key(err, key, "holds a control character");
	}
	memcpy(ret, text, bytes);
	ret[bytes] = '\0';
	return 0;
}

static int get_name(const json_t *from, const char *key, const char *const *names, size_t n,
		    size_t *ret, struct cs_err *err)
{
	char text[32];
	int r;

	r = get_text(from, key, text, sizeof(text), err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++) {
		if (!strcmp(text, names[i])) {
			*ret = i;
			return 0;
		}
	}
	return fail_key(err, key, "says nothing that this version knows");
}

static int get_sha256(const json_t *from, const char *key, char ret[CS_DIGEST_TEXT],
		      struct cs_err *err)
{
	int r;

	r = get_text(from, key, ret, CS_DIGEST_TEXT, err);
	if (r < 0)
		return r;
	if (strlen(ret) != CS_DIGEST_TEXT - 1 ||
	    strspn(ret, "0123456789abcdef") != CS_DIGEST_TEXT - 1)
		return fail_key(err, key, "is no SHA-256");
	return 0;
}

static int parse_part(const json_t *json, enum cs_part part, struct cs_manifest_part *ret,
		      struct cs_err *err)
{
	size_t medium = 0;
	int r;

	if (!json_is_object(json))
		return cs_fail(err, EBADMSG, CS_MANIFEST_FILE ": is no object");
	r = get_u64(json, "bytes", BYTES_MAX, &ret->bytes, err);
	if (r == 0)
		r = get_u64(json, "stored_bytes", BYTES_MAX, &ret->stored_bytes, err);
	if (r == 0)
		r = get_sha256(json, digest_key(part), ret->sha256, err);
	if (r == 0)
		r = get_name(json, "media", media, sizeof(media) / sizeof(media[0]), &medium, err);
	if (r < 0)
		return r;
	if (medium != CS_MEDIA_FILE) {
		r = get_text(json, "where", ret->where, sizeof(ret->where), err);
		if (r == 0 && ret->where[0] != '/')
			r = fail_key(err, "where", "is no path");
		if (r == 0)
			r = get_u64(json, "offset", BYTES_MAX, &ret->offset, err);
		if (r < 0)
			return r;
	}
	if (!ret->bytes)
		return fail_key(err, "bytes", "is 0");
	if (json_object_get(json, "fs_verity")) {
		r = get_sha256(json, "fs_verity", ret->verity, err);
		if (r < 0)
			return r;
	}
	ret->media = (enum cs_media)medium;
	ret->present = true;
	return 0;
}

/* A part's name is its file's name: so only those that are known, and no path. */
static int parse_parts(const json_t *json, struct cs_manifest *ret, struct cs_err *err)
{
	json_t *parts = json_object_get(json, "parts"), *part;
	const char *name;
	int r;

	if (!json_is_object(parts))
		return fail_key(err, "parts", parts ? "is no object" : "is missing");
	json_object_foreach(parts, name, part)
	{
		int i = 0;

		while (i < CS_PART_MAX && strcmp(name, part_names[i]))
			i++;
		if (i == CS_PART_MAX)
			return cs_fail(err, EBADMSG, CS_MANIFEST_FILE ": a part of unknown name");
		r = parse_part(part, (enum cs_part)i, &ret->part[i], err);
		if (r < 0)
			return cs_fail_in(err, r, "part '%s'", part_names[i]);
	}
	if (!ret->part[CS_PART_KERNEL].present && !ret->part[CS_PART_STATE].present)
		return cs_fail(err, EBADMSG, CS_MANIFEST_FILE ": neither a kernel nor a state");
	return 0;
}

/* How it was warmed; what a later clearstore or a user made is not known here. */
static int parse_warm(const json_t *saved, struct cs_manifest_saved *ret, struct cs_err *err)
{
	const json_t *warm = json_object_get(saved, "warm");
	int r;

	if (!warm)
		return 0;
	if (!json_is_object(warm))
		return fail_key(err, "warm", "is no object");
	r = get_text(warm, "run", ret->run, sizeof(ret->run), err);
	if (r == 0)
		r = get_text(warm, "ready", ret->ready, sizeof(ret->ready), err);
	ret->warmed = r == 0;
	return r;
}

/* A saved machine is memory, state and what it was: all of it, or nothing. */
static int parse_saved(const json_t *json, struct cs_manifest *ret, struct cs_err *err)
{
	const json_t *saved = json_object_get(json, "saved");
	uint64_t vcpus = 0;
	int r;

	if (ret->part[CS_PART_MEMORY].present != (saved != NULL) ||
	    ret->part[CS_PART_STATE].present != (saved != NULL))
		return fail_key(err, "saved", "needs the parts memory and state, and they need it");
	if (!saved)
		return 0;
	if (!json_is_object(saved))
		return fail_key(err, "saved", "is no object");
	r = get_u64(saved, "ram_bytes", BYTES_MAX, &ret->saved.ram_bytes, err);
	if (r == 0)
		r = get_u64(saved, "vcpus", VCPUS_MAX, &vcpus, err);
	if (r == 0)
		r = get_bool(saved, "disk", &ret->saved.disk, err);
	if (r == 0)
		r = parse_warm(saved, &ret->saved, err);
	if (r < 0)
		return cs_fail_in(err, r, "saved");
	if (ret->part[CS_PART_MEMORY].bytes != ret->saved.ram_bytes)
		return fail_key(err, "saved", "has not the size of the part memory");
	ret->saved.vcpus = (unsigned)vcpus;
	ret->saved.present = true;
	return 0;
}

/* What came later: an older clearstore has not written it. */
static int parse_parent(const json_t *json, struct cs_manifest *ret, struct cs_err *err)
{
	int r;

	if (!json_object_get(json, "parent"))
		return 0;
	r = get_text(json, "parent", ret->parent, sizeof(ret->parent), err);
	if (r == 0)
		r = cs_name_check("parent", ret->parent, err);
	if (r == 0)
		r = get_u64(json, "shared_bytes", BYTES_MAX, &ret->shared_bytes, err);
	return r == -EINVAL ? fail_key(err, "parent", "is no version") : r;
}

static int parse_all(const json_t *json, struct cs_manifest *ret, struct cs_err *err)
{
	char cmdline[CMDLINE_MAX];
	uint64_t created = 0;
	size_t format = 0;
	int r;

	r = get_u64(json, "created", TIME_MAX, &created, err);
	if (r == 0)
		r = get_name(json, "root_format", root_formats, 2, &format, err);
	if (r == 0)
		r = get_bool(json, "stock_kernel", &ret->stock_kernel, err);
	if (r == 0)
		r = get_text(json, "kernel_release", ret->kernel_release, CS_RELEASE_TEXT, err);
	if (r == 0)
		r = get_sha256(json, "agent_sha256", ret->agent_sha256, err);
	if (r == 0)
		r = get_u64(json, "input_bytes", UINT64_MAX / 2, &ret->input_bytes, err);
	if (r == 0)
		r = get_u64(json, "files", UINT64_MAX / 2, &ret->files, err);
	if (r == 0)
		r = get_text(json, "cmdline", cmdline, sizeof(cmdline), err);
	if (r == 0)
		r = parse_parts(json, ret, err);
	if (r == 0)
		r = parse_saved(json, ret, err);
	if (r == 0)
		r = parse_parent(json, ret, err);
	if (r < 0)
		return r;
	ret->created = (time_t)created;
	ret->root_format = (enum cs_root_format)format;
	ret->cmdline = strdup(cmdline);
	return ret->cmdline ? 0 : cs_fail_errno(err, ENOMEM, CS_MANIFEST_FILE);
}

int cs_manifest_parse(const char *text, size_t bytes, struct cs_manifest **ret, struct cs_err *err)
{
	cs_auto(cs_manifest_freep) struct cs_manifest *manifest = calloc(1, sizeof(*manifest));
	cs_auto(json_freep) json_t *json = NULL;
	json_error_t why;
	uint64_t format;
	int r;

	if (!manifest)
		return cs_fail_errno(err, ENOMEM, CS_MANIFEST_FILE);
	json = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
	if (!json_is_object(json))
		return cs_fail(err, EBADMSG, CS_MANIFEST_FILE ": not JSON (line %d)",
			       json ? 1 : why.line);
	r = get_u64(json, "format", INT32_MAX, &format, err);
	if (r < 0)
		return r;
	if (format > CS_MANIFEST_FORMAT)
		return cs_fail(err, EPROTO,
			       "made by a newer clearstore (format %u, this one knows %d): update "
			       "clearstore",
			       (unsigned)format, CS_MANIFEST_FORMAT);
	r = parse_all(json, manifest, err);
	if (r < 0)
		return r;
	*ret = cs_steal(manifest);
	return 0;
}

int cs_manifest_load(int dirfd, struct cs_manifest **ret, struct cs_err *err)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	size_t bytes;
	int r;

	r = cs_read_file_at(dirfd, CS_MANIFEST_FILE, FILE_MAX, &text, &bytes);
	if (r < 0)
		return cs_fail_errno(err, -r, CS_MANIFEST_FILE);
	return cs_manifest_parse(text, bytes, ret, err);
}

/* ---- writing ---- */

/* NULL: no memory, or a text that JSON cannot hold. */
static json_t *format_part(enum cs_part name, const struct cs_manifest_part *part)
{
	cs_auto(json_freep) json_t *json = NULL;

	json = json_pack("{s:I, s:I, s:s, s:s}", "bytes", (json_int_t)part->bytes, "stored_bytes",
			 (json_int_t)part->stored_bytes, digest_key(name), part->sha256, "media",
			 media[part->media]);
	if (part->media != CS_MEDIA_FILE &&
	    (json_object_set_new(json, "where", json_string(part->where)) < 0 ||
	     json_object_set_new(json, "offset", json_integer((json_int_t)part->offset)) < 0))
		return NULL;
	if (part->verity[0] &&
	    json_object_set_new(json, "fs_verity", json_string(part->verity)) < 0)
		return NULL;
	return cs_steal(json);
}

static int add_parts(json_t *json, const struct cs_manifest *manifest, struct cs_err *err)
{
	json_t *parts = json_object();

	if (json_object_set_new(json, "parts", parts) < 0)
		return cs_fail_errno(err, ENOMEM, CS_MANIFEST_FILE);
	for (int i = 0; i < CS_PART_MAX; i++) {
		if (manifest->part[i].present &&
		    json_object_set_new(parts, part_names[i],
					format_part((enum cs_part)i, &manifest->part[i])) < 0)
			return cs_fail(err, EINVAL,
				       CS_MANIFEST_FILE ": part '%s': cannot be written as JSON",
				       part_names[i]);
	}
	return 0;
}

static int add_optional(json_t *json, const struct cs_manifest *manifest)
{
	const struct cs_manifest_saved *saved = &manifest->saved;
	json_t *warm = NULL;

	if (saved->present && saved->warmed) {
		warm = json_pack("{s:s, s:s}", "run", saved->run, "ready", saved->ready);
		if (!warm)
			return -ENOMEM;
	}
	if (saved->present &&
	    json_object_set_new(json, "saved",
				json_pack("{s:I, s:i, s:b, s:o*}", "ram_bytes",
					  (json_int_t)saved->ram_bytes, "vcpus", (int)saved->vcpus,
					  "disk", saved->disk, "warm", warm)) < 0)
		return -ENOMEM;
	if (manifest->parent[0] &&
	    (json_object_set_new(json, "parent", json_string(manifest->parent)) < 0 ||
	     json_object_set_new(json, "shared_bytes",
				 json_integer((json_int_t)manifest->shared_bytes)) < 0))
		return -ENOMEM;
	return 0;
}

int cs_manifest_format(const struct cs_manifest *manifest, char **ret, struct cs_err *err)
{
	cs_auto(json_freep) json_t *json = NULL;
	json_error_t why;
	char *text;
	int r;

	json = json_pack_ex(&why, 0, "{s:i, s:I, s:s, s:b, s:s, s:s, s:s, s:I, s:I}", "format",
			    CS_MANIFEST_FORMAT, "created", (json_int_t)manifest->created,
			    "root_format", root_formats[manifest->root_format], "stock_kernel",
			    manifest->stock_kernel, "kernel_release", manifest->kernel_release,
			    "cmdline", manifest->cmdline, "agent_sha256", manifest->agent_sha256,
			    "input_bytes", (json_int_t)manifest->input_bytes, "files",
			    (json_int_t)manifest->files);
	if (!json)
		return cs_fail(err, EINVAL, CS_MANIFEST_FILE ": %.100s", why.text);
	r = add_parts(json, manifest, err);
	if (r < 0)
		return r;
	if (add_optional(json, manifest) < 0)
		return cs_fail_errno(err, ENOMEM, CS_MANIFEST_FILE);
	text = json_dumps(json, JSON_INDENT(2));
	if (!text)
		return cs_fail_errno(err, ENOMEM, CS_MANIFEST_FILE);
	*ret = text;
	return 0;
}

int cs_manifest_save(int dirfd, const struct cs_manifest *manifest, struct cs_err *err)
{
	cs_auto(cs_manifest_freep) struct cs_manifest *back = NULL;
	cs_auto(cs_mem_freep) char *text = NULL;
	struct cs_err why = { 0 };
	int r;

	r = cs_manifest_format(manifest, &text, err);
	if (r < 0)
		return r;
	/* what could not be read again would be published, and what it replaces deleted */
	if (cs_manifest_parse(text, strlen(text), &back, &why) < 0)
		return cs_fail(err, EINVAL, "%s", why.text);
	return cs_publish_at(dirfd, CS_MANIFEST_FILE, 0444, text, strlen(text), err);
}

/* Pages of a file are never merged, whatever it lies on; what a guest has written is a copy of its
 * own. Of those KSM looks at none in a mapping of DAX, and madvise() says nothing of it: Linux 6.12
 * mm/ksm.c, vma_ksm_compatible(). */
const char *cs_manifest_merges(const struct cs_manifest *manifest)
{
	if (!manifest->saved.present)
		return NULL;
	if (manifest->part[CS_PART_MEMORY].media != CS_MEDIA_FILE)
		return "no: the memory lies on DAX, where KSM looks at nothing, what guests have "
		       "written there included";
	return "yes: what guests have written is open to KSM";
}

struct cs_manifest *cs_manifest_copy(const struct cs_manifest *manifest)
{
	struct cs_manifest *copy = malloc(sizeof(*copy));

	if (!copy)
		return NULL;
	*copy = *manifest;
	copy->cmdline = strdup(manifest->cmdline);
	return copy->cmdline ? copy : cs_manifest_free(copy);
}

struct cs_manifest *cs_manifest_free(struct cs_manifest *manifest)
{
	if (!manifest)
		return NULL;
	free(manifest->cmdline);
	free(manifest);
	return NULL;
}
