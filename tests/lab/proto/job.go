package proto

// The places of the lab's own files in the initramfs of L1.
const (
	// InitPath is the lab program, started by the kernel as the first process.
	InitPath = "/lab/init"
	// JobPath holds a Job as JSON.
	JobPath = "/lab/job.json"
)

// Job tells the init of L1 what to do. It travels in the initramfs, so that L1
// needs nothing from the link before its command runs.
type Job struct {
	Link    string   // character device of the link, or "virtio" for the virtio-serial port
	Modules []Module // in the order of loading

	Args [][]byte // the command; bytes, because JSON strings must be UTF-8
	Env  [][]byte // KEY=VALUE, in addition to the init's own
	TTY  bool     // give the command a terminal
	Rows uint16
	Cols uint16

	// Appliance makes the root read-only, with a tmpfs at /run alone.
	Appliance bool
}

// Module is a kernel module and its parameters.
type Module struct {
	Path   string
	Params string
}
