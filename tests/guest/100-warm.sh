#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A machine is booted once and saved; guests go on from it, each as itself.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"

make_tiny "$scratch/root"
rm "$scratch/root/big"
# What a program that keeps random numbers of its own would do at wake-up.
mkdir -p "$scratch/root/etc/clearstore/wake.d"
cat >"$scratch/root/etc/clearstore/wake.d/10-note" <<'EOF'
#!/bin/sh
echo "$CLEARSTORE_HOSTNAME" >>/tmp/woken
EOF
chmod 755 "$scratch/root/etc/clearstore/wake.d/10-note"
cs template add "$me" --from "$scratch/root" --kernel "$kernel"

forget_template() {
	! cs template show "$1" >/dev/null 2>&1 || cs template remove "$1"
}

# ---- warm
claim "template warm boots, waits until it is ready, and saves" \
	cs template warm "$me" --run 'echo begun >/tmp/begun; exec sleep 100000' --ready-cmd 'test -e /tmp/begun'
is "it is a new version" 2 "$(cs template show "$me" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["version"])')"
claim "which is whole" cs template verify "$me"
claim "and says what of its guests' memory merges" grep -q '"memory_merges": "yes: ' <<<"$(cs template show "$me" --json)"
is "no guest is left of it" "" "$(find "$store/guests" -mindepth 1 -maxdepth 1 -name 'warm-*' -printf '%f\n')"

hot_pages() {
	awk -v kind="$2" '$1 == kind { n += $3 } END { print n + 0 }' "$store/hot/$1"
}
wake=$(hot_pages "$me@2" wake)
claim "nor of those that showed what clones write to first: $wake pages" test "$wake" -gt 10
claim "and with the first process, besides: $(hot_pages "$me@2" exec)" test "$(hot_pages "$me@2" exec)" -gt 10
claim "and what they read: $(hot_pages "$me@2" wake-seen)" test "$(hot_pages "$me@2" wake-seen)" -gt "$wake"

# ---- clones
claim "guests are spawned of it" cs spawn "$me" --name "$me" --count 3 --wait
for i in 1 2 3; do
	is "guest $i has its own name" "$me-$i" "$(cs exec "$me-$i" -- hostname)"
done
is "what was started before it was saved runs in each" "sleep 100000" \
	"$(cs exec "$me-2" -- sh -c 'tr "\0" " " </proc/$(pidof sleep | cut -d " " -f 1)/cmdline' | sed 's/ $//')"
is "its files are there" begun "$(cs exec "$me-1" -- cat /tmp/begun)"
is "the hook ran, once, and knows the name" "$me-3" "$(cs exec "$me-3" -- cat /tmp/woken)"
identity() {
	cs exec "$1" -- sh -c 'head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/boot_id; cat /etc/machine-id 2>/dev/null || :'
}
for i in 1 2 3; do
	identity "$me-$i"
done >"$scratch/identities"
is "none of their random numbers, boot ids and machine ids is another's" "" "$(sort "$scratch/identities" | uniq -d)"
near() {
	local now

	now=$(cs exec "$1" -- date +%s)
	[ $((now - EPOCHSECONDS)) -ge -5 ] && [ $((now - EPOCHSECONDS)) -le 5 ]
}
claim "their clocks are right" near "$me-1"
# What has passed while it slept is passed at once.
ticked() {
	local from to host

	from=$(cs exec "$1" -- cut -d . -f 1 /proc/uptime)
	host=$EPOCHSECONDS
	sleep 20
	to=$(cs exec "$1" -- cut -d . -f 1 /proc/uptime)
	host=$((EPOCHSECONDS - host))
	echo "# $((to - from)) s in the guest, $host s here" >&2
	[ $((to - from - host)) -ge -8 ] && [ $((to - from - host)) -le 8 ]
}
claim "its time goes on while it sleeps" ticked "$me-2"
# Nothing else wakes a guest that has nothing to do, and then all that had waited for that.
sleeps=$(cs exec "$me-2" -- dmesg | sed -n '/jiffies/d; s/.*max_idle_ns: \([0-9]*\) ns.*/\1/p' | sort -n | head -n 1)
claim "its clocks let it sleep for more than an hour ($((sleeps / 1000000000)) s)" test "$sleeps" -gt 3600000000000
is "exit statuses come through" 9 "$(status_of cs exec "$me-1" -- sh -c 'exit 9')"
claim "what one writes" cs exec "$me-1" -- sh -c 'echo mine >/tmp/mine; echo changed >/etc/passwd'
is "no other sees" root "$(cs exec "$me-2" -- sh -c 'cat /tmp/mine 2>/dev/null; head -n 1 /etc/passwd' | cut -d : -f 1)"
claim "one is stopped" cs stop "$me-3"
claim "and started again, from the saved machine" cs start "$me-3" --wait
is "without what it had written" "$me-3" "$(cs exec "$me-3" -- cat /tmp/woken)"

# ---- save a guest that runs, and a clone of the clone
# It appends: a file that is written anew is empty for a moment.
claim "a process counts" cs exec "$me-1" -- sh -c ': >/tmp/n
	(while :; do echo >>/tmp/n; sleep 2; done) >/dev/null 2>&1 &'
claim "a guest that runs is saved" cs save "$me-1" "$me-second"
claim "and goes on" cs exec "$me-1" -- sh -c 'a=$(wc -l </tmp/n); sleep 6; [ "$(wc -l </tmp/n)" -gt "$a" ]'
no_guest_of() {
	! cs list --json | grep -q "\"template\": \"$1\""
}
"$program" --store "$store" template learn "$me-second" >/dev/null 2>&1 8>&- 9>&- &
learner=$!
claim "two clones show what they write to first" eventually 20 eval '! no_guest_of "$me-second"'
kill -9 "$learner"
wait "$learner" 2>/dev/null || true
claim "and go when who looks at them is killed" eventually 20 no_guest_of "$me-second"
claim "without a list" test ! -e "$store/hot/$me-second@1"
claim "what its clones write to first is found out when that is asked for" cs template learn "$me-second"
claim "and kept with it" test "$(hot_pages "$me-second@1" exec)" -gt 10
sed -i '$s/.*/wake 4294967295 1/' "$store/hot/$me-second@1"
claim "a clone of it is spawned, also when that is damaged" cs spawn "$me-second" --name "$me-4" --wait
is "with what it had in memory" mine "$(cs exec "$me-4" -- cat /tmp/mine)"
is "and its own name" "$me-4" "$(cs exec "$me-4" -- hostname)"
claim "its process counts on" cs exec "$me-4" -- sh -c 'a=$(wc -l </tmp/n); sleep 6; [ "$(wc -l </tmp/n)" -gt "$a" ]'
claim "the clone is saved" cs save "$me-4" "$me-third"
claim "and cloned" cs spawn "$me-third" --name "$me-5" --wait
is "with all that" "mine $me-5" "$(cs exec "$me-5" -- sh -c 'echo "$(cat /tmp/mine) $(hostname)"')"
for t in "$me" "$me-second" "$me-third"; do
	claim "template $t is as it was saved" cs template verify "$t"
done

# ---- an update that is warm before anybody gets it (where a boot is slow: WARM_UPDATE=1)
if ! emulated || [ -n "${WARM_UPDATE:-}" ]; then
	claim "update --warm --activate" cs template update "$me" --append quiet --warm --activate
	was=$(cs template versions "$me" --quiet | xargs)
	claim "a guest of it does not boot" cs spawn "$me" --name "$me-6" --wait
	is "it is of the new version, of which there is one" "${was##* } 2" "$(field "$me-6" version) $(wc -w <<<"$was")"
	is "which was made by the same commands" "sleep 100000 begun" "$(cs exec "$me-6" -- sh -c 'echo "$(tr "\0" " " <"/proc/$(pidof sleep | cut -d " " -f 1)/cmdline")$(cat /tmp/begun)"')"
	claim "and has the new command line" cs exec "$me-6" -- grep -qw quiet /proc/cmdline
	is "what was saved of a guest cannot be made again" 1 "$(status_of cs template update "$me-second" --append quiet --warm)"
	is "and is as it was" 1 "$(cs template versions "$me-second" --quiet | wc -l)"
	cs remove --force "$me-6"
	rc=0
	said=$(cs template warm "$me" --run 'echo nothing to serve; exit 3' --ready-cmd false 2>&1) || rc=$?
	is "a command that ends before it is saved is told of" "1 status 3" "$rc $(grep -o 'status [0-9]*' <<<"$said")"
	claim "with its last words" grep -q 'nothing to serve' <<<"$said"
	is "and no version is made" "$was" "$(cs template versions "$me" --quiet | xargs)"
fi

# ---- what cannot be
is "a template in use is not removed" 1 "$(status_of cs template remove "$me-third")"
is "a name that is taken is not saved to" 1 "$(status_of cs save "$me-1" "$me")"
is "a guest that does not run is not saved" 1 "$(cs stop "$me-2" && status_of cs save "$me-2" "$me-no")"
claim "all are removed" cs remove --force "$me-1" "$me-2" "$me-3" "$me-4" "$me-5"
for t in "$me" "$me-second" "$me-third" "$me-no"; do
	claim "template $t is removed" forget_template "$t"
done
finish
