package console

// prefix begins what is said to the console and not to the machine: Ctrl-].
const prefix = 0x1d

// key is what may follow the prefix.
type key byte

const (
	keyLeave   key = '.'
	keyTake    key = 't'
	keyRelease key = 'r'
	keyBreak   key = 'b'
	keyHelp    key = '?'
)

const help = "Ctrl-] . leaves, t takes the keyboard over, r gives it back, b sends a break, Ctrl-] sends itself"

// keys finds what is said to the console in what a person types.
type keys struct{ armed bool }

// feed calls data for pieces that go to the machine, act for what does not, in order. Unknown keys are passed over with the help.
func (k *keys) feed(p []byte, data func([]byte) error, act func(key) error) error {
	from := 0
	for i, c := range p {
		var err error
		switch {
		case k.armed && c == prefix:
			k.armed, from = false, i // it itself
		case k.armed:
			k.armed, from = false, i+1
			err = act(key(c))
		case c == prefix:
			k.armed = true
			if i > from {
				err = data(p[from:i])
			}
			from = i + 1
		}
		if err != nil {
			return err
		}
	}
	if from < len(p) && !k.armed {
		return data(p[from:])
	}
	return nil
}
