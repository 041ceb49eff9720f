/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What card.c and card-json.c know of each other: a card as text (docs/formats-card.md). */
#pragma once

#include <stddef.h>

#include "cow/card.h"

#define CS_CARD_FILE "card.json"

/* *ret, which the caller frees, is the text of (card). -EINVAL, -E2BIG with words. */
int cs_card_encode(const struct cs_card *card, char **ret, size_t *ret_bytes, struct cs_err *err);

/* Read a card that is to be the one of (guest). -EBADMSG, -EPROTO with words that name the member.
 */
int cs_card_decode(const char *guest, const char *text, size_t bytes, struct cs_card **ret,
		   struct cs_err *err);

/* Load the card from the guest's folder (dirfd) and judge. (lent) is cs_store_guests_fd(). */
int cs_card_load_at(int guests_fd, int dirfd, const char *guest, struct cs_card **ret,
		    struct cs_err *err);
