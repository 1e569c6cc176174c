# The tests and benchmarks. Sourced by build.sh.
# shellcheck shell=bash
set -euo pipefail

STATICCHECK=honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZ_TIME=${FUZZ_TIME:-5s}

cmd_test() {
    (($# <= 1)) || die "usage: ./build.sh test [unit|e2e|intel]"
    case ${1-all} in
    all)
        test_unit
        test_both_labs
        ;;
    unit | e2e | intel) "test_$1" ;;
    *) die "no such tests: $1; there are unit, e2e and intel" ;;
    esac
}

# test_unit checks the source, then runs what needs no guest.
test_unit() {
    need_go
    need_packages gcc libc6-dev # for the race detector
    cd "$ROOT"
    check_source
    say "unit tests, with the race detector"
    CGO_ENABLED=1 go test -race ./...
    fuzz_all
}

check_source() {
    local unformatted
    say "gofmt, go vet, staticcheck, shellcheck"
    unformatted=$(gofmt -l .)
    [[ -z $unformatted ]] || die "not formatted (gofmt -w mends it):" "$unformatted"
    go vet -tags=e2e ./...
    go run "$STATICCHECK" -tags=e2e ./...
    need_packages shellcheck
    shellcheck --external-sources --check-sourced build.sh .ci/run
}

# fuzz_all runs every fuzz target for FUZZ_TIME.
fuzz_all() {
    local package target
    while read -r package; do
        while read -r target; do
            say "fuzzing $target of $package for $FUZZ_TIME"
            go test -run='^$' -fuzz="^$target\$" -fuzztime="$FUZZ_TIME" "$package" </dev/null
        done < <(go test -list='^Fuzz' "$package" | grep '^Fuzz')
    done < <(fuzz_packages)
}

# fuzz_packages prints the packages that have fuzz targets.
fuzz_packages() {
    grep -rl --include='*_test.go' '^func Fuzz' . | xargs -r -n 1 dirname | sort -u
}

# prepare_lab builds the lab and installs what the machine it emulates needs:
# KIND is amd or intel.
prepare_lab() {
    case $1 in
    amd) need_packages qemu-system-x86 ;;
    intel) need_packages bochs bochs-term bochsbios vgabios grub-pc-bin grub-common xorriso mtools ;;
    esac
    # The lab downloads its hosts' kernel, once.
    compgen -G "$(cache_dir)/lab/linux-image-*" >/dev/null || refresh_package_lists
    find_busybox
    PATH=${BUSYBOX%/*}:$PATH # the lab puts it on its hosts
    build_lab
}

# test_both_labs runs the Intel lab, which is one busy process like the AMD one,
# beside it, and shows its output behind the other's.
test_both_labs() {
    local log=$OUT/intel.log failed=
    build_all
    prepare_lab amd
    prepare_lab intel
    test_intel >"$log" 2>&1 &
    trap 'kill %% 2>/dev/null || true' EXIT # not left behind when the AMD one fails
    test_e2e
    wait %% || failed=1
    trap - EXIT
    cat "$log"
    [[ -z $failed ]] || die "the tests on the emulated Intel host failed"
}

# test_e2e runs the end-to-end tests on the emulated AMD host, and on one that
# has nothing but agentkernel.
test_e2e() {
    build_all
    prepare_lab amd
    say "end-to-end tests on the emulated AMD host"
    run_e2e --timeout 40m -- -test.v
    say "end-to-end tests on an emulated appliance"
    run_e2e --appliance --timeout 10m --env TMPDIR=/run -- -test.v -test.run='^TestAppliance$' -appliance
}

# test_intel runs the smaller set on the emulated Intel host, which is slower.
test_intel() {
    build_all
    prepare_lab intel
    say "end-to-end tests, the small set, on the emulated Intel host"
    run_e2e --intel --timeout 40m -- -test.v -test.run='^(TestRun|TestSpecExamples|TestSequence|TestLifecycle)$'
}

# run_e2e LAB_OPTION… -- TEST_FLAG… runs the compiled tests inside a lab.
run_e2e() {
    local dir options=()
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift
    dir=$(mktemp -d)
    (cd "$ROOT" && CGO_ENABLED=0 go test -c -tags=e2e -trimpath -o "$dir/e2e.test" ./tests/e2e)
    (cd "$ROOT" && go_build "$dir/probe" ./tests/probe)
    if "$ROOT/bin/lab" --binary "$BIN" --add "$dir" "${options[@]}" -- /mnt/e2e.test "$@" </dev/null; then
        rm -r "$dir"
    else
        rm -r "$dir"
        return 1
    fi
}

# cmd_bench measures on the emulated AMD host, by its instruction clock, and
# boots the same kernel under QEMU there to compare with.
cmd_bench() {
    local dir=$OUT/bench
    build_all
    prepare_lab amd
    rm -rf "$dir"
    mkdir -p "$dir/qemu"
    go_build "$dir/bench" ./tests/bench
    stage_qemu "$dir/qemu"
    "$dir/bench" -initramfs "$dir/qemu/initramfs.cpio" -busybox "$BUSYBOX"
    "$ROOT/bin/lab" --clock --binary "$BIN" --add "$dir" -- /mnt/bench -qemu /mnt/qemu "$@" </dev/null
}

# stage_qemu DIR copies there what tests/bench/qemu.sh needs.
stage_qemu() {
    local dir=$1 qemu=/usr/bin/qemu-system-x86_64 library
    mkdir "$dir/lib" "$dir/share"
    cp "$ROOT/tests/bench/qemu.sh" "$qemu" "$OUT/vmlinux" "$dir"
    while read -r library; do
        cp -L "$library" "$dir/lib"
    done < <(ldd "$qemu" | grep -o '/[^ ]*')
    cp -L /lib64/ld-linux-x86-64.so.2 "$dir/ld.so"
    cp /usr/share/qemu/{qboot.rom,bios-microvm.bin} "$dir/share"
}
