/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A card as text; docs/formats-card.md describes it. */
#include "cow/card-private.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/name.h"
#include "store/base/num.h"

#define FORMAT  1         /* of card.json */
#define PID_END (1 << 22) /* PID_MAX_LIMIT of include/linux/threads.h, 64 bits */

static inline void json_freep(json_t **json)
{
	json_decref(*json);
}

/* ---- writing ------------------------------------------------------------------------------- */

/* A string; one that is not UTF-8, which JSON cannot hold, as {"bytes": "<hex>"}. NULL: no memory.
 */
static json_t *encode_text(const char *text)
{
	static const char digits[] = "0123456789abcdef";
	cs_auto(cs_mem_freep) char *hex = NULL;
	json_t *json = json_string(text);
	size_t length = strlen(text);

	if (json)
		return json;
	hex = calloc(length + 1, 2);
	if (!hex)
		return NULL;
	for (size_t i = 0; i < length; i++) {
		hex[i * 2] = digits[(unsigned char)text[i] >> 4];
		hex[i * 2 + 1] = digits[(unsigned char)text[i] & 15];
	}
	return json_pack("{s:s}", "bytes", hex);
}

static json_t *encode_optional(const char *text)
{
	return text ? encode_text(text) : json_null();
}

static json_t *encode_vector(char *const *vector)
{
	cs_auto(json_freep) json_t *array = NULL;

	if (!vector)
		return json_null();
	array = json_array();
	for (; *vector; vector++) {
		if (json_array_append_new(array, encode_text(*vector)) < 0)
			return NULL;
	}
	return cs_steal(array);
}

static json_t *encode_process(pid_t pid, uint64_t start_ticks)
{
	return json_pack("{s:i, s:I}", "pid", (int)pid, "start_ticks", (json_int_t)start_ticks);
}

static json_t *encode_card(const struct cs_card *card)
{
	cs_auto(json_freep) json_t *json = json_pack(
		"{s:i, s:s, s:s, s:s, s:I, s:I, s:I, s:b, s:b, s:b, s:b, s:I, s:I}", "format",
		FORMAT, "guest", card->guest, "template", card->template, "version", card->version,
		"ram_bytes", (json_int_t)card->ram_bytes, "disk_bytes",
		(json_int_t)card->disk_bytes, "vcpus", (json_int_t)card->vcpus, "persist",
		card->persist, "run_init", card->run_init, "resume", card->resume, "remove_on_exit",
		card->remove_on_exit, "created", (json_int_t)card->created, "started",
		(json_int_t)card->started);

	if (json_object_set_new(json, "command", encode_vector(card->command)) < 0 ||
	    json_object_set_new(json, "env", encode_vector(card->env)) < 0 ||
	    json_object_set_new(json, "append", encode_optional(card->append)) < 0 ||
	    json_object_set_new(
		    json, "share_domain",
		    encode_optional(card->share_domain[0] ? card->share_domain : NULL)) < 0 ||
	    json_object_set_new(json, "boot", json_string(card->boot)) < 0 ||
	    json_object_set_new(json, "monitor", encode_process(card->pid, card->pid_start_ticks)) <
		    0 ||
	    json_object_set_new(json, "owner",
				encode_process(card->owner_pid, card->owner_start_ticks)) < 0)
		return NULL;
	return cs_steal(json);
}

/* What the reader would refuse must not be written. */
static int check(const struct cs_card *card, struct cs_err *err)
{
	int r;

	r = cs_name_check("guest", card->guest, err);
	if (r == 0)
		r = cs_name_check("template", card->template, err);
	if (r == 0)
		r = cs_name_check("version", card->version, err);
	if (r == 0 && card->share_domain[0])
		r = cs_name_check("share domain", card->share_domain, err);
	if (r < 0)
		return r;
	if (card->vcpus < 1 || card->vcpus > CS_CARD_VCPUS_MAX)
		return cs_fail(err, EINVAL, "guest '%s': %u vCPUs: not 1 to %d", card->guest,
			       card->vcpus, CS_CARD_VCPUS_MAX);
	if (card->ram_bytes > INT64_MAX || card->disk_bytes > INT64_MAX || card->created < 0 ||
	    card->started < 0 || card->pid < 0 || card->pid >= PID_END || card->owner_pid < 0 ||
	    card->owner_pid >= PID_END || card->pid_start_ticks > INT64_MAX ||
	    card->owner_start_ticks > INT64_MAX)
		return cs_fail(err, EINVAL, "guest '%s': a number is out of range", card->guest);
	return 0;
}

int cs_card_encode(const struct cs_card *card, char **ret, size_t *ret_bytes, struct cs_err *err)
{
	cs_auto(json_freep) json_t *json = NULL;
	cs_auto(cs_mem_freep) char *text = NULL;
	size_t bytes;
	int r;

	r = check(card, err);
	if (r < 0)
		return r;
	json = encode_card(card);
	text = json ? json_dumps(json, JSON_INDENT(1)) : NULL;
	if (!text)
		return cs_fail_errno(err, ENOMEM, "guest '%s'", card->guest);
	bytes = strlen(text);
	if (bytes > CS_CARD_BYTES_MAX)
		return cs_fail(err, E2BIG,
			       "guest '%s': command, environment and kernel command line are over "
			       "%u KiB (put them into a file of the template)",
			       card->guest, (unsigned)(CS_CARD_BYTES_MAX / CS_KIB));
	*ret = cs_steal(text);
	*ret_bytes = bytes;
	return 0;
}

/* ---- reading: the first member that is wrong sticks ---------------------------------------- */

struct reader {
	const json_t *object;
	const char *wrong; /* a member's name; NULL: all well so far */
	bool no_memory;
};

static const json_t *member(struct reader *reader, const char *key)
{
	const json_t *json = json_object_get(reader->object, key);

	if (!json && !reader->wrong)
		reader->wrong = key;
	return json;
}

static uint64_t read_number(struct reader *reader, const char *key, uint64_t max)
{
	const json_t *json = member(reader, key);

	if (json && json_is_integer(json) && json_integer_value(json) >= 0 &&
	    (uint64_t)json_integer_value(json) <= max)
		return (uint64_t)json_integer_value(json);
	if (!reader->wrong)
		reader->wrong = key;
	return 0;
}

static bool read_bool(struct reader *reader, const char *key)
{
	const json_t *json = member(reader, key);

	if (json && !json_is_boolean(json) && !reader->wrong)
		reader->wrong = key;
	return json && json_is_true(json);
}

/* Hex digits and dashes, as the host gives it out; empty before the first start. */
static void read_boot(struct reader *reader, char boot[CS_BOOT_ID_ROOM])
{
	const json_t *json = member(reader, "boot");
	const char *text = json ? json_string_value(json) : NULL;

	if (text && strlen(text) < CS_BOOT_ID_ROOM &&
	    strspn(text, "0123456789abcdef-") == strlen(text))
		memcpy(boot, text, strlen(text) + 1);
	else if (!reader->wrong)
		reader->wrong = "boot";
}

static void read_name(struct reader *reader, const char *key, char *name, size_t room)
{
	const json_t *json = member(reader, key);
	const char *text = json ? json_string_value(json) : NULL;

	if (text && strlen(text) < room && cs_name_check(key, text, NULL) == 0)
		memcpy(name, text, strlen(text) + 1);
	else if (!reader->wrong)
		reader->wrong = key;
}

/* Two hex digits at (hex), which ends with NUL; no byte of a C string is 0, so neither is ours. */
static uint64_t hex_byte(const char *hex)
{
	const char pair[3] = { hex[0], hex[0] ? hex[1] : '\0', '\0' };
	uint64_t byte = 0;

	if (!pair[1] || pair[1] == 'x' || pair[1] == 'X' || cs_parse_hex(pair, 255, &byte) < 0)
		return 0;
	return byte;
}

static char *decode_text(struct reader *reader, const char *key, const json_t *json)
{
	const char *text = json_string_value(json);
	const char *hex = text ? NULL : json_string_value(json_object_get(json, "bytes"));
	size_t length = 0;
	uint64_t byte;
	char *copy;

	if (!text && !hex) {
		reader->wrong = reader->wrong ?: key;
		return NULL;
	}
	copy = text ? strdup(text) : malloc(strlen(hex) / 2 + 1);
	if (!copy) {
		reader->no_memory = true;
		return NULL;
	}
	for (; hex && *hex; hex += 2) {
		byte = hex_byte(hex);
		if (!byte) {
			reader->wrong = reader->wrong ?: key;
			free(copy);
			return NULL;
		}
		copy[length++] = (char)byte;
	}
	if (hex)
		copy[length] = '\0';
	return copy;
}

static char *read_optional(struct reader *reader, const char *key)
{
	const json_t *json = member(reader, key);

	return json && !json_is_null(json) ? decode_text(reader, key, json) : NULL;
}

/* What was read so far stays in the vector, for cs_card_free(), also when a later one is wrong. */
static char **read_vector(struct reader *reader, const char *key)
{
	const json_t *json = member(reader, key);
	size_t n = json_array_size(json);
	char **vector;

	if (!json || json_is_null(json))
		return NULL;
	if (!json_is_array(json)) {
		reader->wrong = reader->wrong ?: key;
		return NULL;
	}
	vector = calloc(n + 1, sizeof(*vector));
	if (!vector) {
		reader->no_memory = true;
		return NULL;
	}
	for (size_t i = 0; i < n; i++) {
		vector[i] = decode_text(reader, key, json_array_get(json, i));
		if (!vector[i])
			break;
	}
	return vector;
}

static pid_t read_process(struct reader *reader, const char *key, uint64_t *ret_ticks)
{
	struct reader inner = { .object = member(reader, key) };
	pid_t pid = (pid_t)read_number(&inner, "pid", PID_END - 1);

	*ret_ticks = read_number(&inner, "start_ticks", INT64_MAX);
	if (inner.wrong && !reader->wrong)
		reader->wrong = key;
	return pid;
}

static void read_card(struct reader *reader, struct cs_card *card)
{
	read_name(reader, "guest", card->guest, sizeof(card->guest));
	read_name(reader, "template", card->template, sizeof(card->template));
	read_name(reader, "version", card->version, sizeof(card->version));
	/* Cards of before there were domains have none: those guests share nothing. */
	if (!json_is_null(json_object_get(reader->object, "share_domain")) &&
	    json_object_get(reader->object, "share_domain"))
		read_name(reader, "share_domain", card->share_domain, sizeof(card->share_domain));
	card->ram_bytes = read_number(reader, "ram_bytes", INT64_MAX);
	card->disk_bytes = read_number(reader, "disk_bytes", INT64_MAX);
	card->vcpus = (unsigned)read_number(reader, "vcpus", CS_CARD_VCPUS_MAX);
	card->persist = read_bool(reader, "persist");
	card->run_init = read_bool(reader, "run_init");
	card->resume = read_bool(reader, "resume");
	card->remove_on_exit = read_bool(reader, "remove_on_exit");
	card->created = (time_t)read_number(reader, "created", INT64_MAX);
	card->started = (time_t)read_number(reader, "started", INT64_MAX);
	card->command = read_vector(reader, "command");
	card->env = read_vector(reader, "env");
	card->append = read_optional(reader, "append");
	read_boot(reader, card->boot);
	card->pid = read_process(reader, "monitor", &card->pid_start_ticks);
	card->owner_pid = read_process(reader, "owner", &card->owner_start_ticks);
	if (card->vcpus < 1 && !reader->wrong)
		reader->wrong = "vcpus";
}

int cs_card_decode(const char *guest, const char *text, size_t bytes, struct cs_card **ret,
		   struct cs_err *err)
{
	cs_auto(json_freep) json_t *json = NULL;
	cs_auto(cs_card_freep) struct cs_card *card = NULL;
	json_error_t error;
	struct reader reader;
	uint64_t format;

	json = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
	if (!json)
		return cs_fail(err, EBADMSG,
			       "guest '%s': %s: broken at line %d (clearstore remove %s)", guest,
			       CS_CARD_FILE, error.line, guest);
	reader = (struct reader){ .object = json };
	format = read_number(&reader, "format", INT64_MAX);
	if (!format && !reader.wrong)
		reader.wrong = "format";
	if (!reader.wrong && format > FORMAT)
		return cs_fail(err, EPROTO,
			       "guest '%s': made by a newer clearstore (format %llu, known is %d)",
			       guest, (unsigned long long)format, FORMAT);
	card = calloc(1, sizeof(*card));
	if (!card)
		return cs_fail_errno(err, ENOMEM, "guest '%s'", guest);
	read_card(&reader, card);
	if (reader.no_memory)
		return cs_fail_errno(err, ENOMEM, "guest '%s'", guest);
	if (!reader.wrong && strcmp(card->guest, guest) != 0)
		reader.wrong = "guest";
	if (reader.wrong)
		return cs_fail(err, EBADMSG,
			       "guest '%s': %s: '%s' is missing or wrong (clearstore remove %s)",
			       guest, CS_CARD_FILE, reader.wrong, guest);
	*ret = cs_steal(card);
	return 0;
}
