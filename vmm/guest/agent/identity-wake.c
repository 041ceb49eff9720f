/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The same guest a second time is another guest: clock, seed and names of its own, before any of
 * its processes runs on. What is written then is looked up and opened before, while nobody waits.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "vmm/guest/agent/agent.h"
#include "vmm/guest/agent/file.h"

/* Of the line that goes into /etc/hosts. */
#define OWN_ADDRESS "127.0.1.1"
/* Of such a line, a newline in front of it, and a NUL: more than it needs. */
#define OWN_LINE_BYTES 100

/* ---- before ---- */

static void let_go(struct cs_held *h)
{
	if (h->fd >= 0)
		close(h->fd);
	*h = (struct cs_held)CS_HELD_NONE;
}

/* Open (path) for writing. Its text, the caller's to free(); NULL: it is not there. */
static char *hold(struct cs_agent *a, struct cs_held *h, const char *path)
{
	char *text;

	h->fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (h->fd < 0) {
		if (errno != ENOENT)
			cs_agent_say(a, "%s will stay as it is: %s", path, strerror(errno));
		return NULL;
	}

	text = cs_file_read(h->fd);
	if (!text) {
		cs_agent_say(a, "%s will stay as it is: cannot read it", path);
		let_go(h);
		return NULL;
	}
	h->bytes = strlen(text);
	return text;
}

/* The kernel makes up its boot id once, and it would be the same in all clones. Something else can
 * only be put over it: a file with the same text, that we keep open. Nobody in this guest sees a
 * difference before it wakes up as another one. */
static void cover_boot_id(struct cs_agent *a)
{
	static const char path[] = "/proc/sys/kernel/random/boot_id",
			  cover[] = "/run/.clearstore-boot-id";
	struct cs_held *h = &a->wake.boot_id;
	char *now = h->fd < 0 ? cs_file_load(path) : NULL;

	if (!now)
		return;

	unlink(cover);
	h->bytes = strlen(now);
	h->fd = open(cover, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
	if (h->fd < 0 || cs_file_write_all(h->fd, now, h->bytes) < 0 ||
	    mount(cover, path, NULL, MS_BIND, NULL) < 0) {
		cs_agent_say(a, "the boot id will stay as it is: %s", strerror(errno));
		let_go(h);
	}
	unlink(cover);
	free(now);
}

/* Where our own name stands in the text of /etc/hosts: in the line that was added at boot. */
static void find_own(struct cs_wake *w, const char *name)
{
	const size_t address = sizeof(OWN_ADDRESS) - 1, bytes = strlen(name);

	for (const char *line = w->hosts_text; bytes && line && *line;) {
		const char *at = line + address, *end = strchrnul(line, '\n');

		if (!strncmp(line, OWN_ADDRESS, address) && strchr(" \t", *at)) {
			at += strspn(at, " \t");
			if (strcspn(at, " \t\n") == bytes && !memcmp(at, name, bytes)) {
				w->own_at = (size_t)(at - w->hosts_text);
				w->own = bytes;
			}
		}
		line = *end ? end + 1 : NULL;
	}
}

static void prepare_hosts(struct cs_agent *a)
{
	struct cs_wake *w = &a->wake;
	char *text = hold(a, &w->hosts, "/etc/hosts");

	/* With room for what comes, so that nothing is asked of the kernel for it then. */
	w->hosts_text = text ? realloc(text, w->hosts.bytes + OWN_LINE_BYTES) : NULL;
	if (w->hosts_text) {
		find_own(w, a->config.hostname);
		return;
	}
	free(text);
	let_go(&w->hosts);
}

void cs_identity_prepare(struct cs_agent *a)
{
	struct cs_wake *w = &a->wake;
	struct utsname names;
	char *text;

	cover_boot_id(a);
	prepare_hosts(a);
	text = hold(a, &w->hostname, "/etc/hostname");
	snprintf(w->name, sizeof(w->name), "%s", text ? text : "");
	free(text);
	free(hold(a, &w->machine_id, "/etc/machine-id"));
	if (!uname(&names))
		snprintf(w->node, sizeof(w->node), "%.64s", names.nodename);
}

void cs_wake_close(struct cs_agent *a)
{
	struct cs_wake *w = &a->wake;

	let_go(&w->hostname);
	let_go(&w->hosts);
	let_go(&w->machine_id);
	free(w->hosts_text);
	w->hosts_text = NULL;
	w->own_at = w->own = 0;
	for (char **hook = w->hooks; hook && *hook; hook++)
		free(*hook);
	free(w->hooks);
	w->hooks = NULL;
	if (w->socket >= 0)
		close(w->socket);
	w->socket = -1;
}

/* ---- then ---- */

/* The file is (text) now; it is different from byte (from) on. */
static void rewrite(struct cs_agent *a, struct cs_held *h, const char *text, size_t from)
{
	const size_t n = strlen(text);

	if (h->fd < 0)
		return;
	if (pwrite(h->fd, text + from, n - from, (off_t)from) != (ssize_t)(n - from) ||
	    (n < h->bytes && ftruncate(h->fd, (off_t)n) < 0))
		cs_agent_trouble(a, "cannot write a file of /etc: %s", strerror(errno));
	h->bytes = n;
}

static void rename_in_hosts(struct cs_agent *a)
{
	struct cs_wake *w = &a->wake;
	const char *name = a->config.hostname;
	const size_t bytes = strlen(name);
	char *text = w->hosts_text, *at = text + w->own_at;

	if (!text || cs_identity_has_name(text, name))
		return;

	if (w->own) {
		memmove(at + bytes, at + w->own, strlen(at + w->own) + 1);
		memcpy(at, name, bytes);
	} else {
		w->own_at = strlen(text);
		at = text + w->own_at;
		snprintf(at, OWN_LINE_BYTES, "%s" OWN_ADDRESS "\t%s\n",
			 w->own_at && at[-1] != '\n' ? "\n" : "", name);
	}
	rewrite(a, &w->hosts, text, w->own_at);
}

static void rename_guest(struct cs_agent *a)
{
	struct cs_wake *w = &a->wake;
	const char *name = a->config.hostname;
	char text[sizeof(w->name)];

	if (!*name)
		return;
	if (strcmp(w->node, name) && sethostname(name, strlen(name)) < 0)
		cs_agent_trouble(a, "cannot set the host name: %s", strerror(errno));
	snprintf(w->node, sizeof(w->node), "%s", name);

	snprintf(text, sizeof(text), "%s\n", name);
	if (strcmp(w->name, text))
		rewrite(a, &w->hostname, text, 0);
	memcpy(w->name, text, sizeof(text));
	rename_in_hosts(a);
}

static void renew_ids(struct cs_agent *a)
{
	char text[38];

	cs_identity_uuid(a->config.boot_id, true, text);
	rewrite(a, &a->wake.boot_id, text, 0);
	cs_identity_uuid(a->config.machine_id, false, text);
	rewrite(a, &a->wake.machine_id, text, 0);
}

void cs_identity_settle(struct cs_agent *a)
{
	if (!a->wake.owed)
		return;

	a->wake.owed = false;
	rename_guest(a);
	if (!(a->config.flags & CS_WIRE_CONFIG_SAME))
		renew_ids(a);
}

void cs_identity_wake(struct cs_agent *a)
{
	cs_identity_seed(a);
	cs_identity_clock(a);
	/* With nobody there this is for whoever comes first, and a guest that only waits is spared
	 * the time and the memory. */
	a->wake.owed = true;
	if (!a->freezer.empty)
		cs_identity_settle(a);
}
