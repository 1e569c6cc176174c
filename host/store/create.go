package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"golang.org/x/sys/unix"
)

// Create makes the sandbox c.Name and returns it with its lock held. The name
// exists only once everything is on disk; of several that race for one name
// exactly one gets it and the others get ErrExists. An ephemeral sandbox is not
// made durable: after a power cut it may be gone, or be swept.
func (s *Store) Create(ctx context.Context, c Config) (*Held, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if s.boxes.has(c.Name) { // saves work; the rename decides
		return nil, fmt.Errorf("%w: %q", ErrExists, c.Name)
	}
	tmp := temporaryName(newPrefix)
	d, lock, err := s.makeTemporary(ctx, tmp)
	if err != nil {
		return nil, err
	}
	b := &Sandbox{Name: c.Name, store: s, dir: d}
	if err := b.furnish(c, tmp); err != nil {
		s.boxes.removeTree(tmp, 0) // what can't be removed now is swept later
		lock.close()
		b.Close()
		return nil, err
	}
	d.path = s.boxes.path + "/" + c.Name
	return &Held{Sandbox: b, lock: lock}, nil
}

// makeTemporary makes the directory tmp with its lock, held. The store's lock
// keeps sweepers away until it is.
func (s *Store) makeTemporary(ctx context.Context, tmp string) (*dir, *lockFile, error) {
	sl, err := s.lock(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer sl.close()
	if err := s.boxes.mkdir(tmp); err != nil {
		return nil, nil, err
	}
	d, err := s.boxes.openDir(tmp)
	if err != nil {
		return nil, nil, err
	}
	lock, err := d.makeLock(lockName)
	if err != nil {
		s.boxes.removeTree(tmp, 0)
		d.close()
		return nil, nil, err
	}
	return d, lock, nil
}

// makeLock makes a lock file and takes its lock.
func (d *dir) makeLock(name string) (*lockFile, error) {
	if err := d.write(name, lockNote{}.bytes(), false); err != nil {
		return nil, err
	}
	l, err := d.openLock(name)
	if err != nil {
		return nil, err
	}
	if err := l.try(unix.LOCK_EX); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// furnish writes the other files and gives the directory its name.
func (b *Sandbox) furnish(c Config, tmp string) error {
	data, err := encodeConfig(c)
	if err != nil {
		return err
	}
	if err := b.dir.write(configName, data, !c.Ephemeral); err != nil {
		return err
	}
	if err := b.dir.write(mutexName, nil, false); err != nil {
		return err
	}
	if c.Ephemeral {
		b.owner, err = b.dir.makeLock(ephemeralName)
	} else {
		err = b.dir.sync()
	}
	if err != nil {
		return err
	}
	return b.publish(c, tmp)
}

func (b *Sandbox) publish(c Config, tmp string) error {
	err := b.store.boxes.move(tmp, c.Name)
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%w: %q", ErrExists, c.Name)
	}
	if err != nil || c.Ephemeral {
		return err
	}
	if err := b.store.boxes.sync(); err != nil {
		// Not acknowledged, so not there: take the name back.
		b.store.boxes.move(c.Name, tmp)
		return err
	}
	return nil
}

func temporaryName(prefix string) string {
	return fmt.Sprintf("%s%016x", prefix, rand.Uint64())
}
