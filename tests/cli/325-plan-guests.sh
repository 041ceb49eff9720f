#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# plan of a template, and of guests of it that run; with machines that answer nothing.
# shellcheck source=tests/cli/kvm.sh
. "$(dirname "$0")/kvm.sh"
# shellcheck source=tests/cli/plan.sh
. "$(dirname "$0")/plan.sh"

fails 1 "template 'nosuch'" plan --template nosuch
cs plan --template idle --memory 128G --json
adds_up "a template"
is "none runs: all by the model" True "$(told 'not any(row["source"] == "measured" for row in guest.values())')"
is "its root is counted once" True "$(told 'host["template'\''s root, once"]["source"] == "template" and
0 < host["template'\''s root, once"]["bytes"] < 64 << 20 and host["template'\''s memory, once"]["bytes"] == 0')"
model=$(told 'result["idle"]["guests"]')
"$program" spawn idle --name web --count 3 >/dev/null
cs plan --template idle --memory 128G --json
adds_up "guests that run"
is "what they cost is measured" True "$(told 'all(guest[name]["source"] == "measured" for name in
("pages it has written", "monitor", "page tables"))')"
is "of three guests" "3 guests" "$(told 'guest["monitor"]["how"]')"
is "they are small, so there is room for more" True "$(told "result['idle']['guests'] > $model")"
cs plan --template idle --memory 128G --guest-memory 256M --json
is "guests of another size are not taken for them" True \
	"$(told 'guest["pages it has written"]["source"] == "model"')"

# ---- spawn refuses by what plan says
"$program" remove --force --all
"$program" spawn idle --name much --count 65536 2>"$scratch/refusal" || true
cs plan --template idle --json
is "what spawn assumes is what plan says" True "$(told "\"one takes some %.1f MiB (assumed)\" %
	(guest['each']['bytes'] / (1 << 20)) in open('$scratch/refusal').read()")"

finish
