/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guests that the host has no memory for are not begun with. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "ksm/admit.h"
#include "ksm/meter.h"
#include "store/base/num.h"
#include "store/manifest.h"
#include "vmm/cmd-spawner.h"

/* To know what guests cost, a few will do: with thousands of them a look at each would take longer
 * than the spawn. */
#define MEASURED_MOST 16
#define LOOKED_AT     256

struct survey {
	const struct cs_card *like;
	struct cs_admit *admit;
	unsigned looked_at;
};

static int measure(const struct cs_card *card, void *arg)
{
	struct survey *survey = arg;
	const struct cs_card *like = survey->like;
	uint64_t bytes;

	if (card->state == CS_GUEST_RUNNING && card->ram_bytes == like->ram_bytes &&
	    card->resume == like->resume && strcmp(card->template, like->template) == 0 &&
	    strcmp(card->version, like->version) == 0 &&
	    cs_meter_private("/proc", card->pid, &bytes) == 0) {
		survey->admit->seen.private_bytes += bytes;
		survey->admit->seen.guests++;
	}
	return survey->admit->seen.guests == MEASURED_MOST || ++survey->looked_at == LOOKED_AT;
}

static int refuse(const struct cs_admit *admit, const struct cs_card *card, uint64_t count,
		  struct cs_err *err)
{
	const uint64_t each = cs_admit_each(admit), most = cs_admit_most(admit);
	char one[CS_BYTES_TEXT], free[CS_BYTES_TEXT], kept[CS_BYTES_TEXT];

	return cs_fail(err, ENOMEM,
		       "template '%s': no memory for %" PRIu64 " guest%s: one takes some %s (%s), "
		       "and the host has %s, of which %s stay free: %" PRIu64
		       " would do (--overcommit: all the same)",
		       card->template, count, count == 1 ? "" : "s", cs_format_bytes(each, one),
		       admit->seen.guests ? "measured" : "assumed",
		       cs_format_bytes(admit->available_bytes, free),
		       cs_format_bytes(cs_admit_reserve(admit->total_bytes), kept), most);
}

int cs_spawn_admit(const struct cs_spawn_session *session, struct cs_err *err)
{
	const struct cs_card *card = &session->card;
	struct cs_admit admit = {
		.total_bytes = cs_cmd_meminfo(AT_FDCWD, "MemTotal"),
		.available_bytes = cs_cmd_meminfo(AT_FDCWD, "MemAvailable"),
		.kind = {
			.ram_bytes = card->ram_bytes,
			.root_bytes =
				cs_template_manifest(session->template)->part[CS_PART_ROOT].bytes,
			.vcpus = card->vcpus,
			.warm = card->resume,
		},
	};
	struct survey survey = { .like = card, .admit = &admit };
	struct cs_host_kvm_info host;
	int r;

	/* Where KVM was not opened the dearer kind of paging is assumed. */
	admit.kind.shadow_paging = true;
	if (session->kvm) {
		cs_host_kvm_info(session->kvm, &host);
		admit.kind.shadow_paging = !host.nested_paging;
	}
	/* A host that does not tell is not in the way. */
	if (!admit.total_bytes || !admit.available_bytes || cs_admit_surely(&admit, session->count))
		return 0;
	r = cs_card_each(session->store, measure, &survey, err);
	if (r < 0)
		return r;
	return session->count <= cs_admit_most(&admit) ? 0
						       : refuse(&admit, card, session->count, err);
}
