// Package l1 is the first process of the lab's emulated host: it sets the host
// up, runs the job's command and carries its streams over the link. The lab
// program itself is that process, see Main.
package l1

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/tests/lab/proto"
)

// FatalPrefix starts the console line with which L1 says that it can't go on.
const FatalPrefix = "lab-init: fatal: "

// Wanted reports whether this process is the init of L1.
func Wanted() bool { return os.Getpid() == 1 && os.Args[0] == proto.InitPath }

// Main is the life of L1. It never returns: the lab ends the machine as soon as
// it has the Exit frame, and an error is told on the console.
func Main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "%s%v\n", FatalPrefix, err)
	}
	for { // The lab kills the machine. The end of PID 1 would be a kernel panic.
		time.Sleep(time.Hour)
	}
}

func run() error {
	if err := mountSystem(); err != nil {
		return err
	}
	job, err := readJob()
	if err != nil {
		return err
	}
	for _, m := range job.Modules {
		if err := loadModule(m); err != nil {
			return err
		}
	}
	if err := setUp(job); err != nil {
		return err
	}
	conn, err := openLink(job.Link)
	if err != nil {
		return err
	}
	if err := conn.Send(proto.Ready, 0, nil); err != nil {
		return fmt.Errorf("say ready: %w", err)
	}
	return serve(conn, job)
}

func readJob() (*proto.Job, error) {
	data, err := os.ReadFile(proto.JobPath)
	if err != nil {
		return nil, err
	}
	var job proto.Job
	if err := json.Unmarshal(data, &job); err != nil {
		return nil, fmt.Errorf("read the job: %w", err)
	}
	if len(job.Args) == 0 {
		return nil, errors.New("the job has no command")
	}
	return &job, nil
}

// loadModule loads one kernel module; one that is there already is fine.
func loadModule(m proto.Module) error {
	f, err := os.Open(m.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), m.Params, 0)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", m.Path, err)
	}
	return nil
}

// openLink opens the byte stream to the lab.
func openLink(link string) (*proto.Conn, error) {
	if link == "virtio" {
		f, err := openVirtioPort()
		if err != nil {
			return nil, err
		}
		return proto.NewConn(f), nil
	}
	f, err := os.OpenFile(link, os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := makeRaw(int(f.Fd())); err != nil {
		return nil, fmt.Errorf("set %s raw: %w", link, err)
	}
	return proto.NewAckingConn(f), nil
}

// makeRaw makes a UART 8-bit clean, 115200 baud, without modem control.
func makeRaw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200
	t.Ispeed, t.Ospeed = unix.B115200, unix.B115200
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

// virtioPort is the first virtio-serial port. A read before the emulator has
// told that its end is connected returns 0 bytes, which is not the end here:
// the emulator's end lives as long as the machine.
type virtioPort struct{ *os.File }

func (p virtioPort) Read(b []byte) (int, error) {
	for {
		n, err := p.File.Read(b)
		if n > 0 || err != io.EOF {
			return n, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// openVirtioPort waits for the port: the driver makes it in a work item of its
// own after the module was loaded.
func openVirtioPort() (io.ReadWriter, error) {
	for range 2000 {
		f, err := os.OpenFile("/dev/vport0p1", os.O_RDWR|unix.O_CLOEXEC, 0)
		if err == nil {
			return virtioPort{f}, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil, errors.New("the virtio-serial port /dev/vport0p1 did not appear")
}
