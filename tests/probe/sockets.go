package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// families are the address families of the kernel (include/linux/socket.h).
var families = []string{
	1: "unix", "inet", "ax25", "ipx", "appletalk", "netrom", "bridge", "atmpvc", "x25", "inet6",
	"rose", "decnet", "netbeui", "security", "key", "netlink", "packet", "ash", "econet", "atmsvc",
	"rds", "sna", "irda", "pppox", "wanpipe", "llc", "ib", "mpls", "can", "tipc",
	"bluetooth", "iucv", "rxrpc", "isdn", "phonet", "ieee802154", "caif", "alg", "nfc", "vsock",
	"kcm", "qipcrtr", "smc", "xdp", "mctp",
}

var socketTypes = []struct {
	name string
	kind int
}{{"stream", unix.SOCK_STREAM}, {"dgram", unix.SOCK_DGRAM}, {"raw", unix.SOCK_RAW}, {"seqpacket", unix.SOCK_SEQPACKET}}

// transports are protocols of IPv4 and IPv6.
var transports = []struct {
	name           string
	kind, protocol int
}{
	{"tcp", unix.SOCK_STREAM, unix.IPPROTO_TCP},
	{"udp", unix.SOCK_DGRAM, unix.IPPROTO_UDP},
	{"udplite", unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE},
	{"raw", unix.SOCK_RAW, unix.IPPROTO_RAW},
	{"sctp", unix.SOCK_STREAM, unix.IPPROTO_SCTP},
	{"dccp", unix.SOCK_STREAM, unix.IPPROTO_DCCP},
	{"mptcp", unix.SOCK_STREAM, unix.IPPROTO_MPTCP},
}

// openSocket counts a refusal for lack of a right as the presence of what it
// refuses.
func openSocket(family, kind, protocol int) error {
	err := closing(unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol))
	if err == unix.EPERM || err == unix.EACCES {
		return nil
	}
	return err
}

func probeSockets() {
	for family, name := range families {
		if name == "" {
			continue
		}
		for _, t := range socketTypes {
			err := openSocket(family, t.kind, 0)
			fact("socket", name+" "+t.name, answer(err))
			if err == unix.EAFNOSUPPORT { // the kernel would look for a module every time
				break
			}
		}
	}
	for _, t := range transports {
		fact("socket", "inet "+t.name, answer(openSocket(unix.AF_INET, t.kind, t.protocol)))
		fact("socket", "inet6 "+t.name, answer(openSocket(unix.AF_INET6, t.kind, t.protocol)))
	}
	facts("socket option", map[string]func() error{
		"SO_REUSEPORT":         option(unix.SOCK_STREAM, unix.SOL_SOCKET, unix.SO_REUSEPORT),
		"SO_ZEROCOPY":          option(unix.SOCK_STREAM, unix.SOL_SOCKET, unix.SO_ZEROCOPY),
		"SO_TIMESTAMPNS":       option(unix.SOCK_DGRAM, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS),
		"SO_BUSY_POLL":         reading(unix.SOCK_DGRAM, unix.SOL_SOCKET, unix.SO_BUSY_POLL),
		"SO_INCOMING_NAPI_ID":  reading(unix.SOCK_DGRAM, unix.SOL_SOCKET, unix.SO_INCOMING_NAPI_ID),
		"TCP_FASTOPEN":         option(unix.SOCK_STREAM, unix.IPPROTO_TCP, unix.TCP_FASTOPEN),
		"TCP_USER_TIMEOUT":     option(unix.SOCK_STREAM, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT),
		"TCP_MD5SIG":           md5,
		"UDP_SEGMENT":          option(unix.SOCK_DGRAM, unix.IPPROTO_UDP, unix.UDP_SEGMENT),
		"UDP_GRO":              option(unix.SOCK_DGRAM, unix.IPPROTO_UDP, unix.UDP_GRO),
		"IP_PKTINFO":           option(unix.SOCK_DGRAM, unix.IPPROTO_IP, unix.IP_PKTINFO),
		"IP_RECVERR":           option(unix.SOCK_DGRAM, unix.IPPROTO_IP, unix.IP_RECVERR),
		"IP_ADD_MEMBERSHIP":    multicast,
		"TCP_CONGESTION cubic": congestion("cubic"),
		"TCP_CONGESTION reno":  congestion("reno"),
		"SO_ATTACH_FILTER":     filter,
		"SO_PEERCRED":          readingUnix(unix.SO_PEERCRED),
	})
}

// withSocket runs ask on an IPv4 socket.
func withSocket(kind int, ask func(fd int) error) error {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return ask(fd)
}

func option(kind, level, name int) func() error {
	return func() error {
		return withSocket(kind, func(fd int) error { return unix.SetsockoptInt(fd, level, name, 1) })
	}
}

func reading(kind, level, name int) func() error {
	return func() error {
		return withSocket(kind, func(fd int) error {
			_, err := unix.GetsockoptInt(fd, level, name)
			return err
		})
	}
}

func readingUnix(name int) func() error {
	return func() error {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fds[0])
		defer unix.Close(fds[1])
		_, err = unix.GetsockoptUcred(fds[0], unix.SOL_SOCKET, name)
		return err
	}
}

func congestion(name string) func() error {
	return func() error {
		return withSocket(unix.SOCK_STREAM, func(fd int) error {
			return unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name)
		})
	}
}

// md5 sets a key of RFC 2385 for the peer 127.0.0.1.
func md5() error {
	return withSocket(unix.SOCK_STREAM, func(fd int) error {
		sig := &unix.TCPMD5Sig{Keylen: 1}
		sig.Addr.Family = unix.AF_INET
		copy(sig.Addr.Data[2:], []byte{127, 0, 0, 1})
		return unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, sig)
	})
}

func multicast() error {
	return withSocket(unix.SOCK_DGRAM, func(fd int) error {
		return unix.SetsockoptIPMreq(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreq{
			Multiaddr: [4]byte{224, 0, 0, 251}, Interface: [4]byte{127, 0, 0, 1},
		})
	})
}

// filter attaches a classic BPF program that takes every packet.
func filter() error {
	return withSocket(unix.SOCK_DGRAM, func(fd int) error {
		take := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff}
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &take})
	})
}

// netlinkNames are the protocols of netlink (include/uapi/linux/netlink.h).
var netlinkNames = []string{
	0: "route", 2: "usersock", 3: "firewall", 4: "sock_diag", 5: "nflog", 6: "xfrm", 7: "selinux",
	8: "iscsi", 9: "audit", 10: "fib_lookup", 11: "connector", 12: "netfilter", 13: "ip6_fw",
	14: "dnrtmsg", 15: "kobject_uevent", 16: "generic", 18: "scsitransport", 19: "ecryptfs",
	20: "rdma", 21: "crypto", 22: "smc",
}

func probeNetlink() {
	for protocol, name := range netlinkNames {
		if name != "" {
			fact("netlink", name, answer(openSocket(unix.AF_NETLINK, unix.SOCK_RAW, protocol)))
		}
	}
}

// probeCrypto binds the algorithms that programs most ask AF_ALG for.
func probeCrypto() {
	for _, alg := range []struct{ kind, name string }{
		{"hash", "sha1"}, {"hash", "sha256"}, {"hash", "sha512"}, {"hash", "md5"}, {"hash", "hmac(sha256)"},
		{"hash", "crc32c"},
		{"skcipher", "ecb(aes)"}, {"skcipher", "cbc(aes)"}, {"skcipher", "ctr(aes)"}, {"skcipher", "xts(aes)"},
		{"aead", "gcm(aes)"}, {"aead", "ccm(aes)"}, {"aead", "authenc(hmac(sha256),cbc(aes))"},
		{"rng", "stdrng"},
	} {
		fact("af_alg", fmt.Sprint(alg.kind, " ", alg.name), answer(bindAlgorithm(alg.kind, alg.name)))
	}
}

func bindAlgorithm(kind, name string) error {
	fd, err := unix.Socket(unix.AF_ALG, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrALG{Type: kind, Name: name})
}
