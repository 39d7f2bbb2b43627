package install

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/intent"
)

func TestInstall(t *testing.T) {
	s := newScene(t)
	if kind := s.run(s.work(s.source(nil), s.source(nil))); kind != WorkReboot {
		t.Errorf("ended with %s", kind)
	}
	d := s.site.dones[0]
	if !d.OK || !s.writer.finished || !s.writer.closed || s.writer.aborted || !bytes.Equal(s.content(), s.img) {
		t.Fatalf("done %+v", d)
	}
	if len(d.Sources) != 2 || d.Blocks != 21 || d.Permission != "p1" {
		t.Errorf("done %+v", d)
	}
	var fetched uint64
	for _, n := range d.Sources {
		fetched += n
	}
	if want := s.m.Size - 2*blockSize; fetched != want { // zero chunks are not fetched
		t.Errorf("fetched %d octets, want %d", fetched, want)
	}
	if d := cmp.Diff([]string{"hello tok", "inventory s1", "work", "permission", "done", "work"}, s.site.calls); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// TestSourceFaults: one bad source beside a good one costs a blame; bad sources alone end in a named failure.
func TestSourceFaults(t *testing.T) {
	isImage := func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/image") }
	f := func(name, reason string, change func(s *scene) func(http.ResponseWriter, *http.Request) bool) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.run(s.work(s.source(change(s)), s.source(nil)))
			d := s.site.dones[0]
			if !d.OK || !bytes.Equal(s.content(), s.img) {
				t.Fatalf("with a good source beside: %+v", d)
			}
			if len(d.Blames) == 0 || !strings.Contains(d.Blames[0].Reason, reason) {
				t.Errorf("blames %+v, want %q", d.Blames, reason)
			}
			s = newScene(t)
			s.run(s.work(s.source(change(s))))
			d = s.site.dones[0]
			if d.OK || d.Code != "sources" || s.writer.finished {
				t.Errorf("alone: %+v", d)
			}
		})
	}
	f("wrong octets", "hash", func(s *scene) func(http.ResponseWriter, *http.Request) bool {
		bad := bytes.Clone(s.img)
		for i := 0; i < len(bad); i += 4096 {
			bad[i] ^= 1
		}
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !isImage(r) {
				return false
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(bad))
			return true
		}
	})
	f("short answer", "short", func(s *scene) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !isImage(r) {
				return false
			}
			var from, to int64
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(s.img)))
			w.WriteHeader(206)
			w.Write(s.img[from : from+1000])
			return true
		}
	})
	f("truncated image", "416", func(s *scene) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !isImage(r) {
				return false
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.img[:blockSize]))
			return true
		}
	})
	f("no ranges", "status 200", func(s *scene) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !isImage(r) {
				return false
			}
			w.Write(s.img)
			return true
		}
	})
	f("gone", "404", func(s *scene) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !isImage(r) {
				return false
			}
			http.NotFound(w, r)
			return true
		}
	})
}

// TestRefusedBeforeTheFirstWrite is experiment F13 in the ramdisk: a permission for another serial, disk, generation or claim, and
// whatever else does not fit, ends the task with nothing opened.
func TestRefusedBeforeTheFirstWrite(t *testing.T) {
	f := func(code string, change func(s *scene, w *Work)) {
		t.Helper()
		s := newScene(t)
		w := s.work(s.source(nil))
		change(s, &w)
		s.run(w)
		d := s.site.dones[0]
		if d.OK || d.Code != code || s.opened != 0 || d.Wrote {
			t.Errorf("want %s, got %+v, opened %d", code, d, s.opened)
		}
	}
	f("permission", func(s *scene, w *Work) { s.verify = errors.New("bad signature") })
	f("permission", func(s *scene, w *Work) { s.perm.Serial = "SN2" })
	f("permission", func(s *scene, w *Work) { s.perm.UUID = "u2" })
	f("permission", func(s *scene, w *Work) { s.perm.Act = intent.ActErase })
	f("permission", func(s *scene, w *Work) { s.perm.Generation = 2 })
	f("permission", func(s *scene, w *Work) { w.Epoch.N = 2 }) // the permission is of an older claim
	f("permission", func(s *scene, w *Work) { s.perm.Disks[0].Serial = "D2" })
	f("permission", func(s *scene, w *Work) { s.perm.ID = "" })
	f("disk", func(s *scene, w *Work) { s.hw.Disks[0].Serial = "D9" })
	f("disk", func(s *scene, w *Work) { s.hw.Disks[1].Serial = "D1" })
	f("disk", func(s *scene, w *Work) { s.hw.Disks[0].SizeBytes-- })
	f("image", func(s *scene, w *Work) { w.Install.Firmware = "uefi" })
	f("image", func(s *scene, w *Work) { w.Install.Image = intent.DigestOf(nil) })
	f("image", func(s *scene, w *Work) { w.Install.SizeBytes = 0 })
	f("image", func(s *scene, w *Work) { w.Install = nil })
	f("sources", func(s *scene, w *Work) { w.Install.Manifest = intent.DigestOf(nil) })
	f("stale", func(s *scene, w *Work) {
		s.site.PermitFunc = func(PermissionRequest) (PermissionEnvelope, error) { return PermissionEnvelope{}, ErrStale }
	})
}

// TestPermissionIsUsedOnce: a second install under the same permission is refused (no wipe loops).
func TestPermissionIsUsedOnce(t *testing.T) {
	s := newScene(t)
	src := s.source(nil)
	s.run(s.work(src), s.work(src))
	if len(s.site.dones) != 2 || !s.site.dones[0].OK || s.site.dones[1].Code != "permission" {
		t.Errorf("dones %+v", s.site.dones)
	}
}

func TestFailedVerifyAborts(t *testing.T) {
	s := newScene(t)
	s.writer.verifyErr = errors.New("read back")
	s.run(s.work(s.source(nil)))
	d := s.site.dones[0]
	if d.OK || d.Code != "write" || !d.Wrote || !s.writer.aborted || s.writer.finished {
		t.Errorf("%+v, aborted %v", d, s.writer.aborted)
	}
}

// TestNewEpochKeepsWhatIsWritten: the claim moves in the middle; the next order goes on, and no block is written twice.
func TestNewEpochKeepsWhatIsWritten(t *testing.T) {
	s := newScene(t)
	gate := make(chan struct{})
	var once, moved sync.Once
	src := s.source(func(w http.ResponseWriter, r *http.Request) bool {
		var from int64
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		if from >= 10*blockSize && strings.HasSuffix(r.URL.Path, "/image") {
			select { // the first claim never gets the second half
			case <-gate:
			case <-r.Context().Done():
				moved.Do(func() { close(gate) })
			}
		}
		return false
	})
	s.site.ControlFn = func(Progress) (Control, error) {
		var c Control
		once.Do(func() {
			c.Epoch = intent.Epoch{Generation: 1, N: 2}
			s.perm.ID, s.perm.Claim = "p2", c.Epoch
		})
		return c, nil
	}
	first, second := s.work(src), s.work(src)
	second.Epoch.N = 2
	s.run(first, second)
	if len(s.site.dones) != 1 || !s.site.dones[0].OK || s.site.dones[0].Permission != "p2" {
		t.Fatalf("dones %+v", s.site.dones)
	}
	if s.writer.writes != s.writer.Blocks() || s.opened != 1 || !bytes.Equal(s.content(), s.img) {
		t.Errorf("%d writes of %d blocks, opened %d times", s.writer.writes, s.writer.Blocks(), s.opened)
	}
}

// TestPermissionOfTheNextOwner: the agent that gave the work dies before it answers the request for the permission; the next
// one signs under its own, higher claim, and the work goes on.
func TestPermissionOfTheNextOwner(t *testing.T) {
	s := newScene(t)
	s.perm.Claim = intent.Epoch{Generation: 1, N: 9}
	s.run(s.work(s.source(nil)))
	if len(s.site.dones) != 1 || !s.site.dones[0].OK || !bytes.Equal(s.content(), s.img) {
		t.Errorf("dones %+v", s.site.dones)
	}
}

func TestReusedTokenHalts(t *testing.T) {
	s := newScene(t)
	s.site.HelloFunc = func(Hello) (Session, error) { return Session{}, ErrTokenReused }
	if kind := s.run(); kind != WorkHalt {
		t.Errorf("ended with %s", kind)
	}
	s = newScene(t)
	s.site.HelloFunc = func(Hello) (Session, error) { return Session{}, ErrToken }
	if kind := s.run(); kind != WorkReboot {
		t.Errorf("ended with %s", kind)
	}
}

// TestDeadSourceIsPassedOver: a source that does not answer costs no blame and no block.
func TestDeadSourceIsPassedOver(t *testing.T) {
	s := newScene(t)
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	w := s.work(dead.URL, s.source(nil))
	s.run(w)
	d := s.site.dones[0]
	if !d.OK || len(d.Blames) != 0 || len(d.Sources) != 1 || s.writer.writes != s.writer.Blocks() {
		t.Errorf("done %+v, %d writes", d, s.writer.writes)
	}
}
