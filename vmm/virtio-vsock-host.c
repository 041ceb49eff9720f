/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/virtio-vsock-private.h"

#include <endian.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "store/base/num.h"

#define ACCEPT_BATCH    16         /* clients taken before others in the loop get their turn */
#define FIRST_HOST_PORT (1u << 30) /* above every port a server on the host would name */

/* ---- time */

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* One timer for all: the list is in order of time, since all wait equally long. */
static void arm(struct cs_vsock *vsock)
{
	const struct cs_vsock_conn *first = TAILQ_FIRST(&vsock->waiting);
	uint64_t next = first ? first->deadline_ms : UINT64_MAX;
	uint64_t now;

	if (vsock->napping && vsock->nap_end_ms < next)
		next = vsock->nap_end_ms;
	if (next == UINT64_MAX) {
		cs_timer_set(vsock->timer, 0);
		return;
	}
	now = now_ms();
	cs_timer_set(vsock->timer, next > now ? next - now : 1);
}

void cs_vsock_host_wait(struct cs_vsock_conn *conn, bool wait)
{
	struct cs_vsock *vsock = conn->vsock;
	bool first = TAILQ_FIRST(&vsock->waiting) == conn;

	if (conn->is_waiting)
		TAILQ_REMOVE(&vsock->waiting, conn, waiting);
	conn->is_waiting = wait;
	if (wait) {
		conn->deadline_ms = now_ms() + CS_VSOCK_WAIT_MS;
		TAILQ_INSERT_TAIL(&vsock->waiting, conn, waiting);
	}
	if (first || TAILQ_FIRST(&vsock->waiting) == conn)
		arm(vsock);
}

static void on_time(void *arg, uint32_t events)
{
	struct cs_vsock *vsock = arg;
	uint64_t now = now_ms();
	struct cs_vsock_conn *conn;

	while ((conn = TAILQ_FIRST(&vsock->waiting)) && conn->deadline_ms <= now)
		cs_vsock_conn_drop(conn, true);
	if (vsock->napping && vsock->nap_end_ms <= now) {
		vsock->dazed = false;
		cs_vsock_host_wake(vsock);
	}
	arm(vsock);
	cs_vsock_pump(vsock);
}

/* ---- clients on the host */

void cs_vsock_host_wake(struct cs_vsock *vsock)
{
	if (!vsock->napping || vsock->dazed || cs_watch_set(vsock->listening, EPOLLIN) < 0)
		return;
	vsock->napping = false;
}

static void nap(struct cs_vsock *vsock, unsigned ms)
{
	if (cs_watch_set(vsock->listening, 0) < 0)
		return;
	vsock->napping = true;
	vsock->nap_end_ms = now_ms() + ms;
	arm(vsock);
}

void cs_vsock_host_daze(struct cs_vsock *vsock)
{
	if (!vsock->listening)
		return;
	nap(vsock, CS_VSOCK_DAZE_MS);
	vsock->dazed = vsock->napping;
}

static void on_listen(void *arg, uint32_t events)
{
	struct cs_vsock *vsock = arg;

	if (vsock->wanted)
		vsock->wanted(vsock->serve_arg);
	for (int i = 0; i < ACCEPT_BATCH; i++) {
		int fd = accept4(vsock->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		struct cs_vsock_conn *conn;

		if (fd < 0) {
			/* Out of descriptors or memory: the client stays in the backlog, which
			 * would wake the loop again at once. */
			if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
				nap(vsock, CS_VSOCK_NAP_MS);
			return;
		}
		/* A guest without driver (not booted so far, or dead) refuses everybody. */
		if (!vsock->dev.running) {
			cs_fd_closep(&fd);
			continue;
		}
		conn = cs_vsock_conn_create(vsock, fd, CS_VSOCK_GREETING);
		if (conn)
			cs_vsock_host_wait(conn, true);
	}
}

/* What the socket has up to the end of the line, and no byte further: behind it are the guest's
 * data. 1: the line is complete; 0: not yet; -errno. */
static int read_line(struct cs_vsock_conn *conn)
{
	char *to = conn->line + conn->line_bytes;
	size_t room = sizeof(conn->line) - conn->line_bytes;
	ssize_t n = recv(conn->fd, to, room, MSG_DONTWAIT | MSG_PEEK);
	const char *end;

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		return -ENODATA;
	end = memchr(to, '\n', (size_t)n);
	if (end)
		n = end - to + 1;
	/* Taken away even if incomplete, or the loop would spin. */
	if (recv(conn->fd, to, (size_t)n, MSG_DONTWAIT) != n)
		return -EIO;
	conn->line_bytes += (unsigned)n;
	if (end)
		return 1;
	return conn->line_bytes < sizeof(conn->line) ? 0 : -EMSGSIZE;
}

/* "CONNECT <port>\n". */
static int parse_line(struct cs_vsock_conn *conn, uint32_t *ret)
{
	static const char word[] = "CONNECT ";
	uint64_t port;
	int r;

	/* A NUL in the line ends the text early; then it is not all digits, or is just shorter. */
	conn->line[conn->line_bytes - 1] = '\0';
	if (strlen(conn->line) != conn->line_bytes - 1 ||
	    strncmp(conn->line, word, sizeof(word) - 1) != 0)
		return -EINVAL;
	/* The last one is VMADDR_PORT_ANY. */
	r = cs_parse_u64(conn->line + sizeof(word) - 1, UINT32_MAX - 1, &port);
	if (r == 0)
		*ret = (uint32_t)port;
	return r;
}

static uint32_t free_port(struct cs_vsock *vsock, uint32_t guest_port)
{
	do {
		if (vsock->next_port < FIRST_HOST_PORT || vsock->next_port == UINT32_MAX)
			vsock->next_port = FIRST_HOST_PORT;
		vsock->next_port++;
	} while (cs_vsock_conn_find(vsock, vsock->next_port, guest_port));
	return vsock->next_port;
}

void cs_vsock_host_greet(struct cs_vsock_conn *conn)
{
	uint32_t guest_port = 0;
	int r = read_line(conn);

	if (r == 0)
		return;
	if (r < 0 || parse_line(conn, &guest_port) < 0 || !conn->vsock->dev.running) {
		cs_vsock_conn_drop(conn, false);
		return;
	}
	cs_vsock_conn_enter(conn, free_port(conn->vsock, guest_port), guest_port);
	cs_vsock_host_wait(conn, true);
	conn->state = CS_VSOCK_ASKED;
	conn->owed = CS_VSOCK_OWES_REQUEST;
	if (cs_vsock_conn_watch(conn))
		cs_vsock_conn_ready(conn);
}

bool cs_vsock_host_accepted(struct cs_vsock_conn *conn)
{
	char line[CS_VSOCK_LINE];
	int bytes = snprintf(line, sizeof(line), "OK %u\n", conn->host_port);

	/* The first bytes in an empty socket: they fit, or the client is gone. */
	if (send(conn->fd, line, (size_t)bytes, MSG_DONTWAIT | MSG_NOSIGNAL) != bytes) {
		cs_vsock_conn_drop(conn, true);
		return false;
	}
	cs_vsock_host_wait(conn, false);
	conn->state = CS_VSOCK_LIVE;
	return true;
}

/* ---- calls of the guest */

/* The unix socket "<path>_<port>"; -errno. Connecting to one does not block: it succeeds, or the
 * listener's backlog is full. */
static int dial(const struct cs_vsock *vsock, uint32_t port)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	cs_auto(cs_fd_closep) int fd = -1;

	if (!vsock->path)
		return -ECONNREFUSED;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_%u", vsock->path, port);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -errno;
	return cs_steal_fd(&fd);
}

void cs_vsock_host_called(struct cs_vsock *vsock, const struct virtio_vsock_hdr *hdr)
{
	const uint32_t host_port = le32toh(hdr->dst_port), guest_port = le32toh(hdr->src_port);
	const struct cs_vsock_reset refusal = {
		.cid = CS_WIRE_HOST_CID,
		.host_port = host_port,
		.guest_port = guest_port,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
	};
	struct cs_vsock_conn *conn = NULL;
	bool served = false;
	int fd = -1;

	if (vsock->calls < CS_VSOCK_CALLS && vsock->connections < CS_VSOCK_CONNECTIONS) {
		fd = vsock->serve ? vsock->serve(vsock->serve_arg, host_port) : -1;
		served = fd >= 0;
		if (fd < 0)
			fd = dial(vsock, host_port);
	}
	if (fd >= 0)
		conn = cs_vsock_conn_create(vsock, fd, CS_VSOCK_LIVE);
	if (!conn) {
		cs_vsock_reset(vsock, &refusal);
		return;
	}
	/* The agent: it calls again because it has heard. */
	if (served && vsock->dazed) {
		vsock->dazed = false;
		cs_vsock_host_wake(vsock);
	}
	conn->served = served;
	conn->by_guest = conn->asked = true;
	vsock->calls++;
	conn->owed = CS_VSOCK_OWES_RESPONSE;
	conn->peer_alloc = le32toh(hdr->buf_alloc);
	conn->peer_forwarded = le32toh(hdr->fwd_cnt);
	cs_vsock_conn_enter(conn, host_port, guest_port);
	cs_vsock_conn_ready(conn);
}

int cs_vsock_host_open(struct cs_vsock *vsock, struct cs_err *err)
{
	/* Behind the path: '_', ten digits, NUL. */
	const size_t room = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 12;
	int r;

	if (vsock->path && strlen(vsock->path) > room)
		return cs_fail(err, ENAMETOOLONG,
			       "vsock: socket path '%s' is longer than %zu bytes (use a shorter "
			       "store path)",
			       vsock->path, room);
	r = cs_timer_create(vsock->loop, on_time, vsock, &vsock->timer);
	if (r < 0)
		return cs_fail_errno(err, -r, "vsock: cannot make a timer");
	if (vsock->listen_fd < 0)
		return 0;
	/* accept() must not block when a client has left the backlog meanwhile. */
	r = fcntl(vsock->listen_fd, F_GETFL);
	if (r < 0 || fcntl(vsock->listen_fd, F_SETFL, r | O_NONBLOCK) < 0)
		return cs_fail_errno(err, errno, "vsock: listening socket");
	r = cs_loop_add(vsock->loop, vsock->listen_fd, EPOLLIN, on_listen, vsock,
			&vsock->listening);
	if (r < 0)
		return cs_fail_errno(err, -r, "vsock: cannot watch the listening socket");
	return 0;
}

void cs_vsock_host_close(struct cs_vsock *vsock)
{
	vsock->listening = cs_watch_free(vsock->listening);
	vsock->timer = cs_timer_free(vsock->timer);
}
