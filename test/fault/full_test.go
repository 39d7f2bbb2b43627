package fault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/test/e2e/lab"
)

const (
	mib       = 1 << 20
	flushFree = 18 * mib // one memtable of 16 MiB and its index
)

// TestFullDisk is F5: a disk of 60 MiB fills up. Writes are refused by class, nothing acknowledged is lost, nothing ends the
// process (Badger maps its files: a write beyond the end of the disk is SIGBUS), the ballast gives room, and when there is space
// again, writes are back within 5 s.
func TestFullDisk(t *testing.T) {
	lab.Need(t, lab.Root)
	rnd := random(t)
	for range times(tierFulls) {
		mnt := t.TempDir()
		must(t, "mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", mnt)
		func() {
			defer must(t, "umount", mnt)
			fillDisk(t, mnt, 2000+rnd.IntN(6000))
		}()
	}
}

func fillDisk(t *testing.T, mnt string, size int) {
	d, err := state.Open(state.Config{
		Dir: filepath.Join(mnt, "state"), Key: make([]byte, 32), Logger: slog.New(slog.DiscardHandler),
		UserFree: 34 * mib, VitalFree: 30 * mib, StopFree: 26 * mib, UserFraction: -1,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ballast, acked := filepath.Join(mnt, "ballast"), 0
	if ok, err := d.KeepBallast(ballast, 6*mib); !ok || err != nil {
		t.Fatalf("no ballast: %v", err)
	}
	write := func(update func(func(*state.Tx) error) error) error {
		err := update(func(tx *state.Tx) error { return tx.Put("data", fmt.Sprint(acked), payload(acked, size)) })
		if err == nil {
			acked++
		}
		return err
	}
	until := func(what string, p state.Pressure, update func(func(*state.Tx) error) error) {
		t.Helper()
		for i := 0; ; i++ {
			err := write(update)
			if errors.Is(err, state.ErrFull) {
				break
			}
			if err != nil || i > 60*mib/size {
				t.Fatalf("%s writes: %v after %d", what, err, i)
			}
			if i%100 == 0 {
				d.PressureNow() // the disk fills faster than a second here
			}
		}
		if got := d.PressureNow(); got < p {
			t.Fatalf("%s writes are refused at pressure %d (%s), want %d", what, got, got, p)
		}
	}
	until("user", state.PressureUser, d.Update)
	if err := d.AdmitUser(); !errors.Is(err, state.ErrFull) {
		t.Fatalf("a user's change is admitted: %v", err)
	}
	until("signed", state.PressureVital, d.UpdateSigned)
	until("vital", state.PressureStop, d.UpdateVital)

	// Somebody else takes the rest, but for what the flush of a memtable takes: reads go on. (Beyond that Badger's own background
	// work ends the process; production stops at 256 MiB. TestKill is what happens then.)
	filler := filepath.Join(mnt, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, mib); ; {
		if free, _, err := d.Space(); err != nil || free < flushFree {
			break
		}
		if _, err := f.Write(block); err != nil {
			t.Fatal(err)
		}
		d.PressureNow()
	}
	f.Close()
	readAll(t, d, acked, size)
	if ok, err := d.KeepBallast(ballast+"2", 6*mib); ok || err != nil {
		t.Fatalf("ballast made on a full disk: %v, %v", ok, err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	d.PressureNow()
	if n, err := state.FreeBallast(ballast); n != 6*mib || err != nil {
		t.Fatalf("freed %d, %v", n, err)
	}
	back := time.Now()
	limit := time.NewTimer(5 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for write(d.UpdateVital) != nil {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatal("no write 5 s after the ballast was freed")
		}
	}
	t.Logf("%d records of %d octets; writes were back after %v", acked, size, time.Since(back).Round(time.Millisecond))
	readAll(t, d, acked, size)
	if rep, err := d.Scrub(context.Background()); err != nil || rep.Held != nil || rep.Checksum != nil {
		t.Fatalf("scrub: %+v, %v", rep, err)
	}
}

// payload is the i-th value: what does not compress.
func payload(i, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(i), byte(i >> 8), byte(i >> 16)}).Read(b) // never fails
	return b
}

func readAll(t *testing.T, d *state.DB, acked, size int) {
	t.Helper()
	err := d.View(func(tx *state.Tx) error {
		for i := range acked {
			if v, err := tx.Get("data", fmt.Sprint(i)); err != nil || !bytes.Equal(v, payload(i, size)) {
				return fmt.Errorf("record %d of %d: %d octets, %w", i, acked, len(v), err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
