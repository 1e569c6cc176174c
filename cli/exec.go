package main

import (
	"errors"
	"os"
	"time"

	"github.com/agentkernel/agentkernel/host"
)

func (c *execCmd) run(a *app) (int, error) {
	request, err := c.request(c.Command)
	if err != nil {
		return 0, err
	}
	h, err := a.open()
	if err != nil {
		return 0, err
	}
	session := newSession(a, c.Stdin)
	defer session.close()
	status, err := h.Exec(session.ctx, c.Name, request, session.streams)
	if err != nil {
		err = &onSandbox{name: c.Name, err: err}
	}
	return session.result(a, status, err)
}

func (c *runCmd) run(a *app) (int, error) {
	request, err := c.request(c.Command)
	if err != nil {
		return 0, err
	}
	config, err := c.config(c.Name)
	if err != nil {
		return 0, err
	}
	h, err := a.open()
	if err != nil {
		return 0, err
	}
	closeOnExec()
	session := newSession(a, c.Stdin)
	defer session.close()
	name := c.Name
	status, err := h.Run(session.ctx, request, session.streams, host.RunOptions{
		Config: config, Keep: c.Keep,
		Start: host.StartOptions{Timeout: time.Duration(c.StartTimeout)},
		Created: func(n string) {
			name = n
			if c.Keep && c.Name == "" {
				a.note("the sandbox is named %s", n)
			}
		},
	})
	if err != nil {
		err = &onSandbox{name: name, err: err}
	}
	return session.result(a, status, err)
}

// request makes the request that the flags and the command describe.
func (f *execFlags) request(command []string) (host.ExecRequest, error) {
	if len(command) > 0 && command[0] == "--" {
		command = command[1:] // kong leaves the one that ended the options
	}
	if len(command) == 0 {
		return host.ExecRequest{}, errors.New("no command is given (want: -- COMMAND [ARGUMENT...])")
	}
	env, err := environment(f.EnvFile, f.Env, os.LookupEnv)
	if err != nil {
		return host.ExecRequest{}, err
	}
	killAfter := time.Duration(f.KillAfter)
	if killAfter == 0 {
		killAfter = 1 // at once: 0 is the default in a request
	}
	return host.ExecRequest{
		Args: command, Env: env, Dir: f.Workdir, User: f.User,
		Timeout: time.Duration(f.Timeout), KillAfter: killAfter,
	}, nil
}

// exitSignalled plus a signal's number is the exit code of what that signal
// ended.
const exitSignalled = 128
