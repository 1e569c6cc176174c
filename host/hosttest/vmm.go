// Package hosttest plays the VMM and the guest for tests of package host and of
// the command line, on machines without KVM. The "sandbox" is no sandbox: its
// commands run on the test's own machine, as the test's user.
//
// A test binary becomes a VMM by calling [Main] from TestMain when its first
// argument is "vmm", and gives the host /dev/null for /dev/kvm ([Device]).
package hosttest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// Device opens something that passes for /dev/kvm.
func Device() (*os.File, error) { return os.OpenFile(os.DevNull, os.O_RDWR, 0) }

// The prefix of a sandbox's name says how its VMM behaves.
const (
	Refuses = "refuses-" // the guest can't set up
	Silent  = "silent-"  // the VMM ends without a word
	Hangs   = "hangs-"   // the guest never gets ready
	Deaf    = "deaf-"    // the guest ignores the shutdown request
	Stuck   = "stuck-"   // and the VMM ignores the control socket
)

// The descriptors of a VMM.
const (
	fdVsock   = 4
	fdControl = 5
	fdStatus  = 6
	fdLock    = 7
	fdConsole = 8
	fdExit    = 9
)

// machine is a VMM with its guest.
type machine struct {
	name string
	once sync.Once

	mu      sync.Mutex
	waiting []net.Conn
}

// Main is the process of one VMM. args are those behind "vmm".
func Main(args []string) int {
	os.Setenv("PATH", "/usr/bin:/bin")
	m := &machine{}
	for i, arg := range args {
		if arg == "--name" && i+1 < len(args) {
			m.name = args[i+1]
		}
	}
	status := os.NewFile(fdStatus, "status")
	console := os.NewFile(fdConsole, "console")
	fmt.Fprintf(console, "booting %s\n\x1b[31mlast words\x1b[0m\n", m.name)
	if !strings.HasPrefix(m.name, Stuck) {
		go m.serve(fdControl, m.control)
	}
	switch {
	case strings.HasPrefix(m.name, Silent):
		return 1
	case strings.HasPrefix(m.name, Refuses):
		m.end("guest-error", "no \x1b root", func() { fmt.Fprintln(status, "error no \x1b root") })
	case strings.HasPrefix(m.name, Hangs):
		select {}
	}
	go m.serve(fdVsock, m.vsock)
	fmt.Fprintln(status, "ready")
	status.Close()
	select {}
}

func (m *machine) serve(fd uintptr, handle func(net.Conn)) {
	l, err := net.FileListener(os.NewFile(fd, "socket"))
	if err != nil {
		panic(err)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			panic(err)
		}
		go handle(conn)
	}
}

// end records the machine's end and ends the process.
func (m *machine) end(kind, reason string, before func()) {
	m.once.Do(func() {
		exit := os.NewFile(fdExit, "exit")
		if _, err := exit.WriteAt([]byte(kind+"\t"+reason+"\n"), 0); err != nil {
			os.Exit(3)
		}
		before()
		m.mu.Lock()
		for _, conn := range m.waiting {
			conn.Write([]byte("ok\n"))
			conn.Close()
		}
		time.Sleep(20 * time.Millisecond) // the kernel takes a real VM apart: the lock outlives the answer
		os.Exit(0)
	})
	select {}
}

func (m *machine) control(conn net.Conn) {
	line, _ := bufio.NewReader(conn).ReadString('\n')
	m.mu.Lock()
	m.waiting = append(m.waiting, conn)
	m.mu.Unlock()
	switch line {
	case "wait\n":
	case "stop\n":
		m.end("stopped", "by request", func() {})
	case "tether\n":
		conn.Write([]byte("ok\n"))
		conn.Read(make([]byte, 1))
		m.end("stopped", "its run ended", func() {})
	default:
		conn.Write([]byte("error unknown request\n"))
		conn.Close()
	}
}
