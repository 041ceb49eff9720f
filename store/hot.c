/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/hot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/num.h"
#include "store/manifest.h"
#include "store/note.h"

#define CS_NOTE_HOT "hot"
#define HEAD        "clearstore-hot 1 "
#define LINE_BYTES  36 /* "wake-seen 4294967295 4294967295\n" */
#define TEXT_MAX                                                                                   \
	(sizeof(HEAD) + CS_DIGEST_TEXT + (size_t)CS_HOT_KINDS * CS_HOT_PAGES_MAX * LINE_BYTES)

static const char *const kind_name[] = {
	[CS_HOT_WAKE] = "wake",
	[CS_HOT_EXEC] = "exec",
	[CS_HOT_WAKE_SEEN] = "wake-seen",
	[CS_HOT_EXEC_SEEN] = "exec-seen",
};

/* ---- a list ---------------------------------------------------------------------------------- */

/* Another range, behind all that there are; the first and each power of two need more room. */
static struct cs_page_range *extend(struct cs_hot_list *list)
{
	struct cs_page_range *more;

	if (list->n & (list->n - 1))
		return &list->range[list->n++];
	more = realloc(list->range, (list->n ? 2 * list->n : 1) * sizeof(*more));
	if (!more)
		return NULL;
	list->range = more;
	return &list->range[list->n++];
}

static int append(struct cs_hot_list *list, uint32_t first, uint32_t pages)
{
	struct cs_page_range *range;

	if (pages > CS_HOT_PAGES_MAX - list->pages)
		return -E2BIG;
	range = extend(list);
	if (!range)
		return -ENOMEM;
	*range = (struct cs_page_range){ first, pages };
	list->pages += pages;
	return 0;
}

int cs_hot_add(struct cs_hot_list *list, uint32_t page)
{
	struct cs_page_range *last = list->n ? &list->range[list->n - 1] : NULL;

	if (!last || last->first + last->pages != page)
		return append(list, page, 1);
	if (list->pages >= CS_HOT_PAGES_MAX)
		return -E2BIG;
	last->pages++;
	list->pages++;
	return 0;
}

bool cs_hot_has(const struct cs_hot_list *list, uint64_t page)
{
	size_t from = 0, to = list->n;

	while (from < to) {
		const size_t at = from + (to - from) / 2;
		const struct cs_page_range *range = &list->range[at];

		if (page >= range->first && page - range->first < range->pages)
			return true;
		if (page < range->first)
			to = at;
		else
			from = at + 1;
	}
	return false;
}

void cs_hot_clear(struct cs_hot *hot)
{
	for (size_t kind = 0; kind < CS_HOT_KINDS; kind++)
		free(hot->list[kind].range);
	*hot = (struct cs_hot){ 0 };
}

/* ---- as text --------------------------------------------------------------------------------- */

int cs_hot_put(const struct cs_store *store, const struct cs_template *t, const struct cs_hot *hot,
	       struct cs_err *err)
{
	cs_auto(cs_mem_freep) char *text = malloc(TEXT_MAX);
	const char *digest = cs_template_digest(t, CS_PART_STATE);
	size_t used;

	if (!text)
		return cs_fail_errno(err, ENOMEM, "template '%s'", cs_template_name(t));
	if (!digest)
		return cs_fail(err, ENOENT, "template '%s': no saved machine", cs_template_name(t));
	used = (size_t)snprintf(text, TEXT_MAX, HEAD "%s\n", digest);
	for (size_t kind = 0; kind < CS_HOT_KINDS; kind++) {
		for (size_t i = 0; i < hot->list[kind].n; i++) {
			const struct cs_page_range *range = &hot->list[kind].range[i];

			used += (size_t)snprintf(text + used, TEXT_MAX - used, "%s %u %u\n",
						 kind_name[kind], range->first, range->pages);
		}
	}
	return cs_note_put(store, CS_NOTE_HOT, cs_template_name(t), cs_template_version(t), text,
			   err);
}

/* The next of the words that are parted by one (end) each, cut off; NULL: there is no such. */
static char *cut(char **rest, char end)
{
	char *word = *rest, *at = strchr(word, end);

	if (!at)
		return NULL;
	*at = '\0';
	*rest = at + 1;
	return word;
}

/* "wake FIRST PAGES": whole, behind the one before, and within (pages). */
static int parse_line(char *line, uint64_t pages, struct cs_hot *hot)
{
	const char *name = cut(&line, ' '), *at = name ? cut(&line, ' ') : NULL;
	struct cs_hot_list *list = NULL;
	uint64_t first, n, next = 0;
	int r;

	for (size_t kind = 0; at && kind < CS_HOT_KINDS; kind++) {
		if (strcmp(name, kind_name[kind]) == 0)
			list = &hot->list[kind];
	}
	if (!list || cs_parse_u64(at, UINT32_MAX, &first) < 0 ||
	    cs_parse_u64(line, CS_HOT_PAGES_MAX, &n) < 0 || n == 0)
		return -EBADMSG;
	if (list->n)
		next = (uint64_t)list->range[list->n - 1].first + list->range[list->n - 1].pages +
		       1;
	if (first < next || first + n > pages)
		return -EBADMSG;
	r = append(list, (uint32_t)first, (uint32_t)n);
	return r == -E2BIG ? -EBADMSG : r;
}

static int parse(char *text, const char *digest, uint64_t pages, struct cs_hot *hot)
{
	const char *head = cut(&text, '\n');
	char *line;
	int r = 0;

	if (!head || strncmp(head, HEAD, strlen(HEAD)) != 0)
		return -EBADMSG;
	if (strcmp(head + strlen(HEAD), digest) != 0)
		return -ENOENT;
	while (r == 0 && *text) {
		line = cut(&text, '\n');
		r = line ? parse_line(line, pages, hot) : -EBADMSG;
	}
	return r;
}

int cs_hot_get(const struct cs_store *store, const struct cs_template *t, struct cs_hot *ret)
{
	const char *digest = cs_template_digest(t, CS_PART_STATE);
	const uint64_t bytes = cs_template_manifest(t)->part[CS_PART_MEMORY].bytes;
	cs_auto(cs_mem_freep) char *text = NULL;
	int r;

	*ret = (struct cs_hot){ 0 };
	if (!digest)
		return -ENOENT;
	r = cs_note_get(store, CS_NOTE_HOT, cs_template_name(t), cs_template_version(t), TEXT_MAX,
			&text);
	if (r == 0)
		r = parse(text, digest, bytes / CS_PAGE_BYTES, ret);
	if (r < 0)
		cs_hot_clear(ret);
	return r;
}

void cs_hot_remove(const struct cs_store *store, const char *name, const char *version)
{
	cs_note_lift(store, CS_NOTE_HOT, name, version);
}
