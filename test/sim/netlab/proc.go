package netlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"
)

// termGrace is the time between TERM and KILL: the bench's rule 5. An agent closes Badger in well under a second.
const termGrace = 2 * time.Second

// Command describes a child process.
type Command struct {
	Name   string     // for logs and errors; default Path
	NS     *Namespace // nil = the caller's namespace
	Path   string     // looked up in PATH
	Args   []string   // without the program's name
	Env    []string   // nil = the caller's environment
	Dir    string     // "" = the caller's directory
	Output io.Writer  // stdout, and stderr unless Errors is set; nil = discarded
	Errors io.Writer  // stderr alone
}

// Proc is a running or ended child, the leader of its own process group.
type Proc struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // set before done is closed
}

// StartProc starts c. The caller must Stop it (a Lab does so in Close). A context is not taken: a child's life ends by
// Stop, which is gentler than the KILL of exec.CommandContext.
func StartProc(c Command) (*Proc, error) {
	path, args := c.Path, c.Args
	if c.NS != nil {
		// `ip netns exec` replaces itself with the program, so the pid is the program's.
		path, args = "ip", append([]string{"netns", "exec", c.NS.Name, c.Path}, c.Args...)
	}
	cmd := exec.Command(path, args...)
	cmd.Env, cmd.Dir = c.Env, c.Dir
	cmd.Stdout, cmd.Stderr = c.Output, c.Output
	if c.Errors != nil {
		cmd.Stderr = c.Errors
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A grandchild that keeps the output pipe open must not hold up Wait for ever.
	cmd.WaitDelay = termGrace
	p := &Proc{name: c.Name, cmd: cmd, done: make(chan struct{})}
	if p.name == "" {
		p.name = c.Path
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", p.name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Pid returns the child's process id, which is also its group's.
func (p *Proc) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the child has ended and was reaped.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the child or of ctx. It returns nil after exit code 0, else *exec.ExitError wrapped.
func (p *Proc) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		if p.err != nil {
			return fmt.Errorf("cannot run %s: %w", p.name, p.err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot wait for %s: %w", p.name, ctx.Err())
	}
}

// Signal sends sig to the child's group. A child that has ended is no error.
func (p *Proc) Signal(sig syscall.Signal) error {
	select {
	case <-p.done:
		return nil // the pid may belong to somebody else by now
	default:
	}
	if err := syscall.Kill(-p.Pid(), sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("cannot signal %s: %w", p.name, err)
	}
	return nil
}

// Stop ends the child's group: TERM, 2 s, KILL; it returns after the child was reaped. The exit code is not an error here.
func (p *Proc) Stop() error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	t := time.NewTimer(termGrace)
	defer t.Stop()
	select {
	case <-p.done:
	case <-t.C:
	}
	return p.Kill()
}

// Kill ends the child's group at once (SIGKILL, as a power cut would) and waits for it.
func (p *Proc) Kill() error {
	err := p.Signal(syscall.SIGKILL)
	<-p.done
	return err
}
