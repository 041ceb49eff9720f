# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What the scripts share. To be sourced; bash.

# The top of the tree, and the folder for what may be lost: builds, kernels, root file systems.
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${CLEARSTORE_CACHE:-/var/cache/clearstore}
export CLEARSTORE_CACHE=$cache
me=$(basename "$0")

say() {
	printf '%s: %s\n' "$me" "$*"
}

die() {
	printf '%s: %s\n' "$me" "$*" >&2
	exit 1
}

# Run a step of a longer way: its name, how long it took, and on failure the end of its log.
#   step NAME LOG COMMAND...
step() {
	local name=$1 log=$2 start=$EPOCHREALTIME rc=0

	shift 2
	printf '%-44s' "$name"
	"$@" >"$log" 2>&1 </dev/null || rc=$?
	if [ "$rc" -ne 0 ]; then
		printf 'failed (status %s) after %s\n' "$rc" "$(since "$start")"
		tail -n "${STEP_TAIL:-30}" "$log" | sed 's/^/    | /'
		printf '    (all of it: %s)\n' "$log"
		return "$rc"
	fi
	printf '%10s\n' "$(since "$start")"
}

# Seconds since (start), a former $EPOCHREALTIME.
since() {
	awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f s", b - a }'
}

# Is there a KVM that this user may open and that makes machines? Opening alone does not tell: a
# device node without its module is there as well.
kvm_usable() {
	[ -c /dev/kvm ] && python3 - 2>/dev/null <<-'END'
		import fcntl, os
		kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
		assert fcntl.ioctl(kvm, 0xAE00, 0) == 12 # KVM_GET_API_VERSION
		os.close(fcntl.ioctl(kvm, 0xAE01, 0))    # KVM_CREATE_VM
	END
}

# Configure (once) and build out of the tree.
#   build_in FOLDER [CONFIGURE-OPTION...]
build_in() {
	local folder=$1 want

	shift
	mkdir -p "$folder"
	(
		cd "$top" || exit
		exec 9>"$cache/autoreconf.lock"
		flock 9
		if [ ! -x configure ] || [ configure.ac -nt configure ] || [ Makefile.am -nt Makefile.in ]; then
			autoreconf -fi
		fi
	)
	# Another clone, or other options: what was built before is worth nothing.
	want="$top $*"
	if [ "$(cat "$folder/.built-for" 2>/dev/null)" != "$want" ] || [ ! -f "$folder/Makefile" ]; then
		find "$folder" -mindepth 1 -delete
		(cd "$folder" && "$top/configure" "$@")
		printf '%s\n' "$want" >"$folder/.built-for"
	fi
	make -C "$folder" -j"$(nproc)"
}

# The project's files from the top of the tree, one a line: of a clone what git knows or would take,
# otherwise (a tarball) all.
project_files() {
	if [ "$(git rev-parse --show-toplevel 2>/dev/null)" = "$PWD" ]; then
		git ls-files -co --exclude-standard | while read -r file; do
			[ ! -f "$file" ] || printf '%s\n' "$file"
		done
	else
		find . -type f ! -path './build*' ! -path './autom4te.cache/*' ! -name '*.o' -printf '%P\n'
	fi | LC_ALL=C sort
}

c_files() {
	project_files | grep '\.[ch]$'
}

# All scripts, whatever they are called: by their suffix or first line.
shell_files() {
	project_files | while read -r file; do
		case $file in
		*.sh) printf '%s\n' "$file" ;;
		*.*) ;;
		*) if head -n 1 "$file" | grep -qaE '^#! */(usr/)?bin/(env +)?(ba)?sh'; then printf '%s\n' "$file"; fi ;;
		esac
	done
}
