package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/agentkernel/agentkernel/host"
)

// version is this program's version; the build may replace it.
var version = "0.1.0"

// print writes to standard output.
func (a *app) print(s string) (int, error) {
	_, err := io.WriteString(a.Out, s)
	return 0, err
}

// printJSON writes v as indented JSON.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.Out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// sandboxView is a sandbox in JSON. Its keys are an interface: add, don't
// change.
type sandboxView struct {
	Name      string     `json:"name"`
	Status    string     `json:"status"`
	Reason    string     `json:"reason,omitempty"`
	Created   *time.Time `json:"created,omitempty"`
	CPUs      int        `json:"cpus,omitempty"`
	MemoryMiB int        `json:"memory_mib,omitempty"`
	Kernel    string     `json:"kernel,omitempty"`
	Dir       string     `json:"dir,omitempty"`
	Socket    string     `json:"socket,omitempty"`
	PID       int        `json:"pid,omitempty"`

	KVM map[string]uint64 `json:"kvm,omitempty"`
}

func sandboxJSON(s host.Sandbox) sandboxView {
	v := sandboxView{
		Name: s.Name, Status: string(s.Status), Reason: s.Reason, CPUs: s.CPUs,
		MemoryMiB: s.MemoryMiB, Kernel: s.Kernel, Dir: s.Dir, Socket: s.Socket, PID: s.PID, KVM: s.KVM,
	}
	if !s.Created.IsZero() {
		v.Created = &s.Created
	}
	return v
}

func (c *listCmd) run(a *app) (int, error) {
	h, err := a.open()
	if err != nil {
		return 0, err
	}
	all, err := h.List(a.ctx)
	if err != nil {
		return 0, err
	}
	if c.JSON {
		views := make([]sandboxView, 0, len(all))
		for _, s := range all {
			views = append(views, sandboxJSON(s))
		}
		return 0, a.printJSON(views)
	}
	if c.Quiet {
		var b strings.Builder
		for _, s := range all {
			b.WriteString(s.Name + "\n")
		}
		return a.print(b.String())
	}
	return a.print(table(all))
}

// table lays sandboxes out in columns.
func table(all []host.Sandbox) string {
	rows := [][]string{{"NAME", "STATUS", "CPUS", "MEMORY", "CREATED", "REASON"}}
	for _, s := range all {
		row := []string{s.Name, string(s.Status), "-", "-", "-", printable(s.Reason)}
		if s.CPUs > 0 {
			row[2], row[3] = fmt.Sprint(s.CPUs), memoryText(s.MemoryMiB)
			row[4] = s.Created.Local().Format("2006-01-02 15:04")
		}
		rows = append(rows, row)
	}
	return columns(rows)
}

// columns aligns rows; the last column is not padded.
func columns(rows [][]string) string {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

func memoryText(mib int) string {
	if mib%1024 == 0 {
		return fmt.Sprintf("%dG", mib/1024)
	}
	return fmt.Sprintf("%dM", mib)
}

func (c *inspectCmd) run(a *app) (int, error) {
	h, err := a.open()
	if err != nil {
		return 0, err
	}
	s, err := h.Inspect(a.ctx, c.Name)
	if err != nil {
		return 0, &onSandbox{name: c.Name, err: err}
	}
	if c.JSON {
		return 0, a.printJSON(sandboxJSON(s))
	}
	rows := [][]string{{"name", s.Name}, {"status", string(s.Status)}}
	add := func(key, value string, shown bool) {
		if shown {
			rows = append(rows, []string{key, printable(value)})
		}
	}
	add("reason", s.Reason, s.Reason != "")
	add("cpus", fmt.Sprint(s.CPUs), s.CPUs > 0)
	add("memory", memoryText(s.MemoryMiB), s.CPUs > 0)
	add("created", s.Created.Local().Format(time.RFC3339), !s.Created.IsZero())
	add("kernel", s.Kernel, s.Kernel != "")
	add("pid", fmt.Sprint(s.PID), s.PID != 0)
	add("directory", s.Dir, s.Dir != "")
	add("socket", s.Socket, s.Socket != "")
	add("exits", fmt.Sprint(s.KVM["exits"]), s.KVM != nil)
	return a.print(columns(rows))
}

func (c *logsCmd) run(a *app) (int, error) {
	h, err := a.open()
	if err != nil {
		return 0, err
	}
	open := h.Console
	if c.VMM {
		open = h.VMMLog
	}
	log, err := open(c.Name)
	if err != nil {
		return 0, &onSandbox{name: c.Name, err: err}
	}
	defer log.Close()
	switch {
	case c.JSON:
		err = eachLine(log, func(line string) error { return a.jsonLine(c.source(), line) })
	case isTerminal(a.Out) && !c.Raw:
		err = eachLine(log, func(line string) error {
			_, err := a.print(escapeLine(line) + "\n")
			return err
		})
	default:
		_, err = io.Copy(a.Out, log)
	}
	return 0, err
}

func (c *logsCmd) source() string {
	if c.VMM {
		return "vmm"
	}
	return "console"
}

func (a *app) jsonLine(source, line string) error {
	e := json.NewEncoder(a.Out)
	e.SetEscapeHTML(false)
	return e.Encode(struct {
		Source string `json:"source"`
		Line   string `json:"line"`
	}{source, line})
}

// escapeLine makes a line of a log harmless to a terminal; tabs stay.
func escapeLine(line string) string {
	var b strings.Builder
	escapeTo(&b, strings.TrimRight(line, "\r"), "\t")
	return b.String()
}

// eachLine calls do for every line of r, without its newline. A line of more
// than 64 KiB comes in pieces.
func eachLine(r io.Reader, do func(line string) error) error {
	br := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := br.ReadSlice('\n')
		if len(line) > 0 {
			if err := do(strings.TrimSuffix(string(line), "\n")); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil && err != bufio.ErrBufferFull {
			return err
		}
	}
}

func (c *versionCmd) run(a *app) (int, error) {
	v := struct {
		Version  string `json:"version"`
		Protocol int    `json:"protocol"`
		Go       string `json:"go"`
	}{version, host.ProtocolVersion, runtime.Version()}
	if c.JSON {
		return 0, a.printJSON(v)
	}
	return a.print(fmt.Sprintf("agentkernel %s (protocol %d, %s)\n", v.Version, v.Protocol, v.Go))
}
