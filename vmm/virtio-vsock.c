/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/virtio-vsock-private.h"

#include <endian.h>
#include <string.h>

enum { RX, TX, EVENT, QUEUES }; /* virtio 1.2, 5.10.2 */

static struct cs_vsock *vsock_of(struct cs_virtio *dev)
{
	return (struct cs_vsock *)dev;
}

static void drop_all(struct cs_vsock *vsock)
{
	struct cs_vsock_conn *conn;

	while ((conn = TAILQ_FIRST(&vsock->all)))
		cs_vsock_conn_drop(conn, false);
	vsock->resets = 0;
	vsock->tx_paused = false;
	vsock->rx_silent = false;
}

/* The driver broke a rule of the rings. Its connections can't go on, and their clients on the host
 * should not wait for a reset that may never come. */
static void break_down(struct cs_vsock *vsock)
{
	cs_virtio_break(&vsock->dev);
	drop_all(vsock);
}

/* ---- to the guest */

void cs_vsock_reset(struct cs_vsock *vsock, const struct cs_vsock_reset *reset)
{
	if (vsock->resets == CS_VSOCK_RESETS)
		return; /* not reached: see the mark's comment */
	vsock->reset[(vsock->reset_first + vsock->resets) % CS_VSOCK_RESETS] = *reset;
	vsock->resets++;
}

static size_t put_reset(struct cs_vsock *vsock, const struct cs_chain *chain)
{
	const struct cs_vsock_reset *reset = &vsock->reset[vsock->reset_first];
	const struct virtio_vsock_hdr hdr = {
		.src_cid = htole64(reset->cid),
		.dst_cid = htole64(vsock->guest_cid),
		.src_port = htole32(reset->host_port),
		.dst_port = htole32(reset->guest_port),
		.type = htole16(reset->type),
		.op = htole16(VIRTIO_VSOCK_OP_RST),
	};

	vsock->reset_first = (vsock->reset_first + 1) % CS_VSOCK_RESETS;
	vsock->resets--;
	return cs_chain_write(chain, 0, &hdr, sizeof(hdr));
}

size_t cs_vsock_put(struct cs_vsock_conn *conn, const struct cs_chain *chain,
		    struct virtio_vsock_hdr *hdr)
{
	hdr->src_cid = htole64(CS_WIRE_HOST_CID);
	hdr->dst_cid = htole64(conn->vsock->guest_cid);
	hdr->src_port = htole32(conn->host_port);
	hdr->dst_port = htole32(conn->guest_port);
	hdr->type = htole16(VIRTIO_VSOCK_TYPE_STREAM);
	hdr->buf_alloc = htole32(conn->alloc);
	hdr->fwd_cnt = htole32(conn->forwarded);

	/* Any packet tells our credit. */
	conn->told = conn->forwarded;
	conn->owed &= ~(uint32_t)CS_VSOCK_OWES_CREDIT;
	return cs_chain_write(chain, 0, hdr, sizeof(*hdr));
}

/* Ask the driver for notifications of rx buffers only while we wait for some: it adds them all the
 * time. True: there are some now. */
static bool want_buffers(struct cs_vsock *vsock, bool want)
{
	if (vsock->rx_silent == !want)
		return false;
	vsock->rx_silent = !want;
	return cs_virtq_enable_kick(&vsock->dev.queue[RX], vsock->dev.mem, want);
}

/* 1: vsock->chain is an rx buffer with room for a head and a byte; 0: none, we will be notified;
 * -EPROTO: the queue is broken. *used: buffers too small were given back. */
static int take_buffer(struct cs_vsock *vsock, bool *used)
{
	struct cs_virtq *q = &vsock->dev.queue[RX];
	struct cs_chain *chain = &vsock->chain;

	for (unsigned small = 0; small < CS_VSOCK_RING; small++) {
		int r = cs_virtq_pop(q, vsock->dev.mem, chain);

		if (r == 0 && want_buffers(vsock, true))
			r = cs_virtq_pop(q, vsock->dev.mem, chain);
		if (r <= 0)
			return r;
		want_buffers(vsock, false);
		if (chain->writable_bytes > sizeof(struct virtio_vsock_hdr))
			return 1;
		if (cs_virtq_push(q, vsock->dev.mem, chain->head, 0) < 0)
			return -EPROTO;
		*used = true;
	}
	cs_virtio_again(&vsock->dev, RX);
	return 0;
}

/* The next packet of all, in turn: one a connection. 0: it was nothing after all. */
static size_t put_next(struct cs_vsock *vsock)
{
	struct cs_vsock_conn *conn = TAILQ_FIRST(&vsock->ready);

	if (vsock->resets)
		return put_reset(vsock, &vsock->chain);

	TAILQ_REMOVE(&vsock->ready, conn, ready);
	conn->is_ready = false;
	return cs_vsock_conn_fill(conn, &vsock->chain);
}

/* -EPROTO: the queue is broken. */
static int send_ready(struct cs_vsock *vsock, bool *used)
{
	bool have = false;

	for (unsigned budget = CS_VSOCK_BUDGET; vsock->resets || !TAILQ_EMPTY(&vsock->ready);) {
		size_t bytes;

		if (!budget--) {
			cs_virtio_again(&vsock->dev, RX);
			break;
		}
		if (!have) {
			int r = take_buffer(vsock, used);

			if (r < 0)
				return r;
			if (r == 0)
				break;
			have = true;
		}
		bytes = put_next(vsock);
		if (!bytes)
			continue;
		if (cs_virtq_push(&vsock->dev.queue[RX], vsock->dev.mem, vsock->chain.head,
				  (uint32_t)bytes) < 0)
			return -EPROTO;
		have = false;
		*used = true;
	}
	if (have)
		cs_virtq_unpop(&vsock->dev.queue[RX]);
	return 0;
}

void cs_vsock_pump(struct cs_vsock *vsock)
{
	struct cs_vsock_conn *conn, *next;
	bool used = false;
	int r;

	if (!vsock->dev.running)
		return;

	r = send_ready(vsock, &used);
	if (used)
		cs_virtio_notify(&vsock->dev, RX);
	if (r < 0) {
		break_down(vsock);
		return;
	}

	/* Those who could not be served must not wake the loop again and again. */
	for (conn = TAILQ_FIRST(&vsock->ready); conn; conn = next) {
		next = TAILQ_NEXT(conn, ready);
		cs_vsock_conn_watch(conn);
	}
	if (vsock->tx_paused && vsock->resets < CS_VSOCK_RESETS_HIGH) {
		vsock->tx_paused = false;
		cs_virtio_again(&vsock->dev, TX);
	}
}

/* ---- from the guest */

static void refuse(struct cs_vsock *vsock, const struct virtio_vsock_hdr *hdr)
{
	const struct cs_vsock_reset reset = {
		.cid = (uint32_t)le64toh(hdr->dst_cid),
		.host_port = le32toh(hdr->dst_port),
		.guest_port = le32toh(hdr->src_port),
		.type = le16toh(hdr->type),
	};

	/* An RST for an RST would never end (5.10.6.5). */
	if (le16toh(hdr->op) != VIRTIO_VSOCK_OP_RST)
		cs_vsock_reset(vsock, &reset);
}

static void take_packet(struct cs_vsock *vsock, const struct cs_chain *chain)
{
	struct virtio_vsock_hdr hdr;
	struct cs_vsock_conn *conn;

	if (cs_chain_read(chain, 0, &hdr, sizeof(hdr)) < sizeof(hdr))
		return;
	/* A CID has 32 bits, the rest is reserved (5.10.4); a false sender gets no answer. */
	if (le64toh(hdr.src_cid) != vsock->guest_cid || le64toh(hdr.dst_cid) > UINT32_MAX)
		return;
	if (le64toh(hdr.dst_cid) != CS_WIRE_HOST_CID ||
	    le16toh(hdr.type) != VIRTIO_VSOCK_TYPE_STREAM) {
		refuse(vsock, &hdr);
		return;
	}

	conn = cs_vsock_conn_find(vsock, le32toh(hdr.dst_port), le32toh(hdr.src_port));
	if (conn)
		cs_vsock_conn_take(conn, &hdr, chain);
	else if (le16toh(hdr.op) == VIRTIO_VSOCK_OP_REQUEST)
		cs_vsock_host_called(vsock, &hdr);
	else
		refuse(vsock, &hdr);
}

/* -EPROTO: the queue is broken. */
static int receive(struct cs_vsock *vsock, bool *used)
{
	struct cs_virtq *q = &vsock->dev.queue[TX];

	cs_virtq_enable_kick(q, vsock->dev.mem, false);
	for (unsigned budget = CS_VSOCK_BUDGET;;) {
		int r;

		if (vsock->resets >= CS_VSOCK_RESETS_HIGH) {
			vsock->tx_paused = true;
			return 0;
		}
		if (!budget--) {
			cs_virtio_again(&vsock->dev, TX);
			return 0;
		}
		r = cs_virtq_pop(q, vsock->dev.mem, &vsock->chain);
		if (r < 0)
			return r;
		if (r == 0) {
			if (!cs_virtq_enable_kick(q, vsock->dev.mem, true))
				return 0;
			cs_virtq_enable_kick(q, vsock->dev.mem, false);
			continue;
		}
		take_packet(vsock, &vsock->chain);
		if (cs_virtq_push(q, vsock->dev.mem, vsock->chain.head, 0) < 0)
			return -EPROTO;
		*used = true;
	}
}

static void serve_tx(struct cs_vsock *vsock)
{
	bool used = false;
	int r;

	if (!vsock->dev.running || vsock->tx_paused)
		return;
	r = receive(vsock, &used);
	if (used)
		cs_virtio_notify(&vsock->dev, TX);
	if (r < 0)
		break_down(vsock);
}

/* ---- a machine that is saved */

/* A clone has no connections: its guest is told to forget those it had (5.10.6.7). */
static void send_event(struct cs_vsock *vsock)
{
	const struct virtio_vsock_event event = {
		.id = htole32(VIRTIO_VSOCK_EVENT_TRANSPORT_RESET),
	};
	struct cs_virtq *q = &vsock->dev.queue[EVENT];
	size_t bytes;
	int r;

	r = cs_virtq_pop(q, vsock->dev.mem, &vsock->chain);
	if (r == 0 && cs_virtq_enable_kick(q, vsock->dev.mem, true))
		r = cs_virtq_pop(q, vsock->dev.mem, &vsock->chain);
	if (r == 0)
		return; /* it has no buffer there: its next one kicks us */
	if (r > 0) {
		bytes = cs_chain_write(&vsock->chain, 0, &event, sizeof(event));
		r = cs_virtq_push(q, vsock->dev.mem, vsock->chain.head, (uint32_t)bytes);
	}
	if (r < 0) {
		break_down(vsock);
		return;
	}
	vsock->event_owed = false;
	cs_virtio_notify(&vsock->dev, EVENT);
}

/* Here, and not when a clone wakes up: then the pages that this writes would be private to each. */
static void part(struct cs_virtio *dev, cs_virtio_touch_fn touch, void *arg)
{
	struct cs_vsock *vsock = vsock_of(dev);
	const struct cs_chain *chain = &vsock->chain;
	size_t bytes;
	void *ring = cs_virtq_device_ring(&dev->queue[EVENT], dev->mem, &bytes);

	if (cs_vsock_kept(vsock))
		return;
	if (ring)
		touch(arg, ring, bytes);
	vsock->event_owed = true;
	send_event(vsock);
	for (unsigned i = 0; i < chain->writable && !vsock->event_owed; i++)
		touch(arg, chain->iov[chain->readable + i].iov_base,
		      chain->iov[chain->readable + i].iov_len);
}

static void state(struct cs_virtio *dev, struct cs_stream *stream)
{
	struct cs_vsock *vsock = vsock_of(dev);
	bool paused = vsock->tx_paused, kept;

	cs_stream_flag(stream, "rx notifications", &vsock->rx_silent);
	cs_stream_flag(stream, "event owed", &vsock->event_owed);
	cs_stream_flag(stream, "tx paused", &paused);
	kept = cs_vsock_kept_state(vsock, stream);
	if (cs_stream_saves(stream) || !cs_stream_good(stream))
		return;
	if (paused)
		cs_virtio_again(dev, TX); /* the resets it waited for are none of this machine's */
	if (dev->running && !kept)
		cs_vsock_host_daze(vsock);
}

/* ---- the device */

static void kick(struct cs_virtio *dev, unsigned queue)
{
	struct cs_vsock *vsock = vsock_of(dev);

	if (queue == TX)
		serve_tx(vsock);
	if (queue != EVENT)
		cs_vsock_pump(vsock);
	else if (vsock->event_owed)
		send_event(vsock);
}

static void reset(struct cs_virtio *dev)
{
	drop_all(vsock_of(dev));
	vsock_of(dev)->event_owed = false;
}

static void config_read(struct cs_virtio *dev, uint64_t offset, void *buf, size_t bytes)
{
	const struct virtio_vsock_config config = {
		.guest_cid = htole64(vsock_of(dev)->guest_cid),
	};

	cs_virtio_config(&config, sizeof(config), offset, buf, bytes);
}

static void free_vsock(struct cs_virtio *dev)
{
	struct cs_vsock *vsock = vsock_of(dev);

	drop_all(vsock);
	cs_vsock_host_close(vsock);
	free(vsock->path);
	free(vsock);
}

static const struct cs_virtio_ops vsock_ops = {
	.name = "vsock",
	.id = 19,
	.queues = QUEUES,
	.queue_size = CS_VSOCK_RING,
	.config_read = config_read,
	.kick = kick,
	.reset = reset,
	.part = part,
	.state = state,
	.free = free_vsock,
};

int cs_virtio_vsock_create(const struct cs_virtio_vsock_spec *spec, struct cs_loop *loop,
			   struct cs_virtio **ret, struct cs_err *err)
{
	cs_auto(cs_virtio_freep) struct cs_virtio *built = NULL;
	struct cs_vsock *vsock;
	int r;

	if (spec->guest_cid <= CS_WIRE_HOST_CID || spec->guest_cid == UINT32_MAX)
		return cs_fail(err, EINVAL, "vsock: CID %u is reserved (3 and up are guests')",
			       spec->guest_cid);

	vsock = calloc(1, sizeof(*vsock));
	if (!vsock)
		return cs_fail_errno(err, ENOMEM, "vsock: cannot make the device");
	built = &vsock->dev;
	vsock->dev.ops = &vsock_ops;
	vsock->loop = loop;
	vsock->guest_cid = spec->guest_cid;
	vsock->listen_fd = spec->listen_fd;
	vsock->serve = spec->serve;
	vsock->resume = spec->resume;
	vsock->wanted = spec->wanted;
	vsock->serve_arg = spec->serve_arg;
	TAILQ_INIT(&vsock->all);
	TAILQ_INIT(&vsock->ready);
	TAILQ_INIT(&vsock->waiting);
	if (spec->path && !(vsock->path = strdup(spec->path)))
		return cs_fail_errno(err, ENOMEM, "vsock: cannot make the device");
	r = cs_vsock_host_open(vsock, err);
	if (r < 0)
		return r;

	*ret = cs_steal(built);
	return 0;
}
