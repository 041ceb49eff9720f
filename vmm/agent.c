/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/agent.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>

#include "store/base/text.h"
#include "vmm/message.h"

#define ERRNO_MOST 4095 /* of the kernel: its error pointers have no room for more */
#define READ_BYTES 4096 /* at once: a guest that floods us gets its turn again after the others */

enum stage {                 /* of the control connection; each message is legal in some */
	     STAGE_NONE = 1, /* not connected */
	     STAGE_SILENT = 2,
	     STAGE_HELLO = 4, /* it has its CONFIG */
	     STAGE_READY = 8,
	     STAGE_EXITED = 16, /* ready, and COMMAND has ended */
	     STAGE_BYE = 32,
};

enum freeze {
	FREEZE_NONE,
	FREEZE_ASKED,
	FREEZE_DROPPED, /* asked, and not wanted any more: the answer will still come */
	FREEZE_DONE,
};

struct cs_agent {
	struct cs_agent_spec spec;
	struct cs_agent_events on;
	struct cs_loop *loop;
	int fd; /* -1: not connected */
	struct cs_watch *watch;
	enum stage stage;
	unsigned troubles;

	/* The message that is coming in: its head, then its payload, of which the start is kept. */
	struct cs_wire_head head;
	size_t head_bytes, payload_bytes;
	char payload[CS_AGENT_TROUBLE];

	enum freeze freeze;
	bool going_down;  /* it has been sent STOP */
	uint32_t version; /* of HELLO */

	/* What goes out: one message at a time, what is owed behind it. */
	struct cs_message *out;
	const char *out_at;
	size_t out_left;
	bool config_owed; /* to a guest that was resumed: as of when it is sent */
	bool thaw_owed, freeze_owed, stop_owed, ping_owed;
	bool pinged; /* and not answered so far */
	uint32_t freeze_flags;
	uint32_t stop[2]; /* payload of STOP */
};

static void disconnect(struct cs_agent *agent)
{
	agent->watch = cs_watch_free(agent->watch);
	cs_fd_closep(&agent->fd);
	agent->stage = STAGE_NONE;
	agent->head_bytes = agent->payload_bytes = 0;
	agent->out = cs_message_free(agent->out);
	agent->out_left = 0;
	agent->freeze = FREEZE_NONE;
	agent->going_down = agent->config_owed = agent->thaw_owed = agent->freeze_owed = false;
	agent->pinged = agent->ping_owed = false;
}

static void lose(struct cs_agent *agent)
{
	const bool expected = agent->stage == STAGE_BYE;
	const bool unanswered = agent->freeze == FREEZE_ASKED;

	disconnect(agent);
	if (unanswered && agent->on.frozen)
		agent->on.frozen(agent->spec.arg, -ENOTCONN);
	if (!expected && agent->on.lost)
		agent->on.lost(agent->spec.arg);
}

/* ---- out */

static size_t config_bytes(uint32_t version)
{
	return version < 2   ? CS_WIRE_CONFIG_1
	       : version < 4 ? CS_WIRE_CONFIG_2
			     : sizeof(struct cs_wire_config);
}

static uint64_t clock_now(const struct cs_agent_spec *spec)
{
	return htole64(spec->events->clock ? spec->events->clock(spec->arg) : 0);
}

/* CONFIG as of now. NULL: no memory, or it does not fit (which create() has tried). */
static struct cs_message *make_config(const struct cs_agent_spec *spec, uint32_t version)
{
	const struct cs_machine_agent *config = spec->config;
	struct cs_message *message = cs_message_create(CS_WIRE_CONFIG);
	struct cs_wire_config fixed;
	struct timespec now;

	if (!message)
		return NULL;
	/* Seed and ids; what is not random in it is put over that. Up to 256 bytes come whole and
	 * without a wait once the pool is up (getrandom(2)). */
	if (getrandom(&fixed, sizeof(fixed), 0) != sizeof(fixed))
		return cs_message_free(message);
	fixed.clock_ns = clock_now(spec);
	clock_gettime(CLOCK_REALTIME, &now);
	fixed.realtime_ns =
		htole64((uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec);
	fixed.flags = htole32((config->persist ? CS_WIRE_CONFIG_PERSIST : 0u) |
			      (config->run_init ? CS_WIRE_CONFIG_INIT : 0u) |
			      (config->same ? CS_WIRE_CONFIG_SAME : 0u));
	fixed.reserved = 0;
	cs_message_bytes(message, &fixed, config_bytes(version));
	cs_message_string(message, config->hostname);
	cs_message_list(message, config->command);
	cs_message_list(message, config->env);
	return message;
}

static struct cs_message *make(enum cs_wire_type type, const void *payload, size_t bytes)
{
	struct cs_message *message = cs_message_create(type);

	if (message && bytes)
		cs_message_bytes(message, payload, bytes);
	return message;
}

/* FREEZE as of now. */
static struct cs_message *make_freeze(const struct cs_agent *agent)
{
	const struct cs_wire_freeze freeze = {
		.flags = htole32(agent->freeze_flags),
		.clock_ns = clock_now(&agent->spec),
	};

	return make(CS_WIRE_FREEZE, &freeze,
		    agent->version < 5 ? CS_WIRE_FREEZE_2 : sizeof(freeze));
}

static bool put_out(struct cs_agent *agent, struct cs_message *message)
{
	const void *at;

	agent->out = message;
	if (!message || cs_message_end(message, &at, &agent->out_left) < 0)
		return false;
	agent->out_at = at;
	return true;
}

/* The next message that is owed becomes (out), if there is one. False: no memory. */
static bool put_owed(struct cs_agent *agent)
{
	if (agent->stage < STAGE_HELLO)
		return true;

	if (agent->config_owed) {
		agent->config_owed = false;
		return put_out(agent, make_config(&agent->spec, agent->version));
	}
	/* In this order: a FREEZE behind which a THAW is owed has been taken back instead. */
	if (agent->thaw_owed) {
		agent->thaw_owed = false;
		return put_out(agent, make(CS_WIRE_THAW, NULL, 0));
	}
	if (agent->freeze_owed) {
		agent->freeze_owed = false;
		return put_out(agent, make_freeze(agent));
	}
	if (agent->ping_owed) {
		agent->ping_owed = false;
		return put_out(agent, make(CS_WIRE_PING, NULL, 0));
	}
	/* A picture taken of a guest that has been told to stop would stop when it wakes up. */
	if (agent->stop_owed && agent->freeze != FREEZE_DONE) {
		agent->stop_owed = false;
		agent->going_down = true;
		return put_out(agent, make(CS_WIRE_STOP, agent->stop, sizeof(agent->stop)));
	}
	return true;
}

/* As much as the connection takes. False: it is no good any more. */
static bool flush(struct cs_agent *agent)
{
	for (;;) {
		ssize_t n;

		if (!agent->out_left) {
			agent->out = cs_message_free(agent->out);
			if (!put_owed(agent))
				return false;
			if (!agent->out_left)
				return cs_watch_set(agent->watch, EPOLLIN) == 0;
		}
		n = send(agent->fd, agent->out_at, agent->out_left, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return cs_watch_set(agent->watch, EPOLLIN | EPOLLOUT) == 0;
		if (n < 0)
			return false;
		agent->out_at += n;
		agent->out_left -= (size_t)n;
	}
}

/* ---- in */

static void tell_trouble(struct cs_agent *agent, const char *text)
{
	if (agent->troubles++ < CS_AGENT_TROUBLES && agent->on.trouble)
		agent->on.trouble(agent->spec.arg, text);
}

static bool on_hello(struct cs_agent *agent, uint32_t version)
{
	char text[CS_AGENT_TROUBLE];

	if (version < CS_WIRE_OLDEST || version > CS_WIRE_VERSION) {
		snprintf(text, sizeof(text),
			 "the agent in its template speaks version %u of the protocol, this "
			 "clearstore version %u (make the template again)",
			 version, CS_WIRE_VERSION);
		tell_trouble(agent, text);
		return false;
	}
	agent->version = version;
	agent->stage = STAGE_HELLO;
	return put_out(agent, make_config(&agent->spec, version)) && flush(agent);
}

static bool on_ready(struct cs_agent *agent, uint32_t value)
{
	agent->stage = STAGE_READY;
	if (agent->on.ready)
		agent->on.ready(agent->spec.arg);
	return true;
}

static bool on_exited(struct cs_agent *agent, uint32_t status)
{
	if (status > 255)
		return false;
	agent->stage = STAGE_EXITED;
	if (agent->on.exited)
		agent->on.exited(agent->spec.arg, status);
	return true;
}

static bool on_bye(struct cs_agent *agent, uint32_t reason)
{
	if (reason != CS_WIRE_POWEROFF && reason != CS_WIRE_REBOOT)
		return false;
	agent->stage = STAGE_BYE;
	if (agent->on.bye)
		agent->on.bye(agent->spec.arg, (enum cs_wire_stop)reason);
	return true;
}

static bool on_trouble(struct cs_agent *agent, uint32_t value)
{
	size_t kept = agent->payload_bytes < sizeof(agent->payload) ? agent->payload_bytes
								    : sizeof(agent->payload) - 1;

	agent->payload[kept] = '\0';
	tell_trouble(agent, cs_text_clean(agent->payload, false));
	return true;
}

static bool on_frozen(struct cs_agent *agent, uint32_t error)
{
	const bool wanted = agent->freeze == FREEZE_ASKED;

	if ((!wanted && agent->freeze != FREEZE_DROPPED) || agent->freeze_owed ||
	    error > ERRNO_MOST)
		return false;

	/* It may have crossed the STOP, and what happens now is its end. */
	if (!error && agent->going_down)
		error = ECANCELED;
	agent->freeze = error || !wanted ? FREEZE_NONE : FREEZE_DONE;
	if (wanted && agent->on.frozen)
		agent->on.frozen(agent->spec.arg, -(int)error);
	return true;
}

static bool on_pong(struct cs_agent *agent, uint32_t value)
{
	if (!agent->pinged || agent->ping_owed)
		return false;
	agent->pinged = false;
	if (agent->on.pong)
		agent->on.pong(agent->spec.arg);
	return true;
}

struct rule {
	uint32_t type, least, most; /* bytes of payload */
	unsigned stages;            /* in which it may come */
	bool (*fn)(struct cs_agent *agent, uint32_t value);
};

static const struct rule rules[] = {
	{ CS_WIRE_HELLO, 4, 4, STAGE_SILENT, on_hello },
	{ CS_WIRE_READY, 0, 0, STAGE_HELLO, on_ready },
	{ CS_WIRE_EXITED, 4, 4, STAGE_READY, on_exited },
	{ CS_WIRE_BYE, 4, 4, STAGE_HELLO | STAGE_READY | STAGE_EXITED, on_bye },
	{ CS_WIRE_FROZEN, 4, 4, STAGE_READY | STAGE_EXITED, on_frozen },
	{ CS_WIRE_PONG, 0, 0, STAGE_READY | STAGE_EXITED, on_pong },
	{ CS_WIRE_TROUBLE, 1, CS_WIRE_MAX, STAGE_HELLO | STAGE_READY | STAGE_EXITED, on_trouble },
};

/* The rule for the message whose head is in; NULL: there is none, now. */
static const struct rule *rule_of(const struct cs_agent *agent)
{
	const uint32_t type = le32toh(agent->head.type), bytes = le32toh(agent->head.bytes);

	for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
		const struct rule *rule = &rules[i];

		if (rule->type == type && bytes >= rule->least && bytes <= rule->most &&
		    rule->stages & (unsigned)agent->stage)
			return rule;
	}
	return NULL;
}

/* Take what belongs to the message that is coming in from (*at) on. False: cut it off. */
static bool take(struct cs_agent *agent, const char **at, size_t *left)
{
	const struct rule *rule;
	uint32_t value = 0;
	size_t n;

	if (agent->head_bytes < sizeof(agent->head)) {
		n = sizeof(agent->head) - agent->head_bytes;
		n = n < *left ? n : *left;
		memcpy((char *)&agent->head + agent->head_bytes, *at, n);
		agent->head_bytes += n;
		*at += n;
		*left -= n;
		if (agent->head_bytes < sizeof(agent->head))
			return true;
	}
	rule = rule_of(agent);
	if (!rule)
		return false;

	n = le32toh(agent->head.bytes) - agent->payload_bytes;
	n = n < *left ? n : *left;
	if (agent->payload_bytes < sizeof(agent->payload)) {
		size_t room = sizeof(agent->payload) - agent->payload_bytes;

		memcpy(agent->payload + agent->payload_bytes, *at, n < room ? n : room);
	}
	agent->payload_bytes += n;
	*at += n;
	*left -= n;
	if (agent->payload_bytes < le32toh(agent->head.bytes))
		return true;

	if (rule->most == sizeof(value))
		memcpy(&value, agent->payload, sizeof(value));
	if (!rule->fn(agent, le32toh(value)))
		return false;
	agent->head_bytes = agent->payload_bytes = 0;
	return true;
}

static bool receive(struct cs_agent *agent)
{
	char buf[READ_BYTES];
	const char *at = buf;
	ssize_t n = recv(agent->fd, buf, sizeof(buf), MSG_DONTWAIT);
	size_t left;

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	if (n == 0)
		return false;
	for (left = (size_t)n; left;) {
		if (!take(agent, &at, &left))
			return false;
	}
	return true;
}

static void on_event(void *arg, uint32_t events)
{
	struct cs_agent *agent = arg;
	bool good = true;

	/* At a HUP there may be a BYE left to read; the read of nothing behind it ends this. */
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		good = receive(agent);
	if (good && events & EPOLLOUT)
		good = flush(agent);
	if (!good)
		lose(agent);
}

/* ---- the monitor's calls */

/* The other end is closed, only nobody has come round to notice. */
static bool is_dead(const struct cs_agent *agent)
{
	char byte;

	return recv(agent->fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0;
}

/* The device's end of a new connection; -1: none. */
static int make_pair(struct cs_agent *agent)
{
	cs_auto(cs_fd_closep) int ours = -1;
	cs_auto(cs_fd_closep) int theirs = -1;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return -1;
	ours = pair[0];
	theirs = pair[1];
	if (cs_loop_add(agent->loop, ours, EPOLLIN, on_event, agent, &agent->watch) < 0)
		return -1;
	agent->fd = cs_steal_fd(&ours);
	agent->stage = STAGE_SILENT;
	return cs_steal_fd(&theirs);
}

int cs_agent_serve(struct cs_agent *agent, uint32_t port)
{
	if (port != CS_WIRE_CONTROL_PORT)
		return -1;
	/* A guest that has rebooted connects again; a second program in it finds nobody. */
	if (agent->fd >= 0 && is_dead(agent))
		lose(agent);
	return agent->fd >= 0 ? -1 : make_pair(agent);
}

uint32_t cs_agent_version(const struct cs_agent *agent)
{
	return agent && agent->version ? agent->version : CS_WIRE_VERSION;
}

void cs_agent_expect(struct cs_agent *agent, uint32_t version)
{
	if (agent)
		agent->version = version;
}

int cs_agent_resume(struct cs_agent *agent)
{
	int fd = agent->fd >= 0 ? -1 : make_pair(agent);

	if (fd < 0)
		return -1;
	agent->version = cs_agent_version(agent);
	agent->stage = STAGE_HELLO;
	agent->config_owed = true;
	return fd;
}

/* What is owed, unless something is on its way. When that fails the loop will find a connection
 * that has ended, and say that it is lost: not here, where the caller expects no callbacks. */
static bool flush_now(struct cs_agent *agent)
{
	if (agent->out_left || flush(agent))
		return true;

	shutdown(agent->fd, SHUT_RDWR);
	return false;
}

void cs_agent_wake(struct cs_agent *agent)
{
	if (agent->config_owed)
		flush_now(agent);
}

int cs_agent_stop(struct cs_agent *agent, enum cs_wire_stop how, uint32_t grace_ms)
{
	agent->stop[0] = htole32(how);
	agent->stop[1] = htole32(grace_ms);
	agent->stop_owed = true;
	if (agent->stage < STAGE_HELLO)
		return -EAGAIN;
	if (!flush_now(agent)) {
		agent->stop_owed = true;
		return -EAGAIN;
	}
	return 0;
}

int cs_agent_freeze(struct cs_agent *agent, uint32_t flags)
{
	if (agent->stage < STAGE_READY)
		return -ENOTCONN;
	if (agent->stage != STAGE_READY || agent->freeze != FREEZE_NONE || agent->going_down ||
	    agent->stop_owed)
		return -EBUSY;
	if (agent->version < 2)
		return -EOPNOTSUPP;

	agent->freeze = FREEZE_ASKED;
	agent->freeze_owed = true;
	agent->freeze_flags = flags;
	flush_now(agent);
	return 0;
}

int cs_agent_thaw(struct cs_agent *agent)
{
	if (agent->stage < STAGE_HELLO || agent->stage == STAGE_BYE)
		return -ENOTCONN;
	if (agent->freeze == FREEZE_NONE || agent->freeze == FREEZE_DROPPED)
		return 0;

	if (agent->freeze_owed) {
		/* It never heard of it. */
		agent->freeze_owed = false;
		agent->freeze = FREEZE_NONE;
	} else {
		agent->thaw_owed = true;
		agent->freeze = agent->freeze == FREEZE_ASKED ? FREEZE_DROPPED : FREEZE_NONE;
	}
	flush_now(agent);
	return 0;
}

int cs_agent_ping(struct cs_agent *agent)
{
	if (!cs_agent_is_ready(agent))
		return -ENOTCONN;
	if (agent->version < 3)
		return -EOPNOTSUPP;
	if (agent->pinged)
		return -EBUSY;
	agent->pinged = agent->ping_owed = true;
	flush_now(agent);
	return 0;
}

bool cs_agent_is_ready(const struct cs_agent *agent)
{
	return agent->stage == STAGE_READY || agent->stage == STAGE_EXITED;
}

bool cs_agent_is_waking(const struct cs_agent *agent)
{
	return agent->stage == STAGE_HELLO;
}

int cs_agent_create(const struct cs_agent_spec *spec, struct cs_loop *loop, struct cs_agent **ret,
		    struct cs_err *err)
{
	cs_auto(cs_agent_freep) struct cs_agent *agent = calloc(1, sizeof(*agent));
	cs_auto(cs_message_freep) struct cs_message *trial = NULL;
	const void *at;
	size_t bytes;

	if (!agent)
		return cs_fail_errno(err, ENOMEM, "cannot serve the guest's agent");
	agent->fd = -1;
	agent->stage = STAGE_NONE;
	agent->spec = *spec;
	agent->on = *spec->events;
	agent->loop = loop;

	trial = make_config(spec, CS_WIRE_VERSION);
	if (!trial)
		return cs_fail_errno(err, ENOMEM, "cannot serve the guest's agent");
	if (cs_message_end(trial, &at, &bytes) < 0)
		return cs_fail(err, E2BIG,
			       "command and environment are over %u bytes (put them in a file of "
			       "the template)",
			       CS_WIRE_MAX);
	*ret = cs_steal(agent);
	return 0;
}

struct cs_agent *cs_agent_free(struct cs_agent *agent)
{
	if (agent) {
		disconnect(agent);
		free(agent);
	}
	return NULL;
}
