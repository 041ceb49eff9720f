/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Signs of life of a guest, for the clients of its machine's control socket: by the connection that
 * its agent keeps with the monitor anyway. All are called in the loop thread, lock held. */
#pragma once

#include <stdbool.h>

#include "store/base/err.h"
#include "store/base/own.h"

struct cs_agent;
struct cs_control_client;
struct cs_pings;

/* Nobody waits so far. (agent) is lent. -ENOMEM. */
int cs_pings_create(struct cs_agent *agent, struct cs_pings **ret);

/* (client) gets its answer when the agent has answered what is asked from now on, or, while it is
 * about to serve, when it has said that it does: that answers the CONFIG it has been sent, and a
 * guest that has just been restored is spared a second question. -EAGAIN: it does not serve (so
 * far); -EOPNOTSUPP: it is too old to be asked this way. */
int cs_pings_begin(struct cs_pings *pings, struct cs_control_client *client, struct cs_err *err);

/* The agent has answered, be it that it serves from now on; or it will not, it is gone. */
void cs_pings_answered(struct cs_pings *pings);
void cs_pings_lost(struct cs_pings *pings);

/* (client) waits no longer. False: it did not. */
bool cs_pings_gone(struct cs_pings *pings, const struct cs_control_client *client);

struct cs_pings *cs_pings_free(struct cs_pings *pings);
CS_DEFINE_AUTO(cs_pings);
