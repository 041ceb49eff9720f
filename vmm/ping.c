/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/ping.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/queue.h>

#include "vmm/agent.h"
#include "vmm/control.h"

struct waiter {
	STAILQ_ENTRY(waiter) link;
	struct cs_control_client *client;
	bool asked; /* before the ping that is on its way: its answer is this one's too */
};

STAILQ_HEAD(waiters, waiter);

struct cs_pings {
	struct cs_agent *agent;
	struct waiters waiters; /* in the order in which they came: those asked for are first */
};

int cs_pings_create(struct cs_agent *agent, struct cs_pings **ret)
{
	struct cs_pings *pings = calloc(1, sizeof(*pings));

	if (!pings)
		return -ENOMEM;
	pings->agent = agent;
	STAILQ_INIT(&pings->waiters);
	*ret = pings;
	return 0;
}

/* Ask for all that wait. -EBUSY: when the last ping has been answered. */
static int ask(struct cs_pings *pings)
{
	struct waiter *waiter;
	int r = cs_agent_is_waking(pings->agent) ? 0 : cs_agent_ping(pings->agent);

	if (r < 0)
		return r;
	STAILQ_FOREACH(waiter, &pings->waiters, link)
	waiter->asked = true;
	return 0;
}

int cs_pings_begin(struct cs_pings *pings, struct cs_control_client *client, struct cs_err *err)
{
	struct waiter *waiter = calloc(1, sizeof(*waiter));
	int r;

	if (!waiter)
		return cs_fail_errno(err, ENOMEM, "cannot ask its agent");
	waiter->client = client;
	STAILQ_INSERT_TAIL(&pings->waiters, waiter, link);
	r = ask(pings);
	if (r == 0 || r == -EBUSY)
		return 0;
	STAILQ_REMOVE(&pings->waiters, waiter, waiter, link);
	free(waiter);
	if (r == -EOPNOTSUPP)
		return cs_fail(err, EOPNOTSUPP, "its agent is too old to be asked this way");
	return cs_fail(err, EAGAIN, "its agent does not serve (it may still boot)");
}

/* Answer those asked for, or with (why) everybody. */
static void answer(struct cs_pings *pings, const struct cs_err *why)
{
	struct waiter *waiter;

	while ((waiter = STAILQ_FIRST(&pings->waiters)) && (why || waiter->asked)) {
		struct cs_control_client *client = waiter->client;

		STAILQ_REMOVE_HEAD(&pings->waiters, link);
		free(waiter);
		cs_control_answer(client, "", why);
	}
}

void cs_pings_lost(struct cs_pings *pings)
{
	struct cs_err err = { 0 };

	cs_fail(&err, ENOTCONN, "its agent is gone");
	answer(pings, &err);
}

void cs_pings_answered(struct cs_pings *pings)
{
	answer(pings, NULL);
	if (!STAILQ_EMPTY(&pings->waiters) && ask(pings) < 0)
		cs_pings_lost(pings);
}

bool cs_pings_gone(struct cs_pings *pings, const struct cs_control_client *client)
{
	struct waiter *waiter;

	STAILQ_FOREACH(waiter, &pings->waiters, link)
	{
		if (waiter->client != client)
			continue;
		STAILQ_REMOVE(&pings->waiters, waiter, waiter, link);
		free(waiter);
		return true;
	}
	return false;
}

struct cs_pings *cs_pings_free(struct cs_pings *pings)
{
	struct waiter *waiter;

	if (!pings)
		return NULL;
	while ((waiter = STAILQ_FIRST(&pings->waiters))) {
		STAILQ_REMOVE_HEAD(&pings->waiters, link);
		free(waiter);
	}
	free(pings);
	return NULL;
}
