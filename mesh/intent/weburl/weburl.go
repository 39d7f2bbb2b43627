package weburl

import "net/url"

// Max bounds a URL, in octets.
const Max = 2048

// Check says what is wrong with the URL of an asset: it must be http or https, name a host, and carry no password, which everybody who
// sees the asset would see. Empty: nothing is.
func Check(text string) (why string) {
	u, err := url.Parse(text)
	if err != nil || len(text) > Max {
		return "the URL is not readable, or longer than 2048 octets"
	}
	return CheckParsed(u)
}

// CheckParsed is Check for where a redirect leads.
func CheckParsed(u *url.URL) (why string) {
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return "a URL begins with http:// or https://"
	case u.Hostname() == "":
		return "the URL has no host"
	case u.User != nil:
		return "a URL with a password in it would be shown to everybody who sees uploads; give one without"
	}
	return ""
}

// Host is the host of a URL, with its port where it names one; empty where there is none.
func Host(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	return u.Host
}
