package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/agentkernel/agentkernel/host"
)

// Streams are a command's standard streams.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// exitFailed is the exit code of everything that goes wrong on our side: wrong
// usage, no such sandbox, a lost connection. Other codes of exec and run are
// the command's (or 124, 126, 127, 128+N, as the guest reports them).
const exitFailed = 125

// Run runs one command line, without the program's name, and returns its exit
// code.
func Run(ctx context.Context, args []string, s Streams) int {
	return run(ctx, args, s, host.Open)
}

// run is Run with another way to open the state directory.
func run(ctx context.Context, args []string, s Streams, open func(string) (*host.Host, error)) int {
	a := &app{ctx: ctx, Streams: s, openHost: open}
	cmd, helped, err := parse(args, s, &a.op)
	if helped {
		return 0
	}
	if err != nil {
		return a.fail(&usageError{err: err, op: a.op})
	}
	code, err := cmd.run(a)
	if a.host != nil {
		a.host.Close()
	}
	if err != nil {
		return a.fail(err)
	}
	return code
}

// app is what a command works with.
type app struct {
	Streams
	ctx  context.Context
	op   string // the command's name; "" before there is one
	host *host.Host

	openHost func(home string) (*host.Host, error)
}

// runner is a parsed command.
type runner interface{ run(a *app) (int, error) }

// open opens the state directory; Run closes it.
func (a *app) open() (*host.Host, error) {
	home, err := host.DefaultHome()
	if err != nil {
		return nil, err
	}
	a.host, err = a.openHost(home)
	return a.host, err
}

// note prints one line on standard error.
func (a *app) note(format string, args ...any) {
	prefix := "agentkernel: "
	if a.op != "" {
		prefix += a.op + ": "
	}
	fmt.Fprintf(a.Err, "%s%s\n", prefix, fmt.Sprintf(format, args...))
}

// fail prints an error, one line unless the guest's console belongs to it.
func (a *app) fail(err error) int {
	if code, silent := silentExit(err); silent {
		return code
	}
	for _, line := range sentences(err) {
		a.note("%s", line)
	}
	return codeOf(err)
}

// parse reads the command line with the grammar of the command that it names,
// or with the whole grammar if it names none. op is set to the command's name.
//
// Most of kong's time goes into reflecting on the grammar, so it gets only
// what this command line can need.
func parse(args []string, s Streams, op *string) (cmd runner, helped bool, err error) {
	list := commands()
	if c := find(list, args); c != nil {
		*op = c.name
		list = []command{*c}
	}
	k, built, err := newParser(list, s, &helped)
	if err != nil {
		return nil, false, err
	}
	if len(args) == 0 {
		return nil, false, errors.New("no command is given")
	}
	kctx, err := k.Parse(args)
	if helped || err != nil {
		return nil, helped, err
	}
	return built[kctx.Selected().Name], false, nil
}

// newParser returns a parser for these commands, and the commands by name.
func newParser(list []command, s Streams, helped *bool) (*kong.Kong, map[string]runner, error) {
	options := []kong.Option{
		kong.Name("agentkernel"),
		kong.Description("Run commands in hardware-isolated sandboxes: small virtual machines on KVM."),
		kong.Writers(s.Out, s.Err),
		kong.Exit(func(int) { *helped = true }), // only --help exits
		kong.KindMapper(reflect.String, kong.MapperFunc(decodeString)),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
	}
	built := make(map[string]runner, len(list))
	for _, c := range list {
		r := c.new()
		built[c.name] = r
		var tags []string
		if c.aliases != "" {
			tags = append(tags, `aliases:"`+c.aliases+`"`)
		}
		options = append(options, kong.DynamicCommand(c.name, c.help, "", r, tags...))
	}
	var root struct{}
	k, err := kong.New(&root, options...)
	return k, built, err
}

// decodeString takes a value as it is. (kong's own way is through JSON, where
// every byte that is no UTF-8 is replaced.)
func decodeString(ctx *kong.DecodeContext, target reflect.Value) error {
	token, err := ctx.Scan.PopValue("string")
	if err != nil {
		return err
	}
	target.SetString(token.String())
	return nil
}

// find returns the command that the first argument names.
func find(list []command, args []string) *command {
	if len(args) == 0 {
		return nil
	}
	for i, c := range list {
		if c.name == args[0] {
			return &list[i]
		}
		for _, alias := range strings.Split(c.aliases, ",") {
			if alias == args[0] && alias != "" {
				return &list[i]
			}
		}
	}
	return nil
}
