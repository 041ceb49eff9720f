/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The monitor's end of the control connection with the guest's agent (wire.h). Everything that
 * comes from there is a guest's word: bounded, checked, and never believed further than its own
 * machine. All are called with the machine's lock held; callbacks come from the loop. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/own.h"
#include "vmm/guest/agent/wire.h"
#include "vmm/loop.h"
#include "vmm/machine.h"

struct cs_agent;

/* Any may be NULL. A callback must not free the agent. */
struct cs_agent_events {
	void (*ready)(void *arg);                   /* serving; again after a reboot inside */
	void (*exited)(void *arg, unsigned status); /* COMMAND ended: 0-255 */
	void (*bye)(void *arg,
		    enum cs_wire_stop reason); /* synced and unmounted: end the machine */
	/* Something for the user's eyes: one printable line, at most CS_AGENT_TROUBLE - 1 bytes of
	 * it; at most CS_AGENT_TROUBLES in the life of a machine. */
	void (*trouble)(void *arg, const char *text);
	void (*lost)(void *arg); /* the connection ended without a BYE, or was cut off */
	/* The answer to cs_agent_freeze(). 0: no process of the guest runs, until cs_agent_thaw();
	 * -errno: they all run, because the guest could not do it, is on its way down (-ECANCELED)
	 * or is no longer connected (-ENOTCONN; lost() follows). */
	void (*frozen)(void *arg, int error);
	void (*pong)(void *arg); /* the answer to cs_agent_ping() */
	/* What the machine's clock (kvmclock) shows, in ns; 0: that is not known. */
	uint64_t (*clock)(void *arg);
};

#define CS_AGENT_TROUBLE  400
#define CS_AGENT_TROUBLES 64u

struct cs_agent_spec {
	const struct cs_machine_agent *config; /* lent */
	const struct cs_agent_events *events;  /* lent */
	void *arg;                             /* of the callbacks */
};

/* -E2BIG: hostname, command and environment are too long for a message. */
int cs_agent_create(const struct cs_agent_spec *spec, struct cs_loop *loop, struct cs_agent **ret,
		    struct cs_err *err);

/* The guest connects to (port): our answer for cs_virtio_vsock_spec.serve: the device's end of a
 * socketpair, or -1: another port; or an agent is connected and alive. */
int cs_agent_serve(struct cs_agent *agent, uint32_t port);

/* The version of the protocol that the agent speaks, by its HELLO or cs_agent_expect(). */
uint32_t cs_agent_version(const struct cs_agent *agent);

/* It spoke (version) when it was saved: for cs_agent_resume(). */
void cs_agent_expect(struct cs_agent *agent, uint32_t version);

/* The machine goes on from a saved state, its control connection too: the device's end of a
 * socketpair on which the guest, frozen since it was saved, is going to be told who it is now.
 * -1: there is no memory for it, or an agent is connected. */
int cs_agent_resume(struct cs_agent *agent);

/* Tell it, unless that is done, with time and random bytes as of now; ready() follows. */
void cs_agent_wake(struct cs_agent *agent);

/* Ask the agent to stop or reboot the guest, (grace_ms) between SIGTERM and SIGKILL of what runs
 * there. Kept until the agent has said HELLO when it has not so far: then -EAGAIN. The latest
 * counts. */
int cs_agent_stop(struct cs_agent *agent, enum cs_wire_stop how, uint32_t grace_ms);

/* Ask the agent to freeze all processes of the guest, with CS_WIRE_FREEZE_* in (flags). 0: frozen()
 * will be called, once, unless cs_agent_thaw() comes first. A stop that is asked for while the
 * guest is frozen waits for the thaw. -ENOTCONN: no agent has said READY; -EBUSY: it is frozen or
 * about to be, or on its way down; -EOPNOTSUPP: the agent in this guest's template is too old to
 * know how. */
int cs_agent_freeze(struct cs_agent *agent, uint32_t flags);

/* Let them run again, or forget about a freeze that has not been answered: frozen() will not be
 * called for it. Harmless when nothing is frozen. -ENOTCONN: nobody is there to be told: an agent
 * that connects again thaws by itself. */
int cs_agent_thaw(struct cs_agent *agent);

/* Ask it for a sign of life: pong() will be called, once, or lost() before. -ENOTCONN: no agent has
 * said READY; -EBUSY: the last one is not answered yet; -EOPNOTSUPP: it is too old to know how. */
int cs_agent_ping(struct cs_agent *agent);

/* The agent has said READY and is still connected. */
bool cs_agent_is_ready(const struct cs_agent *agent);

/* It has been sent its CONFIG, or is owed it, and will answer with READY: it is about to serve. */
bool cs_agent_is_waking(const struct cs_agent *agent);

struct cs_agent *cs_agent_free(struct cs_agent *agent);
CS_DEFINE_AUTO(cs_agent);
