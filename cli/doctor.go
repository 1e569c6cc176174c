package main

import (
	"os"
	"strings"

	"github.com/agentkernel/agentkernel/host"
	"github.com/agentkernel/agentkernel/host/doctor"
)

type checkView struct {
	Name   string `json:"name"`
	Result string `json:"result"`
	Found  string `json:"found"`
	Mend   string `json:"mend,omitempty"`
}

func (c *doctorCmd) run(a *app) (int, error) {
	home, homeErr := host.DefaultHome()
	if _, err := os.Lstat(home); homeErr == nil && err == nil {
		_, homeErr = a.open()
	}
	checks := doctor.Host().Examine(home, homeErr)
	code := 0
	views := make([]checkView, 0, len(checks))
	var b strings.Builder
	for _, check := range checks {
		if check.Result == doctor.Fails {
			code = exitFailed
		}
		views = append(views, checkView{check.Name, string(check.Result), check.Found, check.Mend})
		b.WriteString(string(check.Result) + strings.Repeat(" ", 6-len(check.Result)) +
			check.Name + ": " + printable(check.Found) + "\n")
		if check.Mend != "" {
			b.WriteString("      mend: " + check.Mend + "\n")
		}
	}
	if c.JSON {
		return code, a.printJSON(views)
	}
	_, err := a.print(b.String())
	return code, err
}
