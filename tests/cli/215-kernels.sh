#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A bzImage is unpacked at import, however it was compressed; what it holds comes out byte for byte.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cli/store.sh
. "$(dirname "$0")/store.sh"

folder_store
mkdir "$scratch/root"
echo x >"$scratch/root/file"
fake_kernel "$scratch/vmlinux.whole" 6.12.1-clearstore 6
wanted=$(sha256sum <"$scratch/vmlinux.whole" | cut -d ' ' -f 1)

# A bzImage of (payload), as the kernel's build makes it: all but gzip get their length behind them.
bzimage() {
	python3 - "$@" <<-'END'
		import struct, sys
		payload, path, suffix = open(sys.argv[1], "rb").read(), sys.argv[2], sys.argv[3]
		if suffix == "length":
		    payload += struct.pack("<I", 6 << 20)
		head = bytearray(2560)
		head[0x1f1] = 4
		head[0x1fe:0x200] = b"\x55\xaa"
		head[0x202:0x206] = b"HdrS"
		head[0x206:0x208] = struct.pack("<H", 0x20f)
		head[0x20e:0x210] = struct.pack("<H", 0x300)
		text = b"6.12.1-clearstore (tester@test) #1 SMP\0"
		head[0x500:0x500 + len(text)] = text
		stub = b"\x90" * 1000
		head[0x248:0x250] = struct.pack("<II", len(stub), len(payload))
		open(path, "wb").write(bytes(head) + stub + payload + b"\0" * 3000)
	END
}

n=0
while read -r name suffix words; do
	read -ra packer <<<"$words"
	if [ "${packer[0]}" != cat ] && ! command -v "${packer[0]}" >/dev/null; then
		echo "# not tried: ${packer[0]}"
		continue
	fi
	"${packer[@]}" <"$scratch/vmlinux.whole" >"$scratch/payload"
	bzimage "$scratch/payload" "$scratch/bzImage" "$suffix"
	cs template add "k$n" --from "$scratch/root" --kernel "$scratch/bzImage"
	is "$name: taken" 0 "$rc"
	is "$name: the same vmlinux" "$wanted" \
		"$(sha256sum <"$store/templates/k$n/1/kernel" | cut -d ' ' -f 1)"
	n=$((n + 1))

	head -c $(($(stat -c %s "$scratch/bzImage") - 5000)) "$scratch/bzImage" >"$scratch/cut"
	fails 1 'truncated or damaged bzImage' template add x --from "$scratch/root" --kernel "$scratch/cut"
	# Whole to look at, garbled inside: found by the compression's own checksum, where it has one.
	python3 - "$scratch/bzImage" <<-'END'
		import sys
		f = open(sys.argv[1], "r+b")
		f.seek(2560 + 1000)
		data = f.read()
		cut = 60000 if len(data) > 200000 else len(data) // 2
		f.seek(2560 + 1000 + cut)
		f.write(b"\xff\x00" * 3000)
	END
	[[ $name == uncompressed || $name == lz4 ]] ||
		fails 1 "kernel '$scratch/bzImage'" template add x --from "$scratch/root" \
			--kernel "$scratch/bzImage"
done <<-'END'
	gzip none gzip -c
	xz length xz --check=crc32 --x86 --lzma2=,dict=32MiB -0 -c
	zstd length zstd -q -c
	bzip2 length bzip2 -c
	lzma length xz --format=lzma -0 -c
	lz4 length lz4 -q -l -c
	uncompressed length cat
END
# shellcheck disable=SC2046 # words on purpose
claim "nothing else was left" only_templates $(seq -f 'k%g' 0 $((n - 1)))
finish
