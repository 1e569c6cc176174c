#!/usr/bin/env bash
# Builds, runs and tests agentkernel; `./build.sh help` lists the commands.
# Everything it says goes to stderr: stdout belongs to the commands it runs.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
BIN=$ROOT/bin/agentkernel
OUT=$ROOT/images/build

# shellcheck source=images/kernel/kernel.sh
source "$ROOT/images/kernel/kernel.sh"
# shellcheck source=images/setup.sh
source "$ROOT/images/setup.sh"
# shellcheck source=images/checks.sh
source "$ROOT/images/checks.sh"

usage() {
    cat >&2 <<'EOF'
Usage: ./build.sh [COMMAND]

  (none)                         build bin/agentkernel
  run [--lab] [OPTIONS] [-- CMD…]  run CMD in a new sandbox; OPTIONS are those of
                                 `agentkernel run`. Uses /dev/kvm, or the lab
                                 where there is none (--lab: in any case)
  test [unit|e2e|intel]          all tests, or one kind of them
  lab [--intel] [--clock] [--add DIR] [--tty] [--timeout D] -- CMD…
                                 run CMD as root on an emulated host that has a
                                 real /dev/kvm and agentkernel on PATH
  bench                          measure; prints figures
  kernel                         build the guest kernel only
  install [DIR]                  put agentkernel on PATH (/usr/local/bin for
                                 root, else ~/.local/bin)
  clean                          remove what was built here (not the cache)
  help                           this text

The guest kernel and downloaded packages are kept in $AGENTKERNEL_CACHE, by
default ~/.cache/agentkernel.
EOF
}

# ---- Build

# go_build OUTPUT PACKAGE [FLAG…] makes a static program whose bytes depend on
# nothing but the source and the Go release: no paths, no state of the checkout.
# Go leaves a program alone that is up to date.
go_build() {
    local output=$1 package=$2
    shift 2
    CGO_ENABLED=0 GOOS=linux GOARCH=amd64 GOAMD64=v1 go build -trimpath -buildvcs=false \
        -ldflags='-s -w' "$@" -o "$output" "$package"
}

# build_all makes bin/agentkernel. One build at a time in this checkout.
build_all() {
    need_go
    kernel_ensure
    find_busybox
    mkdir -p "$OUT" "$ROOT/bin"
    exec 8>"$OUT/.lock"
    flock 8
    copy_if_changed "$KERNEL_IMAGE" "$OUT/vmlinux"
    (
        cd "$ROOT"
        go_build "$OUT/guest-init" ./guest-init
        go_build "$OUT/mkimage" ./images/mkimage
        "$OUT/mkimage" -init "$OUT/guest-init" -busybox "$BUSYBOX" -o "$OUT/initramfs.cpio"
        go_build "$BIN" ./cli -tags=embedded
    )
    exec 8>&-
}

# build_lab makes bin/lab, the program that boots the emulated hosts.
build_lab() {
    need_go
    mkdir -p "$ROOT/bin"
    (cd "$ROOT" && go_build "$ROOT/bin/lab" ./tests/lab/cmd)
}

# copy_if_changed FROM TO replaces TO in one step, and only if it differs.
copy_if_changed() {
    cmp -s "$1" "$2" && return
    cp "$1" "$2.new"
    mv "$2.new" "$2"
}

cmd_build() {
    build_all
    say "built ${BIN#"$ROOT"/}"
}

cmd_kernel() {
    kernel_ensure
    say "the guest kernel is $KERNEL_IMAGE"
}

cmd_clean() {
    rm -rf "${ROOT:?}/bin" "$OUT"
}

cmd_install() {
    local dir=${1-}
    (($# <= 1)) || die "usage: ./build.sh install [DIR]"
    if [[ -z $dir ]]; then
        dir=/usr/local/bin
        ((EUID == 0)) || dir=${HOME:?is not set: name a directory}/.local/bin
    fi
    build_all
    mkdir -p "$dir"
    install -m 755 "$BIN" "$dir/.agentkernel.new"
    mv "$dir/.agentkernel.new" "$dir/agentkernel"
    say "installed $dir/agentkernel"
    case :$PATH: in
    *":$dir:"*) ;;
    *) say "$dir is not on PATH; add it: export PATH=\"$dir:\$PATH\"" ;;
    esac
}

# ---- Run

# cmd_run ends with the sandbox's own exit code; what goes wrong before that is
# 125, as with agentkernel itself.
cmd_run() {
    local lab=
    trap 'exit 125' EXIT
    if [[ ${1-} == --lab ]]; then
        lab=1
        shift
    fi
    if (($# == 0)); then
        set -- -- sh -c 'whoami; pwd; uname -r'
        say "no command given: running one that shows where it is"
    fi
    if [[ -n $lab ]]; then
        say "using the lab, an emulated host"
    elif [[ -e /dev/kvm ]] && ! grep -qwE 'vmx|svm' /proc/cpuinfo; then
        # Some virtual machines have a KVM that runs only kernels made for it.
        say "this machine's /dev/kvm has no VMX or SVM behind it, which a guest needs: using the lab, an emulated host (the sandbox ends with it)"
        lab=1
    elif [[ -e /dev/kvm ]]; then
        check_kvm
        say "using this machine's /dev/kvm"
    else
        say "this machine has no /dev/kvm: using the lab, an emulated host (the sandbox ends with it)"
        lab=1
    fi
    build_all
    [[ -n $lab ]] || exec "$BIN" run "$@"
    prepare_lab amd
    exec "$ROOT/bin/lab" --binary "$BIN" -- agentkernel run "$@"
}

# check_kvm dies with the mend if /dev/kvm can't be opened.
check_kvm() {
    local group
    # shellcheck disable=SC2188 # opening it is all
    if { : <>/dev/kvm; } 2>/dev/null; then
        return
    fi
    if [[ -r /dev/kvm && -w /dev/kvm ]]; then
        die "/dev/kvm is there but the kernel has no KVM behind it. Load the module:" \
            "    $(as_root) modprobe $(grep -qw vmx /proc/cpuinfo && echo kvm_intel || echo kvm_amd)" \
            "or use the lab: ./build.sh run --lab"
    fi
    group=$(stat -c %G /dev/kvm)
    if [[ $group == kvm ]]; then
        die "no permission to use /dev/kvm. Join its group, then log in again:" \
            "    sudo usermod -aG kvm $(id -un)" "or use the lab: ./build.sh run --lab"
    fi
    die "no permission to use /dev/kvm, which belongs to group $group. Give it to group kvm, join that, then log in again:" \
        "    sudo chown root:kvm /dev/kvm && sudo chmod 660 /dev/kvm && sudo usermod -aG kvm $(id -un)" \
        "or use the lab: ./build.sh run --lab"
}

cmd_lab() {
    local arg kind=amd
    trap 'exit 125' EXIT
    for arg in "$@"; do
        case $arg in
        --) break ;;
        --intel | -intel) kind=intel ;;
        esac
    done
    build_all
    prepare_lab "$kind"
    exec "$ROOT/bin/lab" --binary "$BIN" "$@"
}

main() {
    local command=${1-build}
    (($# == 0)) || shift
    case $command in
    build | kernel | clean)
        (($# == 0)) || die "$command takes no arguments"
        "cmd_$command"
        ;;
    run | lab | install | test | bench) "cmd_$command" "$@" ;;
    help | -h | --help) usage ;;
    *)
        usage
        die "unknown command: $command"
        ;;
    esac
}

main "$@"
