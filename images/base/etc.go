package base

import "github.com/agentkernel/agentkernel/images/initramfs"

// files are those of /etc. What depends on the sandbox (its name, its name
// servers) is written by the guest's first process.
func files() []initramfs.Entry {
	return []initramfs.Entry{
		file("etc/passwd", 0o644, passwd),
		file("etc/group", 0o644, group),
		file("etc/shadow", 0o600, shadow),
		file("etc/shells", 0o644, "/bin/sh\n/bin/ash\n"),
		file("etc/hostname", 0o644, "agentkernel\n"),
		file("etc/hosts", 0o644, hosts),
		file("etc/resolv.conf", 0o644, ""),
		file("etc/nsswitch.conf", 0o644, nsswitch),
		file("etc/profile", 0o644, profile),
		file("etc/os-release", 0o644, osRelease),
	}
}

// Group 5 is what the kernel's devpts is mounted with for terminals.
const (
	passwd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
nobody:x:65534:65534:nobody:/:/bin/false
developer:x:1000:1000:developer:/home/developer:/bin/sh
`
	group = `root:x:0:
daemon:x:1:
tty:x:5:
nogroup:x:65534:
developer:x:1000:
`
	// No password fits "*": nobody logs in by one. The empty third field says
	// nothing of when it was changed, so that nothing ages.
	shadow = `root:*::0:99999:7:::
daemon:*::0:99999:7:::
nobody:*::0:99999:7:::
developer:*::0:99999:7:::
`
	hosts = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
`
	nsswitch = `passwd: files
group: files
shadow: files
hosts: files dns
`
	// A login shell starts from nothing; what is set already stays.
	profile = `export PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
if [ "${PS1-}" ]; then
	PS1='\u@\h:\w\$ '
fi
`
	osRelease = `NAME="agentkernel base"
PRETTY_NAME="agentkernel base system"
ID=agentkernel
`
)
