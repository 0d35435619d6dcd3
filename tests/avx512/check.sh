#!/usr/bin/env bash
# check.sh LPA UNIT-TESTS: runs AVX-512 where the processor has none, in an emulated machine. There `lpa
# doctor` compares every sum with the definition, and the fixtures must give the tables and shards that they
# give here.
#
# Needs Debian's packages bochs, bochs-sdl, busybox-static, cpio, isolinux, xorriso, and fetches a kernel.
set -euo pipefail
lpa=$(realpath "$1") unit=$(realpath "$2")
here=$(cd "$(dirname "$0")" && pwd)
fixtures=$here/../../fixtures
if grep -qw avx512vl /proc/cpuinfo; then
    echo "This processor has AVX-512: lpa doctor and the tests run it."
    exit 0
fi
for tool in bochs cpio xorriso busybox; do
    if ! command -v $tool > /dev/null; then
        echo "AVX-512 is not checked: there is no $tool here (see tests/avx512/check.sh)"
        exit 0
    fi
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "tables and shards without AVX-512"
mkdir -p "$work/root/lpa" "$work/root/lib64" "$work/iso"
LPA_ISA=scalar sh "$here/produce.sh" "$lpa" "$fixtures" "$work/out" > "$work/root/lpa/expected"

cd "$work"
mkdir -p root/bin root/proc root/dev root/tmp
cp "$(command -v busybox)" root/bin/busybox
install -m 755 "$here/init" root/init
cp "$here/produce.sh" root/lpa/
cp -r "$fixtures" root/lpa/fixtures
strip -o root/lpa/lpa "$lpa"
strip -o root/lpa/unit "$unit"
ldd "$lpa" "$unit" | grep -o '/[^ ]*' | grep -v ':$' | sort -u | while read -r library; do
    install -D "$library" "root$library"
done
(cd root && find . | cpio -o -H newc --quiet | gzip -1) > iso/initrd.gz
package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p' | head -1)
apt-get -qq -o APT::Sandbox::User=root download "$package"
dpkg-deb -x "$package"*.deb kernel
cp kernel/boot/vmlinuz-* iso/vmlinuz
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 iso/
cat > iso/isolinux.cfg <<'C'
default lpa
label lpa
  kernel vmlinuz
  append initrd=initrd.gz console=ttyS0 quiet loglevel=1 mitigations=off clearcpuid=xsaves,xsavec tsc=reliable lpj=1000000
C
# The emulator and Linux disagree about the size of compacted state, so it is switched off.
xorriso -as mkisofs -quiet -o machine.iso -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 \
    -boot-info-table iso 2> /dev/null

echo "AVX-512, in an emulator"
echo continue > go
touch serial.txt
tail -f serial.txt &
watch=$!
SDL_VIDEODRIVER=dummy timeout 1500 bochs -q -f "$here/bochsrc" -rc go > bochs.out 2>&1 < /dev/null || true
sleep 1
kill $watch
if ! grep -q '^LPA STATUS 0' serial.txt; then
    tail -n 5 bochs.out
    echo "AVX-512: FAILED"
    exit 1
fi
