package weburl

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, u := range []string{
		"", "image.img", "/etc/passwd", "file:///etc/passwd", "ftp://a/b", "http://", "http:///x", "http://a:b@c/", "https://a@c/", "http://a/%zz",
		"http://a/" + strings.Repeat("x", Max),
	} {
		if Check(u) == "" {
			t.Errorf("%q is taken", u)
		}
	}
	for _, u := range []string{"http://a/b", "https://mirror.example:8443/x?y=z"} {
		if why := Check(u); why != "" {
			t.Errorf("%q: %s", u, why)
		}
	}
	if h := Host("https://mirror.example:8443/x?y=z"); h != "mirror.example:8443" {
		t.Error(h)
	}
}

func FuzzCheck(f *testing.F) {
	for _, u := range []string{"http://a/b", "https://[::1%25eth0]:8443/x?y=z#f", "http://a:b@c/", "//x", "http://%41/"} {
		f.Add(u)
	}
	f.Fuzz(func(t *testing.T, u string) {
		if Check(u) == "" && (len(u) > Max || Host(u) == "") {
			t.Errorf("%q is taken", u)
		}
	})
}
