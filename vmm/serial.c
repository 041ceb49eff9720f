/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/serial.h"

#include <unistd.h>

enum {
	DATA,
	INTERRUPT_ENABLE,
	INTERRUPT_ID,
	LINE_CONTROL,
	MODEM_CONTROL,
	LINE_STATUS,
	MODEM_STATUS,
	SCRATCH
};
#define LINE_CONTROL_DLAB 0x80
#define LINE_STATUS_EMPTY 0x60 /* holding and shift register */

void cs_serial_write(struct cs_serial *serial, unsigned reg, uint8_t value)
{
	const bool dlab = serial->line_control & LINE_CONTROL_DLAB;

	switch (reg) {
	case DATA:
		if (dlab)
			serial->divisor = (uint16_t)((serial->divisor & 0xff00) | value);
		else if (serial->log_fd >= 0 && serial->log_bytes < CS_SERIAL_LOG_MAX &&
			 write(serial->log_fd, &value, 1) == 1)
			serial->log_bytes++;
		break;
	case INTERRUPT_ENABLE:
		if (dlab)
			serial->divisor = (uint16_t)((serial->divisor & 0xff) | value << 8);
		else
			serial->interrupt_enable = value & 0x0f;
		break;
	case LINE_CONTROL:
		serial->line_control = value;
		break;
	case MODEM_CONTROL:
		serial->modem_control = value & 0x1f;
		break;
	case SCRATCH:
		serial->scratch = value;
		break;
	}
}

uint8_t cs_serial_read(const struct cs_serial *serial, unsigned reg)
{
	const bool dlab = serial->line_control & LINE_CONTROL_DLAB;

	switch (reg) {
	case DATA:
		return dlab ? (uint8_t)serial->divisor : 0;
	case INTERRUPT_ENABLE:
		return dlab ? (uint8_t)(serial->divisor >> 8) : serial->interrupt_enable;
	case INTERRUPT_ID:
		return 0x01; /* nothing pending */
	case LINE_CONTROL:
		return serial->line_control;
	case MODEM_CONTROL:
		return serial->modem_control;
	case LINE_STATUS:
		return LINE_STATUS_EMPTY;
	case MODEM_STATUS:
		return 0xb0; /* carrier, data set ready, clear to send */
	default:
		return serial->scratch;
	}
}

void cs_serial_state(struct cs_serial *serial, struct cs_stream *stream)
{
	cs_stream_field(stream, serial->line_control);
	cs_stream_field(stream, serial->interrupt_enable);
	cs_stream_field(stream, serial->modem_control);
	cs_stream_field(stream, serial->scratch);
	cs_stream_field(stream, serial->divisor);
}
