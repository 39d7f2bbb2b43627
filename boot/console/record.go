package console

import (
	"bytes"
	"errors"
	"strconv"
	"time"
)

const (
	maxData = 4096                // octets of one record, before they are escaped
	maxLine = 4*maxData + timeLen // of its line: \xNN is the longest that an octet becomes
	timeLen = 64                  // more than time, kind, quotes and end of line take
	stamp   = "2006-01-02T15:04:05.000Z"
)

// Kind of a Record.
type Kind byte

// The kinds.
const (
	Output Kind = 'o' // of the machine
	Mark   Kind = '#' // of ours: what is missing, who took the line over
)

// Record is one piece of what a console showed. Its text is a line: time, kind and data, quoted as Go does, in ASCII.
type Record struct {
	Time time.Time // UTC, to the millisecond
	Kind Kind
	Data []byte // 1 to 4,096 octets
}

// errRecord: a line is no record.
var errRecord = errors.New("cannot read record of a console")

// Append adds the record's line to b.
func (r Record) Append(b []byte) []byte {
	b = r.Time.UTC().AppendFormat(b, stamp)
	b = append(b, ' ', byte(r.Kind), ' ')
	b = strconv.AppendQuoteToASCII(b, string(r.Data))
	return append(b, '\n')
}

// ParseRecord reads one line without its end. Errors: what Append would not write.
func ParseRecord(line []byte) (Record, error) {
	if len(line) < len(stamp)+3 || len(line) > maxLine || line[len(stamp)] != ' ' || line[len(stamp)+2] != ' ' {
		return Record{}, errRecord
	}
	at, err := time.Parse(stamp, string(line[:len(stamp)]))
	if err != nil {
		return Record{}, errRecord
	}
	r := Record{Time: at, Kind: Kind(line[len(stamp)+1])}
	data, err := strconv.Unquote(string(line[len(stamp)+3:]))
	if err != nil || len(data) == 0 || len(data) > maxData || r.Kind != Output && r.Kind != Mark {
		return Record{}, errRecord
	}
	r.Data = []byte(data)
	if !bytes.Equal(r.Append(nil), append(line[:len(line):len(line)], '\n')) {
		return Record{}, errRecord
	}
	return r, nil
}
