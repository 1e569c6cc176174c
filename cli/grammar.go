package main

import "strings"

// command is a command of the command line.
type command struct {
	name    string
	aliases string // comma-separated
	help    string
	new     func() runner
}

// commands lists the commands in the order in which help shows them.
func commands() []command {
	return []command{
		{"run", "", "Run a command in a sandbox of its own, which is then removed.", func() runner { return &runCmd{} }},
		{"create", "", "Create a sandbox.", func() runner { return &createCmd{} }},
		{"start", "", "Start a sandbox.", func() runner { return &startCmd{} }},
		{"exec", "", "Run a command in a running sandbox.", func() runner { return &execCmd{} }},
		{"stop", "", "Stop running sandboxes.", func() runner { return &stopCmd{} }},
		{"remove", "rm", "Remove sandboxes.", func() runner { return &removeCmd{} }},
		{"list", "ls", "List the sandboxes.", func() runner { return &listCmd{} }},
		{"inspect", "", "Show what is known of a sandbox.", func() runner { return &inspectCmd{} }},
		{"logs", "", "Show the console of a sandbox's guest.", func() runner { return &logsCmd{} }},
		{"doctor", "", "Check whether this host can run sandboxes, and what slows them.", func() runner { return &doctorCmd{} }},
		{"version", "", "Show the version.", func() runner { return &versionCmd{} }},
	}
}

// The grammar of the commands. Two of kong's habits are switched off by tags:
// sep:"none" keeps a value with commas whole, and passthrough:"partial" ends
// the options at the command's first word, yet refuses unknown options before
// it (plain passthrough would take "--typo" for the command's first word).

type nameArg struct {
	Name string `arg:"" help:"The sandbox."`
}

type namesArg struct {
	Names []string `arg:"" name:"name" help:"The sandboxes."`
}

type jsonFlag struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// machineFlags describe a sandbox to be.
type machineFlags struct {
	CPUs   int    `name:"cpus" default:"1" placeholder:"N" help:"Virtual CPUs, 1 to 32 (default: 1)."`
	Memory memory `default:"512" placeholder:"SIZE" help:"Memory: 512, 512M (both MiB) or 2G; 64M to 64G (default: 512M)."`
	Kernel string `placeholder:"FILE" help:"Boot this vmlinux instead of the embedded kernel."`
}

// execFlags describe how to run a command.
type execFlags struct {
	Env       []string `short:"e" sep:"none" placeholder:"K=V" help:"Set a variable; -e K takes it from here. Repeatable, the last one wins."`
	EnvFile   []string `name:"env-file" sep:"none" placeholder:"FILE" help:"Set variables from a file, one K=V a line, taken literally. -e wins over it."`
	Workdir   string   `short:"w" placeholder:"DIR" help:"Directory to run in (default: /workspace)."`
	User      string   `short:"u" placeholder:"USER[:GROUP]" help:"User to run as, by name or number (default: developer)."`
	Stdin     bool     `short:"i" help:"Pass standard input on; otherwise it is empty."`
	Timeout   span     `placeholder:"D" help:"End the command after this time, with exit code 124. 90, 90s, 1m30s."`
	KillAfter span     `default:"5s" placeholder:"D" help:"Time from the timeout's TERM to KILL (default: 5s)."`
}

type runCmd struct {
	machineFlags
	execFlags
	Keep         bool     `help:"Keep the sandbox, running."`
	Name         string   `placeholder:"NAME" help:"Name it (default: a generated name)."`
	StartTimeout span     `default:"2m" placeholder:"D" help:"Limit for the start (default: 2m)."`
	Command      []string `arg:"" passthrough:"partial" help:"The command and its arguments."`
}

type execCmd struct {
	execFlags
	nameArg
	Command []string `arg:"" passthrough:"partial" help:"The command and its arguments."`
}

type createCmd struct {
	machineFlags
	jsonFlag
	Name string `arg:"" optional:"" help:"Its name: 1 to 63 of A-Z a-z 0-9 _ - (default: a generated one)."`
}

type startCmd struct {
	Foreground bool `help:"Stay until the sandbox ends. TERM, INT or HUP stops it in order."`
	Timeout    span `default:"2m" placeholder:"D" help:"Limit for the guest to get ready (default: 2m)."`
	nameArg
}

type stopCmd struct {
	Timeout span `default:"10s" placeholder:"D" help:"Limit for the guest's orderly shutdown; then it is forced (default: 10s)."`
	Force   bool `short:"f" help:"End it at once."`
	namesArg
}

type removeCmd struct {
	Force bool `short:"f" help:"Also if it runs, or is broken."`
	namesArg
}

type listCmd struct {
	jsonFlag
	Quiet bool `short:"q" help:"Names only."`
}

type inspectCmd struct {
	jsonFlag
	nameArg
}

type logsCmd struct {
	VMM  bool `name:"vmm" help:"Show the VMM's own log instead."`
	Raw  bool `help:"Don't escape control characters, even on a terminal."`
	JSON bool `name:"json" help:"Print one JSON object a line."`
	nameArg
}

type doctorCmd struct{ jsonFlag }

type versionCmd struct{ jsonFlag }

// The text that help shows first.

func examples(lines ...string) string {
	return "Examples:\n\n    " + strings.Join(lines, "\n    ")
}

func (*runCmd) Help() string {
	return examples(
		"agentkernel run -- uname -a",
		"agentkernel run --cpus 2 --memory 2G -e DEBUG=true -- make test",
		"echo hello | agentkernel run -i -- cat",
		"agentkernel run --keep --name box -- true",
	) + "\n\n" + exitCodes
}

func (*execCmd) Help() string {
	return examples(
		`agentkernel exec box -- echo hello`,
		`agentkernel exec box -e API_KEY -e DEBUG=true -- ./script.sh`,
		`agentkernel exec -w /tmp -u root box -- sh -c 'id && pwd'`,
		`tar c . | agentkernel exec -i box -- tar x`,
	) + "\n\nOptions may stand before or after NAME, up to -- or the first word of the command.\n\n" + exitCodes
}

const exitCodes = "Exit code: the command's own; 128+N if signal N ended it; 124 at the timeout; " +
	"125 if agentkernel failed; 126 if the command can't be executed; 127 if it isn't found."

func (*createCmd) Help() string {
	return examples("agentkernel create box", "agentkernel create --cpus 4 --memory 4G big",
		"name=$(agentkernel create) && agentkernel start $name")
}

func (*startCmd) Help() string {
	return examples("agentkernel start box", "agentkernel start --foreground box    # for systemd, inittab")
}

func (*stopCmd) Help() string {
	return examples("agentkernel stop box", "agentkernel stop --timeout 60 box", "agentkernel stop -f box")
}

func (*removeCmd) Help() string { return examples("agentkernel rm box", "agentkernel rm -f box other") }

func (*listCmd) Help() string {
	return examples("agentkernel ls", "agentkernel ls --json", "agentkernel rm $(agentkernel ls -q)") +
		"\n\nSTATUS: created, running, stopped, died (with the reason), broken (its files can't be read)."
}

func (*inspectCmd) Help() string {
	return examples("agentkernel inspect box", "agentkernel inspect --json box")
}

func (*logsCmd) Help() string {
	return examples("agentkernel logs box", "agentkernel logs box > console.log", "agentkernel logs --vmm box") +
		"\n\nThe log is written by the guest: on a terminal its control characters are shown escaped, elsewhere its bytes are unchanged."
}

func (*doctorCmd) Help() string {
	return examples("agentkernel doctor", "agentkernel doctor --json") +
		"\n\nExit code: 0 if sandboxes can run here, 125 if not."
}

func (*versionCmd) Help() string {
	return examples("agentkernel version", "agentkernel version --json")
}
